//! Decides what happens to the k-th packet of an ordered pair of instances. Pure.
//!
//! A packet first leaves through the sender's clock, which holds the rate; then it travels the pair,
//! which loses, doubles, corrupts, delays and reorders. All shaping is the sender's, as in Testground.
//!
//! What chance decides is a function of (seed, source, destination, k) and of nothing else, so the same
//! seed gives the k-th packet of a pair the same fate in every run.

use std::time::Duration;

use groundswell_common::link::LinkShape;

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

    /// When the packet that was decided about last, at `now`, has left.
    pub(super) fn departed(&self, now: Duration) -> Duration {
        self.free_at.max(now)
    }

    /// When a packet of `length` bytes has left, or `None` if it would have to wait too long.
    fn depart(&mut self, now: Duration, length: usize, bandwidth_bps: u64) -> Option<Duration> {
        if bandwidth_bps == 0 {
            return Some(now);
        }
        let start = self.free_at.max(now);
        let longest = LONGEST_WAIT.max(sending_time(SHORTEST_QUEUE_BYTES, bandwidth_bps));
        if start - now > longest {
            return None;
        }
        self.free_at = start + sending_time(length, bandwidth_bps);
        Some(self.free_at)
    }
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
            corrupted: false,
            reordered: false,
            duplicated: false,
        }
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
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Decides the fate of the next packet of `pair`, `length` bytes long, sent at `now` through `clock`.
///
/// The shape's filter is not looked at: see [`super::rules`].
pub fn decide(
    shape: &LinkShape,
    clock: &mut Clock,
    pair: &mut Pair,
    now: Duration,
    length: usize,
) -> Verdict {
    let draws = pair.draws();
    let Some(departure) = clock.depart(now, length, shape.bandwidth_bps) else {
        return Verdict::Overrun;
    };
    if draws.unit(Draw::Loss) < share(shape.loss_pct) {
        return Verdict::Lost;
    }
    pair.duplicated = follows(
        pair.duplicated,
        shape.duplicate_pct,
        shape.duplicate_corr_pct,
        draws.unit(Draw::Duplicate),
    );
    pair.corrupted = follows(
        pair.corrupted,
        shape.corrupt_pct,
        shape.corrupt_corr_pct,
        draws.unit(Draw::Corrupt),
    );
    pair.reordered = follows(
        pair.reordered,
        shape.reorder_pct,
        shape.reorder_corr_pct,
        draws.unit(Draw::Reorder),
    );
    Verdict::Deliver {
        at: arrive(shape, pair, departure, draws.unit(Draw::Jitter)),
        again: pair
            .duplicated
            .then(|| arrive(shape, pair, departure, draws.unit(Draw::SecondJitter))),
        corrupt_bit: (pair.corrupted && length > 0)
            .then(|| position(draws.bits(Draw::CorruptBit), length * 8)),
    }
}

/// When a packet that left at `departure` arrives.
///
/// A reordered packet is not held by the latency at all and so overtakes, as with netem. Without
/// reordering a packet never arrives before its predecessor, whatever the jitter and however the shape
/// was replaced in between.
fn arrive(shape: &LinkShape, pair: &mut Pair, departure: Duration, draw: f64) -> Duration {
    if pair.reordered {
        return departure;
    }
    let deviation = shape.jitter.mul_f64(2.0 * draw);
    let due = (departure + shape.latency + deviation).saturating_sub(shape.jitter).max(departure);
    if shape.reorder_pct > 0.0 {
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
