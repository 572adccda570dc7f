//! Reads lines of InfluxDB's line protocol just far enough to say whose they are. Pure.
//!
//! `measurement,tag=value field=1,other="text" 1700000000000000000`

/// How fine the timestamps of a write are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision(u64);

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
    /// Tags every line gets unless it has them: `run`, `plan`, `case`, `group`.
    pub tags: Vec<(String, String)>,
    /// The instance's number.
    pub instance: u32,
}

/// Writes `line` anew with its origin, and with a timestamp in nanoseconds: `now_ns` if it has none.
/// `None` when it is not a line of the protocol.
#[must_use]
pub fn attribute(
    line: &str,
    identity: &Identity,
    precision: Precision,
    now_ns: u64,
) -> Option<String> {
    let (series, rest) = split(line)?;
    let (fields, time) = split(rest.trim_start()).unwrap_or((rest.trim(), ""));
    if series.is_empty() || series.starts_with(',') || !fields.contains('=') {
        return None;
    }
    let time_ns = match time.trim() {
        "" => i128::from(now_ns),
        time => i128::from(time.parse::<i64>().ok()?) * i128::from(precision.0),
    };
    let mut text = series.to_owned();
    for (name, value) in &identity.tags {
        // A tag that occurs twice makes a line invalid; an SDK's own `run` is as good.
        if !series.contains(&format!(",{name}=")) && !value.is_empty() {
            text.push_str(&format!(",{name}={}", escape(value)));
        }
    }
    Some(format!("{text} {fields},instance={}i {time_ns}", identity.instance))
}

/// Splits at the first space that is neither escaped nor quoted.
fn split(text: &str) -> Option<(&str, &str)> {
    let (mut escaped, mut quoted) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            // Quotes quote in field values only, that is behind a `=`.
            b'"' if quoted || text[..at].ends_with('=') => quoted = !quoted,
            b' ' if !quoted => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

fn escape(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, ' ' | ',' | '=') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_seven(line: &str, precision: &str) -> Option<String> {
        let identity = Identity {
            tags: vec![("run".into(), "r1".into()), ("group".into(), "a b".into())],
            instance: 7,
        };
        attribute(line, &identity, Precision::parse(precision).expect("known"), 99)
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
        ] {
            assert_eq!(by_seven(line, precision).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_not_a_line_is_refused() {
        for line in ["rtt", "rtt value", ",a=b c=1", "rtt value=1 noon", "SELECT 1"] {
            assert_eq!(by_seven(line, ""), None, "{line}");
        }
        assert_eq!(Precision::parse("fortnight"), None);
    }
}
