//! A whole cluster: how soon a thousand instances start, what a thousand workers cost the coordinator, how soon
//! another coordinator leads, and what three servers of NATS cost beside one.
//!
//! Run as root, with a nats-server on the path and the worker's program built for the same profile:
//!
//! ```text
//! cargo build --release -p groundswell-worker
//! cargo bench -p groundswell-coordinator --bench cluster [-- starts | crowd | leaders | replicas]...
//! ```
//!
//! Servers, coordinators and workers are processes of their own, all on this machine and on its loopback.

#![expect(clippy::print_stdout, reason = "its tables are what a benchmark is for")]

#[path = "cluster/crowd.rs"]
mod crowd;
#[path = "cluster/leaders.rs"]
mod leaders;
#[path = "../../worker/benches/sync/load.rs"]
mod load;
#[path = "cluster/process.rs"]
mod process;
#[path = "cluster/replicas.rs"]
mod replicas;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/simulated.rs"]
mod simulated;
#[path = "cluster/starts.rs"]
mod starts;
#[path = "../../worker/benches/sync/swarm.rs"]
mod swarm;
#[path = "../../worker/benches/sync/wire.rs"]
mod wire;

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const PARTS: [&str; 4] = ["starts", "crowd", "leaders", "replicas"];

#[tokio::main]
async fn main() -> Result<()> {
    // A thousand workers are a thousand connections, and so is a server's side of them.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["gateway", url] => replicas::gateway(url).await,
        ["load", address, task, count, rounds] => {
            replicas::run_load(address.parse()?, task, count.parse()?, rounds.parse()?)
        }
        parts => measure(parts).await,
    }
}

/// Measures these parts, or all when none is named.
async fn measure(parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(PARTS.contains(part), "there is no part `{part}`; there are {}", PARTS.join(", "));
    }
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    if wanted("starts") {
        starts::measure().await?;
    }
    if wanted("crowd") {
        crowd::measure().await?;
    }
    if wanted("leaders") {
        leaders::measure().await?;
    }
    if wanted("replicas") {
        replicas::measure().await?;
    }
    Ok(())
}

/// The middle one of some times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
