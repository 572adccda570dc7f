//! The network of one run: its router, and the links of its instances. Every call waits for the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use groundswell_common::fidelity::NetworkReport;
use groundswell_common::ids::InstanceId;
use groundswell_common::link::{Filter, LinkRule, LinkShape, NetworkConfig};
use ipnet::Ipv4Net;

use super::can::{self, Can};
use super::intervals::{self, Interval};
use super::links::{Counted, End, Pair};
use super::nftables::{self, Pairs};
use super::shaping::{Interface, Shaping};
use super::steering::Steering;
use super::tc;
use crate::network::addresses::Addresses;
use crate::network::links::Links;
use crate::network::nat::nft;
use crate::network::netlink::{Netlink, routing_socket};
use crate::network::thread::host;
use crate::network::wire::DATA_INTERFACE;
use crate::network::{Expected, NetworkError, namespace};

/// Largest packet of a link, in bytes.
const MTU: u16 = 1500;
/// The loopback interface, in every namespace.
const LOOPBACK: u32 = 1;

/// Settings of a router: it forwards, lets no foreign source pass, and answers every rejected packet.
const SETTINGS: [(&str, &str); 6] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/icmp_ratelimit", "0"),
];

/// The network of a run.
#[derive(Debug)]
pub(super) struct Run {
    namespace: File,
    link: Netlink,
    steering: Steering,
    subnet: Ipv4Net,
    addresses: Addresses,
    ports: BTreeMap<InstanceId, Port>,
    links: Arc<Links>,
    cuts: Pairs,
    paths: Pairs,
    netem: bool,
    seed: u64,
    /// How often something of all this was changed.
    changes: u64,
}

/// The link of an instance.
#[derive(Debug)]
struct Port {
    /// Speaks about the instance's namespace.
    inside: Netlink,
    namespace: OwnedFd,
    /// The name of the router's end.
    name: String,
    outer: u32,
    inner: u32,
    address: Ipv4Addr,
    up: bool,
    carrier: bool,
    default: LinkShape,
    rules: Vec<LinkRule>,
    filters: Vec<Interval>,
    classes: Vec<Interval>,
    sends: Shaping,
    /// The limit on what it receives, once there was one.
    download: Option<u64>,
}

impl Run {
    pub(super) fn open(subnet: Ipv4Net, can: &Can, seed: u64) -> Result<Self, NetworkError> {
        let namespace = namespace::fresh().map_err(host("make a network namespace"))?;
        let addresses = Addresses::new(subnet);
        let link = namespace::inside(namespace.as_fd(), || {
            namespace::set_all(&SETTINGS)?;
            let link = Netlink::from(routing_socket()?);
            link.set_interface(LOOPBACK, true)?;
            link.add_address(LOOPBACK, addresses.gateway().into())?;
            link.drop_the_rest()?;
            Ok((link, Steering::here()?))
        });
        let (link, steering) = link.map_err(host("set up a router"))?;
        let run = Self {
            namespace,
            link,
            steering,
            subnet,
            addresses,
            ports: BTreeMap::new(),
            links: Arc::default(),
            cuts: Pairs::new(),
            paths: Pairs::new(),
            netem: can.netem,
            seed,
            changes: 0,
        };
        run.load(&nftables::router())?;
        Ok(run)
    }

    /// Makes the link of an instance, whose namespace `socket` is a routing socket of.
    pub(super) fn attach(
        &mut self,
        instance: InstanceId,
        socket: OwnedFd,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        if self.ports.contains_key(&instance) {
            return Err(NetworkError::Refused(format!("instance {instance} is attached already")));
        }
        self.claim(instance, address)?;
        let port = self.connect(instance, socket.into(), address);
        let port = port.map_err(host("connect an instance to its router")).inspect_err(|_| {
            self.addresses.release(instance);
        })?;
        self.ports.insert(instance, port);
        let links = Arc::clone(&self.links);
        // Queues are quickly made as long as the interface is down.
        self.shape(instance)
            .and_then(|()| self.limit(instance, links.access(instance).download_bps))
            .and_then(|()| self.raise(instance).map_err(host("open an instance's link")))
            .and_then(|()| self.set_carrier(instance, links.has_carrier(instance)))
            .inspect_err(|_| {
                self.ports.remove(&instance);
                self.addresses.release(instance);
            })
    }

    /// Makes both ends of a link; they are down.
    fn connect(
        &self,
        instance: InstanceId,
        inside: Netlink,
        address: Ipv4Addr,
    ) -> io::Result<Port> {
        let name = format!("i{instance}");
        let group = self.links.class_of(instance).map_or(0, group);
        let namespace = inside.namespace()?;
        let pair = Pair {
            outer: &name,
            inner: DATA_INTERFACE,
            namespace: namespace.try_clone()?,
            mtu: MTU,
            group,
        };
        self.link.add_pair(&pair)?;
        let outer = self.link.interface(&name)?.index;
        let inner = inside.interface(DATA_INTERFACE)?.index;
        self.steering.steer(&name, instance.0)?;
        let mut sends = Shaping::default();
        sends.prepare(&inside, inner)?;
        Ok(Port {
            inside,
            namespace,
            name,
            outer,
            inner,
            address,
            up: true,
            carrier: true,
            default: self.links.access(instance).sends,
            rules: Vec::new(),
            filters: Vec::new(),
            classes: Vec::new(),
            sends,
            download: None,
        })
    }

    /// Takes both ends of a new link up.
    fn raise(&self, instance: InstanceId) -> io::Result<()> {
        let Some(port) = self.ports.get(&instance) else { return Ok(()) };
        let address = self.with_prefix(port.address);
        self.link.set_interface(port.outer, true)?;
        port.inside.add_address(port.inner, address)?;
        port.inside.set_interface(port.inner, true)?;
        port.inside.route_subnet(port.inner, address, self.addresses.gateway())?;
        self.link.route_instance(port.outer, port.address)
    }

    /// Whether packets pass both ends of an instance's link, as far as they are to.
    pub(super) fn is_ready(&self, instance: InstanceId) -> Result<bool, NetworkError> {
        let Some(port) = self.ports.get(&instance) else { return Ok(true) };
        if !port.up || !port.carrier {
            return Ok(true);
        }
        let running = || {
            let inner = port.inside.interface(DATA_INTERFACE)?;
            Ok(inner.running && self.link.interface(&port.name)?.running)
        };
        running().map_err(host("look at an interface"))
    }

    /// Replaces what an instance's own configuration says.
    pub(super) fn configure(
        &mut self,
        instance: InstanceId,
        config: &NetworkConfig,
    ) -> Result<(), NetworkError> {
        let Some(port) = self.ports.get_mut(&instance) else {
            return Err(NetworkError::Refused(format!("instance {instance} is not attached")));
        };
        self.changes += 1;
        let to = config.ipv4.unwrap_or(port.address);
        self.addresses.claim(instance, to).map_err(|why| NetworkError::Refused(why.to_string()))?;
        (port.default, port.rules) = (config.default, config.rules.clone());
        self.filter(instance)?;
        self.shape(instance)?;
        self.place(instance, to, config.enable).map_err(host("set the address of an instance"))
    }

    /// Gives an instance another address.
    pub(super) fn readdress(
        &mut self,
        instance: InstanceId,
        to: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let Some(up) = self.ports.get(&instance).map(|port| port.up) else {
            return Err(NetworkError::Refused(format!("instance {instance} is not attached")));
        };
        self.claim(instance, to)?;
        self.changes += 1;
        self.place(instance, to, up).map_err(host("set the address of an instance"))
    }

    /// Takes in what the links between groups are from now on.
    pub(super) fn relink(&mut self, links: Arc<Links>) -> Result<(), NetworkError> {
        // Before anything is changed: what an instance asked for and what the schedule says meet only here.
        for (instance, port) in &self.ports {
            if links.reshapes(&self.links, *instance) {
                can::check_together(&links.access(*instance).sends, &port.rules)?;
            }
        }
        self.changes += 1;
        let before = std::mem::replace(&mut self.links, Arc::clone(&links));
        let (mut cuts, mut paths) = (Pairs::new(), Pairs::new());
        for ((from, to), path) in links.paths() {
            let pair = (group(from), group(to));
            if path.cut {
                cuts.insert(pair, Filter::Drop);
            }
            let filter = path.shape.map(|shape| shape.filter).unwrap_or_default();
            if filter != Filter::Accept {
                paths.insert(pair, filter);
            }
        }
        let mut text = String::new();
        if cuts != self.cuts {
            text += &nftables::pairs("cuts", &cuts);
        }
        if paths != self.paths {
            text += &nftables::pairs("paths", &paths);
        }
        self.load(&text)?;
        (self.cuts, self.paths) = (cuts, paths);
        let instances: Vec<InstanceId> = self.ports.keys().copied().collect();
        for instance in instances {
            let access = links.access(instance);
            if links.reshapes(&before, instance)
                && let Some(port) = self.ports.get_mut(&instance)
            {
                port.default = access.sends;
            }
            self.shape(instance)?;
            self.limit(instance, access.download_bps)?;
            self.set_carrier(instance, links.has_carrier(instance))?;
        }
        Ok(())
    }

    pub(super) fn address(&self, instance: InstanceId) -> Option<Ipv4Addr> {
        self.addresses.of(instance)
    }

    /// What is configured for a packet from one instance to another; absent when it does not pass.
    pub(super) fn expected(&self, from: InstanceId, to: InstanceId) -> Option<Expected> {
        let (sender, receiver) = (self.ports.get(&from)?, self.ports.get(&to)?);
        if ![sender, receiver].iter().all(|port| port.up && port.carrier) {
            return None;
        }
        let address = receiver.address;
        let ruled = sender.filters.iter().find(|one| one.first <= address && address <= one.last);
        let path = self.links.path(from.0, to.0);
        if path.filter(ruled.map(|one| one.ruled.filter)) != Filter::Accept {
            return None;
        }
        let shape = match ruled.map_or(0, |one| one.ruled.lane) {
            0 => sender.default,
            lane => *intervals::lanes(&sender.rules).nth(lane - 1)?,
        };
        let limited = self.links.access(to).download_bps > 0;
        Some(Expected { changes: self.changes, ..Expected::of(address, &[shape], limited) })
    }

    /// What the kernel has counted.
    pub(super) fn report(&self) -> Result<NetworkReport, NetworkError> {
        let listed =
            namespace::inside(self.namespace.as_fd(), || Ok(nft::counters("inet groundswell")));
        let listed = listed.map_err(host("enter the namespace of a router"))?;
        let (filtered, rejected) =
            listed.ok().and_then(|json| nftables::counters(&json)).unwrap_or_default();
        self.measure(filtered, rejected).map_err(host("read what the kernel has counted"))
    }

    fn measure(&self, filtered: u64, rejected: u64) -> io::Result<NetworkReport> {
        let text = "the kernel's data path does not measure how late packets are";
        let mut report =
            NetworkReport { unseen: [text.to_owned()].into(), ..NetworkReport::default() };
        let interfaces: BTreeMap<u32, End> =
            self.link.interfaces()?.into_iter().map(|end| (end.index, end)).collect();
        let mut overrun = 0;
        for (_, handle, counted) in self.link.queues()? {
            if handle == tc::queue_of(0) {
                overrun += counted.drops;
            }
        }
        let (mut delivered, mut dropped) = (0, 0);
        for port in self.ports.values() {
            let Some(outer) = interfaces.get(&port.outer) else { continue };
            delivered += outer.stats.tx_packets;
            // More came at once than the kernel's queue of a core takes.
            dropped += outer.stats.rx_dropped;
            dropped += port.inside.interface(DATA_INTERFACE)?.stats.rx_dropped;
            let unshaped = outer.sent();
            for lane in port.sends.report(&port.inside, port.inner, unshaped)? {
                report.merge(NetworkReport { lanes: vec![lane], ..NetworkReport::default() });
            }
        }
        report.interface_drops = Some(dropped);
        if report.lanes.iter().any(|lane| lane.uncounted) {
            let text = "the kernel does not count which packets it doubled or corrupted";
            report.unseen.insert(text.to_owned());
        }
        overrun += report.lanes.iter().map(|lane| lane.overrun).sum::<u64>();
        let lost = report.lanes.iter().map(|lane| lane.lost).sum();
        let fates = [
            ("delivered", delivered),
            ("filtered", filtered),
            ("rejected", rejected),
            ("overrun", overrun),
            ("lost", lost),
        ];
        let met = fates.into_iter().filter(|(_, count)| *count > 0);
        report.fates = met.map(|(fate, count)| (fate.to_owned(), count)).collect();
        Ok(report)
    }

    fn claim(&mut self, instance: InstanceId, address: Ipv4Addr) -> Result<(), NetworkError> {
        let claimed = self.addresses.claim(instance, address);
        claimed.map_err(|why| NetworkError::Refused(why.to_string()))
    }

    fn with_prefix(&self, address: Ipv4Addr) -> Ipv4Net {
        Ipv4Net::new(address, self.subnet.prefix_len()).expect("the prefix length is the subnet's")
    }

    /// Has the router judge an instance's packets by its rules.
    fn filter(&mut self, instance: InstanceId) -> Result<(), NetworkError> {
        let Some(port) = self.ports.get(&instance) else { return Ok(()) };
        let filters = intervals::intervals(self.subnet, &port.rules);
        // An accepting rule matters only where a path would not accept, and is cheap.
        if filters == port.filters {
            return Ok(());
        }
        self.load(&nftables::rules(&port.name, &port.filters, &filters))?;
        if let Some(port) = self.ports.get_mut(&instance) {
            port.filters = filters;
        }
        Ok(())
    }

    /// Gives what an instance sends its shapes.
    fn shape(&mut self, instance: InstanceId) -> Result<(), NetworkError> {
        let limited = self.links.limits_downloads();
        let Some(port) = self.ports.get_mut(&instance) else { return Ok(()) };
        let shapes: Vec<LinkShape> = std::iter::once(&port.default)
            .chain(intervals::lanes(&port.rules))
            .map(|shape| LinkShape { filter: Filter::Accept, ..*shape })
            .collect();
        let plain = shapes.iter().all(|shape| *shape == LinkShape::default());
        let read = || host("shape an instance's link");
        let to = Interface {
            link: &port.inside,
            index: port.inner,
            netem: self.netem,
            seed: self.seed ^ (u64::from(instance.0) << 32),
            unshaped: match port.sends.is_bare() && !plain {
                true => self.link.interface(&port.name).map_err(read())?.sent(),
                false => Counted::default(),
            },
        };
        if port.sends.lanes() > shapes.len() {
            classify(&port.namespace, &mut port.classes, &port.filters)?;
            port.sends.drop_rest(&to, shapes.len()).map_err(read())?;
        }
        port.sends.apply(&to, &shapes).map_err(read())?;
        let none = Vec::new();
        let classes = if port.sends.is_bare() { &none } else { &port.filters };
        classify(&port.namespace, &mut port.classes, classes)?;
        port.sends.cut_superpackets(&port.inside, port.inner, limited).map_err(read())
    }

    /// Limits what an instance receives.
    fn limit(&mut self, instance: InstanceId, download_bps: u64) -> Result<(), NetworkError> {
        let Some(port) = self.ports.get_mut(&instance) else { return Ok(()) };
        if port.download.unwrap_or(0) == download_bps {
            return Ok(());
        }
        let new = port.download.is_none();
        if new {
            // What passes a queue may leave it on any core.
            let steer = || Steering::here()?.steer(DATA_INTERFACE, instance.0);
            namespace::inside(port.namespace.as_fd(), steer)
                .map_err(host("keep packets to an instance in order"))?;
        }
        let root = new.then(tc::root);
        for part in root.into_iter().chain(tc::rate_only(download_bps)) {
            self.link
                .set_part(port.outer, &part, new)
                .map_err(host("limit what an instance receives"))?;
        }
        port.download = Some(download_bps);
        Ok(())
    }

    /// Moves an instance to an address, and takes its interface up or down.
    fn place(&mut self, instance: InstanceId, to: Ipv4Addr, up: bool) -> io::Result<()> {
        let (gateway, prefix) = (self.addresses.gateway(), self.subnet.prefix_len());
        let with_prefix =
            |address| Ipv4Net::new(address, prefix).expect("the subnet's prefix length");
        let Some(port) = self.ports.get_mut(&instance) else { return Ok(()) };
        let from = port.address;
        if up != port.up {
            port.inside.set_interface(port.inner, up)?;
            port.up = up;
        } else if to == from {
            return Ok(());
        }
        if to != from {
            port.inside.add_address(port.inner, with_prefix(to))?;
            if port.carrier {
                self.link.route_instance(port.outer, to)?;
            }
        }
        if up {
            // It takes the new address as its source before the old one goes.
            port.inside.route_subnet(port.inner, with_prefix(to), gateway)?;
        }
        if to != from {
            port.inside.remove_address(port.inner, with_prefix(from))?;
            if port.carrier {
                self.link.remove_route(port.outer, from)?;
            }
            port.address = to;
        }
        Ok(())
    }

    /// Takes the router's end up or down, which the instance's end sees as its carrier.
    fn set_carrier(&mut self, instance: InstanceId, carrier: bool) -> Result<(), NetworkError> {
        let Some(port) = self.ports.get_mut(&instance) else { return Ok(()) };
        if port.carrier == carrier {
            return Ok(());
        }
        let switched = host("switch the carrier of an interface");
        self.link.set_interface(port.outer, carrier).map_err(&switched)?;
        port.carrier = carrier;
        if carrier {
            // Its routes went with it.
            self.link.route_instance(port.outer, port.address).map_err(&switched)?;
        }
        Ok(())
    }

    /// Has the router take rules.
    fn load(&self, rules: &str) -> Result<(), NetworkError> {
        load(&self.namespace, rules)
    }
}

/// Has the packets of an instance take the lanes that its rules say.
fn classify(
    namespace: &OwnedFd,
    before: &mut Vec<Interval>,
    after: &[Interval],
) -> Result<(), NetworkError> {
    if before != after {
        load(namespace, &nftables::classes(DATA_INTERFACE, after))?;
        *before = after.to_vec();
    }
    Ok(())
}

/// The interface group of a class. Group 0 is that of interfaces nobody has put into one.
fn group(class: usize) -> u32 {
    u32::try_from(class + 1).unwrap_or(u32::MAX)
}

/// Has a namespace take rules.
fn load(namespace: &impl std::os::fd::AsFd, rules: &str) -> Result<(), NetworkError> {
    if rules.is_empty() {
        return Ok(());
    }
    let loaded = namespace::inside(namespace.as_fd(), || Ok(nft::load(rules)));
    let loaded = loaded.map_err(host("enter a network namespace"))?;
    loaded.map_err(|err| can::refuse("filter packets", &format!("{}, or ", can::nft_refused(&err))))
}
