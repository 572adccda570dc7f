//! Many series: what one share, or all of them together, have measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Distribution;

/// How many different series a share, and a run, may have. What goes beyond is counted and told.
pub const SERIES: usize = 2000;

/// What tells one series from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SeriesKey {
    /// The name, as the plan has it.
    pub name: String,
    /// The group whose instances reported it.
    pub group: String,
    /// The base of its unit; empty when the plan said none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The plan's tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Whether it is from `diagnostics.out`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub diagnostic: bool,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// What it is.
    pub key: SeriesKey,
    /// What was measured.
    pub values: Distribution,
}

/// Series by what tells them apart, bounded.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Listed", into = "Listed")]
pub struct SeriesSet {
    series: BTreeMap<SeriesKey, Distribution>,
    left_out: u64,
}

/// How a set travels: maps have texts as keys everywhere but here.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Listed {
    series: Vec<Series>,
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<Listed> for SeriesSet {
    fn from(listed: Listed) -> Self {
        let mut set = Self { left_out: listed.left_out, ..Self::default() };
        listed.series.iter().for_each(|series| set.merge_one(&series.key, &series.values));
        set
    }
}

impl From<SeriesSet> for Listed {
    fn from(set: SeriesSet) -> Self {
        let series = set.series.into_iter().map(|(key, values)| Series { key, values }).collect();
        Self { series, left_out: set.left_out }
    }
}

impl SeriesSet {
    /// Takes values of one series in, unless it would be one series too many.
    pub fn merge_one(&mut self, key: &SeriesKey, values: &Distribution) {
        if let Some(known) = self.series.get_mut(key) {
            known.merge(values);
        } else if self.series.len() < SERIES {
            self.series.insert(key.clone(), values.clone());
        } else {
            self.leave_out(values.count());
        }
    }

    /// Takes one value in, unless it would be that of one series too many.
    pub fn record(&mut self, key: &SeriesKey, value: f64) {
        if let Some(known) = self.series.get_mut(key) {
            known.record(value);
            return;
        }
        let mut one = Distribution::default();
        one.record(value);
        self.merge_one(key, &one);
    }

    /// Takes another set in.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(key, values)| self.merge_one(key, values));
        self.leave_out(other.left_out);
    }

    /// Counts values that found no place.
    pub(super) fn leave_out(&mut self, values: u64) {
        self.left_out = self.left_out.saturating_add(values);
    }

    /// How many values found no place.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// All series, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&SeriesKey, &Distribution)> {
        self.series.iter()
    }

    /// How many series there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

/// How the host of a worker was doing while a share ran.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLoad {
    /// The share of cpu time that was not idle, of each second.
    pub busy: Distribution,
    /// The share of cpu time that the machine's own host gave to others, of each second.
    pub steal: Distribution,
    /// Processes the kernel killed for want of memory.
    pub oom_kills: u64,
    /// The most that the clock was set by within a second, in seconds.
    pub clock_step_s: f64,
}

/// What a worker tells of the KPIs of its share.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KpiReport {
    /// The series; empty when they are too many for a message.
    pub series: SeriesSet,
    /// Where the series are in the object store when they are too many for a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
    /// How its host was doing.
    pub host: HostLoad,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> SeriesKey {
        SeriesKey { name: name.to_owned(), group: "all".to_owned(), ..SeriesKey::default() }
    }

    #[test]
    fn what_is_one_series_too_many_is_counted() {
        let mut set = SeriesSet::default();
        (0..SERIES + 3).for_each(|n| set.record(&key(&format!("k{n}")), 1.0));
        set.record(&key("k0"), 2.0);
        assert_eq!((set.len(), set.left_out()), (SERIES, 3));
        let mut twice = set.clone();
        twice.merge(&set);
        assert_eq!((twice.len(), twice.left_out()), (SERIES, 6));
        assert_eq!(twice.iter().next().expect("some").1.count(), 4);
    }

    #[test]
    fn a_report_travels_as_json_and_as_a_message() {
        let mut report = KpiReport::default();
        let tags = BTreeMap::from([("phase".to_owned(), "search".to_owned())]);
        let tagged = SeriesKey { tags, unit: "s".to_owned(), ..key("time") };
        (0..1000).for_each(|n| report.series.record(&tagged, f64::from(n)));
        report.series.record(&key("one"), 0.5);
        let json = serde_json::to_string(&report).expect("plain data");
        assert_eq!(serde_json::from_str::<KpiReport>(&json).expect("the same"), report);
        let packed = crate::bus::encode(&report);
        assert_eq!(crate::bus::decode::<KpiReport>(&packed).expect("the same"), report);
        assert!(packed.len() < 4000, "{} bytes", packed.len());
    }
}
