//! Kinds of instances, and which of them reach each other directly.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an instance can be reached, in the words of the parameter `class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Class {
    /// Relays for others. Everybody reaches it over everything.
    Relay,
    /// Everybody who may dial it reaches it.
    Public,
    /// It listens, and nothing comes in that it did not ask for. It dials whom it likes.
    Undialable,
    /// Nothing goes between it and anybody but relays.
    RelayOnly,
    /// Nothing goes between it and anybody but friends and relays.
    Selective,
    /// A friend of the selective.
    Friend,
    /// No friend of theirs.
    Stranger,
    /// It has IPv4 only.
    Ipv4,
    /// It has IPv6 only.
    Ipv6,
    /// It speaks TCP only.
    Tcp,
    /// It speaks QUIC only.
    Quic,
    /// It can be reached, then it cannot, and so on.
    Flipper,
}

impl Class {
    /// All of them.
    #[cfg(test)]
    const ALL: [Self; 12] = [
        Self::Relay,
        Self::Public,
        Self::Undialable,
        Self::RelayOnly,
        Self::Selective,
        Self::Friend,
        Self::Stranger,
        Self::Ipv4,
        Self::Ipv6,
        Self::Tcp,
        Self::Quic,
        Self::Flipper,
    ];

    /// Whether anything may go between it and an instance of another kind.
    pub(crate) fn talks_to(self, other: Self) -> bool {
        match self {
            _ if other == Self::Relay || self == Self::Relay => true,
            Self::RelayOnly => false,
            Self::Selective => other == Self::Friend,
            Self::Ipv4 => other != Self::Ipv6,
            Self::Ipv6 => other != Self::Ipv4,
            Self::Tcp => other != Self::Quic,
            Self::Quic => other != Self::Tcp,
            Self::Relay
            | Self::Public
            | Self::Undialable
            | Self::Friend
            | Self::Stranger
            | Self::Flipper => true,
        }
    }

    /// Whether a dial from it to `other` leads to a connection without a relay.
    pub(crate) fn dials(self, other: Self) -> bool {
        self.talks_to(other) && other.talks_to(self) && other != Self::Undialable
    }

    /// Whether others may need a relay to reach it.
    pub(crate) fn needs_relay(self) -> bool {
        !matches!(self, Self::Relay | Self::Public | Self::Friend | Self::Flipper)
    }

    /// Whether it keeps others away by a network configuration.
    pub(crate) fn filters(self) -> bool {
        matches!(self, Self::RelayOnly | Self::Selective)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Public => "public",
            Self::Undialable => "undialable",
            Self::RelayOnly => "relay-only",
            Self::Selective => "selective",
            Self::Friend => "friend",
            Self::Stranger => "stranger",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Flipper => "flipper",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Class::{self, *};

    #[test]
    fn who_dials_whom() {
        let yes = [
            (Undialable, Public),
            (Selective, Friend),
            (Friend, Selective),
            (Ipv4, Public),
            (Tcp, Tcp),
        ];
        let no = [
            (Public, Undialable),
            (Undialable, Undialable),
            (Public, RelayOnly),
            (RelayOnly, Public),
            (Stranger, Selective),
            (Selective, Stranger),
            (Selective, Selective),
            (Ipv4, Ipv6),
            (Quic, Tcp),
        ];
        for (from, to) in yes {
            assert!(from.dials(to), "{from} to {to}");
        }
        for (from, to) in no {
            assert!(!from.dials(to), "{from} to {to}");
        }
    }

    #[test]
    fn everybody_reaches_relays_and_is_reached_by_them_if_it_listens_for_all() {
        for class in Class::ALL {
            assert!(class.dials(Relay), "{class}");
            assert_eq!(Relay.dials(class), class != Undialable, "{class}");
        }
    }

    #[test]
    fn whoever_some_cannot_dial_has_a_place_at_a_relay() {
        let known = [Public, Undialable, RelayOnly, Selective, Friend, Stranger];
        for to in known {
            if [Public, Friend, Stranger].iter().any(|from| !from.dials(to)) {
                assert!(to.needs_relay(), "{to}");
            }
        }
    }
}
