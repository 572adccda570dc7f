//! `find-peers`: searchers look for peers whose ids they know.

use groundswell_p2p::PeerId;
use groundswell_p2p::dht::Dht;
use groundswell_sdk::{Ctx, Result};
use serde::Deserialize;

use super::{finish, network};
use crate::search;

#[derive(Deserialize)]
struct Params {
    n_find_peers: usize,
}

pub(crate) async fn run(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let dht = network(&cx).await?;
    cx.phase("search", async {
        if search::is_searcher(&cx, &dht) {
            for wanted in targets(&cx, &dht, params.n_find_peers) {
                look_for(&cx, &dht, wanted).await?;
            }
        }
        Ok(())
    })
    .await?;
    finish(&cx, dht).await
}

/// Peers that others reach, drawn for this instance.
fn targets(cx: &Ctx, dht: &Dht, count: usize) -> Vec<PeerId> {
    let others = dht.roster.members.iter();
    let mut others: Vec<_> = others
        .filter(|member| member.dialable && member.peer != dht.me.peer)
        .map(|member| member.peer)
        .collect();
    cx.rng("targets").shuffle(&mut others);
    others.truncate(count);
    others
}

async fn look_for(cx: &Ctx, dht: &Dht, wanted: PeerId) -> Result {
    let answer = dht.node.find_peer(wanted).await?;
    search::record_query(cx, &answer.report, None);
    cx.point("found_ratio", answer.found).unit("ratio").record();
    cx.counter(if answer.found { "peers_found" } else { "peers_missing" }).unit("count").add(1);
    let name = if answer.found { "time_to_peer_s" } else { "time_to_failed_peer_s" };
    cx.point(name, answer.report.took).record();
    Ok(())
}
