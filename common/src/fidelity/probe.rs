//! What small packets between instances say about the data network: a second opinion, taken from inside
//! the instances' own network namespaces and not from what the network says of itself. Pure.

use serde::{Deserialize, Serialize};

use super::Histogram;

/// What probes between a run's instances measured on one worker, or on all together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeReport {
    /// Pairs of instances that probed.
    pub pairs: u64,
    /// Probes that were answered, and those that are lost.
    pub sent: u64,
    /// Probes without an answer, where nothing but chance could keep it from coming.
    pub lost: u64,
    /// As many were to be lost, by the configured shares of loss and corruption.
    pub loss_expected: f64,
    /// How much longer the round trips took than configured, in nanoseconds. Only of paths whose delay does
    /// not vary on purpose: without jitter, reordering and rate.
    pub late: Histogram,
    /// How much shorter than configured the shortest round trip was, in nanoseconds.
    pub earliest_ns: u64,
}

impl ProbeReport {
    /// Adds what another worker has measured.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.sent += other.sent;
        self.lost += other.lost;
        self.loss_expected += other.loss_expected;
        self.late.merge(&other.late);
        self.earliest_ns = self.earliest_ns.max(other.earliest_ns);
    }
}
