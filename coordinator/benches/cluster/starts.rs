//! From submit to all started with a thousand instances: on four workers, and beside that on one.

use std::time::Duration;

use anyhow::Result;
use groundswell_common::run::RunPhase;

use crate::median;
use crate::rig::{Cluster, Setup};

const INSTANCES: u32 = 1_000;
const WORKERS: [u32; 2] = [4, 1];
/// How often each is measured; the median counts.
const TIMES: usize = 3;
/// The columns, each with the phase that ends it.
const UNTIL: [(&str, RunPhase); 5] = [
    ("placed, with a sync log", RunPhase::Preparing),
    ("all ready", RunPhase::Starting),
    ("all started", RunPhase::Running),
    ("verdict", RunPhase::Finished),
    ("nothing left", RunPhase::Cleaned),
];

pub(crate) async fn measure() -> Result<()> {
    println!("\n### From `coordinator submit` of {INSTANCES} netns instances\n");
    let names = UNTIL.map(|(name, _)| name).join(" | ");
    println!("| on | {names} |\n|---|---:|---:|---:|---:|---:|");
    for workers in WORKERS {
        let times = on(workers).await?;
        let shown = times.map(|time| format!("{:.2} s", time.as_secs_f64())).join(" | ");
        let plural = if workers == 1 { "" } else { "s" };
        println!("| {workers} worker{plural} | {shown} |");
    }
    Ok(())
}

/// The medians of the columns.
async fn on(workers: u32) -> Result<[Duration; UNTIL.len()]> {
    let mut cluster = Cluster::start(Setup::PLAIN).await?;
    cluster.add_workers(workers, INSTANCES.div_ceil(workers)).await?;
    let one_round = "run = { test_params = { rounds = \"1\" } }";
    // The first run builds the plan and brings it to every worker.
    let small = cluster.composition(("barrier", "rounds"), workers, one_round)?;
    cluster.run(&[&small]).await?;
    let file = cluster.composition(("barrier", "rounds"), INSTANCES, one_round)?;
    let mut courses = Vec::new();
    for _ in 0..TIMES {
        courses.push(cluster.run(&[&file]).await?);
    }
    cluster.end().await?;
    let mut medians = [Duration::ZERO; UNTIL.len()];
    for (at, (_, phase)) in UNTIL.iter().enumerate() {
        let times = courses.iter().map(|course| Ok(course.reached(*phase)?.at));
        medians[at] = median(times.collect::<Result<_>>()?);
    }
    Ok(medians)
}
