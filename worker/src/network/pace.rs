//! How a thread that carries packets spends its time: it goes before all ordinary threads as long as it leaves them
//! enough of a core, and says when it may spin; see [`super::spin`].

use std::time::Duration;

use super::spin::Spin;
use super::thread::{Crowd, go_first};

/// The pace of the thread that has it. Times count from the same moment as the thread's.
pub(super) struct Pace {
    spin: Spin,
    crowd: Option<Crowd>,
    /// When the thread woke up, or when its time was counted since.
    awake_since: Duration,
}

impl Pace {
    /// One for a thread that spins for `spin` at most.
    pub(super) fn new(spin: Duration) -> Self {
        let (spin, crowd) = (Spin::new(spin), Crowd::open());
        Self { spin, crowd, awake_since: Duration::ZERO }
    }

    /// The calling thread begins.
    pub(super) fn start(&mut self, now: Duration) {
        self.awake_since = now;
        go_first(true);
    }

    /// How long before a packet is due the thread shall wake up.
    pub(super) fn early(&self) -> Duration {
        self.spin.early()
    }

    /// The thread goes to sleep.
    pub(super) fn sleeps(&mut self, now: Duration) {
        self.spin.awake(now.saturating_sub(self.awake_since));
        self.awake_since = now;
    }

    /// The thread has woken up.
    pub(super) fn wakes(&mut self, now: Duration) {
        self.spin.slept(now.saturating_sub(self.awake_since));
        self.awake_since = now;
    }

    /// Looks now and then who else wants to run, and gives way when this thread has too much to do.
    pub(super) fn look_around(&mut self, now: Duration) {
        if !self.spin.looks(now) {
            return;
        }
        self.spin.awake(now.saturating_sub(self.awake_since));
        self.awake_since = now;
        let before = self.spin.is_overworked();
        self.spin.looked(self.crowd.as_ref().is_some_and(Crowd::is_there), now);
        if self.spin.is_overworked() != before {
            go_first(before);
        }
    }
}
