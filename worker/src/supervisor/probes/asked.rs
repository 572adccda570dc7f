//! What one end has asked, and what became of it. Pure.
//!
//! Whether a probe is lost shows when its time is over, and so does whether it was to pass at all: what is configured
//! both ways must not have changed since the one before was asked, for a change takes its time to hold. Those that are
//! answered are counted at the same moment and under the same condition, or changes would make losses look rarer than
//! they are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_common::fidelity::ProbeReport;
use tokio::time::Instant;

use crate::network::Expected;

/// An answer that is later than this beyond what is configured is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is configured for a probe and for its answer at a moment. Absent is what is not known, or does not pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ways {
    pub(super) there: Expected,
    /// Known when the other instance is on this worker.
    pub(super) back: Option<Expected>,
}

impl Ways {
    /// The share of probes that are lost by chance, the answers included; absent when something else may keep an
    /// answer from coming.
    fn loss(&self) -> Option<f64> {
        Some(1.0 - (1.0 - self.there.loss?) * (1.0 - self.back?.loss?))
    }

    /// Whether an answer that is not there when a later one is will not come.
    fn is_steady(&self) -> bool {
        self.there.delay.is_some() && self.back.is_some_and(|back| back.delay.is_some())
    }

    /// How long to wait for an answer.
    fn patience(&self) -> Duration {
        let delay = |way: Expected| way.delay.unwrap_or(PATIENCE);
        PATIENCE + delay(self.there) + delay(self.back.unwrap_or(self.there))
    }
}

/// The probes of one end.
#[derive(Debug, Default)]
pub(super) struct Asked {
    number: u32,
    /// What was configured when the last one was to be asked.
    before: Option<Ways>,
    open: BTreeMap<u32, Open>,
    /// The last that was answered, and what was configured then.
    answered: Option<(u32, Ways)>,
    /// Probes whose time is over and that count once a later one is answered: until then the other instance may
    /// have ended.
    unsettled: ProbeReport,
    found: ProbeReport,
}

/// A probe that waits for its answer, or for its time to be over.
#[derive(Debug, Clone, Copy)]
struct Open {
    ways: Ways,
    /// Whether that was so before already.
    holds: bool,
    until: Instant,
    answered: bool,
}

impl Asked {
    /// It is time for one more, when `ways` is configured; gives its number, and where it goes. Those whose time is
    /// over are counted.
    pub(super) fn ask(&mut self, ways: Option<Ways>, now: Instant) -> Option<(u32, Ipv4Addr)> {
        self.settle(ways, now);
        let before = std::mem::replace(&mut self.before, ways);
        let (ways, holds) = (ways?, before == ways);
        self.number += 1;
        let open = Open { ways, holds, until: now + ways.patience(), answered: false };
        self.open.insert(self.number, open);
        Some((self.number, ways.there.to))
    }

    /// An answer has come after `took`, when `ways` is configured; `back` is what the other end expected of the
    /// answer's way.
    pub(super) fn answer(
        &mut self,
        number: u32,
        ways: Option<Ways>,
        took: Duration,
        back: Option<Duration>,
    ) {
        let Some(open) = self.open.get_mut(&number).filter(|open| !open.answered) else { return };
        open.answered = true;
        self.found.merge(&std::mem::take(&mut self.unsettled));
        let Some(ways) = ways else { return };
        if self.answered.is_none_or(|(last, _)| last < number) {
            self.answered = Some((number, ways));
        }
        let (Some(there), Some(back)) = (ways.there.delay, back) else { return };
        if open.ways == ways {
            let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            self.found.late.record(nanoseconds(took.saturating_sub(there + back)));
            let early = nanoseconds((there + back).saturating_sub(took));
            self.found.earliest_ns = self.found.earliest_ns.max(early);
        }
    }

    fn settle(&mut self, ways: Option<Ways>, now: Instant) {
        let last = self.answered.map_or(0, |(last, _)| last);
        for (number, open) in self.open.extract_if(.., |_, open| open.until <= now) {
            let into = if number <= last { &mut self.found } else { &mut self.unsettled };
            open.count(ways == Some(open.ways), into);
        }
    }

    /// What was found, when nothing more is asked. Of those whose time is not over, the ones before the last answer
    /// count: the other instance was there.
    pub(super) fn end(mut self) -> ProbeReport {
        if let Some((last, ways)) = self.answered {
            for open in self.open.range(..=last).map(|(_, open)| open) {
                open.count(open.ways == ways && ways.is_steady(), &mut self.found);
            }
        }
        self.found.pairs = u64::from(self.found.sent > 0);
        self.found
    }
}

impl Open {
    /// Counts it. When its ways have changed, or may have full queues, what is lost may be so on purpose: then only
    /// those count that were answered.
    fn count(&self, unchanged: bool, into: &mut ProbeReport) {
        let loss = self.ways.loss().filter(|_| unchanged && self.holds);
        into.sent += u64::from(self.answered || loss.is_some());
        into.lost += u64::from(!self.answered && loss.is_some());
        into.loss_expected += loss.unwrap_or(0.0);
    }
}

#[cfg(test)]
mod tests {
    use groundswell_common::link::LinkShape;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn losing() -> LinkShape {
        LinkShape { loss_pct: 50.0, ..LinkShape::default() }
    }

    fn way(shape: LinkShape, limited: bool) -> Expected {
        Expected::of(Ipv4Addr::new(16, 0, 0, 2), &[shape], limited)
    }

    fn both(there: Expected, back: Expected) -> Ways {
        Ways { there, back: Some(back) }
    }

    /// Asks five times a second for ten seconds and answers every second probe after 1 ms. `ways` is what is
    /// configured at each tick.
    fn probe(ways: impl Fn(u32) -> Option<Ways>) -> ProbeReport {
        let (start, mut asked) = (Instant::now(), Asked::default());
        for tick in 0..50 {
            let now = start + MS * 200 * tick;
            let ways = ways(tick);
            if let (Some((number, _)), 1) = (asked.ask(ways, now), tick % 2) {
                asked.answer(number, ways, MS, Some(Duration::ZERO));
            }
        }
        asked.end()
    }

    #[test]
    fn what_chance_takes_is_counted() {
        let lossy = way(losing(), false);
        let found = probe(|_| Some(both(lossy, way(LinkShape::default(), false))));
        // The first is lost, and nobody knows how long the ways had been as they were.
        assert_eq!((found.pairs, found.sent, found.lost), (1, 49, 24));
        assert!((found.loss_expected - 24.5).abs() < 0.01, "{found:?}");
        assert_eq!(found.late.count(), 25);
    }

    #[test]
    fn a_full_queue_on_either_way_is_no_loss() {
        let (plain, lossy) = (way(LinkShape::default(), false), way(losing(), false));
        let rate = way(LinkShape { bandwidth_bps: 1_000_000, ..losing() }, false);
        let download = way(losing(), true);
        for ways in
            [both(rate, plain), both(lossy, rate), both(download, plain), both(plain, download)]
        {
            let found = probe(|_| Some(ways));
            assert_eq!((found.sent, found.lost), (25, 0), "{ways:?}");
            assert!(found.loss_expected.abs() < f64::EPSILON, "{ways:?}");
        }
    }

    #[test]
    fn answers_that_do_not_pass_are_no_loss() {
        let found = probe(|_| Some(Ways { there: way(losing(), false), back: None }));
        assert_eq!((found.sent, found.lost), (25, 0));
    }

    #[test]
    fn a_change_that_is_over_when_it_is_looked_at_is_seen() {
        let plain = way(LinkShape::default(), false);
        // Cut and healed within a tick, at the twentieth.
        let found = probe(|tick| {
            let there = Expected { changes: u64::from(tick >= 20) * 2, ..plain };
            Some(both(there, plain))
        });
        // Of every second one that is lost, those do not count whose two seconds meet the change, and the first
        // after it and of all.
        assert_eq!((found.lost, found.sent), (25 - 5 - 2, 50 - 5 - 2));
    }

    #[test]
    fn changes_do_not_make_losses_rarer() {
        let lossy = way(losing(), false);
        // Every three seconds: few wait for longer than that between two changes.
        let found = probe(|tick| {
            let there = Expected { changes: u64::from(tick / 15), ..lossy };
            Some(both(there, lossy))
        });
        let expected = found.loss_expected;
        assert!(found.lost > 0, "{found:?}");
        // Of those that are judged every second is lost, and three of four are to be.
        assert!((expected / 0.75 - found.lost as f64 * 2.0).abs() <= 4.0, "{found:?}");
    }

    #[test]
    fn nothing_is_lost_behind_the_last_answer() {
        let plain = way(LinkShape::default(), false);
        let (start, mut asked) = (Instant::now(), Asked::default());
        let ways = both(plain, plain);
        for tick in 0..100 {
            let now = start + MS * 200 * tick;
            let (number, _) = asked.ask(Some(ways), now).expect("it passes");
            if tick < 10 {
                asked.answer(number, Some(ways), MS, None);
            }
        }
        let found = asked.end();
        assert_eq!((found.sent, found.lost), (10, 0));
    }

    #[test]
    fn a_doubled_answer_is_one_and_a_strange_one_none() {
        let plain = way(LinkShape::default(), false);
        let (now, mut asked) = (Instant::now(), Asked::default());
        let ways = both(plain, plain);
        let (number, _) = asked.ask(Some(ways), now).expect("it passes");
        for number in [number, number, number + 7] {
            asked.answer(number, Some(ways), MS * 3, Some(MS));
        }
        let found = asked.end();
        assert_eq!((found.sent, found.late.count(), found.late.max()), (1, 1, 2_000_000));
    }
}
