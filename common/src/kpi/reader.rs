//! Adds up the lines of one instance.

use std::collections::BTreeMap;

use super::lines::{self, Content, Line};
use super::series::{SERIES, SeriesKey, SeriesSet};

/// Takes the lines of one instance in and gives the set what becomes of them.
#[derive(Debug)]
pub struct Reader<'a> {
    set: &'a mut SeriesSet,
    group: &'a str,
    /// What counters have counted so far.
    counted: BTreeMap<SeriesKey, f64>,
    /// The last summaries.
    last: BTreeMap<SeriesKey, f64>,
    bad: u64,
    first_bad: Option<&'static str>,
}

impl<'a> Reader<'a> {
    /// A reader of the lines of an instance of `group`.
    #[must_use]
    pub fn new(set: &'a mut SeriesSet, group: &'a str) -> Self {
        let (counted, last) = Default::default();
        Self { set, group, counted, last, bad: 0, first_bad: None }
    }

    /// Takes a line of `results.out`, or of `diagnostics.out`, in.
    pub fn file_line(&mut self, text: &str, diagnostic: bool) {
        if !text.trim().is_empty() {
            self.take(lines::parse(text), diagnostic);
        }
    }

    /// Takes a line of stdout in, if it is about a KPI.
    pub fn stdout_line(&mut self, text: &str) {
        if let Some(line) = lines::parse_stdout(text) {
            self.take(line, false);
        }
    }

    /// Counts a line that could not even be read.
    pub fn bad_line(&mut self, why: &'static str) {
        self.bad += 1;
        self.first_bad.get_or_insert(why);
    }

    fn take(&mut self, line: Result<Line, &'static str>, diagnostic: bool) {
        let Line { name, unit, tags, content } = match line {
            Ok(line) => line,
            Err(why) => return self.bad_line(why),
        };
        let key = SeriesKey { name, group: self.group.to_owned(), unit, tags, diagnostic };
        match content {
            Content::Value(value) => self.set.record(&key, value),
            Content::Observed(observed) => self.set.merge_one(&key, &observed),
            Content::Counted(count) => {
                if let Some(slot) = slot(&mut self.counted, key, self.set) {
                    *slot += count;
                }
            }
            Content::Summary(measures) => {
                for (measure, value) in measures {
                    let name = format!("{}.{measure}", key.name);
                    let unit =
                        if measure == "count" { "count".to_owned() } else { key.unit.clone() };
                    let key = SeriesKey { name, unit, ..key.clone() };
                    if let Some(slot) = slot(&mut self.last, key, self.set) {
                        *slot = value;
                    }
                }
            }
        }
    }

    /// Nothing more is to come. Returns how many lines were bad, and what was wrong with the first.
    pub fn end(self) -> (u64, Option<&'static str>) {
        for (key, value) in self.counted.iter().chain(&self.last) {
            self.set.record(key, *value);
        }
        (self.bad, self.first_bad)
    }
}

/// Where the value of a series is while the instance may still change it; none when there are too many.
fn slot<'m>(
    values: &'m mut BTreeMap<SeriesKey, f64>,
    key: SeriesKey,
    set: &mut SeriesSet,
) -> Option<&'m mut f64> {
    if values.len() >= SERIES && !values.contains_key(&key) {
        set.leave_out(1);
        return None;
    }
    Some(values.entry(key).or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Stat;
    use super::*;

    #[test]
    fn counters_add_up_and_the_last_summary_counts() {
        let mut set = SeriesSet::default();
        for instance in 1..=2 {
            let mut reader = Reader::new(&mut set, "all");
            for count in [2, 3] {
                reader.file_line(
                    &format!(r#"{{"type":"counter","name":"n","measures":{{"count":{count}}}}}"#),
                    false,
                );
                let p95 = count * instance;
                reader.file_line(&format!(r#"{{"type":"timer","name":"t","unit":"s","measures":{{"count":1,"p95":{p95}}}}}"#), false);
                reader.file_line(r#"{"type":"gauge","name":"g","measures":{"value":1}}"#, true);
            }
            reader.file_line("  ", false);
            reader.file_line("oops", false);
            reader.stdout_line("hello");
            reader.stdout_line("kpi spoken=4 s");
            assert_eq!(reader.end(), (1, Some("not a metric in JSON")));
        }
        let found: Vec<_> = set
            .iter()
            .map(|(key, values)| {
                (key.name.as_str(), key.unit.as_str(), values.count(), values.stat(Stat::Max))
            })
            .collect();
        assert_eq!(
            found,
            [
                ("g", "", 4, Some(1.0)),
                ("n", "", 2, Some(5.0)),
                ("spoken", "s", 2, Some(4.0)),
                ("t.count", "count", 2, Some(1.0)),
                ("t.p95", "s", 2, Some(6.0)),
            ]
        );
    }
}
