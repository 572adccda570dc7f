//! The lines in which instances report: those of Testground's SDKs, those of ours, and plain text on stdout.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Distribution;
use super::distribution::{Buckets, GAMMA, LARGEST};
use super::unit;

/// The longest line that is read.
pub const LONGEST_LINE: usize = 256 << 10;
/// The longest name, unit, tag and value of a tag, in bytes.
const LONGEST_WORD: usize = 200;
/// The most tags a line may have.
const TAGS: usize = 16;
/// What a line on stdout begins with that reports a value.
pub const STDOUT_PREFIX: &str = "kpi ";

/// One line, understood. Units are brought to their base.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The name.
    pub name: String,
    /// The base of the unit; empty when there is none.
    pub unit: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it reports.
    pub content: Content,
}

/// What a line reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One value.
    Value(f64),
    /// What was counted since the line before.
    Counted(f64),
    /// What was observed since the line before.
    Observed(Distribution),
    /// A summary of everything so far, which cannot be merged: the last one of an instance counts.
    Summary(Vec<(String, f64)>),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    measures: BTreeMap<String, Value>,
    #[serde(default)]
    tags: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    values: Option<Vec<f64>>,
    #[serde(default)]
    buckets: Option<RawBuckets>,
}

#[derive(Deserialize)]
struct RawBuckets {
    scheme: String,
    gamma: f64,
    #[serde(default)]
    zero: u64,
    #[serde(default)]
    pos: BTreeMap<i32, u64>,
    #[serde(default)]
    neg: BTreeMap<i32, u64>,
}

/// Reads a line of `results.out` or `diagnostics.out`.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn parse(text: &str) -> Result<Line, &'static str> {
    let raw: Raw = serde_json::from_str(text).map_err(|_| "not a metric in JSON")?;
    let (name, mut tags) = split_name(&raw.name);
    for (tag, value) in raw.tags.iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return Err("a tag is not a text"),
        };
        tags.insert(tag.clone(), value);
    }
    let (unit, factor) = unit::base(raw.unit.as_deref().unwrap_or_default());
    let content = content(&raw)?.scaled(factor)?;
    Line { name, unit: unit.to_owned(), tags, content }.checked()
}

/// Reads a line of stdout: `kpi <name>=<value> [unit] [tag=value …]`. None when it is not about a KPI.
#[must_use]
pub fn parse_stdout(text: &str) -> Option<Result<Line, &'static str>> {
    let rest = text.trim().strip_prefix(STDOUT_PREFIX)?;
    let mut words = rest.split_whitespace().peekable();
    // A line of prose that begins with the word is none of ours.
    let (name, value) = words.next()?.split_once('=')?;
    let Ok(value) = value.parse::<f64>() else { return Some(Err("the value is not a number")) };
    let unit = words.next_if(|word| !word.contains('=')).unwrap_or_default();
    let mut tags = BTreeMap::new();
    for word in words {
        let Some((tag, value)) = word.split_once('=') else {
            return Some(Err("tags are written `tag=value`"));
        };
        tags.insert(tag.to_owned(), value.to_owned());
    }
    let (unit, factor) = unit::base(unit);
    let content = Content::Value(value).scaled(factor);
    let line = |content| Line { name: name.to_owned(), unit: unit.to_owned(), tags, content };
    Some(content.map(line).and_then(Line::checked))
}

/// Go's SDK lets tags follow the name: `rtt,peer=a`. What is not of that form is a name like any other.
fn split_name(name: &str) -> (String, BTreeMap<String, String>) {
    let whole = || (name.to_owned(), BTreeMap::new());
    let Some((bare, rest)) = name.split_once(',') else { return whole() };
    let tags: Option<BTreeMap<String, String>> = rest
        .split(',')
        .map(|part| part.split_once('='))
        .map(|tag| tag.filter(|(name, _)| !name.is_empty()))
        .map(|tag| tag.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    tags.map_or_else(whole, |tags| (bare.to_owned(), tags))
}

fn content(raw: &Raw) -> Result<Content, &'static str> {
    let measure = |name: &str| raw.measures.get(name).and_then(Value::as_f64);
    match (raw.kind.as_str(), &raw.values, &raw.buckets) {
        (_, Some(_), Some(_)) => Err("it has values and buckets"),
        (_, Some(values), None) => {
            let mut observed = Distribution::default();
            if values.iter().all(|value| observed.record(*value)) {
                Ok(Content::Observed(observed))
            } else {
                Err("a value is not finite")
            }
        }
        (_, None, Some(buckets)) => Ok(Content::Observed(of_buckets(buckets, measure)?)),
        ("point" | "gauge", None, None) => {
            measure("value").map(Content::Value).ok_or("it has no value")
        }
        ("counter", None, None) => measure("count").map(Content::Counted).ok_or("it has no count"),
        (_, None, None) => {
            if let Some(value) = measure("value") {
                return Ok(Content::Value(value));
            }
            let measures: Vec<(String, f64)> = raw
                .measures
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
                .collect();
            if measures.is_empty() {
                Err("it has no measures")
            } else {
                Ok(Content::Summary(measures))
            }
        }
    }
}

fn of_buckets(
    raw: &RawBuckets,
    measure: impl Fn(&str) -> Option<f64>,
) -> Result<Distribution, &'static str> {
    if raw.scheme != "log" || (raw.gamma - GAMMA).abs() > 1e-9 {
        return Err("buckets must be of the scheme `log` with gamma 1.01");
    }
    // Further ones stand for numbers that no float can hold.
    if raw.pos.keys().chain(raw.neg.keys()).any(|bucket| bucket.unsigned_abs() > 67_000) {
        return Err("a bucket is out of range");
    }
    let counts = raw.pos.values().chain(raw.neg.values());
    let total = counts.fold(raw.zero, |sum, count| sum.saturating_add(*count));
    #[expect(clippy::cast_precision_loss, reason = "nobody observes 2^53 values")]
    let of_mean = || measure("mean").map(|mean| mean * total as f64);
    let bounds = measure("min").zip(measure("max")).filter(|(min, max)| min <= max);
    let (min, max) = bounds.unwrap_or((f64::MAX, f64::MIN));
    let sum = measure("sum").or_else(of_mean).unwrap_or(f64::NAN);
    if sum.abs() > LARGEST {
        return Err("the sum is too large");
    }
    let (zero, pos, neg) = (raw.zero, raw.pos.clone(), raw.neg.clone());
    Ok(Distribution::of_buckets(Buckets { count: 0, sum, min, max, zero, pos, neg }))
}

impl Content {
    /// The same in the base of its unit.
    fn scaled(self, factor: f64) -> Result<Self, &'static str> {
        let fits = |value: f64| value.is_finite() && value.abs() <= LARGEST;
        match self {
            Self::Value(value) if fits(value * factor) => Ok(Self::Value(value * factor)),
            Self::Counted(count) if fits(count * factor) => Ok(Self::Counted(count * factor)),
            Self::Value(_) | Self::Counted(_) => Err("the value is not finite"),
            Self::Observed(observed) => Ok(Self::Observed(observed.scaled(factor))),
            Self::Summary(measures) => {
                let scaled = measures.into_iter().map(|(name, value)| {
                    let factor = if name == "count" { 1.0 } else { factor };
                    (name, value * factor)
                });
                Ok(Self::Summary(scaled.filter(|(_, value)| fits(*value)).collect()))
            }
        }
    }
}

impl Line {
    fn checked(self) -> Result<Self, &'static str> {
        let tags = self.tags.iter().flat_map(|(tag, value)| [tag, value]);
        let mut words = tags.chain([&self.name, &self.unit]);
        if self.name.is_empty() {
            return Err("it has no name");
        }
        if self.tags.len() > TAGS {
            return Err("it has more than 16 tags");
        }
        if words.any(|word| word.len() > LONGEST_WORD) {
            return Err("a name, unit or tag is longer than 200 bytes");
        }
        drop(words);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stat;
    use super::*;

    fn content_of(text: &str) -> Content {
        parse(text).expect("a line").content
    }

    #[test]
    fn lines_of_the_go_sdk_are_read() {
        let point = r#"{"ts":1,"type":"point","name":"a:1/b:2/name:x","measures":{"value":1.5}}"#;
        let line = parse(point).expect("a line");
        assert_eq!((line.name.as_str(), line.content), ("a:1/b:2/name:x", Content::Value(1.5)));
        let piped =
            r#"{"ts":1,"type":"point","name":"time-to-find-first|group|3","measures":{"value":2}}"#;
        assert_eq!(parse(piped).expect("a line").name, "time-to-find-first|group|3");
        let tagged = r#"{"ts":1,"type":"gauge","name":"rtt,peer=a,to=b","measures":{"value":2}}"#;
        let line = parse(tagged).expect("a line");
        assert_eq!(
            (line.name.as_str(), line.tags["peer"].as_str(), line.tags["to"].as_str()),
            ("rtt", "a", "b")
        );
        assert_eq!(parse(&tagged.replace(",to=b", ",b")).expect("a line").name, "rtt,peer=a,b");
        let counter = r#"{"ts":1,"type":"counter","name":"n","measures":{"count":3}}"#;
        assert_eq!(content_of(counter), Content::Counted(3.0));
        let timer = r#"{"ts":1,"type":"timer","name":"t","measures":{"count":3,"p95":0.5}}"#;
        let both = vec![("count".to_owned(), 3.0), ("p95".to_owned(), 0.5)];
        assert_eq!(content_of(timer), Content::Summary(both));
    }

    #[test]
    fn units_are_brought_to_their_base() {
        let text = r#"{"type":"point","name":"t","measures":{"value":1500},"unit":"ms","tags":{"n":3,"ok":true}}"#;
        let line = parse(text).expect("a line");
        assert_eq!((line.unit.as_str(), line.content), ("s", Content::Value(1.5)));
        assert_eq!((line.tags["n"].as_str(), line.tags["ok"].as_str()), ("3", "true"));
    }

    #[test]
    fn observations_come_one_by_one_or_in_buckets() {
        let exact = r#"{"type":"histogram","name":"h","measures":{"count":3},"values":[1,3,2]}"#;
        let Content::Observed(observed) = content_of(exact) else { panic!("observations") };
        assert_eq!((observed.count(), observed.stat(Stat::P50)), (3, Some(2.0)));
        let buckets = r#"{"type":"timer","name":"h","unit":"s","measures":{"min":0.009,"max":0.2,"mean":0.01},
            "buckets":{"scheme":"log","gamma":1.01,"zero":3,"pos":{"-463":4000,"-460":997}}}"#;
        let Content::Observed(observed) = content_of(buckets) else { panic!("observations") };
        assert_eq!((observed.count(), observed.stat(Stat::Sum)), (5000, Some(50.0)));
        let p50 = observed.stat(Stat::P50).expect("some");
        let bound = 1.01_f64.powi(-463);
        assert!((p50 - bound).abs() < bound * 0.005, "{p50} for {bound}");
        assert_eq!(observed.stat(Stat::Max), Some(0.2));
    }

    #[test]
    fn a_bad_line_is_told_from_a_good_one() {
        let long =
            format!(r#"{{"type":"point","name":"{}","measures":{{"value":1}}}}"#, "n".repeat(201));
        for (bad, why) in [
            ("not json", "not a metric in JSON"),
            (r#"{"type":"point","measures":{"value":1}}"#, "not a metric in JSON"),
            (r#"{"type":"point","name":"","measures":{"value":1}}"#, "it has no name"),
            (r#"{"type":"point","name":"a","measures":{"value":null}}"#, "it has no value"),
            (r#"{"type":"counter","name":"a","measures":{}}"#, "it has no count"),
            (r#"{"type":"meter","name":"a","measures":{}}"#, "it has no measures"),
            (
                r#"{"type":"point","name":"a","measures":{"value":1e308},"unit":"h"}"#,
                "the value is not finite",
            ),
            (
                r#"{"type":"point","name":"a","measures":{"value":1},"tags":{"a":[1]}}"#,
                "a tag is not a text",
            ),
            (
                r#"{"type":"timer","name":"a","values":[1],"buckets":{"scheme":"log","gamma":1.01}}"#,
                "it has values and buckets",
            ),
            (
                r#"{"type":"timer","name":"a","buckets":{"scheme":"log","gamma":1.05}}"#,
                "buckets must be of the scheme `log` with gamma 1.01",
            ),
            (
                r#"{"type":"timer","name":"a","buckets":{"scheme":"log","gamma":1.01,"pos":{"90000":1}}}"#,
                "a bucket is out of range",
            ),
            (long.as_str(), "a name, unit or tag is longer than 200 bytes"),
        ] {
            assert_eq!(parse(bad).expect_err(bad), why, "{bad}");
        }
    }

    #[test]
    fn a_line_on_stdout_is_a_name_a_value_a_unit_and_tags() {
        let line = parse_stdout("kpi rtt=12.5 ms peer=a phase=warm").expect("one").expect("good");
        assert_eq!((line.name.as_str(), line.unit.as_str()), ("rtt", "s"));
        assert_eq!(line.content, Content::Value(0.0125));
        assert_eq!(line.tags.len(), 2);
        let bare = parse_stdout("kpi peers=7").expect("one").expect("good");
        assert_eq!((bare.unit.as_str(), bare.tags.len()), ("", 0));
        assert_eq!(parse_stdout("kpi rtt=fast"), Some(Err("the value is not a number")));
        assert_eq!(
            parse_stdout("kpi rtt=1 ms and more"),
            Some(Err("tags are written `tag=value`"))
        );
        for other in ["kpi", "kpi are good", "the kpi rtt=1", ""] {
            assert_eq!(parse_stdout(other), None, "{other}");
        }
    }
}
