//! What a submit leaves in files: the outputs of its runs, and Testground's result file.

use std::io::Write as _;
use std::path::Path;

use groundswell_common::objects::Objects;
use groundswell_common::run::{RunStatus, Verdict};

use super::args::Submit;
use super::exit::Exit;
use super::out::csv_cell;
use super::submit::Ended;
use super::summary::testground_outcome;
use super::{Session, Trouble, collect};

/// Fetches the outputs of a run that has some.
pub(crate) async fn collect_outputs(
    session: &Session,
    args: &Submit,
    objects: &Objects,
    status: &RunStatus,
    run_of_several: Option<&String>,
) -> Result<(), Trouble> {
    if status
        .verdict
        .is_none_or(|verdict| matches!(verdict, Verdict::Rejected | Verdict::Unplaceable))
    {
        return Ok(());
    }
    let name = match (run_of_several, &args.collect_file) {
        (Some(run), name) => {
            format!("{}-{run}-{}.tgz", name.as_deref().unwrap_or("multiple"), status.run)
        }
        (None, Some(name)) => format!("{name}.tgz"),
        (None, None) => format!("{}.tgz", status.run),
    };
    collect::archive(session, objects, &status.run, Path::new(&name)).await
}

/// Testground's result file: a line per run.
pub(crate) fn write_results(file: &Path, ended: &[Ended]) -> Result<(), Trouble> {
    let write = || -> std::io::Result<()> {
        let mut out = std::fs::File::create(file)?;
        writeln!(out, "run_id,task_id,outcome,error")?;
        for one in ended {
            let status = one.status.as_ref();
            let task = status.map(|status| status.run.to_string()).unwrap_or_default();
            let outcome = testground_outcome(status.and_then(|status| status.verdict));
            writeln!(out, "{},{task},{outcome},{}", csv_cell(&one.run), csv_cell(&one.error))?;
        }
        Ok(())
    };
    write().map_err(|err| {
        Trouble::new(Exit::Internal, format!("failed to write `{}`: {err}", file.display()), "")
    })
}
