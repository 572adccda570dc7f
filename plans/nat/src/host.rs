//! What all cases begin with: a node for the instance's role, and everybody's addresses.

use std::time::Duration;

use groundswell_p2p::{Event, Identity, Multiaddr, Node, NodeConfig, PeerId, Protocol};
use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::pairs::{End, Side, pairs};
use crate::theory::Nat;
use groundswell_p2p::echo;

/// Where every node listens.
const PORT: u16 = 4001;
/// How long a connection to a relay, or a reservation, may take.
const RELAY: Duration = Duration::from_secs(30);

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Relays for others. It can be reached by all.
    Relay,
    /// Dials its listener.
    Dialer,
    /// Is dialled.
    Listener,
    /// Tells others whether it can reach them.
    AutonatServer,
    /// Wants to know whether it can be reached.
    Host,
    /// One of two behind the same NAT.
    Neighbour,
}

/// What nodes speak over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// TCP with Noise and Yamux.
    #[default]
    Tcp,
    /// QUIC.
    Quic,
}

impl Transport {
    /// How it is called in tags.
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }

    /// The node's address at an IPv4 address.
    fn at(self, ip: std::net::Ipv4Addr) -> Multiaddr {
        let at = Multiaddr::empty().with(Protocol::Ip4(ip));
        match self {
            Self::Tcp => at.with(Protocol::Tcp(PORT)),
            Self::Quic => at.with(Protocol::Udp(PORT)).with(Protocol::QuicV1),
        }
    }
}

/// Parameters that all cases have.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    role: Option<Role>,
    #[serde(default = "no_nat")]
    nat: Nat,
    #[serde(default)]
    transport: Transport,
}

fn no_nat() -> Nat {
    Nat::None
}

/// What everybody tells everybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) role: Role,
    pub(crate) nat: Nat,
    pub(crate) peer: PeerId,
    /// Where it listens, as it sees that itself, with its peer id.
    pub(crate) address: Multiaddr,
}

/// This instance's node, and everybody's card.
pub(crate) struct Host {
    pub(crate) cx: Ctx,
    pub(crate) node: Node,
    pub(crate) card: Card,
    pub(crate) everybody: Vec<Member<Card>>,
    _tasks: JoinSet<()>,
}

impl Host {
    /// Starts the node, as `change` makes it, and meets all others.
    pub(crate) async fn join(cx: &Ctx, change: impl FnOnce(&mut NodeConfig, Role)) -> Result<Self> {
        let params: Params = cx.params()?;
        let role = params.role.unwrap_or_else(|| role_by_number(cx.index()));
        let address = params.transport.at(cx.network().ip()?);
        let identity = Identity::derive(cx.env().seed, u64::from(cx.index()), 0);
        let mut config = NodeConfig::new(identity);
        config.listen = vec![address.clone()];
        if is_public(role) {
            config.external = vec![address.clone()];
        }
        change(&mut config, role);
        let node = Node::start(config).await?;
        cx.tag_kpis("transport", params.transport.name());

        let mut tasks = JoinSet::new();
        echo::serve(&node, &mut tasks).await?;
        let card = Card {
            role,
            nat: params.nat,
            peer: node.peer(),
            address: address.with(Protocol::P2p(node.peer())),
        };
        let everybody = cx.exchange("cards", &card).await?;
        Ok(Self { cx: cx.clone(), node, card, everybody, _tasks: tasks })
    }

    /// The card of an instance.
    pub(crate) fn card_of(&self, index: u32) -> Result<&Card> {
        let found = self.everybody.iter().find(|member| member.index == index);
        Ok(&found.ok_or_else(|| format!("nobody has the number {index}"))?.value)
    }

    /// Everybody who has a role.
    pub(crate) fn all(&self, role: Role) -> Vec<&Card> {
        let cards = self.everybody.iter().map(|member| &member.value);
        cards.filter(|card| card.role == role).collect()
    }

    /// The relays, of which there has to be one.
    pub(crate) fn relays(&self) -> Result<Vec<&Card>> {
        let relays = self.all(Role::Relay);
        ensure!(!relays.is_empty(), "no group has the parameter `role = \"relay\"`");
        Ok(relays)
    }

    /// The instance at the other end of this one's pair, and the number of the pair.
    pub(crate) fn partner(&self) -> Result<(usize, u32)> {
        let ends: Vec<End> = self.everybody.iter().filter_map(end).collect();
        let me = self.cx.index();
        let pairs = pairs(&ends)?;
        let mut own =
            pairs.iter().enumerate().filter_map(|(number, (dialer, listener))| match me {
                _ if me == *dialer => Some((number, *listener)),
                _ if me == *listener => Some((number, *dialer)),
                _ => None,
            });
        Ok(own.next().ok_or("this instance is in no pair")?)
    }

    /// Connects to a relay and waits until it has told this node's address as it sees it.
    pub(crate) async fn meet_relay(&self, relay: &Card) -> Result<Multiaddr> {
        let mut events = self.node.events();
        self.node.dial(relay.address.clone()).await?;
        let seen = |event: &Event| {
            if let Event::Identified { peer, observed, .. } = event
                && *peer == relay.peer
            {
                return Some(observed.clone());
            }
            None
        };
        let observed = Node::wait_for(&mut events, "the relay's view", RELAY, seen).await?;
        self.cx.message(format!("seen as {observed}"));
        Ok(observed)
    }

    /// Gets a place at a relay; the address at which others reach this node through it.
    pub(crate) async fn reserve(&self, relay: &Card) -> Result<Multiaddr> {
        let begun = Instant::now();
        let circuit = self.node.reserve(relay.address.clone(), RELAY).await?;
        self.cx.point("reservation_s", begun.elapsed()).record();
        Ok(circuit)
    }

    /// Waits for everybody, so that nobody is gone while others need it.
    pub(crate) async fn leave(self) -> Result {
        self.cx.signal_and_wait("leave").await?;
        self.node.stop().await;
        Ok(())
    }
}

/// Whether two nodes have a connection that goes through no relay.
pub(crate) async fn is_direct(node: &Node, peer: PeerId) -> Result<bool> {
    let connections = node.connections().await?;
    Ok(connections.iter().any(|connection| connection.peer == peer && !connection.relayed))
}

/// Waits for a direct connection to a peer and counts the dials to it that fail before. `None` when it does not come.
pub(crate) async fn wait_direct(
    node: &Node,
    events: &mut broadcast::Receiver<Event>,
    of: PeerId,
    limit: Duration,
) -> Result<Option<u32>> {
    let mut failed = 0;
    let pick = |event: &Event| {
        let is_failure = matches!(event, Event::DialFailed { peer: Some(peer), .. } if *peer == of);
        failed += u32::from(is_failure);
        matches!(event, Event::Connected { peer, relayed: false, .. } if *peer == of).then_some(())
    };
    let came = Node::wait_for(events, "a direct connection", limit, pick).await.is_ok();
    Ok((came || is_direct(node, of).await?).then_some(failed))
}

/// Records whether something is so, as 1 or 0.
pub(crate) fn record_ratio(cx: &Ctx, name: &str, holds: bool, pair: (Nat, Nat)) {
    cx.point(name, holds).unit("ratio").tag("nat_a", pair.0).tag("nat_b", pair.1).record();
}

/// Whether everybody can reach an instance of this role, by how compositions use it.
fn is_public(role: Role) -> bool {
    match role {
        Role::Relay => true,
        Role::AutonatServer | Role::Dialer | Role::Listener | Role::Host | Role::Neighbour => false,
    }
}

/// The role of an instance that is told none, as when the plan runs on one machine: a relay, then pairs.
fn role_by_number(index: u32) -> Role {
    match index {
        0 => Role::Relay,
        odd if odd % 2 == 1 => Role::Dialer,
        _ => Role::Listener,
    }
}

fn end(member: &Member<Card>) -> Option<End> {
    let side = match member.value.role {
        Role::Dialer => Side::Dialer,
        Role::Listener => Side::Listener,
        Role::Relay | Role::AutonatServer | Role::Host | Role::Neighbour => return None,
    };
    Some(End { side, group: member.group.clone(), index: member.index })
}
