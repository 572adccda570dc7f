//! How long barriers take.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::Instant;

#[derive(Deserialize)]
struct Params {
    barrier_iterations: u32,
    barrier_test_timeout_secs: u64,
}

/// Barriers that 20, 40, 60, 80 and 100 % of the instances have to reach, each several times.
///
/// All begin together: a barrier for everybody comes before each one that is measured, so that the clock runs from
/// the moment at which all are on their way.
pub(crate) async fn barrier(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let limit = Duration::from_secs(params.barrier_test_timeout_secs);
    for percent in [20, 40, 60, 80, 100] {
        let target = share(cx.env().instances, percent);
        let timer = cx.timer(&format!("barrier_time_{percent}_percent"));
        for iteration in 0..params.barrier_iterations {
            let name = format!("{percent}-{iteration}");
            cx.signal_and_wait(&format!("ready-{name}")).timeout(limit).await?;
            let begun = Instant::now();
            cx.signal_and_wait(&format!("test-{name}")).count(target).timeout(limit).await?;
            timer.observe(begun.elapsed());
        }
    }
    Ok(())
}

/// So many percent of the instances, at least one.
fn share(instances: u32, percent: u32) -> u64 {
    (u64::from(instances) * u64::from(percent) / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_is_rounded_down_and_never_nobody() {
        assert_eq!(share(10, 20), 2);
        assert_eq!(share(9, 60), 5);
        assert_eq!(share(1, 20), 1);
        assert_eq!(share(50_000, 100), 50_000);
    }
}
