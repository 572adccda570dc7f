//! A worker that speaks the protocol and has no instances.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use groundswell_common::bus::{self, Bus};
use groundswell_common::fidelity::{Histogram, LaneReport, NetworkReport};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::link::LinkShape;
use groundswell_common::messages::{
    Desired, Heartbeat, HeartbeatReply, Registered, Registration, Report, ReportItem, ReportReply,
    RuntimeKind, ShareEvent, Want,
};
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::run::RunEvent;
use groundswell_common::subjects;
use groundswell_common::timing::Lease;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::{FakeLogs, LIMIT, Stack};

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
            term: 0,
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
    attempt: u32,
    instances: Vec<InstanceId>,
    prepared: bool,
    started: bool,
    over: bool,
    /// What was told of its end.
    ended: Vec<ShareEvent>,
}

struct Wire {
    bus: Bus,
    logs: Arc<FakeLogs>,
    worker: WorkerId,
    boot: u64,
    behavior: Behavior,
    epoch: Epoch,
    term: u64,
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
            slots_per_run: None,
            overlay: None,
            card: None,
            kept: Vec::new(),
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
        self.hear_term(registered.term).await;
    }

    /// Tells a new leader everything again.
    async fn hear_term(&mut self, term: u64) {
        let before = self.term;
        self.term = term.max(before);
        if before == 0 || self.term == before {
            return;
        }
        let runs: Vec<RunId> = self.shares.keys().cloned().collect();
        for run in runs {
            let share = &self.shares[&run];
            let mut said = Vec::new();
            said.extend(share.prepared.then_some(ShareEvent::Prepared));
            said.extend(share.started.then_some(ShareEvent::Started));
            said.extend(share.ended.iter().cloned());
            said.push(ShareEvent::Retold);
            self.report(&run, said).await;
        }
    }

    async fn run(mut self, mut assigned: async_nats::Subscriber) {
        let mut beats = interval(self.lease.heartbeat);
        let mut starts = self.logs.changed.subscribe();
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat().await,
                Some(message) = assigned.next() => self.copy(&message).await,
                Ok(()) = starts.changed() => {}
            }
            if self.start_ready().await {
                return std::future::pending().await;
            }
        }
    }

    /// Takes in the copy of an assignment, unless it has read a later one already.
    async fn copy(&mut self, message: &async_nats::Message) {
        let headers = message.headers.as_ref().expect("a copy has headers");
        let sequence = headers.get("Nats-Sequence").expect("a sequence").as_str();
        let sequence = sequence.parse().expect("a number");
        if sequence > self.seen {
            self.seen = sequence;
            let desired: Desired = bus::decode(&message.payload).expect("readable");
            self.desired(desired).await;
        }
    }

    /// Says that it lives; when the coordinator names a newer desired state, that is read from the stream.
    async fn beat(&mut self) {
        let beat = Heartbeat {
            epoch: self.epoch,
            desired: self.seen,
            instances: 0,
            draining: false,
            shares: None,
            cordon: None,
        };
        let reply = self.bus.request(subjects::heartbeat(&self.worker), &beat).await;
        let Ok(reply): Result<HeartbeatReply, _> = reply else { return };
        if reply.register {
            self.register().await;
        }
        self.hear_term(reply.term).await;
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
            self.report(&run, vec![ShareEvent::Cleaned]).await;
            self.shares.remove(&run);
        }
        for share in desired.shares {
            let run = share.assignment.run.clone();
            let instances = share.assignment.instances().map(|place| place.id).collect();
            let known = self.shares.entry(run.clone()).or_default();
            known.instances = instances;
            known.attempt = share.assignment.attempt.0;
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
        self.shares.get_mut(run).expect("known").ended.clone_from(&items);
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
        let attempt = Attempt(self.shares[run].attempt);
        let items =
            items.into_iter().map(|what| ReportItem { run: run.clone(), attempt, what }).collect();
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
