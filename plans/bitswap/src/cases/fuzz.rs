//! Connections break at random while files are fetched.

use std::time::Duration;

use groundswell_bitswap::Fetched;
use groundswell_sdk::{Ctx, Percent, Result};
use serde::Deserialize;
use tokio::time::{Instant, interval_at};

use crate::kpi::{Snapshot, Tags};
use crate::params::Setting;
use crate::rig::{Mate, Rig, Role};
use crate::round::Offer;

/// How often chance decides whether a connection breaks.
const STEP: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
struct Own {
    /// The chance that a connection breaks within a second.
    random_disconnects_fq: Percent,
}

/// Fetches a file in peace, and another one while connections break.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx, None).await?;
    rig.connect().await?;
    for setting in rig.params.settings() {
        let peace = rig.plain_round(&format!("{}-peace", setting.name()), &setting).await?;
        let broken = broken_round(&rig, &setting, own.random_disconnects_fq.ratio()).await?;
        if let (Some(peace), Some(broken)) = (&peace.fetched, &broken) {
            let slowdown = broken.report.took.as_secs_f64() / peace.report.took.as_secs_f64();
            Tags::of(&setting).point(&cx, "fuzz_slowdown", "ratio", slowdown);
        }
        rig.clear(&peace);
    }
    rig.stop().await
}

async fn broken_round(rig: &Rig, setting: &Setting, chance: f64) -> Result<Option<Fetched>> {
    let name = format!("{}-fuzz", setting.name());
    let made = if rig.is(Role::Seed) { rig.make(setting, &[1])? } else { Vec::new() };
    let offers = rig.offer(&name, &made).await?;
    let before = Snapshot::take(rig).await?;
    let tags = Tags::of(setting).and("fuzz", true);
    let mut fetched = None;
    rig.cx
        .phase(&format!("transfer-{name}"), async {
            if rig.is(Role::Leech) {
                let offer = rig.only(&offers, 1)?;
                let (got, breaks) = disturbed(rig, offer, chance).await?;
                before.record_fetch(rig, &got.report, offer.size, &tags).await?;
                tags.point(&rig.cx, "disconnects", "count", f64::from(breaks));
                fetched = Some(got);
            }
            Ok(())
        })
        .await?;
    rig.end_round(&name, &before, &tags).await?;
    Ok(fetched)
}

/// Fetches, and breaks connections until that is done.
async fn disturbed(rig: &Rig, offer: &Offer, chance: f64) -> Result<(Fetched, u32)> {
    let per_step = 1.0 - (1.0 - chance).powf(STEP.as_secs_f64());
    let mut rng = rig.cx.rng(&format!("disconnects-{}", offer.key));
    let dialled: Vec<_> = rig.mates.iter().filter(|mate| mate.index < rig.me.index).collect();
    let seeds: Vec<_> = rig.with(Role::Seed).collect();
    let mut breaks = 0;
    let mut steps = interval_at(Instant::now() + STEP, STEP);
    let fetch = rig.get(offer, rig.params.fetch());
    tokio::pin!(fetch);
    loop {
        tokio::select! {
            got = &mut fetch => return Ok((got?, breaks)),
            _ = steps.tick() => {
                let all = dialled.iter().chain(&seeds);
                let hit: Vec<&&Mate> = all.filter(|_| rng.chance(per_step)).collect();
                for mate in hit {
                    rig.node.disconnect(mate.peer).await?;
                    breaks += 1;
                    rig.dial(mate).await?;
                }
            }
        }
    }
}
