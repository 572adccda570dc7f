//! The worker's own life: takes its directory, reaps leftovers, registers, keeps its desired state, drains.
//!
//! ```text
//! heartbeat  ──session, contact, desired──►  agent  ──directive──►  supervisor, one per share
//! desired    ──what should be─────────────►    │
//! keep       ──a share to end─────────────►    │
//! report     ◄──what happened──────────────────┴──────────────────  supervisors
//! ```
//!
//! The agent compares what should be with what is and closes the difference; a message that is lost or comes
//! twice changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, RunId};
use groundswell_common::messages::{Assignment, DesiredShare, ReportItem, ShareEvent, Want};
use groundswell_common::metrics::scrape::Exposed;
use groundswell_common::metrics::{Limits, Shipping};
use groundswell_common::objects::Objects;
use groundswell_common::outcome::Outcome;
use groundswell_common::timing::KILL_TIME;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clean;
use crate::config::WorkerConfig;
use crate::datasets::Datasets;
use crate::heartbeat::{self, Contact, Line, Session, Status};
use crate::images::Images;
use crate::keep::{self, Ending, Present};
use crate::keeper::{Keeper, KeeperError};
use crate::parts::Parts;
use crate::reap::{self, StateDir};
use crate::report::{self, Reports};
use crate::rig::{Rig, Watched};
use crate::supervisor::{self, Directive, Host};

mod addresses;
mod desired;
mod offer;

use desired::Seen;
pub use offer::memory_bytes;
pub(crate) use offer::slots;

/// How many instances of the `netns` runtime are made or started at once.
const NETNS_TURNS: usize = 64;
/// How many of the `docker` runtime.
const DOCKER_TURNS: usize = 16;
/// How long a worker that leaves goes on storing outputs.
const COLLECT_ON_LEAVING: Duration = Duration::from_secs(60);
/// How long it tries to tell the rest.
const LAST_WORDS: Duration = Duration::from_secs(5);

type Key = (RunId, Attempt);

/// Runs a worker out of what works on this host until `shutdown`, then drains it.
///
/// # Errors
/// When it cannot start, or did not drain in time.
pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Before the parts: a runtime cleans up after the one before it.
    let state = StateDir::take(&config.state_dir)?;
    clean::sign(&config.state_dir, &config.id);
    let shipping = Shipping::start(config.metrics.as_ref(), Limits::default())?;
    let parts = Parts::find_with(&config, keeper(&config).await).await?;
    let parts = parts.shipping(shipping.shipper());
    ensure!(
        !parts.runtimes.is_empty(),
        "no runtime works on this host, so it cannot run instances: {}",
        parts.notes.join("; ")
    );
    let ended = run_with(config, parts, shutdown).await;
    shipping.stop().await;
    drop(state);
    ended
}

/// Runs a worker out of `parts` until `shutdown`, then drains it. The caller holds the state
/// directory.
///
/// # Errors
/// When it cannot start, or did not drain in time.
pub async fn run_with(
    config: WorkerConfig,
    parts: Parts,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    allow_many_files();
    let objects = Objects::open(&config.objects)?;
    let bus = Bus::connect(&config.bus).await?;
    reap::make_directories(&config.state_dir)?;
    objects.probe(config.id.as_str()).await.context("the object store cannot be used")?;
    let kept = reap::reap(&parts, &config.id, &config.state_dir).await;

    let registration = offer::registration(&config, &parts, kept.clone());
    let rig = Rig::new(registration.slots);
    let exposed = expose(&rig, &config, &parts).await?;
    let tasks = TaskTracker::new();
    let end = CancellationToken::new();
    let reports = Reports::default();
    let (heart, line) = heartbeat::new(bus.clone(), registration);
    tasks.spawn(heart.run(end.clone()));
    tasks.spawn(report::run(
        bus.clone(),
        config.id.clone(),
        reports.clone(),
        line.session.clone(),
        Arc::clone(&line.again),
        end.clone(),
    ));
    let (desired_in, desired) = watch::channel(Seen::default());
    let follow = desired::follow(bus.clone(), config.id.clone(), line.desired.clone(), desired_in);
    let follow_end = end.clone();
    tasks.spawn(async move {
        let _ = follow_end.run_until_cancelled(follow).await;
    });

    if let Some(keeper) = parts.keeper.clone() {
        let (session, answered) = (line.session.clone(), line.answered.clone());
        let prolong_end = end.clone();
        tasks.spawn(async move {
            let _ = prolong_end.run_until_cancelled(prolong(keeper, session, answered)).await;
        });
    }

    let hear = addresses::follow(bus.clone(), config.id.clone(), Arc::clone(&parts.network));
    let hear_end = end.clone();
    tasks.spawn(async move {
        let _ = hear_end.run_until_cancelled(hear).await;
    });

    let host = Arc::new(Host {
        worker: config.id.clone(),
        images: Images::new(&config.state_dir, objects.clone()),
        datasets: Datasets::new(
            &config.state_dir,
            objects.clone(),
            config.upkeep.datasets_keep_bytes,
        ),
        bus,
        objects,
        state_dir: config.state_dir,
        parts,
        reports,
        tasks: tasks.clone(),
        netns_turns: Arc::new(Semaphore::new(NETNS_TURNS)),
        docker_turns: Arc::new(Semaphore::new(DOCKER_TURNS)),
        instances: AtomicU32::new(0),
        rig: rig.clone(),
        counted: Notify::new(),
    });
    if exposed.is_some() || host.parts.shipper.is_on() {
        tasks.spawn(rig.watch(Arc::clone(&host), Watched::of(&line), end.clone()));
    }
    let (contact, cordon) = (line.contact.clone(), line.cordon.clone());
    let keep = keep::start(&host, config.upkeep, contact, cordon, (&tasks, &end));
    let agent = Agent {
        host: Arc::clone(&host),
        line,
        keep,
        desired,
        shares: BTreeMap::new(),
        running: JoinSet::new(),
        draining: false,
        kept,
    };
    let drained = agent.run(&shutdown).await;

    end.cancel();
    tasks.close();
    let ended = timeout(LAST_WORDS, tasks.wait()).await.is_ok();
    if let Some(keeper) = &host.parts.keeper {
        keeper.end().await;
    }
    for err in reap_all(&host).await {
        warn!(error = err, "leftovers stay");
    }
    ensure!(drained && ended, "the worker did not drain in time");
    info!("worker left");
    Ok(())
}

/// Lets Prometheus ask, where that is wanted.
async fn expose(
    rig: &Rig,
    config: &WorkerConfig,
    parts: &Parts,
) -> anyhow::Result<Option<Exposed>> {
    let Some(address) = config.metrics_listen else { return Ok(None) };
    let registry = rig.registry(parts.shipper.clone());
    let exposed = Exposed::start(address, registry).await;
    exposed.map(Some).with_context(|| format!("failed to listen on `{address}` for metrics"))
}

/// The process with which instances live on when this one is killed. Without it they end with this one.
async fn keeper(config: &WorkerConfig) -> Option<Keeper> {
    if !config.adopt {
        return None;
    }
    let executable = config.spawner.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let attached = Keeper::attach(&config.state_dir, &executable).await;
    let warn = |err: &KeeperError| {
        warn!(error = %Chain(err), "instances end with this process, should it be killed");
    };
    attached.inspect_err(warn).ok()
}

/// Tells the keeper how long instances may go on without this worker: as long as it could itself, had it lost contact
/// with the coordinator when that has answered last.
async fn prolong(
    keeper: Keeper,
    session: watch::Receiver<Option<Session>>,
    mut answered: watch::Receiver<Option<std::time::Instant>>,
) {
    while answered.changed().await.is_ok() {
        let (lease, last) = (session.borrow().map(|one| one.lease), *answered.borrow_and_update());
        if let (Some(lease), Some(last)) = (lease, last) {
            let silent = Instant::now().into_std().saturating_duration_since(last);
            keeper.may_go_on_for(lease.hard_fence.saturating_sub(silent)).await;
        }
    }
}

/// An instance takes about ten descriptors; the usual limit is there for programs that use `select`.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(err) = raised {
        warn!(error = %err, "the limit on open files stays as it is");
    }
}

async fn reap_all(host: &Host) -> Vec<String> {
    let mut failed = Vec::new();
    for runtime in &host.parts.runtimes {
        failed.extend(runtime.reap(&host.worker).await.iter().map(ToString::to_string));
    }
    failed
}

struct Agent {
    host: Arc<Host>,
    line: Line,
    keep: keep::Line,
    desired: watch::Receiver<Seen>,
    shares: BTreeMap<Key, Share>,
    running: JoinSet<Key>,
    draining: bool,
    /// Shares that an earlier life has begun, until the coordinator has said what it wants.
    kept: Vec<Key>,
}

/// A share that exists here.
struct Share {
    directive: watch::Sender<Directive>,
    assignment: Arc<Assignment>,
    grace: Duration,
}

impl Agent {
    async fn run(mut self, shutdown: &CancellationToken) -> bool {
        let first = self.line.session.wait_for(Option::is_some);
        if !matches!(shutdown.run_until_cancelled(first).await, Some(Ok(_))) {
            return true;
        }
        self.reconcile();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // The fence comes before anything the coordinator wants.
                Ok(()) = self.line.contact.changed() => self.on_contact(),
                Some(ending) = self.keep.endings.recv() => self.on_ending(ending),
                Some(done) = self.running.join_next() => self.on_gone(done),
                Ok(()) = self.desired.changed() => self.reconcile(),
                () = self.host.counted.notified() => self.tell_status(),
            }
        }
        self.drain().await
    }

    /// Closes the difference between what should be and what is.
    fn reconcile(&mut self) {
        let seen = self.desired.borrow_and_update().clone();
        let listed: BTreeMap<Key, &DesiredShare> = seen
            .desired
            .shares
            .iter()
            .map(|share| (supervisor::key(&share.assignment), share))
            .collect();
        if seen.sequence > 0 {
            for (key, share) in &self.shares {
                let want = listed.get(key).map(|share| share.want.clone());
                share.direct(want);
            }
            for key in std::mem::take(&mut self.kept) {
                if !listed.contains_key(&key) {
                    self.discard(key);
                }
            }
        }
        for (key, share) in listed {
            self.begin(key, share);
        }
        self.tell_status();
    }

    /// Removes a share of an earlier life that is not wanted any more.
    fn discard(&self, key: Key) {
        let host = Arc::clone(&self.host);
        self.host.tasks.spawn(async move {
            reap::discard(&host.parts, &host.state_dir, &key).await;
        });
    }

    /// Begins a share that is not here yet, unless it has to wait for what is.
    fn begin(&mut self, key: Key, share: &DesiredShare) {
        let fenced = *self.line.contact.borrow() >= Contact::SoftFence;
        // The network belongs to a run: an attempt begins when the one before it is gone from here.
        let blocked = self.shares.keys().any(|(run, _)| *run == key.0);
        let gone = self.host.reports.is_gone(&key.0, key.1);
        if self.draining || fenced || blocked || gone {
            return;
        }
        let Some(Session { epoch, .. }) = *self.line.session.borrow() else { return };
        let directive =
            Directive { want: share.want.clone(), listed: true, leaving: self.draining };
        let (directive, wanted) = watch::channel(directive);
        let assignment = Arc::new(share.assignment.clone());
        let host = Arc::clone(&self.host);
        let grace = assignment.limits.stop_grace;
        let share = Share { directive, assignment: Arc::clone(&assignment), grace };
        self.shares.insert(key.clone(), share);
        // Before it asks for its images.
        self.tell_present();
        self.running.spawn(live(host, epoch, assignment, wanted, key));
    }

    fn on_gone(&mut self, done: Result<Key, tokio::task::JoinError>) {
        match done {
            Ok(key) => {
                self.shares.remove(&key);
            }
            Err(err) => {
                error!(error = %err, "a share's supervisor panicked");
                self.shares.retain(|_, share| !share.directive.is_closed());
            }
        }
        self.reconcile();
    }

    /// Ends a share for this host's sake.
    fn on_ending(&self, Ending { key: (run, attempt), reason }: Ending) {
        let Some(share) = self.shares.get(&(run.clone(), attempt)) else { return };
        let what = ShareEvent::Broken { reason: reason.clone(), fault_of_plan: false };
        self.host.reports.push(ReportItem { run, attempt, what });
        share.stop(Want::Kill { reason, outcome: Outcome::Aborted });
    }

    /// Tells what is here and what should be.
    fn tell_present(&self) {
        let here = |(key, share): (&Key, &Share)| (key.clone(), Arc::clone(&share.assignment));
        let here = self.shares.iter().map(here).collect();
        let seen = self.desired.borrow();
        let listed =
            || seen.desired.shares.iter().map(|s| supervisor::key(&s.assignment)).collect();
        let listed = (seen.sequence > 0).then(listed);
        self.keep.present.send_replace(Present { listed, here });
    }

    fn on_contact(&mut self) {
        let contact = *self.line.contact.borrow_and_update();
        match contact {
            Contact::Good => self.reconcile(),
            Contact::Warn => self.warn_all(),
            Contact::SoftFence => {}
            Contact::HardFence => self.kill_all(),
        }
    }

    fn warn_all(&self) {
        let text = format!("worker {} has lost contact with the coordinator", self.host.worker);
        for (run, attempt) in self.shares.keys() {
            let what = ShareEvent::Warning { text: text.clone() };
            self.host.reports.push(ReportItem { run: run.clone(), attempt: *attempt, what });
        }
    }

    /// Ends everything before the coordinator may count it lost and start it elsewhere.
    fn kill_all(&self) {
        warn!(shares = self.shares.len(), "nobody answers, killing all instances");
        for share in self.shares.values() {
            share.stop(Want::Kill {
                reason: "its worker lost contact with the coordinator".to_owned(),
                outcome: Outcome::Lost,
            });
        }
    }

    fn tell_status(&self) {
        self.tell_present();
        let desired = self.desired.borrow().sequence;
        let instances = self.host.instances.load(Ordering::Relaxed);
        let shares = self.shares.keys().cloned().collect();
        let status = Status { desired, instances, draining: self.draining, shares };
        self.line.status.send_replace(status);
    }

    /// Takes nothing new, ends what is there, stores it, and tells the rest. Returns whether all of that
    /// was done in time.
    async fn drain(mut self) -> bool {
        info!(shares = self.shares.len(), "worker is leaving");
        self.draining = true;
        self.tell_status();
        let mut grace = Duration::ZERO;
        for share in self.shares.values() {
            grace = grace.max(share.grace);
            share.directive.send_modify(|directive| directive.leaving = true);
            share.stop(Want::Stop {
                reason: "its worker is leaving".to_owned(),
                outcome: Outcome::Aborted,
            });
        }
        let limit = Instant::now() + grace + KILL_TIME + COLLECT_ON_LEAVING;
        let left = async { while self.running.join_next().await.is_some() {} };
        let drained = tokio::time::timeout_at(limit, left).await.is_ok();
        let told = async {
            while !self.host.reports.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(LAST_WORDS, told).await.is_err() {
            warn!("not everything could be told before leaving");
        }
        drained
    }
}

impl Share {
    /// Passes on what the coordinator wants; `None` when the share is not listed. A share that is being
    /// ended from here is not revived.
    fn direct(&self, want: Option<Want>) {
        self.directive.send_if_modified(|directive| {
            let before = directive.clone();
            match want {
                Some(Want::Run) => {}
                Some(want) => directive.want = want,
                None => directive.listed = false,
            }
            *directive != before
        });
    }

    fn stop(&self, want: Want) {
        self.directive.send_modify(|directive| directive.want = want);
    }
}

async fn live(
    host: Arc<Host>,
    epoch: Epoch,
    assignment: Arc<Assignment>,
    wanted: watch::Receiver<Directive>,
    key: Key,
) -> Key {
    supervisor::supervise(host, epoch, assignment, wanted).await;
    key
}
