//! By how much one side lies from the other: the estimate of Hodges and Lehmann, with an interval that is right
//! whatever the distribution of the values is.

use serde::{Deserialize, Serialize};

use super::ranks::{EXACT, float, signed_distribution, u_distribution};
use super::tails::normal_quantile;

/// A shift, in the unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The estimate.
    pub estimate: f64,
    /// Where it lies, if there are values enough to say so.
    pub interval: Option<Interval>,
}

/// Where a number lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
    /// How often such an interval has the number in it; at least what was asked for.
    pub confidence: f64,
}

/// The shift from `a` to `b`: the median of all differences, none of values. The interval has the confidence
/// `1 - alpha` at least; it is exact for up to [`EXACT`] values.
#[must_use]
pub fn unpaired(a: &[f64], b: &[f64], alpha: f64) -> Option<Shift> {
    let differences = b.iter().flat_map(|to| a.iter().map(move |from| to - from)).collect();
    let (n, m) = (float(a.len()), float(b.len()));
    let cut = if a.len() + b.len() <= EXACT {
        Cut::exact(&u_distribution(a.len(), b.len()), alpha)
    } else {
        Cut::approximate(n * m / 2.0, n * m * (n + m + 1.0) / 12.0, alpha)
    };
    of(differences, cut)
}

/// The shift of pairs, whose differences these are: the median of the means of any two of them, each with itself
/// too. The interval is as of [`unpaired`].
#[must_use]
pub fn paired(differences: &[f64], alpha: f64) -> Option<Shift> {
    let each = differences.iter().enumerate();
    let means = each
        .flat_map(|(at, one)| differences[at..].iter().map(|other| f64::midpoint(*one, *other)))
        .collect();
    let n = float(differences.len());
    let cut = if differences.len() <= EXACT {
        Cut::exact(&signed_distribution(differences.len()), alpha)
    } else {
        Cut::approximate(n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0, alpha)
    };
    of(means, cut)
}

/// The middle value, or the mean of the two in the middle; none of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

fn of(mut sorted: Vec<f64>, cut: Option<Cut>) -> Option<Shift> {
    sorted.sort_by(f64::total_cmp);
    let estimate = middle(&sorted)?;
    let interval = cut.and_then(|Cut { off, confidence }| {
        let last = sorted.len().checked_sub(off + 1)?;
        (off <= last).then(|| Interval { low: sorted[off], high: sorted[last], confidence })
    });
    Some(Shift { estimate, interval })
}

/// How many of the sorted numbers are cut off at each end.
struct Cut {
    off: usize,
    confidence: f64,
}

impl Cut {
    /// As many as the distribution of the test's statistic allows; none when that is not even none.
    fn exact(likely: &[f64], alpha: f64) -> Option<Self> {
        let mut outside = 0.0;
        let mut cut = None;
        for (off, likely) in likely.iter().enumerate() {
            outside += 2.0 * likely;
            if outside > alpha {
                break;
            }
            cut = Some(Self { off, confidence: 1.0 - outside });
        }
        cut
    }

    fn approximate(mean: f64, variance: f64, alpha: f64) -> Option<Self> {
        let off = (mean - normal_quantile(alpha / 2.0) * variance.sqrt()).floor() - 1.0;
        if off < 0.0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among the pairs of a few hundred runs"
        )]
        let off = off as usize;
        Some(Self { off, confidence: 1.0 - alpha })
    }
}
