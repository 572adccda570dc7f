//! Few connections: what no neighbour has is looked for in the DHT.

use std::time::Duration;

use groundswell_bitswap::{Cid, Fetch};
use groundswell_p2p::{KadConfig, Multiaddr, PeerId, topology};
use groundswell_sdk::{Ctx, Result};
use serde::Deserialize;
use tokio::time::Instant;

use crate::kpi::{Snapshot, Tags};
use crate::params::Setting;
use crate::rig::{Rig, Role};
use crate::round::Offer;

#[derive(Debug, Clone, Deserialize)]
struct Own {
    /// How long neighbours may take before the DHT is asked.
    discover_after: Duration,
}

/// Who found the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Neighbours,
    Dht,
}

/// Seeds announce the file in the DHT; leeches ask their few neighbours first.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    let rig = Rig::start(&cx, Some(KadConfig::default())).await?;
    rig.ensure_roles()?;
    connect(&rig).await?;
    let mut last = None;
    for setting in rig.params.settings() {
        rig.shape(last.as_ref(), &setting).await?;
        round(&rig, &setting, &own).await?;
        last = Some(setting);
    }
    rig.stop().await
}

/// A ring and a share of all other connections, by which everybody joins the DHT.
async fn connect(rig: &Rig) -> Result {
    let (edges, mine) = edges(rig);
    rig.cx
        .phase("connect", async {
            for other in topology::dials_of(&edges, mine) {
                let mate = &rig.mates[other];
                rig.node.add_address(mate.peer, mate.address.clone()).await?;
                rig.dial(mate).await?;
            }
            Ok(())
        })
        .await?;
    rig.cx
        .phase("join", async {
            // Seeds know nobody but leeches where there is no passive one.
            let _ = rig.node.bootstrap().await;
            tokio::time::sleep(rig.params.settle).await;
            Ok(())
        })
        .await
}

/// Who dials whom, and this instance's place there.
fn edges(rig: &Rig) -> (topology::Edges, usize) {
    let share = rig.params.max_connection_rate.ratio();
    let edges = topology::sparse(rig.mates.len(), share, rig.params.seed);
    let mine = rig.mates.iter().position(|mate| mate.index == rig.me.index).unwrap_or(0);
    (edges, mine)
}

/// Closes all connections but the sparse ones: in a small network queries of
/// the DHT connect everybody with everybody.
async fn trim(rig: &Rig) -> Result {
    let (edges, mine) = edges(rig);
    for (other, mate) in rig.mates.iter().enumerate() {
        let near = edges.contains(&(mine, other)) || edges.contains(&(other, mine));
        let roles = [rig.me.role, mate.role];
        let apart = roles.contains(&Role::Seed) && roles.contains(&Role::Leech);
        if !near || apart {
            rig.node.disconnect(mate.peer).await?;
        }
    }
    Ok(())
}

async fn round(rig: &Rig, setting: &Setting, own: &Own) -> Result {
    let name = setting.name();
    let made = if rig.is(Role::Seed) { rig.make(setting, &[0])? } else { Vec::new() };
    let offers = rig.offer(&name, &made).await?;
    let tags = Tags::of(setting);
    rig.cx
        .phase(&format!("provide-{name}"), async {
            for (_, added) in &made {
                let report = rig.node.provide(added.root.multihash()).await?;
                tags.time(&rig.cx, "time_to_provide", report.took);
            }
            Ok(())
        })
        .await?;
    rig.cx.phase(&format!("trim-{name}"), trim(rig)).await?;
    let before = Snapshot::take(rig).await?;
    rig.cx
        .phase(&format!("transfer-{name}"), async {
            if rig.is(Role::Leech) {
                fetch(rig, rig.only(&offers, 0)?, own, &before, &tags).await?;
            }
            Ok(())
        })
        .await?;
    rig.end_round(&name, &before, &tags).await?;
    Ok(())
}

async fn fetch(rig: &Rig, offer: &Offer, own: &Own, before: &Snapshot, tags: &Tags) -> Result {
    let begun = Instant::now();
    let found = discover(rig, offer.cid()?, own).await?;
    tags.time(&rig.cx, "time_to_discover", begun.elapsed());
    let by_dht = f64::from(u8::from(found == Found::Dht));
    tags.point(&rig.cx, "found_by_dht", "ratio", by_dht);
    let mut got = rig.get(offer, rig.params.fetch()).await?;
    got.report.took = begun.elapsed();
    before.record_fetch(rig, &got.report, offer.size, tags).await
}

/// Gets the root from a neighbour, or else connects to who provides it.
async fn discover(rig: &Rig, root: Cid, own: &Own) -> Result<Found> {
    let ask = Fetch { timeout: own.discover_after, ..rig.params.fetch() };
    if rig.bitswap.fetch(vec![root], ask).await?.missing.is_empty() {
        return Ok(Found::Neighbours);
    }
    let limit = Instant::now() + rig.params.run_timeout;
    loop {
        let providers = rig.node.providers(root.multihash(), 1).await?;
        for (peer, _) in providers.found {
            if rig.node.dial_peer(peer, known_address(rig, &peer)).await.is_ok() {
                return Ok(Found::Dht);
            }
        }
        if Instant::now() > limit {
            return Err(format!("the DHT knows no provider of {root}").into());
        }
    }
}

/// Provider records come without addresses; who is who is known from the seed.
fn known_address(rig: &Rig, peer: &PeerId) -> Vec<Multiaddr> {
    rig.mate(peer).map(|mate| mate.address.clone()).into_iter().collect()
}
