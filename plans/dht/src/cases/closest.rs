//! `get-closest-peers`: searchers look for the peers closest to random keys,
//! and are measured by who these are.

use groundswell_p2p::truth;
use groundswell_sdk::{Ctx, Result};
use serde::Deserialize;

use super::{finish, network};
use crate::search;

#[derive(Deserialize)]
struct Params {
    record_seed: u64,
    search_records: u32,
}

pub(crate) async fn run(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let dht = network(&cx).await?;
    cx.phase("search", async {
        if search::is_searcher(&cx, &dht) {
            for number in 0..params.search_records {
                let key = search::key(params.record_seed, dht.me.index, number);
                let truth = dht.roster.closest(&key, dht.params.replication, dht.me.peer);
                let answer = dht.node.closest(key).await?;
                search::record_query(&cx, &answer.report, None);
                let accuracy = truth::accuracy(&truth, &answer.peers);
                cx.point("closest_accuracy", accuracy).unit("ratio").record();
                cx.point("gcp_peers_found", answer.peers.len()).unit("count").record();
                cx.point("time_to_gcp_s", answer.report.took).record();
            }
        }
        Ok(())
    })
    .await?;
    finish(&cx, dht).await
}
