//! What a node tells without being asked.

use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It listens at another address.
    Listening(Multiaddr),
    /// It does not listen at an address any more.
    ListenerGone(Multiaddr),
    /// It knows an address at which others reach it.
    External(Multiaddr),
    /// A connection stands.
    Connected {
        /// The other end.
        peer: PeerId,
        /// Where the other end is, or came from.
        address: Multiaddr,
        /// Whether this node dialled.
        dialer: bool,
        /// Whether it goes through a relay.
        relayed: bool,
    },
    /// A connection is closed.
    Disconnected {
        /// The other end.
        peer: PeerId,
        /// Whether it went through a relay.
        relayed: bool,
        /// Connections to the same peer that are left.
        left: u32,
        /// What went wrong, if anything did.
        cause: Option<String>,
    },
    /// A dial did not lead to a connection.
    DialFailed {
        /// Who was dialled.
        peer: Option<PeerId>,
        /// What kind of failure.
        kind: DialFailure,
        /// The error.
        error: String,
    },
    /// A peer has said who it is.
    Identified {
        /// The peer.
        peer: PeerId,
        /// What it calls itself.
        agent: String,
        /// The protocols it speaks.
        protocols: Vec<String>,
        /// Where it says it listens.
        listens: Vec<Multiaddr>,
        /// Where it sees this node.
        observed: Multiaddr,
    },
    /// A round trip was measured.
    Ping {
        /// The other end.
        peer: PeerId,
        /// The round trip, or nothing if the ping failed.
        rtt: Option<Duration>,
    },
    /// The node has found out whether it is reachable.
    Autonat(AutonatVerdict),
    /// The node began or ceased to answer Kademlia's queries.
    KadServer(bool),
    /// A relay keeps a place for this node.
    Reserved {
        /// The relay.
        relay: PeerId,
        /// Whether it did already.
        renewal: bool,
    },
    /// Something happened at this node's relay.
    Relay(RelayEvent),
    /// An attempt to turn a relayed connection into a direct one has ended.
    Upgraded {
        /// The other end.
        peer: PeerId,
        /// What went wrong, if anything did.
        error: Option<String>,
    },
    /// A message of a topic.
    Message {
        /// The topic.
        topic: String,
        /// Who sent it first, if that is signed.
        source: Option<PeerId>,
        /// From whom it came.
        from: PeerId,
        /// What it says.
        data: Vec<u8>,
    },
    /// A peer has subscribed to a topic, or left it.
    Subscription {
        /// The peer.
        peer: PeerId,
        /// The topic.
        topic: String,
        /// Whether it subscribed.
        joined: bool,
    },
}

/// Whether a node is reachable from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutonatVerdict {
    /// Nobody could tell yet.
    Unknown,
    /// Others reach it at this address.
    Public(Multiaddr),
    /// Nobody does.
    Private,
}

/// Why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialFailure {
    /// No address was known.
    NoAddress,
    /// Nobody answered in time.
    Timeout,
    /// The host answered that nobody listens.
    Refused,
    /// There is no way there.
    Unreachable,
    /// Somebody else answered.
    WrongPeer,
    /// The node has reason not to, for example a connection that stands.
    Declined,
    /// Anything else.
    Other,
}

impl DialFailure {
    /// The kind's name, for a tag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAddress => "no-address",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::WrongPeer => "wrong-peer",
            Self::Declined => "declined",
            Self::Other => "other",
        }
    }

    /// The kind of an error, told from its text: transports wrap errors in
    /// layers that differ between versions and share nothing but their words.
    pub(crate) fn of_text(text: &str) -> Self {
        let text = text.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if has(&["timeout", "timed out", "timedout"]) {
            Self::Timeout
        } else if has(&["refused"]) {
            Self::Refused
        } else if has(&["unreachable", "no route"]) {
            Self::Unreachable
        } else {
            Self::Other
        }
    }
}

/// Something that happened at a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayEvent {
    /// A peer got or renewed a reservation.
    ReservationAccepted(PeerId),
    /// A peer got none.
    ReservationDenied(PeerId),
    /// A reservation ended.
    ReservationEnded(PeerId),
    /// A circuit was opened.
    CircuitAccepted {
        /// Who asked.
        from: PeerId,
        /// To whom.
        to: PeerId,
    },
    /// A circuit was refused.
    CircuitDenied {
        /// Who asked.
        from: PeerId,
        /// To whom.
        to: PeerId,
    },
    /// A circuit was closed.
    CircuitClosed {
        /// Who asked.
        from: PeerId,
        /// To whom.
        to: PeerId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_their_words() {
        let kinds = [
            ("Connection refused (os error 111)", DialFailure::Refused),
            ("Timeout has been reached", DialFailure::Timeout),
            ("Network is unreachable (os error 101)", DialFailure::Unreachable),
            ("No route to host (os error 113)", DialFailure::Unreachable),
            ("Handshake failed", DialFailure::Other),
        ];
        for (text, kind) in kinds {
            assert_eq!(DialFailure::of_text(text), kind, "{text}");
        }
    }
}
