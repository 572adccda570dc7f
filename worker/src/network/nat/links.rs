//! Interfaces, addresses and routes of the calling thread's network namespace, by netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use nix::poll::poll;

use crate::network::netlink::{Netlink, routing_socket};

/// Milliseconds the kernel may take to notice a carrier.
const CARRIER_PATIENCE: u32 = 10_000;

/// A pair of interfaces: what goes into one comes out of the other.
pub(super) struct Pair<'a> {
    /// The end in this namespace.
    pub(super) here: &'a str,
    /// Its hardware address.
    pub(super) hardware: [u8; 6],
    /// The end in the other one.
    pub(super) there: &'a str,
    /// The other namespace.
    pub(super) namespace: BorrowedFd<'a>,
    /// Largest packet of both, in bytes.
    pub(super) mtu: u16,
}

/// Speaks to the kernel about one namespace.
pub(super) struct Links {
    netlink: Netlink,
}

impl Links {
    /// Of the calling thread's namespace.
    pub(super) fn here() -> io::Result<Self> {
        Ok(Self { netlink: routing_socket()?.into() })
    }

    /// Adds a bridge with a hardware address of its own. Without one it takes that of a port, and another one
    /// when that port goes; what its neighbours send to the former one is lost until they ask again.
    pub(super) fn add_bridge(&self, name: &str, mtu: u16, hardware: [u8; 6]) -> io::Result<()> {
        let mut link = named(name, mtu);
        link.attributes.push(LinkAttribute::Address(hardware.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(super) fn add_pair(&self, pair: &Pair<'_>) -> io::Result<()> {
        let mut peer = named(pair.there, pair.mtu);
        peer.attributes.push(LinkAttribute::NetNsFd(pair.namespace.as_raw_fd()));
        let mut link = named(pair.here, pair.mtu);
        link.attributes.push(LinkAttribute::Address(pair.hardware.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Waits until an interface sends what it is given. An interface that is opened before it has a carrier
    /// drops everything until the kernel's link watch, which works on its own, has seen the carrier; on a busy
    /// host that takes a while.
    pub(super) fn wait_until_it_sends(&self, name: &str) -> io::Result<()> {
        for _ in 0..CARRIER_PATIENCE {
            if self.state(name)? == State::Up {
                return Ok(());
            }
            // A pause of a millisecond; there is nothing to poll for.
            let _timed_out = poll(&mut [], 1_u8);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("`{name}` gets no carrier")))
    }

    fn state(&self, name: &str) -> io::Result<State> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        let RouteNetlinkMessage::NewLink(link) =
            self.netlink.get(RouteNetlinkMessage::GetLink(link))?
        else {
            return Err(io::Error::other("the kernel does not tell of an interface"));
        };
        let state = link.attributes.into_iter().find_map(|one| {
            if let LinkAttribute::OperState(state) = one { Some(state) } else { None }
        });
        Ok(state.unwrap_or(State::Unknown))
    }

    /// Makes an interface a port of a bridge, and takes it up.
    pub(super) fn add_port(&self, name: &str, bridge: &str) -> io::Result<()> {
        let mut link = up(name)?;
        link.attributes.push(LinkAttribute::Controller(index(bridge)?));
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(super) fn set_up(&self, name: &str) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::SetLink(up(name)?), 0)
    }

    pub(super) fn set_mtu(&self, name: &str, mtu: u16) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        link.attributes = vec![LinkAttribute::Mtu(mtu.into())];
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Adds an address with the prefix length of its network.
    pub(super) fn add_address(&self, name: &str, address: Ipv4Net) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix_len();
        message.header.index = index(name)?;
        let ip = IpAddr::V4(address.addr());
        message.attributes = vec![
            AddressAttribute::Local(ip),
            AddressAttribute::Address(ip),
            AddressAttribute::Broadcast(address.broadcast()),
        ];
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(super) fn remove_address(&self, name: &str, address: Ipv4Net) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix_len();
        message.header.index = index(name)?;
        message.attributes = vec![AddressAttribute::Local(IpAddr::V4(address.addr()))];
        self.ask(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Adds the default route, to a gateway.
    pub(super) fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let to = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        self.add_default(to, RouteScope::Universe)
    }

    /// Adds the default route, to whatever takes packets from an interface.
    pub(super) fn add_default_route_into(&self, name: &str) -> io::Result<()> {
        self.add_default(RouteAttribute::Oif(index(name)?), RouteScope::Link)
    }

    fn add_default(&self, to: RouteAttribute, scope: RouteScope) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        route.attributes = vec![to];
        self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(super) fn ask(&self, what: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.netlink.ask(what, flags)
    }
}

fn named(name: &str, mtu: u16) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu.into())];
    link
}

fn up(name: &str) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = index(name)?;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    Ok(link)
}

/// The number of an interface of the calling thread's namespace.
pub(super) fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}
