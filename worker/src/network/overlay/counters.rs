//! Counts what became of a run's packets between this worker and the others.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of packets between workers, as this worker saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnderlayCounts {
    /// Sent to other workers.
    pub sent: u64,
    /// Of those, sent in fragments, because the underlay's MTU is too small for them.
    pub fragmented: u64,
    /// Arrived from other workers, each once.
    pub received: u64,
    /// Never arrived, going by the numbers of those that did.
    pub lost: u64,
    /// Arrived after one that was sent later.
    pub late: u64,
    /// Arrived once more, and were dropped.
    pub duplicated: u64,
    /// Arrived for an instance that is not here, is not on the network, or did not take them.
    pub untaken: u64,
    /// Arrived, and would have waited too long for their turn at the receiver's download.
    pub overrun: u64,
    /// Dropped because they belong to another attempt, come from the wrong address or do not open.
    pub foreign: u64,
}

impl UnderlayCounts {
    /// Whether the network between the workers has lost, doubled or reordered packets.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.late == 0 && self.duplicated == 0
    }
}

impl fmt::Display for UnderlayCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, fragmented, received, lost, late, duplicated, untaken, overrun, foreign } =
            self;
        write!(
            f,
            "{sent} packets sent to other workers ({fragmented} in fragments), {received} received, \
             {lost} lost, {late} late, {duplicated} duplicated, {untaken} not taken, {overrun} over the download, {foreign} foreign"
        )
    }
}

/// Counts as they grow.
#[derive(Debug, Default)]
pub(in crate::network) struct Underlay {
    pub(super) sent: AtomicU64,
    pub(super) fragmented: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) duplicated: AtomicU64,
    pub(super) untaken: AtomicU64,
    pub(super) overrun: AtomicU64,
    pub(super) foreign: AtomicU64,
}

impl Underlay {
    pub(in crate::network) fn read(&self) -> UnderlayCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        UnderlayCounts {
            sent: of(&self.sent),
            fragmented: of(&self.fragmented),
            received: of(&self.received),
            lost: of(&self.lost),
            late: of(&self.late),
            duplicated: of(&self.duplicated),
            untaken: of(&self.untaken),
            overrun: of(&self.overrun),
            foreign: of(&self.foreign),
        }
    }
}

/// Adds to a count.
pub(super) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}
