//! Whether nodes find out the truth about themselves.

use std::time::Duration;

use groundswell_p2p::{AutonatConfig, AutonatVerdict, Event, Node};
use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};

use crate::host::{Host, Role};

#[derive(Debug, Clone, Deserialize)]
struct Params {
    verdict_timeout: Duration,
    settle: Duration,
    server_dial_timeout: Duration,
    stagger: Duration,
}

/// Hosts ask servers whether they can be reached, and believe them.
pub(crate) async fn autonat_verdict(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let host = Host::join(&cx, |config, role| match role {
        Role::AutonatServer | Role::Relay => {
            config.autonat = Some(AutonatConfig::default());
            // How long a host waits for the bad news is the server's choice.
            config.dial_timeout = params.server_dial_timeout;
        }
        Role::Host | Role::Dialer | Role::Listener | Role::Neighbour => {
            config.autonat = Some(AutonatConfig::default());
        }
    })
    .await?;
    let mut events = host.node.events();
    cx.phase("ask", async {
        if serves(host.card.role) { Ok(()) } else { ask(&host, &params, &mut events).await }
    })
    .await?;
    host.leave().await
}

fn serves(role: Role) -> bool {
    matches!(role, Role::AutonatServer | Role::Relay)
}

async fn ask(host: &Host, params: &Params, events: &mut broadcast::Receiver<Event>) -> Result {
    let cx = &host.cx;
    cx.stagger(params.stagger).await;
    let begun = Instant::now();
    let servers: Vec<_> = host
        .everybody
        .iter()
        .map(|member| &member.value)
        .filter(|card| serves(card.role))
        .collect();
    ensure!(!servers.is_empty(), "no group has the parameter `role = \"autonat-server\"`");
    for server in servers {
        host.node.autonat_server(server.peer, server.address.clone()).await?;
        host.node.dial(server.address.clone()).await?;
    }
    let first = Node::wait_for(events, "a verdict", params.verdict_timeout, public).await;
    let Ok(first) = first else {
        cx.message("no verdict in time");
        return record(host, None);
    };
    cx.point("time_to_verdict_s", begun.elapsed()).tag("nat", host.card.nat).record();
    record(host, Some(last(events, first, params.settle).await))
}

/// The verdict after some more time, in which it may be taken back.
async fn last(events: &mut broadcast::Receiver<Event>, first: bool, settle: Duration) -> bool {
    let mut verdict = first;
    // It ends by the timeout alone.
    let _ = timeout(settle, async {
        while let Ok(event) = events.recv().await {
            verdict = public(&event).unwrap_or(verdict);
        }
    })
    .await;
    verdict
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other event is a verdict")]
fn public(event: &Event) -> Option<bool> {
    match event {
        Event::Autonat(AutonatVerdict::Public(_)) => Some(true),
        Event::Autonat(AutonatVerdict::Private) => Some(false),
        _ => None,
    }
}

fn record(host: &Host, verdict: Option<bool>) -> Result {
    let nat = host.card.nat;
    let ratio = |name: &str, holds: bool| {
        host.cx.point(name, holds).unit("ratio").tag("nat", nat).record();
    };
    ratio("verdict_correct_ratio", verdict == Some(nat.is_public()));
    ratio("as_theory", verdict == Some(nat.seems_public()));
    let said = match verdict {
        Some(true) => "public",
        Some(false) => "private",
        None => "nothing",
    };
    host.cx.message(format!("behind {nat}: AutoNAT says {said}"));
    Ok(())
}
