//! What a node is made of.

use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use crate::{Identity, Version};

/// Everything about a node that is decided before it starts.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The version of rust-libp2p; the oldest of this build unless it is said.
    pub version: Version,
    /// Who the node is.
    pub identity: Identity,
    /// Where it listens.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others reach it for certain. They are announced and
    /// make it a server of the DHT in [`KadMode::Auto`].
    pub external: Vec<Multiaddr>,
    /// How connections are encrypted.
    pub security: Security,
    /// What it calls itself.
    pub agent: String,
    /// How long a connection that nobody uses is kept.
    pub idle_timeout: Duration,
    /// How long a connection may take to be made, either way.
    pub dial_timeout: Duration,
    /// How often it measures the round trip to each peer; never without it.
    pub ping: Option<Duration>,
    /// Kademlia.
    pub kad: Option<KadConfig>,
    /// Whether it relays for others, and how much.
    pub relay_server: Option<RelayLimits>,
    /// Whether it can be reached through relays and reach others through them.
    pub relay_client: bool,
    /// Whether relayed connections are turned into direct ones.
    pub dcutr: bool,
    /// Whether it finds out if it is reachable, and tells others.
    pub autonat: Option<AutonatConfig>,
    /// Gossipsub.
    pub gossip: Option<GossipConfig>,
}

impl NodeConfig {
    /// A node that listens nowhere and speaks nothing but identify.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            version: Version::oldest(),
            identity,
            listen: Vec::new(),
            external: Vec::new(),
            security: Security::Noise,
            agent: format!("groundswell/{}", Version::oldest()),
            idle_timeout: Duration::from_secs(60),
            dial_timeout: Duration::from_secs(10),
            ping: None,
            kad: None,
            relay_server: None,
            relay_client: false,
            dcutr: false,
            autonat: None,
            gossip: None,
        }
    }
}

/// How connections over TCP and WebSocket are encrypted. QUIC brings its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// The Noise handshake.
    #[default]
    Noise,
    /// TLS 1.3, with the peer's key in its certificate.
    #[cfg(feature = "quic")]
    Tls,
    /// Not at all: for measuring what encryption costs.
    Plaintext,
}

/// Kademlia's parameters.
#[derive(Debug, Clone)]
pub struct KadConfig {
    /// The protocol's name. Nodes with another one are another network.
    pub protocol: &'static str,
    /// Peers in a bucket of the routing table. Version 0.53 always has 20.
    pub bucket_size: usize,
    /// Requests in flight per query.
    pub alpha: usize,
    /// Peers that a record is stored at, and results of a closest-peers query.
    pub replication: usize,
    /// When a query gives up.
    pub query_timeout: Duration,
    /// Whether it answers others.
    pub mode: KadMode,
    /// How often the routing table is refreshed; never without it. Version
    /// 0.53 does not do that by itself.
    pub refresh: Option<Duration>,
    /// How many records it stores for others.
    pub max_records: usize,
}

impl Default for KadConfig {
    fn default() -> Self {
        Self {
            protocol: "/gs/kad/1.0.0",
            bucket_size: 20,
            alpha: 3,
            replication: 20,
            query_timeout: Duration::from_secs(60),
            mode: KadMode::Server,
            refresh: None,
            max_records: 65_536,
        }
    }
}

/// Whether a node answers Kademlia's queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KadMode {
    /// Once it has an external address.
    Auto,
    /// Always, and so it gets into the routing tables of others.
    Server,
    /// Never.
    Client,
}

/// What a relay gives to others.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// Peers that may have a reservation at a time.
    pub reservations: usize,
    /// How long a reservation holds.
    pub reservation_time: Duration,
    /// Circuits at a time.
    pub circuits: usize,
    /// Circuits at a time from one peer.
    pub circuits_per_peer: usize,
    /// How long a circuit lives.
    pub circuit_time: Duration,
    /// Bytes that a circuit carries in each direction.
    pub circuit_bytes: u64,
}

impl Default for RelayLimits {
    /// The limits of rust-libp2p itself, but for rates: all nodes of a test
    /// come at once, and often from one address.
    fn default() -> Self {
        Self {
            reservations: 128,
            reservation_time: Duration::from_secs(60 * 60),
            circuits: 16,
            circuits_per_peer: 4,
            circuit_time: Duration::from_secs(2 * 60),
            circuit_bytes: 1 << 17,
        }
    }
}

/// AutoNAT's parameters, at both ends.
#[derive(Debug, Clone)]
pub struct AutonatConfig {
    /// Before the first probe.
    pub boot_delay: Duration,
    /// Between probes while the answer is not certain.
    pub retry: Duration,
    /// Between probes once it is.
    pub refresh: Duration,
    /// Equal answers after which it is certain, less one.
    pub confidence: usize,
}

impl Default for AutonatConfig {
    /// Quick enough for a test that lasts a minute.
    fn default() -> Self {
        Self {
            boot_delay: Duration::from_secs(1),
            retry: Duration::from_secs(2),
            refresh: Duration::from_secs(30),
            confidence: 1,
        }
    }
}

/// Gossipsub's parameters, with the historic names of its overlay.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Before the first one.
    pub initial_delay: Duration,
    /// How long a peer that was pruned from a mesh is not taken in again.
    pub prune_backoff: Duration,
    /// Peers wanted in a mesh.
    pub d: usize,
    /// Fewest peers in a mesh.
    pub d_lo: usize,
    /// Most peers in a mesh.
    pub d_hi: usize,
    /// Peers told of messages they may lack.
    pub d_lazy: usize,
    /// Fewest peers in a mesh that this node dialled itself.
    pub d_out: usize,
    /// Share of the peers outside the mesh that are told of messages.
    pub gossip_factor: f64,
    /// Whether a publisher sends to all its peers.
    pub flood_publish: bool,
    /// The largest message.
    pub max_message_bytes: usize,
    /// The newest protocol it speaks.
    pub protocol: GossipProtocol,
    /// How peers are scored, if they are.
    pub score: Option<ScoreConfig>,
    /// Which messages of others it passes on. Without it the library passes
    /// on all; only a node that has it can change its mind.
    pub forward: Option<Forward>,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            initial_delay: Duration::from_millis(100),
            prune_backoff: Duration::from_secs(60),
            d: 6,
            d_lo: 5,
            d_hi: 12,
            d_lazy: 6,
            d_out: 2,
            gossip_factor: 0.25,
            flood_publish: true,
            max_message_bytes: 2 << 20,
            protocol: GossipProtocol::Newest,
            score: None,
            forward: None,
        }
    }
}

/// Which version of gossipsub a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GossipProtocol {
    /// The newest that this version of rust-libp2p has, and all older ones.
    #[default]
    Newest,
    /// Version 1.1 alone, which has no IDONTWANT.
    V1_1,
}

/// Which messages of others a node passes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Forward {
    /// All of them, as it should.
    All,
    /// A share of them from 0 to 1, by chance. The others are dropped.
    Share(f64),
    /// All but those that a peer sent first.
    Except(PeerId),
}

/// Gossipsub's peer scores, as far as plans change them. The rest is as in
/// rust-libp2p, but that time in the mesh and first deliveries count little:
/// tests are short.
#[derive(Debug, Clone)]
pub struct ScoreConfig {
    /// The topic of which deliveries count.
    pub topic: String,
    /// Between two decays.
    pub decay_interval: Duration,
    /// By what counters are multiplied at each decay.
    pub decay: f64,
    /// What the decaying count of a mesh peer's deliveries has to be.
    pub delivery_threshold: f64,
    /// What is taken off for each delivery that is missing, squared.
    pub delivery_weight: f64,
    /// How long after the first copy of a message others count.
    pub delivery_window: Duration,
    /// How long a peer is in the mesh before its deliveries count.
    pub delivery_activation: Duration,
    /// How many peers may have the same address.
    pub colocation_threshold: f64,
    /// What is taken off for each peer more, squared. None is taken at 0.
    pub colocation_weight: f64,
    /// Below which median score of the mesh better peers are taken in.
    pub graft_threshold: f64,
}

impl ScoreConfig {
    /// Scores of a topic in which `rate` messages a second are expected and
    /// a peer in the mesh delivers at least `share` of them.
    #[must_use]
    pub fn expecting(topic: &str, rate: f64, share: f64) -> Self {
        let (decay, decay_interval) = (0.8, Duration::from_secs(1));
        Self {
            topic: topic.to_owned(),
            decay_interval,
            decay,
            delivery_threshold: (share * rate * decay_interval.as_secs_f64() / (1.0 - decay))
                .max(1.0),
            delivery_weight: 1.0,
            delivery_window: Duration::from_millis(500),
            delivery_activation: Duration::from_secs(5),
            colocation_threshold: 10.0,
            colocation_weight: 0.0,
            graft_threshold: 1.0,
        }
    }
}
