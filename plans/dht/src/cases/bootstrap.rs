//! `bootstrap-network`: everybody joins, and knows its neighbours afterwards.

use groundswell_p2p::truth;
use groundswell_sdk::{Ctx, Result, ensure};

use super::{finish, network};

pub(crate) async fn run(cx: Ctx) -> Result {
    let dht = network(&cx).await?;
    let neighbours = cx.phase("neighbours", async {
        let key = dht.me.peer.to_bytes();
        let truth = dht.roster.closest(&key, dht.params.replication, dht.me.peer);
        let found = dht.node.closest(key).await?;
        cx.point("closest_accuracy", truth::accuracy(&truth, &found.peers)).unit("ratio").record();
        cx.point("time_to_gcp_s", found.report.took).record();
        Ok(found.peers.len())
    });
    let neighbours = neighbours.await?;
    ensure!(neighbours > 0, "nobody answered after the network had settled");
    finish(&cx, dht).await
}
