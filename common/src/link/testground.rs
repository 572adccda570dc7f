//! The network configuration message of Testground's SDKs.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};

use crate::addresses::{COUNTERPART_BITS, counterpart, of_counterpart};

use super::{Filter, LONGEST_DELAY, LinkRule, LinkShape, NetworkConfig, RoutingPolicy};

/// A network configuration message that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetworkConfig {
    /// It is not JSON of the right shape.
    #[error("network configuration is not readable: {0}")]
    Unreadable(String),
    /// Only the network called `default` exists.
    #[error("there is no network `{0}`, only `default`")]
    UnknownNetwork(String),
    /// The IPv6 address is not the counterpart of an IPv4 address.
    #[error(
        "IPv6 address `{0}` cannot be set: an instance has the counterpart of its IPv4 address, such as fd67:7377::1000:2 for 16.0.0.2"
    )]
    Ipv6(String),
    /// The two addresses are not the same one.
    #[error(
        "IPv4 address {ipv4} and IPv6 address {ipv6} do not belong together: leave one of them out"
    )]
    Apart {
        /// The one.
        ipv4: Ipv4Addr,
        /// The counterpart of another.
        ipv6: Ipv6Addr,
    },
    /// The address is not an IPv4 address with or without prefix.
    #[error("`{0}` is not an IPv4 address such as 16.0.1.5/16")]
    Address(String),
    /// A rule's subnet is not one.
    #[error(
        "`{0}` is not a subnet of the data network such as 16.0.0.0/24 or fd67:7377::1000:0/120"
    )]
    Subnet(String),
    /// A number is out of range.
    #[error("`{field}` is {value}, not {wanted}")]
    Number {
        /// The field's name on the wire.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it can be.
        wanted: &'static str,
    },
    /// A percentage is out of range.
    #[error("`{field}` is {value}, not a percentage between 0 and 100")]
    Percentage {
        /// The field's name on the wire.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

impl NetworkConfig {
    /// Reads the message a Testground SDK publishes on `network:<hostname>`.
    ///
    /// Latency and jitter are nanoseconds and bandwidth is bits per second there. Absent fields are zero,
    /// numbers may be floats, unknown keys are ignored.
    ///
    /// # Errors
    /// When the message is unreadable, or asks for what does not exist.
    pub fn from_testground(payload: &[u8]) -> Result<Self, InvalidNetworkConfig> {
        let wire: WireConfig = serde_json::from_slice(payload)
            .map_err(|err| InvalidNetworkConfig::Unreadable(err.to_string()))?;
        if !wire.network.is_empty() && wire.network != "default" {
            return Err(InvalidNetworkConfig::UnknownNetwork(wire.network));
        }
        let ipv6 = wire.ipv6.filter(|text| !text.is_empty()).map(ipv6_address).transpose()?;
        let ipv4 = match wire.ipv4.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                text.split('/')
                    .next()
                    .and_then(|address| address.parse().ok())
                    .ok_or(InvalidNetworkConfig::Address(text))?,
            ),
        };
        let ipv4 = match (ipv4, ipv6) {
            (Some(ipv4), Some(other)) if ipv4 != other => {
                let ipv6 = counterpart(other);
                return Err(InvalidNetworkConfig::Apart { ipv4, ipv6 });
            }
            (ipv4, ipv6) => ipv4.or(ipv6),
        };
        let rules = wire
            .rules
            .unwrap_or_default()
            .into_iter()
            .map(|rule| {
                let subnet =
                    subnet(&rule.subnet).ok_or(InvalidNetworkConfig::Subnet(rule.subnet))?;
                Ok(LinkRule { subnet: subnet.trunc(), shape: rule.shape.checked()? })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            enable: wire.enable,
            ipv4,
            default: wire.default.unwrap_or_default().checked()?,
            rules,
            callback_state: wire.callback_state.unwrap_or_default(),
            routing_policy: match wire.routing_policy.as_deref() {
                Some("allow_all") => RoutingPolicy::AllowAll,
                _ => RoutingPolicy::DenyAll,
            },
        })
    }
}

/// The address whose counterpart a text is, with or without prefix.
fn ipv6_address(text: String) -> Result<Ipv4Addr, InvalidNetworkConfig> {
    let address = text.split('/').next().and_then(|address| address.parse().ok());
    address.and_then(of_counterpart).ok_or(InvalidNetworkConfig::Ipv6(text))
}

/// A subnet, which may be written in IPv6. A rule holds for both ways of writing an address.
fn subnet(text: &str) -> Option<Ipv4Net> {
    match text.parse().ok()? {
        IpNet::V4(subnet) => Some(subnet),
        IpNet::V6(subnet) => match subnet.prefix_len().checked_sub(COUNTERPART_BITS) {
            Some(length) => Ipv4Net::new(of_counterpart(subnet.addr())?, length).ok(),
            None if subnet.contains(&counterpart(Ipv4Addr::UNSPECIFIED)) => {
                Some(Ipv4Net::default())
            }
            None => None,
        },
    }
}

#[derive(Deserialize)]
struct WireConfig {
    #[serde(default)]
    network: String,
    #[serde(default, rename = "IPv4")]
    ipv4: Option<String>,
    #[serde(default, rename = "IPv6")]
    ipv6: Option<String>,
    #[serde(default)]
    enable: bool,
    #[serde(default)]
    default: Option<WireShape>,
    #[serde(default)]
    rules: Option<Vec<WireRule>>,
    #[serde(default)]
    callback_state: Option<String>,
    #[serde(default)]
    routing_policy: Option<String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct WireShape {
    #[serde(deserialize_with = "number")]
    latency: f64,
    #[serde(deserialize_with = "number")]
    jitter: f64,
    #[serde(deserialize_with = "number")]
    bandwidth: f64,
    #[serde(deserialize_with = "number")]
    filter: f64,
    #[serde(deserialize_with = "number")]
    loss: f64,
    #[serde(deserialize_with = "number")]
    corrupt: f64,
    #[serde(deserialize_with = "number")]
    corrupt_corr: f64,
    #[serde(deserialize_with = "number")]
    reorder: f64,
    #[serde(deserialize_with = "number")]
    reorder_corr: f64,
    #[serde(deserialize_with = "number")]
    duplicate: f64,
    #[serde(deserialize_with = "number")]
    duplicate_corr: f64,
}

#[derive(Deserialize)]
struct WireRule {
    #[serde(default)]
    subnet: String,
    #[serde(flatten)]
    shape: WireShape,
}

impl WireShape {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "the numbers are checked before, and an absurd bandwidth saturates, which is no limit"
    )]
    fn checked(&self) -> Result<LinkShape, InvalidNetworkConfig> {
        let percent = |field: &'static str, value: f64| {
            if (0.0..=100.0).contains(&value) {
                return Ok(value as f32);
            }
            Err(InvalidNetworkConfig::Percentage { field, value: value.to_string() })
        };
        let wrong = |field: &'static str, value: f64, wanted: &'static str| {
            InvalidNetworkConfig::Number { field, value: value.to_string(), wanted }
        };
        let duration = |field: &'static str, value: f64| {
            if (0.0..=LONGEST_DELAY.as_nanos() as f64).contains(&value) {
                return Ok(Duration::from_nanos(value as u64));
            }
            Err(wrong(field, value, "nanoseconds from 0 to 30 days"))
        };
        if self.bandwidth < 0.0 {
            let wanted = "bits per second, with 0 for no limit";
            return Err(wrong("bandwidth", self.bandwidth, wanted));
        }
        Ok(LinkShape {
            latency: duration("latency", self.latency)?,
            jitter: duration("jitter", self.jitter)?,
            bandwidth_bps: self.bandwidth as u64,
            filter: match self.filter {
                0.0 => Filter::Accept,
                1.0 => Filter::Reject,
                2.0 => Filter::Drop,
                other => {
                    let wanted = "0 for accept, 1 for reject or 2 for drop";
                    return Err(wrong("filter", other, wanted));
                }
            },
            loss_pct: percent("loss", self.loss)?,
            corrupt_pct: percent("corrupt", self.corrupt)?,
            corrupt_corr_pct: percent("corrupt_corr", self.corrupt_corr)?,
            reorder_pct: percent("reorder", self.reorder)?,
            reorder_corr_pct: percent("reorder_corr", self.reorder_corr)?,
            duplicate_pct: percent("duplicate", self.duplicate)?,
            duplicate_corr_pct: percent("duplicate_corr", self.duplicate_corr)?,
            ..LinkShape::default()
        })
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_rust_crate_sends_is_understood() {
        let sent = br#"{"network":"default","IPv4":null,"IPv6":null,"enable":true,"default":{"latency":100000000,"jitter":0,"bandwidth":1048576,"filter":0,"loss":0.0,"corrupt":0.0,"corrupt_corr":0.0,"reorder":0.0,"reorder_corr":0.0,"duplicate":0.0,"duplicate_corr":0.0},"rules":null,"callback_state":"cfg","callback_target":1,"routing_policy":"deny_all"}"#;
        let config = NetworkConfig::from_testground(sent).expect("a recorded message");
        assert_eq!(config.default.latency, Duration::from_millis(100));
        assert_eq!(config.default.bandwidth_bps, 1_048_576);
        assert_eq!(config.callback_state, "cfg");
        assert_eq!(config.ipv4, None);
    }

    #[test]
    fn what_the_javascript_sdk_sends_is_understood() {
        let sent = br#"{"network":"default","enable":true,"default":{"latency":100000000,"bandwidth":1048576,"filter":2},"rules":[{"subnet":"16.0.0.5/32","filter":2}],"IPv4":"16.0.1.1/12","callback_state":"cfg","callback_target":1,"routing_policy":"allow_all"}"#;
        let config = NetworkConfig::from_testground(sent).expect("a recorded message");
        assert_eq!(config.ipv4, Some("16.0.1.1".parse().expect("an address")));
        assert_eq!(config.rules.len(), 1);
        assert_eq!(config.rules[0].shape.filter, Filter::Drop);
        assert_eq!(config.routing_policy, RoutingPolicy::AllowAll);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let refused = |text: &str| NetworkConfig::from_testground(text.as_bytes()).unwrap_err();
        assert!(matches!(
            refused(r#"{"network":"eth9"}"#),
            InvalidNetworkConfig::UnknownNetwork(name) if name == "eth9"
        ));
        assert!(matches!(
            refused(r#"{"default":{"loss":120}}"#),
            InvalidNetworkConfig::Percentage { field: "loss", .. }
        ));
        for (shape, said) in [
            (r#"{"latency":-1}"#, "`latency` is -1, not nanoseconds from 0 to 30 days"),
            (r#"{"jitter":1e30}"#, "`jitter` is 1000000000000000000000000000000, not nanoseconds"),
            (r#"{"bandwidth":-8}"#, "`bandwidth` is -8, not bits per second"),
            (r#"{"filter":3}"#, "`filter` is 3, not 0 for accept, 1 for reject or 2 for drop"),
        ] {
            let text = refused(&format!(r#"{{"default":{shape}}}"#)).to_string();
            assert!(text.starts_with(said), "{text}");
        }
        assert!(matches!(refused(r#"{"IPv4":"x/16"}"#), InvalidNetworkConfig::Address(_)));
        assert!(matches!(refused(r#"{"IPv6":"fe80::1"}"#), InvalidNetworkConfig::Ipv6(_)));
        assert!(matches!(
            refused(r#"{"IPv4":"16.0.0.2","IPv6":"fd67:7377::1000:3"}"#),
            InvalidNetworkConfig::Apart { .. }
        ));
        assert!(matches!(
            refused(r#"{"rules":[{"subnet":"2001:db8::/64"}]}"#),
            InvalidNetworkConfig::Subnet(_)
        ));
    }

    #[test]
    fn an_address_and_a_rule_may_be_written_in_ipv6() {
        let sent = br#"{"IPv6":"fd67:7377::1000:105/112","rules":[{"subnet":"fd67:7377::1000:0/112","filter":2},{"subnet":"::/0","filter":1}]}"#;
        let config = NetworkConfig::from_testground(sent).expect("it can be done");
        assert_eq!(config.ipv4, Some(Ipv4Addr::new(16, 0, 1, 5)));
        let subnets: Vec<String> =
            config.rules.iter().map(|rule| rule.subnet.to_string()).collect();
        assert_eq!(subnets, ["16.0.0.0/16", "0.0.0.0/0"]);
    }
}
