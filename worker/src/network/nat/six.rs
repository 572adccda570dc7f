//! IPv6 between a router and its members, with nothing to be found out on the wire.
//!
//! Who is a neighbour is written down beforehand, and a hardware address follows from the address in the router's
//! network, so no packet waits until somebody has answered a question about it:
//!
//! ```text
//! instance    its address, default via fe80::1
//!    │
//!   lan       fe80::1, each address behind a member via that member
//!  router
//!   wan       default via fe80::1, or into the data network
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::{Links, index};
use crate::network::interface;
use crate::network::namespace::set_all;

/// A router, for its members.
pub(super) const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Bits of an address that stands for itself.
const HOST: u8 = 128;

/// A member, for its router.
pub(super) fn member(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(address.to_bits()))
}

/// Whether this host has IPv6.
pub(super) fn is_there() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Lets an interface of the calling thread's namespace have IPv6, and no address of its own making.
pub(super) fn allow(name: &str) -> io::Result<()> {
    let files = ["addr_gen_mode", "disable_ipv6"].map(|file| format!("ipv6/conf/{name}/{file}"));
    set_all(&[(&files[0], "1"), (&files[1], "0")])
}

impl Links {
    /// Adds an address that nobody else can have.
    pub(super) fn add_address_v6(&self, name: &str, address: Ipv6Addr) -> io::Result<()> {
        let index = index(name)?;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = HOST;
        message.header.index = index;
        message.header.flags = AddressHeaderFlags::Nodad;
        let ip = IpAddr::V6(address);
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)?;
        let to_self = RouteNetlinkMessage::NewRoute(interface::to_self(index, address));
        self.ask(to_self, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Says who has an address beyond an interface.
    pub(super) fn add_neighbour(
        &self,
        name: &str,
        address: Ipv6Addr,
        hardware: [u8; 6],
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.ifindex = index(name)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)),
            NeighbourAttribute::LinkLayerAddress(hardware.to_vec()),
        ];
        self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds the way to an address, or to all that have none of their own, through an interface and the neighbour
    /// `via` there. Without one whatever takes packets from the interface gets them.
    pub(super) fn add_route_v6(
        &self,
        to: Option<Ipv6Addr>,
        name: &str,
        via: Option<Ipv6Addr>,
    ) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet6,
            destination_prefix_length: to.map_or(0, |_| HOST),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        let to = to.map(|to| RouteAttribute::Destination(RouteAddress::Inet6(to)));
        let via = via.map(|via| RouteAttribute::Gateway(RouteAddress::Inet6(via)));
        route.attributes =
            to.into_iter().chain(via).chain([RouteAttribute::Oif(index(name)?)]).collect();
        self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
    }
}
