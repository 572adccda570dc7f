//! The addresses of a data interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use groundswell_common::addresses::{COUNTERPART_BITS, counterpart};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use nix::libc;

use super::netlink::Netlink;

/// What is there already is left as it is.
const ADD: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// Gives the interface with this number an address and its counterpart in IPv6, and takes all others from it. A
/// kernel without IPv6 gets the one only.
pub(super) fn set_addresses(
    netlink: &Netlink,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> io::Result<()> {
    let wanted = [IpAddr::V4(address), IpAddr::V6(counterpart(address))];
    let mut missing = wanted.to_vec();
    for had in addresses(netlink, index)? {
        let kept = local(&had).filter(|local| wanted.contains(local));
        if let Some(kept) = kept {
            missing.retain(|address| *address != kept);
            continue;
        }
        // First the old one goes: it would take the new one along, which is second to it.
        if let Some(IpAddr::V6(old)) = local(&had) {
            // It went with the interface, if that was down in between.
            let _gone = netlink.ask(Message::DelRoute(to_self(index, old)), 0);
        }
        netlink.ask(Message::DelAddress(had), 0)?;
    }
    for address in missing {
        let add = Message::NewAddress(message(index, address, prefix));
        match (netlink.ask(add, ADD), address) {
            (Err(err), IpAddr::V6(_)) if is_without_ipv6(&err) => continue,
            (other, _) => other?,
        }
        if let IpAddr::V6(own) = address {
            netlink.ask(Message::NewRoute(to_self(index, own)), ADD)?;
        }
    }
    // The address may have stayed and this have gone, with the interface when that was down.
    netlink.ask(Message::NewRoute(to_groups(index)), ADD)
}

/// What is sent to many leaves here, without the application naming the interface.
fn to_groups(index: u32) -> RouteMessage {
    let mut route = route(index, RouteType::Unicast, RouteHeader::RT_TABLE_MAIN);
    route.header.address_family = AddressFamily::Inet;
    route.header.scope = RouteScope::Link;
    route.header.destination_prefix_length = 4;
    let groups = RouteAddress::Inet(Ipv4Addr::new(224, 0, 0, 0));
    route.attributes.push(RouteAttribute::Destination(groups));
    route
}

/// The kernel adds this route itself, but later, when a thread of its own has time. Until then what is sent to the
/// address would be dropped.
pub(super) fn to_self(index: u32, own: Ipv6Addr) -> RouteMessage {
    let mut route = route(index, RouteType::Local, libc::RT_TABLE_LOCAL);
    route.header.address_family = AddressFamily::Inet6;
    route.header.destination_prefix_length = 128;
    route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(own)));
    route
}

fn route(index: u32, kind: RouteType, table: u8) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.kind = kind;
    route.header.table = table;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.attributes.push(RouteAttribute::Oif(index));
    route
}

fn is_without_ipv6(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES))
}

fn message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    if address.is_ipv6() {
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = prefix + COUNTERPART_BITS;
        // The run's table says who has an address; there is nobody to ask.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

fn addresses(netlink: &Netlink, index: u32) -> io::Result<Vec<AddressMessage>> {
    let all = netlink.dump(Message::GetAddress(AddressMessage::default()))?;
    let of_it = |message| {
        if let Message::NewAddress(address) = message { Some(address) } else { None }
    };
    let ours = |address: &AddressMessage| address.header.index == index;
    Ok(all.into_iter().filter_map(of_it).filter(ours).collect())
}

/// An address itself; in IPv6 without a peer it stands where IPv4 has the peer.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let local = |attribute: &AddressAttribute| {
        if let AddressAttribute::Local(local) = attribute { Some(*local) } else { None }
    };
    let peer = |attribute: &AddressAttribute| {
        if let AddressAttribute::Address(peer) = attribute { Some(*peer) } else { None }
    };
    let attributes = &message.attributes;
    attributes.iter().find_map(local).or_else(|| attributes.iter().find_map(peer))
}
