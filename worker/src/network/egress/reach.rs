//! How this host reaches an address. The kernel is asked each time: addresses and routes of a host change.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::frames::Refusal;
use crate::network::netlink::{Netlink, routing_socket};

/// Whether `to` is another host, and this one has a way there.
pub(super) fn judge(to: Ipv4Addr) -> Result<(), Refusal> {
    match route_to(to) {
        Ok(RouteType::Unicast) => Ok(()),
        // An address of this host, be it the second one of an interface, or one that stands for many hosts.
        Ok(_) => Err(Refusal::Prohibited),
        Err(_) => Err(Refusal::Unreachable),
    }
}

fn route_to(to: Ipv4Addr) -> io::Result<RouteType> {
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    question.header.destination_prefix_length = 32;
    question.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(to))];
    let kernel = Netlink::from(routing_socket()?);
    let answer = kernel.get(RouteNetlinkMessage::GetRoute(question))?;
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok(route.header.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_and_of_many_are_no_host() {
        for own in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9), Ipv4Addr::BROADCAST] {
            assert_eq!(judge(own), Err(Refusal::Prohibited), "{own}");
        }
    }
}
