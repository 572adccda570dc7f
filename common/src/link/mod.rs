//! How an instance's data link is shaped, and the Testground message that asks for it.

mod jitter;
mod testground;

use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use jitter::{Distribution, InvalidQuantiles, Quantiles};
pub use testground::InvalidNetworkConfig;

/// How long a packet can be delayed at most: 30 days.
pub const LONGEST_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// What happens to packets a link rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// They pass.
    #[default]
    Accept,
    /// They are answered with an ICMP error.
    Reject,
    /// They vanish.
    Drop,
}

/// How packets are treated on their way. The default passes them unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkShape {
    /// Delay added to each packet.
    #[serde(skip_serializing_if = "unset")]
    pub latency: Duration,
    /// How far the delay deviates from the latency; what exactly it is depends on the distribution.
    #[serde(skip_serializing_if = "unset")]
    pub jitter: Duration,
    /// How the deviations are spread.
    #[serde(skip_serializing_if = "unset")]
    pub distribution: Distribution,
    /// Rate in bits per second; 0 is unlimited.
    #[serde(skip_serializing_if = "unset")]
    pub bandwidth_bps: u64,
    /// Whether packets pass at all.
    #[serde(skip_serializing_if = "unset")]
    pub filter: Filter,
    /// Share of packets lost, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub loss_pct: f32,
    /// Correlation of loss with the packet before, in percent. The share stays what it is.
    #[serde(skip_serializing_if = "unset")]
    pub loss_corr_pct: f32,
    /// Share of packets corrupted, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub corrupt_pct: f32,
    /// Correlation of corruption with the packet before, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub corrupt_corr_pct: f32,
    /// Share of packets sent out of order, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub reorder_pct: f32,
    /// Correlation of reordering with the packet before, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub reorder_corr_pct: f32,
    /// Share of packets sent twice, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub duplicate_pct: f32,
    /// Correlation of duplication with the packet before, in percent.
    #[serde(skip_serializing_if = "unset")]
    pub duplicate_corr_pct: f32,
}

fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl LinkShape {
    /// What an access link and a path do together: delays add up, and what one lets pass meets the other. Without
    /// a rate, and without correlations, which two chains in a row do not have in common.
    #[must_use]
    pub fn and_path(self, path: Self) -> Self {
        let either = |one: f32, other: f32| one + other - one * other / 100.0;
        Self {
            latency: self.latency + path.latency,
            jitter: self.jitter + path.jitter,
            loss_pct: either(self.loss_pct, path.loss_pct),
            corrupt_pct: either(self.corrupt_pct, path.corrupt_pct),
            duplicate_pct: either(self.duplicate_pct, path.duplicate_pct),
            reorder_pct: either(self.reorder_pct, path.reorder_pct),
            ..Self::default()
        }
    }
}

/// The link by which an instance reaches everything else.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessLink {
    /// How the packets it sends are treated.
    pub sends: LinkShape,
    /// Rate at which it receives, in bits per second; 0 is unlimited.
    #[serde(skip_serializing_if = "unset")]
    pub download_bps: u64,
}

/// A link shape for one destination subnet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinkRule {
    /// Destinations the rule is for.
    pub subnet: Ipv4Net,
    /// How packets to them are treated.
    pub shape: LinkShape,
}

/// Whether an instance may reach hosts outside its data network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutingPolicy {
    /// It reaches other instances only.
    #[default]
    DenyAll,
    /// It reaches the Internet too.
    AllowAll,
}

/// A whole network configuration of one instance, as its plan asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Whether the instance is on the data network at all.
    pub enable: bool,
    /// Its new address there; absent leaves the address alone. The prefix it was sent with is ignored.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// How packets are treated that no rule matches.
    pub default: LinkShape,
    /// Rules by destination, applied in order.
    pub rules: Vec<LinkRule>,
    /// The state to signal once the configuration holds; empty signals nothing.
    pub callback_state: String,
    /// Reach beyond the data network.
    pub routing_policy: RoutingPolicy,
}
