//! Values of a template, and how Go prints them.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A value as a template sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Nothing: a missing map key, or `nil`. Printed as `<no value>`.
    Missing,
    /// The data object: it has the one field `Env`.
    Root(BTreeMap<String, Value>),
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
    /// A map that holds nothing but text, which a missing key of `index` shows.
    Env(BTreeMap<String, Value>),
}

impl Value {
    /// Go's name of the type, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "nothing",
            Self::Root(_) => "the data object",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) | Self::Env(_) => "a map",
        }
    }

    /// Whether `if` takes it for true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Missing => false,
            Self::Root(_) => true,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(value) => !value.is_empty(),
            Self::List(value) => !value.is_empty(),
            Self::Map(value) | Self::Env(value) => !value.is_empty(),
        }
    }

    /// What an action prints.
    pub(super) fn print(&self) -> String {
        match self {
            Self::Missing => "<no value>".to_owned(),
            other => other.inner(),
        }
    }

    /// As `print` and `printf "%v"` write it, and as it looks inside a list or map.
    pub(super) fn inner(&self) -> String {
        match self {
            Self::Missing => "<nil>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => float(*value),
            Self::Text(value) => value.clone(),
            Self::List(values) => {
                let parts: Vec<_> = values.iter().map(Self::inner).collect();
                format!("[{}]", parts.join(" "))
            }
            Self::Map(map) | Self::Env(map) => map_text(map),
            Self::Root(map) => format!("{{{}}}", map_text(map)),
        }
    }

    /// Go's `==` on values of one basic kind. `Err` when they cannot be compared.
    pub(super) fn equals(&self, other: &Self) -> Result<bool, String> {
        match (self, other) {
            (Self::List(_) | Self::Map(_) | Self::Env(_), _)
            | (_, Self::List(_) | Self::Map(_) | Self::Env(_)) => {
                Err(format!("cannot compare {} with {}", self.kind(), other.kind()))
            }
            (Self::Missing, Self::Missing) => Ok(true),
            (Self::Missing, _) | (_, Self::Missing) => Ok(false),
            (Self::Bool(a), Self::Bool(b)) => Ok(a == b),
            (Self::Int(a), Self::Int(b)) => Ok(a == b),
            (Self::Float(a), Self::Float(b)) => Ok(a == b),
            (Self::Text(a), Self::Text(b)) => Ok(a == b),
            _ => Err(incompatible(self, other)),
        }
    }

    /// Go's order on values of one basic kind. `Err` when they have none.
    pub(super) fn order(&self, other: &Self) -> Result<Option<Ordering>, String> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Ok(Some(a.cmp(b))),
            (Self::Float(a), Self::Float(b)) => Ok(a.partial_cmp(b)),
            (Self::Text(a), Self::Text(b)) => Ok(Some(a.cmp(b))),
            _ => Err(incompatible(self, other)),
        }
    }
}

fn incompatible(a: &Value, b: &Value) -> String {
    format!("incompatible types for comparison: {} and {}", a.kind(), b.kind())
}

fn map_text(map: &BTreeMap<String, Value>) -> String {
    let parts: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", value.inner())).collect();
    format!("map[{}]", parts.join(" "))
}

/// Go's `%v` of a float: the shortest text, with an exponent for very small and very large values.
pub(super) fn float(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value.is_nan() {
        return "NaN".to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, number) =
            exponent.strip_prefix('-').map_or(('+', exponent), |number| ('-', number));
        return format!("{digits}e{sign}{number:0>2}");
    }
    value.to_string()
}

/// A TOML value as a template sees it.
pub(super) fn from_toml(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::Text(text.clone()),
        toml::Value::Integer(number) => Value::Int(*number),
        toml::Value::Float(number) => Value::Float(*number),
        toml::Value::Boolean(value) => Value::Bool(*value),
        toml::Value::Datetime(time) => Value::Text(time.to_string()),
        toml::Value::Array(values) => Value::List(values.iter().map(from_toml).collect()),
        toml::Value::Table(table) => Value::Map(table_to_map(table)),
    }
}

/// A TOML table as a template sees it.
pub(super) fn table_to_map(table: &toml::Table) -> BTreeMap<String, Value> {
    table.iter().map(|(key, value)| (key.clone(), from_toml(value))).collect()
}

/// A value as TOML; nothing has none.
pub(super) fn to_toml(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Missing => return None,
        Value::Bool(value) => toml::Value::Boolean(*value),
        Value::Int(value) => toml::Value::Integer(*value),
        Value::Float(value) => toml::Value::Float(*value),
        Value::Text(value) => toml::Value::String(value.clone()),
        Value::List(values) => toml::Value::Array(values.iter().filter_map(to_toml).collect()),
        Value::Map(map) | Value::Env(map) | Value::Root(map) => {
            let entries =
                map.iter().filter_map(|(key, value)| Some((key.clone(), to_toml(value)?)));
            toml::Value::Table(entries.collect())
        }
    })
}
