//! What a NAT is: its kind, its networks and its options.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// How a NAT maps and filters. The names are those of RFC 3489 section 5, which applications still use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// Endpoint-independent mapping (RFC 4787 section 4.1) and endpoint-independent filtering (section 5):
    /// once a member has sent from a port, anybody reaches it there.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering: whoever has been sent to may answer, from
    /// any port.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering: only endpoints that have been
    /// sent to may answer.
    PortRestricted,
    /// Address-and-port-dependent mapping, with random ports, and address-and-port-dependent filtering:
    /// another external port for each endpoint. It does not hold RFC 4787 REQ-1, as many in use do not.
    Symmetric,
}

impl NatKind {
    /// All of them, from the most to the least open.
    pub const ALL: [Self; 4] =
        [Self::FullCone, Self::AddressRestricted, Self::PortRestricted, Self::Symmetric];

    /// Its name, as people and compositions write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
        }
    }

    /// Whether a member keeps its external port whomever it sends to (RFC 4787 REQ-1, RFC 5382 REQ-1).
    #[must_use]
    pub fn maps_independent_of_endpoint(self) -> bool {
        self != Self::Symmetric
    }
}

/// What a NAT does with IPv6, which it never translates: its members have addresses that all of the run knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    /// It routes it, and lets in what belongs to a connection from inside (RFC 6092). Everything else is
    /// dropped without a word.
    #[default]
    Firewall,
    /// It routes it, and lets everything in.
    Open,
    /// There is none inside.
    Off,
}

impl Ipv6 {
    /// All of them, from the most to the least usual.
    pub const ALL: [Self; 3] = [Self::Firewall, Self::Open, Self::Off];

    /// Its name, as compositions write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firewall => "firewall",
            Self::Open => "open",
            Self::Off => "off",
        }
    }
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl Transport {
    /// Its name, as people and nftables write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// An external port that always leads to one member, whatever the kind filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// The protocol.
    pub transport: Transport,
    /// The port outside.
    pub port: u16,
    /// Where it leads.
    pub to: SocketAddrV4,
}

/// One NAT, for UDP and TCP alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatSpec {
    /// How it maps and filters.
    pub kind: NatKind,
    /// The network of its members. Its first address is the router's.
    pub lan: Ipv4Net,
    /// For how many seconds a mapping lives without a packet, in either direction (RFC 4787 REQ-5 and REQ-6).
    /// A TCP connection that exists lives as long as the kernel's connection tracking lets it, which is
    /// longer than the two hours and four minutes of RFC 5382 REQ-5.
    pub mapping_timeout_s: u32,
    /// Whether an external port is the same as the inner one where it is free (RFC 4787 section 4.2.1). If
    /// it is not, or this is `false`, the port is a random one. Symmetric NATs never preserve ports.
    pub preserve_ports: bool,
    /// Whether members reach each other at their external addresses (RFC 4787 REQ-9). What comes from inside is
    /// not filtered. A symmetric NAT has no mapping that others could use, so there it is for
    /// [`NatSpec::forwards`] only.
    pub hairpin: bool,
    /// Ports that lead inside from the start. In IPv6, where ports are not translated, the port of the member
    /// is open.
    pub forwards: Vec<PortForward>,
    /// What becomes of IPv6.
    #[serde(default)]
    pub ipv6: Ipv6,
}

/// Why a NAT cannot be as it was specified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecRefused {
    /// The NAT could not tell inside from outside.
    #[error("the NAT's inner network {lan} overlaps the network {wan} outside of it")]
    Overlap {
        /// Inside.
        lan: Ipv4Net,
        /// Outside.
        wan: Ipv4Net,
    },
    /// There is no room for a member.
    #[error("the NAT's inner network {0} has no room: at most 30 bits of prefix")]
    NoRoom(Ipv4Net),
    /// A member's address that a member cannot have.
    #[error("{address} cannot be the address of a member of the NAT's inner network {lan}")]
    Member {
        /// The address.
        address: Ipv4Addr,
        /// Inside.
        lan: Ipv4Net,
    },
    /// Another member has the address.
    #[error("{0} is taken by another member of the NAT")]
    Taken(Ipv4Addr),
    /// Two forwards of one port.
    #[error("{} port {port} is forwarded twice by the NAT", .transport.as_str())]
    ForwardedTwice {
        /// The protocol.
        transport: Transport,
        /// The port outside.
        port: u16,
    },
    /// Port 0 is not a port.
    #[error("a NAT cannot forward from or to port 0")]
    PortZero,
    /// Mappings have to live.
    #[error("the mapping timeout of a NAT is at least one second and at most 30 days")]
    Timeout,
}

/// 30 days: nftables and connection tracking count in milliseconds and fewer bits than a `u32` of seconds.
const LONGEST_TIMEOUT_S: u32 = 30 * 24 * 3600;

impl NatSpec {
    /// A NAT that preserves ports, hairpins, keeps mappings for five minutes, the recommendation of
    /// RFC 4787 REQ-5, and has a firewall for IPv6.
    #[must_use]
    pub fn new(kind: NatKind, lan: Ipv4Net) -> Self {
        let lan = lan.trunc();
        Self {
            kind,
            lan,
            mapping_timeout_s: 300,
            preserve_ports: true,
            hairpin: true,
            forwards: Vec::new(),
            ipv6: Ipv6::default(),
        }
    }

    /// The router's address inside.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.lan.network().to_bits() + 1)
    }

    /// Checks it all against the network outside.
    ///
    /// # Errors
    ///
    /// Says the first thing that is wrong.
    pub fn check(&self, wan: Ipv4Net) -> Result<(), SpecRefused> {
        let lan = self.lan;
        if lan.prefix_len() > 30 {
            return Err(SpecRefused::NoRoom(lan));
        }
        if lan.contains(&wan) || wan.contains(&lan) {
            return Err(SpecRefused::Overlap { lan, wan: wan.trunc() });
        }
        if !(1..=LONGEST_TIMEOUT_S).contains(&self.mapping_timeout_s) {
            return Err(SpecRefused::Timeout);
        }
        for (index, forward) in self.forwards.iter().enumerate() {
            let PortForward { transport, port, to } = *forward;
            if port == 0 || to.port() == 0 {
                return Err(SpecRefused::PortZero);
            }
            self.check_member(*to.ip())?;
            let same = |other: &PortForward| (other.transport, other.port) == (transport, port);
            if self.forwards[..index].iter().any(same) {
                return Err(SpecRefused::ForwardedTwice { transport, port });
            }
        }
        Ok(())
    }

    /// Checks whether a member may have an address.
    ///
    /// # Errors
    ///
    /// When it is not in the inner network, or is the router's, the network's or its broadcast address.
    pub fn check_member(&self, address: Ipv4Addr) -> Result<(), SpecRefused> {
        let lan = self.lan;
        let reserved = [lan.network(), self.gateway(), lan.broadcast()];
        if lan.contains(&address) && !reserved.contains(&address) {
            return Ok(());
        }
        Err(SpecRefused::Member { address, lan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> NatSpec {
        NatSpec::new(NatKind::FullCone, "192.168.1.7/24".parse().expect("a network"))
    }

    fn check(spec: &NatSpec) -> Result<(), SpecRefused> {
        spec.check("16.0.0.2/16".parse().expect("a network"))
    }

    fn forward(port: u16, to: [u8; 4]) -> PortForward {
        PortForward { transport: Transport::Tcp, port, to: SocketAddrV4::new(to.into(), 1) }
    }

    #[test]
    fn the_router_has_the_first_address() {
        assert_eq!(home().gateway(), Ipv4Addr::new(192, 168, 1, 1));
        assert_eq!(check(&home()), Ok(()));
    }

    #[test]
    fn inside_and_outside_do_not_overlap() {
        for lan in ["16.0.0.0/24", "16.0.0.0/8", "0.0.0.0/0"] {
            let spec = NatSpec { lan: lan.parse().expect("a network"), ..home() };
            assert!(matches!(check(&spec), Err(SpecRefused::Overlap { .. })), "{lan}");
        }
        let spec = NatSpec { lan: "10.0.0.0/31".parse().expect("a network"), ..home() };
        assert!(matches!(check(&spec), Err(SpecRefused::NoRoom(_))));
    }

    #[test]
    fn members_have_addresses_of_members() {
        for last in [0, 1, 255] {
            let address = Ipv4Addr::new(192, 168, 1, last);
            let lan = home().lan;
            assert_eq!(home().check_member(address), Err(SpecRefused::Member { address, lan }));
        }
        assert_eq!(home().check_member(Ipv4Addr::new(192, 168, 1, 2)), Ok(()));
        let outside = home().check_member(Ipv4Addr::new(192, 168, 2, 2));
        assert!(matches!(outside, Err(SpecRefused::Member { .. })));
    }

    #[test]
    fn forwards_lead_to_members_and_once() {
        let with = |forwards| check(&NatSpec { forwards, ..home() });
        let inside = [192, 168, 1, 2];
        assert_eq!(with(vec![forward(80, inside), forward(81, inside)]), Ok(()));
        let twice = with(vec![forward(80, inside), forward(80, inside)]).expect_err("refused");
        assert_eq!(twice.to_string(), "tcp port 80 is forwarded twice by the NAT");
        assert_eq!(with(vec![forward(0, inside)]), Err(SpecRefused::PortZero));
        let outside = with(vec![forward(80, [192, 168, 2, 2])]);
        assert!(matches!(outside, Err(SpecRefused::Member { .. })));
    }

    #[test]
    fn a_mapping_lives_at_least_a_second() {
        for mapping_timeout_s in [0, u32::MAX] {
            let spec = NatSpec { mapping_timeout_s, ..home() };
            assert_eq!(check(&spec), Err(SpecRefused::Timeout));
        }
    }

    #[test]
    fn kinds_are_written_as_people_do() {
        let named = serde_json::to_string(&NatKind::ALL).expect("json");
        assert_eq!(named, r#"["full-cone","address-restricted","port-restricted","symmetric"]"#);
        assert_eq!(named, format!("{:?}", NatKind::ALL.map(NatKind::as_str)).replace(", ", ","));
        let named = serde_json::to_string(&Ipv6::ALL).expect("json");
        assert_eq!(named, format!("{:?}", Ipv6::ALL.map(Ipv6::as_str)).replace(", ", ","));
    }
}
