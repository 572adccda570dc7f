//! One block is on one slow node only.

use std::time::Duration;

use groundswell_sdk::{Ctx, Result, ensure};

use crate::kpi::{Snapshot, Tags};
use crate::params::Setting;
use crate::rig::{Rig, Role};

/// All leeches fetch a file of which all seeds lack the same block.
pub(crate) async fn run(cx: Ctx) -> Result {
    let rig = Rig::start(&cx, None).await?;
    let rare = rig.count(Role::Rare);
    ensure!(
        rare == 1,
        "{rare} instances have the rare block, not one: make a group of one instance named `rare`, or with that `role`"
    );
    rig.connect().await?;
    for setting in rig.params.settings() {
        round(&rig, &setting).await?;
    }
    rig.stop().await
}

async fn round(rig: &Rig, setting: &Setting) -> Result {
    let name = setting.name();
    let has_something = rig.is(Role::Seed) || rig.is(Role::Rare);
    let made = if has_something { rig.make(setting, &[0])? } else { Vec::new() };
    for (_, added) in &made {
        let rare = added.node.blocks.len() / 2;
        for (at, (cid, _)) in added.node.blocks.iter().enumerate() {
            if (at == rare) != rig.is(Role::Rare) {
                rig.bitswap.store().remove(cid);
            }
        }
    }
    let offers = rig.offer(&name, &made).await?;
    let before = Snapshot::take(rig).await?;
    let tags = Tags::of(setting);
    rig.cx
        .phase(&format!("transfer-{name}"), async {
            if rig.is(Role::Leech) {
                let offer = rig.only(&offers, 0)?;
                let got = rig.get(offer, rig.params.fetch()).await?;
                before.record_fetch(rig, &got.report, offer.size, &tags).await?;
                let slow = rig.with(Role::Rare).map(|mate| Duration::from_millis(mate.latency_ms));
                let trips = slow.max().unwrap_or_default().as_secs_f64().max(1e-3);
                let ratio = got.report.took.as_secs_f64() / trips;
                tags.point(&rig.cx, "time_in_rare_latencies", "ratio", ratio);
            }
            Ok(())
        })
        .await?;
    let sent = rig.end_round(&name, &before, &tags).await?;
    if rig.is(Role::Rare)
        && let Some(own) = sent.get(rig.me.index as usize)
    {
        tags.point(&rig.cx, "rare_uploads", "count", own.blocks as f64);
    }
    Ok(())
}
