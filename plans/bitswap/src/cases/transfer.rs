//! Everybody fetches at once: the same file, or each its own.

use groundswell_sdk::{Ctx, Result};

use crate::rig::{Rig, Role};

/// All leeches fetch the same file.
pub(crate) async fn same(cx: Ctx) -> Result {
    run(&cx, |_, _| 0).await
}

/// Each leech fetches a file of its own.
pub(crate) async fn different(cx: Ctx) -> Result {
    run(&cx, |_, leech| leech).await
}

async fn run(cx: &Ctx, file_of: impl Fn(&Rig, u64) -> u64) -> Result {
    let rig = Rig::start(cx, None).await?;
    rig.connect().await?;
    let leeches = rig.count(Role::Leech) as u64;
    let mut keys: Vec<_> = (0..leeches).map(|leech| file_of(&rig, leech)).collect();
    keys.dedup();
    let wanted = rig.is(Role::Leech).then(|| file_of(&rig, rig.number() as u64));
    let mut last = None;
    for setting in rig.params.settings() {
        rig.shape(last.as_ref(), &setting).await?;
        let round = rig.fetch_round(&setting.name(), &setting, &keys, wanted).await?;
        rig.clear(&round);
        last = Some(setting);
    }
    rig.stop().await
}
