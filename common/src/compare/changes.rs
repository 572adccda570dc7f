//! Where a series of runs changed for good: E-divisive, by Matteson and James (2014), with permutations.
//!
//! A change is where the energy distance between the runs before and after it is greatest, and greater than nearly
//! all that the same runs have in another order. Then both parts are looked at in turn.

use serde::{Deserialize, Serialize};

use super::ranks::float;
use super::shift::median;
use crate::chance::Chance;

/// A series has to have so many runs.
pub const TREND_RUNS: usize = 20;
/// What lasted for fewer runs is no change: nobody is to be woken by one point.
pub const LASTING_RUNS: usize = 5;
/// So many of the last runs are looked at: the work grows with the square of their number.
pub const MOST_RUNS: usize = 300;
/// How often the runs are brought into another order.
const PERMUTATIONS: usize = 199;
/// Where the orders come from: the same series has the same changes whenever it is looked at.
const SEED: u64 = 0x6772_6f75_6e64;

/// A change in a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The first run after it, from 0.
    pub at: usize,
    /// The median of the runs before it, back to the change before that.
    pub before: f64,
    /// The median of the runs from there on, up to the next change.
    pub after: f64,
    /// How likely a split as good as this one would be if nothing had changed.
    pub p: f64,
}

/// The changes in a series of runs, the oldest first. None when there are less than [`TREND_RUNS`].
#[must_use]
pub fn changes(series: &[f64], alpha: f64) -> Option<Vec<Change>> {
    if series.len() < TREND_RUNS {
        return None;
    }
    let skipped = series.len().saturating_sub(MOST_RUNS);
    let series = &series[skipped..];
    let mut chance = Chance::new(SEED);
    let mut bounds = vec![0, series.len()];
    let mut found: Vec<(usize, f64)> = Vec::new();
    while let Some((at, strength)) = best(series, &bounds) {
        let p = p_value(series, &bounds, strength, &mut chance);
        if p >= alpha {
            break;
        }
        found.push((at, p));
        bounds.push(at);
        bounds.sort_unstable();
    }
    found.sort_unstable_by_key(|(at, _)| *at);
    let change = |(at, p): (usize, f64)| {
        let here = bounds.iter().position(|bound| *bound == at)?;
        let before = median(&series[bounds[here - 1]..at])?;
        let after = median(&series[at..bounds[here + 1]])?;
        Some(Change { at: at + skipped, before, after, p })
    };
    Some(found.into_iter().filter_map(change).collect())
}

/// The share of orders, within each part, that have a split as good.
fn p_value(series: &[f64], bounds: &[usize], strength: f64, chance: &mut Chance) -> f64 {
    let mut order = series.to_vec();
    let mut as_good = 1;
    for _ in 0..PERMUTATIONS {
        bounds.windows(2).for_each(|part| chance.shuffle(&mut order[part[0]..part[1]]));
        as_good += usize::from(best(&order, bounds).is_some_and(|(_, other)| other >= strength));
    }
    float(as_good) / float(PERMUTATIONS + 1)
}

/// The best split of any part, and how good it is; none when all parts are too short.
fn best(series: &[f64], bounds: &[usize]) -> Option<(usize, f64)> {
    let parts = bounds.windows(2);
    let splits = parts.filter_map(|part| {
        let (at, strength) = split(&series[part[0]..part[1]])?;
        Some((part[0] + at, strength))
    });
    splits.max_by(|one, other| one.1.total_cmp(&other.1))
}

/// The best split of one part: `at` and an end, so that the runs before `at` are furthest from those up to the end.
/// An end before the last run finds a change that was taken back.
fn split(part: &[f64]) -> Option<(usize, f64)> {
    let within = Within::of(part);
    let mut best: Option<(usize, f64)> = None;
    for at in LASTING_RUNS..=part.len().checked_sub(LASTING_RUNS)? {
        for end in at + LASTING_RUNS..=part.len() {
            let strength = within.strength(at, end);
            if best.is_none_or(|(_, most)| strength > most) {
                best = Some((at, strength));
            }
        }
    }
    best
}

/// How far the runs before `at` are from those between there and `end`.
#[cfg(test)]
pub(super) fn strength(series: &[f64], at: usize, end: usize) -> f64 {
    Within::of(series).strength(at, end)
}

/// For each `from` and `to`, the sum of distances between all runs from the one up to the other, each pair once.
struct Within {
    sums: Vec<f64>,
    side: usize,
}

impl Within {
    fn of(part: &[f64]) -> Self {
        let side = part.len() + 1;
        let mut sums = vec![0.0; side * side];
        for from in (0..part.len()).rev() {
            let mut to_first = 0.0;
            for to in from + 1..side {
                to_first += (part[from] - part[to - 1]).abs();
                sums[from * side + to] = sums[(from + 1) * side + to] + to_first;
            }
        }
        Self { sums, side }
    }

    fn sum(&self, from: usize, to: usize) -> f64 {
        self.sums[from * self.side + to]
    }

    /// The scaled energy distance of the runs before `at` and those from there up to `end` (formula 5 of the paper,
    /// with an exponent of 1).
    fn strength(&self, at: usize, end: usize) -> f64 {
        let (n, m) = (float(at), float(end - at));
        let (before, after) = (self.sum(0, at), self.sum(at, end));
        let between = self.sum(0, end) - before - after;
        let pairs = |count: f64| count * (count - 1.0) / 2.0;
        n * m / (n + m) * (2.0 / (n * m) * between - before / pairs(n) - after / pairs(m))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs around these levels.
    fn series(levels: &[(f64, usize)], noise: f64, seed: u64) -> Vec<f64> {
        let mut chance = Chance::new(seed);
        let mut runs = Vec::new();
        for (level, count) in levels {
            runs.extend((0..*count).map(|_| level * (1.0 + noise * chance.normal())));
        }
        runs
    }

    #[test]
    fn a_change_is_found_where_it_was_made() {
        let found = changes(&series(&[(100.0, 18), (110.0, 14)], 0.02, 1), 0.05).expect("enough");
        let [change] = found.as_slice() else { panic!("{found:?}") };
        assert!((17..=19).contains(&change.at), "{change:?}");
        assert!((98.0..102.0).contains(&change.before) && (108.0..112.0).contains(&change.after));
        assert!(change.p < 0.01);
    }

    #[test]
    fn a_change_that_was_taken_back_is_two() {
        let runs = series(&[(100.0, 20), (115.0, 12), (100.0, 20)], 0.02, 2);
        let found = changes(&runs, 0.05).expect("enough");
        let at: Vec<usize> = found.iter().map(|change| change.at).collect();
        assert_eq!(at, [20, 32]);
    }

    #[test]
    fn a_single_run_alarms_nobody() {
        for at in [12, 29] {
            let mut runs = series(&[(100.0, 30)], 0.02, 3);
            runs[at] = 200.0;
            assert_eq!(changes(&runs, 0.05), Some(Vec::new()));
        }
    }

    #[test]
    fn a_steady_series_seldom_has_a_change() {
        let alarms = (0..40).filter(|seed| {
            let found = changes(&series(&[(100.0, 24)], 0.03, *seed), 0.05);
            found.is_some_and(|found| !found.is_empty())
        });
        let alarms = alarms.count();
        assert!(alarms <= 5, "{alarms} of 40, and 2 are to be expected");
    }

    #[test]
    fn few_runs_are_no_trend_and_of_many_the_last_ones_count() {
        assert_eq!(changes(&[1.0; TREND_RUNS - 1], 0.05), None);
        assert_eq!(changes(&[1.0; TREND_RUNS], 0.05), Some(Vec::new()));
        let long = series(&[(100.0, MOST_RUNS - 20), (120.0, 40)], 0.02, 5);
        let found = changes(&long, 0.05).expect("enough");
        assert_eq!(found.iter().map(|change| change.at).collect::<Vec<_>>(), [MOST_RUNS - 20]);
    }
}
