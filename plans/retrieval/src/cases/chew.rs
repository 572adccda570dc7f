//! What it takes to add a file and to read it back, in one node.

use groundswell_bitswap::{File, Store};
use groundswell_sdk::{Bytes, Ctx, Result, ensure};
use serde::Deserialize;
use tokio::time::Instant;

#[derive(Debug, Deserialize)]
struct Own {
    seed: u64,
    file_sizes: Vec<Bytes>,
    block_size: Bytes,
}

/// Adds files of each size and reads them back.
pub(crate) async fn run(cx: Ctx) -> Result {
    let own: Own = cx.params()?;
    ensure!(!own.file_sizes.is_empty(), "`file_sizes` is empty; take [\"1MiB\"]");
    for size in &own.file_sizes {
        let (own_seed, block) = (own.seed, usize::try_from(own.block_size.0)?);
        let (cx, size) = (&cx, *size);
        cx.phase(&format!("chew-{}", size.0), async { chew(cx, own_seed, size, block) }).await?;
    }
    Ok(())
}

fn chew(cx: &Ctx, seed: u64, size: Bytes, block: usize) -> Result {
    let before = resident();
    let store = Store::default();
    let begun = Instant::now();
    let added = File::generate(seed, size.0, block).add_to(&store);
    let took = begun.elapsed();
    let label = size.0.to_string();
    cx.point("time_to_add_s", took).tag("size_B", &label).record();
    let rate = size.0 as f64 / took.as_secs_f64().max(1e-9);
    cx.point("add_rate", rate).unit("B/s").tag("size_B", &label).record();
    let memory = resident().saturating_sub(before) as f64 / size.0.max(1) as f64;
    cx.point("memory_per_byte", memory).unit("ratio").tag("size_B", &label).record();
    let begun = Instant::now();
    let whole = File::check(&added.node, &store);
    cx.point("time_to_get_s", begun.elapsed()).tag("size_B", &label).record();
    cx.check(whole == Ok(added.sha256), format!("{} bytes do not come back as they were", size.0));
    Ok(())
}

/// Bytes of memory that the process holds; 0 where nobody says.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
