//! A file spreads until everybody has it: leeches pass on what they have.

use std::time::Duration;

use groundswell_sdk::{Ctx, Result};
use serde::{Deserialize, Serialize};

use crate::kpi::Tags;
use crate::params::Setting;
use crate::rig::{Rig, Role};

#[derive(Debug, Deserialize)]
struct Own {
    /// Whether files go in a chain of four cohorts, as in the historic plan
    /// `data-transfer`, and not from seeds to all.
    cohorts: bool,
}

/// How long an instance's fetch took, in seconds.
#[derive(Debug, Serialize, Deserialize)]
struct Took(Option<f64>);

/// Spreads one file, or four in cohorts.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx, None).await?;
    rig.connect().await?;
    let mut last = None;
    for setting in rig.params.settings() {
        rig.shape(last.as_ref(), &setting).await?;
        if own.cohorts {
            cohorts(&rig, &setting).await?;
        } else {
            from_seeds(&rig, &setting).await?;
        }
        last = Some(setting);
    }
    rig.stop().await
}

async fn from_seeds(rig: &Rig, setting: &Setting) -> Result {
    let name = setting.name();
    let round = rig.plain_round(&name, setting).await?;
    let (all, seeds) = (rig.mates.len(), rig.count(Role::Seed));
    let took = round.fetched.as_ref().map(|fetched| fetched.report.took);
    let total = slowest(rig, &name, took).await?;
    record(rig, setting, total, steps(all, seeds));
    rig.clear(&round);
    Ok(())
}

/// The instances in four parts by their number: the second, third and fourth
/// fetch from the first one after the other, then all from the fourth.
async fn cohorts(rig: &Rig, setting: &Setting) -> Result {
    let of = |index: usize| index * 4 / rig.mates.len().max(4);
    let mine = rig.mates.iter().position(|mate| mate.index == rig.me.index).map_or(0, of);
    let name = setting.name();
    let parts = [(1, 0), (2, 0), (3, 0), (4, 3)];
    for (to, from) in parts {
        let step = format!("{name}-cohort-{from}-to-{to}");
        let key = 100 + to as u64;
        let made = if mine == from { rig.make(setting, &[key])? } else { Vec::new() };
        let offers = rig.offer(&step, &made).await?;
        let wants = mine == to || (to == 4 && mine != from);
        let mut took = None;
        rig.cx
            .phase(&format!("transfer-{step}"), async {
                if wants {
                    let offer = rig.only(&offers, key)?;
                    took = Some(rig.get(offer, rig.params.fetch()).await?.report.took);
                }
                Ok(())
            })
            .await?;
        if let Some(took) = took {
            let tags = Tags::of(setting).and("cohort", format!("{from}-to-{to}"));
            tags.time(&rig.cx, "time_to_fetch", took);
        }
        let total = slowest(rig, &step, took).await?;
        if to == 4 {
            record(rig, setting, total, 2);
        }
    }
    Ok(())
}

/// The time until the last one had everything.
async fn slowest(rig: &Rig, name: &str, own: Option<Duration>) -> Result<Duration> {
    let own = Took(own.map(|took| took.as_secs_f64()));
    let all = rig.cx.exchange(&format!("took-{name}"), &own).await?;
    let slowest = all.iter().filter_map(|member| member.value.0).fold(0.0, f64::max);
    Ok(Duration::from_secs_f64(slowest))
}

/// In how many steps all have a file that doubles its holders in each.
fn steps(all: usize, seeds: usize) -> u32 {
    let mut steps = 0;
    let mut holders = seeds.max(1);
    while holders < all {
        holders *= 2;
        steps += 1;
    }
    steps.max(1)
}

fn record(rig: &Rig, setting: &Setting, total: Duration, steps: u32) {
    if rig.me.index != rig.mates[0].index {
        return;
    }
    let tags = Tags::of(setting);
    tags.time(&rig.cx, "time_to_spread", total);
    if let Some(file_time) = setting.file_time() {
        let ideal = file_time.as_secs_f64() * f64::from(steps);
        tags.point(&rig.cx, "spread_ratio", "ratio", total.as_secs_f64() / ideal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_double_in_each_step() {
        assert_eq!(steps(33, 1), 6);
        assert_eq!(steps(32, 1), 5);
        assert_eq!(steps(8, 4), 1);
        assert_eq!(steps(2, 2), 1);
    }
}
