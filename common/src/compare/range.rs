//! Where one more run of a baseline would lie: what a single run is compared with.

use serde::{Deserialize, Serialize};

use super::ranks::float;
use super::tails::{student_beyond, student_quantile};
use super::welch::{Spread, positive, scaled};

/// From so many runs on, a baseline says where the next one lies.
pub const RANGE_RUNS: usize = 8;
/// From so many runs on, what the runs themselves did counts beside the t distribution.
pub const EMPIRICAL_RUNS: usize = 20;

/// Where the next run of a baseline lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
    /// What share of runs lies there, if nothing has changed.
    pub coverage: f64,
    /// Whether the bounds are those of the runs themselves.
    pub empirical: bool,
}

impl Range {
    /// Whether a value is in it.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The range of the mean of `more` further runs that has the share `1 - alpha` of them. None below [`RANGE_RUNS`]
/// runs, or when they are all alike.
///
/// It is that of Student's t, of logarithms where all values are positive. From [`EMPIRICAL_RUNS`] runs on it
/// reaches as far as the runs did too, in case their distribution has longer tails; and when there are so many that
/// the share can be counted off among them, which is 39 for 95 %, it is theirs alone.
#[must_use]
pub fn range(baseline: &[f64], more: usize, alpha: f64) -> Option<Range> {
    let Student { spread, error, freedom, logs } = Student::of(baseline, more)?;
    let reach = student_quantile(alpha, freedom) * error;
    let value = |scaled: f64| if logs { scaled.exp() } else { scaled };
    let (low, high) = (value(spread.mean - reach), value(spread.mean + reach));
    let student = Range { low, high, coverage: 1.0 - alpha, empirical: false };
    if baseline.len() < EMPIRICAL_RUNS {
        return Some(student);
    }
    let mut sorted = baseline.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (sorted.first()?, sorted.last()?);
    // Of n + 1 runs each is the least as likely as any other.
    let off = float(baseline.len() + 1) * alpha / 2.0;
    if off < 1.0 {
        return Some(Range { low: low.min(*first), high: high.max(*last), ..student });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small share of the runs of a baseline"
    )]
    let off = off as usize;
    Some(Range {
        low: sorted[off - 1],
        high: sorted[sorted.len() - off],
        coverage: 1.0 - 2.0 * float(off) / float(baseline.len() + 1),
        empirical: true,
    })
}

/// How likely the mean of `runs` would be this far from the baseline, or further, if nothing had changed, by
/// Student's t. None as of [`range`], or when there are no runs.
#[must_use]
pub fn outlying(baseline: &[f64], runs: &[f64]) -> Option<f64> {
    let Student { spread, error, freedom, logs } = Student::of(baseline, runs.len())?;
    if logs && !positive(runs) {
        // A value that has no logarithm is infinitely far below those that have one.
        return Some(0.0);
    }
    let mean = Spread::of(&scaled(runs, logs)).mean;
    Some(student_beyond((mean - spread.mean) / error, freedom))
}

/// What Student's t needs to know of a baseline and the runs that follow it.
struct Student {
    spread: Spread,
    /// The deviation of the mean of those runs from that of the baseline.
    error: f64,
    freedom: f64,
    logs: bool,
}

impl Student {
    fn of(baseline: &[f64], more: usize) -> Option<Self> {
        if baseline.len() < RANGE_RUNS || more == 0 {
            return None;
        }
        let logs = positive(baseline);
        let spread = Spread::of(&scaled(baseline, logs));
        let apart = 1.0 / float(more) + 1.0 / float(baseline.len());
        let error = (spread.variance * apart).sqrt();
        let freedom = float(baseline.len() - 1);
        (error > 1e-12 * spread.mean.abs()).then_some(Self { spread, error, freedom, logs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn baseline(runs: usize, seed: u64) -> Vec<f64> {
        let mut chance = Chance::new(seed);
        (0..runs).map(|_| 100.0 * (0.05 * chance.normal()).exp()).collect()
    }

    #[test]
    fn nineteen_of_twenty_further_runs_lie_in_it() {
        for runs in [8, 15, 45] {
            let inside = (0..600).filter(|seed| {
                let mut all = baseline(runs + 1, *seed);
                let next = all.pop().expect("there is one more");
                range(&all, 1, 0.05).expect("there are enough").contains(next)
            });
            let inside = inside.count();
            assert!((550..=588).contains(&inside), "{inside} of 600 after {runs} runs");
        }
    }

    #[test]
    fn many_runs_speak_for_themselves() {
        // One that is far off widens the range once it counts, and not where it can be counted off.
        let with_one_off = |runs| {
            let mut all = baseline(runs, 1);
            all[3] = 400.0;
            range(&all, 1, 0.05).expect("there are enough")
        };
        let (twenty, many) = (with_one_off(20), with_one_off(79));
        assert!(twenty.high >= 400.0 && !twenty.empirical, "{twenty:?}");
        assert!(many.high < 150.0 && many.empirical, "{many:?}");
        assert!((many.coverage - 0.95).abs() < 1e-12);
    }

    #[test]
    fn too_few_runs_or_runs_that_never_vary_have_none() {
        assert_eq!(range(&baseline(7, 1), 1, 0.05), None);
        assert_eq!(range(&[3.0; 30], 1, 0.05), None);
        assert_eq!(outlying(&baseline(9, 1), &[]), None);
        assert_eq!(outlying(&baseline(9, 1), &[0.0]), Some(0.0));
    }
}
