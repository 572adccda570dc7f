//! When a thread may spin for the last moment before a packet is due, and when it may go before all others. Pure.
//!
//! Sleeping is late by what the kernel takes to wake a thread, 40 µs and more. Spinning is not, but it takes a
//! core from somebody. So a thread spins only while it is awake for a part of its time that leaves the rest to
//! others, and not at all where more wants to run than there are cores. Going before all others is what
//! keeps packets punctual on a worker whose instances compute; a thread that is awake for nearly all of its time
//! gives it up, because the kernel would stop it for a while.

use std::time::Duration;

/// The longest time before a packet is due that is spun.
pub(super) const LONGEST: Duration = Duration::from_micros(80);
/// A thread may be awake for so many parts of a hundred, its work included; what is left of that is for spinning.
const SHARE: u32 = 60;
/// Time to spin that is saved up at most.
const SAVED: Duration = Duration::from_millis(2);
/// How often it is looked at who else wants to run.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of the last looks, weighted by their age, so many parts of a hundred have to have found a crowd.
const CROWDED: u32 = 30;
/// A thread that is awake for more parts of a hundred than this is overworked, until it is for less than its share.
const OVERWORKED: u32 = 80;

/// What a thread has done with its time.
#[derive(Debug)]
pub(super) struct Spin {
    longest: Duration,
    saved: Duration,
    awake: Duration,
    looked_at: Duration,
    crowding: u32,
    overworked: bool,
}

impl Spin {
    /// Spins for `longest` at most; never when that is zero.
    pub(super) fn new(longest: Duration) -> Self {
        let (saved, awake, looked_at) = Default::default();
        Self { longest, saved, awake, looked_at, crowding: 0, overworked: false }
    }

    /// How long before a packet is due the thread shall wake up.
    pub(super) fn early(&self) -> Duration {
        let spins = self.crowding < CROWDED && self.saved >= self.longest;
        if spins { self.longest } else { Duration::ZERO }
    }

    /// Whether it should rather not go before all others.
    pub(super) fn is_overworked(&self) -> bool {
        self.overworked
    }

    /// The thread has slept for so long.
    pub(super) fn slept(&mut self, time: Duration) {
        self.saved = SAVED.min(self.saved + time * SHARE / 100);
    }

    /// The thread has worked or spun for so long.
    pub(super) fn awake(&mut self, time: Duration) {
        self.saved = self.saved.saturating_sub(time * (100 - SHARE) / 100);
        self.awake += time;
    }

    /// Whether it is time to look who else wants to run.
    pub(super) fn looks(&self, now: Duration) -> bool {
        now.saturating_sub(self.looked_at) >= LOOK_EVERY
    }

    /// More, or no more, wants to run than there are cores.
    pub(super) fn looked(&mut self, crowd: bool, now: Duration) {
        let time = now.saturating_sub(self.looked_at);
        let most = if self.overworked { SHARE } else { OVERWORKED };
        self.overworked = self.awake * 100 > time * most;
        self.crowding = (self.crowding * 3 + if crowd { 100 } else { 0 }) / 4;
        (self.looked_at, self.awake) = (now, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_thread_that_works_for_more_than_its_share_does_not_spin() {
        for (work, spins) in [(50, true), (70, false)] {
            let mut spin = Spin::new(LONGEST);
            for _ in 0..1_000 {
                spin.slept(MS * (100 - work) / 100);
                spin.awake(MS * work / 100);
            }
            assert_eq!(!spin.early().is_zero(), spins, "{work} %");
        }
    }

    #[test]
    fn what_is_saved_lasts_for_a_while_only() {
        let mut spin = Spin::new(LONGEST);
        assert_eq!(spin.early(), Duration::ZERO);
        spin.slept(MS * 1_000);
        assert_eq!(spin.early(), LONGEST);
        spin.awake(SAVED * 5 / 2);
        assert_eq!(spin.early(), Duration::ZERO);
        spin.slept(MS);
        assert_eq!(spin.early(), LONGEST);
    }

    #[test]
    fn nobody_spins_in_a_crowd() {
        let mut spin = Spin::new(LONGEST);
        spin.slept(MS * 10);
        assert!(spin.looks(MS * 100) && !spin.looks(MS * 99));
        spin.looked(true, MS * 100);
        assert_eq!(spin.early(), LONGEST, "once may be by chance");
        spin.looked(true, MS * 200);
        assert_eq!(spin.early(), Duration::ZERO);
        (3..8).for_each(|look| spin.looked(false, MS * 100 * look));
        assert_eq!(spin.early(), LONGEST);
    }

    #[test]
    fn one_that_shall_not_spin_never_does() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.slept(MS);
        assert_eq!(spin.early(), Duration::ZERO);
    }

    #[test]
    fn who_is_awake_nearly_always_is_overworked_until_that_is_over() {
        let mut spin = Spin::new(LONGEST);
        for (look, awake, overworked) in
            [(1, 70, false), (2, 90, true), (3, 70, true), (4, 50, false)]
        {
            spin.awake(MS * awake);
            spin.looked(false, MS * 100 * look);
            assert_eq!(spin.is_overworked(), overworked, "{awake} %");
        }
    }
}
