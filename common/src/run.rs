//! A run as people and programs see it: its phase, its progress, its record.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::egress::ExposedPort;
use crate::fidelity::{Fidelity, NetworkReport};
use crate::ids::{Attempt, InstanceId, RunId, WorkerId};
use crate::kpi::Judgement;
use crate::messages::{GroupSpec, InstanceRange, Limits, RunOptions, RuntimeKind};
use crate::network::NetworkPlan;
use crate::outcome::{InstanceEnd, Outcome};

/// Where a run is in its life.
///
/// ```text
/// submitted -> queued -> reserved -> preparing -> starting -> running -> collecting -> finished -> cleaned
///         `-> rejected                     (from anywhere before finished) `-> collecting with the cause
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// It is known.
    Submitted,
    /// It waits for room.
    Queued,
    /// Its images are built and its place is taken.
    Reserved,
    /// Workers make its instances.
    Preparing,
    /// All instances are ready and are being let go.
    Starting,
    /// Instances run.
    Running,
    /// Outputs are being stored.
    Collecting,
    /// It is over; see the verdict.
    Finished,
    /// It is over and nothing is left of it on any worker.
    Cleaned,
}

impl RunPhase {
    /// All of them, in their order.
    pub const ALL: [Self; 9] = [
        Self::Submitted,
        Self::Queued,
        Self::Reserved,
        Self::Preparing,
        Self::Starting,
        Self::Running,
        Self::Collecting,
        Self::Finished,
        Self::Cleaned,
    ];

    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Queued => "queued",
            Self::Reserved => "reserved",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Collecting => "collecting",
            Self::Finished => "finished",
            Self::Cleaned => "cleaned",
        }
    }

    /// Whether the verdict is known.
    #[must_use]
    pub fn is_over(self) -> bool {
        self >= Self::Finished
    }
}

impl fmt::Display for RunPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every instance succeeded and every output is stored.
    Passed,
    /// At least one instance failed, or an expectation is broken.
    Failed,
    /// It would have failed, and the machines were not fit to tell. Says nothing about the software under test.
    Inconclusive,
    /// Groundswell could not do its part. Never counted for or against the software under test.
    Infra,
    /// Its time was over.
    TimedOut,
    /// Someone canceled it.
    Canceled,
    /// It could never run: no such case, a build that fails.
    Rejected,
    /// It does not fit on the workers that are there, whatever else runs.
    Unplaceable,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Passed,
        Self::Failed,
        Self::Inconclusive,
        Self::Infra,
        Self::TimedOut,
        Self::Canceled,
        Self::Rejected,
        Self::Unplaceable,
    ];

    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
            Self::Infra => "infra",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Rejected => "rejected",
            Self::Unplaceable => "unplaceable",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many instances of a group are where. The last ones, from `success` on, add up to what has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupCounts {
    /// Instances the composition asks for.
    pub want: u32,
    /// Instances that are ready or further.
    pub ready: u32,
    /// Instances that run.
    pub running: u32,
    /// Ended with success.
    pub success: u32,
    /// Ended with failure.
    pub failure: u32,
    /// Ended by the run's time limit.
    pub timed_out: u32,
    /// Ended by a cancel.
    pub canceled: u32,
    /// Ended by Groundswell's own failure.
    pub aborted: u32,
    /// Lost with their worker.
    pub lost: u32,
    /// Killed for good by the run's schedule, as it should be.
    #[serde(skip_serializing_if = "is_zero")]
    pub killed: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like this")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl GroupCounts {
    /// Counts one instance that has ended.
    pub fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.success += 1,
            Outcome::Failure => self.failure += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Canceled => self.canceled += 1,
            Outcome::Aborted => self.aborted += 1,
            Outcome::Lost => self.lost += 1,
            Outcome::Killed => self.killed += 1,
        }
    }

    /// Instances that have ended as they should not have.
    #[must_use]
    pub fn bad(&self) -> u32 {
        self.ended() - self.success - self.killed
    }

    /// Instances that have ended.
    #[must_use]
    pub fn ended(&self) -> u32 {
        let by_us = self.timed_out + self.canceled + self.aborted + self.lost + self.killed;
        self.success + self.failure + by_us
    }
}

/// The state of a run, told whole at each change. Whoever attaches needs one of these and no history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// The run.
    pub run: RunId,
    /// Its two-word name.
    pub name: String,
    /// Counts the changes, so that an old message is recognised.
    pub revision: u64,
    /// The plan.
    pub plan: String,
    /// The case.
    pub case: String,
    /// Who submitted it.
    #[serde(default)]
    pub user: String,
    /// Where the software under test and the composition come from.
    #[serde(default)]
    pub source: SourceInfo,
    /// Where it is.
    pub phase: RunPhase,
    /// What it is waiting for or busy with, in one line.
    pub doing: String,
    /// When it was submitted, Unix milliseconds.
    pub submitted_ms: u64,
    /// When its instances were started, Unix milliseconds.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// When it was over, Unix milliseconds.
    #[serde(default)]
    pub finished_ms: Option<u64>,
    /// Groups in the order of the composition.
    pub groups: Vec<(String, GroupCounts)>,
    /// Workers that take part.
    pub workers: Vec<WorkerId>,
    /// How it ended.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// Why, when it did not pass.
    #[serde(default)]
    pub reason: String,
    /// What people should know before they trust it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The first failures, for the summary: instance, group, number in group, end.
    #[serde(default)]
    pub failures: Vec<(InstanceId, String, u32, InstanceEnd)>,
    /// The first ports of instances that are reached from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ExposedPort>,
    /// How true the data network was to its configuration, once its workers have measured that.
    #[serde(default)]
    pub network: Option<Fidelity>,
    /// What it measured, and what that means for what was expected of it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Judgement>,
    /// Whether nobody runs it although it is not over: this is what its record says, and the coordinator does not
    /// know it. NATS has lost the control state, or it is the run of another cluster with the same object store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}

/// Failures that a run has in lists.
const LISTED_FAILURES: usize = 3;

impl RunStatus {
    /// What a list says of it: a hundred of them have to fit into one message.
    #[must_use]
    pub fn listed(mut self) -> Self {
        self.failures.truncate(LISTED_FAILURES);
        for (_, _, _, end) in &mut self.failures {
            end.last_lines.clear();
        }
        self.exposed.clear();
        if let Some(network) = &mut self.network {
            network.lanes.clear();
            network.stalls.clear();
        }
        self
    }
}

/// Where the software under test and the composition come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceInfo {
    /// Repository.
    pub repo: String,
    /// Branch.
    pub branch: String,
    /// Commit.
    pub commit: String,
    /// Whether the working tree had changes.
    pub dirty: bool,
}

/// Everything that was decided about a run, stored beside its outputs as `record.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this format.
    pub v: u32,
    /// Its last state.
    pub status: RunStatus,
    /// The attempt that gave the verdict.
    pub attempt: Attempt,
    /// Groundswell's version.
    pub version: String,
    /// The composition after templating.
    pub composition: String,
    /// The run's id within the composition.
    pub run_in_composition: String,
    /// How instances were run.
    pub runtime: RuntimeKind,
    /// Seed of everything drawn by chance.
    pub seed: u64,
    /// The data network.
    pub subnet: Ipv4Net,
    /// Groups with resolved images and parameters.
    pub groups: Vec<GroupSpec>,
    /// The links between them, and the schedule of their changes as it was worked out.
    #[serde(default, skip_serializing_if = "NetworkPlan::is_empty")]
    pub network: NetworkPlan,
    /// Runner options.
    pub options: RunOptions,
    /// Time limits.
    pub limits: Limits,
    /// Who ran what.
    pub placement: Vec<(WorkerId, Vec<InstanceRange>)>,
    /// Where everything comes from.
    pub source: SourceInfo,
    /// Free labels of whoever submitted it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Versions of other parts: `nats-server`, each worker, the kernel.
    pub versions: BTreeMap<String, String>,
    /// How each instance ended, by its number.
    pub ends: Vec<(InstanceId, InstanceEnd)>,
    /// Indexes of the stored outputs, one per worker.
    pub indexes: Vec<String>,
    /// What each worker has measured of the data network.
    #[serde(default)]
    pub network_reports: Vec<(WorkerId, NetworkReport)>,
}

/// One line of a run's event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Milliseconds since the run was submitted, by the clock of whoever writes it.
    pub at_ms: u64,
    /// What kind of event: `phase`, `build`, `instance_started`, `stage_start`, `message`, `warning`, …
    pub kind: String,
    /// The event in one line for people.
    pub text: String,
    /// Worker it happened on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Group it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Instance it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}
