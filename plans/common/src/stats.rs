//! What a node counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DialFailure;

/// A node's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Peers that are connected.
    pub peers: usize,
    /// Connections that stand.
    pub connections: usize,
    /// Of these, those through a relay.
    pub relayed: usize,
    /// Connections made by dialling, since the start.
    pub dials_ok: u64,
    /// Dials that failed, by kind.
    pub dials_failed: BTreeMap<DialFailure, u64>,
    /// Connections taken in, since the start.
    pub accepted: u64,
    /// Bytes received over TCP, encrypted and with all headers above it.
    pub bytes_in: u64,
    /// Bytes sent over TCP.
    pub bytes_out: u64,
    /// Kademlia's requests that this node has answered.
    pub kad_requests_in: u64,
    /// Messages of topics that came, without doubles.
    pub messages_in: u64,
    /// Of these, those that the node did not pass on because it was told so.
    pub messages_dropped: u64,
}

impl Stats {
    /// All dials that failed, but for those the node itself declined.
    #[must_use]
    pub fn all_dials_failed(&self) -> u64 {
        let counted = self.dials_failed.iter().filter(|(kind, _)| **kind != DialFailure::Declined);
        counted.map(|(_, count)| count).sum()
    }
}

/// Counts bytes where they pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<[AtomicU64; 2]>);

impl Meter {
    pub(crate) fn received(&self, bytes: usize) {
        self.0[0].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.0[1].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes received and sent.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }
}
