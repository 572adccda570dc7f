//! The only provider is behind a NAT.

use groundswell_sdk::{Ctx, Result, ensure};

use super::one_file;
use crate::rig::{Rig, Role};

/// Fetchers find the provider in the DHT, reach it through a relay, and
/// punch a hole where that works.
pub(crate) async fn run(cx: Ctx) -> Result {
    let rig = Rig::start(&cx).await?;
    ensure!(
        rig.with(Role::Adder).all(|adder| adder.nat),
        "an adder is not behind a NAT: give its group `[groups.nat]`"
    );
    let offer = one_file(&rig).await?;
    cx.phase("retrieve", async {
        if rig.is(Role::Fetcher) {
            cx.stagger(rig.params.stagger).await;
            let behind = if rig.me.nat { "nat" } else { "public" };
            rig.retrieve(&offer, ("fetcher", behind)).await?;
        }
        Ok(())
    })
    .await?;
    rig.stop().await
}
