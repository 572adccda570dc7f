//! A whole worker on a real nats-server, with scripted instances and a coordinator of a few lines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::stream;
use async_trait::async_trait;
use futures::StreamExt as _;
use groundswell_common::bus::{Bus, BusConfig, decode, encode};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::link::NetworkConfig;
use groundswell_common::messages::{
    Assignment, Desired, DesiredShare, GroupSpec, Heartbeat, HeartbeatReply, ImageKind, ImageRef,
    InstancePlace, InstanceRange, Limits, Registered, Registration, Report, ReportReply, Resources,
    RunOptions, RuntimeKind, ShareEvent, Want,
};
use groundswell_common::nats_server::NatsServer;
use groundswell_common::objects::{Objects, ObjectsConfig};
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::outputs::{read_file, read_index};
use groundswell_common::subjects;
use groundswell_common::timing::Lease;
use groundswell_worker::agent;
use groundswell_worker::config::WorkerConfig;
use groundswell_worker::network::{Attachment, Caps, Network, NetworkError};
use groundswell_worker::parts::{Metrics, MetricsSource, OpenSync, Opened, Parts, ShareSync};
use groundswell_worker::runtime::LinkState;
use groundswell_worker::runtime::fake::{Deed, FakeRuntime, Step};
use groundswell_worker::sync::{LifecycleEvent, SyncEvent, SyncSpec, Waiting};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_share_goes_from_assignment_to_cleaned_and_its_outputs_are_stored() {
    let stage = Stage::new(Lease::DEFAULT, |id| {
        vec![
            Step::Print(format!("hello from {id}")),
            Step::Write("run.out".to_owned(), "done".to_owned()),
            Step::Publish(LifecycleEvent::Success),
            Step::Exit(0),
        ]
    })
    .await;
    let assignment = stage.assignment(2);
    stage.want(1, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| *event == ShareEvent::Prepared).await;
    assert_eq!(stage.runtime.deeds().len(), 2, "made and not started: {:?}", stage.runtime.deeds());
    assert_eq!(stage.sync.calls(), ["network_ready 0 1"]);

    stage.sync.tell(SyncEvent::Started).await;
    let collected = stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    let ShareEvent::Collected { index } = collected else { unreachable!("waited for it") };
    let index = read_index(&stage.objects, &index).await.expect("an index");
    let mut stored = BTreeMap::new();
    for entry in &index.files {
        let content = read_file(&stage.objects, entry).await.expect("a file");
        let name = format!("{}/{}/{}", entry.group, entry.in_group, entry.path);
        stored.insert(name, String::from_utf8(content.to_vec()).expect("text"));
    }
    let names: Vec<&str> = stored.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "all/0/run.out",
            "all/0/stderr.log",
            "all/0/stdout.log",
            "all/1/run.out",
            "all/1/stderr.log",
            "all/1/stdout.log"
        ]
    );
    assert_eq!(stored["all/1/stdout.log"], "hello from 1\n");
    let events = format!("runs/{}/1/{}/events.jsonl", assignment.run, stage.worker);
    let events = stage.objects.get(&events).await.expect("answered").expect("stored");
    let events = String::from_utf8(events.to_vec()).expect("text");
    assert_eq!(events.matches("\"instance_ended\"").count(), 2, "{events}");

    stage.want(1, &[]).await;
    stage.reported(|event| *event == ShareEvent::Cleaned).await;
    let ends = stage.ends();
    assert!(ends.values().all(|end| end.outcome == Outcome::Success), "{ends:?}");
    assert_eq!(
        stage.runtime.deeds_to(InstanceId(0)),
        [Deed::Created, Deed::Started, Deed::Removed],
        "started once, and nothing else was done to it"
    );
    assert!(!stage.state_dir().join("spool").join(assignment.run.as_str()).join("1").exists());
    let order: Vec<_> = stage.milestones();
    assert_eq!(order, ["prepared", "started", "collected", "cleaned"]);
    stage.leave().await;
}

#[tokio::test]
async fn an_instance_that_ends_without_a_word_has_failed_and_the_log_hears_of_it() {
    let stage = Stage::new(Lease::DEFAULT, |_| {
        vec![Step::Print("about to give up".to_owned()), Step::Exit(3)]
    })
    .await;
    let assignment = stage.running(1).await;
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    let end = stage.ends()[&InstanceId(0)].clone();
    assert_eq!(end.outcome, Outcome::Failure);
    assert_eq!(end.reason, "ended without outcome, exit code 3");
    assert_eq!(end.last_lines, ["about to give up"]);
    wait_until("gone is written", || {
        stage.sync.calls().iter().any(|call| call.starts_with("gone 0"))
    })
    .await;
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_stop_ends_instances_gracefully_and_collects_what_is_there() {
    let stage = Stage::new(Lease::DEFAULT, |id| {
        let rest = if id.0 == 0 { Step::AwaitTermination } else { Step::Hang };
        vec![Step::Write("half".to_owned(), "half".to_owned()), rest]
    })
    .await;
    stage.sync.waits_in("ready");
    let assignment = stage.running(2).await;
    let stop = Want::Stop { reason: "canceled by alice".to_owned(), outcome: Outcome::Canceled };
    stage.want(1, &[(&assignment, stop)]).await;
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    for end in stage.ends().values() {
        assert_eq!(end.outcome, Outcome::Canceled);
        let text = "canceled by alice; waited in barrier `ready` (1 of 2), missing: instances 1";
        assert_eq!(end.reason, text);
    }
    let deeds = |id| stage.runtime.deeds_to(InstanceId(id));
    assert_eq!(deeds(0), [Deed::Created, Deed::Started, Deed::Terminated]);
    assert_eq!(deeds(1), [Deed::Created, Deed::Started, Deed::Terminated, Deed::Killed]);
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_kill_before_the_start_ends_what_never_ran() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let assignment = stage.assignment(2);
    stage.want(1, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| *event == ShareEvent::Prepared).await;
    let kill = Want::Kill { reason: "canceled".to_owned(), outcome: Outcome::Canceled };
    stage.want(1, &[(&assignment, kill)]).await;
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    let ends = stage.ends();
    assert_eq!(ends.len(), 2);
    assert!(ends.values().all(|end| end.outcome == Outcome::Canceled && end.exit.is_none()));
    stage.clean(&assignment).await;
    assert!(stage.runtime.deeds().iter().all(|(_, deed)| *deed != Deed::Started));
}

#[tokio::test]
async fn a_network_configuration_is_carried_out_in_order_and_one_that_cannot_be_breaks_the_run() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let assignment = stage.running(1).await;
    let config = |callback_state: &str, last: u8| NetworkConfig {
        enable: true,
        ipv4: Some(Ipv4Addr::new(16, 0, 1, last)),
        default: groundswell_common::link::LinkShape::default(),
        rules: Vec::new(),
        callback_state: callback_state.to_owned(),
        routing_policy: groundswell_common::link::RoutingPolicy::DenyAll,
    };
    let instance = InstanceId(0);
    for (state, last) in [("one", 7), ("two", 8), ("refused", 0)] {
        let config = Ok(config(state, last));
        stage.sync.tell(SyncEvent::Network { instance, config }).await;
    }
    let broken = stage.reported(|event| matches!(event, ShareEvent::Broken { .. })).await;
    let ShareEvent::Broken { reason, fault_of_plan } = broken else { unreachable!("waited for") };
    assert!(fault_of_plan && reason.contains("16.0.1.0 is not an address"), "{reason}");
    let link = |last| {
        Deed::Linked(LinkState { up: true, address: Ipv4Addr::new(16, 0, 1, last), prefix: 16 })
    };
    assert_eq!(stage.runtime.deeds_to(instance), [Deed::Created, Deed::Started, link(7), link(8)]);
    assert_eq!(stage.sync.calls(), ["network_ready 0", "configured 0 one", "configured 0 two"]);
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_the_plans_fault() {
    let stage = Stage::new(Lease::DEFAULT, |_| Vec::new()).await;
    let mut assignment = stage.assignment(2);
    assignment.groups[0].image.command = vec!["absent".to_owned()];
    stage.want(1, &[(&assignment, Want::Run)]).await;
    let failed = stage.reported(|event| matches!(event, ShareEvent::PrepareFailed { .. })).await;
    let reason = "there is no command `absent`".to_owned();
    assert_eq!(failed, ShareEvent::PrepareFailed { reason, fault_of_plan: true });
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_worker_that_nobody_answers_kills_its_instances_and_tells_later() {
    let stage = Stage::new(Lease::DEFAULT.faster(20), |_| vec![Step::Hang]).await;
    let assignment = stage.running(2).await;
    stage.coordinator.answers.store(false, Ordering::SeqCst);
    wait_until("both are killed", || {
        let killed = |(_, deed): &&(InstanceId, Deed)| *deed == Deed::Killed;
        stage.runtime.deeds().iter().filter(killed).count() == 2
    })
    .await;
    stage.coordinator.answers.store(true, Ordering::SeqCst);
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    assert!(stage.ends().values().all(|end| end.outcome == Outcome::Lost));
    stage.reported(|event| matches!(event, ShareEvent::Warning { .. })).await;
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_former_leader_is_not_obeyed_and_a_lost_report_comes_again() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    stage.coordinator.drops_reports.store(2, Ordering::SeqCst);
    let assignment = stage.assignment(1);
    stage.want(5, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| *event == ShareEvent::Prepared).await;
    stage.want(4, &[]).await;
    let late = stage.assignment(1);
    stage.want(5, &[(&assignment, Want::Run), (&late, Want::Run)]).await;
    wait_until("the other share is prepared", || {
        stage.milestones().iter().filter(|name| **name == "prepared").count() == 2
    })
    .await;
    assert!(!stage.milestones().contains(&"cleaned"));
    stage.leave().await;
}

#[tokio::test]
async fn a_worker_that_leaves_ends_collects_and_cleans_what_it_has() {
    let stage = Stage::new(Lease::DEFAULT, |_| {
        vec![Step::AwaitTermination, Step::Publish(LifecycleEvent::Failure("signal".to_owned()))]
    })
    .await;
    stage.running(3).await;
    let coordinator = Arc::clone(&stage.coordinator);
    stage.leave().await;
    let ends = coordinator.ends();
    assert_eq!(ends.len(), 3);
    assert!(ends.values().all(|end| end.outcome == Outcome::Aborted), "{ends:?}");
    assert_eq!(coordinator.milestones(), ["prepared", "started", "collected", "cleaned"]);
}

#[tokio::test]
async fn an_attempt_that_was_started_in_an_earlier_life_is_lost_and_never_started_again() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let assignment = stage.assignment(1);
    let marker = stage.state_dir().join(format!("started/{}.1", assignment.run));
    std::fs::write(&marker, "").expect("written");
    stage.want(1, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| matches!(event, ShareEvent::Broken { fault_of_plan: false, .. })).await;
    assert_eq!(stage.ends()[&InstanceId(0)].outcome, Outcome::Lost);
    stage.clean(&assignment).await;
    assert_eq!(stage.runtime.deeds(), []);
    assert!(!marker.exists());
}

// The stage: a server, a coordinator of a few lines, and the worker.

struct Stage {
    // Declared first, so that the worker's ends go before the server.
    shutdown: CancellationToken,
    ended: watch::Receiver<Option<String>>,
    runtime: FakeRuntime,
    sync: FakeSync,
    coordinator: Arc<Coordinator>,
    objects: Objects,
    worker: WorkerId,
    bus: Bus,
    dir: tempfile::TempDir,
    _server: NatsServer,
    _tasks: tokio::task::JoinSet<()>,
}

impl Stage {
    async fn new(
        lease: Lease,
        script: impl Fn(InstanceId) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let server = NatsServer::start(&dir.path().join("nats")).await.expect("a nats-server");
        let config = BusConfig { url: server.url(), credentials: None, name: "test".to_owned() };
        let bus = Bus::connect(&config).await.expect("connected");
        bus.jetstream().create_stream(assignments()).await.expect("the stream");
        let worker: WorkerId = "w1".parse().expect("an id");
        let mut tasks = tokio::task::JoinSet::new();
        let coordinator = Arc::new(Coordinator::new(lease));
        let subscription = bus.client().subscribe("gs.v1.*.w1").await.expect("subscribed");
        bus.client().flush().await.expect("flushed");
        tasks.spawn(Arc::clone(&coordinator).serve(bus.clone(), subscription));

        let sync = FakeSync::default();
        let publish = sync.clone();
        let runtime = FakeRuntime::new(script, move |instance, event| {
            publish.tell_now(SyncEvent::Said { instance, event });
        });
        let url = format!("file://{}", dir.path().join("objects").display());
        let objects_config = ObjectsConfig { url, ..ObjectsConfig::default() };
        let objects = Objects::open(&objects_config).expect("a store");
        let config = WorkerConfig {
            id: worker.clone(),
            bus: config,
            objects: objects_config,
            state_dir: dir.path().join("state"),
            slots: Some(10),
            runtimes: Vec::new(),
            labels: BTreeMap::new(),
            spawner: None,
        };
        let parts = Parts {
            runtimes: vec![Arc::new(runtime.clone())],
            notes: Vec::new(),
            network: Arc::new(FakeNetwork),
            sync: Arc::new(sync.clone()),
            metrics: Arc::new(NoMetrics),
            env: |_: &Assignment, _: InstancePlace| BTreeMap::new(),
        };
        let shutdown = CancellationToken::new();
        let (done, ended) = watch::channel(None);
        let stop = shutdown.clone();
        tasks.spawn(async move {
            let result = agent::run_with(config, parts, stop).await;
            done.send_replace(Some(result.map_or_else(|err| err.to_string(), |()| String::new())));
        });
        let stage = Self {
            shutdown,
            ended,
            runtime,
            sync,
            coordinator,
            objects,
            worker,
            bus,
            dir,
            _server: server,
            _tasks: tasks,
        };
        wait_until("the worker registers", || stage.coordinator.registered()).await;
        stage
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn assignment(&self, count: u32) -> Assignment {
        Assignment {
            run: RunId::new(1_700_000_000),
            attempt: Attempt::FIRST,
            plan: "plan".to_owned(),
            case: "case".to_owned(),
            runtime: RuntimeKind::Netns,
            total_instances: count,
            subnet: "16.0.0.0/16".parse().expect("a subnet"),
            start_time: "2026-11-22T10:00:00Z".to_owned(),
            disable_metrics: true,
            seed: 1,
            groups: vec![GroupSpec {
                id: "all".to_owned(),
                instances: count,
                image: ImageRef {
                    kind: ImageKind::Bundle,
                    digest: "sha256:00".to_owned(),
                    size: 0,
                    command: Vec::new(),
                    workdir: String::new(),
                    env: BTreeMap::new(),
                },
                params: BTreeMap::new(),
                profiles: BTreeMap::new(),
                env: BTreeMap::new(),
                resources: Resources::default(),
            }],
            share: vec![InstanceRange { group: 0, first: InstanceId(0), first_in_group: 0, count }],
            workers: vec![self.worker.clone()],
            options: RunOptions::default(),
            limits: Limits { stop_grace: Duration::from_millis(300), ..Limits::default() },
            trace: BTreeMap::new(),
        }
    }

    async fn want(&self, term: u64, shares: &[(&Assignment, Want)]) {
        let shares = shares
            .iter()
            .map(|(assignment, want)| DesiredShare {
                assignment: (*assignment).clone(),
                want: want.clone(),
            })
            .collect();
        let message = encode(&Desired { term, shares });
        let subject = subjects::assign(&self.worker);
        let ack = self.bus.jetstream().publish(subject, message).await.expect("published");
        let sequence = ack.await.expect("stored").sequence;
        self.coordinator.desired.store(sequence, Ordering::SeqCst);
    }

    /// A share of `count` instances that has been started.
    async fn running(&self, count: u32) -> Assignment {
        let assignment = self.assignment(count);
        self.want(1, &[(&assignment, Want::Run)]).await;
        self.reported(|event| *event == ShareEvent::Prepared).await;
        self.sync.tell(SyncEvent::Started).await;
        self.reported(|event| *event == ShareEvent::Started).await;
        assignment
    }

    async fn reported(&self, wanted: impl Fn(&ShareEvent) -> bool) -> ShareEvent {
        let mut events = self.coordinator.events.subscribe();
        let found = timeout(LIMIT, events.wait_for(|events| events.iter().any(&wanted))).await;
        match found {
            Ok(Ok(events)) => events.iter().find(|event| wanted(event)).expect("found").clone(),
            Ok(Err(_)) | Err(_) => panic!("only this was reported: {:?}", self.coordinator.told()),
        }
    }

    fn ends(&self) -> BTreeMap<InstanceId, InstanceEnd> {
        self.coordinator.ends()
    }

    fn milestones(&self) -> Vec<&'static str> {
        self.coordinator.milestones()
    }

    /// Takes the share off the list, waits for its last trace to go, and lets the worker leave.
    async fn clean(&self, assignment: &Assignment) {
        self.want(1, &[]).await;
        self.reported(|event| *event == ShareEvent::Cleaned).await;
        let spool = self.state_dir().join("spool").join(assignment.run.as_str()).join("1");
        assert!(!spool.exists());
        self.leave().await;
    }

    async fn leave(&self) {
        self.shutdown.cancel();
        let mut ended = self.ended.clone();
        let left = timeout(LIMIT, ended.wait_for(Option::is_some)).await;
        let left = left.expect("it leaves in time").expect("it tells").clone();
        assert_eq!(left.as_deref(), Some(""), "it leaves in good order");
    }
}

fn assignments() -> stream::Config {
    stream::Config {
        name: subjects::ASSIGN_STREAM.to_owned(),
        subjects: vec![subjects::ASSIGN_ALL.to_owned()],
        max_messages_per_subject: 1,
        allow_direct: true,
        republish: Some(stream::Republish {
            source: subjects::ASSIGN_ALL.to_owned(),
            destination: subjects::ASSIGNED_ALL.to_owned(),
            headers_only: false,
        }),
        ..stream::Config::default()
    }
}

async fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LIMIT, waiting).await.is_ok(), "not in time: {what}");
}

struct Coordinator {
    lease: Lease,
    answers: AtomicBool,
    drops_reports: AtomicU64,
    desired: AtomicU64,
    registrations: Mutex<Vec<Registration>>,
    taken: AtomicU64,
    events: watch::Sender<Vec<ShareEvent>>,
}

impl Coordinator {
    fn new(lease: Lease) -> Self {
        Self {
            lease,
            answers: AtomicBool::new(true),
            drops_reports: AtomicU64::new(0),
            desired: AtomicU64::new(0),
            registrations: Mutex::default(),
            taken: AtomicU64::new(0),
            events: watch::Sender::default(),
        }
    }

    async fn serve(self: Arc<Self>, bus: Bus, mut requests: async_nats::Subscriber) {
        while let Some(request) = requests.next().await {
            if !self.answers.load(Ordering::SeqCst) {
                continue;
            }
            match request.subject.as_str() {
                "gs.v1.register.w1" => {
                    let registration = decode(&request.payload).expect("a registration");
                    self.registrations.lock().expect("not poisoned").push(registration);
                    let answer = Registered { epoch: Epoch(1), term: 1, lease: self.lease };
                    bus.reply(&request, &answer).await;
                }
                "gs.v1.heartbeat.w1" => {
                    let heartbeat: Heartbeat = decode(&request.payload).expect("a heartbeat");
                    assert_eq!(heartbeat.epoch, Epoch(1));
                    let desired = self.desired.load(Ordering::SeqCst);
                    let answer = HeartbeatReply { term: 1, desired, register: false };
                    bus.reply(&request, &answer).await;
                }
                "gs.v1.report.w1" => {
                    let report: Report = decode(&request.payload).expect("a report");
                    if self.take(report) {
                        let taken = self.taken.load(Ordering::SeqCst);
                        bus.reply(&request, &ReportReply { taken, fenced: false }).await;
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes a report in, once. Returns whether to answer.
    fn take(&self, report: Report) -> bool {
        if report.no == self.taken.load(Ordering::SeqCst) + 1 {
            self.taken.store(report.no, Ordering::SeqCst);
            let told = report.items.into_iter().map(|item| item.what);
            self.events.send_modify(|events| events.extend(told));
        }
        let less = |left: u64| left.checked_sub(1);
        self.drops_reports.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err()
    }

    fn registered(&self) -> bool {
        !self.registrations.lock().expect("not poisoned").is_empty()
    }

    fn told(&self) -> Vec<ShareEvent> {
        self.events.borrow().clone()
    }

    fn ends(&self) -> BTreeMap<InstanceId, InstanceEnd> {
        let mut ends = BTreeMap::new();
        for event in self.told() {
            if let ShareEvent::Ended { instances } = event {
                ends.extend(instances);
            }
        }
        ends
    }

    fn milestones(&self) -> Vec<&'static str> {
        let name = |event: &ShareEvent| match event {
            ShareEvent::Prepared => Some("prepared"),
            ShareEvent::Started => Some("started"),
            ShareEvent::Collected { .. } => Some("collected"),
            ShareEvent::CollectFailed { .. } => Some("collect failed"),
            ShareEvent::Cleaned => Some("cleaned"),
            ShareEvent::Broken { .. } => Some("broken"),
            ShareEvent::PrepareFailed { .. } => Some("prepare failed"),
            ShareEvent::Progress { .. }
            | ShareEvent::Said { .. }
            | ShareEvent::Ended { .. }
            | ShareEvent::Warning { .. } => None,
        };
        self.told().iter().filter_map(name).collect()
    }
}

/// A sync that says what the test wants and records what it is told.
#[derive(Clone, Default)]
struct FakeSync(Arc<SyncState>);

#[derive(Default)]
struct SyncState {
    events: Mutex<Option<mpsc::Sender<SyncEvent>>>,
    calls: Mutex<Vec<String>>,
    barrier: Mutex<Option<String>>,
}

impl FakeSync {
    fn sender(&self) -> mpsc::Sender<SyncEvent> {
        self.0.events.lock().expect("not poisoned").clone().expect("the sync is open")
    }

    async fn tell(&self, event: SyncEvent) {
        self.sender().send(event).await.expect("the supervisor listens");
    }

    fn tell_now(&self, event: SyncEvent) {
        self.sender().try_send(event).expect("there is room");
    }

    fn waits_in(&self, state: &str) {
        *self.0.barrier.lock().expect("not poisoned") = Some(state.to_owned());
    }

    fn calls(&self) -> Vec<String> {
        self.0.calls.lock().expect("not poisoned").clone()
    }

    fn call(&self, text: String) {
        self.0.calls.lock().expect("not poisoned").push(text);
    }
}

#[async_trait]
impl OpenSync for FakeSync {
    async fn open(&self, _: Bus, _: SyncSpec, _: &TaskTracker) -> anyhow::Result<Opened> {
        let (events, heard) = mpsc::channel(64);
        *self.0.events.lock().expect("not poisoned") = Some(events);
        Ok((Arc::new(self.clone()), heard))
    }
}

#[async_trait]
impl ShareSync for FakeSync {
    async fn serve(&self, _: InstanceId, _: String, _: OwnedFd) {}

    async fn network_ready(&self, instances: &[InstanceId]) {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        self.call(format!("network_ready {}", ids.join(" ")));
    }

    async fn configured(&self, instance: InstanceId, callback_state: &str) {
        self.call(format!("configured {instance} {callback_state}"));
    }

    async fn gone(&self, instances: Vec<(InstanceId, String)>) {
        for (instance, reason) in instances {
            self.call(format!("gone {instance} {reason}"));
        }
    }

    async fn close_instance(&self, _: InstanceId) {}

    async fn waiting(&self, _: InstanceId) -> Vec<Waiting> {
        let barrier = self.0.barrier.lock().expect("not poisoned").clone();
        let waiting = |state| Waiting {
            state,
            count: 1,
            target: 2,
            missing: vec![InstanceId(1)],
            missing_total: 1,
        };
        barrier.into_iter().map(waiting).collect()
    }

    async fn close(&self) {}
}

struct FakeNetwork;

#[async_trait]
impl Network for FakeNetwork {
    fn caps(&self) -> Caps {
        Caps {
            delay: true,
            bandwidth: true,
            impairment: true,
            rules: true,
            egress: false,
            workers: false,
        }
    }

    async fn open(&self, _: &RunId, _: ipnet::Ipv4Net, _: u64) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn attach(&self, _: Attachment) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn configure(
        &self,
        _: &RunId,
        _: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Vec<String>, NetworkError> {
        match config.ipv4 {
            Some(address) if address.octets()[3] == 0 => {
                Err(NetworkError::Refused(format!("{address} is not an address of an instance")))
            }
            Some(_) | None => Ok(Vec::new()),
        }
    }

    async fn address(&self, _: &RunId, _: InstanceId) -> Option<Ipv4Addr> {
        None
    }

    async fn close(&self, _: &RunId) {}
}

struct NoMetrics;

impl Metrics for NoMetrics {
    fn serve(&self, _: OwnedFd, _: MetricsSource, _: CancellationToken, _: &TaskTracker) {}
}
