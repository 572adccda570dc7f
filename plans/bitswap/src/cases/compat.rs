//! Old and new versions, each fetching from each.

use std::collections::BTreeMap;

use groundswell_sdk::{Ctx, Result, ensure};

use crate::kpi::{Snapshot, Tags};
use crate::params::Setting;
use crate::rig::{Mate, Rig, Role};

/// Who fetches from whom: `old-new` is an old leech and new seeds.
const PAIRS: [(&str, bool, bool); 4] = [
    ("old-old", true, true),
    ("old-new", true, false),
    ("new-old", false, true),
    ("new-new", false, false),
];

/// Fetches in all four pairs, one pair at a time.
pub(crate) async fn run(cx: Ctx) -> Result {
    let rig = Rig::start(&cx, None).await?;
    for (old, what) in [(true, "1.1.0"), (false, "1.2.0")] {
        for role in [Role::Seed, Role::Leech] {
            ensure!(
                rig.with(role).any(|mate| mate.legacy == old),
                "no {role:?} has `bitswap_version` {what}: groups of both versions need seeds and leeches"
            );
        }
    }
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for setting in rig.params.settings() {
        for (pair, old_leech, old_seed) in PAIRS {
            let took = fetch(&rig, &setting, pair, old_leech, old_seed).await?;
            times.entry(pair).or_default().extend(took);
        }
    }
    if rig.me.index == rig.mates[0].index {
        record(&cx, &times);
    }
    rig.stop().await
}

/// One pair: connects, fetches, parts. The times of all leeches that took part.
async fn fetch(
    rig: &Rig,
    setting: &Setting,
    pair: &'static str,
    old_leech: bool,
    old_seed: bool,
) -> Result<Vec<f64>> {
    let name = format!("{pair}-{}", setting.name());
    let leeches = |mate: &Mate| mate.role == Role::Leech && mate.legacy == old_leech;
    let seeds = |mate: &Mate| mate.role == Role::Seed && mate.legacy == old_seed;
    // A file of its own for each pair: what an earlier one left behind is no help.
    let key = PAIRS.iter().position(|(known, ..)| *known == pair).unwrap_or(0) as u64;
    let made = if seeds(&rig.me) { rig.make(setting, &[key])? } else { Vec::new() };
    let offers = rig.offer(&name, &made).await?;
    if leeches(&rig.me) {
        for seed in rig.mates.iter().filter(|mate| seeds(mate)) {
            rig.dial(seed).await?;
        }
    }
    rig.cx.signal_and_wait(&format!("connected-{name}")).await?;
    let before = Snapshot::take(rig).await?;
    let tags = Tags::of(setting).and("pair", pair);
    let mut took = None;
    rig.cx
        .phase(&format!("transfer-{name}"), async {
            if leeches(&rig.me) {
                let offer = rig.only(&offers, key)?;
                let got = rig.get(offer, rig.params.fetch()).await?;
                before.record_fetch(rig, &got.report, offer.size, &tags).await?;
                took = Some(got.report.took.as_secs_f64());
            }
            Ok(())
        })
        .await?;
    rig.end_round(&name, &before, &tags).await?;
    rig.part().await?;
    let all = rig.cx.exchange(&format!("times-{name}"), &took).await?;
    Ok(all.into_iter().filter_map(|member| member.value).collect())
}

/// How much slower the slowest pair is than old with old.
fn record(cx: &Ctx, times: &BTreeMap<&str, Vec<f64>>) {
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len().max(1) as f64;
    let old = times.get("old-old").map_or(0.0, |times| mean(times)).max(1e-9);
    for (pair, times) in times {
        cx.point("compat_ratio", mean(times) / old).unit("ratio").tag("pair", pair).record();
    }
}
