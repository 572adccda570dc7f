//! Bandwidth, and links that are not the same both ways.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;

use crate::goodput::{Carrier, run_out};
use crate::party::Party;
use crate::ping::Pings;
use crate::theory::Window;

#[derive(Debug, Deserialize)]
struct Bandwidth {
    rates: Vec<Rate>,
    carriers: Vec<Carrier>,
    duration: Duration,
}

/// One rate after the other, filled by TCP and by UDP.
pub(crate) async fn verify_bandwidth(cx: Ctx) -> Result {
    let params: Bandwidth = cx.params()?;
    let party = Party::meet(&cx, 2).await?;
    let mut round = 0;
    for rate in &params.rates {
        let name = format!("{}bit", rate.0);
        cx.phase(&format!("shape-{name}"), async {
            if party.asks() { party.shape(Shape::new().bandwidth(*rate)).await } else { Ok(()) }
        })
        .await?;
        for carrier in &params.carriers {
            round += 1;
            let flow = Flow { carrier: *carrier, rate: *rate, from: 0, link: "up" };
            flow.run(&party, params.duration, round).await?;
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Asymmetric {
    latency_up: Duration,
    latency_down: Duration,
    rate_up: Rate,
    rate_down: Rate,
    pings: u32,
    duration: Duration,
}

/// Each end has a shape of its own: the latencies add up, and each direction has its rate.
pub(crate) async fn asymmetric(cx: Ctx) -> Result {
    let params: Asymmetric = cx.params()?;
    let party = Party::meet(&cx, 2).await?;
    let up = Shape::new().latency(params.latency_up).bandwidth(params.rate_up);
    let down = Shape::new().latency(params.latency_down).bandwidth(params.rate_down);
    cx.phase("shape", party.shape(if party.asks() { up } else { down })).await?;
    cx.phase("ping", async {
        if party.asks() {
            let window = Window::of(params.latency_up + params.latency_down);
            let mut pings = Pings::between(party.ip(), party.peer()).await?;
            party.measure(&mut pings, params.pings, window, "up and down").await?;
        }
        Ok(())
    })
    .await?;
    let flows = [("up", params.rate_up, 0), ("down", params.rate_down, 1)];
    for (round, (link, rate, from)) in (1..).zip(flows) {
        let flow = Flow { carrier: Carrier::Udp, rate, from, link };
        flow.run(&party, params.duration, round).await?;
    }
    Ok(())
}

/// What fills a link for a while.
#[derive(Debug)]
struct Flow {
    carrier: Carrier,
    rate: Rate,
    /// The place of the sender.
    from: usize,
    link: &'static str,
}

impl Flow {
    async fn run(&self, party: &Party, span: Duration, round: u32) -> Result {
        let (cx, carrier) = (&party.cx, self.carrier);
        let name = format!("{}-{}-{}bit", self.link, carrier.name(), self.rate.0);
        cx.phase(&name, async {
            if party.place == self.from {
                carrier.send(party, party.peer(), self.rate, span, round).await?;
                run_out().await;
                return Ok(());
            }
            let arrived = carrier.receive(party, span, round).await?;
            self.record(cx, arrived);
            Ok(())
        })
        .await
    }

    fn record(&self, cx: &Ctx, arrived: f64) {
        let error = arrived / self.carrier.goodput(self.rate) - 1.0;
        for (kpi, value, unit) in
            [("goodput_Bps", arrived, "B/s"), ("goodput_error", error, "ratio")]
        {
            let point = cx.point(kpi, value).unit(unit).tag("link", self.link);
            point.tag("carrier", self.carrier.name()).tag("rate", self.rate.0).record();
        }
    }
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;
    use crate::party::TURN;

    #[tokio::test]
    async fn bytes_go_from_one_to_the_other() {
        let _turn = TURN.lock().await;
        let run = Local::new(2).unshaped().param("rates", r#"["10Mbit"]"#);
        let run = run.param("carriers", r#"["tcp","udp"]"#).param("duration", "100ms");
        run.run(verify_bandwidth).await.assert_success();
    }
}
