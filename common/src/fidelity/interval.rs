//! Between which limits the true share lies, given how often something happened. Pure.

/// The quantile of the normal distribution for a two-sided confidence of 99 %.
const Z99: f64 = 2.576;

/// How many standard deviations an interval reaches so that `intervals` of them hold *together* with 99 %.
///
/// One is the usual 2.576. For more, Bonferroni's inequality gives each a hundredth of a part of the error,
/// and the tail bound of the normal distribution, `P(|Z| > z) <= exp(-z²/2)`, turns that into a `z` that is
/// rather too long than too short. Without it a report of a hundred lanes would cry wolf in two runs of three.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "there are a few hundred intervals")]
pub fn joint_z(intervals: usize) -> f64 {
    if intervals <= 1 { Z99 } else { (2.0 * (100.0 * intervals as f64).ln()).sqrt() }
}

/// Wilson's score interval: the shares from which `hits` among `count` are not further than `z` standard
/// deviations away.
///
/// `correlation` is that of neighbours in a chain of two states; such a chain tells as much about its share
/// as `count · (1 - r) / (1 + r)` independent draws.
///
/// Sources: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22
/// (1927) 209; L. D. Brown, T. T. Cai, A. DasGupta, Interval estimation for a binomial proportion,
/// Statistical Science 16 (2001) 101, which recommends it from 40 draws on, and it is too long rather than
/// too short below.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a share of more than 2^53 packets is exact enough")]
pub fn wilson(hits: u64, count: u64, correlation: f64, z: f64) -> (f64, f64) {
    if count == 0 {
        return (0.0, 1.0);
    }
    let r = correlation.clamp(0.0, 0.999_999);
    let n = count as f64 * (1.0 - r) / (1.0 + r);
    let p = hits.min(count) as f64 / count as f64;
    let z2 = z * z;
    let center = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends the limits are exact, which rounding must not spoil.
    let low = if hits == 0 { 0.0 } else { (center - half).max(0.0) };
    let high = if hits >= count { 1.0 } else { (center + half).min(1.0) };
    (low, high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: (f64, f64), wanted: (f64, f64)) {
        let off = (found.0 - wanted.0).abs().max((found.1 - wanted.1).abs());
        assert!(off < 5e-4, "{found:?} is not {wanted:?}");
    }

    #[test]
    fn known_intervals() {
        // By hand from Wilson's formula, and as R's prop.test without continuity correction gives them.
        close(wilson(10, 100, 0.0, 1.96), (0.0552, 0.1744));
        close(wilson(0, 10, 0.0, 1.96), (0.0, 0.2775));
        close(wilson(50, 1000, 0.0, 2.576), (0.0351, 0.0707));
        close(wilson(10, 10, 0.0, 1.96), (0.7225, 1.0));
    }

    #[test]
    fn nothing_drawn_says_nothing() {
        assert_eq!(wilson(0, 0, 0.0, Z99), (0.0, 1.0));
    }

    #[test]
    fn many_intervals_are_longer_each() {
        assert!((joint_z(1) - Z99).abs() < f64::EPSILON);
        assert!(joint_z(2) > Z99 && joint_z(100) > joint_z(2) && joint_z(100) < 4.5);
    }

    proptest! {
        #[test]
        fn the_share_that_was_seen_lies_inside(count in 1..1_000_000_u64, hits: u64, r in 0.0..=1.0_f64) {
            let hits = hits % (count + 1);
            let (low, high) = wilson(hits, count, r, Z99);
            let seen = hits as f64 / count as f64;
            prop_assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high));
            prop_assert!(low <= seen && seen <= high);
        }

        #[test]
        fn correlation_makes_it_longer(count in 100..100_000_u64, hits: u64, r in 0.1..0.9_f64) {
            let hits = hits % (count + 1);
            let plain = wilson(hits, count, 0.0, Z99);
            let correlated = wilson(hits, count, r, Z99);
            prop_assert!(correlated.1 - correlated.0 >= plain.1 - plain.0);
        }

        #[test]
        fn it_holds_the_true_share_as_often_as_it_says(seed: u32, p in 0.01..0.99_f64) {
            // Four thousand draws of a generator that is good enough, at five standard deviations.
            let mut state = u64::from(seed) + 1;
            let hits = (0..4_000).filter(|_| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 <= p
            });
            let (low, high) = wilson(hits.count() as u64, 4_000, 0.0, 5.0);
            prop_assert!(low <= p && p <= high, "{p} is not in {low}..{high}");
        }
    }
}
