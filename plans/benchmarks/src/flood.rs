//! More points than anybody looks at.

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::Instant;

/// Points between two looks at everything else the instance has to do.
const BATCH: u64 = 1000;

#[derive(Deserialize)]
struct Params {
    flood_points: u64,
    flood_series: u64,
}

/// Records points as fast as it can.
pub(crate) async fn metrics_flood(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    cx.signal_and_wait("ready").await?;
    let begun = Instant::now();
    for number in 1..=params.flood_points {
        let series = number % params.flood_series.max(1);
        cx.point("flood", number).unit("count").tag("series", series).record();
        if number % BATCH == 0 {
            tokio::task::yield_now().await;
        }
    }
    cx.point("time_to_record_s", begun.elapsed()).record();
    let planned = params.flood_points * (params.flood_points + 1) / 2;
    cx.point("flood_planned", planned).unit("count").record();
    cx.signal_and_wait("recorded").await?;
    Ok(())
}
