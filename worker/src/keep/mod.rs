//! Keeps the host in order while the worker runs: its disks, its images, and what nothing explains any more.
//!
//! ```text
//! in   present   which shares are here, and which the coordinator has listed (watch)
//! out  cordon    why the worker takes nothing new (watch), to the heartbeat
//! out  endings   shares that have to end because the disk is full, to the agent
//! ```
//!
//! Network namespaces, their links and their rules have no names and go with their processes, so there is nothing
//! of them to sweep; what has a name is a container, a control group, a file or a directory.

pub(crate) mod disk;
pub(crate) mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, RunId};
use groundswell_common::messages::Assignment;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::heartbeat::Contact;
use crate::runtime::{Place, Runtime, Trace};
use crate::supervisor::Host;
pub use disk::Watermarks;
use disk::{Level, Usage, look, size, taken_by};
use sweep::Sweep;

/// How long an engine may take to say what containers have written.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// How long a share that was ended for the disk's sake may take to be gone before another one is ended.
const ENDING_LIMIT: Duration = Duration::from_secs(60);
/// Shares that may wait to be ended.
const ENDINGS: usize = 4;

/// How a worker keeps its host in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// When a disk counts as full; absent is never.
    pub disk: Option<Watermarks>,
    /// How much the images may take that no share uses; absent is as much as there is.
    pub images_keep_bytes: Option<u64>,
    /// How much datasets may take; absent is as much as there is.
    pub datasets_keep_bytes: Option<u64>,
    /// How often it looks.
    pub pace: Pace,
}

/// How often something is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The disks.
    pub disk: Duration,
    /// What nothing explains, and images.
    pub sweep: Duration,
    /// Two looks at a leftover are at least so far apart.
    pub apart: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            disk: Some(Watermarks::default()),
            images_keep_bytes: Some(20 << 30),
            datasets_keep_bytes: Some(50 << 30),
            pace: Pace::default(),
        }
    }
}

impl Upkeep {
    /// On one's own machine: how full its disk may be is its owner's business.
    #[must_use]
    pub fn local() -> Self {
        Self { disk: None, ..Self::default() }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            disk: Duration::from_secs(5),
            sweep: Duration::from_secs(60),
            apart: Duration::from_secs(30),
        }
    }
}

type Key = (RunId, Attempt);

/// The shares of this worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Present {
    /// Those the coordinator has listed; absent as long as nothing was read.
    pub(crate) listed: Option<BTreeSet<Key>>,
    /// Those that exist here.
    pub(crate) here: BTreeMap<Key, Arc<Assignment>>,
}

impl Present {
    fn explains(&self, run: &RunId, attempt: Attempt) -> bool {
        let key = (run.clone(), attempt);
        self.here.contains_key(&key) || self.listed.as_ref().is_none_or(|all| all.contains(&key))
    }

    /// Whether a share here is made from an image.
    fn uses(&self, digest: &str) -> bool {
        let mut groups = self.here.values().flat_map(|assignment| &assignment.groups);
        groups.any(|group| group.image.digest == digest)
    }
}

/// A share that has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Which.
    pub(crate) key: Key,
    /// Why, with the numbers.
    pub(crate) reason: String,
}

/// The agent's ends of the channels.
pub(crate) struct Line {
    /// What is here.
    pub(crate) present: watch::Sender<Present>,
    /// What has to end.
    pub(crate) endings: mpsc::Receiver<Ending>,
}

/// Starts the tasks; they end with `end`.
pub(crate) fn start(
    host: &Arc<Host>,
    upkeep: Upkeep,
    contact: watch::Receiver<Contact>,
    cordon: watch::Sender<Option<String>>,
    (tasks, end): (&TaskTracker, &CancellationToken),
) -> Line {
    let (present, present_out) = watch::channel(Present::default());
    let (endings_in, endings) = mpsc::channel(ENDINGS);
    if let Some(marks) = upkeep.disk {
        let keeper = DiskKeeper {
            host: Arc::clone(host),
            marks,
            present: present_out.clone(),
            cordon,
            endings: endings_in,
            levels: BTreeMap::new(),
            ending: None,
        };
        let (run, end) = (keeper.run(upkeep.pace.disk), end.clone());
        tasks.spawn(async move { end.run_until_cancelled(run).await });
    }
    let sweeper = Sweeper { host: Arc::clone(host), present: present_out, contact, upkeep };
    let (run, end) = (sweeper.run(), end.clone());
    tasks.spawn(async move { end.run_until_cancelled(run).await });
    Line { present, endings }
}

/// Looks at the disks.
struct DiskKeeper {
    host: Arc<Host>,
    marks: Watermarks,
    present: watch::Receiver<Present>,
    cordon: watch::Sender<Option<String>>,
    endings: mpsc::Sender<Ending>,
    /// Where each file system was, by the directory it is known by.
    levels: BTreeMap<PathBuf, Level>,
    /// The share that was ended last, and when.
    ending: Option<(Key, Instant)>,
}

impl DiskKeeper {
    async fn run(mut self, every: Duration) {
        let mut directories = vec![self.host.state_dir.clone()];
        for runtime in &self.host.parts.runtimes {
            directories.extend(runtime.directories().await);
        }
        let mut looks = interval(every);
        loop {
            looks.tick().await;
            let directories = directories.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || look(&directories)).await else {
                continue;
            };
            self.take(found).await;
        }
    }

    async fn take(&mut self, found: Vec<Usage>) {
        let mut fullest: Option<(Level, Usage)> = None;
        for usage in found {
            let before = self.levels.get(&usage.path).copied().unwrap_or_default();
            let level = self.marks.level(&usage, before);
            self.levels.insert(usage.path.clone(), level);
            if level != before {
                let (path, used) = (usage.path.display(), usage.used_pct());
                warn!(path = %path, used_pct = used, ?level, "a disk fills up or empties");
            }
            if fullest.as_ref().is_none_or(|(most, _)| level > *most) {
                fullest = Some((level, usage));
            }
        }
        let Some((level, usage)) = fullest else { return };
        if level >= Level::GiveUpImages {
            give_up_images(&self.host, &self.present, None, self.marks.excess(&usage)).await;
            // What is left to free is seen at the next look; a dataset that nobody holds can be fetched again.
            self.host.datasets.give_up(self.marks.excess(&usage)).await;
        }
        self.cordon.send_if_modified(|cordon| {
            let wanted = (level >= Level::TakeNothing).then(|| usage.to_string());
            let changed = cordon.is_some() != wanted.is_some();
            // The numbers of the moment it began say enough: they would change with each look.
            if changed {
                *cordon = wanted;
            }
            changed
        });
        if level == Level::EndShare {
            self.end_a_share(&usage).await;
        }
    }

    async fn end_a_share(&mut self, usage: &Usage) {
        let present = self.present.borrow().clone();
        let under_way = self.ending.as_ref().is_some_and(|(key, since)| {
            present.here.contains_key(key) && since.elapsed() < ENDING_LIMIT
        });
        if under_way {
            return;
        }
        let Some((key, bytes)) = self.wrote_most(&present).await else {
            warn!(usage = %usage, "a disk is full, and no share here has filled it");
            return;
        };
        let reason =
            format!("disk: {usage}; this run wrote most of what is on it, {}", size(bytes));
        warn!(run = %key.0, reason, "a share is ended");
        self.ending = Some((key.clone(), Instant::now()));
        let _ = self.endings.send(Ending { key, reason }).await;
    }

    /// The share that has written most, and how much.
    async fn wrote_most(&self, present: &Present) -> Option<(Key, u64)> {
        let mut written: BTreeMap<Key, u64> = BTreeMap::new();
        for runtime in &self.host.parts.runtimes {
            let asked = timeout(ASK_LIMIT, runtime.written(&self.host.worker)).await;
            for (key, bytes) in asked.unwrap_or_default() {
                *written.entry(key).or_default() += bytes;
            }
        }
        for (run, attempt) in present.here.keys() {
            let spool = crate::reap::spool(&self.host.state_dir, run, *attempt);
            let bytes = tokio::task::spawn_blocking(move || taken_by(&spool)).await.unwrap_or(0);
            *written.entry((run.clone(), *attempt)).or_default() += bytes;
        }
        written.retain(|key, _| present.here.contains_key(key));
        written.into_iter().max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes > 0)
    }
}

/// Makes room. `keep` is how much images may take, `excess` how much has to go in any case.
async fn give_up_images(
    host: &Host,
    present: &watch::Receiver<Present>,
    keep: Option<u64>,
    excess: u64,
) {
    let uses = |digest: &str| present.borrow().uses(digest);
    host.images.give_up(&host.parts.runtimes, uses, keep, excess).await;
}

/// Looks for what nothing explains.
struct Sweeper {
    host: Arc<Host>,
    present: watch::Receiver<Present>,
    contact: watch::Receiver<Contact>,
    upkeep: Upkeep,
}

impl Sweeper {
    async fn run(mut self) {
        let mut sweep = Sweep::default();
        // What is desired has to be known before anything counts as a leftover.
        if self.present.wait_for(|present| present.listed.is_some()).await.is_err() {
            return;
        }
        let mut looks = interval(self.upkeep.pace.sweep);
        loop {
            looks.tick().await;
            self.sweep(&mut sweep).await;
            if let Some(keep) = self.upkeep.images_keep_bytes {
                give_up_images(&self.host, &self.present, Some(keep), 0).await;
            }
            self.host.datasets.give_up(0).await;
        }
    }

    async fn sweep(&self, sweep: &mut Sweep) {
        // A worker that nobody answers knows what was desired, not what is.
        if *self.contact.borrow() != Contact::Good {
            return;
        }
        let Some(found) = self.found().await else { return };
        // After looking: what was begun meanwhile is explained.
        let present = self.present.borrow().clone();
        let explained = |run: &RunId, attempt| present.explains(run, attempt);
        let now = Instant::now().into_std();
        for trace in sweep.look(found, explained, now, self.upkeep.pace.apart) {
            info!(run = %trace.run, attempt = %trace.attempt, what = %trace.place, "removing a leftover");
            if let Err(err) = remove(&self.host.parts.runtimes, &trace).await {
                warn!(what = %trace.place, error = err, "a leftover stays");
            }
        }
    }

    /// Everything of this worker; absent when not everything could be looked at.
    async fn found(&self) -> Option<Vec<Trace>> {
        let state_dir = self.host.state_dir.clone();
        let mut found =
            tokio::task::spawn_blocking(move || sweep::traces_in(&state_dir)).await.ok()?;
        for runtime in &self.host.parts.runtimes {
            match runtime.traces(&self.host.worker).await {
                Ok(traces) => found.extend(traces),
                Err(err) => {
                    let name = runtime.kind().as_str();
                    warn!(runtime = name, error = %Chain(&err), "leftovers are not looked for");
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// Removes something of a run, with whichever runtime it belongs to.
pub(crate) async fn remove(runtimes: &[Arc<dyn Runtime>], trace: &Trace) -> Result<(), String> {
    for runtime in runtimes {
        runtime.remove_trace(trace).await.map_err(|err| Chain(&err).to_string())?;
    }
    let place = trace.place.clone();
    let there = |path: &PathBuf| path.exists();
    let left = match &place {
        Place::Directory(path) | Place::File(path) => there(path),
        Place::Container(_) | Place::ControlGroup(_) => false,
    };
    if !left {
        return Ok(());
    }
    let removed = tokio::task::spawn_blocking(move || sweep::remove(&place)).await;
    removed.map_err(|err| err.to_string())?.map_err(|err| err.to_string())
}
