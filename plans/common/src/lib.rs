//! Peer-to-peer nodes for test plans.
//!
//! A [`Node`] is a rust-libp2p swarm in a task of its own, behind a handle with
//! plain methods. Which version of rust-libp2p it runs is a detail that its
//! configuration or the plan's Cargo features decide, so that one plan tests
//! old nodes, new nodes and both together.
//!
//! ```no_run
//! # async fn example() -> Result<(), groundswell_p2p::NodeError> {
//! use groundswell_p2p::{Identity, KadConfig, Node, NodeConfig};
//!
//! let node = Node::start(NodeConfig {
//!     listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
//!     kad: Some(KadConfig::default()),
//!     ..NodeConfig::new(Identity::derive(42, 0, 0))
//! })
//! .await?;
//! let report = node.bootstrap().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What goes in: the methods of [`Node`]. What comes out: their results, and
//! [`Event`]s for whoever listens. Addresses and peer ids are those of the
//! newest version; older ones translate.

pub mod bridge;
mod command;
mod config;
mod counted;
pub mod dht;
pub mod echo;
mod event;
mod identity;
mod node;
mod pool;
mod report;
mod stats;
mod stream;
pub mod topology;
pub mod truth;
#[cfg(feature = "libp2p-0_53")]
mod v0_53;
#[cfg(feature = "libp2p-0_56")]
mod v0_56;
#[cfg(feature = "libp2p-0_57")]
mod v0_57;
mod version;

pub use config::{
    AutonatConfig, Forward, GossipConfig, GossipProtocol, KadConfig, KadMode, NodeConfig,
    RelayLimits, ScoreConfig, Security,
};
pub use event::{AutonatVerdict, DialFailure, Event, RelayEvent};
pub use groundswell_sdk::Rng;
pub use identity::Identity;
pub use libp2p_identity::PeerId;
pub use multiaddr::{Multiaddr, Protocol};
pub use node::{Node, NodeError};
pub use pool::Pool;
pub use report::{Closest, Connection, PeerFound, Providers, QueryReport, RoutingEntry, Values};
pub use stats::Stats;
pub use stream::{IncomingStream, Stream};
pub use version::{UnknownVersion, Version};
