//! Carries packets between the instances of a run.
//!
//! [`wire`] puts the data interface and the listening sockets into an instance's network namespace;
//! a [`Network`] moves what the interface sends and receives.
//!
//! ```text
//! shape      what happens to the k-th packet of a pair      pure
//! jitter     how delays are spread                          pure
//! links      what the composition says between groups       pure
//! rules      which shape and filter a destination has       pure
//! addresses  who has which address (common)                 pure
//! packet     IP headers, ICMP answers                       pure
//! offload    trains of packets and their checksums          pure
//! spin       when a thread may spin                         pure
//! pace       how a thread spends its time
//! counters   what became of packets
//! tally      what a thread measures of each run
//! meter      the rate of a lane                             pure
//! download   the receiving side of an access link
//! nat        routers that translate addresses
//! switch     the default network: its control side
//! plane      its data plane, one thread each
//! thread     such a thread seen from outside
//! port       an instance's interface
//! interface  its addresses
//! sender     the sending side of an instance
//! waiting    packets that wait for their time
//! goal       where a packet goes: an interface, another worker, or outside
//! overlay    between workers
//! probe      asks instances how the network treats them
//! egress     to hosts outside the data network
//! kernel     the other network: routers, HTB and netem of the kernel
//! netlink    asks the kernel about the interfaces of a namespace
//! namespace  makes network namespaces and does things in them
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use egress::Grant;
use groundswell_common::fidelity::NetworkReport;
use groundswell_common::ids::{Attempt, InstanceId, RunId};
use groundswell_common::link::{LinkShape, NetworkConfig};
use groundswell_common::network::NetworkPlan;
use ipnet::Ipv4Net;
use links::Links;
use overlay::{Others, UnderlayCounts};

pub use groundswell_common::addresses;

pub mod counters;
mod device;
mod download;
pub mod egress;
mod goal;
mod interface;
pub mod jitter;
pub mod kernel;
pub mod links;
mod meter;
pub(crate) mod namespace;
pub mod nat;
mod netlink;
mod numbers;
mod offload;
pub mod overlay;
mod pace;
pub mod packet;
mod plane;
mod port;
pub mod probe;
mod queue;
pub mod rules;
mod sender;
pub mod shape;
mod spin;
pub mod switch;
mod tally;
mod thread;
mod waiting;
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
    /// Shapes of the paths between groups.
    pub paths: bool,
    /// Instances behind NATs.
    pub nat: bool,
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
    /// What [`wire`] made for this network: the device of the interface, or a routing socket.
    pub device: OwnedFd,
    /// Its address.
    pub address: Ipv4Addr,
}

/// An instance of another worker has a new address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The attempt it was decided in.
    pub attempt: Attempt,
    /// An older one of the same instance changes nothing.
    pub version: u64,
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub address: Ipv4Addr,
}

/// What is configured for packets from one instance to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Where they go.
    pub to: Ipv4Addr,
    /// How long they take; absent when that varies on purpose: with jitter, reordering or a rate.
    pub delay: Option<Duration>,
    /// The share that is lost or damaged by chance; absent when a full queue may drop more: with a rate on the way.
    pub loss: Option<f64>,
    /// How often what decides about them was changed, so that it can be told whether it has stayed as it was.
    pub changes: u64,
}

impl Expected {
    /// For packets to `to` that pass these shapes one after the other, which were never changed. `limited` says
    /// whether the receiver has a rate.
    #[must_use]
    pub fn of(to: Ipv4Addr, shapes: &[LinkShape], limited: bool) -> Self {
        let varies = |shape: &LinkShape| !shape.jitter.is_zero() || shape.reorder_pct > 0.0;
        let limited = limited || shapes.iter().any(|shape| shape.bandwidth_bps > 0);
        let steady = !limited && !shapes.iter().any(varies);
        let kept = |shape: &LinkShape| {
            [shape.loss_pct, shape.corrupt_pct].map(|pct| 1.0 - f64::from(pct) / 100.0)
        };
        Self {
            to,
            delay: steady.then(|| shapes.iter().map(|shape| shape.latency).sum()),
            loss: (!limited).then(|| 1.0 - shapes.iter().flat_map(kept).product::<f64>()),
            changes: 0,
        }
    }
}

/// A data network on this worker.
#[async_trait]
pub trait Network: Send + Sync {
    /// What it can do.
    fn caps(&self) -> Caps;

    /// Finds out whether it can do what a composition says of the network, before anything of the run is made.
    async fn check(&self, plan: &NetworkPlan) -> Result<(), NetworkError> {
        let _ = plan;
        Ok(())
    }

    /// Opens the network of a run.
    async fn open(&self, run: &RunId, subnet: Ipv4Net, seed: u64) -> Result<(), NetworkError>;

    /// Where other workers' switches send packets; none when this network ends at the worker.
    fn overlay_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Tells the open network of a run of the other workers that take part. From then on others decide who has
    /// which address: what [`Network::configure`] and [`Network::place`] are told is taken as decided.
    async fn connect(&self, run: &RunId, others: Others) -> Result<(), NetworkError> {
        let _ = others;
        Err(NetworkError::Unsupported {
            what: format!("reach the instances of run {run} on other workers"),
            instead: "place the run on one worker".to_owned(),
        })
    }

    /// Sends to an instance of another worker at its new address from then on. A run that is not open here needs
    /// nothing, and a move that is known already changes nothing.
    async fn place(&self, run: &RunId, place: Move) -> Result<(), NetworkError> {
        let _ = (run, place);
        Ok(())
    }

    /// What became of packets between workers in a run that has some.
    fn underlay(&self, run: &RunId) -> Option<UnderlayCounts> {
        let _ = run;
        None
    }

    /// Says what the links between the groups of a run are from now on, those of instances that are
    /// attached and of those that will be. It holds for all of them at once.
    async fn relink(&self, run: &RunId, links: Arc<Links>) -> Result<(), NetworkError>;

    /// Adds an instance. It is reachable from then on.
    async fn attach(&self, attachment: Attachment) -> Result<(), NetworkError>;

    /// Sends IPv6 for more addresses, each named by its counterpart, to the end of an instance that is attached or
    /// on another worker, and lets it send from there: that end is a router's. They stay its own whatever address
    /// it has in IPv4, and no instance gets one of them.
    async fn lead(
        &self,
        run: &RunId,
        instance: InstanceId,
        behind: Vec<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        let _ = (run, instance);
        if behind.is_empty() {
            return Ok(());
        }
        Err(NetworkError::Unsupported {
            what: "lead IPv6 to instances behind a NAT".to_owned(),
            instead: "use the userspace switch".to_owned(),
        })
    }

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

    /// Says what an instance may reach outside the data network, at so many bits per second each way, until its
    /// own configuration says otherwise. Needs [`Caps::egress`] unless it is nothing.
    async fn permit(
        &self,
        run: &RunId,
        instance: InstanceId,
        grant: Grant,
        rate_bps: u64,
    ) -> Result<(), NetworkError> {
        let _ = (run, instance, rate_bps);
        if grant.is_open() { Err(egress::unsupported()) } else { Ok(()) }
    }

    /// No instance of any run reaches these hosts from now on, whatever it is permitted.
    fn protect(&self, hosts: &BTreeSet<Ipv4Addr>) {
        let _ = hosts;
    }

    /// Whether an instance may reach the Internet at this moment.
    async fn reaches_internet(&self, run: &RunId, instance: InstanceId) -> bool {
        let _ = (run, instance);
        false
    }

    /// Gives an instance another address and leaves everything else as it is. The caller sets the address on the
    /// interface itself.
    async fn readdress(
        &self,
        run: &RunId,
        instance: InstanceId,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let _ = (run, instance);
        Err(NetworkError::Unsupported {
            what: format!("give an instance the address {address}"),
            instead: "use the userspace switch".to_owned(),
        })
    }

    /// The address an instance has at this moment.
    async fn address(&self, run: &RunId, instance: InstanceId) -> Option<Ipv4Addr>;

    /// What the configuration has for a packet from one instance of a run to another at this moment. Absent
    /// when it is not known here, or nothing passes.
    fn expected(&self, run: &RunId, from: InstanceId, to: InstanceId) -> Option<Expected> {
        let _ = (run, from, to);
        None
    }

    /// What was measured of a run's network so far; absent when it is not open.
    async fn report(&self, run: &RunId) -> Option<NetworkReport>;

    /// Closes the network of a run and forgets its instances.
    async fn close(&self, run: &RunId);
}
