//! How the host is doing while a share runs: how busy its cpus are, whether its clock is set, and whether the kernel
//! kills for want of memory. Looked at every second.

use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use groundswell_common::kpi::HostLoad;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::Instrument as _;

use super::Context;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);
/// How long it may take to read both clocks for the pair to say something.
const TOGETHER: Duration = Duration::from_millis(5);
/// How often that is tried.
const TRIES: u32 = 5;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Load(Mutex<HostLoad>);

impl Load {
    /// Looks until the servers of the share end.
    pub(super) fn start(context: &Arc<Context>) {
        let this = Arc::clone(context);
        context.servers.spawn(async move { this.load.watch(&this).await }.in_current_span());
    }

    /// What was seen.
    pub(super) fn report(&self) -> HostLoad {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn watch(&self, context: &Context) {
        let origin = Instant::now();
        let mut before = Look::now(origin);
        let mut tick = interval_at(origin + WINDOW, WINDOW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = context.end.cancelled() => break,
                _ = tick.tick() => {
                    let now = Look::now(origin);
                    self.take(&before, &now, true);
                    before = now;
                }
            }
        }
        // The last one is shorter. It counts when there is no other: a run may take less than a second.
        let whole = self.report().busy.count() == 0;
        self.take(&before, &Look::now(origin), whole);
    }

    fn take(&self, before: &Look, now: &Look, whole: bool) {
        let mut load = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((busy, steal)) = now.shares_since(before).filter(|_| whole) {
            load.busy.record(busy);
            load.steal.record(steal);
        }
        load.oom_kills += now.oom_kills_since(before);
        if let Some(step) = before.clocks.zip(now.clocks).map(|(a, b)| (b - a).abs()) {
            load.clock_step_s = load.clock_step_s.max(step);
        }
    }
}

/// One look at the host.
pub(crate) struct Look {
    cpu: Option<Cpu>,
    oom_kills: u64,
    /// By how much the clock people read is ahead of the one that only counts, in seconds.
    clocks: Option<f64>,
}

impl Look {
    /// The host at this moment. Times count from `origin`.
    pub(crate) fn now(origin: Instant) -> Self {
        Self {
            cpu: head("/proc/stat").as_deref().and_then(cpu),
            oom_kills: std::fs::read_to_string("/proc/vmstat")
                .ok()
                .as_deref()
                .and_then(oom_kills)
                .unwrap_or(0),
            clocks: clocks(origin),
        }
    }

    /// The shares of the cpu time since another look that were busy, and stolen; absent when that is not known.
    pub(crate) fn shares_since(&self, before: &Self) -> Option<(f64, f64)> {
        before.cpu.zip(self.cpu).and_then(|(before, now)| shares(before, now))
    }

    /// How many processes the kernel has killed for want of memory since another look.
    pub(crate) fn oom_kills_since(&self, before: &Self) -> u64 {
        self.oom_kills.saturating_sub(before.oom_kills)
    }
}

/// Cpu time since the host began, in its own ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cpu {
    total: u64,
    idle: u64,
    steal: u64,
}

/// The beginning of a file: the first line of `/proc/stat` is about all cpus, and much follows it.
fn head(path: &str) -> Option<String> {
    let mut bytes = [0_u8; 512];
    let length = File::open(path).ok()?.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Reads the first line of `/proc/stat`.
fn cpu(stat: &str) -> Option<Cpu> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let numbers: Vec<u64> = numbers.map_while(|number| number.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = numbers[..] else {
        return None;
    };
    // Guests are counted among the users already.
    let total = user + nice + system + idle + iowait + irq + softirq + steal;
    Some(Cpu { total, idle: idle + iowait, steal })
}

/// The shares of the time between two looks that were busy, and stolen.
#[expect(clippy::cast_precision_loss, reason = "ticks of a second are few")]
fn shares(before: Cpu, now: Cpu) -> Option<(f64, f64)> {
    let total = now.total.checked_sub(before.total).filter(|total| *total > 0)? as f64;
    // The kernel's idle time may go back by a tick.
    let idle = now.idle.saturating_sub(before.idle) as f64;
    let steal = now.steal.saturating_sub(before.steal) as f64;
    Some(((1.0 - idle / total).clamp(0.0, 1.0), (steal / total).clamp(0.0, 1.0)))
}

fn oom_kills(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Both clocks at once, as far as that is possible: a task that is put aside between them would look like a clock
/// that was set.
fn clocks(origin: Instant) -> Option<f64> {
    (0..TRIES).find_map(|_| {
        let before = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let counted = before.duration_since(origin);
        (before.elapsed() <= TOGETHER).then_some(wall.as_secs_f64() - counted.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_not_idle_and_stolen_time_is_busy() {
        let before = cpu("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2").expect("a line");
        assert_eq!(before, Cpu { total: 1000, idle: 800, steal: 0 });
        let now = cpu("cpu  110 0 110 740 120 0 0 20 5 0\n").expect("a line");
        let (busy, steal) = shares(before, now).expect("time has passed");
        assert!((busy - 0.4).abs() < 1e-9 && (steal - 0.2).abs() < 1e-9, "{busy} {steal}");
        assert_eq!(shares(now, now), None);
        assert_eq!(cpu("intr 5"), None);
        assert_eq!(cpu("cpu  1 2 3"), None);
    }

    #[test]
    fn kills_are_counted_by_the_kernel() {
        assert_eq!(oom_kills("nr_free_pages 5\noom_kill 3\nnuma_hit 7\n"), Some(3));
        assert_eq!(oom_kills("nr_free_pages 5\n"), None);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let look = Look::now(Instant::now());
        assert!(look.cpu.is_some() && look.clocks.is_some());
    }
}
