//! A name is published, resolved, and points elsewhere after an update.

use std::time::Duration;

use groundswell_bitswap::{Added, Cid};
use groundswell_p2p::Identity;
use groundswell_sdk::{Ctx, Result, ensure};
use serde::Deserialize;
use tokio::time::Instant;

use super::{offers, provide};
use crate::naming::{Record, key_of, latest};
use crate::rig::{Offer, Rig, Role};

#[derive(Debug, Deserialize)]
struct Own {
    /// How often each name is published, each time with another file.
    updates: u64,
    /// Records that a resolver compares.
    records: usize,
}

/// Adders publish names under their keys; fetchers resolve and fetch.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx).await?;
    ensure!(rig.with(Role::Adder).next().is_some(), "nobody is an adder: make a group `adder`");
    let first = |update: u64| u64::from(rig.me.index) * 1000 + update;
    let made: Vec<Added> = match rig.me.role {
        Role::Adder => (0..own.updates).map(|update| rig.make(first(update))).collect(),
        Role::Fetcher | Role::Crowd | Role::Relay => Vec::new(),
    };
    let files = offers(&rig, &made).await?;
    provide(&rig, "provide", &made).await?;
    for update in 0..own.updates {
        cx.phase(&format!("publish-{update}"), publish(&rig, &made, update)).await?;
        cx.phase(&format!("resolve-{update}"), resolve_all(&rig, &files, update, own.records))
            .await?;
    }
    rig.stop().await
}

async fn publish(rig: &Rig, made: &[Added], update: u64) -> Result {
    let Some(file) = usize::try_from(update).ok().and_then(|at| made.get(at)) else {
        return Ok(());
    };
    let begun = Instant::now();
    let owner = Identity::derive(rig.params.seed, u64::from(rig.me.index), 0);
    let record = serde_json::to_vec(&Record::sign(&owner, file.root, update)?)?;
    rig.node.put_value(key_of(&rig.me.peer), record, None).await?;
    rig.cx.point("time_to_publish_s", begun.elapsed()).record();
    Ok(())
}

async fn resolve_all(
    rig: &Rig,
    files: &[(u32, Vec<Offer>)],
    update: u64,
    records: usize,
) -> Result {
    if !rig.is(Role::Fetcher) {
        return Ok(());
    }
    rig.cx.stagger(rig.params.stagger).await;
    for (index, offers) in files {
        let Some(offer) = usize::try_from(update).ok().and_then(|at| offers.get(at)) else {
            continue;
        };
        let begun = Instant::now();
        let resolved = resolve(rig, *index, records).await?;
        let fresh = resolved.is_some_and(|(_, sequence)| sequence == update);
        let point = rig.cx.point("fresh_ratio", f64::from(u8::from(fresh)));
        point.unit("ratio").tag("update", update).record();
        if let Some((cid, _)) = resolved.filter(|_| fresh) {
            rig.cx.point("time_to_resolve_s", begun.elapsed()).tag("update", update).record();
            rig.cx.check(cid == offer.cid()?, "a name points to what its owner never named");
            rig.retrieve(offer, ("wants", "named")).await?;
        }
    }
    Ok(())
}

/// The latest of some records of an owner's name.
async fn resolve(rig: &Rig, owner: u32, records: usize) -> Result<Option<(Cid, u64)>> {
    let Some(mate) = rig.mates.iter().find(|mate| mate.index == owner) else { return Ok(None) };
    let limit = Instant::now() + rig.params.find_timeout;
    loop {
        let found = rig.node.get_value(key_of(&mate.peer), records).await;
        let values: Vec<_> =
            found.map(|values| values.found).unwrap_or_default().into_iter().collect();
        let values: Vec<_> = values.into_iter().map(|(value, _)| value).collect();
        let latest = latest(&mate.peer, &values);
        if latest.is_some() || Instant::now() > limit {
            return Ok(latest);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
