//! From the death of the coordinator that leads to the first answer of the one that stood by.

use std::time::Duration;

use anyhow::{Context as _, Result};
use groundswell_common::timing::Leadership;
use tokio::time::{Instant, sleep};

use crate::median;
use crate::rig::{Cluster, Setup};

/// By what the intervals are divided, and how often a leader is killed then.
const ROUNDS: [(u32, usize); 2] = [(1, 2), (10, 8)];

pub(crate) async fn measure() -> Result<()> {
    println!("\n### A leader is killed under a run: until the standby answers\n");
    println!(
        "| the lead counts as given up after | times | median | worst |\n|---|---:|---:|---:|"
    );
    for (faster, times) in ROUNDS {
        let took = recoveries(faster, times).await?;
        let takeover = Leadership::DEFAULT.faster(faster).takeover.as_secs_f64();
        let worst = took.iter().max().copied().unwrap_or_default();
        let how = if faster == 1 { "as in production" } else { "intervals divided by ten" };
        println!(
            "| {takeover} s, {how} | {times} | {:.2} s | {:.2} s |",
            median(took).as_secs_f64(),
            worst.as_secs_f64()
        );
    }
    Ok(())
}

async fn recoveries(faster: u32, times: usize) -> Result<Vec<Duration>> {
    let mut cluster = Cluster::start(Setup { faster, ..Setup::PLAIN }).await?;
    cluster.add_workers(1, 10).await?;
    let file = cluster.composition(("placebo", "stall"), 4, "")?;
    let running = cluster.begin(&file).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        let standby = cluster.add_coordinator()?;
        standby.says("standing by").await?;
        let next = standby.id()?;
        // Leaders die at any time between two renewals.
        sleep(Leadership::DEFAULT.faster(faster).renew.mul_f64(rand::random())).await;
        let mut leader = cluster.coordinators.remove(0);
        let killed = Instant::now();
        leader.kill().await?;
        cluster.led_by(next).await?;
        took.push(killed.elapsed());
    }
    // It can only be canceled while it goes on.
    cluster.cancel(&running.run).await.context("the run did not outlive its leaders")?;
    cluster.end().await?;
    Ok(took)
}
