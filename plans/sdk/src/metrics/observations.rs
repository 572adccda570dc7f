//! Many values in little room, so that they can be merged over instances without losing percentiles.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// So many values are kept as they are.
const EXACT: usize = 256;
/// The width of a bucket: its values differ from its middle by less than half a percent.
const GAMMA: f64 = 1.01;
/// What is nearer to zero is zero.
const TINY: f64 = 1e-300;

/// Values since the last line.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Observations {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// All of them while there are few, none when there are many.
    exact: Vec<f64>,
    zero: u64,
    pos: BTreeMap<i32, u64>,
    neg: BTreeMap<i32, u64>,
}

impl Observations {
    pub(super) fn add(&mut self, value: f64) {
        if self.count == 0 {
            (self.min, self.max) = (value, value);
        }
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if self.count <= EXACT as u64 {
            self.exact.push(value);
            return;
        }
        for early in std::mem::take(&mut self.exact) {
            self.bucket(early);
        }
        self.bucket(value);
    }

    fn bucket(&mut self, value: f64) {
        if value.abs() < TINY {
            self.zero += 1;
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a float's logarithm to 1.01 is small")]
        let at = (value.abs().ln() / GAMMA.ln()).ceil() as i32;
        let side = if value > 0.0 { &mut self.pos } else { &mut self.neg };
        *side.entry(at).or_default() += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the keys of a line: `measures`, and `values` or `buckets`.
    pub(super) fn write(&self, line: &mut Map<String, Value>) {
        #[expect(clippy::cast_precision_loss, reason = "a mean is not exact anyway")]
        let mean = self.sum / self.count as f64;
        let measures = json!({
            "count": self.count, "sum": self.sum, "min": self.min, "max": self.max, "mean": mean,
        });
        line.insert("measures".to_owned(), measures);
        if self.count <= EXACT as u64 {
            line.insert("values".to_owned(), json!(self.exact));
            return;
        }
        let Self { zero, pos, neg, .. } = self;
        let buckets =
            json!({ "scheme": "log", "gamma": GAMMA, "zero": zero, "pos": pos, "neg": neg });
        line.insert("buckets".to_owned(), buckets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: impl Iterator<Item = f64>) -> Value {
        let mut all = Observations::default();
        values.for_each(|value| all.add(value));
        let mut line = Map::new();
        all.write(&mut line);
        Value::Object(line)
    }

    #[test]
    fn few_values_are_kept_exactly() {
        let line = written([0.02, 0.01, 0.03].into_iter());
        assert_eq!(line["values"], json!([0.02, 0.01, 0.03]));
        assert_eq!(line["measures"]["min"], 0.01);
        assert_eq!(line["measures"]["count"], 3);
        assert!(line.get("buckets").is_none());
    }

    #[test]
    fn many_values_are_counted_in_buckets_that_lose_none() {
        let line = written((0..1000).map(|at| f64::from(at - 400) / 10.0));
        assert!(line.get("values").is_none());
        let buckets = &line["buckets"];
        let count = |side: &str| -> u64 {
            buckets[side].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
        };
        assert_eq!((count("neg"), buckets["zero"].as_u64(), count("pos")), (400, Some(1), 599));
        assert_eq!(line["measures"]["max"], 59.9);
    }

    #[test]
    fn a_bucket_holds_what_the_format_says() {
        let mut all = Observations::default();
        for value in [1.0, 1.01, 1.010_001, 0.5] {
            all.bucket(value);
        }
        // 1.01 itself may fall on either side of its edge: logarithms are not exact.
        assert_eq!(all.pos.get(&0), Some(&1));
        assert_eq!(
            all.pos.get(&1).copied().unwrap_or(0) + all.pos.get(&2).copied().unwrap_or(0),
            2
        );
        assert_eq!(all.pos.get(&-69), Some(&1));
    }
}
