//! The side of an instance that dials.

use std::collections::BTreeMap;
use std::time::Duration;

use groundswell_interop::{Entry, Outcome};
use groundswell_p2p::{
    Event, Identity, KadConfig, KadMode, Multiaddr, Node, NodeConfig, PeerId, Protocol,
};
use groundswell_sdk::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::case::{self, Case, P, PLAIN};
use crate::listen::{self, TOPIC};
use crate::{bitswap, punch, stack};

/// How long an event may take to come.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions to the DHT.
const AGAIN: Duration = Duration::from_millis(200);
/// Where the identities of dialling nodes begin: others than those of listeners.
const DIALERS: u64 = 1 << 32;

/// What is measured in an attempt, by the KPI's name.
pub(crate) type Measures = BTreeMap<String, f64>;

/// Tries everything that a case is about, one after the other.
pub(crate) async fn all(
    cx: &Ctx,
    case: Case,
    p: &P,
    book: &[Member<Entry>],
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (number, (variant, listener)) in (0..).zip(case.attempts(p, book, cx.index())) {
        let identity = Identity::derive(p.seed, u64::from(cx.index()), DIALERS + number);
        let attempt = Attempt { cx, case, p, book, variant: &variant, listener };
        let mut measures = Measures::new();
        let limit = case.limit();
        let tried = timeout(limit, attempt.make(identity, &mut measures)).await;
        let error = match tried {
            Ok(Ok(())) => None,
            Ok(Err(err)) => Some(err.to_string()),
            Err(_) => Some(format!("took more than {} s", limit.as_secs())),
        };
        outcomes.push(Outcome { variant, listener, error, measures });
    }
    Ok(outcomes)
}

/// One attempt.
struct Attempt<'a> {
    cx: &'a Ctx,
    case: Case,
    p: &'a P,
    book: &'a [Member<Entry>],
    variant: &'a str,
    listener: u32,
}

/// What an attempt is made with.
pub(crate) struct Target {
    pub(crate) node: Node,
    pub(crate) peer: PeerId,
    address: Multiaddr,
}

impl Attempt<'_> {
    /// Makes it with a node of its own, so that nothing is left of the one before.
    async fn make(&self, identity: Identity, measures: &mut Measures) -> Result {
        let stack = if case::relay(self.variant).is_some() { PLAIN } else { self.variant };
        let entry = self.entry(self.listener)?;
        let address = listen::address(entry, stack)?;
        let peer = entry.peers.get(stack).ok_or("it has no peer id")?.parse()?;
        let node = Node::start(self.config(identity, stack)?).await?;
        let target = Target { node, peer, address };
        let made = match self.case {
            Case::Ping | Case::NegotiationMatrix => {
                pinged(&target, &target.address, measures).await
            }
            Case::Identify => self.identified(&target).await,
            Case::KadFind => self.found(&target, measures).await,
            Case::Gossip => heard(&target, measures).await,
            Case::RelayCircuit => pinged(&target, &self.circuit(&target)?, measures).await,
            Case::BitswapFetch | Case::BitswapMany => {
                let addresses = listen::addresses(entry, stack)?;
                let limit = self.case.limit();
                bitswap::fetched(&target.node, addresses, self.p.blocks(), limit, measures).await
            }
            Case::HolePunch => {
                let relay = punch::relay(self.book)?;
                punch::punched(&target, relay, stack, measures).await
            }
        };
        target.node.stop().await;
        made
    }

    fn config(&self, identity: Identity, stack: &str) -> Result<NodeConfig> {
        let config = NodeConfig {
            kad: Some(KadConfig { mode: KadMode::Client, ..KadConfig::default() }),
            ..stack::config(identity, stack, self.case.version(self.p)?)?
        };
        if self.case != Case::HolePunch {
            return Ok(config);
        }
        // Holes are punched from the port where a node listens.
        let listen = vec![stack::listen(stack, self.cx.network().ip()?)?];
        Ok(NodeConfig { listen, dcutr: true, ..config })
    }

    fn entry(&self, index: u32) -> Result<&Entry> {
        let found = self.book.iter().find(|member| member.index == index);
        Ok(&found.ok_or(format!("there is no instance {index}"))?.value)
    }

    /// The way to the listener through the relay of this variant.
    fn circuit(&self, target: &Target) -> Result<Multiaddr> {
        let relay = case::relay(self.variant).ok_or("the variant names no relay")?;
        let relay = listen::address(self.entry(relay)?, PLAIN)?;
        Ok(relay.with(Protocol::P2pCircuit).with(Protocol::P2p(target.peer)))
    }

    async fn identified(&self, target: &Target) -> Result {
        let mut events = target.node.events();
        target.node.dial(target.address.clone()).await?;
        let (agent, protocols) = Node::wait_for(&mut events, "identify", LIMIT, |event| {
            let Event::Identified { peer, agent, protocols, .. } = event else { return None };
            (*peer == target.peer).then(|| (agent.clone(), protocols.clone()))
        })
        .await?;
        let wanted = &self.entry(self.listener)?.implementation;
        ensure!(agent == *wanted, "it calls itself {agent}");
        let pings = protocols.iter().any(|protocol| protocol == "/ipfs/ping/1.0.0");
        ensure!(pings, "it does not say that it speaks /ipfs/ping/1.0.0");
        Ok(())
    }

    /// Asks somebody else for the listener.
    async fn found(&self, target: &Target, measures: &mut Measures) -> Result {
        let other = self.book.iter().find(|other| other.index != self.listener);
        let other = &other.ok_or("there is nobody else to ask")?.value;
        let address = listen::address(other, PLAIN)?;
        let peer = other.peers.get(PLAIN).ok_or("it has no peer id")?.parse()?;
        target.node.add_address(peer, address.clone()).await?;
        target.node.dial(address).await?;
        let begun = Instant::now();
        // Identify may take a moment to tell the DHT about the one that is asked.
        while !target.node.find_peer(target.peer).await?.found {
            sleep(AGAIN).await;
        }
        measures.insert("find_s".to_owned(), begun.elapsed().as_secs_f64());
        Ok(())
    }
}

async fn pinged(target: &Target, address: &Multiaddr, measures: &mut Measures) -> Result {
    let mut events = target.node.events();
    let begun = Instant::now();
    target.node.dial(address.clone()).await?;
    answered(&mut events, target.peer).await?;
    measures.insert("handshake_plus_one_rtt_s".to_owned(), begun.elapsed().as_secs_f64());
    let rtt = answered(&mut events, target.peer).await?;
    measures.insert("ping_rtt_s".to_owned(), rtt.as_secs_f64());
    Ok(())
}

async fn answered(
    events: &mut tokio::sync::broadcast::Receiver<Event>,
    target: PeerId,
) -> Result<Duration> {
    let answer = Node::wait_for(events, "the answer to a ping", LIMIT, |event| {
        let Event::Ping { peer, rtt } = event else { return None };
        (*peer == target).then_some(*rtt)
    });
    Ok(answer.await?.ok_or("the ping failed")?)
}

async fn heard(target: &Target, measures: &mut Measures) -> Result {
    let words = target.peer.to_string().into_bytes();
    let mut events = target.node.events();
    let begun = Instant::now();
    target.node.subscribe(TOPIC).await?;
    target.node.dial(target.address.clone()).await?;
    Node::wait_for(&mut events, "a message", LIMIT, |event| {
        let Event::Message { topic, data, .. } = event else { return None };
        (topic == TOPIC && *data == words).then_some(())
    })
    .await?;
    measures.insert("heard_s".to_owned(), begun.elapsed().as_secs_f64());
    Ok(())
}
