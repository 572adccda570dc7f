//! A network of all instances: nodes with Kademlia and Bitswap, and relays.

use std::time::Duration;

use groundswell_bitswap::{Added, Bitswap, Cid, Config, File, Store};
use groundswell_p2p::{
    Identity, KadConfig, KadMode, Multiaddr, Node, NodeConfig, PeerId, Protocol, RelayLimits, dht,
};
use groundswell_sdk::{Ctx, Result, Shape, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::params::Params;

/// How long a node behind a NAT tries to get a place at a relay.
const RESERVATION: Duration = Duration::from_secs(30);
/// How long a node tries to reach those it joins through.
const ENTRANCE: Duration = Duration::from_secs(30);
/// Nodes that others join through.
const ENTRANCES: usize = 3;

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Has files.
    Adder,
    /// Wants files.
    Fetcher,
    /// Is a part of the DHT.
    Crowd,
    /// Relays for those behind NATs, and is where others join.
    Relay,
}

/// What everybody tells about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hello {
    address: String,
    role: Role,
    nat: bool,
}

/// An instance of the run.
#[derive(Debug, Clone)]
pub(crate) struct Mate {
    pub(crate) index: u32,
    pub(crate) peer: PeerId,
    address: Multiaddr,
    pub(crate) role: Role,
    pub(crate) nat: bool,
}

/// A file that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    root: String,
    sha256: [u8; 32],
    pub(crate) size: u64,
}

impl Offer {
    pub(crate) fn of(added: &Added) -> Self {
        let (root, sha256) = (added.root.to_string(), added.sha256);
        Self { root, sha256, size: added.node.size() }
    }

    pub(crate) fn cid(&self) -> Result<Cid> {
        Ok(self.root.parse()?)
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

/// This instance.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) cx: Ctx,
    pub(crate) params: Params,
    pub(crate) node: Node,
    pub(crate) bitswap: Bitswap,
    pub(crate) me: Mate,
    /// Everybody, in the order of the instances.
    pub(crate) mates: Vec<Mate>,
}

impl Rig {
    /// Brings up the network.
    pub(crate) async fn start(cx: &Ctx) -> Result<Self> {
        let params = Params::read(cx)?;
        shape(cx, &params).await?;
        let role = role(cx)?;
        let nat = dht::is_behind_nat(cx);
        let node = Node::start(config(cx, &params, role, nat)?).await?;
        if !nat {
            // A relay gives no reservation before it knows how others reach it.
            for address in node.listeners().await? {
                node.add_external(address).await?;
            }
        }
        let seed = params.seed.wrapping_add(u64::from(cx.index()));
        let config = Config { seed, ..Config::default() };
        let bitswap = Bitswap::start(node.clone(), Store::default(), config).await?;
        let hello = Hello { address: node.address().await?.to_string(), role, nat };
        let mates = meet(cx, &params, &hello).await?;
        let me = mates.iter().find(|mate| mate.index == cx.index()).cloned();
        let me = me.ok_or("the instance did not meet itself")?;
        cx.tag_kpis("role", format!("{role:?}").to_lowercase());
        cx.tag_kpis("version", node.version());
        let rig = Self { cx: cx.clone(), params, node, bitswap, me, mates };
        rig.join().await?;
        Ok(rig)
    }

    pub(crate) fn with(&self, role: Role) -> impl Iterator<Item = &Mate> {
        self.mates.iter().filter(move |mate| mate.role == role)
    }

    pub(crate) fn is(&self, role: Role) -> bool {
        self.me.role == role
    }

    /// This instance's number among those with its role.
    pub(crate) fn number(&self) -> usize {
        self.with(self.me.role).take_while(|mate| mate.index < self.me.index).count()
    }

    /// Makes a file and puts it into the own store. Equal keys are equal files.
    pub(crate) fn make(&self, key: u64) -> Added {
        let block = usize::try_from(self.params.block_size.0).unwrap_or(usize::MAX);
        let seed = self.params.seed.wrapping_mul(1_000_003).wrapping_add(key);
        File::generate(seed, self.params.file_size.0, block).add_to(self.bitswap.store())
    }

    /// Announces in the DHT that this node has a file, and where it is.
    pub(crate) async fn provide(&self, root: Cid) -> Result<Duration> {
        let begun = Instant::now();
        self.node.provide(root.multihash()).await?;
        self.tell_addresses().await?;
        Ok(begun.elapsed())
    }

    /// Provider records of rust-libp2p name a peer and not its address, and
    /// nodes that are no servers are in nobody's routing table. So whoever
    /// provides puts its addresses into the DHT too.
    async fn tell_addresses(&self) -> Result {
        let mut addresses: Vec<String> = Vec::new();
        for address in self.node.listeners().await? {
            let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
            // Behind a NAT only what goes through a relay is of use to others.
            if relayed || !self.me.nat {
                addresses.push(address.to_string());
            }
        }
        let value = serde_json::to_vec(&addresses)?;
        self.node.put_value(address_key(&self.me.peer), value, None).await?;
        Ok(())
    }

    /// Where a peer has said that it is.
    pub(crate) async fn addresses_of(&self, peer: &PeerId) -> Result<Vec<Multiaddr>> {
        let found = self.node.get_value(address_key(peer), 1).await?.found;
        let Some((value, _)) = found.into_iter().next() else { return Ok(Vec::new()) };
        let texts: Vec<String> = serde_json::from_slice(&value)?;
        texts.iter().map(|text| Ok(text.parse()?)).collect()
    }

    /// Stops when all are done.
    pub(crate) async fn stop(self) -> Result {
        self.cx.signal_and_wait("done").await?;
        self.bitswap.stop().await;
        self.node.stop().await;
        Ok(())
    }

    async fn join(&self) -> Result {
        let cx = &self.cx;
        cx.phase("join", async {
            let doors: Vec<_> = self.entrances();
            if !doors.iter().any(|door| door.index == self.me.index) {
                cx.stagger(self.params.stagger).await;
            }
            for door in doors.iter().filter(|door| door.index < self.me.index) {
                self.enter(door).await?;
            }
            if self.mates.len() > 1 {
                self.node.closest(self.me.peer.to_bytes()).await?;
            }
            self.reserve().await
        })
        .await?;
        cx.phase("settle", async {
            tokio::time::sleep(self.params.settle).await;
            // Who came later is known now.
            if self.mates.len() > 1 {
                self.node.closest(self.me.peer.to_bytes()).await?;
            }
            Ok(())
        })
        .await
    }

    /// Relays, or without any the first that others reach.
    fn entrances(&self) -> Vec<&Mate> {
        let relays: Vec<_> = self.with(Role::Relay).take(ENTRANCES).collect();
        if !relays.is_empty() {
            return relays;
        }
        self.mates.iter().filter(|mate| !mate.nat).take(1).collect()
    }

    async fn enter(&self, door: &Mate) -> Result {
        let limit = Instant::now() + ENTRANCE;
        while let Err(err) = self.node.dial_peer(door.peer, vec![door.address.clone()]).await {
            if Instant::now() > limit {
                return Err(err.into());
            }
        }
        Ok(self.node.add_address(door.peer, door.address.clone()).await?)
    }

    /// Behind a NAT a node is reached through a relay.
    async fn reserve(&self) -> Result {
        let relays: Vec<_> = self.with(Role::Relay).collect();
        if !self.me.nat {
            return Ok(());
        }
        ensure!(
            !relays.is_empty(),
            "this instance is behind a NAT and there is no relay: add a group `relay` without a NAT"
        );
        let relay = relays[self.me.index as usize % relays.len()];
        let begun = Instant::now();
        self.node.reserve(relay.address.clone(), RESERVATION).await?;
        self.cx.point("reservation_s", begun.elapsed()).record();
        Ok(())
    }
}

fn address_key(peer: &PeerId) -> Vec<u8> {
    let mut key = b"/addresses/".to_vec();
    key.extend(peer.to_bytes());
    key
}

async fn shape(cx: &Ctx, params: &Params) -> Result {
    if params.latency.is_zero() && params.bandwidth.is_none() {
        return Ok(());
    }
    let mut shape = Shape::new().latency(params.latency).jitter_pct(params.jitter_pct);
    if let Some(rate) = params.bandwidth {
        shape = shape.bandwidth(rate);
    }
    Ok(cx.network().shape(shape).await?)
}

fn config(cx: &Ctx, params: &Params, role: Role, nat: bool) -> Result<NodeConfig> {
    let listen: Multiaddr = format!("/ip4/{}/tcp/0", cx.network().ip()?).parse()?;
    // A relay's limits are for strangers: here it has to carry whole files.
    let limits = RelayLimits {
        reservations: 4096,
        circuits: 4096,
        circuits_per_peer: 64,
        circuit_time: Duration::from_secs(3600),
        circuit_bytes: 1 << 40,
        ..RelayLimits::default()
    };
    Ok(NodeConfig {
        listen: vec![listen],
        idle_timeout: Duration::from_secs(600),
        kad: Some(KadConfig {
            replication: params.replication,
            query_timeout: params.find_timeout,
            mode: if nat { KadMode::Client } else { KadMode::Server },
            ..KadConfig::default()
        }),
        relay_server: (role == Role::Relay).then_some(limits),
        relay_client: role != Role::Relay,
        dcutr: role != Role::Relay,
        ..NodeConfig::new(Identity::derive(params.seed, u64::from(cx.index()), 0))
    })
}

async fn meet(cx: &Ctx, params: &Params, hello: &Hello) -> Result<Vec<Mate>> {
    let mut mates = Vec::new();
    for member in cx.exchange("hello", hello).await? {
        let Hello { address, role, nat } = member.value;
        mates.push(Mate {
            index: member.index,
            peer: Identity::derive(params.seed, u64::from(member.index), 0).peer(),
            address: address.parse()?,
            role,
            nat,
        });
    }
    Ok(mates)
}

/// By the parameter `role` or the group's name; in a run without groups the
/// first instance adds and all others fetch.
fn role(cx: &Ctx) -> Result<Role> {
    let name = cx.role();
    let named = [
        ("adder", Role::Adder),
        ("fetcher", Role::Fetcher),
        ("crowd", Role::Crowd),
        ("relay", Role::Relay),
    ];
    let known = named.iter().find(|(known, _)| name.contains(known)).map(|(_, role)| *role);
    let alone = || match (name, cx.index()) {
        ("single", 0) => Some(Role::Adder),
        ("single", _) => Some(Role::Fetcher),
        _ => None,
    };
    known.or_else(alone).ok_or_else(|| {
        format!("`{name}` is no role; groups or their parameter `role` name adder, fetcher, crowd or relay").into()
    })
}
