//! What a shape promises. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much later than promised a round trip may be: so much …
const LATE: Duration = Duration::from_millis(1);
/// … and this share of what was promised.
const LATE_SHARE: f64 = 0.05;

/// The round trips that are as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    least: Duration,
    most: Duration,
}

impl Window {
    /// Never early, and late by a millisecond and 5 %.
    pub(crate) fn of(promised: Duration) -> Self {
        Self::between(promised, promised)
    }

    /// The same where the promise has two ends.
    pub(crate) fn between(least: Duration, most: Duration) -> Self {
        Self { least, most: most.mul_f64(1.0 + LATE_SHARE) + LATE }
    }

    /// Exactly these bounds.
    pub(crate) fn exactly(least: Duration, most: Duration) -> Self {
        Self { least, most }
    }

    /// Whether a round trip is as promised.
    pub(crate) fn holds(&self, rtt: Duration) -> bool {
        (self.least..=self.most).contains(&rtt)
    }

    /// By how many seconds a round trip is later than the earliest that is right; below zero it is early.
    pub(crate) fn late_s(&self, rtt: Duration) -> f64 {
        rtt.as_secs_f64() - self.least.as_secs_f64()
    }
}

/// How many standard deviations lie between a count and what is expected, when each of `of` happens with the chance
/// `share`, which is neither 0 nor 1.
pub(crate) fn sigma(count: u64, of: u64, share: f64) -> f64 {
    let expected = of as f64 * share;
    (count as f64 - expected).abs() / (expected * (1.0 - share)).sqrt()
}

/// The mean and the spread of numbers that are collected in several places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Spread {
    /// Adds a number.
    pub(crate) fn add(&mut self, number: f64) {
        self.merge(&Self { count: 1.0, sum: number, squares: number * number });
    }

    /// Adds another's numbers.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    /// The mean.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// The standard deviation.
    fn deviation(&self) -> f64 {
        (self.squares / self.count - self.mean().powi(2)).max(0.0).sqrt()
    }

    /// How many standard errors lie between the deviation and that of a round trip with this jitter, uniform and
    /// independent on both ways.
    pub(crate) fn sigma_of_jitter(&self, jitter: Duration) -> f64 {
        // The variance of a uniform deviation is a third of its square, and two of them add up.
        let expected = jitter.as_secs_f64() * (2.0_f64 / 3.0).sqrt();
        // The sum of two has a kurtosis of 2.4, which gives a deviation's standard error.
        let error = expected * ((2.4 - 1.0) / (4.0 * self.count)).sqrt();
        (self.deviation() - expected).abs() / error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_window_has_no_room_for_what_is_early() {
        let window = Window::of(MS * 100);
        let holds = |micros: u64| window.holds(Duration::from_micros(micros));
        assert_eq!([99_999, 100_000, 106_000, 106_001].map(holds), [false, true, true, false]);
        assert!(window.late_s(MS * 99) < 0.0);
        assert!(!Window::exactly(MS * 200, MS * 215).holds(MS * 216));
    }

    #[test]
    fn sigma_counts_standard_deviations() {
        // 10,000 at 1 % are 100 with a deviation of 9.95.
        assert_eq!(sigma(100, 10_000, 0.01), 0.0);
        assert!((sigma(130, 10_000, 0.01) - 3.015).abs() < 0.001);
        assert!((sigma(70, 10_000, 0.01) - 3.015).abs() < 0.001);
    }

    #[test]
    fn the_spread_of_a_uniform_jitter_is_as_expected_and_another_is_not() {
        let (mut uniform, mut half) = (Spread::default(), Spread::default());
        for there in 0..100 {
            let mut part = Spread::default();
            for back in 0..100 {
                let sum = f64::from(there + back - 99) / 49.5;
                part.add(sum * 0.010);
                half.add(sum * 0.005);
            }
            uniform.merge(&part);
        }
        assert!(uniform.mean().abs() < 1e-9);
        assert!(uniform.sigma_of_jitter(MS * 10) < 3.0);
        assert!(half.sigma_of_jitter(MS * 10) > 30.0);
    }
}
