//! `queue` and `priority`: the runs that wait.

use groundswell_common::queue::{PriorityRequest, QueueEntry};
use groundswell_common::run::RunStatus;

use super::call::call;
use super::exit::Exit;
use super::out::List;
use super::summary::{called, took};
use super::{Done, Session, Trouble, args, connect, find};

pub(crate) async fn queue(session: &Session, args: &args::List) -> Done {
    let links = connect::all(session).await?;
    if links.is_empty() {
        return Err(Trouble::new(
            Exit::Unreachable,
            "nothing is running here, so there is no queue",
            "name a cluster with --nats, or start `coordinator up`",
        ));
    }
    let mut entries: Vec<QueueEntry> = Vec::new();
    for link in links {
        entries.extend(call::<Vec<QueueEntry>>(&link.bus, "queue", &()).await?);
    }
    const HEADERS: [&str; 10] =
        ["PLACE", "NAME", "TEAM", "PRIORITY", "NEEDS", "WAITS", "REASON", "USER", "PLAN", "ID"];
    let row = |entry: &QueueEntry| {
        vec![
            entry.place.to_string(),
            entry.name.clone(),
            entry.team.clone(),
            entry.priority.to_string(),
            entry.instances.to_string(),
            took(entry.waited_ms),
            entry.reason.clone(),
            entry.user.clone(),
            format!("{}:{}", entry.plan, entry.case),
            entry.run.to_string(),
        ]
    };
    let rows = entries.iter().map(row).collect();
    let list = List { headers: &HEADERS, name: 1, wide_from: 7, rows, values: &entries };
    session.out.list(&list, args.format);
    if entries.is_empty() {
        session.out.note("no run waits");
    }
    Ok(Exit::Passed)
}

pub(crate) async fn priority(session: &Session, args: &args::SetPriority) -> Done {
    let found = find::run(session, &args.run).await?;
    let Some(link) = found.link.filter(|_| !found.status.phase.is_over()) else {
        let message = format!("{} is over already", called(&found.status.name, &found.status.run));
        return Err(Trouble::new(Exit::NothingSelected, message, ""));
    };
    let request = PriorityRequest { run: found.status.run.clone(), priority: args.class.into() };
    let status: RunStatus = call(&link.bus, "priority", &request).await?;
    if session.out.json {
        session.out.json(&status);
    }
    let called = called(&status.name, &status.run);
    session.out.note(format_args!("{called} is {}", request.priority));
    Ok(Exit::Passed)
}
