//! What the instances of a share reach outside the data network, by which names, and what reaches them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use groundswell_common::chain::Chain;
use groundswell_common::egress::{ExposedPort, GroupEgress};
use groundswell_common::link::{NetworkConfig, RoutingPolicy};
use groundswell_common::messages::{Assignment, InstancePlace, ShareEvent};
use ipnet::Ipv4Net;
use tokio::net::lookup_host;

use super::prepare::Unprepared;
use super::{Context, expose};
use crate::events::Whom;
use crate::names::directory::Directory;
use crate::names::{Known, Names, upstream};
use crate::network::NetworkError;
use crate::network::egress::routes::{self, Routes};
use crate::network::egress::{DEFAULT_RATE_BPS, Grant};
use crate::network::wire::NameSockets;
use crate::parts::{UnknownServer, addresses_of};
use crate::runtime::Instance;

/// Who tells this host names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The outside of a share.
pub(crate) struct Outside {
    names: Names,
    /// For each group of the run, what its instances may reach and how fast.
    groups: Vec<(Grant, u64)>,
    /// Where this worker listens for instances.
    here: IpAddr,
    exposed: Mutex<Vec<ExposedPort>>,
}

impl Outside {
    /// Looks up what the composition names, and begins to answer questions for names.
    pub(super) async fn open(context: &Context) -> Result<Self, Unprepared> {
        let assignment = &context.assignment;
        let found = look_up(assignment).await?;
        let addresses: BTreeMap<String, Vec<Ipv4Addr>> =
            found.iter().map(|(name, nets)| (name.clone(), hosts(nets))).collect();
        let groups: Vec<(Grant, u64)> = assignment
            .groups
            .iter()
            .map(|group| grant(assignment, &group.egress, &found))
            .collect();
        let network = context.network();
        if !network.caps().egress && groups.iter().any(|(grant, _)| grant.is_open()) {
            return Err(NetworkError::Unsupported {
                what: "reach hosts outside of the run".to_owned(),
                instead: "use the switch: `data_path = \"switch\"`".to_owned(),
            }
            .into());
        }
        protect(context).await?;
        let known = Known {
            run: assignment.run.clone(),
            directory: Directory::new(assignment, &addresses),
            network: Arc::clone(network),
            upstream: upstream::of_host(Path::new(RESOLV_CONF)),
        };
        let failed =
            |err: io::Error| Unprepared::host(format!("failed to answer for names: {err}"));
        let (names, serving) = Names::new(known, context.end.clone()).map_err(failed)?;
        context.servers.spawn(serving);
        // Whatever carries this run's packets: whoever wants to reach an exposed port is somewhere else.
        let here = context.host.parts.network.overlay_address();
        let here = here.map_or(Ipv4Addr::LOCALHOST.into(), |one| one.ip());
        Ok(Self { names, groups, here, exposed: Mutex::default() })
    }

    /// Serves an instance that is attached: its names, its way out.
    pub(super) async fn admit(
        &self,
        context: &Context,
        place: InstancePlace,
        sockets: NameSockets,
        control: &OwnedFd,
    ) -> Result<Way, Unprepared> {
        // Behind a NAT it reaches what the first one there does.
        self.names.serve(context.assignment.front(place), sockets).await;
        let (grant, rate) = self.groups.get(usize::from(place.group)).cloned().unwrap_or_default();
        let refused = |err: io::Error| {
            Unprepared::host(format!("failed to open instance {}'s way out: {err}", place.id))
        };
        let assignment = &context.assignment;
        let open = context.network().caps().egress;
        // Behind a NAT every way leads through the router already.
        let routed = open && assignment.nat(place).is_none();
        let mut way = Way {
            control: control.try_clone().map_err(refused)?,
            hosts: grant.hosts.clone(),
            routes: Routes::new(),
            open: routed,
        };
        let routes = routes::of(&grant);
        if open && assignment.front(place) == place.id {
            context.network().permit(&assignment.run, place.id, grant, rate).await?;
        }
        if routed {
            way.lead(routes).map_err(refused)?;
        }
        Ok(way)
    }

    /// Makes the exposed ports of an instance reachable at this worker.
    pub(super) async fn expose(
        &self,
        context: &Context,
        place: InstancePlace,
        instance: &Arc<dyn Instance>,
    ) -> Result<(), Unprepared> {
        let ports = &context.assignment.options.exposed_ports;
        if !ports.is_empty() {
            // What does not work is told here, and not by connections that end at once.
            drop(instance.socket().await?);
        }
        for (label, port) in ports {
            let refused = |err: io::Error| {
                Unprepared::host(format!("failed to expose port `{label}` of {}: {err}", place.id))
            };
            let port: u16 = port.parse().map_err(io::Error::other).map_err(refused)?;
            let (instance, end) = (Arc::clone(instance), context.end.clone());
            let listening = expose::listen(self.here, instance, port, end).await;
            let (address, serving) = listening.map_err(refused)?;
            context.servers.spawn(serving);
            let whom = Whom { group: context.group(place).to_owned(), instance: place.id };
            let text = format!("port {port} ({label}) is at {address}");
            context.events.add("exposed", text, Some(whom));
            let exposed = ExposedPort { instance: place.id, label: label.clone(), port, address };
            self.exposed.lock().unwrap_or_else(PoisonError::into_inner).push(exposed);
        }
        Ok(())
    }

    /// Tells where instances are reached, once all are there.
    pub(super) fn tell(&self, context: &Context) {
        let exposed = &mut *self.exposed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ports = std::mem::take(exposed);
        if ports.is_empty() {
            return;
        }
        ports.sort_by(|one, other| (one.instance, &one.label).cmp(&(other.instance, &other.label)));
        context.report(ShareEvent::Exposed { ports });
    }
}

/// The routes of one instance that lead outside.
pub(crate) struct Way {
    control: OwnedFd,
    /// Hosts it reaches in any case.
    hosts: Vec<Ipv4Net>,
    routes: Routes,
    /// Whether the network leads anywhere.
    open: bool,
}

impl Way {
    /// Follows a configuration. `relinked` says that the interface was set up anew, which loses its routes.
    pub(super) fn follow(&mut self, config: &NetworkConfig, relinked: bool) -> io::Result<()> {
        if relinked {
            self.routes.clear();
        }
        if !self.open || !config.enable {
            return Ok(());
        }
        let allow = config.routing_policy == RoutingPolicy::AllowAll;
        self.lead(routes::of(&Grant { allow, hosts: self.hosts.clone() }))
    }

    /// The interface was set up anew, which loses its routes, and nothing else has changed.
    pub(super) fn again(&mut self) -> io::Result<()> {
        let routes = std::mem::take(&mut self.routes);
        self.lead(routes)
    }

    fn lead(&mut self, to: Routes) -> io::Result<()> {
        routes::change(self.control.as_fd(), &self.routes, &to)?;
        self.routes = to;
        Ok(())
    }
}

/// Keeps all instances from the servers that this worker depends on: those it is told, and those that NATS itself
/// says it consists of. A name of the latter that means nothing here is not used here either.
async fn protect(context: &Context) -> Result<(), Unprepared> {
    let unknown = |err: UnknownServer| Unprepared::host(Chain(&err).to_string());
    let mut hosts = context.host.parts.servers.addresses().await.map_err(unknown)?;
    for node in context.host.bus.nodes() {
        hosts.extend(addresses_of(&node).await.unwrap_or_default());
    }
    context.network().protect(&hosts);
    Ok(())
}

/// The addresses of every host that is named, each as a network of its own.
async fn look_up(assignment: &Assignment) -> Result<BTreeMap<String, Vec<Ipv4Net>>, Unprepared> {
    let of_groups = assignment.groups.iter().flat_map(|group| &group.egress.hosts);
    let mut found = BTreeMap::new();
    for host in of_groups.chain(&assignment.options.additional_hosts) {
        if found.contains_key(host) {
            continue;
        }
        let nets = match (host.parse::<Ipv4Net>(), host.parse::<Ipv4Addr>()) {
            (Ok(net), _) => vec![net],
            (_, Ok(address)) => vec![address.into()],
            (Err(_), Err(_)) => resolve(host).await?,
        };
        found.insert(host.clone(), nets);
    }
    Ok(found)
}

async fn resolve(host: &str) -> Result<Vec<Ipv4Net>, Unprepared> {
    let unknown = |why: String| Unprepared {
        reason: format!("extra host `{host}` is not known to this worker{why}"),
        fault_of_plan: true,
    };
    let found = lookup_host((host, 0)).await;
    let found = found.map_err(|err| unknown(format!(": {}", Chain(&err))))?;
    let nets: Vec<Ipv4Net> = found
        .filter_map(|address| match address {
            SocketAddr::V4(address) => Some((*address.ip()).into()),
            SocketAddr::V6(_) => None,
        })
        .collect();
    if nets.is_empty() { Err(unknown(" with an IPv4 address".to_owned())) } else { Ok(nets) }
}

/// Single hosts have names; whole networks have none.
fn hosts(nets: &[Ipv4Net]) -> Vec<Ipv4Addr> {
    nets.iter().filter(|net| net.prefix_len() == 32).map(Ipv4Net::addr).collect()
}

fn grant(
    assignment: &Assignment,
    egress: &GroupEgress,
    found: &BTreeMap<String, Vec<Ipv4Net>>,
) -> (Grant, u64) {
    let named = egress.hosts.iter().chain(&assignment.options.additional_hosts);
    let mut hosts: Vec<Ipv4Net> =
        named.filter_map(|host| found.get(host)).flatten().copied().collect();
    hosts.sort_unstable();
    hosts.dedup();
    (Grant { allow: egress.allow, hosts }, egress.rate_bps.unwrap_or(DEFAULT_RATE_BPS))
}
