//! A coordinator's service that answers what a test tells it to, on a real nats-server, and records what it is asked.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use groundswell_common::api::{
    Answer, CancelRequest, Cordon, CordonRequest, CordonWish, Refusal, RefusalKind, RunRequest,
    ServiceInfo, SubmitRequest, WorkerStatus,
};
use groundswell_common::bus::{Bus, BusConfig, decode, last_token};
use groundswell_common::card::{Card, Figures, HostFacts};
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::messages::RuntimeKind;
use groundswell_common::nats_server::NatsServer;
use groundswell_common::queue::{Priority, PriorityRequest, QueueEntry};
use groundswell_common::run::{GroupCounts, RunPhase, RunStatus, SourceInfo, Verdict};
use groundswell_common::subjects;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long anything in a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Something that was asked of the service and changes a run.
#[derive(Debug, PartialEq)]
pub(crate) enum Asked {
    Submit(Box<SubmitRequest>),
    Cancel(CancelRequest),
    Priority(PriorityRequest),
    Cordon(CordonRequest),
}

/// What the service knows.
#[derive(Default)]
struct Known {
    runs: Vec<RunStatus>,
    refuse_submit: Option<Refusal>,
    cordon: Option<Cordon>,
    /// The runs on a worker that is drained.
    left: Vec<RunId>,
}

/// The service.
pub(crate) struct Fake {
    pub(crate) dir: TempDir,
    pub(crate) bus: Bus,
    nats: NatsServer,
    known: Arc<Mutex<Known>>,
    asked: mpsc::Receiver<Asked>,
    _tasks: JoinSet<()>,
}

/// The id of the `n`th run.
pub(crate) fn run_id(n: usize) -> RunId {
    format!("c8k3vmlrirtj2p8lcec{n}").parse().expect("a valid id")
}

/// A run at its beginning: two groups of three and one instances.
pub(crate) fn submitted(n: usize) -> RunStatus {
    let run = run_id(n);
    let group = |id: &str, want| (id.to_owned(), GroupCounts { want, ..GroupCounts::default() });
    RunStatus {
        name: run.name(),
        run,
        revision: 1,
        plan: "mesh".into(),
        case: "dial".into(),
        user: "tester".into(),
        source: SourceInfo::default(),
        phase: RunPhase::Submitted,
        doing: String::new(),
        submitted_ms: 1_700_000_000_000 + n as u64,
        started_ms: None,
        finished_ms: None,
        groups: vec![group("a", 3), group("b", 1)],
        workers: Vec::new(),
        verdict: None,
        reason: String::new(),
        warnings: Vec::new(),
        failures: Vec::new(),
        exposed: Vec::new(),
        network: None,
        judgement: None,
        forgotten: false,
    }
}

/// The same run with all its instances running.
pub(crate) fn running(n: usize) -> RunStatus {
    let mut status = submitted(n);
    status.revision = 5;
    status.phase = RunPhase::Running;
    status.started_ms = Some(status.submitted_ms + 500);
    for (_, counts) in &mut status.groups {
        counts.ready = counts.want;
        counts.running = counts.want;
    }
    status
}

/// The same run after its end.
pub(crate) fn over(n: usize, verdict: Verdict) -> RunStatus {
    let mut status = running(n);
    status.revision = 9;
    status.phase = RunPhase::Finished;
    status.verdict = Some(verdict);
    status.finished_ms = Some(status.submitted_ms + 2_750);
    for (_, counts) in &mut status.groups {
        counts.running = 0;
        match verdict {
            Verdict::Canceled => counts.canceled = counts.want,
            Verdict::Passed
            | Verdict::Failed
            | Verdict::Inconclusive
            | Verdict::Infra
            | Verdict::TimedOut
            | Verdict::Rejected
            | Verdict::Unplaceable => counts.success = counts.want,
        }
    }
    status
}

impl Fake {
    /// Starts it with the runs it knows.
    pub(crate) async fn start(runs: Vec<RunStatus>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let nats = NatsServer::start(&dir.path().join("nats")).await.expect("a nats-server");
        let bus = Bus::connect(&BusConfig::open(nats.url(), "fake")).await.expect("a connection");
        let known = Arc::new(Mutex::new(Known { runs, ..Known::default() }));
        let (tx, asked) = mpsc::channel(100);
        let mut calls = bus.client().subscribe(subjects::API_ALL).await.expect("a subscription");
        let mut tasks = JoinSet::new();
        let (bus_of_task, known_of_task) = (bus.clone(), Arc::clone(&known));
        let store = format!("file://{}", dir.path().join("store").display());
        tasks.spawn(async move {
            while let Some(message) = calls.next().await {
                answer(&bus_of_task, &known_of_task, &tx, &message, &store).await;
            }
        });
        bus.client().flush().await.expect("the subscription is known");
        write_plan(dir.path());
        Self { dir, bus, nats, known, asked, _tasks: tasks }
    }

    /// The service refuses every submit from here on.
    pub(crate) fn refuse_submits(&self, kind: RefusalKind, message: &str) {
        let refusal = Refusal { kind, message: message.into(), help: String::new() };
        self.known.lock().expect("no test panics with it").refuse_submit = Some(refusal);
    }

    /// The service knows this state of a run from here on, and tells whoever watches.
    pub(crate) async fn tell(&self, status: RunStatus) {
        {
            let mut known = self.known.lock().expect("no test panics with it");
            known.runs.retain(|run| run.run != status.run);
            known.runs.push(status.clone());
        }
        self.bus.publish(subjects::status(&status.run), &status).await.expect("published");
    }

    /// The next thing that was asked.
    pub(crate) async fn asked(&mut self) -> Asked {
        timeout(LIMIT, self.asked.recv()).await.expect("asked in time").expect("the task lives")
    }

    /// The next thing that was asked, which is a submit.
    pub(crate) async fn asked_to_submit(&mut self) -> SubmitRequest {
        match self.asked().await {
            Asked::Submit(request) => *request,
            other @ (Asked::Cancel(_) | Asked::Priority(_) | Asked::Cordon(_)) => {
                panic!("expected a submit, got {other:?}")
            }
        }
    }

    /// The next thing that was asked, which is a cancel.
    pub(crate) async fn asked_to_cancel(&mut self) -> CancelRequest {
        match self.asked().await {
            Asked::Cancel(request) => request,
            other @ (Asked::Submit(_) | Asked::Priority(_) | Asked::Cordon(_)) => {
                panic!("expected a cancel, got {other:?}")
            }
        }
    }

    /// Nothing else was asked.
    pub(crate) fn asked_nothing_more(&mut self) {
        assert!(self.asked.try_recv().is_err());
    }

    /// The directory of the fake's object store, as `--objects` has it.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The command line with the fake's NATS, in the fake's directory.
    pub(crate) fn coordinator(&self, arguments: &[&str]) -> Command {
        let mut command = coordinator(self.dir.path(), arguments);
        command.env("GROUNDSWELL_NATS", self.nats.url());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn output(&self, arguments: &[&str]) -> Ran {
        finish(self.coordinator(arguments).spawn().expect("spawned")).await
    }
}

async fn answer(
    bus: &Bus,
    known: &Mutex<Known>,
    asked: &mpsc::Sender<Asked>,
    message: &async_nats::Message,
    store: &str,
) {
    match last_token(&message.subject) {
        "submit" => {
            let request: SubmitRequest = decode(&message.payload).expect("a submit");
            let answer: Answer<RunStatus> = {
                let mut known = known.lock().expect("no test panics with it");
                match known.refuse_submit.clone() {
                    Some(refusal) => Err(refusal),
                    None => {
                        let status = submitted(known.runs.len());
                        known.runs.push(status.clone());
                        Ok(status)
                    }
                }
            };
            bus.reply(message, &answer).await;
            let _ = asked.send(Asked::Submit(Box::new(request))).await;
        }
        "cancel" => {
            let request: CancelRequest = decode(&message.payload).expect("a cancel");
            let answer = find(known, request.run.as_str());
            bus.reply(message, &answer).await;
            let _ = asked.send(Asked::Cancel(request)).await;
        }
        "run" => {
            let request: RunRequest = decode(&message.payload).expect("a run request");
            bus.reply(message, &find(known, &request.selector)).await;
        }
        "runs" => {
            let mut runs = known.lock().expect("no test panics with it").runs.clone();
            runs.reverse();
            bus.reply(message, &Answer::Ok(runs)).await;
        }
        "queue" => bus.reply(message, &Answer::Ok(queue())).await,
        "priority" => {
            let request: PriorityRequest = decode(&message.payload).expect("a priority");
            bus.reply(message, &find(known, request.run.as_str())).await;
            let _ = asked.send(Asked::Priority(request)).await;
        }
        "workers" => {
            let status = worker(known);
            // Its one run is over when it is looked at again, unless it is to go on.
            if status.cordons.iter().all(|cordon| cordon.reason != "goes on") {
                known.lock().expect("no test panics with it").left.clear();
            }
            bus.reply(message, &Answer::Ok(vec![status])).await;
        }
        "cordon" => {
            let request: CordonRequest = decode(&message.payload).expect("a cordon");
            {
                let mut known = known.lock().expect("no test panics with it");
                known.cordon = cordon(&request);
                known.left = vec![run_id(0)];
            }
            bus.reply(message, &Answer::Ok(vec![worker(known)])).await;
            let _ = asked.send(Asked::Cordon(request)).await;
        }
        "info" => bus.reply(message, &Answer::Ok(info(store))).await,
        other => panic!("an unknown call: {other}"),
    }
}

fn find(known: &Mutex<Known>, selector: &str) -> Answer<RunStatus> {
    let known = known.lock().expect("no test panics with it");
    let fits = |run: &&RunStatus| {
        selector == "latest"
            || run.run.as_str().starts_with(selector)
            || run.name.starts_with(selector)
    };
    known.runs.iter().rev().find(fits).cloned().ok_or_else(|| Refusal {
        kind: RefusalKind::NotFound,
        message: format!("there is no run `{selector}`"),
        help: String::new(),
    })
}

fn queue() -> Vec<QueueEntry> {
    let entry = |n: u32, priority, instances, waited_ms, reason: &str| {
        let run = run_id(n as usize - 1);
        QueueEntry {
            place: n,
            name: run.name(),
            run,
            plan: "mesh".into(),
            case: "dial".into(),
            team: "core".into(),
            user: "tester".into(),
            priority,
            instances,
            waited_ms,
            reason: reason.into(),
        }
    };
    let needs = "needs 12,000 slots, 4,000 of the cluster's 20,000 are free";
    let behind = format!(
        "{} goes first, within 12m, and this run may take longer than that",
        run_id(0).name()
    );
    vec![
        entry(1, Priority::Interactive, 12_000, 61_000, needs),
        entry(2, Priority::Batch, 500, 3_600_000, &behind),
    ]
}

fn cordon(request: &CordonRequest) -> Option<Cordon> {
    let drain = match request.wish {
        CordonWish::Uncordon => return None,
        CordonWish::Cordon => None,
        CordonWish::Drain(drain) => Some(drain),
    };
    let (by, reason) = (request.by.clone(), request.reason.clone());
    Some(Cordon { by, reason, since_ms: 0, drain })
}

fn worker(known: &Mutex<Known>) -> WorkerStatus {
    let known = known.lock().expect("no test panics with it");
    WorkerStatus {
        worker: WorkerId::from_lossy("w-01"),
        state: if known.cordon.is_some() { "cordoned".into() } else { "ready".into() },
        version: "0.1.0".into(),
        slots: 100,
        used: 4,
        instances: 4,
        runtimes: vec![RuntimeKind::Docker, RuntimeKind::Netns],
        notes: vec!["no memory limits".into()],
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        heard_ms: 1_250,
        cordons: known.cordon.clone().into_iter().collect(),
        runs: known.left.clone(),
        card: Some(card()),
    }
}

fn card() -> Card {
    let starts_per_second = [("netns".to_owned(), 900.0)].into();
    Card {
        v: 1,
        version: "0.1.0".into(),
        measured_ms: 0,
        host: HostFacts::default(),
        figures: Figures { starts_per_second, flow_bps: Some(9.5e9), ..Figures::default() },
        missing: Vec::new(),
    }
}

fn info(store: &str) -> ServiceInfo {
    let (version, nats) = ("0.1.0".into(), "2.15.1".into());
    ServiceInfo { version, objects: store.into(), nats, name: "one".into(), pid: 1 }
}

/// A plan and compositions that are valid.
fn write_plan(dir: &Path) {
    let plan = dir.join("mesh");
    std::fs::create_dir_all(&plan).expect("a directory");
    let manifest = "name = 'mesh'\n[defaults]\nbuilder = 'docker:generic'\nrunner = 'local:docker'\n\
        [builders.'docker:generic']\nenabled = true\n[runners.'local:docker']\nenabled = true\n\
        [[testcases]]\nname = 'dial'\ninstances = { min = 1, max = 500, default = 4 }\n";
    std::fs::write(plan.join("manifest.toml"), manifest).expect("written");
    std::fs::write(plan.join("Dockerfile"), "FROM scratch\n").expect("written");
    let head = "[global]\nplan = 'mesh'\ncase = 'dial'\nbuilder = 'docker:generic'\nrunner = 'local:docker'\n";
    let groups = "[[groups]]\nid = 'a'\ninstances = { count = 3 }\n\
        [[groups]]\nid = 'b'\ninstances = { count = 1 }\n";
    std::fs::write(dir.join("one.toml"), format!("{head}{groups}")).expect("written");
    let runs = ["second", "first", "third"].map(|id| {
        format!("[[runs]]\nid = '{id}'\n[[runs.groups]]\nid = 'a'\ninstances = {{ count = 3 }}\n")
    });
    std::fs::write(dir.join("three.toml"), format!("{head}{groups}{}", runs.concat()))
        .expect("written");
}

/// The command line in a directory, with an environment of its own.
pub(crate) fn coordinator(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("GROUNDSWELL_HOME", dir.join("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Waits for the end of a command.
pub(crate) async fn finish(child: Child) -> Ran {
    let output = timeout(LIMIT, child.wait_with_output()).await.expect("ended in time");
    let Output { status, stdout, stderr } = output.expect("waited for");
    Ran {
        code: status.code().expect("not killed"),
        stdout: String::from_utf8(stdout).expect("text"),
        stderr: String::from_utf8(stderr).expect("text"),
    }
}

/// Sends a signal to a command.
pub(crate) fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().expect("running")).expect("a process id");
    kill(Pid::from_raw(pid), signal).expect("sent");
}
