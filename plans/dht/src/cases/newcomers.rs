//! `newcomers`: an old network serves, then a wave of new nodes joins it.
//!
//! Instances with the role `newcomer` come late and look for what was there
//! before; everybody with the role `searcher` looks again meanwhile.

use groundswell_p2p::dht::{Dht, DhtParams};
use groundswell_sdk::{Ctx, Result};
use tokio::time::Instant;

use crate::search::{self, RecordParams};

use super::finish;

pub(crate) async fn run(cx: Ctx) -> Result {
    let records: RecordParams = cx.params()?;
    let params: DhtParams = cx.params()?;
    let new = cx.role() == "newcomer";
    let dht = cx.phase("start", Dht::start(&cx, params, "main")).await?;
    cx.phase("join", async { if new { Ok(()) } else { dht.join(&cx).await } }).await?;
    cx.phase("settle", async { if new { Ok(()) } else { dht.settle(&cx).await } }).await?;
    cx.phase("provide", async {
        if cx.role() == "provider" {
            search::provide(&cx, &dht, &records).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase("wave", wave(&cx, &dht, &records, new)).await?;
    finish(&cx, dht).await
}

/// Newcomers join and search at once; the searchers of the old network go on.
async fn wave(cx: &Ctx, dht: &Dht, records: &RecordParams, new: bool) -> Result {
    let begun = Instant::now();
    if new {
        dht.join(cx).await?;
    } else if cx.role() == "searcher" {
        cx.stagger(dht.params.stagger).await;
    } else {
        return Ok(());
    }
    for record in records.wanted(cx, dht) {
        search::look_for(cx, dht, &record).await?;
    }
    if new {
        // From the first step into the network to the last answer.
        cx.point("time_to_served_s", begun.elapsed()).record();
    }
    Ok(())
}
