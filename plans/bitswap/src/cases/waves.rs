//! Popular content: leeches come in waves, and later ones find more sources.

use std::time::Duration;

use groundswell_sdk::{Ctx, Result};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::kpi::{Snapshot, Tags};
use crate::params::Setting;
use crate::rig::{Rig, Role};

#[derive(Debug, Deserialize)]
struct Own {
    wave_size: usize,
    wave_interval: Duration,
}

/// A wave of leeches every so often.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx, None).await?;
    rig.connect().await?;
    let mut last = None;
    for setting in rig.params.settings() {
        rig.shape(last.as_ref(), &setting).await?;
        waves(&rig, &setting, &own).await?;
        last = Some(setting);
    }
    rig.stop().await
}

async fn waves(rig: &Rig, setting: &Setting, own: &Own) -> Result {
    let name = setting.name();
    let made = if rig.is(Role::Seed) { rig.make(setting, &[0])? } else { Vec::new() };
    let offers = rig.offer(&name, &made).await?;
    let before = Snapshot::take(rig).await?;
    let wave = u32::try_from(rig.number() / own.wave_size.max(1)).unwrap_or(u32::MAX);
    let tags = Tags::of(setting).and("wave", wave);
    let begun = Instant::now();
    rig.cx
        .phase(&format!("transfer-{name}"), async {
            if rig.is(Role::Leech) {
                sleep_until(begun + own.wave_interval.saturating_mul(wave)).await;
                let offer = rig.only(&offers, 0)?;
                let got = rig.get(offer, rig.params.fetch()).await?;
                before.record_fetch(rig, &got.report, offer.size, &tags).await?;
                let leeches = rig.with(Role::Leech);
                let from: u64 = leeches.filter_map(|mate| got.report.from.get(&mate.peer)).sum();
                let share = from as f64 / got.report.blocks.max(1) as f64;
                let kpi = if wave == 0 { "from_leeches_first" } else { "from_leeches_later" };
                tags.point(&rig.cx, kpi, "ratio", share);
            }
            Ok(())
        })
        .await?;
    rig.end_round(&name, &before, &Tags::of(setting)).await?;
    Ok(())
}
