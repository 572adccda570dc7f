//! The data network of an instance: its address, and how the platform shapes it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::context::Ctx;
use crate::env::{RunEnv, Subnet};
use crate::sync::SyncError;
use crate::units::Rate;

/// How long the platform may take to carry out a configuration.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the data network cannot be used or configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Nobody carries out configurations.
    #[error(
        "there is nobody who shapes the network here: use a runner that does, such as `netns`, or say `--unshaped` to run the case without"
    )]
    Nobody,
    /// No address of the instance is in the data network.
    #[error("the instance has no address in the data network {subnet}: {why}")]
    NoAddress {
        /// The network.
        subnet: String,
        /// Why.
        why: String,
    },
    /// The platform did not carry it out; its log says why.
    #[error("the network configuration was not carried out within {} s", .0.as_secs())]
    NotApplied(Duration),
    /// The sync is lost.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

/// What happens to packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// They pass.
    #[default]
    Accept,
    /// They are refused: the sender gets an error.
    Reject,
    /// They vanish.
    Drop,
}

/// What a link does to the packets an instance sends. What is not said is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shape {
    latency: Duration,
    jitter: Duration,
    bandwidth_bps: u64,
    filter: Filter,
    loss_pct: f64,
    corrupt_pct: f64,
    reorder_pct: f64,
    duplicate_pct: f64,
}

impl Shape {
    /// A link that does nothing to packets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Delays every packet.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Varies the latency by up to this much.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Varies the latency by up to so many percent of it. Say the latency first.
    #[must_use]
    pub fn jitter_pct(self, percent: f64) -> Self {
        let jitter = self.latency.mul_f64((percent / 100.0).clamp(0.0, 10.0));
        self.jitter(jitter)
    }

    /// Limits what is sent.
    #[must_use]
    pub fn bandwidth(mut self, rate: Rate) -> Self {
        self.bandwidth_bps = rate.0;
        self
    }

    /// Loses so many percent of the packets.
    #[must_use]
    pub fn loss_pct(mut self, percent: f64) -> Self {
        self.loss_pct = percent;
        self
    }

    /// Damages so many percent of the packets.
    #[must_use]
    pub fn corrupt_pct(mut self, percent: f64) -> Self {
        self.corrupt_pct = percent;
        self
    }

    /// Sends so many percent of the packets out of order.
    #[must_use]
    pub fn reorder_pct(mut self, percent: f64) -> Self {
        self.reorder_pct = percent;
        self
    }

    /// Sends so many percent of the packets twice.
    #[must_use]
    pub fn duplicate_pct(mut self, percent: f64) -> Self {
        self.duplicate_pct = percent;
        self
    }

    /// Refuses or drops packets.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    fn wire(&self) -> Value {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let filter = match self.filter {
            Filter::Accept => 0,
            Filter::Reject => 1,
            Filter::Drop => 2,
        };
        json!({
            "latency": ns(self.latency),
            "jitter": ns(self.jitter),
            "bandwidth": self.bandwidth_bps,
            "filter": filter,
            "loss": self.loss_pct,
            "corrupt": self.corrupt_pct,
            "corrupt_corr": 0.0,
            "reorder": self.reorder_pct,
            "reorder_corr": 0.0,
            "duplicate": self.duplicate_pct,
            "duplicate_corr": 0.0,
        })
    }
}

/// The data network of this instance.
#[derive(Debug, Clone)]
pub struct Network {
    ctx: Ctx,
}

impl Network {
    pub(crate) fn new(ctx: &Ctx) -> Self {
        Self { ctx: ctx.clone() }
    }

    /// The instance's address in the data network.
    ///
    /// # Errors
    /// When it has none, because it has left the network.
    pub fn ip(&self) -> Result<Ipv4Addr, NetworkError> {
        ip(self.ctx.env(), self.ctx.index())
    }

    /// The data network as this instance sees it: behind a NAT the private one.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        self.ctx.env().subnet
    }

    /// Whether somebody carries out configurations.
    #[must_use]
    pub fn can_shape(&self) -> bool {
        self.ctx.env().sidecar
    }

    /// Gives everything this instance sends one shape, in place of all it had.
    ///
    /// # Errors
    /// When nobody can do it, or it is not done in time.
    pub async fn shape(&self, shape: Shape) -> Result<(), NetworkError> {
        self.configure().shape(shape).apply().await
    }

    /// A configuration with more than a shape.
    pub fn configure(&self) -> Configuration {
        Configuration {
            ctx: self.ctx.clone(),
            enable: true,
            address: None,
            shape: Shape::new(),
            rules: Vec::new(),
            internet: false,
        }
    }
}

/// A network configuration. It replaces the one before as a whole; only an address that is not named stays.
#[must_use = "a configuration is carried out by `apply`"]
#[derive(Debug)]
pub struct Configuration {
    ctx: Ctx,
    enable: bool,
    address: Option<Ipv4Addr>,
    shape: Shape,
    rules: Vec<(String, Shape)>,
    internet: bool,
}

impl Configuration {
    /// Shapes all that no rule is about.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Shapes what goes to a subnet, such as `16.0.1.0/24`.
    pub fn rule(mut self, subnet: &str, shape: Shape) -> Self {
        self.rules.push((subnet.to_owned(), shape));
        self
    }

    /// Accepts, refuses or drops what goes to a subnet.
    pub fn filter(self, subnet: &str, filter: Filter) -> Self {
        self.rule(subnet, Shape::new().filter(filter))
    }

    /// Moves the instance to another address of the run's network.
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// Lets the instance reach the Internet, which it otherwise does not.
    pub fn internet(mut self) -> Self {
        self.internet = true;
        self
    }

    /// Takes the instance off the data network. A later configuration brings it back.
    pub fn detach(mut self) -> Self {
        self.enable = false;
        self
    }

    fn wire(&self, callback: &str) -> Value {
        let rules = self.rules.iter().map(|(subnet, shape)| {
            let mut rule = shape.wire();
            rule["subnet"] = json!(subnet);
            rule
        });
        // The platform takes the prefix of the network, whatever stands here.
        let prefix = self.ctx.env().run_subnet.map_or(16, |subnet| subnet.prefix);
        json!({
            "network": "default",
            "IPv4": self.address.map(|address| format!("{address}/{prefix}")),
            "IPv6": null,
            "enable": self.enable,
            "default": self.shape.wire(),
            "rules": if self.rules.is_empty() { Value::Null } else { rules.collect() },
            "callback_state": callback,
            "callback_target": 1,
            "routing_policy": if self.internet { "allow_all" } else { "deny_all" },
        })
    }

    /// Has the platform carry it out, and waits until it has.
    ///
    /// # Errors
    /// When nobody can do it, or it is not done in time. A configuration that makes no sense fails the instance:
    /// the run's log says why.
    pub async fn apply(self) -> Result<(), NetworkError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let env = self.ctx.env();
        if !env.sidecar {
            return if self.ctx.is_unshaped() { Ok(()) } else { Err(NetworkError::Nobody) };
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let callback = format!("network:{}:{}:{number}", env.hostname, env.incarnation);
        let sync = self.ctx.sync();
        sync.publish(&format!("network:{}", env.hostname), &self.wire(&callback)).await?;
        let applied = timeout(APPLY_TIMEOUT, sync.wait(&callback, 1)).await;
        applied.map_err(|_| NetworkError::NotApplied(APPLY_TIMEOUT))?.map_err(NetworkError::from)
    }
}

/// The instance's address: the one from which the kernel would send to the data network.
fn ip(env: &RunEnv, index: u32) -> Result<Ipv4Addr, NetworkError> {
    let Some(subnet) = env.subnet else { return Ok(Ipv4Addr::LOCALHOST) };
    let base = u32::from(subnet.address);
    if subnet.address.is_loopback() {
        // A run on one machine: every instance has a loopback address of its own.
        return Ok(Ipv4Addr::from(base + index + 2));
    }
    let none = |why: String| NetworkError::NoAddress { subnet: subnet.to_string(), why };
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // Nothing is sent by this.
        socket.connect((Ipv4Addr::from(base + 1), 9))?;
        socket.local_addr()
    });
    match found.map(|address| address.ip()) {
        Ok(IpAddr::V4(address)) if subnet.contains(address) => Ok(address),
        Ok(address) => Err(none(format!("packets to it would leave from {address}"))),
        Err(err) => Err(none(err.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_looks_like_that_of_the_other_sdks() {
        let shape = Shape::new()
            .latency(Duration::from_millis(100))
            .jitter_pct(10.0)
            .bandwidth("1Mbit".parse().unwrap())
            .filter(Filter::Drop);
        let wire = shape.wire();
        assert_eq!(wire["latency"], 100_000_000);
        assert_eq!(wire["jitter"], 10_000_000);
        assert_eq!(wire["bandwidth"], 1_000_000);
        assert_eq!(wire["filter"], 2);
        assert_eq!(wire["loss"], 0.0);
    }
}
