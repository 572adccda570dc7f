//! What all cases begin with: a node for the instance's class, everybody's addresses, and a place at a relay for those
//! who need one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use groundswell_p2p::{
    Event, Identity, KadConfig, KadMode, Multiaddr, Node, NodeConfig, PeerId, Protocol,
    RelayLimits, echo,
};
use groundswell_sdk::Subnet;
use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::class::Class;

/// Where every node listens.
const PORT: u16 = 4001;
/// How long a connection to a relay, or a reservation, may take.
const RELAY: Duration = Duration::from_secs(30);
/// The first 96 bits of IPv6 addresses in a run's network.
const IPV6_PREFIX: [u16; 2] = [0xfd67, 0x7377];

#[derive(Debug, Clone, Deserialize)]
struct Params {
    class: Option<Class>,
}

/// What everybody tells everybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) class: Class,
    pub(crate) peer: PeerId,
    /// Where others dial it, with its peer id: over everything it speaks.
    pub(crate) addresses: Vec<Multiaddr>,
    /// Its address in the run's network, if it has one there.
    pub(crate) ip: Ipv4Addr,
    /// Where others reach it through a relay.
    pub(crate) circuit: Option<Multiaddr>,
}

/// This instance's node, and everybody's card.
pub(crate) struct Host {
    pub(crate) cx: Ctx,
    pub(crate) node: Node,
    pub(crate) class: Class,
    pub(crate) everybody: Vec<Member<Card>>,
    _tasks: JoinSet<()>,
}

impl Host {
    /// Starts the node and meets all others. Relays come first, because the others need them.
    pub(crate) async fn join(cx: &Ctx, circuit_bytes: u64) -> Result<Self> {
        let params: Params = cx.params()?;
        let by_number = if cx.index() == 0 { Class::Relay } else { Class::Public };
        let class = params.class.unwrap_or(by_number);
        let ip = cx.network().ip()?;
        let identity = Identity::derive(cx.env().seed, u64::from(cx.index()), 0);
        let mut config = NodeConfig::new(identity);
        config.listen = listen(class, ip);
        config.relay_client = true;
        let reachable = !class.needs_relay() || class == Class::Stranger;
        if reachable {
            config.external = config.listen.clone();
        }
        // Whoever is reached through a relay only must not answer the DHT's queries: others would open circuits for them.
        let mode = if reachable { KadMode::Server } else { KadMode::Client };
        config.kad = Some(KadConfig { mode, ..KadConfig::default() });
        if class == Class::Relay {
            config.relay_server = Some(limits(circuit_bytes));
        }
        let addresses = config.listen.clone();
        let node = Node::start(config).await?;
        let with_peer = |address: Multiaddr| address.with(Protocol::P2p(node.peer()));
        let addresses = addresses.into_iter().map(with_peer).collect();
        let mut card = Card { class, peer: node.peer(), addresses, ip, circuit: None };
        let mut tasks = JoinSet::new();
        echo::serve(&node, &mut tasks).await?;
        let relay = (class == Class::Relay).then(|| card.clone());
        let relays = cx.exchange("relays", &relay).await?;
        let relays: Vec<Card> = relays.into_iter().filter_map(|member| member.value).collect();
        ensure!(!relays.is_empty(), "no group has the parameter `class = \"relay\"`");
        if let Some(met) = meet_relay(cx, &node, class, &relays).await? {
            card.circuit = met.circuit;
            // Behind a NAT its own address means nothing to others; how the relay sees it does.
            if cx.env().run_subnet.is_some_and(|subnet| !subnet.contains(ip)) {
                card.ip = ip_of(&met.observed).ok_or("the relay sees no IPv4 address")?;
                card.addresses = vec![with_peer(met.observed)];
            }
        }
        let everybody = cx.exchange("cards", &card).await?;
        Ok(Self { cx: cx.clone(), node, class, everybody, _tasks: tasks })
    }

    /// Everybody but this instance and the relays.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Member<Card>> {
        let me = self.cx.index();
        let cards = self.everybody.iter();
        cards.filter(move |member| member.index != me && member.value.class != Class::Relay)
    }

    /// Fails unless there are instances of a class.
    pub(crate) fn needs(&self, class: Class) -> Result {
        let has = self.everybody.iter().any(|member| member.value.class == class);
        ensure!(
            has,
            "this case is about a group with the parameter `class = \"{class}\"`, and there is none"
        );
        Ok(())
    }

    /// The run's network.
    pub(crate) fn run_subnet(&self) -> Result<Subnet> {
        Ok(self.cx.env().run_subnet.ok_or("the platform does not say what the run's network is")?)
    }

    /// A second node of this instance, that nobody knows: what it reaches, it reaches by dialling.
    pub(crate) async fn prober(&self) -> Result<Node> {
        let identity = Identity::derive(self.cx.env().seed, u64::from(self.cx.index()), 1);
        Ok(Node::start(NodeConfig::new(identity)).await?)
    }

    /// Leaves everybody but relays, so that no connection is there that could not be made any more.
    pub(crate) async fn leave_peers(&self) -> Result {
        let relays: Vec<PeerId> = self
            .everybody
            .iter()
            .map(|member| &member.value)
            .filter(|card| card.class == Class::Relay)
            .map(|card| card.peer)
            .collect();
        for connection in self.node.connections().await? {
            if !relays.contains(&connection.peer) && self.class != Class::Relay {
                self.node.disconnect(connection.peer).await?;
            }
        }
        Ok(())
    }

    /// Keeps away whoever this class keeps away.
    pub(crate) async fn filter(&self) -> Result {
        if !self.class.filters() {
            return Ok(());
        }
        let network = self.cx.network();
        let subnet = self.run_subnet()?;
        let mut configuration = network.configure().filter(&subnet.to_string(), Filter::Drop);
        for member in &self.everybody {
            if self.class.talks_to(member.value.class) {
                configuration =
                    configuration.filter(&format!("{}/32", member.value.ip), Filter::Accept);
            }
        }
        Ok(configuration.apply().await?)
    }

    /// The addresses of another instance that this one can dial: over what it speaks itself.
    pub(crate) fn addresses_of(&self, other: &Card) -> Vec<Multiaddr> {
        let speaks = |address: &&Multiaddr| speaks(self.class, address);
        other.addresses.iter().filter(speaks).cloned().collect()
    }

    /// Where this instance reaches another one through its relay: over what this one speaks, whatever the other one
    /// speaks with the relay.
    pub(crate) fn circuit_to(&self, other: &Card) -> Option<Multiaddr> {
        let relay = other
            .circuit
            .as_ref()?
            .iter()
            .find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None })?;
        let mut cards = self.everybody.iter().map(|member| &member.value);
        let relay = cards.find(|card| card.peer == relay)?;
        let address = self.addresses_of(relay).into_iter().next()?;
        Some(address.with(Protocol::P2pCircuit).with(Protocol::P2p(other.peer)))
    }

    /// Waits for everybody, so that nobody is gone while others need it.
    pub(crate) async fn leave(self) -> Result {
        self.cx.signal_and_wait("leave").await?;
        self.node.stop().await;
        Ok(())
    }
}

/// Whether a node has a connection to a peer that goes through no relay.
pub(crate) async fn is_direct(node: &Node, peer: PeerId) -> Result<bool> {
    let connections = node.connections().await?;
    Ok(connections.iter().any(|connection| connection.peer == peer && !connection.relayed))
}

/// Room for everybody at every relay.
fn limits(circuit_bytes: u64) -> RelayLimits {
    RelayLimits {
        reservations: 16_384,
        circuits: 65_536,
        circuits_per_peer: 16_384,
        circuit_bytes,
        ..RelayLimits::default()
    }
}

/// What an instance has from its relay.
struct Met {
    /// How the relay sees it.
    observed: Multiaddr,
    /// Where others reach it through the relay, if it asked for that.
    circuit: Option<Multiaddr>,
}

/// Joins the DHT by a relay, and gets a place there if others may need that.
async fn meet_relay(cx: &Ctx, node: &Node, class: Class, relays: &[Card]) -> Result<Option<Met>> {
    let others = cx.index() as usize % relays.len();
    let relay = if class == Class::Relay { &relays[0] } else { &relays[others] };
    if relay.peer == node.peer() {
        return Ok(None);
    }
    let address = relay.addresses.iter().find(|address| speaks(class, address));
    let address = address.ok_or("no relay speaks what this instance speaks")?;
    let mut events = node.events();
    node.dial(address.clone()).await?;
    let identified = |event: &Event| {
        if let Event::Identified { peer, observed, .. } = event
            && *peer == relay.peer
        {
            return Some(observed.clone());
        }
        None
    };
    let observed = Node::wait_for(&mut events, "the relay's view", RELAY, identified).await?;
    node.add_address(relay.peer, address.clone()).await?;
    let circuit =
        if class.needs_relay() { Some(node.reserve(address.clone(), RELAY).await?) } else { None };
    node.bootstrap().await?;
    Ok(Some(Met { observed, circuit }))
}

/// The IPv4 address in an address.
fn ip_of(address: &Multiaddr) -> Option<Ipv4Addr> {
    address.iter().find_map(|part| if let Protocol::Ip4(ip) = part { Some(ip) } else { None })
}

/// Where a node of a class listens.
fn listen(class: Class, ip: Ipv4Addr) -> Vec<Multiaddr> {
    let tcp = |ip: IpAddr| at(ip).with(Protocol::Tcp(PORT));
    let quic = |ip: IpAddr| at(ip).with(Protocol::Udp(PORT)).with(Protocol::QuicV1);
    match class {
        Class::Ipv6 => vec![tcp(ipv6_of(ip))],
        Class::Quic => vec![quic(ip.into())],
        // A relay speaks everything that there is.
        Class::Relay => [Some(tcp(ip.into())), has_ipv6(ip).then(|| tcp(ipv6_of(ip)))]
            .into_iter()
            .flatten()
            .chain(cfg!(feature = "quic").then(|| quic(ip.into())))
            .collect(),
        Class::Public
        | Class::Undialable
        | Class::RelayOnly
        | Class::Selective
        | Class::Friend
        | Class::Stranger
        | Class::Ipv4
        | Class::Tcp
        | Class::Flipper => vec![tcp(ip.into())],
    }
}

fn at(ip: IpAddr) -> Multiaddr {
    Multiaddr::from(ip)
}

/// The IPv6 address beside an IPv4 address of a run's network.
fn ipv6_of(ip: Ipv4Addr) -> IpAddr {
    let [a, b, c, d] = ip.octets().map(u16::from);
    let [first, second] = IPV6_PREFIX;
    Ipv6Addr::new(first, second, 0, 0, 0, 0, a << 8 | b, c << 8 | d).into()
}

/// Whether this instance has it: a host may have no IPv6.
fn has_ipv6(ip: Ipv4Addr) -> bool {
    std::net::UdpSocket::bind((ipv6_of(ip), 0)).is_ok()
}

/// Whether a node of a class dials an address.
fn speaks(class: Class, address: &Multiaddr) -> bool {
    let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
    let quic = has(|part| matches!(part, Protocol::QuicV1));
    match class {
        Class::Ipv6 => has(|part| matches!(part, Protocol::Ip6(_))) && !quic,
        Class::Ipv4 => has(|part| matches!(part, Protocol::Ip4(_))) && !quic,
        Class::Quic => quic,
        Class::Relay
        | Class::Public
        | Class::Undialable
        | Class::RelayOnly
        | Class::Selective
        | Class::Friend
        | Class::Stranger
        | Class::Tcp
        | Class::Flipper => !quic && has(|part| matches!(part, Protocol::Ip4(_))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_has_the_ipv4_address_in_it() {
        assert_eq!(ipv6_of(Ipv4Addr::new(16, 0, 0, 2)).to_string(), "fd67:7377::1000:2");
    }

    #[test]
    fn everybody_dials_what_it_speaks() {
        let all = listen(Class::Quic, Ipv4Addr::LOCALHOST)
            .into_iter()
            .chain(listen(Class::Public, Ipv4Addr::LOCALHOST))
            .chain(listen(Class::Ipv6, Ipv4Addr::LOCALHOST));
        let all: Vec<Multiaddr> = all.collect();
        let dials = |class| all.iter().map(|address| speaks(class, address)).collect::<Vec<_>>();
        assert_eq!(dials(Class::Quic), [true, false, false]);
        assert_eq!(dials(Class::Tcp), [false, true, false]);
        assert_eq!(dials(Class::Ipv6), [false, false, true]);
    }
}
