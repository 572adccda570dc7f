//! Everybody subscribes to a long topic at once.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::Instant;

const TOPIC: &str = "herd";

#[derive(Deserialize)]
struct Params {
    herd_entries: u32,
    stagger: Duration,
}

/// The first instance fills a topic; then all read it, from the same moment or spread over `stagger`.
pub(crate) async fn pubsub_herd(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    if cx.sync().signal("instances").await? == 1 {
        for entry in 0..params.herd_entries {
            cx.sync().publish(TOPIC, &entry).await?;
        }
    }
    cx.signal_and_wait("filled").await?;
    cx.stagger(params.stagger).await;
    read(&cx, params.herd_entries).await?;
    cx.signal_and_wait("read").await?;
    Ok(())
}

async fn read(cx: &Ctx, entries: u32) -> Result {
    let begun = Instant::now();
    let mut messages = cx.sync().subscribe::<u32>(TOPIC).await?;
    let mut right = 0;
    for place in 0..entries {
        right += u32::from(messages.next().await? == place);
        if place == 0 {
            cx.point("herd_first_s", begun.elapsed()).record();
        }
    }
    cx.point("herd_time_s", begun.elapsed()).record();
    let ratio = f64::from(right) / f64::from(entries.max(1));
    cx.point("herd_in_order_ratio", ratio).unit("ratio").record();
    Ok(())
}
