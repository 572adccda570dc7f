//! Every kind of KPI, in numbers that add up.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::task::yield_now;

/// So many are recorded before the rest of the instance has its turn.
const BATCH: u64 = 1000;

#[derive(Debug, Deserialize)]
struct Params {
    values: u64,
    points: u64,
}

/// Counts from 1 up in every kind of KPI that the SDK has.
pub(crate) async fn record(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    cx.signal_and_wait("together").await?;
    let histogram = cx.histogram("histogram").unit("count");
    let timer = cx.timer("timer");
    let counter = cx.counter("counter").unit("count");
    for number in 1..=params.values {
        histogram.observe(number);
        timer.observe(Duration::from_micros(number));
        counter.add(1);
        let_others(number).await;
    }
    for number in 1..=params.points {
        cx.point("point", number).unit("count").record();
        cx.gauge("gauge", number).unit("count").tag("half", number % 2).record();
        let_others(number).await;
    }
    // It goes into another file, and is no result.
    cx.diagnostic("aside", 1).unit("count").record();
    cx.point("histogram_planned", sum_to(params.values)).unit("count").record();
    cx.point("counter_planned", params.values).unit("count").record();
    cx.point("point_planned", sum_to(params.points)).unit("count").record();
    Ok(())
}

async fn let_others(number: u64) {
    if number.is_multiple_of(BATCH) {
        yield_now().await;
    }
}

/// 1 + 2 + … + `last`.
fn sum_to(last: u64) -> u64 {
    last * (last + 1) / 2
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;

    #[tokio::test]
    async fn every_kind_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let run = Local::new(1).param("values", 10).param("points", 2).outputs(dir.path());
        run.run(record).await.assert_success();
        let results = std::fs::read_to_string(dir.path().join("0/results.out")).unwrap();
        for kind in ["point", "gauge", "counter", "histogram", "timer"] {
            assert!(results.contains(&format!("\"type\":\"{kind}\"")), "{kind}:\n{results}");
        }
        assert_eq!(sum_to(10), 55);
    }
}
