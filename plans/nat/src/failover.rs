//! A relay goes, and its peers find another one.

use std::time::Duration;

use groundswell_p2p::{Event, Multiaddr, PeerId};
use groundswell_sdk::SyncError;
use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use crate::host::{Card, Host, Role};
use crate::punch::limits;
use groundswell_p2p::echo;

/// Between two looks at whether the other end is there.
const BEAT: Duration = Duration::from_millis(500);
/// How long an answer may take before the connection counts as lost.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pings without an answer after which a relay counts as lost. Each has been waited for for 20 seconds.
const MISSED: u32 = 1;

#[derive(Debug, Clone, Deserialize)]
struct Params {
    failure: Failure,
    failover_timeout: Duration,
}

/// How the relay goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failure {
    /// It closes its connections.
    Stop,
    /// It is cut off from the network, so nobody is told.
    Silent,
}

/// Where a listener can be reached from here on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct At {
    listener: u32,
    circuit: Multiaddr,
}

/// All pairs use the first relay, which goes. The listeners go to the next one and tell their dialers.
pub(crate) async fn relay_failover(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let host = Host::join(&cx, |config, role| {
        config.ping = Some(Duration::from_secs(1));
        match role {
            Role::Relay => config.relay_server = Some(limits()),
            Role::Dialer | Role::Listener => config.relay_client = true,
            Role::AutonatServer | Role::Host | Role::Neighbour => {}
        }
    })
    .await?;
    ensure!(host.relays()?.len() > 1, "there has to be a second relay to go to");
    let first = host.relays()?[0].peer == host.card.peer;
    match host.card.role {
        Role::Relay if first => relay(&host, params.failure).await,
        Role::Listener => listen(&host).await,
        Role::Dialer => dial(&host, &params).await,
        Role::Relay | Role::AutonatServer | Role::Host | Role::Neighbour => {
            cx.signal_and_wait("up").await?;
            cx.barrier("recovered").count(dialers(&host)).await?;
            Ok(())
        }
    }?;
    host.leave().await
}

fn dialers(host: &Host) -> u64 {
    host.all(Role::Dialer).len() as u64
}

/// Works until all pairs are up, then goes.
async fn relay(host: &Host, failure: Failure) -> Result {
    host.cx.signal_and_wait("up").await?;
    match failure {
        Failure::Stop => host.node.clone().stop().await,
        Failure::Silent => host.cx.network().configure().detach().apply().await?,
    }
    host.cx.barrier("recovered").count(dialers(host)).await?;
    Ok(())
}

/// Has a place at some relay, and says where, until the dialers need it no more.
async fn listen(host: &Host) -> Result {
    let cx = &host.cx;
    let relays: Vec<Card> = host.relays()?.into_iter().cloned().collect();
    let keep = async {
        for relay in relays.iter().cycle() {
            let mut events = host.node.events();
            match host.reserve(relay).await {
                Ok(circuit) => {
                    cx.publish("at", &At { listener: cx.index(), circuit }).await?;
                    lost(host, &mut events, relay.peer).await?;
                    cx.message(format!("relay {} is lost", relay.peer));
                }
                Err(error) => cx.message(format!("no place at {}: {error}", relay.peer)),
            }
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    };
    tokio::select! {
        ended = keep => ended?,
        all = async {
            cx.signal_and_wait("up").await?;
            cx.barrier("recovered").count(dialers(host)).await
        } => all?,
    }
    Ok(())
}

/// Returns when the connection to a relay is gone, or has not answered several pings.
async fn lost(host: &Host, events: &mut broadcast::Receiver<Event>, relay: PeerId) -> Result {
    let mut missed = 0;
    loop {
        match events.recv().await {
            Ok(Event::Disconnected { peer, left: 0, .. }) if peer == relay => return Ok(()),
            Ok(Event::Ping { peer, rtt }) if peer == relay => {
                missed = if rtt.is_some() { 0 } else { missed + 1 };
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if missed == MISSED {
            return Ok(host.node.disconnect(relay).await?);
        }
    }
}

/// Talks to the listener all the time, and measures the gap.
async fn dial(host: &Host, params: &Params) -> Result {
    let cx = &host.cx;
    let (_, partner) = host.partner()?;
    let peer = host.card_of(partner)?.peer;
    let mut told = cx.subscribe::<At>("at").await?;
    let mut lives = 0_u32;
    let mut last_good = Instant::now();
    let recovered = async {
        loop {
            let at = told.next().await?;
            if at.listener != partner {
                continue;
            }
            if !connect(host, at.circuit).await || !beat(host, peer).await {
                continue;
            }
            lives += 1;
            if lives == 2 {
                cx.point("failover_s", last_good.elapsed()).record();
                return Ok::<(), SyncError>(());
            }
            // The first relay is there until all have come here.
            let up = cx.signal_and_wait("up");
            tokio::select! {
                all = up => all?,
                never = keep_beating(host, peer, &mut last_good) => never,
            }
            keep_beating(host, peer, &mut last_good).await;
        }
    };
    let limit = params.failover_timeout;
    timeout(limit, recovered)
        .await
        .map_err(|_| format!("no connection again within {limit:?}"))??;
    cx.point("failovers", lives - 1).unit("count").record();
    cx.signal("recovered").await?;
    Ok(())
}

async fn connect(host: &Host, circuit: Multiaddr) -> bool {
    match timeout(PATIENCE, host.node.dial(circuit.clone())).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            host.cx.message(format!("dialling {circuit}: {error}"));
            false
        }
        Err(_) => false,
    }
}

/// Whether the other end answers.
async fn beat(host: &Host, peer: PeerId) -> bool {
    echo::through(&host.node, peer, 64, PATIENCE).await == 64
}

/// Returns when the other end does not answer any more, and keeps the moment at which it last did.
async fn keep_beating(host: &Host, peer: PeerId, last_good: &mut Instant) {
    loop {
        if !beat(host, peer).await {
            // A connection that is dead without knowing would be taken for the next dial's.
            let _ = host.node.disconnect(peer).await;
            return;
        }
        *last_good = Instant::now();
        sleep(BEAT).await;
    }
}
