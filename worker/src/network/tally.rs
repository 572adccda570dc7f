//! What a thread of the data plane measures of each run: how late packets were, what befell them, and when
//! the thread stood still.
//!
//! Each thread owns one of these, so nothing is shared or locked per packet. A copy is handed out on request.

use std::sync::atomic::Ordering;
use std::time::Duration;

use groundswell_common::fidelity::{LANES_COUNTED, LaneReport, NetworkReport, Stall, Stalls};
use groundswell_common::link::LinkShape;
use tokio::time::Instant;

use super::meter::{Meter, Turn};
use super::numbers::Numbered;
use super::rules::Lane;
use super::shape::{Clock, Pair, Verdict, travel};

/// A thread that does nothing for longer than this although it has to has stood still.
const STALL: Duration = Duration::from_millis(1);

/// The measurements of one thread.
pub(super) struct Tallies {
    start: Instant,
    runs: Numbered<u64, Tally>,
    /// When the thread was last seen at work.
    alive: Duration,
}

/// The measurements of one run.
struct Tally {
    opened: Duration,
    lanes: Vec<LaneReport>,
    stalls: Stalls,
}

/// What a packet carries along to be measured when it is written.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    lane: usize,
    turn: Option<Turn>,
    packets: u64,
}

/// How a packet is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As what the instance sends.
    Own,
    /// As one that has left at its sender's rate already, to another member of its group.
    Copy,
    /// Not at all, because it is there to measure. At a rate it takes its turn as all others.
    Probe,
}

/// A packet that is to be decided about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) now: Duration,
    pub(super) length: usize,
}

/// An ordered pair of instances, and where its packets are counted when they take a path between groups.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) pair: Pair,
    /// The shapes of access link and path, and where packets that met both are counted.
    counted: Option<(LinkShape, LinkShape, usize)>,
}

impl Flow {
    pub(super) fn new(pair: Pair) -> Self {
        Self { pair, counted: None }
    }
}

impl Mark {
    /// The mark of a second copy, which takes no turn of its own.
    pub(super) fn of_copy(&self) -> Self {
        Self { lane: self.lane, turn: None, packets: self.packets }
    }

    /// The mark of what is not counted.
    fn none() -> Self {
        Self { lane: usize::MAX, turn: None, packets: 0 }
    }

    fn new(lane: usize) -> Self {
        Self { lane, turn: None, packets: 1 }
    }

    /// How many packets it is of, as far as they count.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    /// Takes in the mark of a packet of the same pair that is written together with this one.
    pub(super) fn join(&mut self, next: Self) {
        self.packets += next.packets;
        match (&mut self.turn, next.turn) {
            (Some(turn), Some(next)) => {
                turn.bytes += next.bytes;
                turn.first |= next.first;
            }
            (Some(_), None) => {}
            (turn @ None, next) => *turn = next,
        }
    }
}

impl Tallies {
    /// Times count from `start`.
    pub(super) fn new(start: Instant) -> Self {
        Self { start, runs: Numbered::default(), alive: Duration::ZERO }
    }

    pub(super) fn open(&mut self, run: u64) {
        let opened = self.start.elapsed();
        self.runs.insert(run, Tally { opened, lanes: Vec::new(), stalls: Stalls::default() });
    }

    pub(super) fn close(&mut self, run: u64) {
        self.runs.remove(&run);
    }

    /// What was measured of a run so far.
    pub(super) fn report(&self, run: u64) -> NetworkReport {
        let tally = self.runs.get(&run);
        NetworkReport {
            lanes: tally.map(|tally| tally.lanes.clone()).unwrap_or_default(),
            stalls: tally.map(|tally| tally.stalls.clone()).unwrap_or_default(),
            interface_drops: Some(0),
            ..NetworkReport::default()
        }
    }

    /// Counts packets that a filter keeps from going.
    pub(super) fn filtered(&mut self, run: u64, lane: &mut Lane, packets: u64, bytes: u64) {
        if let Some((counts, _)) = self.count(run, lane, packets, bytes) {
            counts.filtered += packets;
        }
    }

    /// Decides about a packet as [`travel`] does, and counts what was decided. `path` is the shape of the path
    /// between its groups, which a lane of a rule leaves out.
    pub(super) fn decide(
        &mut self,
        run: u64,
        lane: &mut Lane,
        path: Option<&LinkShape>,
        flow: &mut Flow,
        packet: Packet,
    ) -> (Verdict, Mark) {
        let Packet { kind, now, length } = packet;
        let path = path.filter(|_| !lane.ruled);
        let before = lane.clock;
        let verdict = match path {
            Some(path) => {
                travel(&[&lane.shape, path], &mut lane.clock, &mut flow.pair, now, length)
            }
            None => travel(&[&lane.shape], &mut lane.clock, &mut flow.pair, now, length),
        };
        if kind == Kind::Probe {
            lane.skip(before, now, length);
            return (verdict, Mark::none());
        }
        if let Some(path) = path {
            if kind == Kind::Own {
                lane.skip(before, now, length);
            }
            return (verdict, self.passed(run, lane.shape, *path, flow, verdict, length));
        }
        let Some((counts, meter)) = self.count(run, lane, 1, length as u64) else {
            return (verdict, Mark::none());
        };
        tell(counts, verdict);
        let turn = match kind {
            Kind::Own => meter.turn(before.is_busy(now), verdict, length),
            Kind::Copy | Kind::Probe => None,
        };
        (verdict, Mark { turn, ..Mark::new(meter.lane) })
    }

    /// Counts a packet that met an access link and a path, under what both do together. The rate is not
    /// measured there: many paths share one access link.
    fn passed(
        &mut self,
        run: u64,
        access: LinkShape,
        path: LinkShape,
        flow: &mut Flow,
        verdict: Verdict,
        length: usize,
    ) -> Mark {
        let Some(tally) = self.runs.get_mut(&run) else { return Mark::none() };
        let place = match &flow.counted {
            Some((known, other, place)) if (known, other) == (&access, &path) => *place,
            Some(_) | None => {
                let place = tally.lane(access.and_path(path));
                flow.counted = Some((access, path, place));
                place
            }
        };
        if let Some(counts) = tally.lanes.get_mut(place) {
            counts.packets += 1;
            counts.bytes += length as u64;
            tell(counts, verdict);
        }
        Mark::new(place)
    }

    /// Counts packets and finds where.
    fn count<'a>(
        &'a mut self,
        run: u64,
        lane: &'a mut Lane,
        packets: u64,
        bytes: u64,
    ) -> Option<(&'a mut LaneReport, &'a mut Meter)> {
        let tally = self.runs.get_mut(&run)?;
        let shape = lane.shape;
        let meter = lane.meter.get_or_insert_with(|| Meter::new(tally.lane(shape), &shape));
        let counts = tally.lanes.get_mut(meter.lane)?;
        counts.packets += packets;
        counts.bytes += bytes;
        Some((counts, meter))
    }

    /// Counts a packet for which there was no memory.
    pub(super) fn no_memory(&mut self, run: u64, mark: &Mark) {
        if let Some(counts) = self.lane(run, mark) {
            counts.no_memory += mark.packets;
        }
    }

    /// Measures a packet that was due at `due` and has just been written.
    pub(super) fn written(&mut self, run: u64, mark: &Mark, due: Duration) {
        let now = self.start.elapsed();
        self.beat(now);
        let Some(counts) = self.lane(run, mark) else { return };
        counts.late.record_many(nanoseconds(now.saturating_sub(due)), mark.packets);
        let Some(turn) = &mark.turn else { return };
        let before = turn.written.swap(nanoseconds(now), Ordering::Relaxed);
        if turn.bytes > 0 && before > 0 {
            counts.busy.bytes += turn.bytes;
            counts.busy.time += now.saturating_sub(Duration::from_nanos(before));
            counts.busy.periods += u64::from(turn.first);
        }
    }

    /// Measures a packet of another worker whose turn at its receiver's download was at `due`, and that has just
    /// been written. Its sender's switch has counted it already.
    pub(super) fn downloaded(&mut self, run: u64, bps: u64, due: Duration) {
        let now = self.start.elapsed();
        self.beat(now);
        if let Some(counts) = self.download(run, bps) {
            counts.late.record(nanoseconds(now.saturating_sub(due)));
        }
    }

    /// Counts packets that would have waited too long for their turn at a receiver's download.
    pub(super) fn download_overrun(&mut self, run: u64, bps: u64, packets: u64) {
        if packets > 0
            && let Some(counts) = self.download(run, bps)
        {
            counts.overrun += packets;
        }
    }

    fn download(&mut self, run: u64, bps: u64) -> Option<&mut LaneReport> {
        let tally = self.runs.get_mut(&run)?;
        let place = tally.lane(LinkShape { bandwidth_bps: bps, ..LinkShape::default() });
        tally.lanes.get_mut(place)
    }

    fn lane(&mut self, run: u64, mark: &Mark) -> Option<&mut LaneReport> {
        self.runs.get_mut(&run)?.lanes.get_mut(mark.lane)
    }

    /// The thread is at work.
    pub(super) fn beat(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.alive);
        if gap > STALL {
            self.stalled(self.alive, gap);
        }
        self.alive = now;
    }

    /// The thread has slept and was to wake at `due` at the latest.
    pub(super) fn woke(&mut self, due: Option<Duration>, now: Duration) {
        if let Some(due) = due
            && now.saturating_sub(due) > STALL
        {
            self.stalled(due, now - due);
        }
        self.alive = now;
    }

    /// Notes a stall for every run that has sent something.
    fn stalled(&mut self, at: Duration, length: Duration) {
        let begun = |tally: &&mut Tally| !tally.lanes.is_empty();
        for tally in self.runs.values_mut().filter(begun) {
            tally.stalls.push(Stall { at: at.saturating_sub(tally.opened), length });
        }
    }
}

impl Tally {
    /// Where packets of a shape are counted.
    fn lane(&mut self, shape: LinkShape) -> usize {
        let wanted = Some(shape);
        let known = |wanted| self.lanes.iter().position(|lane| lane.shape == wanted);
        let (shape, place) = match known(wanted) {
            Some(place) => return place,
            None if self.lanes.len() < LANES_COUNTED => (wanted, self.lanes.len()),
            None => (None, known(None).unwrap_or(self.lanes.len())),
        };
        if place == self.lanes.len() {
            self.lanes.push(LaneReport { shape, ..LaneReport::default() });
        }
        place
    }
}

impl Lane {
    /// A packet has passed whose rate is not measured here. `before` is the clock before it: who has moved it has
    /// taken a turn.
    fn skip(&mut self, before: Clock, now: Duration, length: usize) {
        if self.clock != before
            && let Some(meter) = &mut self.meter
        {
            meter.skip(before.is_busy(now), length);
        }
    }
}

fn tell(counts: &mut LaneReport, verdict: Verdict) {
    match verdict {
        Verdict::Lost => counts.lost += 1,
        Verdict::Overrun => counts.overrun += 1,
        Verdict::Deliver { again, corrupt_bit, .. } => {
            counts.duplicated += u64::from(again.is_some());
            counts.corrupted += u64::from(corrupt_bit.is_some());
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::shape::Clock;

    const RUN: u64 = 1;
    const MS: Duration = Duration::from_millis(1);

    fn tallies() -> Tallies {
        let mut tallies = Tallies::new(Instant::now());
        tallies.open(RUN);
        tallies
    }

    fn lane(shape: LinkShape) -> Lane {
        let clock = Clock::default();
        Lane { shape, clock, ruled: false, meter: None, group: (0, clock) }
    }

    fn own(now: Duration, length: usize) -> Packet {
        Packet { kind: Kind::Own, now, length }
    }

    fn only(tallies: &Tallies) -> LaneReport {
        let mut lanes = tallies.report(RUN).lanes;
        assert_eq!(lanes.len(), 1);
        lanes.remove(0)
    }

    #[test]
    fn every_packet_is_counted_once_by_what_was_decided() {
        let shape = LinkShape {
            loss_pct: 20.0,
            duplicate_pct: 10.0,
            corrupt_pct: 30.0,
            bandwidth_bps: 8_000_000,
            ..LinkShape::default()
        };
        let (mut tallies, mut lane, mut pair) =
            (tallies(), lane(shape), Flow::new(Pair::new(1, 1, 2)));
        let mut delivered = 0;
        for _ in 0..2_000 {
            let packet = own(Duration::ZERO, 1_000);
            let (verdict, mark) = tallies.decide(RUN, &mut lane, None, &mut pair, packet);
            if let Verdict::Deliver { at, .. } = verdict {
                delivered += 1;
                tallies.written(RUN, &mark, at);
            }
        }
        tallies.filtered(RUN, &mut lane, 1, 1_000);
        let counted = only(&tallies);
        assert_eq!((counted.packets, counted.bytes, counted.filtered), (2_001, 2_001_000, 1));
        assert_eq!(counted.late.count(), delivered);
        assert_eq!(counted.lost + counted.overrun + delivered, 2_000);
        assert!(counted.overrun > 0 && counted.lost > 0);
        assert!(counted.duplicated > 0 && counted.corrupted > 0);
    }

    #[test]
    fn lanes_of_one_shape_are_counted_together_and_others_apart() {
        let mut tallies = tallies();
        for latency in [1, 2, 1] {
            let mut lane = lane(LinkShape { latency: MS * latency, ..LinkShape::default() });
            let mut pair = Flow::new(Pair::new(1, 1, 2));
            tallies.decide(RUN, &mut lane, None, &mut pair, own(Duration::ZERO, 100));
        }
        let packets: Vec<u64> = tallies.report(RUN).lanes.iter().map(|lane| lane.packets).collect();
        assert_eq!(packets, [2, 1]);
    }

    /// Lets a lane of 8 Mbit/s be busy with 100 packets of 1,000 bytes, each followed by one of another kind. Gives
    /// the bits per millisecond that show, and how many packets count.
    fn rate_beside(kind: Kind, length: usize) -> (u64, u64) {
        let mut tallies = tallies();
        let mut lane = lane(LinkShape { bandwidth_bps: 8_000_000, ..LinkShape::default() });
        let (mut flow, mut other) = (Flow::new(Pair::new(1, 1, 2)), Flow::new(Pair::new(1, 1, 3)));
        let (mut bytes, mut left) = (0, Vec::new());
        for _ in 0..100 {
            let before = lane.clock;
            let packet = own(Duration::ZERO, 1_000);
            let (verdict, mark) = tallies.decide(RUN, &mut lane, None, &mut flow, packet);
            let Verdict::Deliver { at, .. } = verdict else { panic!("the queue is not full") };
            bytes += mark.turn.map_or(0, |turn| turn.bytes);
            left.push(at);
            if kind == Kind::Copy {
                lane.clock = before;
            }
            let packet = Packet { kind, length, ..packet };
            tallies.decide(RUN, &mut lane, None, &mut other, packet);
        }
        let took = u64::try_from((left[99] - left[0]).as_micros()).expect("short");
        (bytes * 8_000 / took, only(&tallies).packets)
    }

    #[test]
    fn what_else_takes_its_turn_at_a_rate_is_part_of_it() {
        assert_eq!(rate_beside(Kind::Probe, 100), (8_000, 100));
        assert_eq!(rate_beside(Kind::Copy, 1_000), (8_000, 200));
    }

    #[test]
    fn what_takes_a_path_is_part_of_its_senders_rate() {
        let mut tallies = tallies();
        let path = LinkShape { latency: MS, ..LinkShape::default() };
        let mut lane = lane(LinkShape { bandwidth_bps: 8_000_000, ..LinkShape::default() });
        let mut flow = Flow::new(Pair::new(1, 1, 2));
        let mut turn = |path| {
            let packet = own(Duration::ZERO, 1_000);
            tallies.decide(RUN, &mut lane, path, &mut flow, packet).1.turn.map(|turn| turn.bytes)
        };
        let turns = [turn(None), turn(None), turn(Some(&path)), turn(None)];
        assert_eq!(turns, [Some(0), Some(1_000), None, Some(2_000)]);
    }

    #[test]
    fn a_thread_that_stood_still_says_so_to_runs_that_have_sent() {
        let mut tallies = tallies();
        tallies.beat(MS * 10);
        assert_eq!(tallies.report(RUN).stalls.count(), 0);
        let (mut lane, mut pair) = (lane(LinkShape::default()), Flow::new(Pair::new(1, 1, 2)));
        tallies.decide(RUN, &mut lane, None, &mut pair, own(MS * 10, 100));
        tallies.beat(MS * 11);
        tallies.beat(MS * 14);
        // Sleeping is no stall, waking late is.
        tallies.woke(None, MS * 100);
        tallies.woke(Some(MS * 199), MS * 200);
        tallies.woke(Some(MS * 300), MS * 305);
        let stalls = tallies.report(RUN).stalls;
        let lengths: Vec<_> = stalls.listed.iter().map(|stall| stall.length).collect();
        assert_eq!(lengths, [MS * 3, MS * 5]);
        assert_eq!(stalls.longest, MS * 5);
    }

    #[test]
    fn a_run_that_is_closed_is_not_measured() {
        let mut tallies = tallies();
        tallies.close(RUN);
        let (mut lane, mut pair) = (lane(LinkShape::default()), Flow::new(Pair::new(1, 1, 2)));
        let (verdict, mark) = tallies.decide(RUN, &mut lane, None, &mut pair, own(MS, 100));
        assert!(matches!(verdict, Verdict::Deliver { .. }));
        tallies.written(RUN, &mark, MS);
        assert!(tallies.report(RUN).lanes.is_empty());
    }
}
