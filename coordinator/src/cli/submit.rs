//! `submit`: runs a composition, watches it, tells how it went.

use std::io::IsTerminal as _;
use std::time::Duration;

use groundswell_common::api::{RunRequest, SubmitRequest, WorkerStatus};
use groundswell_common::bus::Bus;
use groundswell_common::fidelity;
use groundswell_common::ids::RunId;
use groundswell_common::messages::RuntimeKind;
use groundswell_common::objects::Objects;
use groundswell_common::queue::{Priority, QueueWish};
use groundswell_common::run::{RunPhase, RunStatus, SourceInfo, Verdict};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::args::{Runtime, Submit};
use super::call::call;
use super::connect::{self, Link};
use super::exit::Exit;
use super::inputs::{self, Inputs};
use super::keys::{Interrupt, Interrupts};
use super::live::{Watch, Watched};
use super::lock_file::LockFile;
use super::progress::Progress;
use super::repeat::{self, Turn, Whose};
use super::results::{collect_outputs, write_results};
use super::summary::{called, summary};
use super::{Done, Session, Trouble, parts};
use crate::local::{self, LocalOptions, Stack};

/// Why a run of local mode cannot be left alone.
const NO_DETACH: &str =
    "this run lives in this process; start `coordinator up` first, and submit to that";
/// How long the worker of local mode may take to clean up before its stack is stopped anyway.
const CLEANING: Duration = Duration::from_secs(10);
/// How long the workers of a stack may take to register. A run goes on without those that do not.
const REGISTERING: Duration = Duration::from_secs(10);

/// Where runs go: elsewhere, or a stack in this process.
struct Place {
    link: Link,
    stack: Option<Stack>,
}

/// How one run of the composition went.
pub(crate) struct Ended {
    pub(crate) run: String,
    whose: Whose,
    pub(crate) status: Option<RunStatus>,
    pub(crate) error: String,
    codes: Vec<Exit>,
}

pub(crate) async fn run(session: &Session, args: &Submit) -> Done {
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let lock_file = LockFile::of(args)?;
    let lock = lock_file.as_ref().and_then(LockFile::lock);
    let inputs = inputs::of_submit(session, args, lock).await?;
    lock_file.iter().try_for_each(|file| file.check_plan(inputs.plan_source.as_ref()))?;
    if inputs.runs.len() > 1 && (args.baseline.is_some() || args.interleave_with.is_some()) {
        let message =
            "a composition with several runs is not compared: its runs are of several kinds";
        return Err(Trouble::new(Exit::Usage, message, "choose one with --run-ids"));
    }
    session.out.note(format_args!("{}", validated(&inputs)));
    let mut place = find_place(session, args).await?;
    let what = What { args, inputs: &inputs, lock_file: lock_file.as_ref() };
    let submitted = submit_all(session, &what, &mut place, &mut interrupts).await;
    if let Some(stack) = place.stack.take() {
        stack.stop().await;
    }
    let (ended, mut codes) = submitted?;
    if let Some(file) = &args.result_file {
        write_results(file, &ended)?;
    }
    // How the others ended is no failure of what was submitted.
    let own = ended.iter().filter(|ended| ended.whose == Whose::Own);
    codes.extend(own.flat_map(|ended| ended.codes.clone()));
    Ok(Exit::strongest(&codes))
}

fn validated(inputs: &Inputs) -> String {
    let instances: u32 = inputs.runs.iter().flat_map(|(_, groups)| groups).map(|(_, n)| n).sum();
    let groups: usize = inputs.runs.iter().map(|(_, groups)| groups.len()).sum();
    let runs = match inputs.runs.len() {
        1 => String::new(),
        several => format!("{several} runs · "),
    };
    let groups = if groups == 1 { "1 group".to_owned() } else { format!("{groups} groups") };
    let instances =
        if instances == 1 { "1 instance".to_owned() } else { format!("{instances} instances") };
    format!("validated {}: {runs}{groups} · {instances}", inputs.name)
}

async fn find_place(session: &Session, args: &Submit) -> Result<Place, Trouble> {
    if let Some(link) = connect::for_submit(session).await? {
        return Ok(Place { link, stack: None });
    }
    if args.detach {
        return Err(Trouble::new(
            Exit::Usage,
            "a run of local mode cannot be detached: it would end with this command",
            "start `coordinator up` first, or name a cluster with --nats",
        ));
    }
    let stack = start_stack(session, args.workers, false).await?;
    let link = Link {
        bus: stack.bus.clone(),
        place: "this process".to_owned(),
        objects: Some(stack.objects.clone()),
    };
    Ok(Place { link, stack: Some(stack) })
}

/// Starts a stack in this process.
pub(crate) async fn start_stack(
    session: &Session,
    workers: u16,
    kept: bool,
) -> Result<Stack, Trouble> {
    let options = LocalOptions {
        home: session.settings.home.clone(),
        objects: session.settings.objects.clone(),
        s3_endpoint: session.settings.s3_endpoint.clone(),
        workers,
        kept,
    };
    let stack = local::start(&options).await.map_err(|err| {
        let exit = match err {
            local::LocalError::Nats(_) | local::LocalError::Bus(_) => Exit::Unreachable,
            local::LocalError::Objects(_) | local::LocalError::File { .. } => Exit::Infra,
            local::LocalError::NoWorker
            | local::LocalError::Worker { .. }
            | local::LocalError::Metrics(_) => Exit::Usage,
            local::LocalError::TooMany { .. } => Exit::NoCapacity,
            local::LocalError::Service(_) => Exit::Internal,
        };
        let help = "`coordinator doctor` looks at everything local mode needs";
        Trouble { help: help.to_owned(), ..Trouble::from_error(exit, &err) }
    })?;
    // A run waits for one worker by itself, and is placed on those that are there.
    if workers > 1 && timeout(REGISTERING, registered(&stack.bus, workers)).await.is_err() {
        session.out.warning(format_args!("not all of the {workers} workers have come up"));
    }
    Ok(stack)
}

/// Waits until so many workers are ready.
async fn registered(bus: &Bus, workers: u16) {
    loop {
        let listed: Result<Vec<WorkerStatus>, Trouble> = call(bus, "workers", &()).await;
        let ready = listed.iter().flatten().filter(|worker| worker.state == "ready").count();
        if ready >= usize::from(workers) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What is submitted.
struct What<'a> {
    args: &'a Submit,
    inputs: &'a Inputs,
    lock_file: Option<&'a LockFile>,
}

async fn submit_all(
    session: &Session,
    what: &What<'_>,
    place: &mut Place,
    interrupts: &mut Interrupts,
) -> Result<(Vec<Ended>, Vec<Exit>), Trouble> {
    let What { args, inputs, lock_file } = *what;
    let prepared = tokio::select! {
        prepared = prepare(session, what, place) => prepared?,
        interrupt = interrupts.next() => return Err(stopped_early(interrupt)),
    };
    let Prepared { objects, turns } = prepared;
    let several = turns.len() > 1;
    let mut ended: Vec<Ended> = Vec::new();
    for Turn { run, whose, request } in &turns {
        if ended.last().is_some_and(|last| !goes_on(last)) {
            let error = "not started: an earlier run ended with an error".to_owned();
            let (run, codes) = (run.clone(), Vec::new());
            ended.push(Ended { run, whose: *whose, status: None, error, codes });
            continue;
        }
        let one = submit_one(session, args, place, interrupts, request).await;
        let one = one.unwrap_or_else(|trouble| failed_to_run(session, run, &trouble));
        if let Some(status) = one.status.as_ref().filter(|_| args.collect && !args.detach) {
            collect_outputs(session, args, &objects, status, several.then_some(run)).await?;
        }
        ended.push(Ended { whose: *whose, ..one });
    }
    let runs = |whose: Whose| {
        let those = ended.iter().filter(move |ended| ended.whose == whose);
        those.filter_map(|ended| Some(ended.status.as_ref()?.run.clone()))
    };
    if let Some(file) = lock_file.filter(|_| !args.detach) {
        let runs: Vec<RunId> = runs(Whose::Own).collect();
        file.conclude(session, &objects, &runs, inputs.plan_source.as_ref()).await?;
    }
    let of = |whose: Whose| runs(whose).map(move |run| (whose, run));
    let submitted: Vec<(Whose, RunId)> = of(Whose::Other).chain(of(Whose::Own)).collect();
    let codes = repeat::conclude(session, args, &objects, &submitted).await?;
    Ok((ended, codes))
}

/// What is submitted, and where its outputs will be.
struct Prepared {
    objects: Objects,
    turns: Vec<Turn>,
}

async fn prepare(session: &Session, what: &What<'_>, place: &Place) -> Result<Prepared, Trouble> {
    let What { args, inputs, lock_file } = *what;
    let sources = parts::sources(&inputs.loaded, &inputs.manifest, &inputs.plan_dir)
        .map_err(|err| Trouble::from_error(Exit::Invalid, err.as_ref()))?;
    let objects = place.link.objects(session).await?;
    // What does not exist is said before anything is packed.
    let other = match &args.interleave_with {
        Some(side) => Some(repeat::other(&objects, side).await?),
        None => None,
    };
    let cache_dir = session.settings.home.join("cache");
    let (packed, source_info) =
        tokio::join!(parts::pack(&sources, &objects, &cache_dir), inputs::source_info(inputs));
    let source = packed.map_err(|err| Trouble::from_error(Exit::Infra, err.as_ref()))?;
    let lock = lock_file.and_then(LockFile::wish);
    let request = SubmitRequest { lock, ..request(args, inputs, source, source_info) };
    let runs: Vec<String> = inputs.runs.iter().map(|(run, _)| run.clone()).collect();
    let seed = args.seed.unwrap_or_else(rand::random);
    let turns = repeat::turns(args, &runs, &request, other.as_ref(), seed);
    Ok(Prepared { objects, turns })
}

fn request(
    args: &Submit,
    inputs: &Inputs,
    source: String,
    source_info: SourceInfo,
) -> SubmitRequest {
    SubmitRequest {
        composition: inputs.loaded.text.clone(),
        composition_name: inputs.name.clone(),
        attachments: inputs.loaded.attachments().clone(),
        manifest: inputs.manifest_text.clone(),
        source,
        run: String::new(),
        runtime: args.runtime.map(|runtime| match runtime {
            Runtime::Docker => RuntimeKind::Docker,
            Runtime::Netns => RuntimeKind::Netns,
        }),
        seed: args.seed,
        timeout: args.timeout,
        user: std::env::var("USER").unwrap_or_default(),
        source_info: source_of(args, source_info),
        labels: args.labels.iter().cloned().collect(),
        no_cache: args.no_cache,
        queue: QueueWish {
            priority: args.priority.map(Priority::from),
            team: args.team.clone(),
            // With a key the call may be repeated when its answer is lost.
            key: Some(args.idempotency_key.clone().unwrap_or_else(random_key)),
            replace: args.metadata_repo.is_some() && args.metadata_branch.is_some(),
        },
        lock: None,
    }
}

fn random_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Where everything comes from: what the flags say, or else git.
fn source_of(args: &Submit, git: SourceInfo) -> SourceInfo {
    SourceInfo {
        repo: args.metadata_repo.clone().unwrap_or(git.repo),
        branch: args.metadata_branch.clone().unwrap_or(git.branch),
        commit: args.metadata_commit.clone().unwrap_or(git.commit),
        dirty: git.dirty && args.metadata_commit.is_none(),
    }
}

fn stopped_early(interrupt: Interrupt) -> Trouble {
    let exit = match interrupt {
        Interrupt::Int => Exit::Interrupted,
        Interrupt::Term => Exit::Terminated,
    };
    Trouble::new(exit, "stopped before anything was submitted", "")
}

/// A run that failed or ran out of time says nothing about the next one; anything else does.
fn goes_on(ended: &Ended) -> bool {
    let verdict = ended.status.as_ref().map(|status| status.verdict);
    matches!(
        verdict,
        Some(
            None | Some(
                Verdict::Passed | Verdict::Failed | Verdict::Inconclusive | Verdict::TimedOut
            )
        )
    )
}

fn failed_to_run(session: &Session, run: &str, trouble: &Trouble) -> Ended {
    session.out.error(&trouble.message, &trouble.help);
    let codes = vec![trouble.exit];
    result_line(session, run, None, &codes);
    let (run, whose) = (run.to_owned(), Whose::Own);
    Ended { run, whose, status: None, error: trouble.message.clone(), codes }
}

async fn submit_one(
    session: &Session,
    args: &Submit,
    place: &mut Place,
    interrupts: &mut Interrupts,
    request: &SubmitRequest,
) -> Result<Ended, Trouble> {
    let status: RunStatus = call(&place.link.bus, "submit", request).await?;
    announce(session, args, &status);
    let ended = |status, codes| Ended {
        run: request.run.clone(),
        whose: Whose::Own,
        status: Some(status),
        error: String::new(),
        codes,
    };
    if args.detach {
        return Ok(ended(status, Vec::new()));
    }
    let mut progress = Progress::new(session.out, &session.global);
    let local = place.stack.is_some();
    let mut watch = Watch {
        link: &place.link,
        interrupts,
        own: true,
        detach: if local { Err(NO_DETACH) } else { Ok(()) },
        follow_logs: args.follow_logs,
        stack: place.stack.as_mut(),
    };
    let watched = watch.run(status.clone(), &mut progress).await;
    progress.finish();
    match watched? {
        Watched::Over(status, stopped) => {
            let unmet = unmet(args, &status);
            let mut codes = stopped.codes_of(&status);
            codes.extend(unmet.iter().map(|_| Exit::Threshold));
            report(session, &request.run, &status, &codes);
            if let Some(unmet) = &unmet {
                session.out.error(unmet, "");
            }
            if local {
                wait_until_cleaned(&place.link, &status).await;
            }
            let error = match status.verdict {
                Some(Verdict::Passed) => unmet.unwrap_or_default(),
                _ => status.reason.clone(),
            };
            Ok(Ended { error, ..ended(*status, codes) })
        }
        Watched::Detached => {
            session.out.note(format_args!(
                "detached; {} goes on: coordinator attach {}",
                status.name, status.run
            ));
            Ok(ended(status, Vec::new()))
        }
        Watched::Left => Err(Trouble::new(Exit::Interrupted, "left without waiting", "")),
    }
}

fn announce(session: &Session, args: &Submit, status: &RunStatus) {
    if session.out.json {
        session.out.json(&json!({
            "v": 1, "type": "submitted", "run": status.run, "name": status.name,
        }));
    } else if args.detach || !std::io::stdout().is_terminal() {
        session.out.data(&status.run);
    }
    let keys = if args.detach { "" } else { "   Ctrl-C = cancel" };
    session.out.note(format_args!("submitted {}{keys}", called(&status.name, &status.run)));
}

/// Tells how the run ended: in words, and as a line of JSON when that was asked for.
pub(crate) fn report(session: &Session, run: &str, status: &RunStatus, codes: &[Exit]) {
    summary(&session.out, status).iter().for_each(|line| session.out.say(line));
    result_line(session, run, Some(status), codes);
}

/// Why a run that passed does not meet `--require-fidelity`. One that did not pass has its own reason.
fn unmet(args: &Submit, status: &RunStatus) -> Option<String> {
    let required = args.require_fidelity.filter(|_| status.verdict == Some(Verdict::Passed))?;
    fidelity::unmet(status.network.as_ref(), required.into())
}

fn result_line(session: &Session, run: &str, status: Option<&RunStatus>, codes: &[Exit]) {
    if session.out.json {
        session.out.json(&json!({
            "v": 1,
            "type": "result",
            "run": status.map(|status| &status.run),
            "run_in_composition": run,
            "verdict": status.and_then(|status| status.verdict),
            "status": status,
            "exit": Exit::strongest(codes).code(),
            "codes": codes.iter().map(|exit| exit.code()).collect::<Vec<_>>(),
        }));
    }
}

/// The stack of local mode is stopped when nothing of the run is left on this machine.
async fn wait_until_cleaned(link: &Link, status: &RunStatus) {
    let deadline = Instant::now() + CLEANING;
    let request = RunRequest { selector: status.run.to_string() };
    while Instant::now() < deadline {
        match call::<RunStatus>(&link.bus, "run", &request).await {
            Ok(status) if status.phase < RunPhase::Cleaned => {}
            Ok(_) | Err(_) => return,
        }
        sleep(Duration::from_millis(20)).await;
    }
}
