//! Blocks between real nodes on loopback.
#![expect(clippy::unwrap_used, reason = "also what helps the tests may panic")]

use std::time::Duration;

use groundswell_bitswap::{Added, Bitswap, Cid, Config, Fetch, File, Policy, RAW, Store};
use groundswell_p2p::{Identity, Node, NodeConfig};

const BLOCK: usize = 16 << 10;

struct Peer {
    node: Node,
    bitswap: Bitswap,
}

async fn peer(index: u64, config: Config) -> Peer {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let identity = Identity::derive(42, index, 0);
    let node = Node::start(NodeConfig { listen, ..NodeConfig::new(identity) }).await.unwrap();
    let config = Config { seed: index, ..config };
    let bitswap = Bitswap::start(node.clone(), Store::default(), config).await.unwrap();
    Peer { node, bitswap }
}

async fn peers(count: u64) -> Vec<Peer> {
    let mut peers = Vec::new();
    for index in 0..count {
        peers.push(peer(index, Config::default()).await);
    }
    peers
}

fn add(peer: &Peer, size: u64) -> Added {
    File::generate(7, size, BLOCK).add_to(peer.bitswap.store())
}

async fn connect(from: &Peer, to: &Peer) {
    from.node.dial(to.node.address().await.unwrap()).await.unwrap();
}

async fn stop(peers: Vec<Peer>) {
    for peer in peers {
        peer.bitswap.stop().await;
        peer.node.stop().await;
    }
}

fn how() -> Fetch {
    Fetch { timeout: Duration::from_secs(20), ..Fetch::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_seed_and_one_leech_exchange_each_block_once() {
    let peers = peers(2).await;
    let added = add(&peers[0], 1 << 20);
    connect(&peers[1], &peers[0]).await;
    let fetched = peers[1].bitswap.fetch_file(added.root, how()).await.unwrap();
    assert_eq!(fetched.node, added.node);
    assert_eq!(fetched.report.blocks, 65);
    assert_eq!(File::check(&fetched.node, peers[1].bitswap.store()), Ok(added.sha256));

    let (seed, leech) = (&peers[0].bitswap, &peers[1].bitswap);
    let (seed, leech) = (seed.stats().await.unwrap(), leech.stats().await.unwrap());
    assert_eq!((seed.blks_sent, leech.blks_rcvd, leech.dup_blks_rcvd), (65, 65, 0));
    assert_eq!(leech.data_rcvd, seed.data_sent);
    assert_eq!(seed.want_blocks_rcvd, 65);
    assert!(leech.stream_data_rcvd < leech.data_rcvd * 102 / 100, "{leech:?}");
    stop(peers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leeches_pass_on_what_they_have() {
    let peers = peers(4).await;
    let added = add(&peers[0], 1 << 20);
    // A chain: only the first leech is connected to the seed.
    for index in 1..4 {
        connect(&peers[index], &peers[index - 1]).await;
    }
    let fetch = |index: usize| peers[index].bitswap.fetch_file(added.root, how());
    let (first, second, third) = tokio::join!(fetch(1), fetch(2), fetch(3));
    for fetched in [first, second, third] {
        assert_eq!(fetched.unwrap().node, added.node);
    }
    assert_eq!(peers[0].bitswap.stats().await.unwrap().blks_sent, 65);
    stop(peers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_seeds_share_the_work_without_doubles() {
    let peers = peers(4).await;
    let mut root = None;
    for seed in &peers[..3] {
        root = Some(add(seed, 2 << 20).root);
        connect(&peers[3], seed).await;
    }
    let fetched = peers[3].bitswap.fetch_file(root.unwrap(), how()).await.unwrap();
    let sums: Vec<_> = fetched.report.from.values().collect();
    assert_eq!(sums.len(), 3, "{sums:?}");
    assert_eq!(peers[3].bitswap.stats().await.unwrap().dup_blks_rcvd, 0);
    stop(peers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_gets_blocks_more_than_once() {
    let peers = peers(4).await;
    let mut root = None;
    for seed in &peers[..3] {
        root = Some(add(seed, 2 << 20).root);
        connect(&peers[3], seed).await;
    }
    let broadcast = Fetch { policy: Policy::Broadcast, ..how() };
    peers[3].bitswap.fetch_file(root.unwrap(), broadcast).await.unwrap();
    assert!(peers[3].bitswap.stats().await.unwrap().dup_blks_rcvd > 0);
    stop(peers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_understand_each_other() {
    let legacy = Config { legacy: true, ..Config::default() };
    for (seed_is_old, leech_is_old) in [(true, false), (false, true), (true, true)] {
        let config = |old: bool| if old { legacy.clone() } else { Config::default() };
        let seed = peer(0, config(seed_is_old)).await;
        let leech = peer(1, config(leech_is_old)).await;
        let added = add(&seed, 1 << 20);
        connect(&leech, &seed).await;
        let fetched = leech.bitswap.fetch_file(added.root, how()).await.unwrap();
        assert_eq!(fetched.node, added.node);
        let stats = leech.bitswap.stats().await.unwrap();
        assert_eq!((stats.haves_rcvd, stats.dup_blks_rcvd), (0, 0));
        stop(vec![seed, leech]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_survives_a_lost_connection_and_finds_who_comes_later() {
    let peers = peers(2).await;
    let added = add(&peers[0], 4 << 20);
    let fetch = peers[1].bitswap.fetch_file(added.root, how());
    let breaks = async {
        for _ in 0..3 {
            connect(&peers[1], &peers[0]).await;
            let mut before = peers[1].bitswap.store().len();
            let limit = tokio::time::Instant::now() + Duration::from_secs(5);
            while peers[1].bitswap.store().len() < before + 10
                && tokio::time::Instant::now() < limit
            {
                before = before.min(peers[1].bitswap.store().len());
                tokio::task::yield_now().await;
            }
            peers[1].node.disconnect(peers[0].node.peer()).await.unwrap();
        }
        connect(&peers[1], &peers[0]).await;
    };
    let (fetched, ()) = tokio::join!(fetch, breaks);
    assert_eq!(File::check(&fetched.unwrap().node, peers[1].bitswap.store()), Ok(added.sha256));
    stop(peers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_told_at_the_end_of_the_time() {
    let peers = peers(2).await;
    connect(&peers[1], &peers[0]).await;
    let nowhere = Cid::of(RAW, b"nowhere");
    let short = Fetch { timeout: Duration::from_millis(300), ..how() };
    let report = peers[1].bitswap.fetch(vec![nowhere], short).await.unwrap();
    assert_eq!(report.missing, [nowhere]);
    let err = peers[1].bitswap.fetch_file(nowhere, short).await.unwrap_err().to_string();
    assert!(err.starts_with("1 of 1 blocks did not come within 0."), "{err}");

    // Whoever asked is told when it comes.
    let waiting = peers[1].bitswap.fetch(vec![nowhere], how());
    let comes = async {
        let data = groundswell_bitswap::Block::Memory(b"nowhere".to_vec().into());
        peers[0].bitswap.store().put(nowhere, data);
        peers[0].bitswap.added(vec![nowhere]).await.unwrap();
    };
    let (report, ()) = tokio::join!(waiting, comes);
    assert_eq!((report.unwrap().blocks, peers[1].bitswap.store().has(&nowhere)), (1, true));
    stop(peers).await;
}
