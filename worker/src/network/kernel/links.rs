//! The interfaces, addresses, routes and neighbors of the two namespaces that an instance's link has ends in.
//!
//! ```text
//! instance                                     router
//! eth1  16.0.0.2/16  16.0.0.0/16 via 16.0.0.1 ── i0   16.0.0.2/32 via 169.254.0.1
//! ```
//!
//! Both ends know each other's hardware address from the start, so there is no ARP: it would be delayed by
//! the shape, and the kernel's table of neighbors, which all namespaces share, has room for a thousand.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcStats2};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::tc::Part;
use crate::network::netlink::Netlink;

/// The router's end of every link, and the instance's.
const OUTER: [u8; 6] = [0x02, 0x67, 0x73, 0, 0, 1];
const INNER: [u8; 6] = [0x02, 0x67, 0x73, 0, 0, 2];
/// Stands for the instance at the other end of a router's interface, whatever its address is.
const INSTANCE: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// As many segments as a superpacket can have.
const ANY_SEGMENTS: u32 = 65_535;

/// What one qdisc has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) drops: u64,
    pub(super) waiting: u64,
}

/// An interface as it is at the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) index: u32,
    /// Whether packets pass it.
    pub(super) running: bool,
    pub(super) stats: Stats64,
}

impl End {
    fn of(message: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(link) = message else { return None };
        let stats = link.attributes.into_iter().find_map(|attribute| {
            let LinkAttribute::Stats64(stats) = attribute else { return None };
            Some(stats)
        });
        let running = link.header.flags.contains(LinkFlags::Running);
        Some(Self { index: link.header.index, running, stats: stats? })
    }

    /// What the other end has sent.
    pub(super) fn sent(&self) -> Counted {
        let Stats64 { rx_packets, rx_bytes, .. } = self.stats;
        Counted { packets: rx_packets, bytes: rx_bytes, ..Counted::default() }
    }
}

/// A pair of interfaces: one in the router, one in an instance.
pub(super) struct Pair<'a> {
    pub(super) outer: &'a str,
    pub(super) inner: &'a str,
    /// The instance's namespace.
    pub(super) namespace: OwnedFd,
    pub(super) mtu: u16,
    /// The interface group of the outer one.
    pub(super) group: u32,
}

impl Netlink {
    pub(super) fn add_pair(&self, pair: &Pair<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.inner.to_owned()),
            LinkAttribute::Mtu(pair.mtu.into()),
            LinkAttribute::Address(INNER.to_vec()),
            LinkAttribute::NetNsFd(pair.namespace.as_fd().as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(pair.outer.to_owned()),
            LinkAttribute::Mtu(pair.mtu.into()),
            LinkAttribute::Address(OUTER.to_vec()),
            LinkAttribute::Group(pair.group),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// An interface by its name.
    pub(super) fn interface(&self, name: &str) -> io::Result<End> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let found = self.get(RouteNetlinkMessage::GetLink(link))?;
        End::of(found).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// All interfaces of the namespace.
    pub(super) fn interfaces(&self) -> io::Result<Vec<End>> {
        let all = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(all.into_iter().filter_map(End::of).collect())
    }

    /// Takes an interface up or down.
    pub(super) fn set_interface(&self, index: u32, up: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Says whether the connections over an interface may hand it superpackets.
    pub(super) fn set_superpackets(&self, index: u32, allowed: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let segments = if allowed { ANY_SEGMENTS } else { 1 };
        link.attributes = vec![LinkAttribute::GsoMaxSegs(segments)];
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives an interface an address that brings no route with it.
    pub(super) fn add_address(&self, index: u32, address: Ipv4Net) -> io::Result<()> {
        let mut message = address_message(index, address);
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        if address.prefix_len() < 31 {
            message.attributes.push(AddressAttribute::Broadcast(address.broadcast()));
        }
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(super) fn remove_address(&self, index: u32, address: Ipv4Net) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::DelAddress(address_message(index, address)), 0)
    }

    /// In an instance: everything of the run's subnet is behind the gateway.
    pub(super) fn route_subnet(
        &self,
        index: u32,
        address: Ipv4Net,
        gateway: Ipv4Addr,
    ) -> io::Result<()> {
        self.set_neighbor(index, gateway, OUTER)?;
        let mut route = route_to(address.trunc(), index, gateway);
        route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(address.addr())));
        self.set_route(route)
    }

    /// In a router: an address is behind an interface.
    pub(super) fn route_instance(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        self.set_neighbor(index, INSTANCE, INNER)?;
        self.set_route(route_to(address.into(), index, INSTANCE))
    }

    /// In a router: an address is nowhere any more.
    pub(super) fn remove_route(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let route = route_to(address.into(), index, INSTANCE);
        self.ask(RouteNetlinkMessage::DelRoute(route), 0)
    }

    /// In a router: packets to where nobody is vanish.
    pub(super) fn drop_the_rest(&self) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::BlackHole,
            ..RouteHeader::default()
        };
        self.set_route(route)
    }

    /// Makes a qdisc or class, or changes it.
    pub(super) fn set_part(&self, index: u32, part: &Part, new: bool) -> io::Result<()> {
        let flags = if new { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
        self.ask(part.message(signed(index)?), flags)
    }

    pub(super) fn remove_part(&self, index: u32, part: &Part) -> io::Result<()> {
        self.ask(part.removal(signed(index)?), 0)
    }

    /// What all qdiscs of the namespace have counted: interface, handle, counts.
    pub(super) fn queues(&self) -> io::Result<Vec<(u32, TcHandle, Counted)>> {
        let all = self.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        let each = all.into_iter().filter_map(|message| {
            let RouteNetlinkMessage::NewQueueDiscipline(tc) = message else { return None };
            Some((tc.header.index.cast_unsigned(), tc.header.handle, counted(&tc)))
        });
        Ok(each.collect())
    }

    fn set_neighbor(&self, index: u32, address: Ipv4Addr, hardware: [u8; 6]) -> io::Result<()> {
        let mut neighbor = NeighbourMessage::default();
        neighbor.header.family = AddressFamily::Inet;
        neighbor.header.ifindex = index;
        neighbor.header.state = NeighbourState::Permanent;
        neighbor.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(hardware.to_vec()),
        ];
        self.ask(RouteNetlinkMessage::NewNeighbour(neighbor), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn set_route(&self, route: RouteMessage) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
    }
}

fn address_message(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    let ip = IpAddr::V4(address.addr());
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn route_to(net: Ipv4Net, index: u32, gateway: Ipv4Addr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: net.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        flags: RouteFlags::Onlink,
        ..RouteHeader::default()
    };
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(net.addr())),
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(index),
    ];
    route
}

fn counted(tc: &TcMessage) -> Counted {
    let mut counted = Counted::default();
    for attribute in &tc.attributes {
        let TcAttribute::Stats2(stats) = attribute else { continue };
        for one in stats {
            if let TcStats2::Basic(basic) = one {
                (counted.packets, counted.bytes) = (basic.packets.into(), basic.bytes);
            }
            if let TcStats2::Queue(queue) = one {
                (counted.drops, counted.waiting) = (queue.drops.into(), queue.qlen.into());
            }
        }
    }
    counted
}

fn signed(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(io::Error::other)
}
