//! `dataset put`, `dataset list`, `dataset rm`: files that instances read.

use groundswell_common::chain::Chain;
use groundswell_common::datasets::Dataset;
use groundswell_coordinator::datasets::{self, DatasetError};

use super::args::DatasetCommand;
use super::exit::Exit;
use super::out::List;
use super::{Done, Session, Trouble, connect};

pub(crate) async fn run(session: &Session, command: DatasetCommand) -> Done {
    let objects = connect::objects(session).await?;
    match command {
        DatasetCommand::Put { from, name } => {
            let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
            let put = datasets::put(&objects, &from, &name, now).await.map_err(trouble)?;
            if session.out.json {
                session.out.json(&put);
            } else {
                session.out.data(&put.manifest);
                session.out.note(format_args!("{name}: {} files, {} bytes", put.files, put.bytes));
            }
        }
        DatasetCommand::List { format } => {
            let all = datasets::all(&objects).await.map_err(trouble)?;
            if all.is_empty() && !session.out.json {
                session.out.note("no datasets yet: `coordinator dataset put DIR --name NAME`");
            }
            session.out.list(&rows(&all), format);
        }
        DatasetCommand::Rm { name } => {
            let freed = datasets::remove(&objects, &name).await.map_err(trouble)?;
            session.out.note(format_args!("removed {name}, {freed} bytes"));
        }
    }
    Ok(Exit::Passed)
}

fn trouble(err: DatasetError) -> Trouble {
    let exit = match &err {
        DatasetError::Name { .. } | DatasetError::Elsewhere { .. } => Exit::Usage,
        DatasetError::Empty { .. } | DatasetError::File { .. } => Exit::Invalid,
        DatasetError::Unknown { .. } => Exit::NothingSelected,
        DatasetError::Damaged { .. } | DatasetError::Objects(_) => Exit::Infra,
    };
    Trouble::new(exit, Chain(&err).to_string(), "")
}

fn rows(datasets: &[Dataset]) -> List<'_, Dataset> {
    const HEADERS: [&str; 4] = ["NAME", "FILES", "BYTES", "MANIFEST"];
    let row = |one: &Dataset| {
        let short = one.manifest.trim_start_matches("sha256:").chars().take(12).collect();
        vec![one.name.clone(), one.files.to_string(), one.bytes.to_string(), short]
    };
    List {
        headers: &HEADERS,
        name: 0,
        wide_from: HEADERS.len(),
        rows: datasets.iter().map(row).collect(),
        values: datasets,
    }
}
