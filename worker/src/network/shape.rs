//! Decides what happens to the k-th packet of an ordered pair of instances. Pure.
//!
//! A packet passes one or two stages: its sender's access link, and the path from its group to that of the
//! destination where the composition has one. Each stage has a rate, held by a clock, and loses, doubles,
//! corrupts, delays and reorders; delays add up. All of it is decided where the packet is sent.
//!
//! What chance decides is a function of (seed, source, destination, k) and of nothing else, so the same
//! seed gives the k-th packet of a pair the same fate in every run. Chance is asked about every packet, whatever
//! else befalls it: a queue that is full now and then, which is a matter of time, moves none of its chains.

use std::time::Duration;

use groundswell_common::link::LinkShape;

use super::jitter;

/// How many stages a packet passes at most.
const STAGES: usize = 2;
/// How long a packet may wait for its turn at the sender's rate before it is dropped.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// At low rates the queue is longer than that, so that it holds a first flight of TCP.
const SHORTEST_QUEUE_BYTES: usize = 32_000;

/// What happens to one packet. Times count from the start of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When.
        at: Duration,
        /// When its second copy arrives, if it is doubled.
        again: Option<Duration>,
        /// Which bit of it is flipped, counted from the first of the packet.
        corrupt_bit: Option<usize>,
    },
    /// It is lost by chance.
    Lost,
    /// It would have waited too long for its turn at the configured rate.
    Overrun,
}

/// The sender's clock: when the packets sent so far have left at the configured rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    free_at: Duration,
}

impl Clock {
    /// Whether a packet sent at `now` would have to wait for one before it.
    pub(super) fn is_busy(&self, now: Duration) -> bool {
        self.free_at > now
    }

    /// One that is busy until then.
    #[must_use]
    pub fn free_at(free_at: Duration) -> Self {
        Self { free_at }
    }

    /// When a packet of `length` bytes has left, or `None` if it would have to wait too long.
    #[must_use]
    pub fn depart(&mut self, now: Duration, length: usize, bandwidth_bps: u64) -> Option<Duration> {
        if bandwidth_bps == 0 {
            return Some(now);
        }
        let start = self.free_at.max(now);
        if start - now > longest_wait(bandwidth_bps) {
            return None;
        }
        self.free_at = start + sending_time(length, bandwidth_bps);
        Some(self.free_at)
    }

    /// The clock of a rate that follows on this one's at `now`. What is sent from then on waits for what was sent
    /// before, or a new rate would be one more link. It waits for no longer than a full queue of its own: what an
    /// hour ago was slow holds up nothing that is quick.
    #[must_use]
    pub fn followed(self, now: Duration, bandwidth_bps: u64) -> Self {
        if bandwidth_bps == 0 {
            return self;
        }
        Self { free_at: self.free_at.min(now + longest_wait(bandwidth_bps)) }
    }
}

/// How long a packet may wait for its turn at a rate.
fn longest_wait(bandwidth_bps: u64) -> Duration {
    LONGEST_WAIT.max(sending_time(SHORTEST_QUEUE_BYTES, bandwidth_bps))
}

/// How long `length` bytes take at a rate, rounded up so that the rate is never exceeded.
fn sending_time(length: usize, bandwidth_bps: u64) -> Duration {
    let bits = (length as u64).saturating_mul(8);
    Duration::from_nanos(bits.saturating_mul(1_000_000_000).div_ceil(bandwidth_bps))
}

/// What is remembered of an ordered pair of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    key: u64,
    packets: u64,
    last_due: Duration,
    departed: Duration,
    /// Holds the rate of the path; that of the access link is held by the sender's clock.
    path: Clock,
    stages: [Chances; STAGES],
}

/// What befell the packet before at one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Chances {
    lost: bool,
    corrupted: bool,
    reordered: bool,
    duplicated: bool,
}

impl Pair {
    /// A pair that has not sent. `source` and `destination` are instance numbers: addresses may change.
    #[must_use]
    pub fn new(seed: u64, source: u32, destination: u32) -> Self {
        let ends = (u64::from(source) << 32) | u64::from(destination);
        Self {
            key: mix(mix(seed) ^ ends),
            packets: 0,
            last_due: Duration::ZERO,
            departed: Duration::ZERO,
            path: Clock::default(),
            stages: [Chances::default(); STAGES],
        }
    }

    /// When the packet that was decided about last has left at the rates it had to keep.
    pub(super) fn departed(&self) -> Duration {
        self.departed
    }

    /// Keeps the rate of its path together with another pair, which has sent until then.
    pub(super) fn shares_path_with(&mut self, other: &Self) {
        self.path.free_at = self.path.free_at.max(other.path.free_at);
    }

    fn draws(&mut self) -> Draws {
        self.packets += 1;
        Draws { key: mix(self.key ^ mix(self.packets)) }
    }
}

/// What is drawn for a packet. Each has a stream of its own, so that asking for one does not move another.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Loss = 1,
    Duplicate,
    Corrupt,
    CorruptBit,
    Reorder,
    Jitter,
    SecondJitter,
}

/// The random numbers of one packet.
#[derive(Debug, Clone, Copy)]
struct Draws {
    key: u64,
}

impl Draws {
    /// The random numbers of one stage. Those of the first do not depend on there being a second.
    fn of(self, stage: usize) -> Self {
        if stage == 0 { self } else { Self { key: mix(self.key ^ mix(!(stage as u64))) } }
    }

    fn bits(self, draw: Draw) -> u64 {
        mix(self.key ^ mix(draw as u64))
    }

    /// Uniform in [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit the mantissa exactly")]
    fn unit(self, draw: Draw) -> f64 {
        (self.bits(draw) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The output function of splitmix64.
pub(super) fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Decides the fate of the next packet of `pair`, `length` bytes long, sent at `now` through `clock`, with
/// nothing but the sender's own shape on its way.
pub fn decide(
    shape: &LinkShape,
    clock: &mut Clock,
    pair: &mut Pair,
    now: Duration,
    length: usize,
) -> Verdict {
    travel(&[shape], clock, pair, now, length)
}

/// Decides the fate of the next packet of `pair`, which passes these stages: the sender's shape with the
/// rate held by `clock`, then that of the path if there is one.
///
/// The shapes' filters are not looked at: see [`super::rules`] and [`super::links`].
pub fn travel(
    stages: &[&LinkShape],
    clock: &mut Clock,
    pair: &mut Pair,
    now: Duration,
    length: usize,
) -> Verdict {
    let draws = pair.draws();
    let mut lost = false;
    for (stage, shape) in stages.iter().enumerate() {
        lost |= pair.stages[stage].loses(shape, draws.of(stage));
        pair.stages[stage].impairs(shape, draws.of(stage));
    }
    let mut departure = now;
    for (stage, shape) in stages.iter().enumerate() {
        let clock = if stage == 0 { &mut *clock } else { &mut pair.path };
        match clock.depart(departure, length, shape.bandwidth_bps) {
            Some(departed) => departure = departed,
            None => return Verdict::Overrun,
        }
    }
    pair.departed = departure;
    if lost {
        return Verdict::Lost;
    }
    let passed = &pair.stages[..stages.len()];
    let duplicated = passed.iter().any(|chances| chances.duplicated);
    let corrupted = passed.iter().any(|chances| chances.corrupted);
    Verdict::Deliver {
        at: arrive(stages, pair, departure, draws, Draw::Jitter),
        again: duplicated.then(|| arrive(stages, pair, departure, draws, Draw::SecondJitter)),
        corrupt_bit: (corrupted && length > 0)
            .then(|| position(draws.bits(Draw::CorruptBit), length * 8)),
    }
}

impl Chances {
    fn loses(&mut self, shape: &LinkShape, draws: Draws) -> bool {
        let draw = draws.unit(Draw::Loss);
        self.lost = follows(self.lost, shape.loss_pct, shape.loss_corr_pct, draw);
        self.lost
    }

    fn impairs(&mut self, shape: &LinkShape, draws: Draws) {
        self.duplicated = follows(
            self.duplicated,
            shape.duplicate_pct,
            shape.duplicate_corr_pct,
            draws.unit(Draw::Duplicate),
        );
        self.corrupted = follows(
            self.corrupted,
            shape.corrupt_pct,
            shape.corrupt_corr_pct,
            draws.unit(Draw::Corrupt),
        );
        self.reordered = follows(
            self.reordered,
            shape.reorder_pct,
            shape.reorder_corr_pct,
            draws.unit(Draw::Reorder),
        );
    }
}

/// When a packet that left at `departure` arrives.
///
/// A reordered packet is not held by the latency of that stage at all and so overtakes, as with netem.
/// Without reordering a packet never arrives before its predecessor, whatever the jitter and however the
/// shapes were replaced in between.
fn arrive(
    stages: &[&LinkShape],
    pair: &mut Pair,
    departure: Duration,
    draws: Draws,
    draw: Draw,
) -> Duration {
    let mut due = departure;
    for (stage, shape) in stages.iter().enumerate() {
        if !pair.stages[stage].reordered {
            due += jitter::delay(shape, draws.of(stage).unit(draw));
        }
    }
    if stages.iter().any(|shape| shape.reorder_pct > 0.0) {
        return due;
    }
    pair.last_due = pair.last_due.max(due);
    pair.last_due
}

/// The next state of a chain of two states that keeps both the share of `true` and the correlation of
/// neighbours exactly. netem's own correlation loses the share.
fn follows(before: bool, share_pct: f32, correlation_pct: f32, draw: f64) -> bool {
    let (p, r) = (share(share_pct), share(correlation_pct));
    let chance = if before { p + r * (1.0 - p) } else { p * (1.0 - r) };
    p > 0.0 && draw < chance
}

fn share(percent: f32) -> f64 {
    f64::from(percent) / 100.0
}

fn position(bits: u64, count: usize) -> usize {
    usize::try_from(bits % count as u64).expect("it is smaller than a usize")
}

#[cfg(test)]
mod tests {
    use groundswell_common::link::Distribution;
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(shape: &LinkShape, seed: u64, count: u32, gap: Duration) -> Vec<Verdict> {
        let mut clock = Clock::default();
        let mut pair = Pair::new(seed, 1, 2);
        (0..count).map(|k| decide(shape, &mut clock, &mut pair, gap * k, 1000)).collect()
    }

    fn shape() -> impl Strategy<Value = LinkShape> {
        (0..200_u64, 0..50_u64, 0..100_000_000_u64, 0.0..100.0_f32, 0.0..100.0_f32).prop_map(
            |(latency, jitter, bandwidth_bps, loss_pct, corr)| LinkShape {
                latency: Duration::from_millis(latency),
                jitter: Duration::from_millis(jitter),
                bandwidth_bps,
                loss_pct,
                loss_corr_pct: corr,
                distribution: Distribution::Normal,
                duplicate_pct: loss_pct / 2.0,
                duplicate_corr_pct: corr,
                corrupt_pct: corr / 2.0,
                ..LinkShape::default()
            },
        )
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_fate(shape in shape(), seed: u64) {
            prop_assert_eq!(fates(&shape, seed, 200, MS), fates(&shape, seed, 200, MS));
        }

        #[test]
        fn chance_does_not_depend_on_the_time(shape in shape(), seed: u64) {
            let shape = LinkShape { bandwidth_bps: 0, ..shape };
            let lost = |gap| -> Vec<bool> {
                fates(&shape, seed, 200, gap).iter().map(|fate| *fate == Verdict::Lost).collect()
            };
            prop_assert_eq!(lost(MS), lost(MS * 7));
        }

        #[test]
        fn order_is_kept_whatever_the_jitter_and_the_changes(
            shapes in prop::collection::vec(shape(), 1..6), seed: u64,
        ) {
            let mut pair = Pair::new(seed, 3, 4);
            let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
            for shape in shapes {
                let mut clock = Clock::default();
                for _ in 0..40 {
                    now += MS;
                    if let Verdict::Deliver { at, again, .. } = decide(&shape, &mut clock, &mut pair, now, 200) {
                        prop_assert!(at >= last && at >= now);
                        last = again.unwrap_or(at);
                        prop_assert!(last >= at);
                    }
                }
            }
        }

        #[test]
        fn the_rate_is_never_exceeded(
            bandwidth_bps in 1_000..1_000_000_000_u64,
            packets in prop::collection::vec((20..65_000_usize, 0..2_000_000_u64), 2..100),
        ) {
            let shape = LinkShape { bandwidth_bps, ..LinkShape::default() };
            let (mut clock, mut pair) = (Clock::default(), Pair::new(1, 1, 2));
            let mut now = Duration::ZERO;
            let (mut first, mut bits) = (None, 0_u128);
            for (length, gap) in packets {
                now += Duration::from_nanos(gap);
                let Verdict::Deliver { at, .. } = decide(&shape, &mut clock, &mut pair, now, length) else {
                    continue;
                };
                // From the moment the first has left, the bits of all later ones fit the time.
                if let Some(first) = first {
                    bits += length as u128 * 8;
                    let time = Duration::as_nanos(&(at - first));
                    prop_assert!(bits * 1_000_000_000 <= time * u128::from(bandwidth_bps));
                } else {
                    first = Some(at);
                }
            }
        }
    }

    #[test]
    fn a_full_queue_does_not_move_what_chance_decides() {
        let shape = LinkShape {
            bandwidth_bps: 1_000_000,
            loss_pct: 20.0,
            loss_corr_pct: 60.0,
            duplicate_pct: 20.0,
            duplicate_corr_pct: 60.0,
            ..LinkShape::default()
        };
        // At the rate of the link, and at twice that.
        let (calm, full) = (fates(&shape, 3, 1_000, MS * 8), fates(&shape, 3, 1_000, MS * 4));
        let overrun = |fate: &Verdict| *fate == Verdict::Overrun;
        assert!(!calm.iter().any(overrun) && full.iter().any(overrun));
        let doubled = |fate: &Verdict| matches!(fate, Verdict::Deliver { again: Some(_), .. });
        let met = |fate: &Verdict| (*fate == Verdict::Lost, doubled(fate));
        let both = calm.iter().zip(&full).filter(|(_, full)| !overrun(full));
        assert!(both.clone().count() > 500);
        for (calm, full) in both {
            assert_eq!(met(calm), met(full));
        }
    }

    #[test]
    fn what_follows_waits_for_what_was_before_and_no_longer_than_a_full_queue() {
        let now = MS * 1_000;
        let slow = Clock::free_at(MS * 1_400).followed(now, 1_000_000);
        assert_eq!(slow, Clock::free_at(MS * 1_400));
        let mut quick = Clock::free_at(MS * 9_000).followed(now, 100_000_000);
        assert_eq!(quick, Clock::free_at(MS * 1_500));
        assert!(quick.depart(now, 1_000, 100_000_000).is_some());
    }

    #[test]
    fn shares_lie_within_their_interval() {
        let count = 40_000;
        for pct in [0.5_f32, 5.0, 20.0, 50.0] {
            let shape = LinkShape {
                loss_pct: pct,
                duplicate_pct: pct,
                duplicate_corr_pct: 0.0,
                corrupt_pct: pct,
                ..LinkShape::default()
            };
            let fates = fates(&shape, 7, count, MS);
            let lost = fates.iter().filter(|fate| **fate == Verdict::Lost).count();
            assert_share(lost, f64::from(count), pct);
            let arrived = f64::from(count) - lost as f64;
            let with = |what: fn(&Verdict) -> bool| fates.iter().filter(|fate| what(fate)).count();
            let doubled = |fate: &Verdict| matches!(fate, Verdict::Deliver { again: Some(_), .. });
            let corrupt =
                |fate: &Verdict| matches!(fate, Verdict::Deliver { corrupt_bit: Some(_), .. });
            assert_share(with(doubled), arrived, pct);
            assert_share(with(corrupt), arrived, pct);
        }
    }

    /// Within 2.576 standard deviations, the 99 % interval; the seed is fixed, so it holds or it does not.
    fn assert_share(hits: usize, count: f64, pct: f32) {
        let p = share(pct);
        let off = (hits as f64 - p * count).abs();
        let allowed = 2.576 * (p * (1.0 - p) * count).sqrt();
        assert!(off <= allowed, "{hits} of {count} at {pct} %");
    }

    #[test]
    fn correlated_loss_keeps_its_share_and_its_correlation() {
        for (pct, corr) in [(1.0_f32, 25.0_f32), (5.0, 50.0), (20.0, 25.0), (20.0, 75.0)] {
            let shape = LinkShape { loss_pct: pct, loss_corr_pct: corr, ..LinkShape::default() };
            let lost: Vec<f64> = fates(&shape, 23, 400_000, MS)
                .iter()
                .map(|fate| if *fate == Verdict::Lost { 1.0 } else { 0.0 })
                .collect();
            let (count, p, r) = (lost.len() as f64, share(pct), share(corr));
            let mean = lost.iter().sum::<f64>() / count;
            // Correlated draws tell less than independent ones, by the factor (1 + r) / (1 - r).
            let allowed = 2.576 * (p * (1.0 - p) * (1.0 + r) / (1.0 - r) / count).sqrt();
            assert!((mean - p).abs() <= allowed, "share {mean} at {pct} %, {corr} %");
            let before = lost.iter().filter(|lost| **lost > 0.0).count() as f64;
            let both = lost.windows(2).filter(|two| two[0] > 0.0 && two[1] > 0.0).count() as f64;
            // P(lost | lost) is p + r (1 - p); each loss is one draw of it.
            let expected = p + r * (1.0 - p);
            let allowed = 2.576 * (expected * (1.0 - expected) / before).sqrt();
            assert!(
                (both / before - expected).abs() <= allowed,
                "{} at {pct} %, {corr} %",
                both / before
            );
            let again: f64 = lost.windows(2).map(|two| (two[0] - mean) * (two[1] - mean)).sum();
            let correlation = again / lost.iter().map(|one| (one - mean).powi(2)).sum::<f64>();
            assert!((correlation - r).abs() < 0.03, "correlation {correlation}, not {r}");
        }
    }

    #[test]
    fn delays_of_stages_add_up_and_their_losses_are_independent() {
        let stage = LinkShape { latency: MS * 20, loss_pct: 20.0, ..LinkShape::default() };
        let (mut clock, mut pair) = (Clock::default(), Pair::new(3, 1, 2));
        let fates: Vec<_> = (0..20_000)
            .map(|k| travel(&[&stage, &stage], &mut clock, &mut pair, MS * k, 100))
            .collect();
        let lost = fates.iter().filter(|fate| **fate == Verdict::Lost).count();
        assert_share(lost, 20_000.0, 36.0);
        let late = |(fate, k): (&Verdict, u32)| match fate {
            Verdict::Deliver { at, .. } => *at == MS * (k + 40),
            Verdict::Lost | Verdict::Overrun => true,
        };
        assert!(fates.iter().zip(0..).all(late));
    }

    #[test]
    fn a_path_does_not_change_what_the_access_link_loses() {
        let access = LinkShape { loss_pct: 10.0, ..LinkShape::default() };
        let path = LinkShape { latency: MS * 5, ..LinkShape::default() };
        let (mut clock, mut pair) = (Clock::default(), Pair::new(9, 1, 2));
        let lost = |fate: &Verdict| *fate == Verdict::Lost;
        let alone: Vec<bool> = fates(&access, 9, 1000, MS).iter().map(lost).collect();
        let with: Vec<bool> = (0..1000)
            .map(|k| travel(&[&access, &path], &mut clock, &mut pair, MS * k, 100))
            .map(|fate| lost(&fate))
            .collect();
        assert_eq!(alone, with);
    }

    #[test]
    fn the_slower_of_two_rates_is_held() {
        let access = LinkShape { bandwidth_bps: 8_000_000, ..LinkShape::default() };
        let path = LinkShape { bandwidth_bps: 1_000_000, ..LinkShape::default() };
        let (mut clock, mut pair) = (Clock::default(), Pair::new(1, 1, 2));
        let mut at = |_| travel(&[&access, &path], &mut clock, &mut pair, Duration::ZERO, 1000);
        let times: Vec<_> = (0..3).map(&mut at).collect();
        let due = |k| Verdict::Deliver { at: MS + MS * 8 * k, again: None, corrupt_bit: None };
        assert_eq!(times, [due(1), due(2), due(3)]);
    }

    #[test]
    fn pairs_that_share_a_path_share_its_rate() {
        let (access, path) =
            (LinkShape::default(), LinkShape { bandwidth_bps: 1_000_000, ..LinkShape::default() });
        let (mut clock, mut pairs) = (Clock::default(), [Pair::new(1, 1, 2), Pair::new(1, 1, 3)]);
        for turn in 0..10_u32 {
            let [one, other] = &mut pairs;
            one.shares_path_with(other);
            let verdict = travel(&[&access, &path], &mut clock, one, Duration::ZERO, 1_000);
            let at = MS * 8 * (turn + 1);
            assert_eq!(verdict, Verdict::Deliver { at, again: None, corrupt_bit: None });
            pairs.reverse();
        }
    }

    #[test]
    fn correlation_keeps_the_share() {
        let shape =
            LinkShape { duplicate_pct: 5.0, duplicate_corr_pct: 50.0, ..LinkShape::default() };
        let doubled: Vec<bool> = fates(&shape, 11, 200_000, MS)
            .iter()
            .map(|fate| matches!(fate, Verdict::Deliver { again: Some(_), .. }))
            .collect();
        let share = doubled.iter().filter(|hit| **hit).count() as f64 / doubled.len() as f64;
        let runs = doubled.windows(2).filter(|pair| pair[0]).count() as f64;
        let both = doubled.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64;
        assert!((share - 0.05).abs() < 0.003, "share {share}");
        assert!((both / runs - 0.525).abs() < 0.02, "P(again | again) {}", both / runs);
    }

    #[test]
    fn latency_is_added_and_the_queue_is_bounded_in_time() {
        let shape =
            LinkShape { latency: MS * 100, bandwidth_bps: 1_000_000, ..LinkShape::default() };
        let fates = fates(&shape, 1, 200, Duration::ZERO);
        // 1,000 bytes take 8 ms at 1 Mbit/s; half a second holds 62 of them and the one on the wire.
        assert!(matches!(fates[0], Verdict::Deliver { at, .. } if at == MS * 108));
        assert!(matches!(fates[1], Verdict::Deliver { at, .. } if at == MS * 116));
        assert_eq!(fates.iter().filter(|fate| **fate == Verdict::Overrun).count(), 200 - 63);
    }

    #[test]
    fn a_reordered_packet_overtakes() {
        let shape = LinkShape { latency: MS * 50, reorder_pct: 30.0, ..LinkShape::default() };
        let fates = fates(&shape, 5, 1000, MS);
        let early = fates
            .iter()
            .zip(0_u32..)
            .filter(|(fate, k)| matches!(fate, Verdict::Deliver { at, .. } if *at == MS * *k))
            .count();
        assert_share(early, 1000.0, 30.0);
    }
}
