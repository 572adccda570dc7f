//! Makes router namespaces and joins members to them.
//!
//! Whatever is done in a namespace is done by a thread that ends in it, so that no other code ever runs
//! there. A router's namespace lives as long as somebody has it open: the [`Router`], and whoever reads the
//! device of its `wan`. When both are gone the kernel removes it, and with it the interfaces of its members.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnet::Ipv4Net;

use super::links::{self, Links, Pair};
use super::rules::{WAN, ruleset};
use super::{NatError, nft};
use crate::network::namespace::{fresh, inside, set_all};
use crate::network::wire::open_device;
use groundswell_common::nat::{NatSpec, SpecRefused};

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
    /// Its address outside, in the network that is there.
    outside: Ipv4Net,
    /// Where its default route leads, when it is a member of another router.
    gateway: Option<Ipv4Addr>,
    mtu: u16,
    rebindings: u16,
}

impl Router {
    /// Makes a router whose outside is a TUN device, which is returned: an end of the data network.
    ///
    /// # Errors
    ///
    /// When the specification is wrong, `nft` is missing, or the kernel refuses.
    pub fn new(spec: NatSpec, outside: Ipv4Net, mtu: u16) -> Result<(Self, OwnedFd), NatError> {
        let router = Self::prepare(spec, outside, mtu)?;
        let device = inside(router.namespace(), || {
            let links = Links::here()?;
            let device = open_device(WAN)?;
            links.set_mtu(WAN, mtu)?;
            links.add_address(WAN, outside)?;
            links.set_up(WAN)?;
            links.add_default_route_into(WAN)?;
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
    pub fn behind(outer: &Self, spec: NatSpec, address: Ipv4Addr) -> Result<Self, NatError> {
        outer.spec.check_member(address)?;
        let outside = Ipv4Net::new(address, outer.spec.lan.prefix_len())
            .expect("the prefix length is a network's");
        let mut router = Self::prepare(spec, outside, outer.mtu)?;
        router.gateway = Some(outer.spec.gateway());
        outer.join(router.namespace(), WAN, address)?;
        Ok(router)
    }

    /// Gives a network namespace an interface in the router's inner network and a default route through it.
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
        .map_err(NatError::host("wait for a member's end of its router"))
    }

    /// Forgets all mappings and connections, as a router does that is switched off and on. The next
    /// mappings have other external ports.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. The mappings are as they were then.
    pub fn rebind(&mut self) -> Result<(), NatError> {
        // Zone 0 is the one a router begins with.
        let rebindings = self.rebindings.checked_add(1).unwrap_or(1);
        self.load(self.outside.addr(), rebindings)?;
        self.rebindings = rebindings;
        Ok(())
    }

    /// Gives the router another address outside, in the same network. All mappings are lost.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the address.
    pub fn readdress(&mut self, address: Ipv4Addr) -> Result<(), NatError> {
        let old = self.outside;
        let new =
            Ipv4Net::new(address, old.prefix_len()).expect("the prefix length is the old one");
        let rebindings = self.rebindings.checked_add(1).unwrap_or(1);
        self.load(address, rebindings)?;
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
        (self.outside, self.rebindings) = (new, rebindings);
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
    fn prepare(spec: NatSpec, outside: Ipv4Net, mtu: u16) -> Result<Self, NatError> {
        spec.check(outside)?;
        let namespace = fresh().map_err(NatError::host("make a network namespace"))?;
        let inner = Ipv4Net::new(spec.gateway(), spec.lan.prefix_len())
            .expect("the prefix length is valid");
        inside(namespace.as_fd(), || {
            set_all(&SETTINGS)?;
            let links = Links::here()?;
            links.set_up("lo")?;
            links.add_bridge(LAN, mtu, hardware_of(spec.gateway()))?;
            links.add_address(LAN, inner)?;
            links.set_up(LAN)
        })
        .map_err(NatError::host("set up a router"))?;
        let router = Self { namespace, spec, outside, gateway: None, mtu, rebindings: 0 };
        router.load(outside.addr(), 0)?;
        let timeout = router.spec.mapping_timeout_s.to_string();
        let timeouts = ["udp_timeout", "udp_timeout_stream"]
            .map(|name| format!("netfilter/nf_conntrack_{name}"));
        let timeouts = timeouts.each_ref().map(|name| (name.as_str(), timeout.as_str()));
        // These settings are there once the rules have made the kernel track connections.
        inside(router.namespace(), || set_all(&timeouts))
            .map_err(NatError::host("set how long mappings live"))?;
        Ok(router)
    }

    fn load(&self, external: Ipv4Addr, rebindings: u16) -> Result<(), NatError> {
        let rules = ruleset(&self.spec, external, rebindings);
        let loaded = inside(self.namespace(), || Ok(nft::load(&rules)));
        loaded.map_err(NatError::host("enter the namespace of a router"))?
    }
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
