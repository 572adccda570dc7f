//! Latency and jitter.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;

use crate::party::Party;
use crate::ping::Pings;
use crate::theory::{Spread, Window};

const MS: Duration = Duration::from_millis(1);

/// The link of Testground's case of this name, except for the latency.
const HISTORIC_RATE: Rate = Rate(1 << 20);

#[derive(Debug, Deserialize)]
struct PingPong {
    pings: u32,
}

/// Two latencies one after the other, and the windows in which Testground wants the round trips.
pub(crate) async fn ping_pong(cx: Ctx) -> Result {
    let params: PingPong = cx.params()?;
    let party = Party::meet(&cx, 2).await?;
    let shape = |latency| Shape::new().latency(latency).bandwidth(HISTORIC_RATE);
    let windows = [
        ("100ms", shape(MS * 100), Window::exactly(MS * 200, MS * 215)),
        ("10ms", shape(MS * 10), Window::exactly(MS * 20, MS * 35)),
    ];
    for (name, shape, window) in windows {
        ping_both_ways_shaped(&party, name, shape, window, params.pings).await?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Latencies {
    latencies: Vec<String>,
    pings: u32,
}

/// One latency after the other; a round trip has each twice.
pub(crate) async fn verify_latency(cx: Ctx) -> Result {
    let params: Latencies = cx.params()?;
    let party = Party::meet(&cx, 2).await?;
    for name in &params.latencies {
        let latency = duration("latencies", name)?;
        let shape = Shape::new().latency(latency);
        ping_both_ways_shaped(&party, name, shape, Window::of(latency * 2), params.pings).await?;
    }
    Ok(())
}

/// One of a list of durations.
fn duration(parameter: &str, text: &str) -> Result<Duration> {
    groundswell_sdk::duration(text).map_err(|err| {
        format!("the parameter `{parameter}` has `{text}` in its list, which {err}").into()
    })
}

#[derive(Debug, Deserialize)]
struct Jitter {
    latency: Duration,
    jitter: Duration,
    pings: u32,
}

/// Round trips lie as far apart as the jitter of both ways says.
pub(crate) async fn verify_jitter(cx: Ctx) -> Result {
    let params: Jitter = cx.params()?;
    let Jitter { latency, jitter, pings } = params;
    ensure!(
        jitter > Duration::ZERO && jitter <= latency,
        "the parameter `jitter` is {jitter:?}: it has to lie between 0 and `latency`, {latency:?}"
    );
    let party = Party::meet(&cx, 2).await?;
    let shape = Shape::new().latency(latency).jitter(jitter);
    let window = Window::between((latency - jitter) * 2, (latency + jitter) * 2);
    let rtts = ping_both_ways_shaped(&party, "jitter", shape, window, pings).await?;
    if !party.asks() {
        return Ok(());
    }
    let mut spread = Spread::default();
    let promised = latency.as_secs_f64() * 2.0;
    rtts.iter().for_each(|rtt| spread.add(rtt.as_secs_f64() - promised));
    if let Some(all) = party.gather("spread", &spread).await? {
        let mut run = Spread::default();
        all.iter().for_each(|spread| run.merge(spread));
        cx.point("mean_error", run.mean().abs() / promised).unit("ratio").record();
        cx.point("spread_sigma", run.sigma_of_jitter(jitter)).record();
    }
    Ok(())
}

/// Gives both ends a shape, and pings from one of them.
async fn ping_both_ways_shaped(
    party: &Party,
    name: &str,
    shape: Shape,
    window: Window,
    count: u32,
) -> Result<Vec<Duration>> {
    let cx = &party.cx;
    cx.phase(&format!("shape-{name}"), party.shape(shape)).await?;
    cx.phase(&format!("ping-{name}"), async {
        if !party.asks() {
            return Ok(Vec::new());
        }
        let mut pings = Pings::between(party.ip(), party.peer()).await?;
        party.measure(&mut pings, count, window, name).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;
    use crate::party::TURN;

    #[tokio::test]
    async fn pairs_ping_each_other() {
        let _turn = TURN.lock().await;
        let run = Local::new(4).unshaped().param("pings", 3);
        run.param("latencies", r#"["0ms","1ms"]"#).run(verify_latency).await.assert_success();
        let odd = Local::new(3).unshaped().param("pings", 3).run(ping_pong).await;
        assert!(odd.0.iter().all(|outcome| !outcome.is_success()));
    }

    #[tokio::test]
    async fn a_jitter_is_gathered_from_all_pairs() {
        let _turn = TURN.lock().await;
        let run = Local::new(4).unshaped().param("pings", 3);
        let run = run.param("latency", "2ms").param("jitter", "1ms");
        run.run(verify_jitter).await.assert_success();
    }

    #[test]
    fn a_bad_list_is_told_about() {
        let told = duration("latencies", "fast").unwrap_err().to_string();
        assert!(told.starts_with("the parameter `latencies` has `fast` in its list"), "{told}");
    }
}
