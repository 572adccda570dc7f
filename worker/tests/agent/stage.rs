//! A server, a coordinator of a few lines, and the worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::LIMIT;
use crate::coordinator::Coordinator;
use crate::fakes::{FakeNetwork, FakeSync, NoMetrics};
use async_nats::jetstream::stream;
use groundswell_common::bus::{Bus, BusConfig, encode};
use groundswell_common::ids::{Attempt, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{
    Assignment, Desired, DesiredShare, GroupSpec, ImageKind, ImageRef, InstancePlace,
    InstanceRange, Limits, Resources, RunOptions, RuntimeKind, ShareEvent, Want,
};
use groundswell_common::metrics::Shipper;
use groundswell_common::nats_server::NatsServer;
use groundswell_common::network::NetworkPlan;
use groundswell_common::objects::{Objects, ObjectsConfig};
use groundswell_common::outcome::InstanceEnd;
use groundswell_common::subjects;
use groundswell_common::timing::Lease;
use groundswell_worker::agent;
use groundswell_worker::config::WorkerConfig;
use groundswell_worker::keep::Upkeep;
use groundswell_worker::parts::Parts;
use groundswell_worker::runtime::fake::{FakeRuntime, Step};
use groundswell_worker::sync::SyncEvent;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) struct Stage {
    // Declared first, so that the worker's ends go before the server.
    pub(crate) shutdown: CancellationToken,
    pub(crate) ended: watch::Receiver<Option<String>>,
    pub(crate) runtime: FakeRuntime,
    pub(crate) sync: FakeSync,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) objects: Objects,
    pub(crate) worker: WorkerId,
    pub(crate) bus: Bus,
    pub(crate) dir: tempfile::TempDir,
    _server: NatsServer,
    _tasks: tokio::task::JoinSet<()>,
}

impl Stage {
    pub(crate) async fn new(
        lease: Lease,
        script: impl Fn(InstanceId) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::start(lease, dir, Upkeep::local(), script).await
    }

    /// A worker that keeps its host in order in some way, with its directory in `dir`.
    pub(crate) async fn start(
        lease: Lease,
        dir: tempfile::TempDir,
        upkeep: Upkeep,
        script: impl Fn(InstanceId) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let server = NatsServer::start(&dir.path().join("nats")).await.expect("a nats-server");
        let config = BusConfig::open(server.url(), "test");
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
            slots_per_run: None,
            spawner: None,
            adopt: false,
            overlay_address: None,
            upkeep,
            metrics: None,
            metrics_listen: None,
        };
        let parts = Parts {
            runtimes: vec![Arc::new(runtime.clone())],
            notes: Vec::new(),
            network: Arc::new(FakeNetwork),
            kernel: Arc::new(FakeNetwork),
            servers: Arc::default(),
            sync: Arc::new(sync.clone()),
            metrics: Arc::new(NoMetrics),
            shipper: Shipper::off(),
            keeper: None,
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

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn assignment(&self, count: u32) -> Assignment {
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
                egress: Default::default(),
                datasets: Vec::new(),
            }],
            network: NetworkPlan::default(),
            share: vec![InstanceRange { group: 0, first: InstanceId(0), first_in_group: 0, count }],
            workers: vec![self.worker.clone()],
            peers: Vec::new(),
            network_key: 0,
            overlay_secret: None,
            options: RunOptions::default(),
            limits: Limits { stop_grace: Duration::from_millis(300), ..Limits::default() },
            source: Default::default(),
            trace: BTreeMap::new(),
        }
    }

    pub(crate) async fn want(&self, term: u64, shares: &[(&Assignment, Want)]) {
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
    pub(crate) async fn running(&self, count: u32) -> Assignment {
        self.running_as(self.assignment(count)).await
    }

    pub(crate) async fn running_as(&self, assignment: Assignment) -> Assignment {
        self.want(1, &[(&assignment, Want::Run)]).await;
        self.reported(|event| *event == ShareEvent::Prepared).await;
        self.sync.tell(SyncEvent::Started).await;
        self.reported(|event| *event == ShareEvent::Started).await;
        assignment
    }

    pub(crate) async fn reported(&self, wanted: impl Fn(&ShareEvent) -> bool) -> ShareEvent {
        let mut events = self.coordinator.events.subscribe();
        let found = timeout(LIMIT, events.wait_for(|events| events.iter().any(&wanted))).await;
        match found {
            Ok(Ok(events)) => events.iter().find(|event| wanted(event)).expect("found").clone(),
            Ok(Err(_)) | Err(_) => panic!("only this was reported: {:?}", self.coordinator.told()),
        }
    }

    pub(crate) fn ends(&self) -> BTreeMap<InstanceId, InstanceEnd> {
        self.coordinator.ends()
    }

    pub(crate) fn milestones(&self) -> Vec<&'static str> {
        self.coordinator.milestones()
    }

    /// Takes the share off the list, waits for its last trace to go, and lets the worker leave.
    pub(crate) async fn clean(&self, assignment: &Assignment) {
        self.want(1, &[]).await;
        self.reported(|event| *event == ShareEvent::Cleaned).await;
        let spool = self.state_dir().join("spool").join(assignment.run.as_str()).join("1");
        assert!(!spool.exists());
        self.leave().await;
    }

    pub(crate) async fn leave(&self) {
        self.shutdown.cancel();
        let mut ended = self.ended.clone();
        let left = timeout(LIMIT, ended.wait_for(Option::is_some)).await;
        let left = left.expect("it leaves in time").expect("it tells").clone();
        assert_eq!(left.as_deref(), Some(""), "it leaves in good order");
    }
}

pub(crate) fn assignments() -> stream::Config {
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

pub(crate) async fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LIMIT, waiting).await.is_ok(), "not in time: {what}");
}
