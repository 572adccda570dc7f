//! How much one instance has asked of the sync, and whether it may go on. Pure.
//!
//! Operations are paid for in time: each takes its part of a second, and an instance may be a second ahead. One
//! that is further ahead is not read until the time has come, so it is slowed down and nobody else is.

use std::time::Duration;

use groundswell_common::quotas::Quotas;
use tokio::time::Instant;

/// How far an instance may be ahead.
const AHEAD: Duration = Duration::from_secs(1);
/// So many bytes that arrive count as one operation more.
const BYTES_OF_OPERATION: u32 = 4096;
/// Sockets that one instance may have.
const CONNECTIONS: usize = 64;
/// Bytes of messages that are not complete, of all its sockets.
const UNFINISHED_BYTES: usize = 64 << 20;

/// What one instance may ask of the sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncLimits {
    /// Operations in a second.
    pub ops_per_second: u32,
    /// Bytes of the log.
    pub bytes: u64,
    /// Sockets at the same time.
    pub connections: usize,
    /// Bytes of messages that have not arrived whole.
    pub unfinished_bytes: usize,
}

impl SyncLimits {
    /// No limit, for whoever plays many instances on one.
    pub const NONE: Self = Self {
        ops_per_second: u32::MAX,
        bytes: u64::MAX,
        connections: usize::MAX,
        unfinished_bytes: usize::MAX,
    };

    /// Those of a run's quotas.
    #[must_use]
    pub fn of(quotas: &Quotas) -> Self {
        Self {
            ops_per_second: quotas.sync_ops_per_second.max(1),
            bytes: quotas.sync_bytes,
            connections: CONNECTIONS,
            unfinished_bytes: UNFINISHED_BYTES,
        }
    }
}

impl Default for SyncLimits {
    fn default() -> Self {
        Self::of(&Quotas::default())
    }
}

/// What one instance has asked for so far.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: SyncLimits,
    /// Until when its operations are paid for.
    paid: Instant,
    bytes: u64,
    slowed: bool,
    exhausted: bool,
}

impl Meter {
    pub(crate) fn new(limits: SyncLimits, now: Instant) -> Self {
        Self { limits, paid: now, bytes: 0, slowed: false, exhausted: false }
    }

    /// Takes in that so many bytes have arrived, which held so many operations.
    pub(crate) fn arrived(&mut self, bytes: usize, operations: u32, now: Instant) {
        let parts = u32::try_from(bytes).unwrap_or(u32::MAX) / BYTES_OF_OPERATION;
        let price = Duration::from_secs(1) / self.limits.ops_per_second;
        self.paid = self.paid.max(now) + price.saturating_mul(operations.saturating_add(parts));
    }

    /// Whether more may be read of it.
    pub(crate) fn may_go_on(&self, now: Instant) -> bool {
        self.paid <= now + AHEAD
    }

    /// What people are told when it is slowed down for the first time.
    pub(crate) fn on_slowed(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.slowed, true) {
            return None;
        }
        let most = self.limits.ops_per_second;
        Some(format!("more than {most} sync operations in a second (`sync_ops_per_second`)"))
    }

    /// Takes in an operation that adds so many bytes to the log. Returns why it must not.
    pub(crate) fn append(&mut self, bytes: usize) -> Result<(), String> {
        let all = self.bytes.saturating_add(bytes as u64);
        if all > self.limits.bytes {
            let most = self.limits.bytes;
            return Err(format!(
                "quota: it has added all of its {most} bytes to the sync log (`sync_bytes`)"
            ));
        }
        self.bytes = all;
        Ok(())
    }

    /// Whether its quota is exceeded for the first time.
    pub(crate) fn on_exhausted(&mut self) -> bool {
        !std::mem::replace(&mut self.exhausted, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(now: Instant) -> Meter {
        Meter::new(SyncLimits { ops_per_second: 100, bytes: 1000, ..SyncLimits::NONE }, now)
    }

    #[test]
    fn a_second_ahead_is_allowed_and_time_pays() {
        let now = Instant::now();
        let mut meter = meter(now);
        meter.arrived(10_000, 98, now);
        assert!(meter.may_go_on(now), "98 operations, and two for the bytes");
        meter.arrived(100, 50, now);
        assert!(!meter.may_go_on(now));
        assert!(!meter.may_go_on(now + Duration::from_millis(499)));
        assert!(meter.may_go_on(now + Duration::from_millis(500)));
        let later = now + Duration::from_secs(100);
        meter.arrived(0, 101, later);
        assert!(!meter.may_go_on(later), "time that was not used is lost");
    }

    #[test]
    fn the_log_takes_what_fits_and_each_excess_is_told_once() {
        let mut meter = meter(Instant::now());
        assert_eq!(meter.append(1000), Ok(()));
        assert!(meter.append(1).expect_err("too much").contains("1000 bytes"));
        assert!(meter.on_exhausted() && !meter.on_exhausted());
        assert!(meter.on_slowed().expect("told").contains("100 sync operations"));
        assert_eq!(meter.on_slowed(), None);
    }

    #[test]
    fn without_a_limit_nothing_is_slowed() {
        let now = Instant::now();
        let mut meter = Meter::new(SyncLimits::NONE, now);
        meter.arrived(usize::MAX, u32::MAX, now);
        assert!(meter.may_go_on(now + Duration::from_secs(8)));
        assert_eq!(meter.append(usize::MAX), Ok(()));
    }
}
