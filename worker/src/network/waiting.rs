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

/// Memory that what waits of one instance may take. It holds 32 MiB in packets of 1,500 bytes, or 140,000 small
/// ones.
const PER_INSTANCE: usize = 48 << 20;
/// Memory that what waits in one thread may take.
const PER_THREAD: usize = 512 << 20;
/// Buffers of each size that are kept for the next packets.
const SPARE_BUFFERS: usize = 4096;
/// How long they are: as long as most packets without much in them, and as nearly all packets.
const BUFFERS: [usize; 2] = [256, 2048];

/// A frame that waits for its time.
struct Waiting {
    route: Rc<Route>,
    due: Duration,
    mark: Mark,
    frame: Vec<u8>,
    /// It has had its turn at the receiver's download.
    received: bool,
}

/// Frames that wait, how much memory they take, and what is measured of those that go.
pub(super) struct Waitings {
    queue: Queue<Waiting>,
    bytes: usize,
    spare: [Vec<Vec<u8>>; BUFFERS.len()],
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
        Self { queue, bytes: 0, spare: Default::default(), tallies }
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
            Turn::Never => self.download_overrun(route, &mark),
        }
    }

    fn keep(&mut self, route: &Rc<Route>, due: Duration, frame: &[u8], mark: Mark, received: bool) {
        let memory = memory(frame.len());
        let own = route.from.waiting.load(Ordering::Relaxed) + memory;
        if own > PER_INSTANCE || self.bytes + memory > PER_THREAD {
            route.from.counters.count(Fate::Overrun, mark.packets());
            return self.tallies.no_memory(route.run, &mark);
        }
        route.from.waiting.store(own, Ordering::Relaxed);
        self.bytes += memory;
        let (route, frame) = (Rc::clone(route), self.buffer(frame));
        self.queue.push(due, Waiting { route, due, mark, frame, received });
    }

    fn buffer(&mut self, frame: &[u8]) -> Vec<u8> {
        let Some(size) = size(frame.len()) else { return frame.to_vec() };
        let mut buffer =
            self.spare[size].pop().unwrap_or_else(|| Vec::with_capacity(BUFFERS[size]));
        buffer.clear();
        buffer.extend_from_slice(frame);
        buffer
    }

    /// The queue of the receiver's download is full, as it is configured to be.
    fn download_overrun(&mut self, route: &Route, mark: &Mark) {
        route.from.counters.count(Fate::Overrun, mark.packets());
        self.tallies.download_overrun(route.run, route.download_bps(), mark.packets());
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
            self.bytes -= memory(length);
            // Only the owner of `from` writes its count, and that is this thread.
            let left = route.from.waiting.load(Ordering::Relaxed) - memory(length);
            route.from.waiting.store(left, Ordering::Relaxed);
            if turn == Turn::Never {
                self.download_overrun(route, &waiting.mark);
            } else {
                let fate = route.deliver(&mut waiting.frame);
                route.from.counters.count(fate, waiting.mark.packets());
                self.tallies.written(route.run, &waiting.mark, waiting.due);
            }
            if let Some(size) = size(length)
                && self.spare[size].len() < SPARE_BUFFERS
            {
                self.spare[size].push(waiting.frame);
            }
        }
    }

    /// Drops what waits in a run that is over. Its instances' own counts go with them.
    pub(super) fn forget(&mut self, run: u64) {
        let mut kept = 0;
        self.queue.retain(|waiting| {
            let keep = waiting.route.run != run;
            kept += if keep { memory(waiting.frame.len()) } else { 0 };
            keep
        });
        self.bytes = kept;
    }
}

/// Which of the buffers a frame has, unless it is longer than they are.
fn size(length: usize) -> Option<usize> {
    BUFFERS.iter().position(|buffer| length <= *buffer)
}

/// The memory a frame takes that waits.
fn memory(length: usize) -> usize {
    size_of::<Waiting>() + size(length).map_or(length, |size| BUFFERS[size])
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use groundswell_common::ids::InstanceId;
    use groundswell_common::link::LinkShape;

    use super::*;
    use crate::network::egress::gate::Gate;
    use crate::network::goal::Holder;
    use crate::network::port::Port;
    use crate::network::rules::Rules;
    use crate::network::shape::Pair;
    use crate::network::tally::{Flow, Kind, Packet};

    const RUN: u64 = 1;
    const SECOND: Duration = Duration::from_secs(1);

    fn port(instance: u32) -> Arc<Port> {
        let sink = File::options().write(true).open("/dev/null").expect("it takes everything");
        Arc::new(Port::new(instance.into(), InstanceId(instance), sink.into(), Gate::new(None, 1)))
    }

    /// What waits in one thread, and a way from the first port to the second.
    struct Way {
        waiting: Waitings,
        rules: Rules,
        flow: Flow,
        route: Rc<Route>,
        to: Arc<Port>,
    }

    impl Way {
        fn new() -> Self {
            let mut waiting = Waitings::new(Instant::now());
            waiting.tallies.open(RUN);
            let (from, to) = (port(1), port(2));
            let route = Rc::new(Route::new(RUN, &from, &Holder::Here(Arc::clone(&to)), 2));
            let flow = Flow::new(Pair::new(1, 1, 2));
            Self { waiting, rules: Rules::plain(LinkShape::default()), flow, route, to }
        }

        /// Sends a packet that is due at `at`, at the time 0.
        fn send(&mut self, kind: Kind, at: Duration, length: usize) {
            let mut frame = vec![0; length];
            let lane = self.rules.find(std::net::Ipv4Addr::LOCALHOST).1;
            let packet = Packet { kind, now: Duration::ZERO, length };
            let (_, mark) = self.waiting.tallies.decide(RUN, lane, None, &mut self.flow, packet);
            let decided = Decided { route: &self.route, at, departure: Duration::ZERO, mark };
            self.waiting.send(decided, Duration::ZERO, &mut frame);
        }

        fn dropped(&self) -> (u64, u64, u64) {
            let lanes = self.waiting.tallies.report(RUN).lanes;
            let no_memory = lanes.iter().map(|lane| lane.no_memory).sum();
            let overrun = lanes.iter().map(|lane| lane.overrun).sum();
            (no_memory, overrun, self.route.from.counters.read().of(Fate::Overrun))
        }
    }

    #[test]
    fn a_full_download_is_no_lack_of_memory() {
        for at in [Duration::ZERO, SECOND] {
            let mut way = Way::new();
            way.to.download.limit(1_000_000);
            (0..200).for_each(|_| way.send(Kind::Own, at, 1_010));
            way.waiting.deliver_due(at);
            let (no_memory, overrun, fate) = way.dropped();
            assert!(no_memory == 0 && overrun > 100 && overrun == fate, "{:?}", way.dropped());
        }
    }

    #[test]
    fn what_waits_takes_no_more_memory_than_it_may() {
        for length in [60, 300, 1_510, 3_000, 60_000] {
            let mut way = Way::new();
            let count = PER_INSTANCE / length;
            (0..count).for_each(|_| way.send(Kind::Own, SECOND, length));
            assert!(way.dropped().0 > 0, "{length}");
            let mut taken = 0;
            way.waiting.queue.retain(|waiting| {
                taken += waiting.frame.capacity() + size_of::<Waiting>();
                true
            });
            assert!(taken <= PER_INSTANCE, "{taken} for packets of {length} bytes");
            assert_eq!(way.waiting.bytes, taken, "{length}");
            way.waiting.deliver_due(SECOND);
            assert_eq!((way.waiting.bytes, way.route.from.waiting.load(Ordering::Relaxed)), (0, 0));
        }
    }

    #[test]
    fn probes_are_nobodys_packets() {
        let mut way = Way::new();
        way.send(Kind::Probe, Duration::ZERO, 100);
        way.send(Kind::Probe, SECOND, 100);
        way.waiting.deliver_due(SECOND);
        way.to.download.limit(1_000);
        (0..2_000).for_each(|_| way.send(Kind::Probe, Duration::ZERO, 100));
        assert_eq!(way.route.from.counters.read(), crate::network::counters::Counts::default());
        assert!(way.waiting.tallies.report(RUN).lanes.is_empty());
        way.send(Kind::Own, SECOND, 100);
        way.to.download.limit(0);
        way.waiting.deliver_due(SECOND * 2);
        assert_eq!(way.route.from.counters.read().of(Fate::Delivered), 1);
    }
}
