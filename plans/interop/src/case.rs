//! The cases, and what they are tried with.

use groundswell_sdk::Member;
use serde::Deserialize;

use crate::book::Entry;

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
}

/// The parameters.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct P {
    pub(crate) seed: u64,
    #[serde(default)]
    variants: Vec<String>,
}

impl Case {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Ping,
        Self::Identify,
        Self::KadFind,
        Self::Gossip,
        Self::RelayCircuit,
        Self::NegotiationMatrix,
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
        }
    }

    /// What a listener listens with.
    pub(crate) fn stacks(self, p: &P) -> Vec<String> {
        match self {
            Self::NegotiationMatrix => p.variants.clone(),
            Self::Ping | Self::Identify | Self::KadFind | Self::Gossip | Self::RelayCircuit => {
                vec![PLAIN.to_owned()]
            }
        }
    }

    /// All that is tried: with which stack, or through which relay, which listener is dialled.
    pub(crate) fn attempts(self, p: &P, book: &[Member<Entry>]) -> Vec<(String, u32)> {
        let listeners = || book.iter().map(|member| member.index);
        let each = |variant: String, but: Option<u32>| {
            listeners()
                .filter(move |listener| Some(*listener) != but)
                .map(move |listener| (variant.clone(), listener))
        };
        match self {
            Self::RelayCircuit => {
                listeners().flat_map(|relay| each(via(relay), Some(relay))).collect()
            }
            Self::Ping
            | Self::Identify
            | Self::KadFind
            | Self::Gossip
            | Self::NegotiationMatrix => {
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

    fn book() -> Vec<Member<Entry>> {
        let member = |index| Member { index, group: String::new(), value: Entry::default() };
        (0..3).map(member).collect()
    }

    #[test]
    fn every_listener_is_tried_in_every_variant_but_none_through_itself() {
        let p = P { seed: 1, variants: vec!["a/b/c".to_owned(), "d/e/f".to_owned()] };
        assert_eq!(Case::Ping.attempts(&p, &book()).len(), 3);
        assert_eq!(Case::NegotiationMatrix.attempts(&p, &book()).len(), 6);
        let relayed = Case::RelayCircuit.attempts(&p, &book());
        assert_eq!(relayed.len(), 6);
        assert!(relayed.iter().all(|(variant, listener)| relay(variant) != Some(*listener)));
        assert_eq!(relay(PLAIN), None);
    }
}
