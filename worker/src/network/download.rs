//! The receiving side of an instance's access link.
//!
//! It is shared by every thread of the data plane: senders anywhere fill one download. A packet takes its
//! turn when it arrives, not when it is sent, so that one from afar does not hold up one from next door.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::shape::Clock;

/// The rate at which an instance receives, and when it is free again.
#[derive(Debug, Default)]
pub(super) struct Download {
    bps: AtomicU64,
    free_at_nanos: AtomicU64,
}

/// What a packet that arrives has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Now,
    /// To wait until then.
    At(Duration),
    /// To wait for longer than anything waits.
    Never,
}

impl Download {
    /// Limits it to so many bits per second; 0 lifts the limit.
    pub(super) fn limit(&self, bps: u64) {
        self.bps.store(bps, Ordering::Relaxed);
    }

    /// The limit, in bits per second; 0 is none.
    pub(super) fn bps(&self) -> u64 {
        self.bps.load(Ordering::Relaxed)
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.bps() != 0
    }

    /// The turn of a packet of `length` bytes that arrives at `now`.
    pub(super) fn turn(&self, now: Duration, length: usize) -> Turn {
        let bps = self.bps();
        if bps == 0 {
            return Turn::Now;
        }
        let mut turn = Turn::Never;
        let take = |free_at| {
            let mut clock = Clock::free_at(Duration::from_nanos(free_at));
            let done = clock.depart(now, length, bps);
            turn = done.map_or(Turn::Never, Turn::At);
            done.map(|done| u64::try_from(done.as_nanos()).unwrap_or(u64::MAX))
        };
        let _ = self.free_at_nanos.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn packets_of_all_senders_share_one_rate_and_the_queue_is_bounded() {
        let download = Download::default();
        assert_eq!(download.turn(MS, 1000), Turn::Now);
        download.limit(1_000_000);
        assert_eq!(download.turn(MS, 1000), Turn::At(MS * 9));
        assert_eq!(download.turn(MS * 2, 1000), Turn::At(MS * 17));
        let turns: Vec<_> = (0..200).map(|_| download.turn(MS * 2, 1000)).collect();
        assert_eq!(turns.last(), Some(&Turn::Never));
        assert_eq!(download.turn(MS * 2000, 1000), Turn::At(MS * 2008));
    }
}
