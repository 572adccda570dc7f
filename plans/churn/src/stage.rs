//! The network before the first fault, and the time of the faults.

use std::time::Duration;

use groundswell_p2p::dht::{Dht, DhtParams, Life};
use groundswell_sdk::{Ctx, Result, Rng, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::churner::Habit;

/// The parameters of churn itself.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Params {
    /// How long nothing happens before.
    pub(crate) calm: Duration,
    /// How long faults happen.
    pub(crate) duration: Duration,
    /// The length of the windows in which success is counted.
    pub(crate) window: Duration,
    /// The share of the churners that leaves at each interval.
    pub(crate) pct: f64,
    /// How often that happens.
    pub(crate) interval: Duration,
    /// How long a node that has left stays away.
    pub(crate) downtime: Duration,
    /// Whether a node that comes back is who it was.
    pub(crate) identity: IdentityAfter,
    /// How long a crowd takes to come.
    pub(crate) crowd_window: Duration,
    /// How long the network has to recover.
    pub(crate) recovery: Duration,
}

/// Who a node is after a crash or a leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IdentityAfter {
    Same,
    New,
}

/// The time of the faults, on the clock of all machines.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Span {
    from_ms: u64,
    to_ms: u64,
}

/// An instance in its network, ready for faults.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) dht: Dht,
    pub(crate) params: Params,
    /// When the faults began.
    pub(crate) begun: Instant,
    /// When they end.
    pub(crate) end: Instant,
}

/// Brings the network up and returns before the faults begin, or at once in a
/// later life of an instance, which comes back to a network that is up.
pub(crate) async fn set(cx: &Ctx, habit: Habit) -> Result<Stage> {
    let params: Params = cx.params()?;
    let dht_params: DhtParams = cx.params()?;
    ensure!(
        !params.window.is_zero() && !params.interval.is_zero(),
        "the parameters `window` and `interval` have to be longer than 0s"
    );
    let first =
        Life { number: life(cx.incarnation(), params.identity), version: dht_params.version()? };
    let dht = Dht::start_as(cx, dht_params, "main", first).await?;
    let late = habit == Habit::ComeLate && cx.role() == "churner";
    let again = cx.incarnation() > 0;
    // A later life goes through the same stages: an earlier one may have been
    // killed before it had told that it is through.
    cx.phase("join", async {
        match (again, late) {
            (true, _) => come_back(cx, &dht).await,
            (false, true) => Ok(()),
            (false, false) => dht.join(cx).await,
        }
    })
    .await?;
    cx.phase("settle", async { if again || late { Ok(()) } else { dht.settle(cx).await } }).await?;
    cx.phase("provide", provide(cx, &dht)).await?;
    let span = span(cx, params.calm, params.duration).await?;
    let (begun, end) = (instant(span.from_ms), instant(span.to_ms));
    Ok(Stage { dht, params, begun, end })
}

/// The key of the record that a stable instance has.
pub(crate) fn key(cx: &Ctx, index: u32) -> Vec<u8> {
    Rng::new(cx.env().seed, &format!("record/{index}")).seed().to_vec()
}

/// The number of a life: with one identity all lives are the same.
pub(crate) fn life(number: u32, identity: IdentityAfter) -> u64 {
    match identity {
        IdentityAfter::Same => 0,
        // Other nodes of the instance have the numbers below.
        IdentityAfter::New => u64::from(number) * 1_000_000,
    }
}

/// Whether an instance keeps its records and is never struck.
pub(crate) fn is_stable(role: &str) -> bool {
    matches!(role, "stable" | "bootstrapper")
}

async fn provide(cx: &Ctx, dht: &Dht) -> Result {
    if is_stable(cx.role()) {
        dht.node.provide(key(cx, dht.me.index)).await?;
    }
    Ok(())
}

async fn come_back(cx: &Ctx, dht: &Dht) -> Result {
    let begun = Instant::now();
    dht.enter(cx).await?;
    cx.point("time_to_rejoin_s", begun.elapsed()).record();
    cx.counter("restarts").unit("count").add(1);
    Ok(())
}

/// Agrees on the time of the faults: the first instance that is there says it.
async fn span(cx: &Ctx, calm: Duration, duration: Duration) -> Result<Span> {
    if cx.leads("the time of the faults").await? && cx.incarnation() == 0 {
        let from_ms = now_ms() + u64::try_from(calm.as_millis())?;
        let to_ms = from_ms + u64::try_from(duration.as_millis())?;
        cx.publish("span", &Span { from_ms, to_ms }).await?;
    }
    Ok(cx.subscribe::<Span>("span").await?.next().await?)
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn instant(at_ms: u64) -> Instant {
    let now = now_ms();
    let distance = Duration::from_millis(at_ms.abs_diff(now));
    if at_ms >= now {
        Instant::now() + distance
    } else {
        // A machine that is younger than that has no such moment.
        Instant::now().checked_sub(distance).unwrap_or_else(Instant::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_identity_needs_a_new_life() {
        assert_eq!(life(3, IdentityAfter::Same), life(0, IdentityAfter::Same));
        assert_ne!(life(3, IdentityAfter::New), life(2, IdentityAfter::New));
        assert_eq!(life(0, IdentityAfter::New), life(0, IdentityAfter::Same));
    }

    #[test]
    fn a_moment_of_the_shared_clock_is_as_far_away_here() {
        let ahead = instant(now_ms() + 60_000).duration_since(Instant::now());
        assert!((59.0..61.0).contains(&ahead.as_secs_f64()), "{ahead:?}");
        assert!(instant(now_ms() - 1000) <= Instant::now());
    }
}
