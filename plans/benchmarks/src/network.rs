//! How long the data network takes, to be there and to be changed.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::Instant;

use crate::begin;

/// Records how long it took until the data network was there: the case begins when it is.
pub(crate) async fn netinit(cx: Ctx) -> Result {
    cx.point("time_to_network_init_secs", begin::elapsed()).record();
    cx.signal_and_wait("initialised").await?;
    Ok(())
}

#[derive(Deserialize)]
struct Shaping {
    shape_iterations: u32,
}

/// Changes the own link again and again, all instances at once.
pub(crate) async fn netlinkshape(cx: Ctx) -> Result {
    let params: Shaping = cx.params()?;
    ensure!(cx.network().can_shape(), "nobody carries out network configurations here");
    let network = cx.network();
    let timer = cx.timer("time_to_shape_network_secs");
    for iteration in 0..params.shape_iterations {
        cx.signal_and_wait(&format!("shape-{iteration}")).await?;
        let latency = Duration::from_millis(u64::from(iteration % 2) + 1);
        let begun = Instant::now();
        network.shape(Shape::new().latency(latency)).await?;
        timer.observe(begun.elapsed());
    }
    Ok(())
}
