//! Tests that look at nothing but the order of values: Mann and Whitney's U, and Wilcoxon's signed ranks.
//!
//! Both are exact for up to [`EXACT`] values, with ties too: the probability of each rank sum is worked out over all
//! ways in which the very same values could have been dealt. Above that they use the normal approximation, with the
//! corrections for ties and for continuity. A p-value is twice that of the smaller tail, and 1 at most.

use super::tails::normal_above;

/// Up to so many values of both sides together, or pairs, a test is exact.
pub const EXACT: usize = 60;

/// What came of a test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankTest {
    /// Mann and Whitney: pairs of runs in which the second side is greater, half of the ties among them. Wilcoxon:
    /// the sum of the ranks of what grew.
    pub statistic: f64,
    /// How likely the statistic would be this far off, or further, if nothing had changed.
    pub p: f64,
    /// Whether that is exact.
    pub exact: bool,
}

/// Mann and Whitney's test of two sets of values. None when one of them is empty.
#[must_use]
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<RankTest> {
    if a.len() + b.len() > EXACT {
        return mann_whitney_approximate(a, b);
    }
    let (ranks, of_b, statistic) = u_statistic(a, b)?;
    let p = twice_the_smaller_tail(&sums_of(&ranks, b.len()), of_b);
    Some(RankTest { statistic, p, exact: true })
}

/// The same test by the normal approximation.
pub(super) fn mann_whitney_approximate(a: &[f64], b: &[f64]) -> Option<RankTest> {
    let (ranks, _, statistic) = u_statistic(a, b)?;
    let (n, m, total) = (float(a.len()), float(b.len()), float(ranks.len()));
    let variance = n * m / 12.0 * (total + 1.0 - tied(&ranks) / (total * (total - 1.0)));
    Some(RankTest { statistic, p: approximate(statistic - n * m / 2.0, variance), exact: false })
}

/// The doubled ranks of all values, the sum of those of `b`, and U.
fn u_statistic(a: &[f64], b: &[f64]) -> Option<(Vec<usize>, usize, f64)> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let ranks = doubled_ranks(&all);
    let of_b: usize = ranks[a.len()..].iter().sum();
    let least = float(b.len() * (b.len() + 1)) / 2.0;
    Some((ranks, of_b, float(of_b) / 2.0 - least))
}

/// Wilcoxon's test of the differences of pairs. Those that are zero are left out; none when all are.
#[must_use]
pub fn signed_rank(differences: &[f64]) -> Option<RankTest> {
    let (ranks, grew) = signed_ranks(differences)?;
    if ranks.len() > EXACT {
        return signed_rank_approximate(differences);
    }
    let p = twice_the_smaller_tail(&sums_of_any(&ranks), grew);
    Some(RankTest { statistic: float(grew) / 2.0, p, exact: true })
}

/// The same test by the normal approximation.
pub(super) fn signed_rank_approximate(differences: &[f64]) -> Option<RankTest> {
    let (ranks, grew) = signed_ranks(differences)?;
    let (n, statistic) = (float(ranks.len()), float(grew) / 2.0);
    let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - tied(&ranks) / 2.0) / 24.0;
    let p = approximate(statistic - n * (n + 1.0) / 4.0, variance);
    Some(RankTest { statistic, p, exact: false })
}

/// The doubled ranks of the differences that are not zero, and the sum of those of what grew.
fn signed_ranks(differences: &[f64]) -> Option<(Vec<usize>, usize)> {
    let changed: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    if changed.is_empty() {
        return None;
    }
    let sizes: Vec<f64> = changed.iter().map(|d| d.abs()).collect();
    let ranks = doubled_ranks(&sizes);
    let grew = ranks.iter().zip(&changed).filter(|(_, d)| **d > 0.0).map(|(rank, _)| rank).sum();
    Some((ranks, grew))
}

/// How likely each U from 0 on is when `n` and `m` values differ by chance alone and no two are alike.
pub(super) fn u_distribution(n: usize, m: usize) -> Vec<f64> {
    let ranks: Vec<usize> = (1..=n + m).collect();
    sums_of(&ranks, m).split_off(m * (m + 1) / 2)
}

/// How likely each sum from 0 on is of the ranks of what grew, when `n` pairs differ by chance alone.
pub(super) fn signed_distribution(n: usize) -> Vec<f64> {
    let ranks: Vec<usize> = (1..=n).collect();
    sums_of_any(&ranks)
}

/// Twice the rank of each value, from 2 on; those that are alike share the middle of theirs.
pub(super) fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|one, other| values[*one].total_cmp(&values[*other]));
    let mut ranks = vec![0; values.len()];
    let mut first = 0;
    for alike in order.chunk_by(|one, other| values[*one] == values[*other]) {
        let last = first + alike.len();
        alike.iter().for_each(|at| ranks[*at] = first + 1 + last);
        first = last;
    }
    ranks
}

/// The sum of t³ - t over the sizes t of groups that are alike.
fn tied(ranks: &[usize]) -> f64 {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    sorted
        .chunk_by(|one, other| one == other)
        .map(|alike| float(alike.len().pow(3) - alike.len()))
        .sum()
}

/// How likely each sum of `size` of the ranks is, when every choice of them is.
fn sums_of(ranks: &[usize], size: usize) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    // One row for each number of ranks chosen; the counts are floats, exact up to 2^53 and good to 15 digits beyond.
    let mut ways = vec![vec![0.0; most + 1]; size + 1];
    ways[0][0] = 1.0;
    for (seen, rank) in ranks.iter().enumerate() {
        for chosen in (1..=size.min(seen + 1)).rev() {
            let (fewer, more) = ways.split_at_mut(chosen);
            let (from, to) = (&fewer[chosen - 1], &mut more[0]);
            to[*rank..].iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }
    let ways = ways.pop().unwrap_or_default();
    let total: f64 = ways.iter().sum();
    ways.into_iter().map(|count| count / total).collect()
}

/// How likely each sum of some of the ranks is, when each is taken as likely as not.
fn sums_of_any(ranks: &[usize]) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    let mut likely = vec![0.0; most + 1];
    likely[0] = 1.0;
    for rank in ranks {
        for sum in (0..=most).rev() {
            let with = if sum >= *rank { likely[sum - rank] } else { 0.0 };
            likely[sum] = f64::midpoint(likely[sum], with);
        }
    }
    likely
}

fn twice_the_smaller_tail(likely: &[f64], at: usize) -> f64 {
    let below: f64 = likely[..=at].iter().sum();
    let above: f64 = likely[at..].iter().sum();
    (2.0 * below.min(above)).min(1.0)
}

/// The p-value of a statistic that is this far from its mean, by the normal approximation.
fn approximate(off: f64, variance: f64) -> f64 {
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (off.abs() - 0.5).max(0.0) / variance.sqrt();
    (2.0 * normal_above(z)).min(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "nobody compares 2^53 runs")]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The p-value by trying every way in which the values could have been dealt.
    fn by_hand(a: &[f64], b: &[f64]) -> f64 {
        let all: Vec<f64> = a.iter().chain(b).copied().collect();
        let ranks = doubled_ranks(&all);
        let got: usize = ranks[a.len()..].iter().sum();
        let (mut below, mut above, mut ways) = (0, 0, 0);
        for dealt in 0..1_u32 << all.len() {
            if dealt.count_ones() as usize != b.len() {
                continue;
            }
            let chosen = ranks.iter().enumerate().filter(|(at, _)| dealt >> at & 1 == 1);
            let sum: usize = chosen.map(|(_, rank)| rank).sum();
            ways += 1;
            below += usize::from(sum <= got);
            above += usize::from(sum >= got);
        }
        (2.0 * float(below.min(above)) / float(ways)).min(1.0)
    }

    fn values(most: usize) -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec((0..5_u8).prop_map(f64::from), 1..=most)
    }

    proptest! {
        #[test]
        fn the_test_is_exact_with_ties_too(a in values(6), b in values(6)) {
            let got = mann_whitney(&a, &b).expect("there are values").p;
            let wanted = by_hand(&a, &b);
            prop_assert!((got - wanted).abs() < 1e-12, "{} for {}", got, wanted);
        }

        #[test]
        fn pairs_are_exact_with_ties_too(d in values(9), signs in prop::collection::vec(any::<bool>(), 9)) {
            let signed = |signs: &dyn Fn(usize) -> bool| -> Vec<f64> {
                d.iter().enumerate().map(|(at, d)| if signs(at) { *d } else { -d }).collect()
            };
            let Some(got) = signed_rank(&signed(&|at| signs[at])) else {
                prop_assert!(d.iter().all(|d| *d == 0.0));
                return Ok(());
            };
            let ways = 1_u32 << d.len();
            let sums: Vec<f64> = (0..ways)
                .filter_map(|way| signed_rank(&signed(&|at| way >> at & 1 == 1)))
                .map(|test| test.statistic)
                .collect();
            let below = sums.iter().filter(|sum| **sum <= got.statistic).count();
            let above = sums.iter().filter(|sum| **sum >= got.statistic).count();
            let wanted = (2.0 * float(below.min(above)) / float(sums.len())).min(1.0);
            prop_assert!((got.p - wanted).abs() < 1e-12, "{} for {}", got.p, wanted);
        }

        #[test]
        fn only_the_order_of_values_counts(a in values(8), b in values(8)) {
            let cubed = |values: &[f64]| values.iter().map(|v| v.powi(3) - 7.0).collect::<Vec<_>>();
            prop_assert_eq!(mann_whitney(&a, &b), mann_whitney(&cubed(&a), &cubed(&b)));
        }
    }

    #[test]
    fn what_is_not_there_is_not_tested() {
        assert_eq!(mann_whitney(&[], &[1.0]), None);
        assert_eq!(signed_rank(&[0.0, -0.0]), None);
    }

    #[test]
    fn the_most_values_for_an_exact_test_are_close_to_the_approximation() {
        let a: Vec<f64> = (0..30).map(f64::from).collect();
        let b: Vec<f64> = (0..30).map(|at| f64::from(at) + 5.5).collect();
        let exact = mann_whitney(&a, &b).expect("there are values");
        let close = mann_whitney_approximate(&a, &b).expect("there are values");
        assert!(exact.exact && !close.exact);
        assert!((exact.p - close.p).abs() < 0.1 * exact.p, "{} and {}", exact.p, close.p);
        assert!((u_distribution(30, 30).iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((signed_distribution(60).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
