//! Stores collect garbage while files are fetched.

use std::time::Duration;

use groundswell_bitswap::{Cid, Fetched, File};
use groundswell_sdk::{Ctx, Percent, Result, Rng, ensure};
use serde::Deserialize;
use tokio::time::{Instant, interval_at};

use crate::kpi::{Snapshot, Tags};
use crate::params::Setting;
use crate::rig::{Rig, Role};
use crate::round::Offer;

/// How often a file that lost blocks to the collector is completed before it
/// is given up.
const REPAIRS: u32 = 20;

#[derive(Debug, Deserialize)]
struct Own {
    gc_interval: Duration,
    gc_fraction: Percent,
}

/// What one fetch and the collector did to each other.
struct Collected {
    fetched: Fetched,
    refetched: u64,
    removed: u64,
}

/// Leeches fetch without pinning, seeds have pinned the file and collect too.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    ensure!(!own.gc_interval.is_zero(), "`gc_interval` is 0; take 500ms");
    let rig = Rig::start(&cx, None).await?;
    rig.connect().await?;
    let mut last = None;
    for setting in rig.params.settings() {
        rig.shape(last.as_ref(), &setting).await?;
        round(&rig, &setting, &own).await?;
        last = Some(setting);
    }
    rig.stop().await
}

async fn round(rig: &Rig, setting: &Setting, own: &Own) -> Result {
    let name = setting.name();
    let made = if rig.is(Role::Seed) { rig.make(setting, &[0, 1])? } else { Vec::new() };
    // The first file is kept, the second is garbage.
    for (_, added) in &made[..made.len().min(1)] {
        let blocks = added.node.blocks.iter().map(|(cid, _)| *cid);
        rig.bitswap.store().pin(blocks.chain([added.root]));
    }
    let offers = rig.offer(&name, &made).await?;
    let before = Snapshot::take(rig).await?;
    let tags = Tags::of(setting);
    let all_done = rig.cx.barrier(&format!("phase:transfer-{name}"));
    rig.cx
        .phase(&format!("transfer-{name}"), async {
            if rig.is(Role::Leech) {
                let offer = rig.only(&offers, 0)?;
                let got = fetch(rig, offer, own).await?;
                before.record_fetch(rig, &got.fetched.report, offer.size, &tags).await?;
                tags.point(&rig.cx, "refetched_after_gc", "count", got.refetched as f64);
                tags.point(&rig.cx, "removed_by_gc", "count", got.removed as f64);
            } else {
                let leeches = u64::try_from(rig.count(Role::Leech))?;
                collect_until(rig, own, all_done.count(leeches)).await?;
            }
            Ok(())
        })
        .await?;
    let lost = rig.bitswap.store().lost_pins();
    rig.cx.check(lost.is_empty(), format!("{} pinned blocks were lost", lost.len()));
    tags.point(&rig.cx, "pinned_blocks_lost", "count", lost.len() as f64);
    rig.end_round(&name, &before, &tags).await?;
    Ok(())
}

/// Fetches while the collector runs, and fetches again what it took, until
/// the whole file is here at one moment.
async fn fetch(rig: &Rig, offer: &Offer, own: &Own) -> Result<Collected> {
    let mut rng = rig.cx.rng(&format!("garbage-{}", offer.key));
    let (mut refetched, mut removed) = (0, 0);
    let mut collector = interval_at(Instant::now() + own.gc_interval, own.gc_interval);
    let begun = Instant::now();
    let mut attempt = 0;
    loop {
        let fetch = rig.bitswap.fetch_file(offer.cid()?, rig.params.fetch());
        tokio::pin!(fetch);
        let mut fetched = loop {
            tokio::select! {
                got = &mut fetch => break got?,
                _ = collector.tick() => removed += collect(rig, own, &mut rng).len() as u64,
            }
        };
        refetched += if attempt > 0 { fetched.report.blocks } else { 0 };
        attempt += 1;
        let whole = File::check(&fetched.node, rig.bitswap.store()).is_ok();
        if whole || attempt == REPAIRS {
            fetched.report.took = begun.elapsed();
            rig.verify(offer, &fetched);
            return Ok(Collected { fetched, refetched, removed });
        }
    }
}

fn collect(rig: &Rig, own: &Own, rng: &mut Rng) -> Vec<Cid> {
    rig.bitswap.store().collect_garbage(own.gc_fraction.ratio(), rng)
}

/// Collects until the leeches are done.
async fn collect_until(
    rig: &Rig,
    own: &Own,
    done: impl IntoFuture<Output = std::result::Result<(), groundswell_sdk::SyncError>>,
) -> Result {
    let mut rng = rig.cx.rng("garbage");
    let mut collector = interval_at(Instant::now() + own.gc_interval, own.gc_interval);
    let done = done.into_future();
    tokio::pin!(done);
    loop {
        tokio::select! {
            over = &mut done => return Ok(over?),
            _ = collector.tick() => drop(collect(rig, own, &mut rng)),
        }
    }
}
