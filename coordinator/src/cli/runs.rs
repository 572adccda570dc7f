//! The commands about runs that exist: `status`, `ls`, `cancel`, `attach`, `wait`.

use groundswell_common::api::CancelRequest;
use groundswell_common::run::RunStatus;
use tokio::time::timeout;

use super::args;
use super::call::call;
use super::exit::Exit;
use super::fidelity;
use super::find::{self, Found};
use super::keys::Interrupts;
use super::live::{Stopped, Watch, Watched};
use super::out::List;
use super::progress::Progress;
use super::submit::report;
use super::summary::{called, elapsed_ms, exposed, headline, summary, took, totals};
use super::{Done, Session, Trouble};

pub(crate) async fn status(session: &Session, args: &args::Status) -> Done {
    let found = find::run(session, &args.run).await?;
    if session.out.json || args.format != args::Format::Table {
        session.out.list(&rows(std::slice::from_ref(&found.status)), args.format);
        return Ok(Exit::Passed);
    }
    show(session, &found);
    Ok(Exit::Passed)
}

fn show(session: &Session, found: &Found) {
    let (out, status) = (&session.out, &found.status);
    // The whole of it is data here: it is what was asked for.
    if status.phase.is_over() {
        summary(out, status).iter().for_each(|line| out.data(line));
        let network = status.network.iter().flat_map(fidelity::details);
        network.for_each(|line| out.data(line));
        return;
    }
    out.data(headline(out, status));
    if let Some(link) = &found.link {
        out.data(format_args!("  where      {}", link.place));
    }
    if !status.doing.is_empty() {
        out.data(format_args!("  doing      {}", status.doing));
    }
    exposed(status).for_each(|line| out.data(line));
    status.warnings.iter().for_each(|warning| out.data(format_args!("  warning    {warning}")));
    let headers = ["GROUP", "WANT", "READY", "RUNNING", "OK", "FAILED"];
    let rows = status.groups.iter().map(|(group, counts)| {
        let numbers = [counts.want, counts.ready, counts.running, counts.success, counts.bad()];
        std::iter::once(group.clone()).chain(numbers.map(|n| n.to_string())).collect()
    });
    let list = List {
        headers: &headers,
        name: 0,
        wide_from: headers.len(),
        rows: rows.collect(),
        values: &status.groups,
    };
    out.list(&list, args::Format::Table);
}

pub(crate) async fn ls(session: &Session, args: &args::Ls) -> Done {
    let runs = find::runs(session, args.limit).await?;
    if runs.is_empty() && !session.out.json {
        session.out.note("no runs yet: `coordinator submit FILE` starts one");
    }
    session.out.list(&rows(&runs), args.format);
    Ok(Exit::Passed)
}

fn state(run: &RunStatus) -> &'static str {
    match run.verdict {
        Some(verdict) => verdict.as_str(),
        None if run.forgotten => "forgotten",
        None => run.phase.as_str(),
    }
}

pub(crate) fn rows(runs: &[RunStatus]) -> List<'_, RunStatus> {
    const HEADERS: [&str; 10] =
        ["NAME", "ID", "PLAN", "CASE", "STATE", "INSTANCES", "SUBMITTED", "TOOK", "USER", "REASON"];
    let row = |run: &RunStatus| {
        let counts = totals(run);
        vec![
            run.name.clone(),
            run.run.to_string(),
            run.plan.clone(),
            run.case.clone(),
            state(run).to_owned(),
            format!("{}/{}", counts.success, counts.want),
            timestamp(run.submitted_ms),
            elapsed_ms(run).map(took).unwrap_or_default(),
            run.user.clone(),
            run.reason.clone(),
        ]
    };
    List {
        headers: &HEADERS,
        name: 0,
        wide_from: 8,
        rows: runs.iter().map(row).collect(),
        values: runs,
    }
}

/// A time as lists show it.
pub(crate) fn timestamp(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default()
}

pub(crate) async fn cancel(session: &Session, args: &args::Cancel) -> Done {
    let found = find::run(session, &args.run).await?;
    let Some(link) = found.link.filter(|_| !found.status.phase.is_over()) else {
        let message = format!("{} is over already", called(&found.status.name, &found.status.run));
        return Err(Trouble::new(Exit::NothingSelected, message, ""));
    };
    let request = CancelRequest {
        run: found.status.run.clone(),
        kill: args.kill,
        reason: args.reason.clone(),
    };
    let status: RunStatus = call(&link.bus, "cancel", &request).await?;
    if session.out.json {
        session.out.json(&status);
    }
    let verb = if args.kill { "killing" } else { "canceling" };
    session.out.note(format_args!(
        "{verb} {}; `coordinator wait {}` tells when it is over",
        called(&status.name, &status.run),
        status.name
    ));
    Ok(Exit::Passed)
}

pub(crate) async fn attach(session: &Session, args: &args::Attach) -> Done {
    watch(session, &args.run, args.follow_logs, true).await
}

pub(crate) async fn wait(session: &Session, args: &args::Wait) -> Done {
    let watching = watch(session, &args.run, false, false);
    match args.timeout {
        None => watching.await,
        Some(limit) => timeout(limit, watching).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            let message = format!("`{}` is not over after {limit}; it goes on", args.run);
            Err(Trouble::new(Exit::StillRunning, message, ""))
        }),
    }
}

async fn watch(session: &Session, selector: &str, follow_logs: bool, keys: bool) -> Done {
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let found = tokio::select! {
        found = find::run(session, selector) => found?,
        _ = interrupts.next() => return Ok(Exit::Interrupted),
    };
    let Some(link) = found.link.filter(|_| !found.status.phase.is_over()) else {
        let codes = Stopped::default().codes_of(&found.status);
        report(session, "", &found.status, &codes);
        return Ok(Exit::strongest(&codes));
    };
    session.out.note(format_args!(
        "watching {} in {}; Ctrl-C leaves it running",
        called(&found.status.name, &found.status.run),
        link.place
    ));
    let mut progress = Progress::new(session.out, &session.global);
    let mut watch = Watch {
        link: &link,
        interrupts: &mut interrupts,
        own: false,
        detach: if keys { Ok(()) } else { Err("nothing is attached") },
        follow_logs,
        stack: None,
    };
    let watched = watch.run(found.status.clone(), &mut progress).await;
    progress.finish();
    match watched? {
        Watched::Over(status, stopped) => {
            let codes = stopped.codes_of(&status);
            report(session, "", &status, &codes);
            Ok(Exit::strongest(&codes))
        }
        Watched::Detached | Watched::Left => {
            session.out.note(format_args!(
                "left; {} goes on. `coordinator cancel {}` ends it",
                found.status.name, found.status.name
            ));
            Ok(if keys { Exit::Passed } else { Exit::Interrupted })
        }
    }
}
