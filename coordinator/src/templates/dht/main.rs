//! A distributed hash table in the manner of Kademlia: instances find out who is nearest to a key, by asking others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

#[derive(Deserialize)]
struct P {
    bucket_size: usize,
    lookups: u32,
    answer_within: Duration,
    found: Percent,
}

/// A node: its place in the key space, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Node {
    id: u64,
    address: SocketAddr,
}

#[derive(Serialize, Deserialize)]
enum Message {
    /// Who is near this key?
    Find(u64),
    /// These are the nearest I know.
    Near(u64, Vec<Node>),
}

fn main() -> ExitCode {
    let manifest = include_str!("../manifest.toml");
    groundswell_sdk::run(Cases::new().manifest(manifest).case("find", find))
}

async fn find(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    let ip = cx.network().ip()?;
    let (serving, asking) = (UdpSocket::bind((ip, 0)).await?, UdpSocket::bind((ip, 0)).await?);
    let me = Node { id: cx.rng("id").next_u64(), address: serving.local_addr()? };
    let members = cx.exchange("nodes", &me).await?;
    let all: Vec<Node> = members.into_iter().map(|member| member.value).collect();
    let table = table(&cx, me, &all, p.bucket_size);
    cx.event(&Event::Node { node: &me.id.to_string(), address: &me.address.to_string() });

    // This instance answers until everybody has found what it looked for.
    tokio::select! {
        ended = serve(&serving, &table) => ended,
        done = cx.phase("find", look(&cx, &p, &asking, &table, &all)) => done,
    }
}

/// Whom a node knows: of each distance, by its highest bit, at most `size` that are drawn.
fn table(cx: &Ctx, me: Node, all: &[Node], size: usize) -> Vec<Node> {
    let mut buckets: BTreeMap<u32, Vec<Node>> = BTreeMap::new();
    for node in all.iter().filter(|node| node.id != me.id) {
        buckets.entry((node.id ^ me.id).leading_zeros()).or_default().push(*node);
    }
    let mut rng = cx.rng("table");
    let mut table = vec![me];
    for mut bucket in buckets.into_values() {
        rng.shuffle(&mut bucket);
        table.extend(bucket.into_iter().take(size));
    }
    table
}

fn nearest(nodes: impl IntoIterator<Item = Node>, key: u64, count: usize) -> Vec<Node> {
    let mut near: Vec<Node> = nodes.into_iter().collect();
    near.sort_by_key(|node| node.id ^ key);
    near.truncate(count);
    near
}

const NEAR: usize = 4;

async fn serve(socket: &UdpSocket, table: &[Node]) -> Result {
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        if let Message::Find(key) = serde_json::from_slice(&buffer[..length])? {
            let near = Message::Near(key, nearest(table.iter().copied(), key, NEAR));
            socket.send_to(&serde_json::to_vec(&near)?, from).await?;
        }
    }
}

async fn look(cx: &Ctx, p: &P, socket: &UdpSocket, table: &[Node], all: &[Node]) -> Result {
    let (took, asked) = (cx.timer("lookup_s"), cx.histogram("asked").unit("count"));
    let mut rng = cx.rng("keys");
    let mut found = 0;
    for _ in 0..p.lookups {
        let key = rng.next_u64();
        let begun = Instant::now();
        let (node, count) = lookup(p, socket, table, key).await?;
        took.observe(begun.elapsed());
        asked.observe(count);
        // The plan knows everybody, so it knows the truth.
        found += u32::from(nearest(all.iter().copied(), key, 1) == [node]);
    }
    let ratio = f64::from(found) / f64::from(p.lookups.max(1));
    cx.point("found", ratio).unit("ratio").record();
    cx.check(ratio >= p.found.ratio(), format!("found {found} of {}", p.lookups));
    Ok(())
}

/// Asks the nearest known node that was not asked, until the nearest few have all been.
async fn lookup(p: &P, socket: &UdpSocket, table: &[Node], key: u64) -> Result<(Node, usize)> {
    let mut known: BTreeSet<Node> = table.iter().copied().collect();
    let mut asked = BTreeSet::from([table[0]]);
    let mut silent = BTreeSet::new();
    let mut buffer = [0; 2048];
    loop {
        let there = known.iter().copied().filter(|node| !silent.contains(node));
        let near = nearest(there, key, NEAR);
        let Some(next) = near.iter().find(|node| !asked.contains(node)).copied() else {
            return Ok((near[0], asked.len() - 1));
        };
        asked.insert(next);
        socket.send_to(&serde_json::to_vec(&Message::Find(key))?, next.address).await?;
        let Ok(received) = timeout(p.answer_within, socket.recv_from(&mut buffer)).await else {
            silent.insert(next);
            continue;
        };
        let (length, _) = received?;
        match serde_json::from_slice(&buffer[..length])? {
            Message::Near(about, nodes) if about == key => known.extend(nodes),
            // An answer that is late.
            Message::Near(..) | Message::Find(_) => {}
        }
    }
}

#[tokio::test]
async fn it_runs_on_this_machine() {
    let run = groundswell_sdk::testing::Local::new(8).param("bucket_size", 2);
    let run = run.param("lookups", 10).param("answer_within", "5s").param("found", "100%");
    run.run(find).await.assert_success();
}
