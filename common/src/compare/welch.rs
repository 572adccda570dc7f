//! Welch's t test, on logarithms where all values are positive: for so few runs that no order of them is unlikely.

use super::ranks::float;
use super::shift::{Interval, Shift};
use super::tails::{student_beyond, student_quantile};

/// What came of the test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Welch {
    /// How likely the means would be this far apart, or further, if nothing had changed.
    pub p: f64,
    /// Degrees of freedom, by Welch and Satterthwaite.
    pub freedom: f64,
    /// Whether the means are those of logarithms, and so what lies between them is a ratio.
    pub logs: bool,
    /// The shift from `a` to `b`, with an interval of the confidence `1 - alpha`.
    pub shift: Shift,
    /// The shift as a share of `a`, if it can be said: the mean of logarithms gives it directly.
    pub ratio: Option<f64>,
}

/// Welch's test of two sets of values. None when a side has less than two values, or neither varies: then nothing
/// says how much chance alone does.
#[must_use]
pub fn welch(a: &[f64], b: &[f64], alpha: f64) -> Option<Welch> {
    let apart = Apart::of(a, b)?;
    let Apart { base, difference, error, freedom, logs } = apart;
    let reach = student_quantile(alpha, freedom) * error;
    // A ratio is told as what it makes of the mean of `a`, the geometric one.
    let told = |difference: f64| if logs { base.exp() * difference.exp_m1() } else { difference };
    let (low, high) = (told(difference - reach), told(difference + reach));
    let ratio = if logs {
        Some(difference.exp_m1())
    } else {
        (base != 0.0).then(|| difference / base.abs())
    };
    Some(Welch {
        p: apart.p(),
        freedom,
        logs,
        shift: Shift {
            estimate: told(difference),
            interval: Some(Interval { low, high, confidence: 1.0 - alpha }),
        },
        ratio,
    })
}

/// The p-value of [`welch`] alone.
pub(super) fn welch_p(a: &[f64], b: &[f64]) -> Option<f64> {
    Apart::of(a, b).map(|apart| apart.p())
}

/// How far the means of two sides are apart, of logarithms where there are.
struct Apart {
    /// The mean of the first side.
    base: f64,
    difference: f64,
    /// The standard error of the difference.
    error: f64,
    freedom: f64,
    logs: bool,
}

impl Apart {
    fn of(a: &[f64], b: &[f64]) -> Option<Self> {
        if a.len() < 2 || b.len() < 2 {
            return None;
        }
        let logs = positive(a) && positive(b);
        let (from, to) = (Spread::of(&scaled(a, logs)), Spread::of(&scaled(b, logs)));
        let (part_a, part_b) = (from.variance / float(a.len()), to.variance / float(b.len()));
        let error = (part_a + part_b).sqrt();
        // What is left by rounding is not how values vary.
        let rounding = 1e-12 * from.mean.abs().max(to.mean.abs());
        let squares = part_a.powi(2) / float(a.len() - 1) + part_b.powi(2) / float(b.len() - 1);
        let freedom = (part_a + part_b).powi(2) / squares;
        let difference = to.mean - from.mean;
        let apart = Self { base: from.mean, difference, error, freedom, logs };
        (error > rounding).then_some(apart)
    }

    fn p(&self) -> f64 {
        student_beyond(self.difference / self.error, self.freedom)
    }
}

/// Whether logarithms can be had of all of them.
pub(super) fn positive(values: &[f64]) -> bool {
    values.iter().all(|value| *value > 0.0)
}

/// The values, or their logarithms.
pub(super) fn scaled(values: &[f64], logs: bool) -> Vec<f64> {
    values.iter().map(|value| if logs { value.ln() } else { *value }).collect()
}

/// Mean and variance of a sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// The sum of squares by one less than the number of values; not a number for less than two.
    pub(super) variance: f64,
}

impl Spread {
    pub(super) fn of(values: &[f64]) -> Self {
        let count = float(values.len());
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, variance: squares / (count - 1.0) }
    }
}
