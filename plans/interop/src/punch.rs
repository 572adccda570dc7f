//! Holes: from a connection through a relay to a direct one.

use std::time::Duration;

use groundswell_interop::Entry;
use groundswell_p2p::{Event, Multiaddr, Node, Protocol};
use groundswell_sdk::prelude::*;
use tokio::time::Instant;

use crate::dial::{Measures, Target};
use crate::listen;

/// How long a relay may take to say how it sees a node, or to promise a place.
const RELAY: Duration = Duration::from_secs(20);

/// How long a direct connection may take once there is one through the relay. Less than an attempt, so that it is told
/// what was missing.
const PUNCHED: Duration = Duration::from_secs(10);

/// The instance that relays for all others.
pub(crate) fn relay(book: &[Member<Entry>]) -> Result<&Entry> {
    let found = book.iter().map(|member| &member.value).find(|entry| entry.relay);
    Ok(found.ok_or("no group has the parameter `role = \"relay\"`")?)
}

/// Gets a listener a place at the relay.
pub(crate) async fn reserve(node: &Node, relay: &Entry, stack: &str) -> Result {
    let address = listen::address(relay, stack)?;
    meet(node, address.clone()).await?;
    node.reserve(address, RELAY).await?;
    Ok(())
}

/// Reaches the listener through the relay, and waits until both have got through to each other.
pub(crate) async fn punched(
    target: &Target,
    relay: &Entry,
    stack: &str,
    measures: &mut Measures,
) -> Result {
    let address = listen::address(relay, stack)?;
    meet(&target.node, address.clone()).await?;
    let circuit = address.with(Protocol::P2pCircuit).with(Protocol::P2p(target.peer));
    let mut events = target.node.events();
    let begun = Instant::now();
    target.node.dial(circuit).await?;
    measures.insert("relayed_s".to_owned(), begun.elapsed().as_secs_f64());
    Node::wait_for(&mut events, "a direct connection", PUNCHED, |event| {
        let Event::Connected { peer, relayed, .. } = event else { return None };
        (*peer == target.peer && !relayed).then_some(())
    })
    .await?;
    measures.insert("direct_s".to_owned(), begun.elapsed().as_secs_f64());
    Ok(())
}

/// Connects to the relay and waits until it has said how it sees the node: that is where others will dial it.
async fn meet(node: &Node, relay: Multiaddr) -> Result {
    let mut events = node.events();
    let peer = node.dial(relay).await?;
    Node::wait_for(&mut events, "the relay's view", RELAY, |event| {
        let Event::Identified { peer: from, .. } = event else { return None };
        (*from == peer).then_some(())
    })
    .await?;
    Ok(())
}
