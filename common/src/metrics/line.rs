//! Reads lines of InfluxDB's line protocol, as strictly as InfluxDB does. Pure.
//!
//! What escapes what is read as in InfluxDB's own parser, `models/points.go`: in the measurement and in tags a
//! character counts as escaped when a backslash is right before it; among fields a backslash takes the next
//! character along, whatever it is.

use super::point::Value;

/// A line that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Line<'a> {
    /// The measurement.
    pub measurement: String,
    /// The tags, in the order of the line.
    pub tags: Vec<(String, String)>,
    /// The fields, in the order of the line.
    pub fields: Vec<(String, Value)>,
    /// The timestamp as it is written.
    pub at: Option<i64>,
    /// The measurement and the tags as they are written.
    pub series_text: &'a str,
    /// The fields as they are written.
    pub fields_text: &'a str,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins with a comma, or there is nothing.
    #[error("missing measurement")]
    Measurement,
    /// A tag has no name or no value, or an equals sign too many.
    #[error("missing tag key or value")]
    Tag,
    /// A tag is there twice.
    #[error("duplicate tags")]
    TwoTags,
    /// There are no fields.
    #[error("missing fields")]
    NoFields,
    /// A field has no name or no value.
    #[error("invalid field format")]
    Field,
    /// A value is none of the protocol's.
    #[error("invalid value of a field")]
    Value,
    /// A text does not end.
    #[error("unbalanced quotes")]
    Quotes,
    /// What follows the fields is not a time.
    #[error("bad timestamp")]
    Time,
    /// A tag or a field is called `time`.
    #[error("`time` is not the name of a tag or field")]
    NamedTime,
}

/// Reads one line, without its end.
///
/// # Errors
/// When a store would not take it.
pub fn parse(text: &str) -> Result<Line<'_>, Malformed> {
    let text = text.trim_matches([' ', '\t', '\r']);
    if text.is_empty() || text.starts_with([',', '#']) {
        return Err(Malformed::Measurement);
    }
    let (series_text, rest) = split_series(text).ok_or(Malformed::NoFields)?;
    let (fields_text, time) = split_fields(rest.trim_start_matches(' '))?;
    let mut parts = split_unescaped(series_text, ',');
    let measurement = parts.next().map(|name| unescaped(name, &[',', ' '])).unwrap_or_default();
    let tags = parts.map(tag).collect::<Result<Vec<_>, _>>()?;
    let twice = |(at, (name, _)): (usize, &(String, String))| {
        tags[..at].iter().any(|(other, _)| other == name)
    };
    if tags.iter().enumerate().any(twice) {
        return Err(Malformed::TwoTags);
    }
    let fields = fields(fields_text)?;
    let at = match time.trim() {
        "" => None,
        time => Some(time.parse().map_err(|_| Malformed::Time)?),
    };
    Ok(Line { measurement, tags, fields, at, series_text, fields_text })
}

/// Splits at the first space that no backslash is right before.
fn split_series(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let at = (1..bytes.len()).find(|at| bytes[*at] == b' ' && bytes[at - 1] != b'\\')?;
    Some((&text[..at], &text[at + 1..]))
}

fn split_unescaped(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut before = ' ';
    text.split(move |c: char| {
        let splits = c == separator && before != '\\';
        before = c;
        splits
    })
}

fn tag(text: &str) -> Result<(String, String), Malformed> {
    let mut halves = split_unescaped(text, '=');
    let (Some(name), Some(value), None) = (halves.next(), halves.next(), halves.next()) else {
        return Err(Malformed::Tag);
    };
    if name.is_empty() || value.is_empty() {
        return Err(Malformed::Tag);
    }
    if name == "time" {
        return Err(Malformed::NamedTime);
    }
    Ok((unescaped(name, SPECIAL), unescaped(value, SPECIAL)))
}

const SPECIAL: &[char] = &[',', '=', ' '];

fn unescaped(text: &str, special: &[char]) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let escapes = c == '\\' && rest.peek().is_some_and(|next| special.contains(next));
        plain.push(if escapes { rest.next().unwrap_or(c) } else { c });
    }
    plain
}

/// Splits after the fields.
fn split_fields(text: &str) -> Result<(&str, &str), Malformed> {
    let mut end = text.len();
    let scan = Scan::new(text);
    let mut quoted = false;
    for (at, byte, inside) in scan {
        quoted = inside;
        if byte == b' ' && !inside {
            end = at;
            break;
        }
    }
    if quoted {
        return Err(Malformed::Quotes);
    }
    if end == 0 {
        return Err(Malformed::NoFields);
    }
    Ok((&text[..end], &text[end..]))
}

fn fields(text: &str) -> Result<Vec<(String, Value)>, Malformed> {
    let mut fields = Vec::new();
    let mut begin = 0;
    let mut equals = None;
    let ends = [(text.len(), b',', false)];
    for (at, byte, inside) in Scan::new(text).chain(ends) {
        match (byte, inside) {
            (b'=', false) if equals.is_none() => equals = Some(at),
            (b',', false) => {
                let middle = equals.take().ok_or(Malformed::Field)?;
                fields.push(field(&text[begin..middle], &text[middle + 1..at])?);
                begin = at + 1;
            }
            (_, _) => {}
        }
    }
    Ok(fields)
}

fn field(name: &str, text: &str) -> Result<(String, Value), Malformed> {
    if name.is_empty() || text.is_empty() {
        return Err(Malformed::Field);
    }
    if name == "time" {
        return Err(Malformed::NamedTime);
    }
    Ok((unescaped(name, SPECIAL), value(text).ok_or(Malformed::Value)?))
}

fn value(text: &str) -> Option<Value> {
    if let Some(quoted) = text.strip_prefix('"') {
        let inner = quoted.strip_suffix('"')?;
        // The scan has seen where it ends; a quote within would have ended it.
        return Some(Value::Text(unescaped(inner, &['"', '\\'])));
    }
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Some(Value::Boolean(true)),
        "f" | "F" | "false" | "False" | "FALSE" => return Some(Value::Boolean(false)),
        _ => {}
    }
    if let Some(whole) = text.strip_suffix('i') {
        return whole.parse().ok().map(Value::Integer);
    }
    if let Some(whole) = text.strip_suffix('u') {
        return whole.parse().ok().map(Value::Unsigned);
    }
    let is_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let number: f64 = text.bytes().all(is_number).then(|| text.parse().ok()).flatten()?;
    number.is_finite().then_some(Value::Float(number))
}

/// The bytes of fields that are not escaped, each with its place and whether it is inside a text.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    quoted: bool,
    /// Whether a value begins here: only there a quote begins a text.
    value: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, quoted: false, value: false }
    }
}

impl Iterator for Scan<'_> {
    type Item = (usize, u8, bool);

    fn next(&mut self) -> Option<Self::Item> {
        while self.bytes.get(self.at) == Some(&b'\\') {
            self.at += 2;
            self.value = false;
        }
        let at = self.at;
        let byte = *self.bytes.get(at)?;
        self.at += 1;
        if byte == b'"' && (self.quoted || self.value) {
            self.quoted = !self.quoted;
        }
        self.value = byte == b'=' && !self.quoted;
        Some((at, byte, self.quoted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    fn fields_of(line: &str) -> Vec<(String, Value)> {
        parse(line).unwrap_or_else(|err| panic!("{line}: {err}")).fields
    }

    #[test]
    fn lines_of_the_documentation_are_read() {
        let line = parse(
            "my\\ Measurement,ta\\,g\\ K=va\\=lue fieldKey=\"string value\" 1556813561098000000",
        )
        .expect("good");
        assert_eq!(line.measurement, "my Measurement");
        assert_eq!(line.tags, [("ta,g K".to_owned(), "va=lue".to_owned())]);
        assert_eq!(line.fields, [("fieldKey".to_owned(), text("string value"))]);
        assert_eq!(line.at, Some(1_556_813_561_098_000_000));
        assert_eq!(line.series_text, "my\\ Measurement,ta\\,g\\ K=va\\=lue");
        assert_eq!(line.fields_text, "fieldKey=\"string value\"");
        assert_eq!(parse("m f=1").expect("good").at, None);
        assert_eq!(parse("m  f=1   5 ").expect("good").at, Some(5));
    }

    #[test]
    fn every_kind_of_value_is_read() {
        for (written, value) in [
            ("1", Value::Float(1.0)),
            ("-1.5e+3", Value::Float(-1500.0)),
            ("12i", Value::Integer(12)),
            ("-9223372036854775808i", Value::Integer(i64::MIN)),
            ("18446744073709551615u", Value::Unsigned(u64::MAX)),
            ("T", Value::Boolean(true)),
            ("false", Value::Boolean(false)),
            ("\"\"", text("")),
            ("\"a b,c=d\"", text("a b,c=d")),
            (r#""say \"hi\" \\ \n""#, text(r#"say "hi" \ \n"#)),
        ] {
            assert_eq!(fields_of(&format!("m f={written},g=1 7"))[0].1, value, "{written}");
        }
    }

    #[test]
    fn a_backslash_that_escapes_nothing_is_one() {
        let line = parse(r"a\b,t=c:\d f\x=1").expect("good");
        assert_eq!(line.measurement, r"a\b");
        assert_eq!(line.tags[0].1, r"c:\d");
        assert_eq!(line.fields[0].0, r"f\x");
        let tag = parse(r"m,t=a\\,b f=1").expect("the comma is escaped");
        assert_eq!(tag.tags, [("t".to_owned(), r"a\,b".to_owned())]);
    }

    #[test]
    fn what_a_store_refuses_is_told_apart() {
        for (line, why) in [
            ("", Malformed::Measurement),
            (",a=b c=1", Malformed::Measurement),
            ("# a comment", Malformed::Measurement),
            ("m", Malformed::NoFields),
            ("m,a=b", Malformed::NoFields),
            ("m,a c=1", Malformed::Tag),
            ("m,a= c=1", Malformed::Tag),
            ("m,=b c=1", Malformed::Tag),
            ("m,a=b=c c=1", Malformed::Tag),
            ("m, c=1", Malformed::Tag),
            ("m,a=b,a=c f=1", Malformed::TwoTags),
            ("m c", Malformed::Field),
            ("m c=", Malformed::Field),
            ("m =1", Malformed::Field),
            ("m c=1,", Malformed::Field),
            ("m c=1,,d=2", Malformed::Field),
            ("m c=one", Malformed::Value),
            ("m c=NaN", Malformed::Value),
            ("m c=inf", Malformed::Value),
            ("m c=1e999", Malformed::Value),
            ("m c=1.5i", Malformed::Value),
            ("m c=9223372036854775808i", Malformed::Value),
            ("m c=-1u", Malformed::Value),
            ("m c=\"a\"b", Malformed::Value),
            ("m c=\"open", Malformed::Quotes),
            ("m c=1 noon", Malformed::Time),
            ("m c=1 1 2", Malformed::Time),
            ("m c=1 9223372036854775808", Malformed::Time),
            ("m,time=a c=1", Malformed::NamedTime),
            ("m time=1", Malformed::NamedTime),
        ] {
            assert_eq!(parse(line), Err(why), "{line}");
        }
    }
}
