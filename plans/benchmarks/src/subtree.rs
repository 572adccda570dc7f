//! How long messages take to be published and to be received.

use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

/// Message sizes, in bytes.
const SIZES: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

#[derive(Deserialize)]
struct Params {
    subtree_iterations: u32,
    subtree_test_timeout_secs: u64,
}

/// The instance that comes first publishes, the others receive what is there already.
pub(crate) async fn subtree(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let limit = Duration::from_secs(params.subtree_test_timeout_secs);
    let publishes = cx.sync().signal("instances").await? == 1;
    for size in SIZES {
        if publishes {
            publish(&cx, size, params.subtree_iterations).await?;
        }
        // What is measured on the other side begins when everything has been published.
        cx.signal_and_wait(&format!("handoff-{size}")).timeout(limit).await?;
        if !publishes {
            timeout(limit, receive(&cx, size, params.subtree_iterations)).await??;
        }
        cx.signal_and_wait(&format!("end-{size}")).timeout(limit).await?;
    }
    Ok(())
}

async fn publish(cx: &Ctx, size: usize, iterations: u32) -> Result {
    let timer = cx.timer("subtree_time_publish").tag("bytes", size);
    for iteration in 0..iterations {
        let message = message(iteration, size);
        let begun = Instant::now();
        let place = cx.sync().publish(&topic(size), &message).await?;
        timer.observe(begun.elapsed());
        ensure!(place == u64::from(iteration) + 1, "message {iteration} got the place {place}");
    }
    Ok(())
}

async fn receive(cx: &Ctx, size: usize, iterations: u32) -> Result {
    let timer = cx.timer("subtree_time_receive").tag("bytes", size);
    let mut messages = cx.sync().subscribe::<String>(&topic(size)).await?;
    let mut right = 0;
    for iteration in 0..iterations {
        let begun = Instant::now();
        let received = messages.next().await?;
        timer.observe(begun.elapsed());
        right += u32::from(received == message(iteration, size));
    }
    let ratio = f64::from(right) / f64::from(iterations.max(1));
    cx.point("subtree_in_order_ratio", ratio).unit("ratio").tag("bytes", size).record();
    Ok(())
}

fn topic(size: usize) -> String {
    format!("subtree-{size}")
}

/// Text of `size` bytes that tells its place.
fn message(iteration: u32, size: usize) -> String {
    format!("{iteration:>size$}")
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn messages_have_their_size_and_differ() {
        assert_eq!(message(7, 64).len(), 64);
        assert_ne!(message(7, 64), message(8, 64));
    }
}
