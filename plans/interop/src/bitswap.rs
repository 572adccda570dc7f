//! Our Bitswap on rust-libp2p: serves the blocks of the run, and fetches them.

use std::time::Duration;

use groundswell_bitswap::{Bitswap, Block, Cid, Config, Fetch, RAW, Store};
use groundswell_interop::Blocks;
use groundswell_p2p::{Multiaddr, Node, Version};
use groundswell_sdk::prelude::*;
use tokio::time::{Instant, sleep};

use crate::dial::Measures;

/// How long blocks that nobody waits for any more have to come in before they are counted.
const LATE: Duration = Duration::from_millis(500);

/// How our Bitswap on a version of rust-libp2p is called.
pub(crate) fn implementation(version: Version) -> String {
    let version = version.name().replace('_', ".");
    format!("groundswell-bitswap-on-{version}")
}

/// Serves all blocks of the run.
pub(crate) async fn serve(node: &Node, blocks: Blocks) -> Result<Bitswap> {
    let store = Store::default();
    for data in blocks.iter() {
        store.put(Cid::of(RAW, &data), Block::Memory(data.into()));
    }
    Ok(Bitswap::start(node.clone(), store, Config::default()).await?)
}

/// Fetches all blocks of the run from whoever is at these addresses.
pub(crate) async fn fetched(
    node: &Node,
    addresses: Vec<Multiaddr>,
    blocks: Blocks,
    limit: Duration,
    measures: &mut Measures,
) -> Result {
    let store = Store::default();
    let bitswap = Bitswap::start(node.clone(), store.clone(), Config::default()).await?;
    for address in addresses {
        node.dial(address).await?;
    }
    let wanted: Vec<(Cid, Vec<u8>)> =
        blocks.iter().map(|data| (Cid::of(RAW, &data), data)).collect();
    let before = node.stats().await?.bytes_in;
    let begun = Instant::now();
    let cids = wanted.iter().map(|(cid, _)| *cid).collect();
    let report = bitswap.fetch(cids, Fetch { timeout: limit, ..Fetch::default() }).await?;
    let took = begun.elapsed();
    let missing = report.missing.len();
    ensure!(missing == 0, "{missing} of {} blocks did not come", wanted.len());
    for (cid, data) in &wanted {
        let came = store.get(cid).and_then(|block| block.read().ok());
        ensure!(came.is_some_and(|came| came == *data), "{cid} came as something else");
    }
    sleep(LATE).await;
    let received = node.stats().await?.bytes_in - before;
    measures.insert("fetch_s".to_owned(), took.as_secs_f64());
    measures.insert("received_per_wanted".to_owned(), ratio(received, blocks.bytes()));
    bitswap.stop().await;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a test, far below 2^53")]
fn ratio(received: u64, wanted: u64) -> f64 {
    received as f64 / wanted.max(1) as f64
}
