//! Pairs that stay at their relay.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::Instant;

use crate::host::{Host, Role, is_direct, record_ratio};
use crate::punch::limits;
use groundswell_p2p::echo;

/// How long the bytes may take there and back.
const ECHO: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Deserialize)]
struct Params {
    transfer: Bytes,
    stagger: Duration,
}

/// Nobody tries to get through: everything goes through the relay, and it gets there.
pub(crate) async fn relay_only(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    // There and back, and what the protocols add.
    let bytes = params.transfer.0 * 4 + (1 << 16);
    let host = Host::join(&cx, |config, role| match role {
        Role::Relay => {
            let limits = limits();
            config.relay_server =
                Some(groundswell_p2p::RelayLimits { circuit_bytes: bytes, ..limits });
        }
        Role::Dialer | Role::Listener => config.relay_client = true,
        Role::AutonatServer | Role::Host | Role::Neighbour => {}
    })
    .await?;
    let relays: Vec<_> = host.relays()?.into_iter().cloned().collect();
    let own = cx
        .phase("reserve", async {
            match host.card.role {
                Role::Listener => {
                    let relay = &relays[host.partner()?.0 % relays.len()];
                    Ok(Some(host.reserve(relay).await?))
                }
                Role::Relay | Role::Dialer | Role::AutonatServer | Role::Host | Role::Neighbour => {
                    Ok(None)
                }
            }
        })
        .await?;
    let circuits = cx.exchange("circuits", &own).await?;
    cx.phase("transfer", async {
        if host.card.role != Role::Dialer {
            return Ok(());
        }
        let (_, partner) = host.partner()?;
        let circuit = circuits.iter().find(|member| member.index == partner);
        let circuit = circuit.and_then(|member| member.value.clone()).ok_or("no address")?;
        transfer(&host, &params, partner, circuit).await
    })
    .await?;
    if host.card.role == Role::Relay {
        cx.point("relayed_bytes", host.node.stats().await?.bytes_out).unit("B").record();
    }
    host.leave().await
}

async fn transfer(
    host: &Host,
    params: &Params,
    partner: u32,
    circuit: groundswell_p2p::Multiaddr,
) -> Result {
    let (cx, node) = (&host.cx, &host.node);
    let listener = host.card_of(partner)?;
    let pair = (host.card.nat, listener.nat);
    cx.stagger(params.stagger).await;
    let begun = Instant::now();
    node.dial(circuit).await?;
    cx.point("time_to_relayed_s", begun.elapsed()).record();
    let begun = Instant::now();
    let back = echo::through(node, listener.peer, params.transfer.0, ECHO).await;
    cx.point("transfer_s", begun.elapsed()).record();
    record_ratio(cx, "reached_ratio", back == params.transfer.0, pair);
    record_ratio(cx, "direct_ratio", is_direct(node, listener.peer).await?, pair);
    Ok(())
}
