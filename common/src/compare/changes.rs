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
