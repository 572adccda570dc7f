//! `lookup-under-load`: searchers measure the network while it is quiet, and
//! again while others search without a pause.

use std::time::Duration;

use groundswell_p2p::dht::Dht;
use groundswell_sdk::{Ctx, Result, ensure};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::{finish, network};
use crate::search::{self, RecordParams};
use crate::summary::{Means, gather};

#[derive(Deserialize)]
struct Params {
    load_duration: Duration,
    load_queries: usize,
}

pub(crate) async fn run(cx: Ctx) -> Result {
    let records: RecordParams = cx.params()?;
    let params: Params = cx.params()?;
    let dht = network(&cx).await?;
    cx.phase("provide", async {
        if cx.role() == "provider" {
            search::provide(&cx, &dht, &records).await?;
        }
        Ok(())
    })
    .await?;
    let mut means = Means::default();
    cx.phase("quiet", measure(&cx, &dht, &records, "quiet", &mut means)).await?;
    cx.phase("load", async {
        if cx.role() == "load" {
            press(&cx, &dht, &records, &params).await?;
        } else {
            measure(&cx, &dht, &records, "load", &mut means).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase("compare", compare(&cx, &dht, &means)).await?;
    finish(&cx, dht).await
}

/// Looks for records as a searcher does, with the phase as a tag.
async fn measure(
    cx: &Ctx,
    dht: &Dht,
    records: &RecordParams,
    phase: &str,
    means: &mut Means,
) -> Result {
    if cx.role() != "searcher" {
        return Ok(());
    }
    for record in records.wanted(cx, dht) {
        let found = search::look_for(cx, dht, &record).await?;
        if let Some(first) = found.first_s {
            cx.point("time_to_first_by_phase_s", first).unit("s").tag("phase", phase).record();
            means.add(phase, first);
        }
    }
    Ok(())
}

/// Searches without a pause, `load_queries` at a time.
async fn press(cx: &Ctx, dht: &Dht, records: &RecordParams, params: &Params) -> Result {
    let wanted = records.wanted(cx, dht);
    ensure!(!wanted.is_empty(), "there are no records to search for: no group is a `provider`");
    let end = Instant::now() + params.load_duration;
    let one = |offset: usize| {
        let wanted = &wanted;
        async move {
            let mut done = 0_u64;
            let mut next = offset;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let record = &wanted[next % wanted.len()];
                let query = dht.node.providers(record.key.clone(), record.providers);
                match timeout(left, query).await {
                    Ok(answer) => drop(answer?),
                    Err(_) => break,
                }
                done += 1;
                next += 1;
            }
            Ok::<_, groundswell_p2p::NodeError>(done)
        }
    };
    let all = futures_util::future::try_join_all((0..params.load_queries).map(one)).await?;
    let rate = all.iter().sum::<u64>() as f64 / params.load_duration.as_secs_f64();
    cx.point("load_queries_per_s", rate).unit("1/s").record();
    Ok(())
}

async fn compare(cx: &Ctx, dht: &Dht, means: &Means) -> Result {
    let searcher = cx.role() == "searcher";
    let searchers: u32 = dht.roster.with_role("searcher").map(|(_, group)| group.count).sum();
    let own = searcher.then_some(means);
    let all = gather(cx, "load", own, searchers as usize).await?;
    if let Some((quiet, load)) = all.and_then(|all| all.of("quiet").zip(all.of("load"))) {
        cx.point("slowdown_under_load", load / quiet).unit("ratio").record();
    }
    Ok(())
}
