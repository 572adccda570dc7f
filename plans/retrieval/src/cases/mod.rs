//! What each case does with the network.

pub(crate) mod chew;
pub(crate) mod cold;
pub(crate) mod fetch;
pub(crate) mod leaves;
pub(crate) mod names;
pub(crate) mod nat;
#[cfg(test)]
mod tests;

use groundswell_bitswap::Added;
use groundswell_sdk::{Result, ensure};

use crate::rig::{Offer, Rig, Role};

/// Announces files and records how long each took.
async fn provide(rig: &Rig, phase: &str, files: &[Added]) -> Result {
    rig.cx
        .phase(phase, async {
            for file in files {
                let took = rig.provide(file.root).await?;
                rig.cx.point("time_to_provide_s", took).record();
            }
            Ok(())
        })
        .await
}

/// Tells everybody the names of own files. The files of all, in the order of
/// the instances.
async fn offers(rig: &Rig, own: &[Added]) -> Result<Vec<(u32, Vec<Offer>)>> {
    let own: Vec<_> = own.iter().map(Offer::of).collect();
    let all = rig.cx.exchange("offers", &own).await?;
    Ok(all.into_iter().map(|member| (member.index, member.value)).collect())
}

/// The adders put the same file into their stores and announce it; everybody
/// gets its name.
async fn one_file(rig: &Rig) -> Result<Offer> {
    ensure!(rig.with(Role::Adder).next().is_some(), "nobody is an adder: make a group `adder`");
    ensure!(
        rig.with(Role::Fetcher).next().is_some(),
        "nobody is a fetcher: make a group `fetcher`"
    );
    let made: Vec<_> = rig.is(Role::Adder).then(|| rig.make(0)).into_iter().collect();
    let all = offers(rig, &made).await?;
    provide(rig, "provide", &made).await?;
    let first = all.into_iter().flat_map(|(_, offers)| offers).next();
    first.ok_or_else(|| "no adder has offered a file".into())
}
