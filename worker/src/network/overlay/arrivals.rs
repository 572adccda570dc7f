//! Hands packets of other workers to their destinations, each at its turn at the destination's download.
//!
//! Everything else was decided where the packet was sent; only here is known how much of all senders
//! arrives at an instance.

use std::sync::Arc;
use std::time::Duration;

use groundswell_common::fidelity::NetworkReport;
use tokio::time::Instant;

use super::counters::{Underlay, add};
use crate::network::download::Turn;
use crate::network::port::Port;
use crate::network::queue::Queue;
use crate::network::tally::Tallies;

/// A packet that has just arrived.
pub(super) struct Arrival<'a> {
    /// Names the run in the data plane.
    pub(super) run: u64,
    pub(super) to: &'a Arc<Port>,
    pub(super) counts: &'a Arc<Underlay>,
    pub(super) bytes: &'a [u8],
}

/// One that waits for its turn.
struct Waiting {
    run: u64,
    to: Arc<Port>,
    counts: Arc<Underlay>,
    due: Duration,
    bytes: Box<[u8]>,
}

/// What waits, and what is measured of it.
pub(super) struct Arrivals {
    start: Instant,
    queue: Queue<Waiting>,
    tallies: Tallies,
}

impl Arrivals {
    /// Times count from `start`.
    pub(super) fn new(start: Instant) -> Self {
        Self { start, queue: Queue::new(), tallies: Tallies::new(start) }
    }

    pub(super) fn open(&mut self, run: u64) {
        self.tallies.open(run);
    }

    pub(super) fn close(&mut self, run: u64) {
        self.queue.retain(|packet| packet.run != run);
        self.tallies.close(run);
    }

    /// What was measured of a run so far.
    pub(super) fn report(&self, run: u64) -> NetworkReport {
        self.tallies.report(run)
    }

    /// The time until the next turn.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.queue.next_due().map(|due| due.saturating_sub(self.start.elapsed()))
    }

    /// The thread has slept.
    pub(super) fn woke(&mut self) {
        self.tallies.woke(self.queue.next_due(), self.start.elapsed());
    }

    /// Hands a packet over, or keeps it until its turn.
    pub(super) fn take(&mut self, packet: &Arrival<'_>) {
        let now = self.start.elapsed();
        match packet.to.download.turn(now, packet.bytes.len()) {
            Turn::Now => hand_over(packet.to, packet.counts, packet.bytes),
            Turn::At(due) => {
                let (to, counts) = (Arc::clone(packet.to), Arc::clone(packet.counts));
                let (run, bytes) = (packet.run, packet.bytes.into());
                self.queue.push(due, Waiting { run, to, counts, due, bytes });
            }
            Turn::Never => {
                add(&packet.counts.overrun, 1);
                self.tallies.download_overrun(packet.run, packet.to.download.bps());
            }
        }
    }

    /// Hands over whose turn it is.
    pub(super) fn deliver_due(&mut self) {
        if self.queue.next_due().is_none() {
            return;
        }
        while let Some(packet) = self.queue.pop_due(self.start.elapsed()) {
            hand_over(&packet.to, &packet.counts, &packet.bytes);
            self.tallies.downloaded(packet.run, packet.to.download.bps(), packet.due);
        }
    }
}

fn hand_over(port: &Port, counts: &Underlay, packet: &[u8]) {
    if !port.is_present() || !port.write_packet(packet) {
        add(&counts.untaken, 1);
    }
}
