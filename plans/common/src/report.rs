//! What came of a query.

use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

/// What a query took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueryReport {
    /// Requests sent.
    pub requests: u32,
    /// Requests answered.
    pub successes: u32,
    /// Requests that failed.
    pub failures: u32,
    /// Dials that failed at this node while the query ran. Another query at
    /// the same time counts in.
    pub dials_failed: u64,
    /// From the call to the end.
    pub took: Duration,
    /// Whether it ended by its timeout.
    pub timed_out: bool,
}

/// The answer to a closest-peers query.
#[derive(Debug, Clone)]
pub struct Closest {
    /// The peers, closest first, without the node itself.
    pub peers: Vec<PeerId>,
    /// What it took.
    pub report: QueryReport,
}

/// The answer to a search for a peer.
#[derive(Debug, Clone)]
pub struct PeerFound {
    /// Whether the network knows it.
    pub found: bool,
    /// Where the network says it is. Version 0.53 does not tell.
    pub addresses: Vec<Multiaddr>,
    /// What it took.
    pub report: QueryReport,
}

/// The answer to a search for providers.
#[derive(Debug, Clone)]
pub struct Providers {
    /// The providers and when each was found, counted from the call.
    pub found: Vec<(PeerId, Duration)>,
    /// What it took.
    pub report: QueryReport,
}

/// The answer to a search for a value.
#[derive(Debug, Clone)]
pub struct Values {
    /// The values and when each was found, counted from the call.
    pub found: Vec<(Vec<u8>, Duration)>,
    /// What it took.
    pub report: QueryReport,
}

/// A peer in the routing table.
#[derive(Debug, Clone)]
pub struct RoutingEntry {
    /// The peer.
    pub peer: PeerId,
    /// Where it is said to be.
    pub addresses: Vec<Multiaddr>,
}

/// A connection that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The other end.
    pub peer: PeerId,
    /// Where the other end is, or came from.
    pub address: Multiaddr,
    /// Whether this node dialled.
    pub dialer: bool,
    /// Whether it goes through a relay.
    pub relayed: bool,
}
