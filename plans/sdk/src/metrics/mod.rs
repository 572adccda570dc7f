//! KPIs and diagnostics: lines in `results.out` and `diagnostics.out`, in the form of the Go SDK and with tags and
//! units.
//!
//! What is counted or observed is written every few seconds, each line with what has come since the one before.

mod observations;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use self::observations::Observations;
use crate::lines::{LineFile, now_ns};

/// Largest file of lines. What comes after is counted and not written.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Something that can be a KPI's value, with the unit it comes in.
pub trait Measure {
    /// The number.
    fn number(&self) -> f64;

    /// The unit, where the type has one.
    fn unit(&self) -> Option<&'static str> {
        None
    }
}

macro_rules! plain_numbers {
    ($($number:ty)*) => {
        $(impl Measure for $number {
            fn number(&self) -> f64 {
                f64::from(*self)
            }
        })*
    };
}

plain_numbers!(f64 f32 u32 i32 u16 i16 u8 i8);

macro_rules! wide_numbers {
    ($($number:ty)*) => {
        $(impl Measure for $number {
            #[expect(clippy::cast_precision_loss, reason = "a measure is a float")]
            fn number(&self) -> f64 {
                *self as f64
            }
        })*
    };
}

wide_numbers!(u64 i64 usize isize);

impl Measure for bool {
    fn number(&self) -> f64 {
        f64::from(u8::from(*self))
    }
}

impl Measure for Duration {
    fn number(&self) -> f64 {
        self.as_secs_f64()
    }

    fn unit(&self) -> Option<&'static str> {
        Some("s")
    }
}

/// Which of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sink {
    Results,
    Diagnostics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Point,
    Gauge,
    Counter,
    Histogram,
    Timer,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Point => "point",
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Timer => "timer",
        }
    }
}

/// What makes lines belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    sink: Sink,
    kind: Kind,
    name: String,
    unit: Option<String>,
    tags: BTreeMap<String, String>,
}

impl Key {
    fn new(sink: Sink, kind: Kind, name: &str) -> Self {
        Self { sink, kind, name: name.to_owned(), unit: None, tags: BTreeMap::new() }
    }

    fn line(&self) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("ts".to_owned(), json!(now_ns()));
        line.insert("type".to_owned(), json!(self.kind.name()));
        line.insert("name".to_owned(), json!(self.name));
        if !self.tags.is_empty() {
            line.insert("tags".to_owned(), json!(self.tags));
        }
        if let Some(unit) = &self.unit {
            line.insert("unit".to_owned(), json!(unit));
        }
        line
    }
}

/// What has come since the last line.
#[derive(Debug, Default)]
struct Series {
    count: u64,
    observations: Observations,
}

#[derive(Debug)]
struct Files {
    results: LineFile,
    diagnostics: LineFile,
    series: BTreeMap<Key, Series>,
    tags: BTreeMap<String, String>,
}

impl Files {
    fn write(&mut self, key: &Key, rest: impl FnOnce(&mut Map<String, Value>)) {
        let mut line = key.line();
        rest(&mut line);
        let file = match key.sink {
            Sink::Results => &mut self.results,
            Sink::Diagnostics => &mut self.diagnostics,
        };
        file.write(&Value::Object(line));
    }
}

/// Where KPIs go.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Mutex<Files>>);

impl Metrics {
    pub(crate) fn to(outputs: Option<&Path>) -> Self {
        let open = |name: &str| LineFile::open(outputs.map(|dir| dir.join(name)), MAX_BYTES);
        Self(Arc::new(Mutex::new(Files {
            results: open("results.out"),
            diagnostics: open("diagnostics.out"),
            series: BTreeMap::new(),
            tags: BTreeMap::new(),
        })))
    }

    fn with<R>(&self, act: impl FnOnce(&mut Files) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a tag on everything that is recorded from here on.
    pub(crate) fn tag(&self, key: &str, value: &str) {
        self.with(|files| files.tags.insert(key.to_owned(), value.to_owned()));
    }

    pub(crate) fn point(&self, name: &str, value: &impl Measure) -> Point {
        Point::new(self, Key::new(Sink::Results, Kind::Point, name), value)
    }

    pub(crate) fn gauge(&self, name: &str, value: &impl Measure) -> Point {
        Point::new(self, Key::new(Sink::Results, Kind::Gauge, name), value)
    }

    pub(crate) fn diagnostic(&self, name: &str, value: &impl Measure) -> Point {
        Point::new(self, Key::new(Sink::Diagnostics, Kind::Gauge, name), value)
    }

    pub(crate) fn counter(&self, name: &str) -> Counter {
        Counter { metrics: self.clone(), key: Key::new(Sink::Results, Kind::Counter, name) }
    }

    pub(crate) fn histogram(&self, name: &str) -> Histogram {
        Histogram { metrics: self.clone(), key: Key::new(Sink::Results, Kind::Histogram, name) }
    }

    pub(crate) fn timer(&self, name: &str) -> Histogram {
        let mut key = Key::new(Sink::Results, Kind::Timer, name);
        key.unit = Some("s".to_owned());
        Histogram { metrics: self.clone(), key }
    }

    /// Writes what has been counted and observed, and everything that waits, to the files.
    pub(crate) fn flush(&self) {
        self.with(|files| {
            for (key, series) in std::mem::take(&mut files.series) {
                if series.observations.is_empty() {
                    files.write(&key, |line| {
                        line.insert("measures".to_owned(), json!({ "count": series.count }));
                    });
                } else {
                    files.write(&key, |line| series.observations.write(line));
                }
            }
            files.results.flush();
            files.diagnostics.flush();
        });
    }
}

/// The methods that say more about a KPI.
macro_rules! described {
    ($name:ident) => {
        impl $name {
            /// Sets the unit: `s`, `B`, `count`, `ratio`, or another.
            pub fn unit(mut self, unit: &str) -> Self {
                self.key.unit = Some(unit.to_owned());
                self
            }

            /// Adds a tag. Each value of a tag makes a KPI of its own, so a tag is for what has few of them.
            pub fn tag(mut self, key: &str, value: impl std::fmt::Display) -> Self {
                self.key.tags.insert(key.to_owned(), value.to_string());
                self
            }
        }
    };
}

/// One value, to be recorded.
#[must_use = "a point is written by `record`"]
#[derive(Debug)]
pub struct Point {
    metrics: Metrics,
    key: Key,
    value: f64,
}

described!(Point);

impl Point {
    fn new(metrics: &Metrics, mut key: Key, value: &impl Measure) -> Self {
        key.unit = value.unit().map(str::to_owned);
        Self { metrics: metrics.clone(), key, value: value.number() }
    }

    /// Writes it. A value that is not finite is left out: no statistics can be made of it.
    pub fn record(mut self) {
        if !self.value.is_finite() {
            return;
        }
        self.metrics.with(|files| {
            add_common(&mut self.key, files);
            files.write(&self.key, |line| {
                line.insert("measures".to_owned(), json!({ "value": self.value }));
            });
        });
    }
}

fn add_common(key: &mut Key, files: &Files) {
    for (name, value) in &files.tags {
        key.tags.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

/// A number that only grows.
#[must_use = "a counter counts what is added to it"]
#[derive(Debug, Clone)]
pub struct Counter {
    metrics: Metrics,
    key: Key,
}

described!(Counter);

impl Counter {
    /// Counts so many more.
    pub fn add(&self, count: u64) {
        let mut key = self.key.clone();
        self.metrics.with(|files| {
            add_common(&mut key, files);
            files.series.entry(key).or_default().count += count;
        });
    }
}

/// Many values of one thing, of which percentiles are made over all instances.
#[must_use = "a histogram holds what is observed"]
#[derive(Debug, Clone)]
pub struct Histogram {
    metrics: Metrics,
    key: Key,
}

described!(Histogram);

impl Histogram {
    /// Adds a value. One that is not finite is left out.
    #[expect(clippy::needless_pass_by_value, reason = "values are small and are written in place")]
    pub fn observe(&self, value: impl Measure) {
        let number = value.number();
        if !number.is_finite() {
            return;
        }
        let mut key = self.key.clone();
        if key.unit.is_none() {
            key.unit = value.unit().map(str::to_owned);
        }
        self.metrics.with(|files| {
            add_common(&mut key, files);
            files.series.entry(key).or_default().observations.add(number);
        });
    }

    /// Adds how long a future takes.
    pub async fn time<T>(&self, future: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let output = future.await;
        self.observe(begun.elapsed());
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(dir: &Path, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_have_the_form_that_was_agreed_on() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::to(Some(dir.path()));
        metrics.tag("version", "a");
        metrics
            .point("time_to_fetch", &Duration::from_millis(1500))
            .tag("phase", "search")
            .record();
        metrics.point("bad", &f64::NAN).record();
        metrics.gauge("peers", &3_u32).unit("count").tag("version", "own").record();
        metrics.diagnostic("fds", &7_u64).record();
        metrics.flush();
        let mut results = lines(dir.path(), "results.out");
        for line in &mut results {
            assert!(line["ts"].take().as_u64().is_some());
        }
        assert_eq!(
            results,
            [
                json!({"ts": null, "type": "point", "name": "time_to_fetch", "unit": "s",
                       "measures": {"value": 1.5}, "tags": {"phase": "search", "version": "a"}}),
                json!({"ts": null, "type": "gauge", "name": "peers", "unit": "count",
                       "measures": {"value": 3.0}, "tags": {"version": "own"}}),
            ]
        );
        assert_eq!(lines(dir.path(), "diagnostics.out")[0]["name"], "fds");
    }

    #[test]
    fn each_line_has_what_came_since_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::to(Some(dir.path()));
        let (sent, rtt) = (metrics.counter("sent"), metrics.timer("rtt"));
        sent.add(2);
        rtt.observe(Duration::from_millis(10));
        rtt.observe(Duration::from_millis(30));
        metrics.flush();
        sent.add(1);
        metrics.flush();
        metrics.flush();
        let results = lines(dir.path(), "results.out");
        let told: Vec<_> =
            results.iter().map(|line| (&line["name"], &line["measures"]["count"])).collect();
        assert_eq!(
            told,
            [(&json!("sent"), &json!(2)), (&json!("rtt"), &json!(2)), (&json!("sent"), &json!(1))]
        );
        assert_eq!(results[1]["values"], json!([0.01, 0.03]));
        assert_eq!((&results[1]["type"], &results[1]["unit"]), (&json!("timer"), &json!("s")));
    }

    #[test]
    fn without_outputs_nothing_is_written_and_nothing_fails() {
        let metrics = Metrics::to(None);
        metrics.point("a", &1).record();
        metrics.counter("b").add(1);
        metrics.flush();
    }
}
