//! What an instance costs, every second, as diagnostics: whether results can be trusted is decided by these.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::context::Ctx;

const EVERY: Duration = Duration::from_secs(1);
/// How long a task waits for its turn is measured this often, and the longest of a second is recorded.
const LAG_EVERY: Duration = Duration::from_millis(100);
/// How long the sync service may take to answer before the sample is left out.
const RTT_LIMIT: Duration = Duration::from_secs(10);
/// The kernel counts CPU time for `/proc` in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Samples until it is dropped.
pub(crate) async fn run(ctx: Ctx) {
    let mut every = interval(LAG_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut lag = Duration::ZERO;
    let mut cpu = cpu_seconds();
    loop {
        let before = Instant::now();
        every.tick().await;
        lag = lag.max(before.elapsed().saturating_sub(LAG_EVERY));
        if last.elapsed() < EVERY {
            continue;
        }
        last = Instant::now();
        ctx.diagnostic("loop_lag_s", std::mem::take(&mut lag)).record();
        let used = cpu_seconds();
        if let (Some(before), Some(used)) = (cpu, used) {
            ctx.diagnostic("cpu_s", used - before).unit("s").record();
        }
        cpu = used;
        sample_memory(&ctx);
        sample_files(&ctx);
        sample_sync(&ctx).await;
        ctx.flush();
        // The time the sync took is no lag.
        every.reset();
    }
}

fn sample_memory(ctx: &Ctx) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = field(&status, "VmRSS:").and_then(|text| text.parse::<u64>().ok()) {
        ctx.diagnostic("rss_B", kib * 1024).unit("B").record();
    }
}

fn sample_files(ctx: &Ctx) {
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or(0);
    ctx.diagnostic("fds", open).unit("count").record();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(limit) = field(&limits, "Max open files").and_then(|text| text.parse::<u32>().ok())
        && let Ok(open) = u32::try_from(open)
    {
        let ratio = f64::from(open) / f64::from(limit.max(1));
        ctx.diagnostic("fds_ratio", ratio).unit("ratio").record();
    }
}

async fn sample_sync(ctx: &Ctx) {
    let begun = Instant::now();
    if let Ok(Ok(())) = timeout(RTT_LIMIT, ctx.sync().ping()).await {
        ctx.diagnostic("sync_rtt_s", begun.elapsed()).record();
    }
}

/// The first word after a name that begins a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

/// CPU time of this process, all its threads.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_is_asked_of_it() {
        assert!(cpu_seconds().is_some());
        let limits =
            "Limit  Soft  Hard\nMax open files            1024                 4096     files\n";
        assert_eq!(field(limits, "Max open files"), Some("1024"));
    }
}
