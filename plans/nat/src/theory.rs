//! What theory says of NATs: who is reachable, and which pairs get through to each other.
//!
//! A NAT does two things. It *maps*: an inner port gets an outer one, the same for all destinations or another one for
//! each. And it *filters*: what comes to the outer port is let in from anybody, from addresses that were sent to, or
//! from addresses and ports that were sent to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an instance is behind, in the words of compositions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Nat {
    /// Nothing: it has an address of the run's network.
    None,
    /// One outer port for all, and everybody may send to it.
    FullCone,
    /// One outer port for all; whoever has an address that was sent to may send to it.
    AddressRestricted,
    /// One outer port for all, and only answers come in.
    PortRestricted,
    /// An outer port for each destination, and only answers come in.
    Symmetric,
    /// Two in a row, both port-restricted.
    Cgnat,
    /// Two in a row, the outer one symmetric.
    CgnatSymmetric,
}

/// Who may send to an outer port: all, those at addresses that were sent to, or those that were sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Open {
    All,
    Addresses,
    Answers,
}

impl Nat {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Cgnat,
        Self::CgnatSymmetric,
    ];

    /// Whether others can know the outer port before it sends to them.
    fn is_predictable(self) -> bool {
        !matches!(self, Self::Symmetric | Self::CgnatSymmetric)
    }

    fn open(self) -> Open {
        match self {
            Self::None | Self::FullCone => Open::All,
            Self::AddressRestricted => Open::Addresses,
            Self::PortRestricted | Self::Symmetric | Self::Cgnat | Self::CgnatSymmetric => {
                Open::Answers
            }
        }
    }

    /// Whether a stranger reaches whoever is behind it, once that one has sent anything.
    pub(crate) fn is_public(self) -> bool {
        self.open() == Open::All
    }

    /// Whether AutoNAT takes it for reachable. Its servers ask from an address that was sent to, so it does not see
    /// a filter that goes by addresses.
    pub(crate) fn seems_public(self) -> bool {
        self.open() <= Open::Addresses
    }

    /// Whether two that know each other's observed addresses and send at the same time get through.
    pub(crate) fn punches(self, other: Self) -> bool {
        match (self.is_predictable(), other.is_predictable()) {
            // Each knows where to send, and what it sends lets the answer in.
            (true, true) => true,
            // Nobody knows where to send.
            (false, false) => false,
            // What comes from the side that has a port for each destination comes from a port that nobody has sent
            // to, although its address is known.
            (true, false) => self.open() <= Open::Addresses,
            (false, true) => other.open() <= Open::Addresses,
        }
    }
}

/// Whether a dialer and a listener of DCUtR get through.
///
/// It is the dialer that has to: what the listener sends opens its own NAT, and is no dial of which a connection could
/// come, because both ends would take themselves for the one that was dialled. So a listener whose port nobody knows
/// stays at its relay, although the books would let it reach a dialer in the open.
pub(crate) fn dcutr_punches(dialer: Nat, listener: Nat) -> bool {
    listener.is_predictable() && dialer.punches(listener)
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Cgnat => "cgnat",
            Self::CgnatSymmetric => "cgnat-symmetric",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Nat, dcutr_punches};

    #[test]
    fn the_matrix_is_as_in_the_books() {
        use Nat::{AddressRestricted, FullCone, None, PortRestricted, Symmetric};
        let kinds = [None, FullCone, AddressRestricted, PortRestricted, Symmetric];
        let rows: Vec<String> = kinds
            .iter()
            .map(|a| kinds.iter().map(|b| if a.punches(*b) { 'd' } else { 'r' }).collect())
            .collect();
        assert_eq!(rows, ["ddddd", "ddddd", "ddddd", "ddddr", "dddrr"]);
    }

    #[test]
    fn dcutr_does_less_than_the_books_for_a_symmetric_listener_alone() {
        for dialer in Nat::ALL {
            for listener in Nat::ALL {
                let does = dcutr_punches(dialer, listener);
                assert!(dialer.punches(listener) || !does, "{dialer} to {listener}");
                if does != dialer.punches(listener) {
                    assert!(!listener.is_predictable(), "{dialer} to {listener}");
                }
            }
        }
        assert!(dcutr_punches(Nat::Symmetric, Nat::None));
        assert!(!dcutr_punches(Nat::None, Nat::Symmetric));
    }

    #[test]
    fn it_does_not_matter_who_begins() {
        for a in Nat::ALL {
            for b in Nat::ALL {
                assert_eq!(a.punches(b), b.punches(a), "{a} and {b}");
            }
        }
    }

    #[test]
    fn autonat_errs_on_one_kind_alone() {
        let wrong: Vec<Nat> =
            Nat::ALL.into_iter().filter(|nat| nat.is_public() != nat.seems_public()).collect();
        assert_eq!(wrong, [Nat::AddressRestricted]);
    }
}
