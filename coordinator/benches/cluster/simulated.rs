//! A worker that runs nothing and says everything: it registers, beats, follows its assignments and its runs' logs
//! as a real one does, and reports its instances as ended as soon as the coordinator takes that in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use futures::stream::SelectAll;
use groundswell_common::bus::{self, Bus, BusConfig};
use groundswell_common::fidelity::{Histogram, LaneReport, NetworkReport};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::link::LinkShape;
use groundswell_common::messages::{
    Heartbeat, HeartbeatReply, InstanceRange, Registered, Registration, Report, ReportItem,
    ReportReply, RuntimeKind, ShareEvent, places,
};
use groundswell_common::outcome::{Exit, InstanceEnd, Outcome};
use groundswell_common::subjects;
use groundswell_common::sync::{self, Op};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

/// How many instances end between two reports.
const AT_ONCE: usize = 10;

type Key = (RunId, Attempt);

/// What all simulated workers have seen of the coordinator.
#[derive(Default)]
pub(crate) struct Answers {
    beats: AtomicU64,
    unanswered: AtomicU64,
    longest_us: AtomicU64,
    reports: AtomicU64,
}

impl Answers {
    /// Heartbeats that were answered and that were not, reports that were taken in, and the longest time any of them
    /// took, since the last call.
    pub(crate) fn take(&self) -> (u64, u64, u64, Duration) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let longest = Duration::from_micros(take(&self.longest_us));
        (take(&self.beats), take(&self.unanswered), take(&self.reports), longest)
    }

    fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(micros, Ordering::Relaxed);
    }
}

/// What a worker makes of its assignments. Real ones read more of it, on machines of their own.
#[derive(Deserialize)]
struct Told {
    term: u64,
    shares: Vec<ToldShare>,
}

#[derive(Deserialize)]
struct ToldShare {
    assignment: ToldAssignment,
}

#[derive(Deserialize)]
struct ToldAssignment {
    run: RunId,
    attempt: Attempt,
    share: Vec<InstanceRange>,
}

/// What a worker says of itself in its heartbeats.
#[derive(Clone, Default)]
struct Status {
    desired: u64,
    instances: u32,
    shares: Vec<Key>,
}

/// A worker that is registered.
pub(crate) struct Simulated {
    bus: Bus,
    worker: WorkerId,
    epoch: Epoch,
    answers: Arc<Answers>,
    /// The last assignments, by term and sequence.
    seen: (u64, u64),
    shares: BTreeMap<Key, Vec<InstanceId>>,
    status: watch::Sender<Status>,
    reports: u64,
}

impl Simulated {
    /// Connects and registers.
    pub(crate) async fn register(
        url: &str,
        number: u32,
        slots: u32,
        answers: Arc<Answers>,
    ) -> Result<(Self, Duration)> {
        let bus = Bus::connect(&BusConfig::open(url.to_owned(), "simulated")).await?;
        let worker = WorkerId::from_lossy(&format!("simulated-{number:04}"));
        let registration = registration(worker.clone(), slots);
        let registered: Registered = loop {
            match bus.request(subjects::register(&worker), &registration).await {
                Ok(registered) => break registered,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        let simulated = Self {
            bus,
            worker,
            epoch: registered.epoch,
            answers,
            seen: (0, 0),
            shares: BTreeMap::new(),
            status: watch::Sender::default(),
            reports: 0,
        };
        Ok((simulated, registered.lease.heartbeat))
    }

    /// Works until it is dropped. The first heartbeat is sent after `phase`.
    pub(crate) async fn work(mut self, heartbeat: Duration, phase: Duration) -> Result<()> {
        let mut copies = self.bus.client().subscribe(subjects::assigned(&self.worker)).await?;
        let (named, mut wanted) = watch::channel(0);
        let heart = Heart {
            bus: self.bus.clone(),
            worker: self.worker.clone(),
            epoch: self.epoch,
            answers: Arc::clone(&self.answers),
            status: self.status.subscribe(),
            named,
        };
        // Ends with this task.
        let mut beats = JoinSet::new();
        beats.spawn(heart.beat(heartbeat, phase));
        let mut logs: SelectAll<Subscriber> = SelectAll::new();
        loop {
            tokio::select! {
                Some(copy) = copies.next() => {
                    let sequence = copy.headers.as_ref().and_then(|all| all.get("Nats-Sequence"));
                    let sequence = sequence.context("a copy has a sequence")?.as_str().parse()?;
                    self.take(sequence, &copy.payload, &mut logs).await?;
                }
                Ok(()) = wanted.changed() => {
                    let wanted = *wanted.borrow_and_update();
                    if wanted > self.seen.1 {
                        self.read(&mut logs).await?;
                    }
                }
                Some(entry) = logs.next() => self.entry(&entry).await?,
            }
        }
    }

    /// Reads its assignments where they are kept: a copy was lost.
    async fn read(&mut self, logs: &mut SelectAll<Subscriber>) -> Result<()> {
        let stream = self.bus.jetstream().get_stream_no_info(subjects::ASSIGN_STREAM).await?;
        let kept = stream.direct_get_last_for_subject(subjects::assign(&self.worker)).await?;
        self.take(kept.sequence, &kept.payload, logs).await
    }

    async fn take(
        &mut self,
        sequence: u64,
        payload: &[u8],
        logs: &mut SelectAll<Subscriber>,
    ) -> Result<()> {
        let told: Told = bus::decode(payload)?;
        if (told.term, sequence) <= self.seen {
            return Ok(());
        }
        self.seen = (told.term, sequence);
        let told = told.shares.into_iter().map(|share| share.assignment);
        let mut told: BTreeMap<Key, Vec<InstanceRange>> =
            told.map(|one| ((one.run, one.attempt), one.share)).collect();
        let gone: Vec<Key> =
            self.shares.keys().filter(|key| !told.contains_key(*key)).cloned().collect();
        for key in gone {
            self.shares.remove(&key);
            self.tell_status();
            self.report(&key, vec![ShareEvent::Cleaned]).await?;
        }
        told.retain(|key, _| !self.shares.contains_key(key));
        for (key, ranges) in told {
            let instances = places(&ranges).map(|place| place.id).collect();
            self.shares.insert(key.clone(), instances);
            self.tell_status();
            // The server knows the subscription before it carries the report, which comes after it.
            let log = format!("{}.>", subjects::sync_republished(&key.0, key.1));
            logs.push(self.bus.client().subscribe(log).await?);
            let progress = ShareEvent::Progress { ready: 0, doing: "making instances".to_owned() };
            self.report(&key, vec![progress, ShareEvent::Prepared]).await?;
        }
        self.tell_status();
        Ok(())
    }

    /// What it says in its next heartbeat. The desired state it works on is the last one it has seen.
    fn tell_status(&self) {
        let instances = self.shares.values().map(Vec::len).sum::<usize>();
        self.status.send_replace(Status {
            desired: self.seen.1,
            instances: u32::try_from(instances).unwrap_or(u32::MAX),
            shares: self.shares.keys().cloned().collect(),
        });
    }

    /// Lets the instances of a run go when its log says so; each of them ends at once.
    async fn entry(&mut self, entry: &Message) -> Result<()> {
        let batch = sync::decode(&entry.payload)?;
        if !batch.ops.iter().any(|op| matches!(op, Op::Start { .. })) {
            return Ok(());
        }
        let words: Vec<&str> = entry.subject.split('.').collect();
        let run = words.get(3).context("a subject has a run")?;
        let found = self.shares.iter().find(|((of, _), _)| of.as_str() == *run);
        let Some((key, instances)) = found.map(|(key, all)| (key.clone(), all.clone())) else {
            return Ok(());
        };
        self.report(&key, vec![ShareEvent::Started]).await?;
        for some in instances.chunks(AT_ONCE) {
            self.report(&key, some.iter().flat_map(|instance| ends(*instance)).collect()).await?;
        }
        let index = format!("runs/{}/{}/{}/index.json", key.0, key.1, self.worker);
        let report = measured(instances.len());
        self.report(&key, vec![ShareEvent::Network { report }, ShareEvent::Collected { index }])
            .await
    }

    /// Sends a report until it is taken in.
    async fn report(&mut self, (run, attempt): &Key, told: Vec<ShareEvent>) -> Result<()> {
        self.reports += 1;
        let item = |what| ReportItem { run: run.clone(), attempt: *attempt, what };
        let items = told.into_iter().map(item).collect();
        let report = Report { epoch: self.epoch, no: self.reports, items };
        loop {
            let sent = Instant::now();
            let reply = self.bus.request(subjects::report(&self.worker), &report).await;
            self.answers.took(sent.elapsed());
            let reply: ReportReply = match reply {
                Ok(reply) => reply,
                Err(_) => {
                    self.answers.unanswered.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            ensure!(!reply.fenced, "worker {} was counted lost", self.worker);
            self.answers.reports.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
    }
}

/// The task that says that a worker is alive.
struct Heart {
    bus: Bus,
    worker: WorkerId,
    epoch: Epoch,
    answers: Arc<Answers>,
    status: watch::Receiver<Status>,
    /// The sequence that the coordinator names.
    named: watch::Sender<u64>,
}

impl Heart {
    async fn beat(self, heartbeat: Duration, phase: Duration) {
        let mut beats = interval_at(Instant::now() + phase, heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let Status { desired, instances, shares } = self.status.borrow().clone();
            let beat = Heartbeat {
                epoch: self.epoch,
                desired,
                instances,
                draining: false,
                shares: Some(shares),
                cordon: None,
            };
            let sent = Instant::now();
            let reply = self.bus.request(subjects::heartbeat(&self.worker), &beat).await;
            self.answers.took(sent.elapsed());
            let counter = match reply {
                Ok(HeartbeatReply { desired, .. }) => {
                    self.named.send_replace(desired);
                    &self.answers.beats
                }
                Err(_) => &self.answers.unanswered,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn registration(worker: WorkerId, slots: u32) -> Registration {
    Registration {
        worker,
        boot: rand::random(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots,
        cpu_cores: 64,
        memory_bytes: 256 << 30,
        runtimes: vec![RuntimeKind::Netns],
        notes: Vec::new(),
        labels: BTreeMap::new(),
        slots_per_run: None,
        overlay: "127.0.0.1:4790".parse().ok(),
        card: None,
        kept: Vec::new(),
    }
}

/// What is told of an instance that succeeds: that it said so, and that its process has ended.
fn ends(instance: InstanceId) -> [ShareEvent; 2] {
    let outcome = Outcome::Success;
    let exit = Some(Exit { code: Some(0), ..Exit::default() });
    let end = InstanceEnd { outcome, reason: String::new(), exit, last_lines: Vec::new() };
    [ShareEvent::Said { instance, outcome }, ShareEvent::Ended { instances: vec![(instance, end)] }]
}

/// What a worker measures whose instances have sent a packet each.
fn measured(packets: usize) -> NetworkReport {
    let mut late = Histogram::default();
    (0..packets).for_each(|number| late.record(10_000 + 1_000 * number as u64));
    let (shape, packets) = (Some(LinkShape::default()), packets as u64);
    let lanes = vec![LaneReport { shape, packets, late, ..LaneReport::default() }];
    NetworkReport { lanes, interface_drops: Some(0), ..NetworkReport::default() }
}
