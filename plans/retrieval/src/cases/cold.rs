//! The same file three times: nothing known, the way known, and here already.

use groundswell_bitswap::FileNode;
use groundswell_sdk::{Ctx, Result};

use super::one_file;
use crate::rig::{Offer, Rig, Role};

/// Retrieves cold, warm and hot.
pub(crate) async fn run(cx: Ctx) -> Result {
    let rig = Rig::start(&cx).await?;
    let offer = one_file(&rig).await?;
    cx.phase("retrieve", async {
        if rig.is(Role::Fetcher) {
            cx.stagger(rig.params.stagger).await;
            three(&rig, &offer).await?;
        }
        Ok(())
    })
    .await?;
    rig.stop().await
}

async fn three(rig: &Rig, offer: &Offer) -> Result {
    for adder in rig.with(Role::Adder) {
        // Joining may have made the connection that is to be found.
        rig.node.disconnect(adder.peer).await?;
    }
    let mut times = Vec::new();
    for (cache, keep) in [("cold", false), ("warm", false), ("hot", true)] {
        if !keep {
            drop_blocks(rig, offer)?;
        }
        let got = match cache {
            "warm" => rig.fetch_known(offer).await,
            _ => rig.try_retrieve(offer).await,
        };
        match got {
            Ok(got) => {
                rig.cx.point("time_to_fetch_s", got.total).tag("cache", cache).record();
                rig.cx.point("time_to_discover_s", got.discover).tag("cache", cache).record();
                rig.cx.point("time_to_first_byte_s", got.first_byte).tag("cache", cache).record();
                let blocks = rig.cx.point("blocks_fetched", got.blocks).unit("count");
                blocks.tag("cache", cache).record();
                times.push(got.total.as_secs_f64());
            }
            Err(err) => rig.cx.message(format!("the {cache} retrieval failed: {err}")),
        }
    }
    let success = f64::from(u8::from(times.len() == 3));
    rig.cx.point("success_ratio", success).unit("ratio").record();
    if let [cold, warm, _] = times[..] {
        rig.cx.point("warm_ratio", warm / cold.max(1e-9)).unit("ratio").record();
    }
    Ok(())
}

/// Forgets a file's blocks.
pub(super) fn drop_blocks(rig: &Rig, offer: &Offer) -> Result {
    let (store, root) = (rig.bitswap.store(), offer.cid()?);
    let node = store.get(&root).and_then(|block| block.read().ok());
    let node = node.and_then(|data| FileNode::decode(&data).ok());
    for (cid, _) in node.into_iter().flat_map(|node| node.blocks) {
        store.remove(&cid);
    }
    store.remove(&root);
    Ok(())
}
