//! beetswap as an instance of the plan `interop`: it serves the blocks of the run and fetches them from all others.
//!
//! What it tells the others, and when, is as in the plan's README; who judges is an instance of the plan itself.

mod counted;
mod node;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use blockstore::{Blockstore, InMemoryBlockstore};
use cid::Cid;
use groundswell_interop::{Blocks, Entry, Outcome};
use groundswell_sdk::prelude::*;
use libp2p::Multiaddr;
use multihash_codetable::{Code, MultihashDigest};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use crate::node::{Node, Store};

/// What it is; the patch version is none of the others' business.
const IMPLEMENTATION: &str = "beetswap-0.5";
/// The only stack of the Bitswap cases.
const STACK: &str = "tcp/noise/yamux";
/// The codec of bytes without structure.
const RAW: u64 = 0x55;
/// How long an attempt may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long blocks that nobody waits for any more have to come in before they are counted.
const LATE: Duration = Duration::from_millis(500);
/// Where the identities of dialling nodes begin: others than those of listeners.
const DIALERS: u64 = 1 << 32;

#[derive(Debug, Clone, Deserialize)]
struct P {
    seed: u64,
    #[serde(default)]
    implementation: String,
    blocks: u32,
    block_bytes: usize,
    #[serde(default)]
    nodes: u64,
}

fn main() -> ExitCode {
    let cases = Cases::new()
        .manifest(include_str!("../../manifest.toml"))
        .case("bitswap-fetch", |cx| async move { play(&cx, false).await })
        .case("bitswap-many", |cx| async move { play(&cx, true).await });
    groundswell_sdk::run(cases)
}

/// Takes part in a case from its begin to its end.
async fn play(cx: &Ctx, several: bool) -> Result {
    let p: P = cx.params()?;
    let wanted = &p.implementation;
    let fits = wanted.is_empty() || wanted == IMPLEMENTATION;
    ensure!(fits, "the group has to be {wanted} and is {IMPLEMENTATION}");
    let blocks = Blocks { seed: p.seed, count: p.blocks, size: p.block_bytes };
    let mut nodes = Vec::new();
    for number in 0..if several { p.nodes.max(1) } else { 1 } {
        let secret = (p.seed, cx.index(), number);
        nodes.push(Node::start(secret, Some(cx.network().ip()?), filled(blocks).await?).await?);
    }
    let book = cx.exchange("nodes", &entry(&nodes)).await?;
    cx.phase("prepare", async { Ok(()) }).await?;
    let outcomes = cx.phase("dial", async { Ok(dial_all(cx, &book, blocks).await) }).await?;
    cx.exchange("outcomes", &outcomes).await?;
    Ok(())
}

fn entry(nodes: &[Node]) -> Entry {
    let mut entry = Entry { implementation: IMPLEMENTATION.to_owned(), ..Entry::default() };
    for node in nodes {
        entry.peers.insert(STACK.to_owned(), node.peer().to_string());
        entry.addresses.entry(STACK.to_owned()).or_default().push(node.address().to_string());
    }
    entry
}

/// A store with all blocks in it.
async fn filled(blocks: Blocks) -> Result<Arc<Store>> {
    let store = InMemoryBlockstore::new();
    for data in blocks.iter() {
        store.put_keyed(&name(&data), &data).await?;
    }
    Ok(Arc::new(store))
}

fn name(data: &[u8]) -> Cid {
    Cid::new_v1(RAW, Code::Sha2_256.digest(data))
}

async fn dial_all(cx: &Ctx, book: &[Member<Entry>], blocks: Blocks) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (number, listener) in (0..).zip(book) {
        let secret = (blocks.seed, cx.index(), DIALERS + number);
        let mut measures = BTreeMap::new();
        let tried = timeout(LIMIT, fetch(secret, &listener.value, blocks, &mut measures)).await;
        let error = match tried {
            Ok(Ok(())) => None,
            Ok(Err(err)) => Some(err.to_string()),
            Err(_) => Some(format!("took more than {} s", LIMIT.as_secs())),
        };
        let (variant, listener) = (STACK.to_owned(), listener.index);
        outcomes.push(Outcome { variant, listener, error, measures });
    }
    outcomes
}

/// Fetches all blocks from all nodes of a listener, with a node of its own.
async fn fetch(
    secret: (u64, u32, u64),
    from: &Entry,
    blocks: Blocks,
    measures: &mut BTreeMap<String, f64>,
) -> Result {
    let node = Node::start(secret, None, Arc::new(InMemoryBlockstore::new())).await?;
    let addresses = from.addresses.get(STACK);
    for address in addresses.ok_or("it does not listen with this stack")? {
        node.dial(address.parse::<Multiaddr>()?).await?;
    }
    let before = node.received();
    let begun = Instant::now();
    futures::future::try_join_all(blocks.iter().map(|data| get(&node, data))).await?;
    measures.insert("fetch_s".to_owned(), begun.elapsed().as_secs_f64());
    sleep(LATE).await;
    let received = node.received() - before;
    measures.insert("received_per_wanted".to_owned(), ratio(received, blocks.bytes()));
    Ok(())
}

async fn get(node: &Node, data: Vec<u8>) -> Result {
    let cid = name(&data);
    ensure!(node.get(cid).await? == data, "{cid} came as something else");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a test, far below 2^53")]
fn ratio(received: u64, wanted: u64) -> f64 {
    received as f64 / wanted.max(1) as f64
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;

    #[test]
    fn it_is_the_version_that_it_says() {
        let lock: toml::Table = toml::from_str(include_str!("../Cargo.lock")).unwrap();
        let packages = lock["package"].as_array().unwrap();
        let own = packages.iter().find(|package| package["name"].as_str() == Some("beetswap"));
        let version = own.unwrap()["version"].as_str().unwrap();
        assert_eq!(format!("beetswap-{}", &version[..version.rfind('.').unwrap()]), IMPLEMENTATION);
    }

    #[tokio::test]
    async fn it_gets_along_with_itself() {
        for several in [false, true] {
            let local = Local::new(2).param("seed", 42).param("nodes", 3);
            let local = local.param("blocks", 8).param("block_bytes", 16384);
            let ended = local.run(move |cx| async move { play(&cx, several).await }).await;
            ended.assert_success();
        }
    }

    #[tokio::test]
    async fn what_nobody_has_does_not_come() {
        let blocks = Blocks { seed: 1, count: 1, size: 100 };
        let server =
            Node::start((1, 0, 0), Some([127, 0, 0, 1].into()), filled(blocks).await.unwrap());
        let server = server.await.unwrap();
        let node = Node::start((1, 1, 0), None, Arc::new(InMemoryBlockstore::new())).await.unwrap();
        node.dial(server.address().clone()).await.unwrap();
        let other = Blocks { seed: 2, ..blocks };
        let short = Duration::from_millis(300);
        assert!(timeout(short, node.get(name(&other.block(0)))).await.is_err());
        assert_eq!(node.get(name(&blocks.block(0))).await.unwrap(), blocks.block(0));
    }
}
