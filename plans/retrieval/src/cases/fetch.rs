//! One adds and others fetch: a few, all the same, or all something else.

use groundswell_sdk::{Ctx, Result};
use serde::Deserialize;

use super::{offers, one_file, provide};
use crate::popularity::Zipf;
use crate::rig::{Rig, Role};

/// Fetchers fetch what an adder has.
pub(crate) async fn one(cx: Ctx) -> Result {
    same(&cx, |rig| rig.is(Role::Fetcher)).await
}

/// Everybody fetches what the adders have, and provides it then.
pub(crate) async fn all_same(cx: Ctx) -> Result {
    same(&cx, |rig| matches!(rig.me.role, Role::Fetcher | Role::Crowd)).await
}

async fn same(cx: &Ctx, wants: impl Fn(&Rig) -> bool) -> Result {
    let rig = Rig::start(cx).await?;
    let offer = one_file(&rig).await?;
    cx.phase("retrieve", async {
        if wants(&rig) {
            cx.stagger(rig.params.stagger).await;
            if rig.retrieve(&offer, ("wants", "same")).await? {
                // Whoever has it helps the next.
                rig.provide(offer.cid()?).await?;
            }
        }
        Ok(())
    })
    .await?;
    rig.stop().await
}

#[derive(Debug, Deserialize)]
struct Own {
    /// How unequally popular files are.
    popularity: f64,
    /// Files that each fetcher wants, one after the other.
    files: usize,
}

/// Adders and the crowd add a file each; fetchers want some of them.
pub(crate) async fn all_different(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx).await?;
    let adds = matches!(rig.me.role, Role::Adder | Role::Crowd);
    let made: Vec<_> = adds.then(|| rig.make(u64::from(rig.me.index) + 1)).into_iter().collect();
    let all: Vec<_> = offers(&rig, &made).await?.into_iter().flat_map(|(_, files)| files).collect();
    if all.is_empty() {
        return Err("nobody adds a file: make a group `adder` or `crowd`".into());
    }
    provide(&rig, "provide", &made).await?;
    cx.phase("retrieve", async {
        if rig.is(Role::Fetcher) {
            cx.stagger(rig.params.stagger).await;
            let zipf = Zipf::new(all.len(), own.popularity);
            let mut rng = cx.rng("popularity");
            for _ in 0..own.files {
                rig.retrieve(&all[zipf.draw(&mut rng)], ("wants", "different")).await?;
            }
        }
        Ok(())
    })
    .await?;
    rig.stop().await
}
