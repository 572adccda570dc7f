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

/// The intervals between coordinators, of which one leads and the others stand by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// How often the leader renews its key.
    pub renew: Duration,
    /// How long the leader goes on without having renewed it. Counted from before the renewal was sent.
    pub step_down: Duration,
    /// How long the key must stay unchanged before a standby takes it.
    pub takeover: Duration,
}

impl Leadership {
    /// The intervals of a cluster in production.
    pub const DEFAULT: Self = Self {
        renew: Duration::from_secs(2),
        step_down: Duration::from_secs(10),
        takeover: Duration::from_secs(15),
    };

    /// The intervals of a coordinator whose NATS server is its own: nobody takes the lead, so a machine that is too
    /// busy to renew it for a while loses nothing.
    pub const ALONE: Self = Self {
        renew: Duration::from_secs(2),
        step_down: Duration::from_secs(600),
        takeover: Duration::from_secs(700),
    };

    /// All intervals divided by `divisor`; 0 counts as 1.
    #[must_use]
    pub fn faster(self, divisor: u32) -> Self {
        let by = divisor.max(1);
        Self {
            renew: self.renew / by,
            step_down: self.step_down / by,
            takeover: self.takeover / by,
        }
    }

    const fn is_ordered(&self) -> bool {
        self.renew.as_millis() * 3 <= self.step_down.as_millis()
            && self.step_down.as_millis() < self.takeover.as_millis()
    }
}

impl Default for Leadership {
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
const _: () = assert!(Leadership::DEFAULT.is_ordered() && Leadership::ALONE.is_ordered());
// Workers must hear a new leader before they take nothing new.
const _: () =
    assert!(Leadership::DEFAULT.takeover.as_secs() * 2 < Lease::DEFAULT.soft_fence.as_secs());
const _: () = assert!(REQUEST_TIMEOUT.as_secs() * 3 < ADDRESS_TIMEOUT.as_secs());
