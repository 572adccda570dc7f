//! The cases, and what they are tried with.

use std::time::Duration;

use groundswell_interop::{Blocks, Entry};
use groundswell_p2p::Version;
use groundswell_sdk::Member;
use serde::Deserialize;

use crate::{bitswap, stack};

/// What nodes speak when nothing else is asked of them.
pub(crate) const PLAIN: &str = "tcp/noise/yamux";

/// A case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// A handshake and two pings.
    Ping,
    /// Each says who it is.
    Identify,
    /// The DHT knows where everybody is.
    KadFind,
    /// Messages of a topic arrive.
    Gossip,
    /// Through each other implementation as a relay.
    RelayCircuit,
    /// Transports, securities and muxers.
    NegotiationMatrix,
    /// Blocks from one peer.
    BitswapFetch,
    /// Many blocks from several peers that all have all of them.
    BitswapMany,
    /// From a relay to a direct connection, both ends behind NATs.
    HolePunch,
}

/// The parameters.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct P {
    pub(crate) seed: u64,
    /// What the group is, if it says so.
    #[serde(default)]
    implementation: String,
    #[serde(default)]
    variants: Vec<String>,
    /// Nodes of each listener.
    #[serde(default = "one")]
    nodes: u64,
    #[serde(default)]
    blocks: u32,
    #[serde(default)]
    block_bytes: usize,
}

fn one() -> u64 {
    1
}

impl P {
    /// What the Bitswap cases exchange.
    pub(crate) fn blocks(&self) -> Blocks {
        Blocks { seed: self.seed, count: self.blocks, size: self.block_bytes }
    }
}

impl Case {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Ping,
        Self::Identify,
        Self::KadFind,
        Self::Gossip,
        Self::RelayCircuit,
        Self::NegotiationMatrix,
        Self::BitswapFetch,
        Self::BitswapMany,
        Self::HolePunch,
    ];

    /// The name in the manifest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Identify => "identify",
            Self::KadFind => "kad-find",
            Self::Gossip => "gossip",
            Self::RelayCircuit => "relay-circuit",
            Self::NegotiationMatrix => "negotiation-matrix",
            Self::BitswapFetch => "bitswap-fetch",
            Self::BitswapMany => "bitswap-many",
            Self::HolePunch => "hole-punch",
        }
    }

    /// Whether it is about Bitswap and not about libp2p.
    pub(crate) fn is_bitswap(self) -> bool {
        matches!(self, Self::BitswapFetch | Self::BitswapMany)
    }

    /// What this instance is called in this case, if it runs a version.
    pub(crate) fn implementation(self, version: Version) -> String {
        if self.is_bitswap() {
            bitswap::implementation(version)
        } else {
            stack::implementation(version)
        }
    }

    /// The version that the group asks for by its implementation; without one the oldest of this build.
    pub(crate) fn version(self, p: &P) -> Result<Version, String> {
        if p.implementation.is_empty() {
            return Ok(Version::oldest());
        }
        let names = || Version::ALL.iter().map(|version| self.implementation(*version));
        let found = names().position(|name| name == p.implementation);
        found.map(|place| Version::ALL[place]).ok_or_else(|| {
            let has: Vec<_> = names().collect();
            format!(
                "the group has to be {}, and this build has {}",
                p.implementation,
                has.join(", ")
            )
        })
    }

    /// How long an attempt may take.
    pub(crate) fn limit(self) -> Duration {
        let seconds = match self {
            Self::Ping
            | Self::Identify
            | Self::KadFind
            | Self::Gossip
            | Self::RelayCircuit
            | Self::NegotiationMatrix => 10,
            Self::HolePunch => 15,
            Self::BitswapFetch | Self::BitswapMany => 30,
        };
        Duration::from_secs(seconds)
    }

    /// What a listener listens with.
    pub(crate) fn stacks(self, p: &P) -> Vec<String> {
        match self {
            Self::NegotiationMatrix | Self::HolePunch => p.variants.clone(),
            Self::Ping
            | Self::Identify
            | Self::KadFind
            | Self::Gossip
            | Self::RelayCircuit
            | Self::BitswapFetch
            | Self::BitswapMany => vec![PLAIN.to_owned()],
        }
    }

    /// How many nodes a listener has for each stack.
    pub(crate) fn nodes(self, p: &P) -> u64 {
        if self == Self::BitswapMany { p.nodes.max(1) } else { 1 }
    }

    /// All that an instance tries: with which stack, or through which relay, which listener it dials.
    pub(crate) fn attempts(self, p: &P, book: &[Member<Entry>], dialer: u32) -> Vec<(String, u32)> {
        let relays = |index| book.iter().any(|member| member.index == index && member.value.relay);
        if relays(dialer) {
            return Vec::new();
        }
        let listeners = || book.iter().map(|member| member.index).filter(|index| !relays(*index));
        let each = |variant: String, but: Option<u32>| {
            listeners()
                .filter(move |listener| Some(*listener) != but)
                .map(move |listener| (variant.clone(), listener))
        };
        match self {
            Self::RelayCircuit => {
                listeners().flat_map(|relay| each(via(relay), Some(relay))).collect()
            }
            // Nobody gets through to itself: both ends are behind the same NAT.
            Self::HolePunch => {
                let stacks = self.stacks(p).into_iter();
                stacks.flat_map(|stack| each(stack, Some(dialer))).collect()
            }
            Self::Ping
            | Self::Identify
            | Self::KadFind
            | Self::Gossip
            | Self::NegotiationMatrix
            | Self::BitswapFetch
            | Self::BitswapMany => {
                self.stacks(p).into_iter().flat_map(|stack| each(stack, None)).collect()
            }
        }
    }
}

/// The variant in which an instance is the relay.
pub(crate) fn via(relay: u32) -> String {
    format!("via {relay}")
}

/// The relay of a variant, if it is one with a relay.
pub(crate) fn relay(variant: &str) -> Option<u32> {
    variant.strip_prefix("via ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three instances, and one that relays.
    fn book() -> Vec<Member<Entry>> {
        let member = |index| Member {
            index,
            group: String::new(),
            value: Entry { relay: index == 3, ..Entry::default() },
        };
        (0..4).map(member).collect()
    }

    fn p() -> P {
        let variants = vec!["a/b/c".to_owned(), "d/e/f".to_owned()];
        P { seed: 1, implementation: String::new(), variants, nodes: 4, blocks: 1, block_bytes: 1 }
    }

    #[test]
    fn every_listener_is_tried_in_every_variant_but_none_through_itself() {
        assert_eq!(Case::Ping.attempts(&p(), &book(), 0).len(), 3);
        assert_eq!(Case::NegotiationMatrix.attempts(&p(), &book(), 0).len(), 6);
        let relayed = Case::RelayCircuit.attempts(&p(), &book(), 0);
        assert_eq!(relayed.len(), 6);
        assert!(relayed.iter().all(|(variant, listener)| relay(variant) != Some(*listener)));
        assert_eq!(relay(PLAIN), None);
    }

    #[test]
    fn relays_do_not_take_part_and_nobody_gets_through_to_itself() {
        let punched = Case::HolePunch.attempts(&p(), &book(), 1);
        let expected = [("a/b/c", 0), ("a/b/c", 2), ("d/e/f", 0), ("d/e/f", 2)];
        assert_eq!(punched, expected.map(|(stack, to)| (stack.to_owned(), to)));
        assert!(Case::HolePunch.attempts(&p(), &book(), 3).is_empty());
    }

    #[test]
    fn a_group_is_what_it_says_or_nothing() {
        for version in Version::ALL {
            for case in Case::ALL {
                let p = P { implementation: case.implementation(*version), ..p() };
                assert_eq!(case.version(&p), Ok(*version));
            }
        }
        let other = P { implementation: "rust-libp2p-0.1".to_owned(), ..p() };
        let err = Case::Ping.version(&other).unwrap_err();
        assert!(
            err.contains("has to be rust-libp2p-0.1, and this build has rust-libp2p-0.5"),
            "{err}"
        );
        assert!(
            Case::BitswapFetch
                .version(&P { implementation: "rust-libp2p-0.57".to_owned(), ..p() })
                .is_err()
        );
    }

    #[test]
    fn only_bitswap_many_has_several_nodes() {
        let several: Vec<_> = Case::ALL.into_iter().filter(|case| case.nodes(&p()) > 1).collect();
        assert_eq!(several, [Case::BitswapMany]);
    }
}
