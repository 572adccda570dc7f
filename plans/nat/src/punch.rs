//! Pairs that meet at a relay and try to get through to each other.

use std::time::Duration;

use groundswell_p2p::{Multiaddr, Node, RelayLimits};
use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::host::{Host, Role, is_direct, record_ratio, wait_direct};
use crate::theory::dcutr_punches;
use groundswell_p2p::echo;

/// How long bytes there and back may take, relayed or not.
const ECHO: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Deserialize)]
struct Params {
    punch_timeout: Duration,
    stagger: Duration,
    hold: Duration,
    echo_bytes: u64,
}

/// Every dialer connects to its listener through the relay, and both try to do without it. What comes of it has to
/// be what theory says of their NATs.
pub(crate) async fn hole_punch(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let host = Host::join(&cx, |config, role| match role {
        Role::Relay => config.relay_server = Some(limits()),
        Role::Dialer | Role::Listener | Role::Neighbour => {
            config.relay_client = true;
            config.dcutr = true;
        }
        Role::AutonatServer | Role::Host => {}
    })
    .await?;
    let circuits = cx.phase("reserve", reserve(&host)).await?;
    cx.phase("punch", punch(&host, &params, &circuits)).await?;
    if host.card.role == Role::Relay {
        let sent = host.node.stats().await?.bytes_out;
        cx.point("relayed_bytes", sent).unit("B").record();
    }
    host.leave().await
}

/// Room for all pairs of a run at one relay.
pub(crate) fn limits() -> RelayLimits {
    RelayLimits {
        reservations: 4096,
        circuits: 4096,
        circuits_per_peer: 64,
        ..RelayLimits::default()
    }
}

/// Meets the pair's relay and gets a place there on the listening side; every listener's address.
async fn reserve(host: &Host) -> Result<Vec<Member<Option<Multiaddr>>>> {
    let own = match host.card.role {
        Role::Dialer | Role::Listener => {
            let relays = host.relays()?;
            let (number, _) = host.partner()?;
            let relay = relays[number % relays.len()];
            host.meet_relay(relay).await?;
            let listens = host.card.role == Role::Listener;
            if listens { Some(host.reserve(relay).await?) } else { None }
        }
        Role::Relay | Role::AutonatServer | Role::Host | Role::Neighbour => None,
    };
    Ok(host.cx.exchange("circuits", &own).await?)
}

async fn punch(host: &Host, params: &Params, circuits: &[Member<Option<Multiaddr>>]) -> Result {
    match host.card.role {
        Role::Dialer => {
            let (_, partner) = host.partner()?;
            let found = circuits.iter().find(|member| member.index == partner);
            let circuit = found.and_then(|member| member.value.clone());
            dial(host, params, partner, circuit.ok_or("the listener has no address")?).await
        }
        Role::Listener => listen(host, params).await,
        Role::Relay | Role::AutonatServer | Role::Host | Role::Neighbour => Ok(()),
    }
}

async fn dial(host: &Host, params: &Params, partner: u32, circuit: Multiaddr) -> Result {
    let (cx, node) = (&host.cx, &host.node);
    let listener = host.card_of(partner)?;
    let pair = (host.card.nat, listener.nat);
    cx.stagger(params.stagger).await;

    let mut events = node.events();
    let begun = Instant::now();
    node.dial(circuit).await?;
    cx.point("time_to_relayed_s", begun.elapsed()).record();
    let direct = wait_direct(node, &mut events, listener.peer, params.punch_timeout).await?;
    if direct.is_some() {
        cx.point("time_to_direct_s", begun.elapsed())
            .tag("nat_a", pair.0)
            .tag("nat_b", pair.1)
            .record();
    }
    let is_direct = direct.is_some();
    record_ratio(cx, "direct_ratio", is_direct, pair);
    let as_theory = is_direct == dcutr_punches(pair.0, pair.1);
    record_ratio(cx, "as_theory", as_theory, pair);
    record_ratio(cx, "as_in_books", is_direct == pair.0.punches(pair.1), pair);
    if !as_theory {
        let path = if is_direct { "direct" } else { "relayed" };
        cx.message(format!("{} and {} are {path}, which theory does not expect", pair.0, pair.1));
    }
    let back = echo::through(node, listener.peer, params.echo_bytes, ECHO).await;
    record_ratio(cx, "reached_ratio", back == params.echo_bytes, pair);
    if is_direct {
        hold(cx, node, listener.peer, params.hold).await?;
    }
    Ok(())
}

/// Keeps a direct connection without using it, and records whether it is lost.
async fn hold(cx: &Ctx, node: &Node, peer: groundswell_p2p::PeerId, time: Duration) -> Result {
    sleep(time).await;
    let lost = !is_direct(node, peer).await? || echo::through(node, peer, 1, ECHO).await != 1;
    cx.point("mapping_lost_count", lost).unit("count").record();
    Ok(())
}

/// The listener is the one that decides when both dial, so it knows how often they tried.
async fn listen(host: &Host, params: &Params) -> Result {
    let (_, partner) = host.partner()?;
    let dialer = host.card_of(partner)?;
    let mut events = host.node.events();
    let limit = params.stagger + params.punch_timeout;
    let failed = wait_direct(&host.node, &mut events, dialer.peer, limit).await?;
    if let Some(failed) = failed {
        host.cx.point("attempts_used", failed + 1).unit("count").record();
        host.cx.point("first_attempt_ratio", failed == 0).unit("ratio").record();
    }
    Ok(())
}
