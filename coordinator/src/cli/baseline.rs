//! `baseline`: runs under a name, with which others are compared.

use groundswell_common::run::RunStatus;
use groundswell_coordinator::baselines::{self, Baseline};
use groundswell_coordinator::record;

use super::compare::args::BaselineCommand;
use super::compare::select::{Known, Past, Selector, trouble};
use super::exit::Exit;
use super::out::List;
use super::runs::timestamp;
use super::{Done, Session, Trouble, connect};

pub(crate) async fn run(session: &Session, command: BaselineCommand) -> Done {
    let objects = connect::objects(session).await?;
    match command {
        BaselineCommand::Set { name, runs, of, force } => {
            let past = Past::open(&objects).await?;
            let side = Selector::parse(&runs.join(","))?;
            let runs: Vec<Known> = past.sides(&[side], &of).await?.into_iter().flatten().collect();
            let baseline = made(session, &name, &runs, force)?;
            baselines::set(&objects, &baseline).await.map_err(trouble)?;
            if session.out.json {
                session.out.json(&baseline);
            }
            session.out.note(format_args!(
                "@{name} is {} runs of {}/{}",
                baseline.runs.len(),
                baseline.plan,
                baseline.case
            ));
        }
        BaselineCommand::Show { name, format } => {
            let baseline = baselines::find(&objects, &name).await.map_err(trouble)?;
            let mut statuses: Vec<RunStatus> = Vec::new();
            for run in &baseline.runs {
                let record = record::load(&objects, run).await;
                let record = record.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
                match record {
                    Some(record) => statuses.push(record.status),
                    None => {
                        session.out.warning(format_args!("the record of run {run} is not stored"))
                    }
                }
            }
            session.out.list(&super::runs::rows(&statuses), format);
        }
        BaselineCommand::Ls { format } => {
            let all = baselines::all(&objects).await.map_err(trouble)?;
            if all.is_empty() && !session.out.json {
                session.out.note("no baselines yet: `coordinator baseline set NAME RUN...`");
            }
            session.out.list(&rows(&all), format);
        }
        BaselineCommand::Rm { name } => {
            baselines::remove(&objects, &name).await.map_err(trouble)?;
            session.out.note(format_args!("removed @{name}; its runs stay"));
        }
    }
    Ok(Exit::Passed)
}

/// The baseline of these runs, unless one of them cannot be trusted.
fn made(session: &Session, name: &str, runs: &[Known], force: bool) -> Result<Baseline, Trouble> {
    let distrusted: Vec<&Known> = runs.iter().filter(|run| !run.distrust.is_empty()).collect();
    let reasons: Vec<String> =
        distrusted.iter().map(|run| format!("{}: {}", run.name, run.distrust.join("; "))).collect();
    if !reasons.is_empty() && !force {
        let message =
            format!("runs that cannot be trusted make no baseline: {}", reasons.join(" | "));
        return Err(Trouble::new(Exit::Inconclusive, message, "leave them out, or --force"));
    }
    let Some(first) = runs.first() else {
        return Err(Trouble::new(Exit::NothingSelected, "no runs were named", ""));
    };
    let ids = runs.iter().map(|run| run.run.clone()).collect();
    Ok(Baseline {
        forced: distrusted.iter().map(|run| run.run.clone()).collect(),
        user: std::env::var("USER").unwrap_or_default(),
        set_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0),
        ..Baseline::new(name, &first.plan, &first.case, ids)
    })
    .inspect(|_| {
        reasons.iter().for_each(|reason| session.out.warning(format_args!("forced: {reason}")))
    })
}

fn rows(baselines: &[Baseline]) -> List<'_, Baseline> {
    const HEADERS: [&str; 7] = ["NAME", "PLAN", "CASE", "RUNS", "FORCED", "SET", "USER"];
    let row = |one: &Baseline| {
        vec![
            one.name.clone(),
            one.plan.clone(),
            one.case.clone(),
            one.runs.len().to_string(),
            one.forced.len().to_string(),
            timestamp(one.set_ms),
            one.user.clone(),
        ]
    };
    List {
        headers: &HEADERS,
        name: 0,
        wide_from: HEADERS.len(),
        rows: baselines.iter().map(row).collect(),
        values: baselines,
    }
}
