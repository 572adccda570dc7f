//! What coordinator and worker tell each other. MessagePack with named fields; unknown fields are tolerated.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::card::Card;
use crate::datasets::DatasetMount;
use crate::egress::{ExposedPort, GroupEgress};
use crate::fidelity::NetworkReport;
use crate::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use crate::kpi::KpiReport;
use crate::nat::NatPlan;
use crate::network::{NetworkPlan, OverlaySecret};
use crate::outcome::InstanceEnd;
use crate::quotas::Quotas;
use crate::run::SourceInfo;
use crate::timing::Lease;

/// How instances are run on a worker.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// A container of the Docker engine.
    Docker,
    /// A process in namespaces and a cgroup of its own, without Docker.
    #[default]
    Netns,
}

impl RuntimeKind {
    /// The word used in every file and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Netns => "netns",
        }
    }
}

/// What an image or bundle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// A zstd-compressed tar of one directory that is mounted read-only at `/plan`.
    Bundle,
    /// A zstd-compressed `docker save` archive of one image.
    Docker,
}

/// A built image: what the instances of a group are made from. It lies in the object store under its digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageRef {
    /// What it is made of.
    pub kind: ImageKind,
    /// `sha256:` and the hex digest of the stored blob.
    pub digest: String,
    /// Size of the stored blob in bytes.
    pub size: u64,
    /// The command of an instance. A bundle's relative first word is a path under `/plan`.
    /// For a Docker image empty means what the image itself says.
    #[serde(default)]
    pub command: Vec<String>,
    /// Directory of the first process; empty is `/plan` for a bundle and the image's own otherwise.
    #[serde(default)]
    pub workdir: String,
    /// Environment of the image; the contract's variables win over it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// What one instance may use. Absent is unlimited.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Share of cpu, in cores.
    #[serde(default)]
    pub cpu_cores: Option<f64>,
    /// Memory in bytes, swap included.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Number of processes and threads.
    #[serde(default)]
    pub pids: Option<u64>,
}

/// One group of a run, as every worker that runs some of it needs to know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The group's id: `TEST_GROUP_ID`.
    pub id: String,
    /// Instances of the group in the whole run: `TEST_GROUP_INSTANCE_COUNT`.
    pub instances: u32,
    /// What its instances are made from.
    pub image: ImageRef,
    /// `TEST_INSTANCE_PARAMS`, before packing.
    pub params: BTreeMap<String, String>,
    /// `TEST_CAPTURE_PROFILES`, before packing.
    #[serde(default)]
    pub profiles: BTreeMap<String, String>,
    /// Environment variables of the composition; the contract's variables win over them.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Limits of each instance.
    #[serde(default)]
    pub resources: Resources,
    /// What its instances may reach outside the data network.
    #[serde(default, skip_serializing_if = "GroupEgress::is_empty")]
    pub egress: GroupEgress,
    /// Files of the object store that its instances read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<DatasetMount>,
}

/// Consecutive instances of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRange {
    /// Index into [`Assignment::groups`].
    pub group: u16,
    /// Number of the first one within the run.
    pub first: InstanceId,
    /// Number of the first one within its group: the name of its outputs directory.
    pub first_in_group: u32,
    /// How many.
    pub count: u32,
}

/// Options of a run that come from the runner's table in manifest and composition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// `LOG_LEVEL` for the instances, when not empty.
    pub log_level: String,
    /// Label to container port: each instance gets `<LABEL>_PORT`.
    pub exposed_ports: BTreeMap<String, String>,
    /// Resource limits as Docker writes them, `nofile=1048576:1048576`.
    pub ulimits: Vec<String>,
    /// Hosts outside the data network that all instances reach, whatever else they may.
    pub additional_hosts: Vec<String>,
    /// Keep instances' containers after the run, for a look inside.
    pub keep_containers: bool,
    /// How much of an instance's stdout and of its stderr is kept, in bytes.
    pub log_cap_bytes: u64,
    /// Whether outcome events that an instance prints count like those it publishes.
    pub outcome_from_stdout: bool,
    /// Whether lines `kpi <name>=<value>` that an instance prints count like those in `results.out`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub kpis_from_stdout: bool,
    /// Whether instances can write nowhere but to their outputs, `/temp` and `/tmp`.
    pub read_only_root: bool,
    /// What one instance may use of what it shares with others.
    pub quotas: Quotas,
}

/// How long the phases of a run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From assignment to every instance being ready.
    pub prepare: Duration,
    /// From start to end.
    pub run: Duration,
    /// From termination signal to kill.
    pub stop_grace: Duration,
    /// From the end of an instance to the arrival of the outcome it published.
    pub outcome_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        use crate::timing::{OUTCOME_GRACE, PREPARE_TIMEOUT, RUN_TIMEOUT, STOP_GRACE};
        Self {
            prepare: PREPARE_TIMEOUT,
            run: RUN_TIMEOUT,
            stop_grace: STOP_GRACE,
            outcome_grace: OUTCOME_GRACE,
        }
    }
}

/// One worker's share of one attempt of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The run.
    pub run: RunId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// `TEST_PLAN`.
    pub plan: String,
    /// `TEST_CASE`.
    pub case: String,
    /// How instances are run.
    pub runtime: RuntimeKind,
    /// Instances in the whole run: `TEST_INSTANCE_COUNT`.
    pub total_instances: u32,
    /// The run's data network: `TEST_SUBNET`, always a /16.
    pub subnet: Ipv4Net,
    /// `TEST_START_TIME`, RFC 3339.
    pub start_time: String,
    /// `TEST_DISABLE_METRICS`.
    pub disable_metrics: bool,
    /// Seed of everything drawn by chance in this run.
    pub seed: u64,
    /// All groups of the run.
    pub groups: Vec<GroupSpec>,
    /// The links between them; the class of a group is its index above.
    #[serde(default, skip_serializing_if = "NetworkPlan::is_empty")]
    pub network: NetworkPlan,
    /// This worker's instances.
    pub share: Vec<InstanceRange>,
    /// Every worker that takes part, this one included.
    pub workers: Vec<WorkerId>,
    /// Every other worker that takes part, as the data network needs to know it.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Names the run between its workers' switches. Drawn at random, so that nobody else can guess it.
    #[serde(default)]
    pub network_key: u64,
    /// What encrypts the packets between its workers, if they are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_secret: Option<OverlaySecret>,
    /// Runner options.
    pub options: RunOptions,
    /// Time limits.
    pub limits: Limits,
    /// Where the software under test comes from: it is among the tags of metrics.
    #[serde(default)]
    pub source: SourceInfo,
    /// W3C trace context of the run's span, `traceparent` and `tracestate`.
    #[serde(default)]
    pub trace: BTreeMap<String, String>,
}

/// Another worker of a run, and what the data network reaches there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The worker.
    pub worker: WorkerId,
    /// Where its switch takes packets; absent when it has no overlay.
    pub overlay: Option<SocketAddr>,
    /// Its instances.
    pub share: Vec<InstanceRange>,
}

/// One instance of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstancePlace {
    /// Number within the run.
    pub id: InstanceId,
    /// Index into [`Assignment::groups`].
    pub group: u16,
    /// Number within the group.
    pub in_group: u32,
}

impl Assignment {
    /// This worker's instances, one by one, in order.
    pub fn instances(&self) -> impl Iterator<Item = InstancePlace> + '_ {
        places(&self.share)
    }

    /// The address of an instance at start: the subnet's `.0.2` for the first one, then upwards.
    #[must_use]
    pub fn address(&self, instance: InstanceId) -> Ipv4Addr {
        first_address(self.subnet, instance)
    }

    /// The NATs an instance is behind.
    #[must_use]
    pub fn nat(&self, place: InstancePlace) -> Option<&NatPlan> {
        self.network.nat(usize::from(place.group))
    }

    /// Whether an instance of the run, here or on another worker, is behind a NAT.
    #[must_use]
    pub fn has_nat(&self, instance: InstanceId) -> bool {
        let mut end = 0_u32;
        let class = self.groups.iter().position(|group| {
            end = end.saturating_add(group.instances);
            instance.0 < end
        });
        class.is_some_and(|class| self.network.nat(class).is_some())
    }

    /// The instance in whose name the packets of an instance travel: itself, or the first one behind the
    /// same NAT.
    #[must_use]
    pub fn front(&self, place: InstancePlace) -> InstanceId {
        let front = self.nat(place).map_or(place.in_group, |nat| nat.front(place.in_group));
        InstanceId(place.id.0 - (place.in_group - front))
    }

    /// The host name of an instance, unique within the run.
    #[must_use]
    pub fn hostname(&self, instance: InstanceId) -> String {
        format!("i{instance}-{}", &self.run.as_str()[12..])
    }
}

/// The instances of some ranges, one by one, in order.
pub fn places(ranges: &[InstanceRange]) -> impl Iterator<Item = InstancePlace> + '_ {
    ranges.iter().flat_map(|range| {
        (0..range.count).map(|offset| InstancePlace {
            id: InstanceId(range.first.0 + offset),
            group: range.group,
            in_group: range.first_in_group + offset,
        })
    })
}

/// The address of an instance at start: `.0.2` of its run's subnet for the first one, then upwards.
#[must_use]
pub fn first_address(subnet: Ipv4Net, instance: InstanceId) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 2 + instance.0)
}

/// What a worker should make of a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// Prepare it, start it when the log says so, collect it.
    Run,
    /// End it gracefully, then collect what is there. The outcome is that of instances without one.
    Stop {
        /// Why, for each instance's record.
        reason: String,
        /// What instances that have not ended by themselves get.
        outcome: crate::outcome::Outcome,
    },
    /// As `Stop`, without grace.
    Kill {
        /// Why.
        reason: String,
        /// What instances that have not ended by themselves get.
        outcome: crate::outcome::Outcome,
    },
}

/// An assignment and what to make of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredShare {
    /// The assignment.
    pub assignment: Assignment,
    /// What to make of it.
    pub want: Want,
}

/// Everything a worker should be doing: the one message kept for it in the assignment stream.
/// A share that is not listed (any more) is to be cleaned.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Desired {
    /// The coordinator's term. A worker ignores a lower one than it has seen.
    pub term: u64,
    /// The shares.
    pub shares: Vec<DesiredShare>,
}

/// What a worker offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The worker's id.
    pub worker: WorkerId,
    /// A number drawn when the process started; tells a restart from a repeated message.
    pub boot: u64,
    /// Groundswell's version.
    pub version: String,
    /// How many instances it takes.
    pub slots: u32,
    /// Cpu cores.
    pub cpu_cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Runtimes that work on this host.
    pub runtimes: Vec<RuntimeKind>,
    /// For each runtime that does not work, why; for each limit that cannot be enforced, which.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Labels for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many instances of one run it takes; absent is as many as it has slots.
    #[serde(default)]
    pub slots_per_run: Option<u32>,
    /// Where its switch takes packets of other workers.
    #[serde(default)]
    pub overlay: Option<SocketAddr>,
    /// What `worker bench` has measured on its host, if it was run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// Shares that an earlier process of this name has begun and that it has or tells the end of.
    #[serde(default)]
    pub kept: Vec<(RunId, Attempt)>,
}

/// The coordinator's answer to a registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// The worker's epoch.
    pub epoch: Epoch,
    /// The coordinator's term.
    pub term: u64,
    /// The intervals both sides keep.
    pub lease: Lease,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The worker's epoch.
    pub epoch: Epoch,
    /// The stream sequence of the desired state the worker works on; 0 is none.
    pub desired: u64,
    /// Instances that exist on it.
    pub instances: u32,
    /// Whether it takes nothing new, because it is leaving.
    pub draining: bool,
    /// The shares of which something is on it; a worker of an older version does not say.
    #[serde(default)]
    pub shares: Option<Vec<(RunId, Attempt)>>,
    /// Why it takes nothing new although it stays, its disk being full for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<String>,
}

/// The coordinator's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The coordinator's term.
    pub term: u64,
    /// The stream sequence the worker should be working on.
    pub desired: u64,
    /// The worker is unknown or of an old epoch and has to register (again).
    pub register: bool,
}

/// What a worker has to tell, in order. Repeated with the same number until acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The worker's epoch.
    pub epoch: Epoch,
    /// Counts from 1 within the epoch.
    pub no: u64,
    /// What happened, in order.
    pub items: Vec<ReportItem>,
}

/// The coordinator's answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// The highest report number that is taken in.
    pub taken: u64,
    /// The worker is of an old epoch: it stops reporting and registers again.
    pub fenced: bool,
    /// The coordinator's term. What a former leader has taken in is told again to its successor.
    #[serde(default)]
    pub term: u64,
}

/// One thing a worker tells about one share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportItem {
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub attempt: Attempt,
    /// What happened.
    pub what: ShareEvent,
}

/// What happened to a share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareEvent {
    /// The worker fetches, or unpacks, or creates; told so that people see progress.
    Progress {
        /// Instances that are ready.
        ready: u32,
        /// What it is busy with.
        doing: String,
    },
    /// Every instance is ready; none has run an instruction.
    Prepared,
    /// The share cannot be prepared.
    PrepareFailed {
        /// Why.
        reason: String,
        /// Whether the plan or its image is the cause, and not this host.
        fault_of_plan: bool,
    },
    /// The start record was seen in the log and every instance was let go.
    Started,
    /// An instance has published an outcome; more may follow.
    Said {
        /// The instance.
        instance: InstanceId,
        /// What it said, failure beating success.
        outcome: crate::outcome::Outcome,
    },
    /// Instances have ended.
    Ended {
        /// Each with everything known of it.
        instances: Vec<(InstanceId, InstanceEnd)>,
    },
    /// The data network or the sync log cannot keep its promise; the run has to end.
    Broken {
        /// Why.
        reason: String,
        /// Whether the plan is the cause: it asked for a network that cannot be.
        fault_of_plan: bool,
    },
    /// Something people should know, without consequence for the outcome.
    Warning {
        /// What.
        text: String,
    },
    /// Ports of the share's instances are reached from outside. Told once, before [`Self::Prepared`].
    Exposed {
        /// Which, and where.
        ports: Vec<ExposedPort>,
    },
    /// What the data network did to the share's packets. Told once, before [`Self::Collected`] or
    /// [`Self::CollectFailed`].
    Network {
        /// What was measured.
        report: NetworkReport,
    },
    /// What the share's instances measured. Told once, before [`Self::Collected`] or [`Self::CollectFailed`].
    Kpis {
        /// The series, or where they are.
        report: Box<KpiReport>,
    },
    /// All outputs and logs of the share are stored.
    Collected {
        /// The pack's index in the object store.
        index: String,
    },
    /// Outputs cannot be stored.
    CollectFailed {
        /// Why.
        reason: String,
    },
    /// Nothing of the share is left on the host.
    Cleaned,
    /// The coordinator has granted an instance this address.
    Address {
        /// The instance.
        instance: InstanceId,
        /// Its address from then on.
        address: Ipv4Addr,
    },
    /// A new leader has been told everything about the share that the one before it knew.
    Retold,
}

/// A worker asks for an address for one of its instances, in a run that other workers take part in.
/// May be asked again: the same address is granted again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaim {
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub attempt: Attempt,
    /// The instance.
    pub instance: InstanceId,
    /// The address it wants.
    pub address: Ipv4Addr,
}

/// The coordinator's answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressAnswer {
    /// The instance has it, and every other worker of the run sends there.
    Granted,
    /// It is not to be had.
    Refused {
        /// Why.
        reason: String,
    },
    /// A worker of the run has not answered yet: ask again.
    Pending,
}

/// An instance of another worker has a new address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressChange {
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub attempt: Attempt,
    /// Counts the changes of the run. An older one of the same instance changes nothing.
    pub version: u64,
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A worker's answer to a change: it sends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressTaken {
    /// The version it was told.
    pub version: u64,
}

/// A line an instance printed, on its way to whoever watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// The instance.
    pub instance: InstanceId,
    /// Its group.
    pub group: String,
    /// Its number within the group.
    pub in_group: u32,
    /// Whether the lines are from stderr.
    pub stderr: bool,
    /// The lines, without line ends.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_its_instances_through_all_ranges() {
        let range = |group, first, first_in_group, count| InstanceRange {
            group,
            first: InstanceId(first),
            first_in_group,
            count,
        };
        let share = [range(0, 2, 2, 2), range(1, 10, 0, 1)];
        let places: Vec<_> = share
            .iter()
            .flat_map(|r| (0..r.count).map(move |i| (r.group, r.first.0 + i, r.first_in_group + i)))
            .collect();
        assert_eq!(places, [(0, 2, 2), (0, 3, 3), (1, 10, 0)]);
    }
}
