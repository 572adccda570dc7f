//! `workers`: lists them, and takes some of them out of service.

use std::time::Duration;

use groundswell_common::api::{
    Cordon, CordonRequest, CordonWish, Drain, RefusalKind, WorkerStatus,
};
use groundswell_common::card::Card;
use groundswell_common::ids::WorkerId;
use tokio::time::sleep;

use super::args::{self, WorkersCommand};
use super::call::call;
use super::connect::{self, Link};
use super::exit::Exit;
use super::keys::Interrupts;
use super::out::List;
use super::summary::took;
use super::{Done, Session, Trouble};

/// How often a drain is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Runs that are named in a line of progress.
const NAMED: usize = 4;

pub(crate) async fn run(session: &Session, args: &args::Workers) -> Done {
    match &args.command {
        None => list(session, args.format).await,
        Some(WorkersCommand::Cordon(args)) => {
            let wish = CordonWish::Cordon;
            change(session, &args.workers, wish, &args.reason).await?;
            session.out.note("takes nothing new; `coordinator workers uncordon` ends that");
            Ok(Exit::Passed)
        }
        Some(WorkersCommand::Uncordon(args)) => {
            change(session, &args.workers, CordonWish::Uncordon, "").await?;
            session.out.note("takes runs again");
            Ok(Exit::Passed)
        }
        Some(WorkersCommand::Drain(args)) => drain(session, args).await,
    }
}

async fn links(session: &Session) -> Result<Vec<Link>, Trouble> {
    let links = connect::all(session).await?;
    if links.is_empty() {
        return Err(Trouble::new(
            Exit::Unreachable,
            "nothing is running here, so there are no workers",
            "name a cluster with --nats, or start `coordinator up`",
        ));
    }
    Ok(links)
}

async fn list(session: &Session, format: args::Format) -> Done {
    let mut workers: Vec<WorkerStatus> = Vec::new();
    for link in links(session).await? {
        workers.extend(call::<Vec<WorkerStatus>>(&link.bus, "workers", &()).await?);
    }
    let wide = session.out.verbose && format == args::Format::Table;
    show(session, &workers, if wide { args::Format::Wide } else { format });
    if workers.is_empty() {
        session.out.note("no worker has registered: start one with `worker run --nats URL`");
    }
    Ok(Exit::Passed)
}

/// Prints a table of workers; it says who has cordoned them when somebody has.
fn show(session: &Session, workers: &[WorkerStatus], format: args::Format) {
    let mut headers = vec!["WORKER", "STATE", "USED", "SLOTS", "INSTANCES", "RUNTIMES", "HEARD"];
    let any_cordon = workers.iter().any(|worker| !worker.cordons.is_empty());
    headers.extend(any_cordon.then_some("CORDONED BY"));
    let wide_from = headers.len();
    headers.extend(["LABELS", "CARD", "NOTES"]);
    let row = |worker: &WorkerStatus| {
        let runtimes: Vec<&str> = worker.runtimes.iter().map(|kind| kind.as_str()).collect();
        let label = |(label, value): (&String, &String)| format!("{label}={value}");
        let labels: Vec<String> = worker.labels.iter().map(label).collect();
        let cordons: Vec<String> = worker.cordons.iter().map(cordoned).collect();
        let mut row = vec![
            worker.worker.to_string(),
            worker.state.clone(),
            worker.used.to_string(),
            worker.slots.to_string(),
            worker.instances.to_string(),
            runtimes.join(","),
            format!("{} ago", took(worker.heard_ms)),
        ];
        row.extend(any_cordon.then(|| cordons.join("; ")));
        row.extend([
            labels.join(","),
            worker.card.as_ref().map(card).unwrap_or_default(),
            worker.notes.join("; "),
        ]);
        row
    };
    let rows = workers.iter().map(row).collect();
    session
        .out
        .list(&List { headers: &headers, name: 0, wide_from, rows, values: workers }, format);
}

/// Who has cordoned a worker, since when, and why.
fn cordoned(cordon: &Cordon) -> String {
    let by = if cordon.by.is_empty() { "itself" } else { &cordon.by };
    let since =
        if cordon.since_ms == 0 { String::new() } else { format!(", {}", ago(cordon.since_ms)) };
    let why = if cordon.reason.is_empty() { String::new() } else { format!(": {}", cordon.reason) };
    format!("{by}{since}{why}")
}

/// The figures of a card that decide what fits on a worker, and how old they are.
fn card(card: &Card) -> String {
    let figures = &card.figures;
    let mut shown: Vec<String> = figures
        .starts_per_second
        .iter()
        .map(|(runtime, starts)| format!("{starts:.0} starts/s {runtime}"))
        .collect();
    shown
        .extend(figures.packets_per_core_second.map(|n| format!("{:.0}k packets/core s", n / 1e3)));
    shown.extend(figures.flow_bps.map(|n| format!("{:.1} Gbit/s a flow", n / 1e9)));
    shown.extend(figures.wakeup_p99_us.map(|n| format!("wakes {n:.0} us late")));
    format!("{} ({})", shown.join(", "), ago(card.measured_ms))
}

fn ago(unix_ms: u64) -> String {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    format!("{} ago", took(now.saturating_sub(unix_ms)))
}

/// Asks for a change of some workers, of the coordinator that knows them. Returns that one.
async fn change(
    session: &Session,
    workers: &[WorkerId],
    wish: CordonWish,
    reason: &str,
) -> Result<Link, Trouble> {
    let request = CordonRequest {
        workers: workers.to_vec(),
        wish,
        by: std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned()),
        reason: reason.to_owned(),
    };
    let mut links = links(session).await?;
    let last = links.pop();
    for link in links {
        let refused = match call::<Vec<WorkerStatus>>(&link.bus, "cordon", &request).await {
            Ok(_) => return Ok(link),
            Err(trouble) => trouble,
        };
        if refused.exit != Exit::of_refusal(RefusalKind::NotFound) {
            return Err(refused);
        }
    }
    let last = last.expect("there is at least one");
    let statuses: Vec<WorkerStatus> = call(&last.bus, "cordon", &request).await?;
    if session.out.json && !matches!(wish, CordonWish::Drain(_)) {
        session.out.json(&statuses);
    }
    Ok(last)
}

async fn drain(session: &Session, args: &args::DrainWorkers) -> Done {
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let wish = CordonWish::Drain(Drain { deadline: args.deadline });
    let workers = &args.cordon.workers;
    let link = change(session, workers, wish, &args.cordon.reason).await?;
    if args.detach {
        session.out.note("takes nothing new; `coordinator workers` shows what is left");
        return Ok(Exit::Passed);
    }
    tokio::select! {
        done = wait(session, &link, workers) => done,
        _ = interrupts.next() => {
            session.out.note("left; the workers stay cordoned, `coordinator workers uncordon` ends that");
            Ok(Exit::Interrupted)
        }
    }
}

/// Waits until nothing runs on the workers. Tells what is left whenever that changes.
async fn wait(session: &Session, link: &Link, workers: &[WorkerId]) -> Done {
    let mut told = String::new();
    loop {
        let mut statuses: Vec<WorkerStatus> = call(&link.bus, "workers", &()).await?;
        statuses.retain(|status| workers.contains(&status.worker));
        if let Some(open) = statuses
            .iter()
            .find(|status| !status.cordons.iter().any(|cordon| cordon.drain.is_some()))
        {
            let message = format!("somebody else has ended the drain of {}", open.worker);
            return Err(Trouble::new(Exit::Infra, message, ""));
        }
        let left: Vec<String> = statuses.iter().filter_map(left_on).collect();
        if left.is_empty() {
            if session.out.json {
                session.out.json(&statuses);
            }
            let names: Vec<&str> = workers.iter().map(WorkerId::as_str).collect();
            session.out.note(format_args!("drained: {}", names.join(", ")));
            return Ok(Exit::Passed);
        }
        let line = left.join("; ");
        if line != told {
            session.out.note(&line);
            told = line;
        }
        sleep(LOOK).await;
    }
}

/// What is left on a worker, for people.
fn left_on(status: &WorkerStatus) -> Option<String> {
    if status.runs.is_empty() {
        return None;
    }
    let mut names: Vec<String> = status.runs.iter().take(NAMED).map(|run| run.name()).collect();
    if let Some(more @ 1..) = status.runs.len().checked_sub(NAMED) {
        names.push(format!("{more} more"));
    }
    let (worker, used) = (&status.worker, status.used);
    Some(format!("{worker}: waiting for {} with {used} instances", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cordon_says_who_and_why_as_far_as_that_is_known() {
        let cordon = |by: &str, reason: &str| Cordon {
            by: by.to_owned(),
            reason: reason.to_owned(),
            since_ms: 0,
            drain: None,
        };
        assert_eq!(cordoned(&cordon("ana", "new kernel")), "ana: new kernel");
        assert_eq!(cordoned(&cordon("", "the disk is full")), "itself: the disk is full");
        assert_eq!(cordoned(&cordon("ben", "")), "ben");
    }
}
