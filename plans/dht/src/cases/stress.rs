//! `provide-stress`: providers announce many records at a time.

use futures_util::stream::{self, StreamExt};
use groundswell_p2p::dht::Dht;
use groundswell_sdk::{Ctx, Result, ensure};
use serde::Deserialize;
use tokio::time::Instant;

use super::{finish, network};
use crate::search;

#[derive(Deserialize)]
struct Params {
    record_seed: u64,
    record_count: u32,
    concurrency: usize,
}

pub(crate) async fn run(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let dht = network(&cx).await?;
    cx.phase("provide", async {
        if cx.role() == "provider" {
            provide_all(&cx, &dht, &params).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase("records", async {
        search::arrive(&dht).await;
        let held = dht.node.records_held(all_keys(&dht, &params)).await?;
        cx.point("records_held", held).unit("count").record();
        Ok(())
    })
    .await?;
    finish(&cx, dht).await
}

async fn provide_all(cx: &Ctx, dht: &Dht, params: &Params) -> Result {
    ensure!(params.concurrency > 0, "the parameter `concurrency` is 0; at least 1 is needed");
    let begun = Instant::now();
    let times = cx.timer("time_to_provide_s");
    let announced = keys(dht.me.index, params).map(|key| {
        let times = times.clone();
        async move {
            let report = dht.node.provide(key).await;
            if let Ok(report) = &report {
                times.observe(report.took);
            }
            report.is_ok()
        }
    });
    let outcomes: Vec<bool> =
        stream::iter(announced).buffer_unordered(params.concurrency).collect().await;
    let done = outcomes.iter().filter(|done| **done).count();
    let ratio = done as f64 / outcomes.len().max(1) as f64;
    cx.point("provided_ratio", ratio).unit("ratio").record();
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    cx.point("provides_per_s", rate).unit("1/s").record();
    Ok(())
}

/// The keys of one provider. Others have others.
fn keys(index: u32, params: &Params) -> impl Iterator<Item = Vec<u8>> + use<> {
    let (seed, count) = (params.record_seed, params.record_count);
    (0..count).map(move |number| search::key(seed, index, number))
}

fn all_keys(dht: &Dht, params: &Params) -> Vec<Vec<u8>> {
    let providers = dht.roster.members.iter();
    let providers = providers.filter(|member| dht.roster.group(member).role == "provider");
    providers.flat_map(|member| keys(member.index, params)).collect()
}
