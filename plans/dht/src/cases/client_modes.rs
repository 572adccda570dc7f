//! `client-modes`: the same search in two networks of the same nodes, one
//! after the other.
//!
//! In the first everybody answers queries, reachable or not, as it was until
//! 2019: nodes that nobody reaches fill the routing tables, and searches dial
//! them in vain. In the second only those answer who are reachable.

use groundswell_p2p::dht::{ClientMode, Dht, DhtParams};
use groundswell_sdk::{Ctx, Result};

use crate::search::{self, RecordParams};
use crate::summary::{Means, gather};

/// The first mode is what the second is measured by.
const MODES: [ClientMode; 2] = [ClientMode::AllServer, ClientMode::NatAreClients];

pub(crate) async fn run(cx: Ctx) -> Result {
    let mut dials = Means::default();
    let mut times = Means::default();
    let mut searchers = 0;
    for mode in MODES {
        cx.tag_kpis("client_mode", mode.name());
        searchers = one(&cx, mode, &mut dials, &mut times).await?;
    }
    let searches = dials != Means::default();
    compare(&cx, "dials", searches.then_some(&dials), searchers).await?;
    compare(&cx, "times", searches.then_some(&times), searchers).await
}

/// Runs one network and returns how many instances search in it.
async fn one(cx: &Ctx, mode: ClientMode, dials: &mut Means, times: &mut Means) -> Result<usize> {
    let records: RecordParams = cx.params()?;
    let params = DhtParams { client_mode: mode, ..cx.params()? };
    let phase = |name: &str| format!("{name} {}", mode.name());
    let dht = cx.phase(&phase("start"), Dht::start(cx, params, mode.name())).await?;
    cx.phase(&phase("join"), dht.join(cx)).await?;
    cx.phase(&phase("settle"), dht.settle(cx)).await?;
    cx.phase(&phase("provide"), async {
        if cx.role() == "provider" {
            search::provide(cx, &dht, &records).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase(&phase("search"), async {
        if cx.role() == "searcher" {
            for record in records.wanted(cx, &dht) {
                let found = search::look_for(cx, &dht, &record).await?;
                dials.add(mode.name(), found.dials_failed as f64);
                // One that was not found cost the whole query.
                times.add(
                    mode.name(),
                    found.first_s.unwrap_or(dht.params.query_timeout.as_secs_f64()),
                );
            }
        }
        Ok(())
    })
    .await?;
    let searchers = dht.roster.with_role("searcher").map(|(_, group)| group.count).sum::<u32>();
    cx.phase(&phase("report"), dht.report(cx)).await?;
    dht.stop().await;
    Ok(searchers as usize)
}

/// Records how much less the second mode needs.
async fn compare(cx: &Ctx, what: &str, own: Option<&Means>, searchers: usize) -> Result {
    let Some(all) = gather(cx, what, own, searchers).await? else { return Ok(()) };
    let [before, after] = MODES.map(|mode| all.of(mode.name()).unwrap_or_default());
    if what == "dials" {
        cx.point("dials_failed_saved_per_query", before - after).unit("count").record();
    } else {
        cx.point("time_ratio_all_server", before / after).unit("ratio").record();
    }
    Ok(())
}
