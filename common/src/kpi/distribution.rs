//! The values of one series: each of them while they are few, and counts in buckets of equal relative width after that.
//!
//! The bucket `i` of positive values holds those in `(γ^(i-1), γ^i]`, so what is read from it is within half a percent
//! of the value that was recorded. Count, sum, least and greatest value are exact. Two distributions merge into the one
//! that would have been, whatever the order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::declare::Stat;

/// Up to so many values each is kept.
pub const EXACT: usize = 256;
/// The ratio of the bounds of a bucket.
pub const GAMMA: f64 = 1.01;
/// What is closer to zero counts as zero.
const SMALLEST: f64 = 1e-300;
/// What is further from zero is refused: sums must stay finite.
pub const LARGEST: f64 = 1e290;

/// Values that were recorded.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Distribution {
    /// All of them, sorted; empty once there are buckets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<Buckets>,
}

/// Many values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Buckets {
    /// How many values there are.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The least of them.
    pub min: f64,
    /// The greatest of them.
    pub max: f64,
    /// How many of them are zero.
    #[serde(default)]
    pub zero: u64,
    /// How many positive ones are in each bucket.
    #[serde(default)]
    pub pos: BTreeMap<i32, u64>,
    /// The same of the negative ones, by their absolute value.
    #[serde(default)]
    pub neg: BTreeMap<i32, u64>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            min: f64::MAX,
            max: f64::MIN,
            zero: 0,
            pos: BTreeMap::new(),
            neg: BTreeMap::new(),
        }
    }
}

impl Buckets {
    fn add(&mut self, value: f64, times: u64) {
        self.count = self.count.saturating_add(times);
        self.sum += value * as_float(times);
        (self.min, self.max) = (self.min.min(value), self.max.max(value));
        let slot = if value.abs() < SMALLEST {
            &mut self.zero
        } else if value > 0.0 {
            self.pos.entry(bucket(value)).or_default()
        } else {
            self.neg.entry(bucket(-value)).or_default()
        };
        *slot = slot.saturating_add(times);
    }

    fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
        self.zero = self.zero.saturating_add(other.zero);
        for (mine, theirs) in [(&mut self.pos, &other.pos), (&mut self.neg, &other.neg)] {
            for (bucket, count) in theirs {
                let slot = mine.entry(*bucket).or_default();
                *slot = slot.saturating_add(*count);
            }
        }
    }

    /// What each bucket stands for and how many values are in it, from the least upwards.
    fn ascending(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let negative = self.neg.iter().rev().map(|(bucket, count)| (-middle(*bucket), *count));
        let positive = self.pos.iter().map(|(bucket, count)| (middle(*bucket), *count));
        negative.chain([(0.0, self.zero)]).chain(positive)
    }

    fn quantile(&self, q: f64) -> f64 {
        let rank = rank(q, self.count);
        let mut seen = 0_u64;
        for (value, count) in self.ascending() {
            seen = seen.saturating_add(count);
            if seen >= rank {
                return value.max(self.min).min(self.max);
            }
        }
        self.max
    }
}

impl Distribution {
    /// Many values that were counted elsewhere. What is not said of them is taken from the buckets.
    #[must_use]
    pub fn of_buckets(mut buckets: Buckets) -> Self {
        let inner = || buckets.pos.values().chain(buckets.neg.values());
        buckets.count = inner().fold(buckets.zero, |sum, count| sum.saturating_add(*count));
        if buckets.count == 0 {
            return Self::default();
        }
        let least = buckets.ascending().find(|(_, count)| *count > 0);
        let greatest = buckets.ascending().filter(|(_, count)| *count > 0).last();
        if buckets.min > buckets.max {
            (buckets.min, buckets.max) =
                (least.map_or(0.0, |(value, _)| value), greatest.map_or(0.0, |(value, _)| value));
        }
        if !buckets.sum.is_finite() {
            buckets.sum =
                buckets.ascending().map(|(value, count)| value * as_float(count)).sum::<f64>();
        }
        Self { values: Vec::new(), buckets: Some(buckets) }
    }

    /// Takes one value in. One that is not a number, or so large that a sum of such might not be one, changes
    /// nothing and gives `false`.
    pub fn record(&mut self, value: f64) -> bool {
        if !value.is_finite() || value.abs() > LARGEST {
            return false;
        }
        // There is one zero.
        let value = value + 0.0;
        if let Some(buckets) = &mut self.buckets {
            buckets.add(value, 1);
            return true;
        }
        let at = self.values.partition_point(|known| *known < value);
        self.values.insert(at, value);
        if self.values.len() > EXACT {
            self.bucketed();
        }
        true
    }

    /// Takes in everything that `other` has.
    pub fn merge(&mut self, other: &Self) {
        if let Some(theirs) = &other.buckets {
            self.bucketed().merge(theirs);
        } else if let Some(mine) = &mut self.buckets {
            other.values.iter().for_each(|value| mine.add(*value, 1));
        } else {
            self.values.extend(&other.values);
            self.values.sort_by(f64::total_cmp);
            if self.values.len() > EXACT {
                self.bucketed();
            }
        }
    }

    fn bucketed(&mut self) -> &mut Buckets {
        let values = std::mem::take(&mut self.values);
        let buckets = self.buckets.get_or_insert_default();
        values.into_iter().for_each(|value| buckets.add(value, 1));
        buckets
    }

    /// The same values in another unit: each times `factor`, which is above zero.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "a factor of one is written as such")]
    pub fn scaled(&self, factor: f64) -> Self {
        if factor == 1.0 {
            return self.clone();
        }
        let values = self.values.iter().map(|value| value * factor).collect();
        let buckets = self.buckets.as_ref().map(|buckets| {
            let mut scaled = Buckets::default();
            buckets.ascending().filter(|(_, count)| *count > 0).for_each(|(value, count)| {
                scaled.add(value * factor, count);
            });
            Buckets {
                sum: buckets.sum * factor,
                min: buckets.min * factor,
                max: buckets.max * factor,
                ..scaled
            }
        });
        Self { values, buckets }
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.as_ref().map_or(self.values.len() as u64, |buckets| buckets.count)
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.buckets.as_ref().map_or_else(|| self.values.iter().sum(), |buckets| buckets.sum)
    }

    /// The value that the share `q` of all does not exceed, by nearest rank; absent when there is none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if let Some(buckets) = &self.buckets {
            return Some(buckets.quantile(q));
        }
        let rank = rank(q, self.values.len() as u64);
        self.values.get(usize::try_from(rank - 1).ok()?).copied()
    }

    /// A statistic; absent when there are no values and it needs some.
    #[must_use]
    pub fn stat(&self, stat: Stat) -> Option<f64> {
        let some = |value: f64| (self.count() > 0).then_some(value);
        match stat {
            Stat::Count => Some(as_float(self.count())),
            Stat::Sum => Some(self.sum()),
            Stat::Mean => some(self.sum() / as_float(self.count())),
            Stat::Min => self.buckets.as_ref().map(|b| b.min).or(self.values.first().copied()),
            Stat::Max => self.buckets.as_ref().map(|b| b.max).or(self.values.last().copied()),
            Stat::P50 => self.quantile(0.50),
            Stat::P90 => self.quantile(0.90),
            Stat::P95 => self.quantile(0.95),
            Stat::P99 => self.quantile(0.99),
        }
    }
}

/// The number of the value, from 1, that the share `q` of `count` values does not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among more than 2^53 values may be off by one"
)]
fn rank(q: f64, count: u64) -> u64 {
    let exact = q.clamp(0.0, 1.0) * as_float(count);
    // 0.95 times 20 is 19, though not as a float.
    ((exact - exact * 1e-12).ceil() as u64).clamp(1, count.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "nobody records 2^53 values")]
fn as_float(count: u64) -> f64 {
    count as f64
}

/// The bucket of a positive value.
#[expect(clippy::cast_possible_truncation, reason = "a logarithm of a float is a small number")]
fn bucket(value: f64) -> i32 {
    (value.ln() / GAMMA.ln()).ceil() as i32
}

/// What a bucket stands for: it is as far from one bound as from the other, relatively.
fn middle(bucket: i32) -> f64 {
    GAMMA.powi(bucket) * (2.0 / (1.0 + GAMMA))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Distribution {
        let mut distribution = Distribution::default();
        values.iter().for_each(|value| assert!(distribution.record(*value)));
        distribution
    }

    fn merged(parts: &[&Distribution]) -> Distribution {
        let mut whole = Distribution::default();
        parts.iter().for_each(|part| whole.merge(part));
        whole
    }

    /// The same, but for the last bits of the sum: floats do not add up alike in every order.
    fn same(one: &Distribution, other: &Distribution) -> bool {
        let close = (one.sum() - other.sum()).abs() <= 1e-9 * (1.0 + one.sum().abs() + 1e9);
        let without_sum = |distribution: &Distribution| {
            let mut copy = distribution.clone();
            copy.buckets.iter_mut().for_each(|buckets| buckets.sum = 0.0);
            copy
        };
        close && without_sum(one) == without_sum(other)
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        // Every magnitude is as likely as any other, with both signs, and some zeros.
        let value = (-1.0..1.0_f64, -9..9_i32).prop_map(|(digits, power)| {
            if digits.abs() < 0.05 { 0.0 } else { digits * 10_f64.powi(power) }
        });
        prop_oneof![
            prop::collection::vec(value.clone(), 1..200),
            prop::collection::vec(value, 200..700),
        ]
    }

    proptest! {
        #[test]
        fn a_percentile_is_within_half_a_percent_of_the_exact_one(values in values(), q in 0.0..=1.0_f64) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let at = usize::try_from(rank(q, sorted.len() as u64)).expect("small") - 1;
            let (exact, found) = (sorted[at], of(&values).quantile(q).expect("there are some"));
            prop_assert!((found - exact).abs() <= exact.abs() * 0.005, "{found} for {exact}");
        }

        #[test]
        fn count_sum_and_bounds_are_exact(values in values()) {
            let found = of(&values);
            let sum: f64 = values.iter().sum();
            prop_assert_eq!(found.count(), values.len() as u64);
            prop_assert!((found.sum() - sum).abs() <= 1e-9 * (1.0 + values.iter().map(|v| v.abs()).sum::<f64>()));
            prop_assert_eq!(found.stat(Stat::Min), values.iter().copied().reduce(f64::min));
            prop_assert_eq!(found.stat(Stat::Max), values.iter().copied().reduce(f64::max));
        }

        #[test]
        fn it_does_not_matter_who_merges_what_first(one in values(), two in values(), three in values()) {
            let [a, b, c] = [&one, &two, &three].map(|values| of(values));
            let left = merged(&[&merged(&[&a, &b]), &c]);
            prop_assert!(same(&left, &merged(&[&a, &merged(&[&b, &c])])));
            prop_assert!(same(&left, &merged(&[&c, &b, &a])));
            let whole: Vec<f64> = one.into_iter().chain(two).chain(three).collect();
            prop_assert!(same(&left, &of(&whole)));
        }

        #[test]
        fn what_travels_arrives(values in values()) {
            let sent = of(&values);
            let packed = crate::bus::encode(&sent);
            prop_assert_eq!(&crate::bus::decode::<Distribution>(&packed).expect("the same"), &sent);
            let json = serde_json::to_string(&sent).expect("plain data");
            let arrived: Distribution = serde_json::from_str(&json).expect("the same");
            prop_assert_eq!(arrived.count(), sent.count());
        }

        #[test]
        fn another_unit_changes_no_more_than_the_unit(values in values(), q in 0.0..=1.0_f64) {
            let (found, scaled) = (of(&values), of(&values).scaled(1000.0));
            let wanted = found.quantile(q).expect("some") * 1000.0;
            let got = scaled.quantile(q).expect("some");
            prop_assert!((got - wanted).abs() <= wanted.abs() * 0.01, "{got} for {wanted}");
            prop_assert_eq!(scaled.count(), found.count());
        }
    }

    #[test]
    fn what_is_no_number_changes_nothing() {
        let mut none = Distribution::default();
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert!(!none.record(wrong), "{wrong}");
        }
        assert_eq!(none, Distribution::default());
        assert_eq!((none.stat(Stat::Count), none.stat(Stat::Sum)), (Some(0.0), Some(0.0)));
        assert_eq!((none.stat(Stat::Mean), none.stat(Stat::P95)), (None, None));
    }

    #[test]
    fn percentiles_of_few_values_are_among_them() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let found = of(&values);
        let stats = [Stat::P50, Stat::P90, Stat::P95, Stat::P99].map(|stat| found.stat(stat));
        assert_eq!(stats, [Some(10.0), Some(18.0), Some(19.0), Some(20.0)]);
        assert_eq!(found.stat(Stat::Mean), Some(10.5));
    }

    #[test]
    fn buckets_that_were_counted_elsewhere_say_what_they_can() {
        let buckets = Buckets {
            sum: f64::NAN,
            zero: 1,
            pos: BTreeMap::from([(bucket(2.0), 2)]),
            neg: BTreeMap::from([(bucket(1.0), 1)]),
            ..Buckets::default()
        };
        let found = Distribution::of_buckets(buckets);
        let near = |stat: Stat, wanted: f64| (found.stat(stat).unwrap() - wanted).abs() < 0.02;
        assert_eq!(found.count(), 4);
        assert!(near(Stat::Min, -1.0) && near(Stat::Max, 2.0) && near(Stat::Sum, 3.0));
        assert_eq!(Distribution::of_buckets(Buckets::default()), Distribution::default());
    }
}
