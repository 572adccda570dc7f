//! `put-get-value`: providers store values, searchers get them and check them.

use groundswell_p2p::dht::Dht;
use groundswell_p2p::{NodeError, Rng};
use groundswell_sdk::{Bytes, Ctx, Result};
use serde::Deserialize;

use super::{finish, network};
use crate::search::{self, Record, RecordParams};

#[derive(Deserialize)]
struct Params {
    value_size: Bytes,
    copies: usize,
}

pub(crate) async fn run(cx: Ctx) -> Result {
    let records: RecordParams = cx.params()?;
    let params: Params = cx.params()?;
    let dht = network(&cx).await?;
    cx.phase("put", async {
        // One of a group is enough: its members would store the same values.
        if cx.role() == "provider" && cx.group_index() == 0 {
            put(&cx, &dht, &records, &params).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase("get", async {
        if search::is_searcher(&cx, &dht) {
            for record in records.wanted(&cx, &dht) {
                get(&cx, &dht, &record, &params).await?;
            }
        }
        Ok(())
    })
    .await?;
    let held = dht.node.records_held(Vec::new()).await?;
    cx.point("records_held", held).unit("count").record();
    finish(&cx, dht).await
}

async fn put(cx: &Ctx, dht: &Dht, records: &RecordParams, params: &Params) -> Result {
    for record in records.of_group(&dht.roster.groups[dht.me.group]) {
        let value = value(&record, params);
        let report = dht.node.put_value(record.key, value, None).await?;
        cx.point("time_to_put_s", report.took).record();
        cx.point("record_updates", report.successes).unit("count").record();
    }
    Ok(())
}

async fn get(cx: &Ctx, dht: &Dht, record: &Record, params: &Params) -> Result {
    let answer = match dht.node.get_value(record.key.clone(), params.copies).await {
        Ok(answer) => answer,
        Err(err @ NodeError::Stopped) => return Err(err.into()),
        Err(err) => {
            cx.message(format!("a value was not found: {err}"));
            cx.point("found_ratio", 0.0).unit("ratio").tag("provider", &record.group).record();
            return Ok(());
        }
    };
    search::record_query(cx, &answer.report, Some(&record.group));
    let found = !answer.found.is_empty();
    cx.point("found_ratio", found).unit("ratio").tag("provider", &record.group).record();
    let missing = params.copies.saturating_sub(answer.found.len());
    cx.point("incomplete_get", missing).unit("count").record();
    if let (Some((_, first)), Some((_, last))) = (answer.found.first(), answer.found.last()) {
        cx.point("time_to_get_first_s", *first).record();
        cx.point("time_to_get_last_s", *last).record();
    }
    let wanted = value(record, params);
    let same = answer.found.iter().all(|(value, _)| *value == wanted);
    cx.check(same, format_args!("a value of group `{}` came back changed", record.group));
    Ok(())
}

/// The value of a record, which follows from its key.
fn value(record: &Record, params: &Params) -> Vec<u8> {
    let mut value = vec![0; usize::try_from(params.value_size.0).unwrap_or(usize::MAX)];
    Rng::new(u64::from(record.number), &record.group).fill(&mut value);
    value
}
