//! `find-providers`: providers announce records, searchers look for all who
//! have them.
//!
//! Searches are told apart by the provider's group, and compared pair by pair
//! of versions: old nodes looking for records of old nodes are what the others
//! are measured by.

use groundswell_p2p::dht::Dht;
use groundswell_sdk::{Ctx, Result};

use super::{finish, network};
use crate::search::{self, Found, RecordParams};
use crate::summary::{Means, gather};

pub(crate) async fn run(cx: Ctx) -> Result {
    let params: RecordParams = cx.params()?;
    let dht = network(&cx).await?;
    cx.phase("provide", async {
        if cx.role() == "provider" {
            search::provide(&cx, &dht, &params).await?;
        }
        Ok(())
    })
    .await?;
    let found = cx.phase("search", search_all(&cx, &dht, &params)).await?;
    cx.phase("compare", compare_versions(&cx, &dht, &found)).await?;
    cx.phase("records", records(&cx, &dht, &params)).await?;
    finish(&cx, dht).await
}

async fn search_all(cx: &Ctx, dht: &Dht, params: &RecordParams) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    if search::is_searcher(cx, dht) {
        for record in params.wanted(cx, dht) {
            found.push(search::look_for(cx, dht, &record).await?);
        }
    }
    Ok(found)
}

/// Compares the mean times to the first provider by the versions at both ends,
/// where there is more than one.
async fn compare_versions(cx: &Ctx, dht: &Dht, found: &[Found]) -> Result {
    let groups = &dht.roster.groups;
    let version =
        |id: &str| groups.iter().find(|group| group.group == id).map(|group| &group.version);
    let oldest = groups.iter().map(|group| &group.version).min();
    if groups.iter().all(|group| Some(&group.version) == oldest) {
        return Ok(());
    }
    let own = &groups[dht.me.group].version;
    let mut means = Means::default();
    for search in found {
        if let (Some(of), Some(first)) = (version(&search.group), search.first_s) {
            means.add(&format!("{own} {of}"), first);
        }
    }
    let searchers = searchers(dht);
    let own = (!found.is_empty()).then_some(&means);
    let Some(all) = gather(cx, "versions", own, searchers).await? else { return Ok(()) };
    let base = oldest.and_then(|oldest| all.of(&format!("{oldest} {oldest}")));
    if let (Some(slowest), Some(base)) = (all.largest(), base) {
        cx.point("slowest_quadrant_ratio", slowest / base).unit("ratio").record();
    }
    Ok(())
}

/// How many instances search.
fn searchers(dht: &Dht) -> usize {
    let with_role: u32 = dht.roster.with_role("searcher").map(|(_, group)| group.count).sum();
    if with_role > 0 {
        return with_role as usize;
    }
    dht.roster.members.len() - dht.roster.bootstrappers()
}

/// Records how many records this node holds for others: their spread is the
/// balance.
async fn records(cx: &Ctx, dht: &Dht, params: &RecordParams) -> Result {
    let mut keys = Vec::new();
    for (_, group) in dht.roster.with_role("provider") {
        keys.extend(params.of_group(group).into_iter().map(|record| record.key));
    }
    let held = dht.node.records_held(keys).await?;
    cx.point("records_held", held).unit("count").record();
    Ok(())
}
