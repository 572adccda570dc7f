//! What a run is about, what can happen to it, and what it wants done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use groundswell_common::ids::{Attempt, InstanceId, RunId, WorkerId};
use groundswell_common::kpi::{Judging, SeriesSet};
use groundswell_common::messages::{Limits, ShareEvent};
use groundswell_common::on_lost::OnLost;
use groundswell_common::run::SourceInfo;

use crate::placement;

/// The time, on the clock that decides and on the one people read.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub at: Instant,
    /// Unix milliseconds.
    pub unix_ms: u64,
}

/// What a run goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Time limits.
    pub limits: Limits,
    /// How long a run that could never fit waits for workers to come.
    pub no_room_patience: Duration,
    /// After a failure, how long silence may last before the run is stopped; absent is for ever.
    pub fail_fast: Option<Duration>,
    /// What becomes of it when instances are lost.
    pub on_lost: OnLost,
    /// How long after an infrastructure failure the second attempt begins; each further one waits twice as long.
    pub retry_wait: Duration,
}

/// What a run is about. Only the attempt ever changes.
#[derive(Debug, Clone)]
pub struct About {
    /// The run.
    pub run: RunId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The plan.
    pub plan: String,
    /// The case.
    pub case: String,
    /// Who submitted it.
    pub user: String,
    /// Where everything comes from.
    pub source: SourceInfo,
    /// Groups and their sizes.
    pub groups: Vec<(String, u32)>,
    /// What it goes by.
    pub rules: Rules,
    /// What it is judged by beside the ends of its instances.
    pub judging: Arc<Judging>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A builder says what it does.
    Building {
        /// One line.
        doing: String,
    },
    /// Every image is there.
    Built,
    /// There is an image that cannot be made.
    BuildFailed {
        /// Why.
        reason: String,
        /// Whether the plan is the cause.
        fault_of_plan: bool,
    },
    /// There is room for all instances.
    Placed {
        /// Who gets what.
        shares: Vec<placement::Share>,
    },
    /// There is no room at this moment.
    NoRoom {
        /// Why.
        reason: String,
        /// Whether it would fit when other runs are over.
        temporary: bool,
    },
    /// The sync log is there.
    LogReady {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// The sync log cannot be made.
    LogFailed {
        /// Of which attempt.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// The start record is in the log.
    StartAppended {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// The start record may not be in the log.
    StartFailed {
        /// Of which attempt.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// A worker told something about its share.
    Told {
        /// The worker.
        worker: WorkerId,
        /// What.
        what: ShareEvent,
    },
    /// The KPIs of a share that were too many for a message are read, or cannot be.
    KpisRead {
        /// The worker.
        worker: WorkerId,
        /// Of which attempt.
        attempt: Attempt,
        /// The series, or why they cannot be read.
        series: Result<SeriesSet, String>,
    },
    /// A worker has not been heard for a while.
    WorkerSilent {
        /// The worker.
        worker: WorkerId,
        /// For how long.
        silent: Duration,
    },
    /// A worker counts as gone, and what it ran with it.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Someone wants it to end.
    CancelRequested {
        /// Why.
        reason: String,
        /// Without grace.
        kill: bool,
    },
    /// There is something people should know before they trust it.
    Warned {
        /// What.
        text: String,
    },
    /// Something inside the coordinator keeps it from doing its part.
    Trouble {
        /// What.
        reason: String,
    },
    /// [`super::Run::deadline`] has passed.
    DeadlinePassed,
    /// Record and events are stored.
    Recorded,
    /// Record or events cannot be stored.
    RecordFailed {
        /// Why.
        reason: String,
    },
}

/// What to do. Every command may be carried out twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Build the images.
    Build,
    /// Stop building.
    CancelBuild,
    /// Find a place for all instances, now and whenever there is more room.
    Place,
    /// Make the sync log.
    CreateLog,
    /// Give each worker of the run its share with [`super::Run::want`]; without a wish, take it away.
    Assign,
    /// Append the start record.
    AppendStart,
    /// Remember the run in the control state.
    Remember,
    /// Store the record as it is.
    WriteRecord,
    /// Store events and record with [`super::Run::concluded`], and tell how that went.
    Conclude,
    /// Read the KPIs of a share from the object store.
    FetchKpis {
        /// Whose they are.
        worker: WorkerId,
        /// Of which attempt.
        attempt: Attempt,
        /// Where they are.
        key: String,
    },
    /// Tell in the sync log that instances are lost.
    MarkGone {
        /// Which.
        gone: Vec<InstanceId>,
        /// Why.
        reason: String,
    },
    /// Remove the sync log.
    DeleteLog {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// Forget what was decided for the attempt before: nothing of it is left on any worker.
    NextAttempt,
    /// Free its subnet: nothing of it is left anywhere.
    Forget,
    /// Add a line to the run's event log.
    Note {
        /// What kind of event.
        kind: &'static str,
        /// For people.
        text: String,
        /// Worker it is about.
        worker: Option<WorkerId>,
    },
}

/// A line about the run as a whole.
pub(super) fn note(kind: &'static str, text: &str) -> Command {
    Command::Note { kind, text: text.to_owned(), worker: None }
}
