//! The nodes of an instance: what they are made of, and what they announce.

use std::time::Duration;

use groundswell_sdk::{Ctx, Result, Shape};
use tokio::time::Instant;

use super::{ClientMode, DhtParams, Life, Member, Roster, is_undialable};
use crate::{
    AutonatConfig, Identity, Multiaddr, Node, NodeConfig, Pool, Protocol, RelayLimits, bridge,
};

/// Where nodes listen.
const PORT: u16 = 4001;
/// Where nodes nobody reaches say that they listen.
const DEAD_PORT: u16 = 1;
/// How often nodes look whether their connections live.
const PING: Duration = Duration::from_secs(5);
/// How long a node tries to reach a bootstrapper.
const ENTRANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a relay has to give a node its place.
const RELAY_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn shape(cx: &Ctx, params: &DhtParams) -> Result {
    if params.latency.is_zero() && params.bandwidth.is_none() {
        return Ok(());
    }
    let mut shape = Shape::new().latency(params.latency).jitter_pct(params.jitter_pct);
    if let Some(rate) = params.bandwidth {
        shape = shape.bandwidth(rate);
    }
    Ok(cx.network().shape(shape).await?)
}

/// Starts the node that the case is about, and has it announce itself.
pub(super) async fn begin(
    cx: &Ctx,
    params: &DhtParams,
    roster: &Roster,
    me: &Member,
    life: Life,
) -> Result<Node> {
    let mut config = config(cx, params, me, life, PORT)?;
    let door = roster.is_bootstrapper(me.index);
    if door {
        config.relay_server = Some(relay_for(roster.members.len()));
    }
    let node = Node::start(config).await?;
    bridge::watch(cx, &node).await;
    if door || announces(params.client_mode, me.dialable) {
        for address in node.listeners().await? {
            node.add_external(address).await?;
        }
    }
    Ok(node)
}

/// Whether a node says from the start that others reach it where it listens.
/// In automatic mode it finds out first.
fn announces(mode: ClientMode, dialable: bool) -> bool {
    match mode {
        ClientMode::Auto => false,
        ClientMode::AllServer => true,
        ClientMode::NatAreClients => dialable,
    }
}

/// A relay with room for everybody.
fn relay_for(members: usize) -> RelayLimits {
    RelayLimits { reservations: members, circuits: members, ..RelayLimits::default() }
}

/// Whether a node needs a relay's address: without any its records of what it
/// provides lead nowhere, and others leave them out.
pub(super) fn needs_relay(params: &DhtParams, me: &Member) -> bool {
    params.relay && params.client_mode == ClientMode::NatAreClients && !me.dialable
}

/// Gets a place at the first bootstrapper's relay.
pub(super) async fn take_place(cx: &Ctx, node: &Node, doors: &[Multiaddr]) -> Result {
    let door = doors.first().ok_or("there is no bootstrapper to be a relay")?;
    let begun = Instant::now();
    node.reserve(door.clone(), RELAY_TIMEOUT).await?;
    cx.point("time_to_reservation_s", begun.elapsed()).record();
    Ok(())
}

fn config(cx: &Ctx, params: &DhtParams, me: &Member, life: Life, port: u16) -> Result<NodeConfig> {
    let ip = cx.network().ip()?;
    let at = |port| Multiaddr::from(ip).with(Protocol::Tcp(port));
    // Instances that share one machine's loopback take any port.
    let port = if ip.is_loopback() { 0 } else { port };
    let identity = Identity::derive(cx.env().seed, u64::from(me.index), life.number);
    let broken = is_undialable(cx.env().seed, me.index, params.undialable_pct.ratio());
    let auto = params.client_mode == ClientMode::Auto;
    let mut config = NodeConfig {
        listen: vec![at(port)],
        kad: Some(params.kad(params.client_mode.kad_mode(me.dialable))),
        autonat: auto.then(AutonatConfig::default),
        version: life.version,
        idle_timeout: params.idle_timeout,
        // Connections to those who have vanished are found out.
        ping: Some(PING),
        relay_client: needs_relay(params, me),
        ..NodeConfig::new(identity)
    };
    if broken {
        // It dials and is never dialled. Where everybody answers queries it
        // announces a port at which nobody does.
        config.listen.clear();
        if params.client_mode == ClientMode::AllServer {
            config.external = vec![at(DEAD_PORT)];
        }
    }
    Ok(config)
}

/// The other nodes of the instance.
pub(super) async fn crowd(cx: &Ctx, params: &DhtParams, me: &Member) -> Result<Pool> {
    let mut configs = Vec::new();
    for index in 1..params.nodes_per_instance as u64 {
        let life = Life { number: index, version: params.version()? };
        // Any port will do: the crowd is found through the one node.
        configs.push(config(cx, params, me, life, 0)?);
    }
    Ok(Pool::of(configs).await?)
}

/// Connects to a bootstrapper, which may start a moment later.
pub(super) async fn reach(node: &Node, door: &Multiaddr) -> Result {
    let limit = Instant::now() + ENTRANCE_TIMEOUT;
    loop {
        match node.dial(door.clone()).await {
            Ok(peer) => {
                node.add_address(peer, door.clone()).await?;
                return Ok(());
            }
            Err(err) if Instant::now() > limit => return Err(err.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
