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
        self.tallies.beat(now);
        match packet.to.download.turn(now, packet.bytes.len()) {
            Turn::Now => hand_over(packet.to, packet.counts, packet.bytes),
            Turn::At(due) => {
                let (to, counts) = (Arc::clone(packet.to), Arc::clone(packet.counts));
                let (run, bytes) = (packet.run, packet.bytes.into());
                self.queue.push(due, Waiting { run, to, counts, due, bytes });
            }
            Turn::Never => {
                add(&packet.counts.overrun, 1);
                self.tallies.download_overrun(packet.run, packet.to.download.bps(), 1);
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use groundswell_common::ids::InstanceId;

    use super::*;
    use crate::network::egress::gate::Gate;

    const RUN: u64 = 1;

    #[test]
    fn a_thread_that_hands_over_does_not_stand_still() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        arrivals.open(RUN);
        let sink = File::options().write(true).open("/dev/null").expect("it takes everything");
        let to = Arc::new(Port::new(1, InstanceId(1), sink.into(), Gate::new(None, 1)));
        let counts = Arc::new(Underlay::default());
        let packet = Arrival { run: RUN, to: &to, counts: &counts, bytes: &[0; 1_000] };
        // One that is counted: stalls are those of runs that have something.
        to.download.limit(1_000_000_000_000);
        arrivals.take(&packet);
        arrivals.deliver_due();
        to.download.limit(0);
        let woke = start.elapsed();
        arrivals.woke();
        // The machine may stop this thread for as long as it likes; that is seen from here as well.
        let (mut last, mut longest) = (woke, Duration::ZERO);
        while last - woke < Duration::from_millis(5) {
            arrivals.take(&packet);
            let now = start.elapsed();
            (last, longest) = (now, longest.max(now - last));
        }
        to.download.limit(1_000_000_000_000);
        arrivals.take(&packet);
        arrivals.deliver_due();
        longest = longest.max(start.elapsed() - last);
        let stalls = arrivals.report(RUN).stalls;
        assert!(stalls.longest <= longest * 2, "{stalls:?}, not {longest:?}");
    }
}
