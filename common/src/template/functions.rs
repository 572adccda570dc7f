//! The functions a template can call.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::Resources;
use super::printf::printf;
use super::value::{Value, table_to_map, to_toml};

/// Every function there is.
pub(super) const NAMES: &[&str] = &[
    "and",
    "atoi",
    "eq",
    "ge",
    "gt",
    "index",
    "le",
    "len",
    "load_resource",
    "lt",
    "ne",
    "not",
    "or",
    "pick",
    "print",
    "printf",
    "println",
    "slice",
    "split",
    "toml",
    "withEnv",
];

/// Why a call failed, and what to do.
pub(super) type Failure = (String, &'static str);

/// Calls a function other than `and` and `or`, which do not look at all of their arguments.
pub(super) fn call(
    name: &str,
    args: &[Value],
    env: &BTreeMap<String, Value>,
    load: &Resources<'_>,
) -> Result<Value, Failure> {
    match name {
        "split" => {
            let parts = text(name, one(name, args)?)?.split(',');
            Ok(Value::List(parts.map(|part| Value::Text(part.to_owned())).collect()))
        }
        "atoi" => atoi(text(name, one(name, args)?)?),
        "load_resource" => load_resource(text(name, one(name, args)?)?, load),
        "pick" => {
            let [table, key] = two(name, args)?;
            let key = text(name, key)?;
            let value = map(name, table)?.get(key).cloned().unwrap_or(Value::Missing);
            Ok(Value::Map(BTreeMap::from([(key.to_owned(), value)])))
        }
        "withEnv" => {
            let mut table = map(name, one(name, args)?)?;
            table.insert("Env".to_owned(), Value::Env(env.clone()));
            Ok(Value::Map(table))
        }
        "toml" => encode(one(name, args)?),
        "not" => Ok(Value::Bool(!one(name, args)?.truth())),
        "len" => length(one(name, args)?),
        "index" => index(args),
        "slice" => slice(args),
        "print" => Ok(Value::Text(print(args))),
        "println" => {
            let parts: Vec<_> = args.iter().map(Value::inner).collect();
            Ok(Value::Text(parts.join(" ") + "\n"))
        }
        "printf" => {
            let Some((format, rest)) = args.split_first() else {
                return Err(arity(name, "a format"));
            };
            Ok(Value::Text(printf(text(name, format)?, rest)))
        }
        _ => compare(name, args).map(Value::Bool),
    }
}

/// A wrong number of arguments.
pub(super) fn arity(name: &str, wants: &str) -> Failure {
    (format!("`{name}` needs {wants}"), "put each argument in parentheses if it is a call itself")
}

fn one<'a>(name: &str, args: &'a [Value]) -> Result<&'a Value, Failure> {
    match args {
        [only] => Ok(only),
        _ => Err(arity(name, "exactly one argument")),
    }
}

fn two<'a>(name: &str, args: &'a [Value]) -> Result<[&'a Value; 2], Failure> {
    match args {
        [first, second] => Ok([first, second]),
        _ => Err(arity(name, "exactly two arguments")),
    }
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, Failure> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Missing => Err((
            format!("invalid value: `{name}` needs a text, and there is none"),
            "set the environment variable, or give a default: `(or .Env.NAME \"default\")`",
        )),
        other => Err((
            format!("`{name}` needs a text, not {}", other.kind()),
            "turn it into a text with `print`, or write it in quotes",
        )),
    }
}

fn map(name: &str, value: &Value) -> Result<BTreeMap<String, Value>, Failure> {
    match value {
        Value::Map(map) => Ok(map.clone()),
        Value::Missing => Ok(BTreeMap::new()),
        other => Err((
            format!("`{name}` needs a map, not {}", other.kind()),
            "give it a table of `load_resource`",
        )),
    }
}

fn atoi(text: &str) -> Result<Value, Failure> {
    text.parse().map(Value::Int).map_err(|_| {
        (format!("`{text}` is not a whole number"), "`atoi` takes digits, such as `\"12\"`")
    })
}

fn load_resource(path: &str, load: &Resources<'_>) -> Result<Value, Failure> {
    let text = load(path).map_err(|reason| {
        (
            format!("failed to read resource `{path}`: {reason}"),
            "paths are relative to the directory of the composition",
        )
    })?;
    let table: toml::Table = toml::from_str(&text).map_err(|err| {
        let line = err.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        (
            format!("resource `{path}` is not TOML, line {line}: {}", err.message()),
            "correct that file; templates are not executed in resources",
        )
    })?;
    Ok(Value::Map(table_to_map(&table)))
}

fn encode(value: &Value) -> Result<Value, Failure> {
    let help = "give it a table, for example the result of `pick`";
    match to_toml(value) {
        Some(toml::Value::Table(table)) => toml::to_string(&table)
            .map(Value::Text)
            .map_err(|err| (format!("failed to write as TOML: {err}"), help)),
        _ => Err((format!("`toml` needs a table, not {}", value.kind()), help)),
    }
}

fn length(value: &Value) -> Result<Value, Failure> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(values) => values.len(),
        Value::Map(map) | Value::Env(map) => map.len(),
        Value::Missing | Value::Root(_) | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            return Err((
                format!("{} has no length", value.kind()),
                "`len` takes a text, a list or a map",
            ));
        }
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(args: &[Value]) -> Result<Value, Failure> {
    let Some((first, keys)) = args.split_first() else { return Err(arity("index", "a value")) };
    let mut value = first.clone();
    for key in keys {
        value = index_one(&value, key)?;
    }
    Ok(value)
}

fn index_one(value: &Value, key: &Value) -> Result<Value, Failure> {
    match (value, key) {
        (Value::Map(map), Value::Text(key)) => Ok(map.get(key).cloned().unwrap_or(Value::Missing)),
        (Value::Env(map), Value::Text(key)) => {
            Ok(map.get(key).cloned().unwrap_or(Value::Text(String::new())))
        }
        (Value::List(values), Value::Int(at)) => {
            position(*at, values.len()).map(|at| values[at].clone())
        }
        (Value::Text(text), Value::Int(at)) => {
            position(*at, text.len()).map(|at| Value::Int(i64::from(text.as_bytes()[at])))
        }
        _ => Err((
            format!("cannot index {} with {}", value.kind(), key.kind()),
            "`index` takes a list and a number, or a map and a text",
        )),
    }
}

fn position(at: i64, length: usize) -> Result<usize, Failure> {
    usize::try_from(at).ok().filter(|at| *at < length).ok_or_else(|| {
        (format!("index out of range: {at} of {length}"), "the first element has index 0")
    })
}

fn slice(args: &[Value]) -> Result<Value, Failure> {
    let help = "`slice` takes a list or a text and up to two numbers";
    let Some((value, ends)) = args.split_first() else { return Err(arity("slice", "a value")) };
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(values) => values.len(),
        other => return Err((format!("cannot slice {}", other.kind()), help)),
    };
    let end_at = |i: usize, default: usize| match ends.get(i) {
        None => Ok(default),
        Some(Value::Int(at)) => position(*at, length + 1),
        Some(other) => Err((format!("cannot slice with {}", other.kind()), help)),
    };
    let (from, to) = (end_at(0, 0)?, end_at(1, length)?);
    if from > to || ends.len() > 2 {
        return Err((format!("cannot slice from {from} to {to}"), help));
    }
    match value {
        Value::Text(text) => {
            Ok(Value::Text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()))
        }
        Value::List(values) => Ok(Value::List(values[from..to].to_vec())),
        other => Err((format!("cannot slice {}", other.kind()), help)),
    }
}

/// Go's `Sprint`: a space stands between two operands when neither is a text.
fn print(args: &[Value]) -> String {
    let mut out = String::new();
    for (i, arg) in args.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if i > 0 && !is_text(arg) && !is_text(&args[i - 1]) {
            out.push(' ');
        }
        out.push_str(&arg.inner());
    }
    out
}

fn compare(name: &str, args: &[Value]) -> Result<bool, Failure> {
    let failed =
        |message| (message, "compare values of the same type; `atoi` makes a number of a text");
    if name == "eq" {
        let Some((first, others)) = args.split_first().filter(|(_, others)| !others.is_empty())
        else {
            return Err(arity(name, "at least two arguments"));
        };
        for other in others {
            if first.equals(other).map_err(failed)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let [a, b] = two(name, args)?;
    if name == "ne" {
        return a.equals(b).map(|equal| !equal).map_err(failed);
    }
    let order = a.order(b).map_err(failed)?;
    let less = order == Some(Ordering::Less);
    let at_most = less || order == Some(Ordering::Equal);
    Ok(match name {
        "lt" => less,
        "le" => at_most,
        "gt" => !at_most,
        _ => !less,
    })
}
