//! `builds`: what was built for a run, from which commits, and what the builds printed.

use groundswell_common::builds::BuildReport;

use super::args::Builds;
use super::exit::Exit;
use super::lock_file;
use super::out::List;
use super::summary::took;
use super::{Done, Session, Trouble, find};

pub(crate) async fn run(session: &Session, args: &Builds) -> Done {
    let found = find::run(session, &args.run).await?;
    let objects = found.objects(session).await?;
    let reports = lock_file::reports(&objects, &found.status.run).await?;
    let Some(group) = &args.log else {
        if reports.is_empty() && !session.out.json {
            session.out.note(format_args!("nothing was built for {}", found.status.name));
        }
        session.out.list(&rows(&reports), args.format);
        return Ok(Exit::Passed);
    };
    let report = reports.iter().find(|report| report.groups.contains(group)).ok_or_else(|| {
        let known = reports.iter().flat_map(|report| &report.groups);
        let known: Vec<&str> = known.map(String::as_str).collect();
        let message = format!("nothing was built for a group `{group}` of {}", found.status.name);
        Trouble::new(Exit::NothingSelected, message, format!("groups: {}", known.join(", ")))
    })?;
    let log = match &report.log {
        Some(key) => objects.get(key).await,
        None => Ok(None),
    };
    let log = log.map_err(|err| Trouble::from_error(Exit::Infra, &err))?.ok_or_else(|| {
        let message = format!("no log is kept of the build for group `{group}`");
        Trouble::new(Exit::NothingSelected, message, report.error.clone())
    })?;
    session.out.bytes(&log).map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    Ok(Exit::Passed)
}

fn rows(reports: &[BuildReport]) -> List<'_, BuildReport> {
    const HEADERS: [&str; 7] = ["GROUPS", "BUILDER", "BUILD", "TOOK", "IMAGE", "COMMITS", "INPUT"];
    let short = |digest: &str| digest.trim_start_matches("sha256:").chars().take(12).collect();
    let row = |report: &BuildReport| {
        let how = match (report.error.is_empty(), report.cached) {
            (false, _) => "failed",
            (true, true) => "cached",
            (true, false) => "built",
        };
        let commit = |source: &groundswell_common::builds::PinnedSource| {
            let commit: String = source.commit.chars().take(12).collect();
            format!("{} {commit}", source.module)
        };
        let commits: Vec<String> = report.pins.sources.iter().map(commit).collect();
        vec![
            report.groups.join(", "),
            report.pins.builder.clone(),
            how.to_owned(),
            took(report.took_ms),
            short(&report.pins.image),
            commits.join(", "),
            short(&report.pins.input),
        ]
    };
    List {
        headers: &HEADERS,
        name: 0,
        wide_from: 6,
        rows: reports.iter().map(row).collect(),
        values: reports,
    }
}
