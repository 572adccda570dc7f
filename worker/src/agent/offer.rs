//! What a worker offers when it registers.

use groundswell_common::messages::{Registration, RuntimeKind};
use rand::Rng as _;

use crate::card;
use crate::config::WorkerConfig;
use crate::parts::Parts;
use crate::runtime::ShareKey;

/// How much memory one instance is taken to need when nobody says how many fit.
const BYTES_PER_SLOT: u64 = 8 << 20;
/// A worker that is not told otherwise takes no more than this.
const MOST_SLOTS: u64 = 10_000;

/// What this worker offers.
pub(crate) fn registration(
    config: &WorkerConfig,
    parts: &Parts,
    kept: Vec<ShareKey>,
) -> Registration {
    let memory_bytes = memory_bytes();
    let runtimes: Vec<RuntimeKind> = parts.runtimes.iter().map(|one| one.kind()).collect();
    let mut notes = parts.notes.clone();
    notes.extend(parts.runtimes.iter().flat_map(|one| one.missing()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Registration {
        worker: config.id.clone(),
        boot: rand::rng().next_u64(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: config.slots.unwrap_or_else(|| slots(memory_bytes)),
        cpu_cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes,
        runtimes,
        notes,
        labels: config.labels.clone(),
        slots_per_run: config.slots_per_run,
        overlay: parts.network.overlay_address(),
        card: card::read(&config.state_dir),
        kept,
    }
}

/// How many instances fit into so much memory, when nobody says.
pub(crate) fn slots(memory_bytes: u64) -> u32 {
    let fit = (memory_bytes / BYTES_PER_SLOT).clamp(1, MOST_SLOTS);
    u32::try_from(fit).unwrap_or(1)
}

/// The memory this process may use: the machine's, or less when its control group says so.
#[must_use]
pub fn memory_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    });
    let machine = machine.map_or(1 << 30, |kib| kib * 1024);
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .min();
    group.map_or(machine, |group| group.min(machine))
}
