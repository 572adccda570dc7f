//! The side of an instance that is dialled.

use std::collections::BTreeMap;
use std::time::Duration;

use groundswell_p2p::{
    GossipConfig, Identity, KadConfig, KadMode, Multiaddr, Node, NodeConfig, Protocol, RelayLimits,
    Security,
};
use groundswell_sdk::prelude::*;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::book::Entry;
use crate::case::{Case, P, PLAIN};

/// The topic of the case gossip.
pub(crate) const TOPIC: &str = "interop";
/// How long a relay may take to promise a place.
const RESERVATION: Duration = Duration::from_secs(20);

/// The listeners of an instance, one for each stack.
pub(crate) struct Listening {
    nodes: BTreeMap<String, Node>,
    entry: Entry,
    speaking: std::sync::Mutex<JoinSet<()>>,
}

/// Starts the listeners of a case.
pub(crate) async fn start(cx: &Ctx, case: Case, p: &P) -> Result<Listening> {
    let ip = cx.network().ip()?;
    let mut nodes = BTreeMap::new();
    let mut entry = Entry::default();
    for (place, stack) in (0..).zip(case.stacks(p)) {
        let identity = Identity::derive(p.seed, u64::from(cx.index()), place);
        let config = match config(identity, &stack) {
            Ok(config) => config,
            Err(why) => {
                cx.message(format!("does not listen with {stack}: {why}"));
                continue;
            }
        };
        let at = Multiaddr::empty().with(Protocol::Ip4(ip)).with(Protocol::Tcp(0));
        let node = Node::start(NodeConfig {
            listen: vec![at],
            kad: Some(KadConfig { mode: KadMode::Server, ..KadConfig::default() }),
            relay_server: Some(RelayLimits { circuits: 256, ..RelayLimits::default() }),
            ..config
        })
        .await?;
        let mut address = node.address().await?;
        entry.peers.insert(stack.clone(), node.peer().to_string());
        entry.addresses.insert(stack.clone(), vec![address.to_string()]);
        // A relay tells others where they are reached through it.
        address.pop();
        node.add_external(address).await?;
        entry.implementation = implementation(&node);
        nodes.insert(stack, node);
    }
    ensure!(!nodes.is_empty(), "this build has none of the stacks {:?}", case.stacks(p));
    Ok(Listening { nodes, entry, speaking: std::sync::Mutex::default() })
}

impl Listening {
    /// What others have to know.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Does what has to be done before the others dial.
    pub(crate) async fn prepare(&self, cx: &Ctx, case: Case, book: &[Member<Entry>]) -> Result {
        match case {
            Case::Ping | Case::Identify | Case::NegotiationMatrix => Ok(()),
            Case::KadFind => self.know_each_other(cx, book).await,
            Case::Gossip => self.speak().await,
            Case::RelayCircuit => self.reserve(cx, book).await,
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

    fn plain(&self) -> Result<&Node> {
        Ok(self.nodes.get(PLAIN).ok_or("this build cannot speak the plain stack")?)
    }

    /// Stops the listeners.
    pub(crate) async fn stop(self) {
        // The task that speaks ends with the set it is in.
        drop(self.speaking);
        for node in self.nodes.into_values() {
            node.stop().await;
        }
    }
}

/// The address of a listener for a stack.
pub(crate) fn address(entry: &Entry, stack: &str) -> Result<Multiaddr> {
    let known = entry.addresses.get(stack).and_then(|addresses| addresses.first());
    let text = known.ok_or(format!("{} does not listen with {stack}", entry.implementation))?;
    Ok(text.parse()?)
}

/// A node that speaks one stack only, or why this build cannot.
pub(crate) fn config(identity: Identity, stack: &str) -> Result<NodeConfig> {
    let parts: Vec<&str> = stack.split('/').collect();
    let [transport, security, muxer] = parts[..] else {
        return Err(format!("`{stack}` is no transport/security/muxer").into());
    };
    let config = NodeConfig::new(identity);
    let lacks = |what: &str| format!("rust-{} as it is built here has no {what}", config.version);
    ensure!(transport == "tcp", "{}", lacks(transport));
    ensure!(muxer == "yamux", "{}", lacks(muxer));
    let security = match security {
        "noise" => Security::Noise,
        "plaintext" => Security::Plaintext,
        other => return Err(lacks(other).into()),
    };
    Ok(NodeConfig {
        security,
        agent: named(config.version),
        ping: Some(Duration::from_millis(200)),
        relay_client: true,
        gossip: Some(GossipConfig::default()),
        ..config
    })
}

fn implementation(node: &Node) -> String {
    named(node.version())
}

fn named(version: groundswell_p2p::Version) -> String {
    format!("rust-{}", version.name().replace('_', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_that_is_not_built_in_is_told_by_name() {
        let wrong = |stack| config(Identity::derive(1, 2, 3), stack).unwrap_err().to_string();
        assert!(wrong("tcp/noise/mplex").ends_with("has no mplex"));
        assert!(wrong("tcp/tls/yamux").ends_with("has no tls"));
        assert!(wrong("ws/noise/yamux").ends_with("has no ws"));
        assert!(wrong("tcp").contains("`tcp` is no transport/security/muxer"));
        let plain = config(Identity::derive(1, 2, 3), PLAIN).unwrap();
        assert!(plain.agent.starts_with("rust-libp2p-0.5"), "{}", plain.agent);
    }
}
