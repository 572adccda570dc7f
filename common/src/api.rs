//! What the command line asks of a coordinator, by request and reply on `gs.v1.api.<call>`.
//!
//! | call | request | reply |
//! |---|---|---|
//! | `submit` | [`SubmitRequest`] | [`Answer`] of [`crate::run::RunStatus`] |
//! | `runs` | [`RunsRequest`] | [`Answer`] of a list of [`crate::run::RunStatus`], newest first |
//! | `run` | [`RunRequest`] | [`Answer`] of [`crate::run::RunStatus`] |
//! | `grid` | [`RunRequest`] | [`Answer`] of [`RunGrid`]; only of a run that goes on |
//! | `events` | [`EventsRequest`] | [`Answer`] of [`EventsPage`]; only of a run that goes on |
//! | `whoami` | `()` | [`Answer`] of [`WhoAmI`] |
//! | `cancel` | [`CancelRequest`] | [`Answer`] of [`crate::run::RunStatus`] |
//! | `queue` | `()` | [`Answer`] of a list of [`crate::queue::QueueEntry`], first in line first |
//! | `priority` | [`crate::queue::PriorityRequest`] | [`Answer`] of [`crate::run::RunStatus`] |
//! | `workers` | `()` | [`Answer`] of a list of [`WorkerStatus`] |
//! | `cordon` | [`CordonRequest`] | [`Answer`] of a list of [`WorkerStatus`], those it is about |
//! | `info` | `()` | [`Answer`] of [`ServiceInfo`] |
//! | `tokens` | `()` | [`Answer`] of a list of [`crate::token::TokenInfo`], oldest first |
//! | `token` | [`crate::token::TokenRequest`] | [`Answer`] of [`crate::token::TokenInfo`] |
//! | `revoke` | [`crate::token::TokenRevocation`] | [`Answer`] of [`crate::token::TokenInfo`] |
//!
//! A token goes in the header [`crate::token::TOKEN_HEADER`]; [`crate::token::Scope::of_call`] says what each call takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::builds::LockWish;
use crate::card::Card;
use crate::composition::network::Attachments;
use crate::ids::{RunId, WorkerId};
use crate::messages::{InstanceRange, RuntimeKind};
use crate::outcome::Outcome;
use crate::queue::QueueWish;
use crate::run::SourceInfo;
use crate::token::Scope;

/// The coordinator's answer to a call.
pub type Answer<T> = Result<T, Refusal>;

/// Why a call was refused. The text is for people and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of trouble.
    pub kind: RefusalKind,
    /// What is wrong, with the value.
    pub message: String,
    /// What to do; may be empty.
    #[serde(default)]
    pub help: String,
}

/// What kind of trouble a refusal is; it decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The composition or the request is wrong.
    Invalid,
    /// There is no such run, or more than one.
    NotFound,
    /// The token does not allow it, or there is none.
    Forbidden,
    /// It can never fit on this cluster.
    Unplaceable,
    /// The coordinator cannot at this moment.
    Unavailable,
}

/// Asks for one run of a composition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmitRequest {
    /// The composition after templating.
    pub composition: String,
    /// Its file name, for messages.
    pub composition_name: String,
    /// What the composition takes from other files.
    #[serde(default)]
    pub attachments: Attachments,
    /// The plan's `manifest.toml`.
    pub manifest: String,
    /// Digest of the blob with the plan's source: a zstd-compressed tar with `plan/` and, for each extra
    /// source directory, `extra/<name>/`. `plan/` is the plan directory as the user has it.
    pub source: String,
    /// Which of the composition's runs.
    pub run: String,
    /// Runtime that wins over the composition's runner.
    #[serde(default)]
    pub runtime: Option<RuntimeKind>,
    /// Seed of everything drawn by chance; absent draws one.
    #[serde(default)]
    pub seed: Option<u64>,
    /// How long the run may take from its start; absent is ten minutes.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// Who submits.
    #[serde(default)]
    pub user: String,
    /// Where everything comes from.
    #[serde(default)]
    pub source_info: SourceInfo,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Build again even when the cache has the image.
    #[serde(default)]
    pub no_cache: bool,
    /// What it says about the queue.
    #[serde(default)]
    pub queue: QueueWish,
    /// What it is to be built from, by a lock file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockWish>,
}

/// Asks for the newest runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsRequest {
    /// How many at most.
    pub limit: u32,
    /// Only runs that are older than this one.
    #[serde(default)]
    pub before: Option<RunId>,
}

/// Asks for one run. Any unique prefix of its id or name, or `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Which.
    pub selector: String,
}

/// Where each instance of a run is, told whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunGrid {
    /// The run.
    pub run: RunId,
    /// Milliseconds since it was submitted.
    pub at_ms: u64,
    /// The revision of the run's status at that moment.
    pub revision: u64,
    /// Groups in the order of the composition, with their numbers of instances.
    pub groups: Vec<(String, u32)>,
    /// Who has which instances; empty until it is placed.
    pub placement: Vec<(WorkerId, Vec<InstanceRange>)>,
    /// [`InstanceState::code`] of each instance, by its number in the run.
    pub states: Vec<u8>,
}

/// Where one instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// It has no place yet.
    Waiting,
    /// Its share is on a worker.
    Preparing,
    /// Every instance of its share is ready to be let go.
    Ready,
    /// It runs.
    Running,
    /// It has ended.
    Ended(Outcome),
}

impl InstanceState {
    /// The byte that stands for it in grids and replay files. 4 and 5 are for instances that the schedule has stopped
    /// for a while, which nobody tells yet.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Preparing => 1,
            Self::Ready => 2,
            Self::Running => 3,
            Self::Ended(Outcome::Success) => 6,
            Self::Ended(Outcome::Failure) => 7,
            Self::Ended(Outcome::TimedOut) => 8,
            Self::Ended(Outcome::Canceled) => 9,
            Self::Ended(Outcome::Aborted) => 10,
            Self::Ended(Outcome::Lost) => 11,
            Self::Ended(Outcome::Killed) => 12,
        }
    }
}

/// Asks for lines of the event log of a run that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// The run.
    pub run: RunId,
    /// The first line that is wanted, counted from 0; a negative one counts from the end.
    pub from: i64,
}

/// Lines of an event log, as many as fit into one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsPage {
    /// The number of the first line here.
    pub from: u64,
    /// How many lines the log has now.
    pub total: u64,
    /// Each a [`crate::run::RunEvent`] in JSON.
    pub lines: Vec<String>,
}

/// Whom a coordinator takes a caller for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// Whether calls without a token are refused.
    pub tokens_required: bool,
    /// Whom the token is for; absent without one.
    pub user: Option<String>,
    /// What the caller may do.
    pub scopes: Vec<Scope>,
}

/// Asks to end a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// Which.
    pub run: RunId,
    /// Without grace.
    pub kill: bool,
    /// Why.
    pub reason: String,
}

/// A worker as the coordinator knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The worker.
    pub worker: WorkerId,
    /// `ready`, `cordoned`, `draining`, `drained`, `silent` or `lost`.
    pub state: String,
    /// Its version.
    pub version: String,
    /// Room for instances.
    pub slots: u32,
    /// Slots in use.
    pub used: u32,
    /// Instances that exist on it.
    pub instances: u32,
    /// Runtimes that work there.
    pub runtimes: Vec<RuntimeKind>,
    /// What does not work there.
    pub notes: Vec<String>,
    /// Labels for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since it was last heard.
    pub heard_ms: u64,
    /// Who wants it to take nothing new: people, and the worker itself.
    #[serde(default)]
    pub cordons: Vec<Cordon>,
    /// The runs that have instances on it.
    #[serde(default)]
    pub runs: Vec<RunId>,
    /// What `worker bench` has measured on its host, if it was run there.
    #[serde(default)]
    pub card: Option<Card>,
}

/// Why a worker takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Who wants it; empty is the worker itself.
    pub by: String,
    /// Why; may be empty.
    pub reason: String,
    /// Since when, Unix milliseconds; 0 when nobody knows.
    pub since_ms: u64,
    /// It is to be emptied as well.
    #[serde(default)]
    pub drain: Option<Drain>,
}

/// How a worker is emptied: its runs end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// After how long those that are left are ended; absent is never. Counted by the coordinator that leads; the
    /// next one counts from the beginning.
    pub deadline: Option<Duration>,
}

/// Asks that workers take nothing new, or take runs again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CordonRequest {
    /// Which.
    pub workers: Vec<WorkerId>,
    /// What is to become of them.
    pub wish: CordonWish,
    /// Who asks.
    pub by: String,
    /// Why; empty keeps an earlier reason.
    #[serde(default)]
    pub reason: String,
}

/// What is to become of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CordonWish {
    /// It takes nothing new.
    Cordon,
    /// It takes nothing new, and is emptied.
    Drain(Drain),
    /// It takes runs again.
    Uncordon,
}

/// What a coordinator says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Groundswell's version.
    pub version: String,
    /// The object store it uses.
    pub objects: String,
    /// The nats-server's version.
    pub nats: String,
    /// Name of the coordinator that leads.
    #[serde(default)]
    pub name: String,
    /// Its process id.
    pub pid: u32,
}
