//! A provider goes away and its records stay.

use std::time::Duration;

use groundswell_sdk::{Ctx, Result, ensure};
use serde::Deserialize;

use super::one_file;
use crate::rig::{Rig, Role};

#[derive(Debug, Deserialize)]
struct Own {
    /// When the first adder goes, counted from when fetchers begin.
    leave_after: Duration,
}

/// Of several adders the first leaves; what it had is at the others.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx).await?;
    let adders = rig.with(Role::Adder).count();
    ensure!(adders > 1, "{adders} adder: at least two are needed, so that one can leave");
    let offer = one_file(&rig).await?;
    let leaves = rig.is(Role::Adder) && rig.number() == 0;
    cx.phase("retrieve", async {
        if leaves {
            tokio::time::sleep(own.leave_after).await;
            rig.node.clone().stop().await;
        }
        if rig.is(Role::Fetcher) {
            cx.stagger(rig.params.stagger).await;
            rig.retrieve(&offer, ("when", "while-it-leaves")).await?;
        }
        Ok(())
    })
    .await?;
    // Its record still says that it has the file.
    cx.phase("retrieve-later", async {
        if rig.is(Role::Fetcher) {
            forget(&rig, &offer).await?;
            rig.retrieve(&offer, ("when", "after-it-left")).await?;
        }
        Ok(())
    })
    .await?;
    rig.stop().await
}

/// Drops the file's blocks and all connections to adders.
async fn forget(rig: &Rig, offer: &crate::rig::Offer) -> Result {
    super::cold::drop_blocks(rig, offer)?;
    for adder in rig.with(Role::Adder) {
        rig.node.disconnect(adder.peer).await?;
    }
    Ok(())
}
