//! What shares have in common with the worker, their tasks with each other, and what is said between them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use groundswell_common::bus::Bus;
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{
    Assignment, InstancePlace, LogLines, ReportItem, RuntimeKind, ShareEvent, Want,
};
use groundswell_common::narrative::{Strike, TooMany};
use groundswell_common::network::DataPath;
use groundswell_common::objects::Objects;
use groundswell_common::outcome::Exit;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::adopt::Adoption;
use super::links::Change;
use super::load::Load;
use super::member::Order;
use super::nats::Nats;
use super::outside::{Outside, Way};
use super::probes::Probes;
use crate::datasets::{Datasets, Held};
use crate::events::EventLog;
use crate::images::Images;
use crate::network::Network;
use crate::parts::{Parts, ShareSync};
use crate::report::Reports;
use crate::rig::Rig;
use crate::runtime::{Instance, Runtime};
use crate::sync::{LifecycleEvent, SyncEvent, Waiting};

/// What all shares of a worker have in common.
pub(crate) struct Host {
    /// The worker.
    pub(crate) worker: WorkerId,
    /// The bus.
    pub(crate) bus: Bus,
    /// The object store.
    pub(crate) objects: Objects,
    /// The worker's directory.
    pub(crate) state_dir: PathBuf,
    /// Runtimes, network, sync.
    pub(crate) parts: Parts,
    /// Images on this host.
    pub(crate) images: Images,
    /// Datasets on this host.
    pub(crate) datasets: Datasets,
    /// What the coordinator is told.
    pub(crate) reports: Reports,
    /// Tasks that belong to no share.
    pub(crate) tasks: TaskTracker,
    /// Bounds what each runtime does at once.
    pub(crate) netns_turns: Arc<Semaphore>,
    /// As above.
    pub(crate) docker_turns: Arc<Semaphore>,
    /// Instances that exist.
    pub(crate) instances: AtomicU32,
    /// How the worker is doing.
    pub(crate) rig: Rig,
    /// Told when their number changes.
    pub(crate) counted: Notify,
}

impl Host {
    /// The turns of a runtime.
    pub(crate) fn turns(&self, kind: RuntimeKind) -> Arc<Semaphore> {
        Arc::clone(match kind {
            RuntimeKind::Netns => &self.netns_turns,
            RuntimeKind::Docker => &self.docker_turns,
        })
    }

    /// Counts instances that were made or removed.
    pub(crate) fn count(&self, change: i32) {
        let add = |now: u32| now.checked_add_signed(change);
        let _ = self.instances.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        self.counted.notify_one();
    }
}

/// What is wanted of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directive {
    /// What the coordinator wants.
    pub(crate) want: Want,
    /// Whether the share is still listed; one that is not is cleaned.
    pub(crate) listed: bool,
    /// Whether the worker leaves: the share cleans itself once it is collected.
    pub(crate) leaving: bool,
}

/// What the tasks of a share tell its supervisor.
pub(crate) enum Note {
    /// The sync is open.
    Opened { sync: Arc<dyn ShareSync>, events: mpsc::Receiver<SyncEvent> },
    /// What it is busy with.
    Doing(String),
    /// An instance is ready.
    Ready { id: InstanceId, orders: mpsc::Sender<Order>, instance: Arc<dyn Instance>, way: Way },
    /// An instance's connection to the sync was cut by a restart of the worker.
    Cut { id: InstanceId },
    /// Such an instance has connected again.
    Connected { id: InstanceId },
    /// An instance was let go, or could not be: why, and whether the plan is the cause.
    LetGo { id: InstanceId, failed: Option<(String, bool)> },
    /// The narrative has asked an instance to end: that it fails now says nothing.
    Ending { id: InstanceId },
    /// The narrative ends an instance for good, and why.
    Felled { id: InstanceId, reason: String },
    /// The narrative has started an instance again.
    Back { id: InstanceId },
    /// The barriers an instance waits in.
    Waiting { id: InstanceId, waiting: Vec<Waiting> },
    /// An instance printed an event, in a run where that counts.
    Printed { id: InstanceId, event: LifecycleEvent },
    /// An instance has more than it may have, and why that is so.
    Excess { id: InstanceId, reason: String },
    /// An instance is over; `exit` is absent for one that never ran.
    Over { id: InstanceId, exit: Option<Exit>, last_lines: Vec<String> },
    /// A network configuration does not hold.
    LinkFailed { id: InstanceId, reason: String, fault_of_plan: bool },
    /// A change of the schedule to ends of the data network; done once the token is dropped.
    Change { whom: Concerned, what: Change, done: TaskTrackerToken },
    /// A change of the network's schedule could not be carried out.
    ScheduleFailed(String),
    /// Something people should know.
    Warning(String),
}

/// Whom a change of the schedule concerns.
#[derive(Debug, Clone)]
pub(crate) enum Concerned {
    /// All instances of some classes.
    Classes(Vec<u16>),
    /// Some instances, in order.
    Instances(Vec<InstanceId>),
}

impl Concerned {
    /// Whether it concerns an instance.
    pub(super) fn contains(&self, place: InstancePlace) -> bool {
        match self {
            Self::Classes(classes) => classes.contains(&place.group),
            Self::Instances(instances) => instances.binary_search(&place.id).is_ok(),
        }
    }
}

/// What the tasks of a share have in common.
pub(crate) struct Context {
    pub(crate) host: Arc<Host>,
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) epoch: Epoch,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) spool: PathBuf,
    pub(crate) events: EventLog,
    pub(crate) live: mpsc::Sender<LogLines>,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) nats: Nats,
    /// The instances' tasks.
    pub(crate) members: TaskTracker,
    /// What serves the share's instances beside the sync, until `end`.
    pub(crate) servers: TaskTracker,
    /// Ends the servers.
    pub(crate) end: CancellationToken,
    /// Ask how the network treats instances.
    pub(crate) probes: Probes,
    /// Looks how the host is doing.
    pub(crate) load: Load,
    /// What instances reach outside, once that is known.
    pub(crate) outside: OnceLock<Outside>,
    /// Keeps its datasets on this host.
    pub(crate) datasets: OnceLock<Vec<Held>>,
    /// What happens to single instances of the run, or why that is too much.
    pub(crate) strikes: Result<Vec<Strike>, TooMany>,
    /// What an earlier life of the worker has left of the share, if it is gone on with.
    pub(crate) adoption: Option<Adoption>,
}

impl Context {
    pub(super) async fn tell(&self, note: Note) {
        // A supervisor that is gone has no use for news.
        let _ = self.notes.send(note).await;
    }

    /// The data network that carries the run's packets.
    pub(super) fn network(&self) -> &Arc<dyn Network> {
        match self.assignment.network.data_path {
            DataPath::Switch => &self.host.parts.network,
            DataPath::Kernel => &self.host.parts.kernel,
        }
    }

    pub(super) fn group(&self, place: InstancePlace) -> &str {
        self.assignment.groups.get(usize::from(place.group)).map_or("", |group| &group.id)
    }

    /// An instance's directory in the spool.
    pub(super) fn directory(&self, place: InstancePlace) -> PathBuf {
        let group = crate::reap::file_name(place.group, self.group(place));
        self.spool.join(group).join(place.in_group.to_string())
    }

    pub(super) fn report(&self, what: ShareEvent) {
        let run = self.assignment.run.clone();
        self.host.reports.push(ReportItem { run, attempt: self.assignment.attempt, what });
    }
}

/// Identifies a share.
pub(crate) fn key(assignment: &Assignment) -> (RunId, Attempt) {
    (assignment.run.clone(), assignment.attempt)
}
