//! Packets that wait for their time, and the writing of those whose time has come.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::counters::Fate;
use super::download::Turn;
use super::goal::Route;
use super::offload;
use super::queue::Queue;
use super::tally::{Mark, Tallies};

/// Bytes of one instance that may wait for their time.
const PER_INSTANCE: usize = 32 << 20;
/// Bytes that may wait for their time in one thread.
const PER_THREAD: usize = 512 << 20;
/// Buffers that are kept for the next packets, and how long they are: as long as nearly all packets.
const SPARE_BUFFERS: usize = 4096;
const BUFFER: usize = 2048;

/// A frame that waits for its time.
struct Waiting {
    route: Rc<Route>,
    due: Duration,
    mark: Mark,
    frame: Vec<u8>,
    /// It has had its turn at the receiver's download.
    received: bool,
}

/// Frames that wait, how many bytes they are, and what is measured of those that go.
pub(super) struct Waitings {
    queue: Queue<Waiting>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    pub(super) tallies: Tallies,
}

/// A frame that has been decided about.
pub(super) struct Decided<'a> {
    pub(super) route: &'a Rc<Route>,
    /// When it arrives.
    pub(super) at: Duration,
    /// When it left at its sender's rate.
    pub(super) departure: Duration,
    pub(super) mark: Mark,
}

impl Waitings {
    pub(super) fn new(start: Instant) -> Self {
        let (queue, tallies) = (Queue::new(), Tallies::new(start));
        Self { queue, bytes: 0, spare: Vec::new(), tallies }
    }

    /// When the first is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.queue.next_due()
    }

    /// Delivers a frame when it arrives, which may be at once.
    pub(super) fn send(&mut self, decided: Decided<'_>, now: Duration, frame: &mut [u8]) {
        let Decided { route, at, departure, mark } = decided;
        let at = route.hand_over_at(at, departure);
        if at > now {
            return self.keep(route, at, frame, mark, false);
        }
        // What became due in the meantime comes first, or a pair would be reordered.
        self.deliver_due(now);
        match route.turn(now, frame.len() - offload::HEADER) {
            Turn::Now => {
                route.from.counters.count(route.deliver(frame), mark.packets());
                self.tallies.written(route.run, &mark, now);
            }
            Turn::At(at) => self.keep(route, at, frame, mark, true),
            Turn::Never => self.overrun(route, &mark),
        }
    }

    fn keep(&mut self, route: &Rc<Route>, due: Duration, frame: &[u8], mark: Mark, received: bool) {
        let own = route.from.waiting.load(Ordering::Relaxed) + frame.len();
        if own > PER_INSTANCE || self.bytes + frame.len() > PER_THREAD {
            return self.overrun(route, &mark);
        }
        route.from.waiting.store(own, Ordering::Relaxed);
        self.bytes += frame.len();
        let (route, frame) = (Rc::clone(route), self.buffer(frame));
        self.queue.push(due, Waiting { route, due, mark, frame, received });
    }

    fn buffer(&mut self, frame: &[u8]) -> Vec<u8> {
        if frame.len() > BUFFER {
            return frame.to_vec();
        }
        let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        buffer.clear();
        buffer.extend_from_slice(frame);
        buffer
    }

    fn overrun(&mut self, route: &Route, mark: &Mark) {
        route.from.counters.count(Fate::Overrun, mark.packets());
        self.tallies.no_memory(route.run, mark);
    }

    /// Delivers everything whose time has come.
    pub(super) fn deliver_due(&mut self, now: Duration) {
        while let Some(mut waiting) = self.queue.pop_due(now) {
            let (route, length) = (&waiting.route, waiting.frame.len());
            let turn = match waiting.received {
                true => Turn::Now,
                false => route.turn(now, length - offload::HEADER),
            };
            if let Turn::At(at) = turn {
                (waiting.received, waiting.due) = (true, at);
                self.queue.push(at, waiting);
                continue;
            }
            self.bytes -= length;
            // Only the owner of `from` writes its count, and that is this thread.
            let left = route.from.waiting.load(Ordering::Relaxed) - length;
            route.from.waiting.store(left, Ordering::Relaxed);
            if turn == Turn::Never {
                self.overrun(&waiting.route, &waiting.mark);
            } else {
                let fate = route.deliver(&mut waiting.frame);
                route.from.counters.count(fate, waiting.mark.packets());
                self.tallies.written(route.run, &waiting.mark, waiting.due);
            }
            if length <= BUFFER && self.spare.len() < SPARE_BUFFERS {
                self.spare.push(waiting.frame);
            }
        }
    }

    /// Drops what waits in a run that is over. Its instances' own counts go with them.
    pub(super) fn forget(&mut self, run: u64) {
        let mut kept = 0;
        self.queue.retain(|waiting| {
            let keep = waiting.route.run != run;
            kept += if keep { waiting.frame.len() } else { 0 };
            keep
        });
        self.bytes = kept;
    }
}
