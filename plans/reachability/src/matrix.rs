//! Everybody tries to reach everybody: first directly, then for a task by whatever way there is.

use std::time::Duration;

use groundswell_p2p::{Multiaddr, Node, NodeError, PeerId, echo};
use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use crate::class::Class;
use crate::host::{Card, Host, is_direct};

/// What a ping sends there and back.
const PING_BYTES: u64 = 64;
const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Deserialize)]
struct Params {
    dial_timeout: Duration,
    task: Task,
    task_timeout: Duration,
    stagger: Duration,
    targets: usize,
}

/// What is done with a peer once it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Task {
    /// A few bytes there and back.
    Ping,
    /// A search for who has something, then a ping.
    FindProvider,
    /// A MiB there and back.
    #[serde(rename = "fetch-1MiB")]
    Fetch,
}

impl Task {
    fn bytes(self) -> u64 {
        match self {
            Self::Ping | Self::FindProvider => PING_BYTES,
            Self::Fetch => MIB,
        }
    }
}

/// Some listen, and nothing comes in.
pub(crate) async fn undialable(cx: Ctx) -> Result {
    meet(cx, &[Class::Undialable]).await
}

/// Some reach relays and nobody else.
pub(crate) async fn relay_only(cx: Ctx) -> Result {
    meet(cx, &[Class::RelayOnly]).await
}

/// Some let in their friends alone.
pub(crate) async fn selective(cx: Ctx) -> Result {
    meet(cx, &[Class::Selective, Class::Friend, Class::Stranger]).await
}

/// Some have IPv4 only, some IPv6 only.
pub(crate) async fn ipv_mismatch(cx: Ctx) -> Result {
    meet(cx, &[Class::Ipv4, Class::Ipv6]).await
}

/// Some speak TCP only, some QUIC only.
pub(crate) async fn transport_mismatch(cx: Ctx) -> Result {
    meet(cx, &[Class::Tcp, Class::Quic]).await
}

async fn meet(cx: Ctx, about: &[Class]) -> Result {
    let params: Params = cx.params()?;
    // There and back, for all tasks over one circuit, and what the protocols add.
    let host = Host::join(&cx, 16 * MIB).await?;
    for class in about {
        host.needs(*class)?;
    }
    cx.phase("provide", async {
        if params.task == Task::FindProvider && host.class != Class::Relay {
            host.node.provide(key_of(host.node.peer())).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase("leave", host.leave_peers()).await?;
    cx.phase("filter", host.filter()).await?;
    cx.phase("dial", dial_all(&host, &params)).await?;
    cx.phase("task", work(&host, &params)).await?;
    host.leave().await
}

/// The instances that this one tries: all others, or so many of them drawn from the seed.
fn targets(host: &Host, params: &Params) -> Vec<Card> {
    let mut all: Vec<Card> = host.others().map(|member| member.value.clone()).collect();
    host.cx.rng("targets").shuffle(&mut all);
    if params.targets > 0 {
        all.truncate(params.targets);
    }
    all
}

/// Dials others without a relay, from a node of which they know nothing.
async fn dial_all(host: &Host, params: &Params) -> Result {
    if host.class == Class::Relay {
        return Ok(());
    }
    host.cx.stagger(params.stagger).await;
    let prober = host.prober().await?;
    for other in targets(host, params) {
        let begun = Instant::now();
        let direct = dial(host, &prober, params, &other).await?;
        let ratio = |name: &str, holds: bool| {
            let point = host.cx.point(name, holds).unit("ratio");
            point.tag("from", host.class).tag("to", other.class).record();
        };
        if direct {
            host.cx.timer("dial_latency_s").observe(begun.elapsed());
        }
        ratio("dial_success_ratio", direct);
        let expected = host.class.dials(other.class);
        ratio("as_expected", direct == expected);
        if direct != expected {
            let got = if direct { "reached" } else { "not reached" };
            host.cx.message(format!("{} is {got} from {}", other.class, host.class));
        }
    }
    prober.stop().await;
    Ok(())
}

/// Whether a node of this instance reaches a peer at one of the addresses that this instance can use.
async fn dial(host: &Host, node: &Node, params: &Params, other: &Card) -> Result<bool> {
    let addresses = host.addresses_of(other);
    if addresses.is_empty() {
        return Ok(false);
    }
    match timeout(params.dial_timeout, node.dial_peer(other.peer, addresses)).await {
        Ok(Err(NodeError::Stopped)) => Err(NodeError::Stopped.into()),
        Ok(Ok(_)) => is_direct(node, other.peer).await,
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}

/// Does the task with others, by whatever way there is: directly, and if that fails through their relay.
async fn work(host: &Host, params: &Params) -> Result {
    if host.class == Class::Relay {
        return Ok(());
    }
    host.cx.stagger(params.stagger).await;
    for other in targets(host, params) {
        let begun = Instant::now();
        let mut wasted = 0_u32;
        let done = task(host, params, &other, &mut wasted).await?;
        let ratio = host.cx.point("task_success_ratio", done).unit("ratio");
        ratio.tag("from", host.class).tag("to", other.class).record();
        host.cx.point("wasted_dials", wasted).unit("count").record();
        if done {
            host.cx.timer("task_s").observe(begun.elapsed());
        }
    }
    // Whoever is at the other end of a dial that comes late can still be reached.
    sleep(Duration::from_millis(100)).await;
    Ok(())
}

async fn task(host: &Host, params: &Params, other: &Card, wasted: &mut u32) -> Result<bool> {
    if params.task == Task::FindProvider {
        let found = host.node.providers(key_of(other.peer), 1).await?;
        if !found.found.iter().any(|(peer, _)| *peer == other.peer) {
            return Ok(false);
        }
    }
    let connected = host.node.connections().await?.iter().any(|one| one.peer == other.peer);
    if !connected && !dial(host, &host.node, params, other).await? {
        *wasted += u32::from(!host.addresses_of(other).is_empty());
        let Some(circuit) = host.circuit_to(other) else { return Ok(false) };
        if let Err(error) = dial_circuit(host, &circuit, params.task_timeout).await {
            host.cx.message(format!("dialling {circuit}: {error}"));
            *wasted += 1;
            return Ok(false);
        }
    }
    let bytes = params.task.bytes();
    Ok(echo::through(&host.node, other.peer, bytes, params.task_timeout).await == bytes)
}

async fn dial_circuit(host: &Host, circuit: &Multiaddr, limit: Duration) -> Result {
    timeout(limit, host.node.dial(circuit.clone())).await??;
    Ok(())
}

/// What an instance provides: something that is named after it.
fn key_of(peer: PeerId) -> Vec<u8> {
    let mut key = b"reachability/".to_vec();
    key.extend(peer.to_bytes());
    key
}
