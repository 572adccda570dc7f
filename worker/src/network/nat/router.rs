//! Makes router namespaces and joins members to them.
//!
//! Whatever is done in a namespace is done by a thread that ends in it, so that no other code ever runs
//! there. A router's namespace lives as long as somebody has it open: the [`Router`], and whoever reads the
//! device of its `wan`. When both are gone the kernel removes it, and with it the interfaces of its members.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnet::Ipv4Net;

use super::links::{self, Links, Pair};
use super::rules::{WAN, ruleset};
use super::{NatError, Routed, firewall, nft, six};
use crate::network::namespace::{fresh, inside, set_all};
use crate::network::wire::open_device;
use groundswell_common::nat::{Ipv6, NatKind, NatSpec, SpecRefused};

/// The bridge that the members of a router are plugged into.
const LAN: &str = "lan";

/// Kernel settings of a router, besides forwarding: no foreign source passes it, and it does not tell a member
/// to reach another one directly when the path is a hairpin.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// A NAT in a network namespace of its own.
#[derive(Debug)]
pub struct Router {
    namespace: File,
    spec: NatSpec,
    routed: Routed,
    /// Its address outside, in the network that is there.
    outside: Ipv4Net,
    /// Where its default route leads, when it is a member of another router.
    gateway: Option<Ipv4Addr>,
    mtu: u16,
    /// Its zone of connection tracking for IPv4, another one after each time it has forgotten its mappings.
    zone: u16,
    /// The same for IPv6.
    zone_v6: u16,
}

impl Router {
    /// Makes a router whose outside is a TUN device, which is returned: an end of the data network. `routed` says
    /// which addresses of IPv6 it is the way to.
    ///
    /// # Errors
    ///
    /// When the specification is wrong, `nft` is missing, or the kernel refuses.
    pub fn new(
        spec: NatSpec,
        routed: Routed,
        outside: Ipv4Net,
        mtu: u16,
    ) -> Result<(Self, OwnedFd), NatError> {
        let router = Self::prepare(spec, routed, outside, mtu)?;
        let device = inside(router.namespace(), || {
            let links = Links::here()?;
            let device = open_device(WAN)?;
            links.set_mtu(WAN, mtu)?;
            links.add_address(WAN, outside)?;
            links.set_up(WAN)?;
            links.add_default_route_into(WAN)?;
            if !router.routed.is_empty() {
                six::allow(WAN)?;
                links.add_route_v6(None, WAN, None)?;
            }
            Ok(device.into())
        });
        let device = device.map_err(NatError::host("make the outer interface of a router"))?;
        Ok((router, device))
    }

    /// Makes a router that is itself a member of another one, at `address` there: double NAT, or a customer
    /// of a carrier-grade one.
    ///
    /// # Errors
    ///
    /// As [`Router::new`] and [`Router::join`].
    pub fn behind(
        outer: &Self,
        spec: NatSpec,
        routed: Routed,
        address: Ipv4Addr,
    ) -> Result<Self, NatError> {
        outer.spec.check_member(address)?;
        let outside = Ipv4Net::new(address, outer.spec.lan.prefix_len())
            .expect("the prefix length is a network's");
        let mut router = Self::prepare(spec, routed, outside, outer.mtu)?;
        router.gateway = Some(outer.spec.gateway());
        outer.plug(router.namespace(), WAN, address)?;
        Ok(router)
    }

    /// Gives a network namespace an interface in the router's inner network and a default route through it, and
    /// what the router has for that member of IPv6.
    ///
    /// # Errors
    ///
    /// When the address is not one for members or is taken, or the kernel refuses.
    pub fn join(
        &self,
        member: BorrowedFd<'_>,
        interface: &str,
        address: Ipv4Addr,
    ) -> Result<(), NatError> {
        self.plug(member, interface, address)?;
        let Some(own) = self.routed.get(&address) else { return Ok(()) };
        inside(member, || {
            let links = Links::here()?;
            own.iter().try_for_each(|own| links.add_address_v6(interface, *own))
        })
        .map_err(NatError::host(format!("give `{interface}` its IPv6 address")))
    }

    /// Connects a member, an instance or another router.
    fn plug(
        &self,
        member: BorrowedFd<'_>,
        interface: &str,
        address: Ipv4Addr,
    ) -> Result<(), NatError> {
        self.spec.check_member(address)?;
        let port = port_of(address);
        let taken = inside(self.namespace(), || Ok(links::index(&port).is_ok()));
        if taken.map_err(NatError::host("enter the namespace of a router"))? {
            return Err(SpecRefused::Taken(address).into());
        }
        let lan = &self.spec.lan;
        let inner = Ipv4Net::new(address, lan.prefix_len()).expect("the prefix length is valid");
        inside(member, || {
            Links::here()?.add_pair(&Pair {
                here: interface,
                hardware: hardware_of(address),
                there: &port,
                namespace: self.namespace(),
                mtu: self.mtu,
            })
        })
        .map_err(NatError::host(format!("connect `{interface}` to its router")))?;
        inside(self.namespace(), || Links::here()?.add_port(&port, LAN))
            .map_err(NatError::host("plug a member into its router"))?;
        inside(member, || {
            let links = Links::here()?;
            links.add_address(interface, inner)?;
            links.set_up(interface)?;
            links.add_default_route(self.spec.gateway())
        })
        .map_err(NatError::host(format!("set up `{interface}`")))?;
        inside(member, || Links::here()?.wait_until_it_sends(interface))
            .map_err(NatError::host(format!("wait for `{interface}`")))?;
        inside(self.namespace(), || {
            let links = Links::here()?;
            links.wait_until_it_sends(&port)?;
            links.wait_until_it_sends(LAN)
        })
        .map_err(NatError::host("wait for a member's end of its router"))?;
        self.lead(member, interface, address)
    }

    /// Leads IPv6 from a member to the outside and from there to what is behind the member, if there is any.
    fn lead(
        &self,
        member: BorrowedFd<'_>,
        interface: &str,
        address: Ipv4Addr,
    ) -> Result<(), NatError> {
        let Some(behind) = self.routed.get(&address) else { return Ok(()) };
        let failed = || NatError::host(format!("lead IPv6 to `{interface}`"));
        inside(member, || {
            six::allow(interface)?;
            let links = Links::here()?;
            links.add_neighbour(interface, six::GATEWAY, hardware_of(self.spec.gateway()))?;
            links.add_route_v6(None, interface, Some(six::GATEWAY))
        })
        .map_err(failed())?;
        let via = six::member(address);
        inside(self.namespace(), || {
            let links = Links::here()?;
            links.add_neighbour(LAN, via, hardware_of(address))?;
            behind.iter().try_for_each(|to| links.add_route_v6(Some(*to), LAN, Some(via)))
        })
        .map_err(failed())
    }

    /// Forgets all mappings and connections, also those of IPv6, as a router does that is switched off and on. The next
    /// mappings have other external ports.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. The mappings are as they were then.
    pub fn rebind(&mut self) -> Result<(), NatError> {
        let zone = self.next_zone();
        self.load(self.outside.addr(), zone, zone)?;
        (self.zone, self.zone_v6) = (zone, zone);
        Ok(())
    }

    /// Makes it a router of another kind, which has no mappings yet.
    ///
    /// # Errors
    ///
    /// As [`Router::rebind`]. It is what it was then.
    pub fn become_kind(&mut self, kind: NatKind) -> Result<(), NatError> {
        let before = std::mem::replace(&mut self.spec.kind, kind);
        self.rebind().inspect_err(|_| self.spec.kind = before)
    }

    /// Gives the router another address outside, in the same network. All mappings are lost. The addresses of IPv6
    /// are not its own, and stay.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the address.
    pub fn readdress(&mut self, address: Ipv4Addr) -> Result<(), NatError> {
        let old = self.outside;
        let new =
            Ipv4Net::new(address, old.prefix_len()).expect("the prefix length is the old one");
        let zone = self.next_zone();
        self.load(address, zone, self.zone_v6)?;
        inside(self.namespace(), || {
            let links = Links::here()?;
            links.remove_address(WAN, old)?;
            links.add_address(WAN, new)?;
            match self.gateway {
                Some(gateway) => links.add_default_route(gateway),
                None => links.add_default_route_into(WAN),
            }
        })
        .map_err(NatError::host(format!("set the outer address of a router to {address}")))?;
        (self.outside, self.zone) = (new, zone);
        Ok(())
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// Its address outside.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.outside.addr()
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Makes a router that has no outside. Its rules are there before its outside is, so that nothing ever
    /// passes it untranslated.
    fn prepare(
        spec: NatSpec,
        mut routed: Routed,
        outside: Ipv4Net,
        mtu: u16,
    ) -> Result<Self, NatError> {
        spec.check(outside)?;
        if spec.ipv6 == Ipv6::Off || !six::is_there() {
            routed.clear();
        }
        let namespace = fresh().map_err(NatError::host("make a network namespace"))?;
        inside(namespace.as_fd(), || make_lan(&spec, mtu, !routed.is_empty()))
            .map_err(NatError::host("set up a router"))?;
        let router =
            Self { namespace, spec, routed, outside, gateway: None, mtu, zone: 0, zone_v6: 0 };
        router.load(outside.addr(), 0, 0)?;
        inside(router.namespace(), || set_timeout(router.spec.mapping_timeout_s))
            .map_err(NatError::host("set how long mappings live"))?;
        Ok(router)
    }

    fn next_zone(&self) -> u16 {
        // Zone 0 is the one a router begins with.
        self.zone.checked_add(1).unwrap_or(1)
    }

    fn load(&self, external: Ipv4Addr, zone: u16, zone_v6: u16) -> Result<(), NatError> {
        let rules =
            ruleset(&self.spec, external, zone) + &firewall(&self.spec, &self.routed, zone_v6);
        let loaded = inside(self.namespace(), || Ok(nft::load(&rules)));
        loaded.map_err(NatError::host("enter the namespace of a router"))?
    }
}

/// Makes the inside of a router in the calling thread's namespace.
fn make_lan(spec: &NatSpec, mtu: u16, ipv6: bool) -> io::Result<()> {
    let inner =
        Ipv4Net::new(spec.gateway(), spec.lan.prefix_len()).expect("the prefix length is valid");
    set_all(&SETTINGS)?;
    let links = Links::here()?;
    links.set_up("lo")?;
    links.add_bridge(LAN, mtu, hardware_of(spec.gateway()))?;
    links.add_address(LAN, inner)?;
    links.set_up(LAN)?;
    if !ipv6 {
        return Ok(());
    }
    set_all(&[("ipv6/conf/all/forwarding", "1")])?;
    six::allow(LAN)?;
    links.add_address_v6(LAN, six::GATEWAY)
}

/// Sets how long the kernel remembers a flow of UDP, of both versions. It can once rules have made it track
/// connections.
fn set_timeout(seconds: u32) -> io::Result<()> {
    let seconds = seconds.to_string();
    let names =
        ["udp_timeout", "udp_timeout_stream"].map(|name| format!("netfilter/nf_conntrack_{name}"));
    set_all(&names.each_ref().map(|name| (name.as_str(), seconds.as_str())))
}

/// A hardware address that nobody assigns to anything else, as unique as the address.
fn hardware_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [2, 0, a, b, c, d]
}

/// The name of a member's end in the router: as unique as its address.
fn port_of(member: Ipv4Addr) -> String {
    format!("port{:08x}", member.to_bits())
}
