//! Seeds at different distances: do leeches prefer the near ones?

use std::collections::BTreeMap;

use groundswell_bitswap::FetchReport;
use groundswell_sdk::{Ctx, Result, ensure};

use crate::kpi::Tags;
use crate::params::Setting;
use crate::rig::{Rig, Role};

/// Fetches from seeds whose groups have different latencies.
pub(crate) async fn run(cx: Ctx) -> Result {
    let rig = Rig::start(&cx, None).await?;
    let mut distances: Vec<_> = rig.with(Role::Seed).map(|seed| seed.latency_ms).collect();
    distances.sort_unstable();
    distances.dedup();
    ensure!(
        distances.len() > 1,
        "all seeds have the same `latency_ms`, so that there is nothing to select: give groups of seeds different ones"
    );
    rig.connect().await?;
    for setting in rig.params.settings() {
        let round = rig.plain_round(&setting.name(), &setting).await?;
        if let Some(fetched) = &round.fetched {
            record(&rig, &setting, &fetched.report);
        }
        rig.clear(&round);
    }
    rig.stop().await
}

fn record(rig: &Rig, setting: &Setting, report: &FetchReport) {
    let mut by_distance = BTreeMap::new();
    for seed in rig.with(Role::Seed) {
        let blocks = report.from.get(&seed.peer).copied().unwrap_or(0);
        *by_distance.entry(seed.latency_ms).or_insert(0) += blocks;
    }
    let from_seeds = by_distance.values().sum::<u64>().max(1) as f64;
    let tags = Tags::of(setting);
    for (distance, blocks) in &by_distance {
        let share = *blocks as f64 / from_seeds;
        tags.and("seed_latency_ms", distance).point(&rig.cx, "block_share", "ratio", share);
    }
    let shares: Vec<_> = by_distance.values().copied().collect();
    let nearest = shares.first().copied().unwrap_or(0) as f64 / from_seeds;
    tags.point(&rig.cx, "nearest_share", "ratio", nearest);
    let ordered = shares.is_sorted_by(|near, far| near >= far);
    tags.point(&rig.cx, "share_ordered", "ratio", f64::from(u8::from(ordered)));
}
