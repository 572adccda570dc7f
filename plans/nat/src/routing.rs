//! A peer behind a NAT is found through the DHT and reached through its relay.

use std::time::Duration;

use groundswell_p2p::{KadConfig, KadMode, Multiaddr, PeerId, Protocol};
use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::host::{Host, Role, record_ratio};
use crate::punch::limits;
use groundswell_p2p::echo;

/// How long bytes there and back may take.
const ECHO: Duration = Duration::from_secs(20);
const ECHO_BYTES: u64 = 1024;

#[derive(Debug, Clone, Deserialize)]
struct Params {
    stagger: Duration,
    settle: Duration,
}

/// Listeners join the DHT with the address they have at their relay. Dialers know their names and nothing else.
pub(crate) async fn peer_routing(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let host = Host::join(&cx, |config, role| {
        // A server of the DHT is who has an address that others reach: relays at once, listeners by their relay.
        let mode = if role == Role::Dialer { KadMode::Client } else { KadMode::Auto };
        config.kad = Some(KadConfig { mode, ..KadConfig::default() });
        match role {
            Role::Relay => config.relay_server = Some(limits()),
            Role::Dialer | Role::Listener => config.relay_client = true,
            Role::AutonatServer | Role::Host | Role::Neighbour => {}
        }
    })
    .await?;
    cx.phase("join", join(&host, &params)).await?;
    sleep(params.settle).await;
    cx.phase("route", async {
        if host.card.role == Role::Dialer { route(&host, &params).await } else { Ok(()) }
    })
    .await?;
    host.leave().await
}

/// Everybody knows one relay, and listeners have a place there; the first relay knows the others.
async fn join(host: &Host, params: &Params) -> Result {
    let relays: Vec<_> = host.relays()?.into_iter().cloned().collect();
    let is_relay = host.card.role == Role::Relay;
    let own = if is_relay { &relays[0] } else { &relays[host.cx.index() as usize % relays.len()] };
    if own.peer == host.card.peer {
        return Ok(());
    }
    host.cx.stagger(params.stagger).await;
    host.meet_relay(own).await?;
    if host.card.role == Role::Listener {
        host.reserve(own).await?;
    }
    host.node.add_address(own.peer, own.address.clone()).await?;
    host.node.bootstrap().await?;
    Ok(())
}

async fn route(host: &Host, params: &Params) -> Result {
    let (cx, node) = (&host.cx, &host.node);
    let listener = host.card_of(host.partner()?.1)?;
    let pair = (host.card.nat, listener.nat);
    cx.stagger(params.stagger).await;
    let begun = Instant::now();
    let found = node.find_peer(listener.peer).await?;
    let circuits: Vec<Multiaddr> = found.addresses.into_iter().filter(is_circuit).collect();
    record_ratio(cx, "found_ratio", !circuits.is_empty(), pair);
    if circuits.is_empty() {
        return Ok(());
    }
    cx.point("time_to_discover_s", begun.elapsed()).record();
    let reached = reach(node, listener.peer, circuits).await;
    if reached {
        cx.point("time_to_relayed_s", begun.elapsed()).record();
    }
    record_ratio(cx, "reached_ratio", reached, pair);
    Ok(())
}

async fn reach(node: &groundswell_p2p::Node, peer: PeerId, circuits: Vec<Multiaddr>) -> bool {
    node.dial_peer(peer, circuits).await.is_ok()
        && echo::through(node, peer, ECHO_BYTES, ECHO).await == ECHO_BYTES
}

fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}
