//! Carries packets between the instances of a run.
//!
//! [`wire`] puts the data interface and the listening sockets into an instance's network namespace;
//! a [`Network`] moves what the interface sends and receives.
//!
//! ```text
//! shape      what happens to the k-th packet of a pair      pure
//! rules      which shape and filter a destination has       pure
//! addresses  who has which address                          pure
//! packet     IPv4 headers, ICMP answers                     pure
//! counters   what became of packets
//! nat        routers that translate addresses
//! switch     the default network: its control side
//! plane      its data plane, one thread each
//! ```

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::NetworkConfig;
use ipnet::Ipv4Net;

pub mod addresses;
pub mod counters;
mod device;
pub mod nat;
pub mod packet;
mod plane;
mod queue;
pub mod rules;
pub mod shape;
pub mod switch;
pub mod wire;

/// What a network can do. What it cannot is refused before the run starts, or when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Latency and jitter.
    pub delay: bool,
    /// Bandwidth limits.
    pub bandwidth: bool,
    /// Loss, duplication, corruption, reordering.
    pub impairment: bool,
    /// Shapes and filters by destination.
    pub rules: bool,
    /// Reach beyond the data network.
    pub egress: bool,
    /// Instances on other workers.
    pub workers: bool,
}

/// What a network could not do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The plan asked for what this network cannot do.
    #[error("the data network cannot {what}: {instead}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// The plan asked for something that is wrong, an address that is taken for example.
    #[error("{0}")]
    Refused(String),
    /// This host is the cause.
    #[error("failed to {doing}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An instance's end of the data network.
#[derive(Debug)]
pub struct Attachment {
    /// The run.
    pub run: RunId,
    /// The instance.
    pub instance: InstanceId,
    /// The interface's device.
    pub device: OwnedFd,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A data network on this worker.
#[async_trait]
pub trait Network: Send + Sync {
    /// What it can do.
    fn caps(&self) -> Caps;

    /// Opens the network of a run.
    async fn open(&self, run: &RunId, subnet: Ipv4Net, seed: u64) -> Result<(), NetworkError>;

    /// Adds an instance. It is reachable from then on.
    async fn attach(&self, attachment: Attachment) -> Result<(), NetworkError>;

    /// Replaces an instance's shape, rules, filter and presence as a whole; its address too, when the
    /// configuration has one. The caller sets the address on the interface itself.
    ///
    /// Returns what of it does not act as its author may think, each a sentence for people.
    async fn configure(
        &self,
        run: &RunId,
        instance: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Vec<String>, NetworkError>;

    /// The address an instance has at this moment.
    async fn address(&self, run: &RunId, instance: InstanceId) -> Option<Ipv4Addr>;

    /// Closes the network of a run and forgets its instances.
    async fn close(&self, run: &RunId);
}
