//! What an instance is made of: a node, its Bitswap, and everybody else.

use std::time::Duration;

use groundswell_bitswap::{Bitswap, Store};
use groundswell_p2p::{Identity, KadConfig, Multiaddr, Node, NodeConfig, PeerId};
use groundswell_sdk::{Ctx, Rate, Result, Shape, ensure};
use serde::{Deserialize, Serialize};

use crate::params::{Params, Setting};

/// How long a dial is tried again: under a rate limit handshakes of many peers queue.
const DIAL_TRIES: u32 = 5;

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Has the file.
    Seed,
    /// Wants it.
    Leech,
    /// Is there.
    Passive,
    /// Has the one block that seeds lack.
    Rare,
}

/// What everybody tells about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hello {
    address: String,
    role: Role,
    legacy: bool,
    latency_ms: u64,
}

/// An instance of the run.
#[derive(Debug, Clone)]
pub(crate) struct Mate {
    pub(crate) index: u32,
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    pub(crate) role: Role,
    pub(crate) legacy: bool,
    pub(crate) latency_ms: u64,
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
    /// Shapes the network, starts a node, and meets the others.
    pub(crate) async fn start(cx: &Ctx, kad: Option<KadConfig>) -> Result<Self> {
        let params = Params::read(cx)?;
        let first = params.settings().into_iter().next();
        if let Some(first) = first.filter(|first| shape_of(&params, first) != Shape::new()) {
            // Without a word about it the network stays as the composition made it.
            cx.network().shape(shape_of(&params, &first)).await?;
        }
        let index = cx.index();
        let identity = Identity::derive(params.seed, u64::from(index), 0);
        let config = NodeConfig {
            listen: vec![format!("/ip4/{}/tcp/0", cx.network().ip()?).parse()?],
            idle_timeout: Duration::from_secs(3600),
            kad,
            ..NodeConfig::new(identity)
        };
        let node = Node::start(config).await?;
        let store = Store::default();
        let bitswap = Bitswap::start(node.clone(), store, params.config(index)).await?;
        let version = format!("{}+bitswap-{}", node.version(), params.bitswap_version);
        cx.tag_kpis("version", version);
        let hello = Hello {
            address: node.address().await?.to_string(),
            role: role(cx, &params),
            legacy: params.legacy(),
            latency_ms: params.latency_ms[0],
        };
        let mates = meet(cx, &params, &hello).await?;
        let me = mates.iter().find(|mate| mate.index == index).cloned();
        let Some(me) = me else { return Err("the instance did not meet itself".into()) };
        cx.tag_kpis("role", format!("{:?}", me.role).to_lowercase());
        Ok(Self { cx: cx.clone(), params, node, bitswap, me, mates })
    }

    /// Those with a role.
    pub(crate) fn with(&self, role: Role) -> impl Iterator<Item = &Mate> {
        self.mates.iter().filter(move |mate| mate.role == role)
    }

    pub(crate) fn count(&self, role: Role) -> usize {
        self.with(role).count()
    }

    /// This instance's number among those with its role.
    pub(crate) fn number(&self) -> usize {
        self.with(self.me.role).take_while(|mate| mate.index < self.me.index).count()
    }

    pub(crate) fn is(&self, role: Role) -> bool {
        self.me.role == role
    }

    pub(crate) fn mate(&self, peer: &PeerId) -> Option<&Mate> {
        self.mates.iter().find(|mate| mate.peer == *peer)
    }

    /// Needs seeds and leeches.
    pub(crate) fn ensure_roles(&self) -> Result {
        for role in [Role::Seed, Role::Leech] {
            ensure!(
                self.count(role) > 0,
                "no instance is a {role:?}: name groups `seed` and `leech`, give groups the parameter `role`, or set `leech_count` below the number of instances"
            );
        }
        Ok(())
    }

    /// Connects leeches with everybody, each to its share of the others;
    /// of two leeches the later one dials.
    pub(crate) async fn connect(&self) -> Result {
        self.ensure_roles()?;
        let mine: Vec<_> = self.mates.iter().filter(|mate| self.dials(mate)).collect();
        let share = self.params.max_connection_rate.ratio();
        let mut rng = self.cx.rng("connections");
        let mut chosen = mine;
        rng.shuffle(&mut chosen);
        let count = (chosen.len() as f64 * share).ceil();
        self.cx
            .phase("connect", async {
                self.cx.stagger(self.params.settle).await;
                for (_, mate) in
                    chosen.iter().enumerate().take_while(|(at, _)| (*at as f64) < count)
                {
                    self.dial(mate).await?;
                }
                Ok(())
            })
            .await
    }

    fn dials(&self, mate: &Mate) -> bool {
        if !self.is(Role::Leech) || mate.index == self.me.index {
            return false;
        }
        mate.role != Role::Leech || mate.index < self.me.index
    }

    pub(crate) async fn dial(&self, mate: &Mate) -> Result {
        let mut tries = 1;
        while let Err(err) = self.node.dial_peer(mate.peer, vec![mate.address.clone()]).await {
            if tries == DIAL_TRIES {
                return Err(err.into());
            }
            tries += 1;
        }
        Ok(())
    }

    /// Closes all connections.
    pub(crate) async fn part(&self) -> Result {
        for connection in self.node.connections().await? {
            self.node.disconnect(connection.peer).await?;
        }
        Ok(())
    }

    /// Shapes the network for a round, if it is to be another one.
    pub(crate) async fn shape(&self, from: Option<&Setting>, to: &Setting) -> Result {
        let link = |setting: &Setting| (setting.latency_ms, setting.bandwidth_mbit);
        if from.is_some_and(|from| link(from) != link(to)) {
            self.cx.network().shape(shape_of(&self.params, to)).await?;
        }
        Ok(())
    }

    /// Stops when all are done.
    pub(crate) async fn stop(self) -> Result {
        self.cx.signal_and_wait("done").await?;
        self.bitswap.stop().await;
        self.node.stop().await;
        Ok(())
    }
}

fn shape_of(params: &Params, setting: &Setting) -> Shape {
    let mut shape = Shape::new();
    if setting.latency_ms > 0 {
        let latency = Duration::from_millis(setting.latency_ms);
        shape = shape.latency(latency).jitter_pct(params.jitter_pct);
    }
    if setting.bandwidth_mbit > 0 {
        shape = shape.bandwidth(Rate(setting.bandwidth_mbit * 1_000_000));
    }
    shape
}

async fn meet(cx: &Ctx, params: &Params, hello: &Hello) -> Result<Vec<Mate>> {
    let mut mates = Vec::new();
    for member in cx.exchange("hello", hello).await? {
        let Hello { address, role, legacy, latency_ms } = member.value;
        mates.push(Mate {
            index: member.index,
            peer: Identity::derive(params.seed, u64::from(member.index), 0).peer(),
            address: address.parse()?,
            role,
            legacy,
            latency_ms,
        });
    }
    Ok(mates)
}

/// By the parameter `role` or the group's name; else by counts, in the order
/// of the instances: leeches, passive ones, seeds.
fn role(cx: &Ctx, params: &Params) -> Role {
    let name = cx.role();
    let named = [
        ("seed", Role::Seed),
        ("leech", Role::Leech),
        ("passive", Role::Passive),
        ("rare", Role::Rare),
    ];
    if let Some((_, role)) = named.iter().find(|(known, _)| name.contains(known)) {
        return *role;
    }
    let share = params.seeder_pct.of(cx.instances());
    let (leeches, passive) = if share > 0 {
        (cx.instances().saturating_sub(share), 0)
    } else {
        (params.leech_count, params.passive_count)
    };
    match cx.index() {
        index if index < leeches => Role::Leech,
        index if index < leeches + passive => Role::Passive,
        _ => Role::Seed,
    }
}
