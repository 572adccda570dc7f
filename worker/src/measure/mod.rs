//! Measures what this host can do as a worker: `worker bench`. What the benchmarks need as well is here too.
//!
//! What cannot be measured here is left out and says why; nothing that is made outlives the measurement.

pub mod starts;
pub mod traffic;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use groundswell_common::card::{CARD_VERSION, Card, Figures, HostFacts};
use groundswell_common::ids::WorkerId;
use groundswell_common::link::LinkShape;
use groundswell_common::messages::RuntimeKind;
use tokio::time::{Instant, timeout};

use crate::agent::memory_bytes;
use crate::network::switch::Switch;
use crate::runtime::Runtime;
use crate::runtime::docker::{DockerConfig, DockerRuntime};
use crate::runtime::netns::{NetnsConfig, NetnsRuntime};
use traffic::{Pair, flow, switch_cpu, traffic};

/// Instances of `netns` and of `docker` that are made.
const NETNS_INSTANCES: u32 = 300;
const DOCKER_INSTANCES: u32 = 16;
/// How long the instances of one runtime may take. All measurements together stay below half a minute.
const STARTS_LIMIT: Duration = Duration::from_secs(9);
/// How long packets and a flow are sent.
const TRAFFIC_TIME: Duration = Duration::from_secs(1);
const FLOW_TIME: Duration = Duration::from_secs(2);
/// How long a thread sleeps each time, and how often.
const NAP: Duration = Duration::from_millis(1);
const NAPS: u32 = 1_500;
/// What is written to the disk, and for how long at most.
const DISK_BYTES: u64 = 256 << 20;
const DISK_CHUNK: usize = 1 << 20;
const DISK_TIME: Duration = Duration::from_secs(3);
/// How many small writes are forced to the disk, and for how long at most.
const SYNCS: usize = 200;
const SYNC_TIME: Duration = Duration::from_secs(2);

/// Measures everything. The caller holds the state directory.
pub(crate) async fn measure(state_dir: &Path) -> anyhow::Result<Card> {
    let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(state_dir)?;
    let mut figures = Figures { free_memory_bytes: free_memory(), ..Figures::default() };
    let mut missing = Vec::new();
    for kind in [RuntimeKind::Netns, RuntimeKind::Docker] {
        let name = kind.as_str();
        match starts_of(kind, scratch.path()).await {
            Ok(rate) => {
                figures.starts_per_second.insert(name.to_owned(), rate);
            }
            Err(err) => missing.push(format!("starts with `{name}`: {err:#}")),
        }
    }
    figures.packets_per_core_second = or_why(packets().await, "packets", &mut missing);
    figures.flow_bps = or_why(one_flow().await, "a TCP flow", &mut missing);
    let naps = tokio::task::spawn_blocking(naps).await?;
    (figures.wakeup_p50_us, figures.wakeup_p99_us) = (quantile(&naps, 0.5), quantile(&naps, 0.99));
    let directory = scratch.path().to_owned();
    let (rate, syncs) = tokio::task::spawn_blocking(move || disk(&directory)).await??;
    figures.disk_write_bytes_per_second = Some(rate);
    (figures.fsync_p50_us, figures.fsync_p99_us) = (quantile(&syncs, 0.5), quantile(&syncs, 0.99));
    Ok(Card {
        v: CARD_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        measured_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0),
        host: facts(),
        figures,
        missing,
    })
}

fn or_why(found: anyhow::Result<f64>, what: &str, missing: &mut Vec<String>) -> Option<f64> {
    found.map_err(|err| missing.push(format!("{what}: {err:#}"))).ok()
}

/// Instances a second that a runtime makes ready and lets go.
async fn starts_of(kind: RuntimeKind, scratch: &Path) -> anyhow::Result<f64> {
    let worker = WorkerId::from_lossy(&format!("bench-{}", std::process::id()));
    let state_dir = scratch.join(kind.as_str());
    fs::create_dir_all(&state_dir)?;
    let (runtime, count): (Arc<dyn Runtime>, u32) = match kind {
        RuntimeKind::Netns => {
            let spawner = PathBuf::from("/proc/self/exe");
            let config = NetnsConfig { worker: worker.clone(), state_dir, spawner };
            (Arc::new(NetnsRuntime::new(config).await?), NETNS_INSTANCES)
        }
        RuntimeKind::Docker => {
            let config = DockerConfig { worker: worker.clone(), state_dir, socket: None };
            (Arc::new(DockerRuntime::connect(config).await?), DOCKER_INSTANCES)
        }
    };
    let blob = scratch.join("blob");
    let image = starts::waiting_image(&blob)?;
    let spools = scratch.join(format!("{}-spools", kind.as_str()));
    let starting = starts::starts(&*runtime, &worker, (&image, &blob), &spools, count);
    let took = timeout(STARTS_LIMIT, starting).await;
    // Also when something went wrong in between.
    let left = runtime.reap(&worker).await;
    let took = took.with_context(|| format!("not in {STARTS_LIMIT:?}"))??;
    anyhow::ensure!(left.is_empty(), "something was left: {}", left[0]);
    Ok(f64::from(count) / (took.ready + took.started).as_secs_f64())
}

/// Packets that the switch forwards in a second of a processor. Spinning would count as work.
async fn packets() -> anyhow::Result<f64> {
    let switch = Switch::spinning(1, Duration::ZERO)?;
    let pair = Pair::on(switch, LinkShape::default()).await?;
    let before = switch_cpu()?;
    tokio::task::block_in_place(|| traffic(pair.ends(), 36, None, TRAFFIC_TIME, Duration::ZERO))?;
    let used = switch_cpu()?.saturating_sub(before);
    let handled: u64 = pair.report().await?.lanes.iter().map(|lane| lane.packets).sum();
    #[expect(clippy::cast_precision_loss, reason = "a figure of three digits")]
    let handled = handled as f64;
    Ok(handled / used.as_secs_f64().max(1e-9))
}

async fn one_flow() -> anyhow::Result<f64> {
    let pair = Pair::new(LinkShape::default()).await?;
    tokio::task::block_in_place(|| flow(pair.ends(), FLOW_TIME))
}

/// How much later than asked a sleeping thread wakes up, in microseconds.
fn naps() -> Vec<f64> {
    let mut late = Vec::new();
    for _ in 0..NAPS {
        let began = Instant::now();
        std::thread::park_timeout(NAP);
        late.push(began.elapsed().saturating_sub(NAP).as_secs_f64() * 1e6);
    }
    late
}

/// Bytes a second that reach the disk, and the microseconds of single small writes that do.
fn disk(directory: &Path) -> anyhow::Result<(f64, Vec<f64>)> {
    let mut file = File::create(directory.join("written")).context("failed to write")?;
    let chunk = vec![0x5a; DISK_CHUNK];
    let (began, mut bytes) = (Instant::now(), 0_u64);
    while bytes < DISK_BYTES && began.elapsed() < DISK_TIME {
        file.write_all(&chunk)?;
        bytes += DISK_CHUNK as u64;
    }
    file.sync_data()?;
    #[expect(clippy::cast_precision_loss, reason = "a figure of three digits")]
    let rate = bytes as f64 / began.elapsed().as_secs_f64();
    let mut small = File::create(directory.join("small"))?;
    let (began, mut syncs) = (Instant::now(), Vec::new());
    while syncs.len() < SYNCS && began.elapsed() < SYNC_TIME {
        let one = Instant::now();
        small.write_all(&chunk[..4096])?;
        small.sync_data()?;
        syncs.push(one.elapsed().as_secs_f64() * 1e6);
    }
    Ok((rate, syncs))
}

/// The value that so many of the values are not above.
fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there are few values"
    )]
    let index = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied()
}

fn free_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn facts() -> HostFacts {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    HostFacts {
        cpu_model: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        cgroup_version: if unified { 2 } else { 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
    }

    #[test]
    fn the_host_says_what_it_is() {
        let facts = facts();
        assert!(facts.cores > 0 && facts.memory_bytes > 0 && !facts.kernel.is_empty(), "{facts:?}");
    }
}
