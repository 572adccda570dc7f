//! What a node does, told to those who look at the run.

use groundswell_sdk::{Ctx, Event as RunEvent, Result};
use tokio::sync::broadcast::error::RecvError;

use crate::{Event, Node};

/// Writes the node's appearance and its connections to the run's events, until
/// the node ends.
pub async fn watch(cx: &Ctx, node: &Node) {
    let address = node.address().await.map_or_else(|_| String::new(), |at| at.to_string());
    cx.event(&RunEvent::Node { node: &node.peer().to_string(), address: &address });
    let (cx, own, ended) = (cx.clone(), node.peer().to_string(), node.ended());
    let mut events = node.events();
    node.tasks().spawn(async move {
        loop {
            tokio::select! {
                () = ended.cancelled() => break,
                event = events.recv() => match event {
                    Ok(event) => tell(&cx, &own, &event),
                    Err(RecvError::Lagged(missed)) => {
                        cx.message(format!("{missed} events of node {own} were not recorded"));
                    }
                    Err(RecvError::Closed) => break,
                },
            }
        }
    });
}

fn tell(cx: &Ctx, own: &str, event: &Event) {
    if let Event::Connected { peer, .. } = event {
        cx.event(&RunEvent::Connected { node: own, peer: &peer.to_string() });
    } else if let Event::Disconnected { peer, left: 0, .. } = event {
        cx.event(&RunEvent::Disconnected { node: own, peer: &peer.to_string() });
    }
}

/// Records the node's counters as KPIs: `connections`, `peers`, `dials_ok`,
/// `dials_failed` by kind, `bytes_in`, `bytes_out`, `kad_requests_in`.
pub async fn report(cx: &Ctx, node: &Node) -> Result {
    let stats = node.stats().await?;
    cx.point("peers", stats.peers).unit("count").record();
    cx.point("connections", stats.connections).unit("count").record();
    cx.point("dials_ok", stats.dials_ok).unit("count").record();
    cx.point("dials_failed", stats.all_dials_failed()).unit("count").record();
    for (kind, count) in &stats.dials_failed {
        cx.point("dials_failed_by_kind", *count).unit("count").tag("kind", kind.name()).record();
    }
    cx.point("bytes_in", stats.bytes_in).unit("B").record();
    cx.point("bytes_out", stats.bytes_out).unit("B").record();
    cx.point("kad_requests_in", stats.kad_requests_in).unit("count").record();
    Ok(())
}
