//! A histogram of times whose buckets widen with the value. Pure.
//!
//! Sixteen buckets per power of two, so a bucket is never wider than a sixteenth of what it holds, from
//! one nanosecond to five hundred years, in under a thousand buckets. Two histograms add up to the one
//! that would have been, which is what makes threads and workers mergeable.

use serde::{Deserialize, Serialize};

/// Buckets per power of two.
const PER_OCTAVE: u64 = 16;
const OCTAVE_BITS: u32 = PER_OCTAVE.ilog2();
/// All buckets there are.
const BUCKETS: usize = (64 - OCTAVE_BITS as usize + 1) << OCTAVE_BITS;

/// Counts of times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub struct Histogram {
    /// By bucket, up to the highest one in use.
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

/// How a histogram travels: only buckets that count something.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sparse {
    buckets: Vec<(u16, u64)>,
    max: u64,
}

impl Histogram {
    /// Counts one time.
    pub fn record(&mut self, nanoseconds: u64) {
        self.record_many(nanoseconds, 1);
    }

    /// Counts the same time so often.
    pub fn record_many(&mut self, nanoseconds: u64, times: u64) {
        self.add(bucket(nanoseconds), times);
        self.max = self.max.max(nanoseconds);
    }

    /// Counts everything that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.add(bucket, *count);
        }
        self.max = self.max.max(other.max);
    }

    /// How many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest time, exactly; 0 when there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The time that the share `q` of all times does not exceed; 0 when there is none.
    ///
    /// It is at most a sixteenth above the exact one and never below it.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among more than 2^53 packets may be off by one"
    )]
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
        self.count = self.count.saturating_add(count);
    }
}

/// The bucket of a value. Values under sixteen have one each.
fn bucket(value: u64) -> usize {
    let octave = value.max(PER_OCTAVE).ilog2() - OCTAVE_BITS;
    let above = u64::from(octave) * PER_OCTAVE;
    usize::try_from(above + (value >> octave)).expect("there are fewer than a thousand buckets")
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let octave = (bucket / PER_OCTAVE).saturating_sub(1);
    let lowest = (bucket - octave * PER_OCTAVE) << octave;
    lowest + ((1 << octave) - 1)
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let buckets = (0_u16..).zip(histogram.counts).filter(|(_, count)| *count > 0).collect();
        Self { buckets, max: histogram.max }
    }
}

impl From<Sparse> for Histogram {
    /// A bucket that cannot be is left out: it would only come from a version that counts finer.
    fn from(sparse: Sparse) -> Self {
        let mut histogram = Self { max: sparse.max, ..Self::default() };
        for (bucket, count) in sparse.buckets {
            if usize::from(bucket) < BUCKETS {
                histogram.add(usize::from(bucket), count);
            }
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        histogram
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        // Every size of number is as likely as any other.
        let value = (any::<u64>(), 0..64_u32).prop_map(|(bits, shift)| bits >> shift);
        prop::collection::vec(value, 1..200)
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_too_low_and_at_most_a_sixteenth_too_high(
            values in values(), q in 0.0..=1.0_f64,
        ) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let reached = |(index, _): &(usize, &u64)| (index + 1) as f64 >= q * sorted.len() as f64;
            let (_, exact) = sorted.iter().enumerate().find(reached).expect("q is at most 1");
            let found = of(&values).quantile(q);
            prop_assert!(found >= *exact && found - exact <= exact / 16, "{found} for {exact}");
        }

        #[test]
        fn two_halves_merge_into_the_whole(one in values(), two in values()) {
            let mut merged = of(&one);
            merged.merge(&of(&two));
            let whole: Vec<u64> = one.into_iter().chain(two).collect();
            prop_assert_eq!(merged, of(&whole));
        }

        #[test]
        fn what_travels_arrives(values in values()) {
            let sent = of(&values);
            let json = serde_json::to_string(&sent).expect("plain data");
            prop_assert_eq!(serde_json::from_str::<Histogram>(&json).expect("the same"), sent);
        }

        #[test]
        fn buckets_follow_each_other_without_a_gap(value in 0..u64::MAX) {
            let this = bucket(value);
            prop_assert!(value <= highest(this) && this < BUCKETS);
            prop_assert!(this == bucket(value + 1) || highest(this) == value);
        }
    }

    #[test]
    fn nothing_was_counted() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.max(), empty.quantile(0.99)), (0, 0, 0));
        assert_eq!(highest(bucket(u64::MAX)), u64::MAX);
    }
}
