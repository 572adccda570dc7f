//! One point, and how InfluxDB's line protocol writes it. Pure.
//!
//! `measurement,tag=value field=1,other="text" 1700000000000000000`
//! The rules are those of <https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/>.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The longest text of a field that InfluxDB takes, in bytes.
const LONGEST_TEXT: usize = 64 << 10;

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    Float(f64),
    /// A whole number.
    Integer(i64),
    /// A whole number that is not negative. Groundswell sends none; instances may.
    Unsigned(u64),
    /// Yes or no.
    Boolean(bool),
    /// A text.
    Text(String),
}

/// Values of one thing at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    measurement: String,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, Value>,
    at_ns: i64,
}

/// Why a point has no line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unencodable {
    /// There is nothing to say.
    #[error("`{0}` has no field")]
    NoField(String),
    /// A number is none, or is infinite.
    #[error("`{0}` is not a finite number")]
    NotFinite(String),
    /// A name is empty, or is one that the protocol keeps for itself.
    #[error("`{0}` is not a name")]
    Name(String),
}

impl Point {
    /// A point without tags and fields.
    #[must_use]
    pub fn new(measurement: &str, at_ns: i64) -> Self {
        let (tags, fields) = Default::default();
        Self { measurement: plain(measurement), tags, fields, at_ns }
    }

    /// Adds a tag, in place of one with the same name. An empty one is left out: the protocol has none.
    #[must_use]
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        let value = plain(value);
        if !value.is_empty() {
            self.tags.insert(plain(name), value);
        }
        self
    }

    /// Adds a field, in place of one with the same name.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::Text(text) => Value::Text(one_line(&text)),
            other @ (Value::Float(_)
            | Value::Integer(_)
            | Value::Unsigned(_)
            | Value::Boolean(_)) => other,
        };
        self.fields.insert(plain(name), value);
        self
    }

    /// The point as a line, without its end.
    ///
    /// # Errors
    /// When the protocol has no way to write it.
    pub fn encode(&self) -> Result<String, Unencodable> {
        if self.fields.is_empty() {
            return Err(Unencodable::NoField(self.measurement.clone()));
        }
        // A comment begins like this.
        if self.measurement.is_empty() || self.measurement.starts_with('#') {
            return Err(Unencodable::Name(self.measurement.clone()));
        }
        let mut line = escaped(&self.measurement, &[',', ' ']);
        for (name, value) in &self.tags {
            let _ = write!(line, ",{}={}", key(name)?, escaped(value, SPECIAL));
        }
        let mut before = ' ';
        for (name, value) in &self.fields {
            let _ = write!(line, "{before}{}={}", key(name)?, written(name, value)?);
            before = ',';
        }
        let _ = write!(line, " {}", self.at_ns);
        Ok(line)
    }
}

/// What is escaped in tags and in the names of fields.
const SPECIAL: &[char] = &[',', '=', ' '];

/// Writes a tag's value, as [`Point::tag`] would have it.
#[must_use]
pub fn tag_value(text: &str) -> String {
    escaped(&plain(text), SPECIAL)
}

fn key(name: &str) -> Result<String, Unencodable> {
    // `time` is the time; InfluxDB refuses or drops a tag or field of that name.
    if name.is_empty() || name == "time" {
        return Err(Unencodable::Name(name.to_owned()));
    }
    Ok(escaped(name, SPECIAL))
}

fn written(name: &str, value: &Value) -> Result<String, Unencodable> {
    Ok(match value {
        Value::Float(number) if !number.is_finite() => {
            return Err(Unencodable::NotFinite(name.to_owned()));
        }
        // The shortest text that reads as the same number; large ones have an exponent.
        Value::Float(number) => format!("{number:?}"),
        Value::Integer(number) => format!("{number}i"),
        Value::Unsigned(number) => format!("{number}u"),
        Value::Boolean(yes) => yes.to_string(),
        Value::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    })
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if special.contains(&c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A name or a tag's value as every store reads it: on one line, and without backslashes. Stores disagree about what
/// two of them in a row escape.
fn plain(text: &str) -> String {
    let clean = |c: char| match c {
        '\\' => '/',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(clean).collect()
}

fn one_line(text: &str) -> String {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u64> for Value {
    /// Counts that do not fit are as large as can be: the unsigned numbers of the protocol are not taken everywhere.
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Boolean(yes)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::line;
    use super::*;

    #[test]
    fn a_point_is_one_line_with_what_is_special_escaped() {
        let point = Point::new("a b,c=d", 7)
            .tag("na me", "v,a=l ue")
            .tag("back\\slash", "at the end\\")
            .tag("empty", "")
            .field("f l", 1.5)
            .field("i", 3_u32)
            .field("large", 1e300)
            .field("most", u64::MAX)
            .field("s", "say \"hi\" \\ there\nnow")
            .field("yes", true);
        let line = "a\\ b\\,c=d,back/slash=at\\ the\\ end/,na\\ me=v\\,a\\=l\\ ue \
            f\\ l=1.5,i=3i,large=1e300,most=9223372036854775807i,s=\"say \\\"hi\\\" \\\\ there now\",yes=true 7";
        assert_eq!(point.encode().expect("a line"), line);
    }

    #[test]
    fn what_the_protocol_cannot_write_is_refused() {
        assert_eq!(Point::new("m", 0).encode(), Err(Unencodable::NoField("m".to_owned())));
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let point = Point::new("m", 0).field("good", 1.0).field("bad", number);
            assert_eq!(point.encode(), Err(Unencodable::NotFinite("bad".to_owned())));
        }
        let named = |name: &str| Point::new("m", 0).field(name, 1.0).encode();
        assert_eq!(named(""), Err(Unencodable::Name(String::new())));
        assert_eq!(named("time"), Err(Unencodable::Name("time".to_owned())));
        assert!(Point::new("#m", 0).field("f", 1.0).encode().is_err());
        assert!(Point::new("", 0).field("f", 1.0).encode().is_err());
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let long = "ö".repeat(LONGEST_TEXT);
        let line = Point::new("m", 0).field("f", long.as_str()).encode().expect("a line");
        assert!(line.len() <= LONGEST_TEXT + 10 && line.ends_with("ö\" 0"), "{}", line.len());
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::Float),
            any::<i64>().prop_map(Value::Integer),
            any::<u64>().prop_map(Value::Unsigned),
            any::<bool>().prop_map(Value::Boolean),
            nasty().prop_map(Value::Text),
        ]
    }

    /// Texts out of what is special, so that every rule is met.
    fn nasty() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ ,=\\\\\"a#iut\n\t.-]{0,12}",
            any::<String>().prop_map(|text| text.chars().take(20).collect()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_back(
            measurement in nasty(),
            tags in prop::collection::btree_map(nasty(), nasty(), 0..5),
            fields in prop::collection::btree_map(nasty(), value(), 0..5),
            at_ns in any::<i64>(),
        ) {
            let mut point = Point::new(&measurement, at_ns);
            for (name, value) in &tags {
                point = point.tag(name, value);
            }
            for (name, value) in fields {
                point = point.field(&name, value);
            }
            let Ok(text) = point.encode() else { return Ok(()) };
            prop_assert!(!text.contains('\n'));
            let parsed = match line::parse(&text) {
                Ok(parsed) => parsed,
                Err(err) => return Err(TestCaseError::fail(format!("{text}: {err}"))),
            };
            prop_assert_eq!(parsed.measurement, point.measurement);
            prop_assert_eq!(parsed.tags, point.tags.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(parsed.fields, point.fields.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(parsed.at, Some(at_ns));
        }
    }
}
