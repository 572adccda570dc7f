//! Says whose the lines are that an instance writes, in InfluxDB's line protocol. Pure.

use std::fmt::Write as _;

use groundswell_common::metrics::line::{Malformed, parse};
use groundswell_common::metrics::point::tag_value;

/// The field with the instance's number.
const INSTANCE: &str = "instance";

/// How fine the timestamps of a write are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision(i64);

impl Precision {
    /// Nanoseconds, what holds when nothing is said.
    pub const NANOSECONDS: Self = Self(1);

    /// Reads the `precision` of a request; `None` when InfluxDB does not know it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(match text {
            "" | "n" | "ns" => 1,
            "u" | "us" | "µ" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        }))
    }
}

/// Whose metrics lines are. The instance is a field: as a tag it would make a series of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Tags every line gets unless it has them: `run`, `plan`, `case`, `group`, `worker`, `branch`,
    /// `commit`. An empty one is left out.
    pub tags: Vec<(String, String)>,
    /// The instance's number.
    pub instance: u32,
}

/// Writes `line` anew with its origin, and with a timestamp in nanoseconds: `now_ns` if it has none.
///
/// # Errors
/// When it is not a line of the protocol.
pub fn attribute(
    line: &str,
    identity: &Identity,
    precision: Precision,
    now_ns: i64,
) -> Result<String, Malformed> {
    let read = parse(line)?;
    let at_ns = match read.at {
        None => now_ns,
        Some(at) => at.checked_mul(precision.0).ok_or(Malformed::Time)?,
    };
    let mut text = read.series_text.to_owned();
    for (name, value) in &identity.tags {
        // A tag that occurs twice makes a line invalid; an SDK's own `run` is as good.
        let has = read.tags.iter().any(|(known, _)| known == name);
        let value = tag_value(value);
        if !has && !value.is_empty() {
            let _ = write!(text, ",{name}={value}");
        }
    }
    let _ = write!(text, " {}", read.fields_text);
    let is_instance = |name: &String| name == INSTANCE;
    if !read.fields.iter().map(|(name, _)| name).any(is_instance) {
        let _ = write!(text, ",{INSTANCE}={}i", identity.instance);
    }
    let _ = write!(text, " {at_ns}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_seven(line: &str, precision: &str) -> Option<String> {
        let identity = Identity {
            tags: vec![("run".into(), "r1".into()), ("group".into(), "a b".into())],
            instance: 7,
        };
        attribute(line, &identity, Precision::parse(precision).expect("known"), 99).ok()
    }

    #[test]
    fn a_line_says_whose_it_is_and_when() {
        for (line, precision, expected) in [
            ("rtt value=1", "", "rtt,run=r1,group=a\\ b value=1,instance=7i 99"),
            (
                "rtt,run=own value=1 5",
                "s",
                "rtt,run=own,group=a\\ b value=1,instance=7i 5000000000",
            ),
            (
                r#"a\ b,c=d e="x y \" z",f=2i 12"#,
                "ns",
                r#"a\ b,c=d,run=r1,group=a\ b e="x y \" z",f=2i,instance=7i 12"#,
            ),
            ("rtt value=1,instance=3", "", "rtt,run=r1,group=a\\ b value=1,instance=3 99"),
        ] {
            assert_eq!(by_seven(line, precision).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_not_a_line_is_refused() {
        for line in ["rtt", "rtt value", ",a=b c=1", "rtt value=1 noon", "SELECT 1"] {
            assert_eq!(by_seven(line, ""), None, "{line}");
        }
        assert_eq!(by_seven("rtt value=1 9223372036854775807", "s"), None);
        assert_eq!(by_seven("rtt value=NaN", ""), None);
        assert_eq!(Precision::parse("fortnight"), None);
    }
}
