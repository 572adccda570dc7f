//! A relay that is asked for more than it gives.

use std::time::Duration;

use groundswell_p2p::{Event, Multiaddr, Node, PeerId, RelayLimits};
use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::Instant;

use crate::host::{Host, Role};
use groundswell_p2p::echo;

/// How long a circuit may take to be cut after its limit.
const SLACK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Deserialize)]
struct Params {
    max_reservations: usize,
    max_circuits: usize,
    circuit_bytes: Bytes,
    circuit_time: Duration,
}

/// More listeners than places, more dialers than circuits, more bytes and more time than a circuit has.
pub(crate) async fn relay_capacity(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let limits = RelayLimits {
        reservations: params.max_reservations,
        circuits: params.max_circuits,
        circuits_per_peer: params.max_circuits,
        circuit_time: params.circuit_time,
        circuit_bytes: params.circuit_bytes.0,
        ..RelayLimits::default()
    };
    let host = Host::join(&cx, |config, role| match role {
        Role::Relay => config.relay_server = Some(limits),
        Role::Dialer | Role::Listener => config.relay_client = true,
        Role::AutonatServer | Role::Host | Role::Neighbour => {}
    })
    .await?;
    ensure!(host.relays()?.len() == 1, "this case is about one relay");
    let own = cx.phase("reserve", reserve(&host)).await?;
    let told = cx.exchange("circuits", &own).await?;
    let circuits: Vec<Multiaddr> = told.into_iter().filter_map(|member| member.value).collect();
    let open = cx.phase("circuits", open(&host, &circuits)).await?;
    cx.phase("data", data(&host, &params, open)).await?;
    cx.phase("time", time(&host, &params, &circuits)).await?;
    host.leave().await
}

/// Whether this listener got a place.
async fn reserve(host: &Host) -> Result<Option<Multiaddr>> {
    if host.card.role != Role::Listener {
        return Ok(None);
    }
    let circuit = host.reserve(host.relays()?[0]).await;
    host.cx.point("reservations_ok", circuit.is_ok()).unit("count").record();
    if let Err(error) = &circuit {
        host.cx.message(format!("no place: {error}"));
    }
    Ok(circuit.ok())
}

/// All dialers at once, each to a listener of its own as far as there are some.
async fn open(host: &Host, circuits: &[Multiaddr]) -> Result<Option<PeerId>> {
    let Some(number) = dialer_number(host) else { return Ok(None) };
    ensure!(!circuits.is_empty(), "nobody has a place at the relay");
    let circuit = circuits[number % circuits.len()].clone();
    let opened = host.node.dial(circuit).await;
    host.cx.point("circuits_ok", opened.is_ok()).unit("count").record();
    Ok(opened.ok())
}

/// Sends more than a circuit carries.
async fn data(host: &Host, params: &Params, open: Option<PeerId>) -> Result {
    let Some(peer) = open else { return Ok(()) };
    let limit = params.circuit_bytes.0;
    let back = echo::through(&host.node, peer, limit * 2, params.circuit_time + SLACK).await;
    host.cx.point("circuit_bytes", back).unit("B").record();
    host.cx.point("cut_ratio", back < limit).unit("ratio").tag("by", "data").record();
    // What is left of it would live until its time is over, and take the place of the next one.
    host.node.disconnect(peer).await?;
    Ok(())
}

/// Keeps as many circuits as there may be until they are cut.
async fn time(host: &Host, params: &Params, circuits: &[Multiaddr]) -> Result {
    let Some(number) = dialer_number(host).filter(|number| *number < params.max_circuits) else {
        return Ok(());
    };
    let mut events = host.node.events();
    let peer = host.node.dial(circuits[number % circuits.len()].clone()).await?;
    let begun = Instant::now();
    let limit = params.circuit_time + SLACK;
    let gone = |event: &Event| {
        matches!(event, Event::Disconnected { peer: of, .. } if *of == peer).then_some(())
    };
    let cut = Node::wait_for(&mut events, "the end of a circuit", limit, gone).await.is_ok();
    if !cut {
        let left = host.node.connections().await?;
        host.cx.message(format!(
            "{peer} at {} is not cut: {left:?}",
            circuits[number % circuits.len()]
        ));
    }
    host.cx.point("circuit_life_s", begun.elapsed()).record();
    host.cx.point("cut_ratio", cut).unit("ratio").tag("by", "time").record();
    Ok(())
}

/// The place of this instance among the dialers.
fn dialer_number(host: &Host) -> Option<usize> {
    host.all(Role::Dialer).iter().position(|card| card.peer == host.card.peer)
}
