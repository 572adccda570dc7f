//! How long each side waits for the other.
//!
//! The order matters more than the values: a worker that has lost the cluster must stop its instances
//! before the coordinator may count them lost. Tests and strict-timing runs scale all of them down together.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The intervals of the lease between a worker and the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// How often a worker says it is alive.
    pub heartbeat: Duration,
    /// How long a worker may go unanswered before its runs carry a warning.
    pub warn: Duration,
    /// How long a worker may go unanswered before it takes nothing new.
    pub soft_fence: Duration,
    /// How long a worker may go unanswered before it kills its own instances.
    pub hard_fence: Duration,
    /// How long a worker may go unheard before the coordinator counts its instances as lost.
    pub lost: Duration,
}

impl Lease {
    /// The intervals of a cluster in production.
    pub const DEFAULT: Self = Self {
        heartbeat: Duration::from_secs(2),
        warn: Duration::from_secs(10),
        soft_fence: Duration::from_secs(75),
        hard_fence: Duration::from_secs(90),
        lost: Duration::from_secs(120),
    };

    /// All intervals divided by `divisor`; 0 counts as 1.
    #[must_use]
    pub fn faster(self, divisor: u32) -> Self {
        let by = divisor.max(1);
        Self {
            heartbeat: self.heartbeat / by,
            warn: self.warn / by,
            soft_fence: self.soft_fence / by,
            hard_fence: self.hard_fence / by,
            lost: self.lost / by,
        }
    }

    const fn is_ordered(&self) -> bool {
        self.heartbeat.as_millis() * 3 <= self.warn.as_millis()
            && self.warn.as_millis() < self.soft_fence.as_millis()
            && self.soft_fence.as_millis() < self.hard_fence.as_millis()
            && self.hard_fence.as_millis() + KILL_TIME.as_millis() < self.lost.as_millis()
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How long killing all instances of a worker may take.
pub const KILL_TIME: Duration = Duration::from_secs(20);
/// How long a run may take from its start; Testground's task timeout.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(600);
/// How long preparing all instances of a run may take.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an instance has between the termination signal and being killed.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long the outcome of an instance that has ended may take to arrive through the sync log.
pub const OUTCOME_GRACE: Duration = Duration::from_secs(45);
/// How long storing the outputs of a run may take.
pub const COLLECT_TIMEOUT: Duration = Duration::from_secs(1800);
/// How long a request on the bus may go unanswered before it is sent again.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the workers of a run may take to hear of an instance's new address.
pub const ADDRESS_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(Lease::DEFAULT.is_ordered());
const _: () = assert!(REQUEST_TIMEOUT.as_secs() * 3 < ADDRESS_TIMEOUT.as_secs());
