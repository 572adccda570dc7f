//! How the delays of a link are spread around its latency.

use serde::{Deserialize, Serialize};

/// How deviations from the latency are spread. Each has the mean 0, so that the latency is the mean delay
/// as long as no delay would be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Every deviation up to the jitter, in both directions, is as likely as any other.
    #[default]
    Uniform,
    /// The normal distribution; the jitter is its standard deviation.
    Normal,
    /// A Pareto distribution of index 3 as netem has it: most packets are early, few are very late. The
    /// jitter is its standard deviation.
    Pareto,
    /// Measured: quantiles in multiples of the jitter.
    Table(Quantiles),
}

/// Quantiles at equal distances from the lowest to the highest value, in hundredths of the jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    count: u8,
    hundredths: [i16; Quantiles::MOST],
}

/// Quantiles that cannot be a table.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum InvalidQuantiles {
    /// There are too few or too many.
    #[error("a table has 2 to {most} quantiles, not {0}", most = Quantiles::MOST)]
    Count(usize),
    /// One is smaller than the one before it.
    #[error("{0} comes after a larger quantile")]
    Order(f64),
    /// One is out of range.
    #[error("{0} is not between -300 and 300")]
    Range(f64),
}

impl Quantiles {
    /// As many as a table may have.
    pub const MOST: usize = 17;

    /// A table of quantiles, in multiples of the jitter.
    ///
    /// # Errors
    /// When they are too few or too many, or do not rise.
    pub fn new(values: &[f64]) -> Result<Self, InvalidQuantiles> {
        let wrong = InvalidQuantiles::Count(values.len());
        let count = u8::try_from(values.len()).map_err(|_| wrong)?;
        if !(2..=Self::MOST).contains(&values.len()) {
            return Err(wrong);
        }
        let mut hundredths = [0; Self::MOST];
        let mut before = f64::NEG_INFINITY;
        for (slot, value) in hundredths.iter_mut().zip(values) {
            if !(-300.0..=300.0).contains(value) {
                return Err(InvalidQuantiles::Range(*value));
            }
            if *value < before {
                return Err(InvalidQuantiles::Order(*value));
            }
            before = *value;
            #[expect(clippy::cast_possible_truncation, reason = "it was just seen to be small")]
            let rounded = (value * 100.0).round() as i16;
            *slot = rounded;
        }
        Ok(Self { count, hundredths })
    }

    /// The value at `position` in [0, 1], in multiples of the jitter.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a position in [0, 1] times at most 16"
    )]
    pub fn at(&self, position: f64) -> f64 {
        // What comes over the wire may claim to have more than there are.
        let last = usize::from(self.count).clamp(2, Self::MOST) - 1;
        let place = position.clamp(0.0, 1.0) * last as f64;
        let low = (place as usize).min(last - 1);
        let (from, to) = (f64::from(self.hundredths[low]), f64::from(self.hundredths[low + 1]));
        (from + (to - from) * (place - low as f64)) / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_between_its_quantiles() {
        let table = Quantiles::new(&[-1.0, 0.0, 3.0]).expect("a table");
        for (position, value) in [(0.0, -1.0), (0.25, -0.5), (0.5, 0.0), (0.75, 1.5), (1.0, 3.0)] {
            assert!((table.at(position) - value).abs() < 1e-9, "{position}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(Quantiles::new(&[1.0]), Err(InvalidQuantiles::Count(1)));
        assert_eq!(Quantiles::new(&[0.0; 18]), Err(InvalidQuantiles::Count(18)));
        assert_eq!(Quantiles::new(&[1.0, 0.0]), Err(InvalidQuantiles::Order(0.0)));
        assert!(Quantiles::new(&[0.0, f64::NAN]).is_err());
    }
}
