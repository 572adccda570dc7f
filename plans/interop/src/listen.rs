//! The side of an instance that is dialled.

use std::time::Duration;

use groundswell_bitswap::Bitswap;
use groundswell_interop::Entry;
use groundswell_p2p::{Identity, KadConfig, KadMode, Multiaddr, Node, NodeConfig, RelayLimits};
use groundswell_sdk::prelude::*;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::case::{Case, P, PLAIN};
use crate::{bitswap, punch, stack};

/// The topic of the case gossip.
pub(crate) const TOPIC: &str = "interop";
/// What the role of an instance is called that relays for all others in `hole-punch`.
const RELAY: &str = "relay";
/// How long a relay may take to promise a place.
const RESERVATION: Duration = Duration::from_secs(20);
/// How far the identities of the nodes of two stacks are apart.
const STRIDE: u64 = 1 << 16;

/// The listeners of an instance, for each stack one or several.
pub(crate) struct Listening {
    nodes: Vec<(String, Node)>,
    bitswaps: Vec<Bitswap>,
    entry: Entry,
    speaking: std::sync::Mutex<JoinSet<()>>,
}

/// Starts the listeners of a case.
pub(crate) async fn start(cx: &Ctx, case: Case, p: &P) -> Result<Listening> {
    let version = case.version(p)?;
    let mut listening = Listening {
        nodes: Vec::new(),
        bitswaps: Vec::new(),
        entry: Entry {
            implementation: case.implementation(version),
            relay: relays(cx, case),
            ..Entry::default()
        },
        speaking: std::sync::Mutex::default(),
    };
    for (place, stack) in (0..).zip(case.stacks(p)) {
        for number in 0..case.nodes(p) {
            let own = place * STRIDE + number;
            let identity = Identity::derive(p.seed, u64::from(cx.index()), own);
            match stack::config(identity, &stack, version) {
                Ok(config) => listening.add(cx, case, p, &stack, config).await?,
                Err(why) => cx.message(format!("does not listen with {stack}: {why}")),
            }
        }
    }
    let has_any = !listening.nodes.is_empty();
    ensure!(has_any, "this build has none of the stacks {:?}", case.stacks(p));
    Ok(listening)
}

/// Whether this instance is there to relay for others.
fn relays(cx: &Ctx, case: Case) -> bool {
    case == Case::HolePunch && cx.role() == RELAY
}

impl Listening {
    /// Starts one node.
    async fn add(
        &mut self,
        cx: &Ctx,
        case: Case,
        p: &P,
        stack: &str,
        config: NodeConfig,
    ) -> Result {
        let punches = case == Case::HolePunch && !self.entry.relay;
        let limits =
            RelayLimits { circuits: 256, circuits_per_peer: 256, ..RelayLimits::default() };
        let node = Node::start(NodeConfig {
            listen: vec![stack::listen(stack, cx.network().ip()?)?],
            kad: Some(KadConfig { mode: KadMode::Server, ..KadConfig::default() }),
            relay_server: (!punches).then_some(limits),
            dcutr: punches,
            ..config
        })
        .await?;
        let mut address = node.address().await?;
        self.entry.peers.insert(stack.to_owned(), node.peer().to_string());
        let known = self.entry.addresses.entry(stack.to_owned()).or_default();
        known.push(address.to_string());
        if !punches {
            // A relay tells others where they are reached through it.
            address.pop();
            node.add_external(address).await?;
        }
        if case.is_bitswap() {
            self.bitswaps.push(bitswap::serve(&node, p.blocks()).await?);
        }
        self.nodes.push((stack.to_owned(), node));
        Ok(())
    }

    /// What others have to know.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Does what has to be done before the others dial.
    pub(crate) async fn prepare(&self, cx: &Ctx, case: Case, book: &[Member<Entry>]) -> Result {
        match case {
            Case::Ping
            | Case::Identify
            | Case::NegotiationMatrix
            | Case::BitswapFetch
            | Case::BitswapMany => Ok(()),
            Case::KadFind => self.know_each_other(cx, book).await,
            Case::Gossip => self.speak().await,
            Case::RelayCircuit => self.reserve(cx, book).await,
            Case::HolePunch => self.reserve_to_punch(cx, book).await,
        }
    }

    /// Dials everybody before this instance, so that all know each other.
    async fn know_each_other(&self, cx: &Ctx, book: &[Member<Entry>]) -> Result {
        let node = self.plain()?;
        for other in book.iter().filter(|other| other.index < cx.index()) {
            node.dial(address(&other.value, PLAIN)?).await?;
        }
        Ok(())
    }

    /// Says something twice a second until the end.
    async fn speak(&self) -> Result {
        let node = self.plain()?.clone();
        node.subscribe(TOPIC).await?;
        let mut turns = interval(Duration::from_millis(500));
        let words = node.peer().to_string().into_bytes();
        let mut speaking = self.speaking.lock().map_err(|_| "the lock is poisoned")?;
        speaking.spawn(async move {
            loop {
                turns.tick().await;
                // Nobody may listen as yet.
                let _ = node.publish(TOPIC, words.clone()).await;
            }
        });
        Ok(())
    }

    /// Asks every other listener to relay for this one, when it is this one's
    /// turn: two that dial each other at the same moment, both from the port
    /// they listen at, get in each other's way.
    async fn reserve(&self, cx: &Ctx, book: &[Member<Entry>]) -> Result {
        let node = self.plain()?;
        cx.barrier("reserved").count(u64::from(cx.index())).await?;
        for relay in book.iter().filter(|relay| relay.index != cx.index()) {
            let reserved = node.reserve(address(&relay.value, PLAIN)?, RESERVATION).await;
            // The attempts through it fail, and tell that pair by pair.
            if let Err(err) = reserved {
                cx.message(format!("no place at {}: {err}", relay.value.implementation));
            }
        }
        cx.signal_once("reserved").await?;
        Ok(())
    }

    /// Gets all nodes of this instance a place at the relay, unless it is the relay.
    async fn reserve_to_punch(&self, cx: &Ctx, book: &[Member<Entry>]) -> Result {
        if self.entry.relay {
            return Ok(());
        }
        let relay = punch::relay(book)?;
        for (stack, node) in &self.nodes {
            // The attempts to reach it fail, and tell that pair by pair.
            if let Err(err) = punch::reserve(node, relay, stack).await {
                cx.message(format!("no place at the relay with {stack}: {err}"));
            }
        }
        Ok(())
    }

    fn plain(&self) -> Result<&Node> {
        let found = self.nodes.iter().find(|(stack, _)| stack == PLAIN);
        Ok(found.map(|(_, node)| node).ok_or("this build cannot speak the plain stack")?)
    }

    /// Stops the listeners.
    pub(crate) async fn stop(self) {
        // The task that speaks ends with the set it is in.
        drop(self.speaking);
        for bitswap in self.bitswaps {
            bitswap.stop().await;
        }
        for (_, node) in self.nodes {
            node.stop().await;
        }
    }
}

/// The address of a listener for a stack.
pub(crate) fn address(entry: &Entry, stack: &str) -> Result<Multiaddr> {
    let first = addresses(entry, stack)?.into_iter().next();
    Ok(first.ok_or("it listens nowhere")?)
}

/// All addresses of a listener for a stack: one of each of its nodes.
pub(crate) fn addresses(entry: &Entry, stack: &str) -> Result<Vec<Multiaddr>> {
    let known = entry.addresses.get(stack).filter(|known| !known.is_empty());
    let known =
        known.ok_or_else(|| format!("{} does not listen with {stack}", entry.implementation))?;
    known.iter().map(|address| Ok(address.parse()?)).collect()
}
