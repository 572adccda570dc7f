//! Stand-ins: a builder, sync logs, and workers that run nothing but say everything.

mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use groundswell_common::api::{Answer, Refusal, RefusalKind, RunRequest, SubmitRequest};
use groundswell_common::bus::{self, Bus, BusConfig};
use groundswell_common::ids::{Attempt, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{ImageKind, ImageRef, Limits, RunOptions, RuntimeKind};
use groundswell_common::nats_server::NatsServer;
use groundswell_common::objects::{Objects, ObjectsConfig};
use groundswell_common::on_lost::OnLost;
use groundswell_common::run::{RunEvent, RunPhase, RunStatus};
use groundswell_common::subjects;
use groundswell_common::timing::{Leadership, Lease};
use groundswell_coordinator::parts::{
    GroupOutline, GroupParts, Outline, Parts, Prepare, PrepareError, SyncLogError, SyncLogs,
};
use groundswell_coordinator::queue::Policy;
use groundswell_coordinator::service::{Service, ServiceConfig, ServiceHandle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
pub(crate) use worker::{Behavior, FakeWorker};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

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
        queue: Default::default(),
        lock: None,
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
            limits: Limits {
                run: request.timeout.unwrap_or(Limits::default().run),
                ..Limits::default()
            },
            seed: None,
            placement: Default::default(),
            priority: None,
            // The fake of a composition.
            on_lost: OnLost::parse(&request.composition).unwrap_or_default(),
            judging: Default::default(),
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
    ) -> Result<Vec<GroupParts>, PrepareError> {
        progress.send("compiling".to_owned()).await.expect("someone listens");
        if request.manifest == "does not build" {
            return Err(PrepareError::Plan { reason: "it does not build".to_owned() });
        }
        Ok(vec![image().into()])
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

    /// Whether the newest log has the start record.
    fn started(&self, run: &RunId) -> bool {
        let calls = self.calls(run);
        calls.iter().rev().take_while(|call| **call != "delete").any(|call| *call == "start")
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

    async fn mark_gone(
        &self,
        run: &RunId,
        _: Attempt,
        _: &[InstanceId],
        _: &str,
    ) -> Result<(), SyncLogError> {
        self.note(run, "mark gone")
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
    policy: Policy,
    statuses: async_nats::Subscriber,
    seen: BTreeMap<RunId, RunStatus>,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::start_with(Policy::default()).await
    }

    pub(crate) async fn start_with(policy: Policy) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let nats = NatsServer::start(&directory.path().join("nats")).await.expect("a server");
        let bus = connect(&nats.url()).await;
        let url = format!("file://{}", directory.path().join("objects").display());
        let objects = Objects::open(&ObjectsConfig { url, ..Default::default() }).expect("a store");
        let logs = Arc::new(FakeLogs::default());
        let config =
            ServiceConfig { policy: policy.clone(), ..config("first", &bus, &objects, &logs) };
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
            policy,
            statuses,
            seen: BTreeMap::new(),
        }
    }

    pub(crate) fn config(&self, name: &str) -> ServiceConfig {
        let policy = self.policy.clone();
        ServiceConfig { policy, ..config(name, &self.bus, &self.objects, &self.logs) }
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

    /// A stack without a service of its own.
    pub(crate) async fn bare() -> Self {
        let mut stack = Self::start().await;
        let service = stack.service.take().expect("started");
        timeout(LIMIT, service.stop()).await.expect("stopped in time");
        stack
    }

    /// Ends a stack without a service of its own.
    pub(crate) async fn stop_bare(self) {
        self.nats.stop().await.expect("stopped");
    }

    /// Starts one of several coordinators, on a thread and a connection of its own.
    pub(crate) fn candidate(&self, name: &str) -> Candidate {
        Candidate::start(name, &self.nats.url(), &self.objects, &self.logs)
    }

    /// The next event of a run that satisfies `what`.
    pub(crate) async fn event(
        &self,
        events: &mut async_nats::Subscriber,
        what: impl Fn(&RunEvent) -> bool,
    ) -> RunEvent {
        let watch = async {
            loop {
                let message = events.next().await.expect("the bus lives");
                let event: RunEvent = bus::decode(&message.payload).expect("an event");
                if what(&event) {
                    return event;
                }
            }
        };
        timeout(LIMIT, watch).await.expect("the event comes in time")
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

    /// The state of a run once it has a verdict, asked for again and again: nobody may have told it.
    pub(crate) async fn over(&self, run: &RunStatus) -> RunStatus {
        let ask = RunRequest { selector: run.run.to_string() };
        let watch = async {
            loop {
                // A coordinator that has just begun to listen may not be known to the server yet.
                match self.bus.request::<Answer<RunStatus>>(subjects::api("run"), &ask).await {
                    Ok(Ok(status)) if status.phase.is_over() => return status,
                    Ok(_) | Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(LIMIT, watch).await.expect("over in time")
    }

    pub(crate) async fn object(&self, key: &str) -> Vec<u8> {
        self.objects.get(key).await.expect("an answer").expect("an object").to_vec()
    }
}

/// One of several coordinators, which can end as if its process had been killed.
pub(crate) struct Candidate {
    runtime: Option<tokio::runtime::Runtime>,
    leads: watch::Receiver<bool>,
}

impl Candidate {
    fn start(name: &str, url: &str, objects: &Objects, logs: &Arc<FakeLogs>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (told, leads) = watch::channel(false);
        let (name, url) = (name.to_owned(), url.to_owned());
        let (objects, logs) = (objects.clone(), Arc::clone(logs));
        runtime.handle().spawn(async move {
            let bus = connect(&url).await;
            loop {
                let config =
                    ServiceConfig { standby: true, ..config(&name, &bus, &objects, &logs) };
                let service = Service::start(config, CancellationToken::new()).await;
                let service = service.expect("a service");
                told.send_replace(true);
                service.deposed().await;
                told.send_replace(false);
            }
        });
        Self { runtime: Some(runtime), leads }
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self) {
        let mut leads = self.leads.clone();
        timeout(LIMIT, leads.wait_for(|leads| *leads)).await.expect("in time").expect("lives");
    }

    pub(crate) fn leads_now(&self) -> bool {
        *self.leads.borrow()
    }

    /// Ends it between two instructions, with its connection.
    pub(crate) fn kill(mut self) {
        self.runtime.take().expect("lives").shutdown_background();
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn connect(url: &str) -> Bus {
    let config = BusConfig::open(url.to_owned(), "test");
    Bus::connect(&config).await.expect("connected")
}

fn config(name: &str, bus: &Bus, objects: &Objects, logs: &Arc<FakeLogs>) -> ServiceConfig {
    let parts = Parts { prepare: Arc::new(FakePrepare), sync_logs: Arc::clone(logs) as _ };
    ServiceConfig {
        lease: Lease::DEFAULT.faster(60),
        leadership: Leadership::DEFAULT.faster(10),
        // Longer than a heartbeat waits for an answer that a coordinator which has just ended does not give.
        no_room_patience: Duration::from_secs(5),
        retry_wait: Duration::from_millis(300),
        ..ServiceConfig::new(bus.clone(), objects.clone(), name.to_owned(), parts)
    }
}
