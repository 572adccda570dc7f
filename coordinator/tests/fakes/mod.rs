//! Stand-ins: a builder, sync logs, and workers that run nothing but say everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use groundswell_common::api::{Answer, Refusal, RefusalKind, SubmitRequest};
use groundswell_common::bus::{self, Bus, BusConfig};
use groundswell_common::fidelity::{Histogram, LaneReport, NetworkReport};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::link::LinkShape;
use groundswell_common::messages::{
    Desired, Heartbeat, HeartbeatReply, ImageKind, ImageRef, Limits, Registered, Registration,
    Report, ReportItem, ReportReply, RunOptions, RuntimeKind, ShareEvent, Want,
};
use groundswell_common::nats_server::NatsServer;
use groundswell_common::objects::{Objects, ObjectsConfig};
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::run::{RunEvent, RunPhase, RunStatus};
use groundswell_common::subjects;
use groundswell_common::timing::Lease;
use groundswell_coordinator::parts::{
    GroupOutline, Outline, Parts, Prepare, PrepareError, SyncLogError, SyncLogs,
};
use groundswell_coordinator::service::{Service, ServiceConfig, ServiceHandle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);

/// The image of every group.
pub(crate) fn image() -> ImageRef {
    ImageRef {
        kind: ImageKind::Bundle,
        digest: "sha256:0".to_owned(),
        size: 1,
        command: vec!["run".to_owned()],
        workdir: String::new(),
        env: BTreeMap::new(),
    }
}

/// A request for a run of one group; the builder below reads the number from the run's name.
pub(crate) fn request(instances: u32) -> SubmitRequest {
    SubmitRequest {
        composition: "composition".to_owned(),
        composition_name: "composition.toml".to_owned(),
        attachments: Default::default(),
        manifest: String::new(),
        source: String::new(),
        run: instances.to_string(),
        runtime: None,
        seed: None,
        timeout: None,
        user: "me".to_owned(),
        source_info: Default::default(),
        labels: BTreeMap::new(),
        no_cache: false,
    }
}

struct FakePrepare;

#[async_trait]
impl Prepare for FakePrepare {
    fn outline(&self, request: &SubmitRequest) -> Result<Outline, Refusal> {
        if request.manifest == "wrong" {
            return Err(Refusal {
                kind: RefusalKind::Invalid,
                message: "unknown case".to_owned(),
                help: String::new(),
            });
        }
        let instances = request.run.parse().expect("a number");
        Ok(Outline {
            plan: "plan".to_owned(),
            case: "case".to_owned(),
            runtime: RuntimeKind::Netns,
            groups: vec![GroupOutline { id: "all".to_owned(), instances, ..Default::default() }],
            network: Default::default(),
            options: RunOptions::default(),
            limits: Limits::default(),
            seed: None,
            disable_metrics: false,
            warnings: vec![],
        })
    }

    async fn images(
        &self,
        request: &SubmitRequest,
        _run: &RunId,
        progress: mpsc::Sender<String>,
        _cancel: CancellationToken,
    ) -> Result<Vec<ImageRef>, PrepareError> {
        progress.send("compiling".to_owned()).await.expect("someone listens");
        if request.manifest == "does not build" {
            return Err(PrepareError::Plan { reason: "it does not build".to_owned() });
        }
        Ok(vec![image()])
    }
}

/// Sync logs that only remember what was asked of them.
#[derive(Default)]
pub(crate) struct FakeLogs {
    calls: Mutex<Vec<(RunId, &'static str)>>,
    changed: watch::Sender<()>,
}

impl FakeLogs {
    fn note(&self, run: &RunId, call: &'static str) -> Result<(), SyncLogError> {
        self.calls.lock().expect("not poisoned").push((run.clone(), call));
        self.changed.send_replace(());
        Ok(())
    }

    /// What was asked for a run, in order.
    pub(crate) fn calls(&self, run: &RunId) -> Vec<&'static str> {
        let calls = self.calls.lock().expect("not poisoned");
        calls.iter().filter(|(of, _)| of == run).map(|(_, call)| *call).collect()
    }

    fn started(&self, run: &RunId) -> bool {
        self.calls(run).contains(&"start")
    }
}

#[async_trait]
impl SyncLogs for FakeLogs {
    async fn create(&self, run: &RunId, _: Attempt, _: &[WorkerId]) -> Result<(), SyncLogError> {
        self.note(run, "create")
    }

    async fn start(&self, run: &RunId, _: Attempt, _: u64) -> Result<(), SyncLogError> {
        self.note(run, "start")
    }

    async fn delete(&self, run: &RunId, _: Attempt) -> Result<(), SyncLogError> {
        self.note(run, "delete")
    }
}

/// A nats-server, a service, and what a test needs to talk to it.
pub(crate) struct Stack {
    /// Removed with the stack.
    _directory: TempDir,
    nats: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) logs: Arc<FakeLogs>,
    objects: Objects,
    service: Option<ServiceHandle>,
    statuses: async_nats::Subscriber,
    seen: BTreeMap<RunId, RunStatus>,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let nats = NatsServer::start(&directory.path().join("nats")).await.expect("a server");
        let bus = connect(&nats.url()).await;
        let url = format!("file://{}", directory.path().join("objects").display());
        let objects = Objects::open(&ObjectsConfig { url, ..Default::default() }).expect("a store");
        let logs = Arc::new(FakeLogs::default());
        let config = config("first", &bus, &objects, &logs);
        let service = Service::start(config, CancellationToken::new()).await.expect("a service");
        let service = Some(service);
        let statuses = bus.client().subscribe("gs.v1.status.*").await.expect("subscribed");
        Self {
            _directory: directory,
            nats,
            bus,
            logs,
            objects,
            service,
            statuses,
            seen: BTreeMap::new(),
        }
    }

    pub(crate) fn config(&self, name: &str) -> ServiceConfig {
        config(name, &self.bus, &self.objects, &self.logs)
    }

    /// Ends the service and starts another one on the same bus.
    pub(crate) async fn restart(&mut self) {
        // The first one has to give up the lead before the second takes it.
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
        let started = Service::start(self.config("next"), CancellationToken::new()).await;
        self.service = Some(started.expect("a service"));
    }

    pub(crate) async fn stop(self) {
        let service = self.service.expect("started");
        timeout(LIMIT, service.stop()).await.expect("stopped in time");
        self.nats.stop().await.expect("stopped");
    }

    pub(crate) async fn workers(&self, behaviors: &[Behavior]) -> Vec<FakeWorker> {
        let mut workers = Vec::new();
        for (number, behavior) in behaviors.iter().enumerate() {
            workers.push(FakeWorker::start(self, number, *behavior).await);
        }
        workers
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: &str,
        request: &(impl Serialize + Sync),
    ) -> Answer<T> {
        self.bus.request::<Answer<T>>(subjects::api(call), request).await.expect("an answer")
    }

    pub(crate) async fn submit(&self, request: &SubmitRequest) -> Answer<RunStatus> {
        self.call("submit", request).await
    }

    /// The first status of a run, among those told so far and from now on, that satisfies `what`.
    pub(crate) async fn until(
        &mut self,
        run: &RunStatus,
        what: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus {
        let watch = async {
            loop {
                if let Some(status) = self.seen.get(&run.run).filter(|status| what(status)) {
                    return status.clone();
                }
                let message = self.statuses.next().await.expect("the bus lives");
                let status: RunStatus = bus::decode(&message.payload).expect("a status");
                self.seen.insert(status.run.clone(), status);
            }
        };
        let found = timeout(LIMIT, watch).await;
        found.unwrap_or_else(|_| panic!("never so: {:?}", self.seen.get(&run.run)))
    }

    pub(crate) async fn cleaned(&mut self, run: &RunStatus) -> RunStatus {
        self.until(run, |status| status.phase == RunPhase::Cleaned).await
    }

    pub(crate) async fn object(&self, key: &str) -> Vec<u8> {
        self.objects.get(key).await.expect("an answer").expect("an object").to_vec()
    }
}

async fn connect(url: &str) -> Bus {
    let config = BusConfig { url: url.to_owned(), credentials: None, name: "test".to_owned() };
    Bus::connect(&config).await.expect("connected")
}

fn config(name: &str, bus: &Bus, objects: &Objects, logs: &Arc<FakeLogs>) -> ServiceConfig {
    let parts = Parts { prepare: Arc::new(FakePrepare), sync_logs: Arc::clone(logs) as _ };
    ServiceConfig {
        lease: Lease::DEFAULT.faster(60),
        no_room_patience: Duration::from_secs(2),
        ..ServiceConfig::new(bus.clone(), objects.clone(), name.to_owned(), parts)
    }
}

/// What a worker measures whose instances have sent so many packets.
fn measured(packets: u64) -> NetworkReport {
    let mut late = Histogram::default();
    (0..packets).for_each(|_| late.record(20_000));
    let shape = Some(LinkShape::default());
    let lanes = vec![LaneReport { shape, packets, late, ..LaneReport::default() }];
    NetworkReport { lanes, interface_drops: Some(0), ..NetworkReport::default() }
}

/// What a fake worker does with its instances once they may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// All succeed.
    Succeed,
    /// The first of its instances fails.
    FailFirst,
    /// They run until they are stopped.
    Hang,
    /// They run, and the worker is never heard again.
    GoSilent,
}

/// A worker on the wire.
pub(crate) struct FakeWorker {
    tasks: JoinSet<()>,
    shares: watch::Receiver<usize>,
}

impl FakeWorker {
    /// Starts worker `w<number>` and waits until it is registered.
    pub(crate) async fn start(stack: &Stack, number: usize, behavior: Behavior) -> Self {
        let worker = WorkerId::from_lossy(&format!("w{number}"));
        let (told, shares) = watch::channel(0);
        let mut wire = Wire {
            bus: stack.bus.clone(),
            logs: Arc::clone(&stack.logs),
            boot: rand::random(),
            worker,
            behavior,
            epoch: Epoch(0),
            lease: Lease::DEFAULT,
            no: 0,
            seen: 0,
            shares: BTreeMap::new(),
            told,
        };
        let subject = subjects::assigned(&wire.worker);
        let assigned = wire.bus.client().subscribe(subject).await.expect("subscribed");
        wire.register().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(wire.run(assigned));
        Self { tasks, shares }
    }

    /// Waits until it is assigned nothing.
    pub(crate) async fn until_unassigned(&self) {
        let mut shares = self.shares.clone();
        timeout(LIMIT, shares.wait_for(|count| *count == 0))
            .await
            .expect("in time")
            .expect("lives");
    }

    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

#[derive(Default)]
struct FakeShare {
    instances: Vec<InstanceId>,
    prepared: bool,
    started: bool,
    over: bool,
}

struct Wire {
    bus: Bus,
    logs: Arc<FakeLogs>,
    worker: WorkerId,
    boot: u64,
    behavior: Behavior,
    epoch: Epoch,
    lease: Lease,
    no: u64,
    seen: u64,
    shares: BTreeMap<RunId, FakeShare>,
    told: watch::Sender<usize>,
}

impl Wire {
    async fn register(&mut self) {
        let registration = Registration {
            worker: self.worker.clone(),
            boot: self.boot,
            version: "0".to_owned(),
            slots: 10,
            cpu_cores: 1,
            memory_bytes: 1,
            runtimes: vec![RuntimeKind::Netns],
            notes: vec![],
            labels: BTreeMap::new(),
            overlay: None,
        };
        let registered: Registered = loop {
            match self.bus.request(subjects::register(&self.worker), &registration).await {
                Ok(registered) => break registered,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        if registered.epoch != self.epoch {
            self.no = 0;
        }
        self.epoch = registered.epoch;
        self.lease = registered.lease;
    }

    async fn run(mut self, mut assigned: async_nats::Subscriber) {
        let mut beats = interval(self.lease.heartbeat);
        let mut starts = self.logs.changed.subscribe();
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat().await,
                Some(message) = assigned.next() => {
                    let desired: Desired = bus::decode(&message.payload).expect("readable");
                    self.desired(desired).await;
                }
                Ok(()) = starts.changed() => {}
            }
            if self.start_ready().await {
                return std::future::pending().await;
            }
        }
    }

    /// Says that it lives; when the coordinator names a newer desired state, that is read from the stream.
    async fn beat(&mut self) {
        let beat =
            Heartbeat { epoch: self.epoch, desired: self.seen, instances: 0, draining: false };
        let reply = self.bus.request(subjects::heartbeat(&self.worker), &beat).await;
        let Ok(reply): Result<HeartbeatReply, _> = reply else { return };
        if reply.register {
            self.register().await;
        }
        if reply.desired > self.seen {
            self.seen = reply.desired;
            let stream = self.bus.jetstream().get_stream(subjects::ASSIGN_STREAM).await;
            let message = stream
                .expect("a stream")
                .direct_get_last_for_subject(subjects::assign(&self.worker))
                .await
                .expect("a message");
            let desired = bus::decode(&message.payload).expect("readable");
            self.desired(desired).await;
        }
    }

    async fn desired(&mut self, desired: Desired) {
        let runs: Vec<RunId> =
            desired.shares.iter().map(|share| share.assignment.run.clone()).collect();
        let gone: Vec<RunId> =
            self.shares.keys().filter(|run| !runs.contains(run)).cloned().collect();
        for run in gone {
            self.shares.remove(&run);
            self.report(&run, vec![ShareEvent::Cleaned]).await;
        }
        for share in desired.shares {
            let run = share.assignment.run.clone();
            let instances = share.assignment.instances().map(|place| place.id).collect();
            let known = self.shares.entry(run.clone()).or_default();
            known.instances = instances;
            if !known.prepared {
                known.prepared = true;
                self.report(&run, vec![ShareEvent::Prepared]).await;
            }
            match share.want {
                Want::Run => {}
                Want::Stop { outcome, reason } | Want::Kill { outcome, reason } => {
                    self.end(&run, outcome, &reason).await;
                }
            }
        }
        self.told.send_replace(self.shares.len());
    }

    /// Lets instances go whose run has started. Says whether the worker goes silent.
    async fn start_ready(&mut self) -> bool {
        let ready: Vec<RunId> = self
            .shares
            .iter()
            .filter(|(run, share)| share.prepared && !share.started && self.logs.started(run))
            .map(|(run, _)| run.clone())
            .collect();
        for run in ready {
            self.shares.get_mut(&run).expect("known").started = true;
            self.report(&run, vec![ShareEvent::Started]).await;
            self.tell_event(&run).await;
            match self.behavior {
                Behavior::Succeed => self.end(&run, Outcome::Success, "").await,
                Behavior::FailFirst => {
                    let first = self.shares[&run].instances[0];
                    let end = end(Outcome::Failure, "broken");
                    self.report(&run, vec![ShareEvent::Ended { instances: vec![(first, end)] }])
                        .await;
                    self.end(&run, Outcome::Success, "").await;
                }
                Behavior::Hang => {}
                Behavior::GoSilent => return true,
            }
        }
        false
    }

    async fn end(&mut self, run: &RunId, outcome: Outcome, reason: &str) {
        let share = self.shares.get_mut(run).expect("known");
        if std::mem::replace(&mut share.over, true) {
            return;
        }
        let instances =
            share.instances.iter().map(|id| (*id, end(outcome, reason))).collect::<Vec<_>>();
        let index = format!("runs/{run}/1/{}/index.json", self.worker);
        let report = measured(10);
        let items = vec![
            ShareEvent::Ended { instances },
            ShareEvent::Network { report },
            ShareEvent::Collected { index },
        ];
        self.report(run, items).await;
    }

    async fn tell_event(&self, run: &RunId) {
        let event = RunEvent {
            at_ms: 1,
            kind: "from_worker".to_owned(),
            text: "an event".to_owned(),
            worker: Some(self.worker.clone()),
            group: None,
            instance: None,
        };
        self.bus.publish(subjects::event(run), &event).await.expect("published");
    }

    /// Sends a report twice, as a worker does that has missed the first answer.
    async fn report(&mut self, run: &RunId, items: Vec<ShareEvent>) {
        self.no += 1;
        let items = items
            .into_iter()
            .map(|what| ReportItem { run: run.clone(), attempt: Attempt::FIRST, what })
            .collect();
        let report = Report { epoch: self.epoch, no: self.no, items };
        for _ in 0..2 {
            let reply = self.bus.request(subjects::report(&self.worker), &report).await;
            let _: Result<ReportReply, _> = reply;
        }
    }
}

fn end(outcome: Outcome, reason: &str) -> InstanceEnd {
    InstanceEnd { outcome, reason: reason.to_owned(), exit: None, last_lines: vec![] }
}
