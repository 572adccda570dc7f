//! The calibration card of this worker: measured by `worker bench`, kept in a file, shown as a table.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use groundswell_common::card::{CARD_FILE, Card};
use tracing::warn;

use crate::config::{WorkerFile, state_dir};
use crate::keep::disk::size;
use crate::measure;
use crate::reap::StateDir;

/// Flags of `worker bench`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct BenchFlags {
    /// Configuration file.
    #[arg(long, env = "GROUNDSWELL_WORKER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The worker's directory. What is measured is its disk, and the card is kept there.
    #[arg(long, env = "GROUNDSWELL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Print the card as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measures this host and keeps the card.
///
/// # Errors
/// When a worker runs in the state directory, or its disk cannot be written.
pub async fn bench(flags: &BenchFlags) -> anyhow::Result<Card> {
    let file = flags.config.as_deref().map(WorkerFile::read).transpose()?.unwrap_or_default();
    let path = state_dir(flags.state_dir.clone(), file.state_dir);
    // A worker that runs instances would be disturbed, and would disturb.
    let state = StateDir::take(&path)?;
    let card = measure::measure(&path).await?;
    write(&path, &card)?;
    drop(state);
    Ok(card)
}

/// The card as a table for people.
#[must_use]
pub fn shown(card: &Card) -> String {
    let (host, figures) = (&card.host, &card.figures);
    let mut rows = vec![
        ("cpu".to_owned(), format!("{}, {} cores", host.cpu_model, host.cores)),
        ("kernel".to_owned(), format!("{}, cgroup v{}", host.kernel, host.cgroup_version)),
        (
            "memory".to_owned(),
            format!("{}, {} free", size(host.memory_bytes), size(figures.free_memory_bytes)),
        ),
    ];
    let starts = figures.starts_per_second.iter();
    rows.extend(
        starts.map(|(runtime, rate)| (format!("starts, {runtime}"), format!("{rate:.0}/s"))),
    );
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| (name.to_owned(), value)));
    };
    let packets = figures.packets_per_core_second;
    row("switch, per core", packets.map(|rate| format!("{:.0} thousand packets/s", rate / 1e3)));
    row("one TCP flow", figures.flow_bps.map(|bps| format!("{:.2} Gbit/s", bps / 1e9)));
    let late = figures.wakeup_p50_us.zip(figures.wakeup_p99_us);
    row("wakes up late by", late.map(|(p50, p99)| format!("{p50:.0} µs, {p99:.0} µs at p99")));
    let disk = figures.disk_write_bytes_per_second;
    row("disk, writing", disk.map(|rate| format!("{:.0} MB/s", rate / 1e6)));
    let syncs = figures.fsync_p50_us.zip(figures.fsync_p99_us);
    row("disk, fsync of 4 KiB", syncs.map(|(p50, p99)| format!("{p50:.0} µs, {p99:.0} µs at p99")));
    let missing = card.missing.iter().map(|why| ("not measured".to_owned(), why.clone()));
    rows.extend(missing);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:22} {value}");
        text
    })
}

/// The card in a worker's directory, if `worker bench` was run there.
pub(crate) fn read(state_dir: &Path) -> Option<Card> {
    let path = state_dir.join(CARD_FILE);
    let text = fs::read(&path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(card) => Some(card),
        Err(err) => {
            warn!(path = %path.display(), error = %err, "the card is unreadable");
            None
        }
    }
}

/// Writes the card whole or not at all.
pub(crate) fn write(state_dir: &Path, card: &Card) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(card).map_err(io::Error::other)?;
    let part = state_dir.join(format!("{CARD_FILE}.part"));
    fs::write(&part, text)?;
    fs::rename(part, state_dir.join(CARD_FILE))
}
