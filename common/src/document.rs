//! A TOML file read with positions: keys in any case, every slip reported at its place.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity, SourceFile, closest};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// A value of a TOML file.
pub(crate) type Node = At<Data>;

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Time(String),
    Array(Vec<Node>),
    Table(Vec<(At<String>, Node)>),
}

impl Node {
    fn kind(&self) -> &'static str {
        match self.value {
            Data::Text(_) => "a text",
            Data::Integer(_) => "a whole number",
            Data::Float(_) => "a number",
            Data::Bool(_) => "a boolean",
            Data::Time(_) => "a time",
            Data::Array(_) => "a list",
            Data::Table(_) => "a table",
        }
    }

    /// The value as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        match &self.value {
            Data::Text(text) | Data::Time(text) => text.clone().into(),
            Data::Integer(number) => (*number).into(),
            Data::Float(number) => (*number).into(),
            Data::Bool(value) => (*value).into(),
            Data::Array(values) => values.iter().map(Self::json).collect(),
            Data::Table(entries) => serde_json::Value::Object(json_map(entries)),
        }
    }

    /// A scalar as text; parameters and environments take it.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Data::Text(text) | Data::Time(text) => Some(text.clone()),
            Data::Integer(number) => Some(number.to_string()),
            Data::Float(number) => Some(number.to_string()),
            Data::Bool(value) => Some(value.to_string()),
            Data::Array(_) | Data::Table(_) => None,
        }
    }
}

fn json_map(entries: &[(At<String>, Node)]) -> serde_json::Map<String, serde_json::Value> {
    entries.iter().map(|(key, node)| (key.value.clone(), node.json())).collect()
}

/// What is found while a file is read.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) source: Arc<SourceFile>,
    /// Whether an unknown key is an error.
    pub(crate) strict: bool,
    list: RefCell<Vec<Diagnostic>>,
}

impl Findings {
    pub(crate) fn new(source: &Arc<SourceFile>, strict: bool) -> Self {
        Self { source: Arc::clone(source), strict, list: RefCell::default() }
    }

    pub(crate) fn error(
        &self,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.list.borrow_mut().push(Diagnostic::error(&self.source, span, message, help));
    }

    pub(crate) fn warning(
        &self,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.list.borrow_mut().push(Diagnostic::warning(&self.source, span, message, help));
    }

    pub(crate) fn push(&self, one: Diagnostic) {
        self.list.borrow_mut().push(one);
    }

    /// `value` with the warnings, unless there is an error.
    pub(crate) fn conclude<T>(self, value: T) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
        let found = self.list.into_inner();
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|one| one.severity == Severity::Error);
        if errors.is_empty() { Ok((value, warnings)) } else { Err(Diagnostics(errors)) }
    }

    /// The file as a table of positions.
    pub(crate) fn parse(&self) -> Result<Node, Diagnostics> {
        let text = &self.source.text;
        let table = DeTable::parse(text).map_err(|err| {
            let span = err.span().unwrap_or(0..0);
            let span = span.start.min(text.len())..span.end.min(text.len());
            Diagnostic::error(
                &self.source,
                span,
                format!("not TOML: {}", err.message().trim().replace('\n', ", ")),
                "texts stand in quotes, tables in `[name]`, lists of tables in `[[name]]`",
            )
        })?;
        let span = table.span();
        Ok(At { value: Data::Table(entries(table.get_ref())), span })
    }
}

fn entries(table: &DeTable<'_>) -> Vec<(At<String>, Node)> {
    let mut list: Vec<_> = table
        .iter()
        .map(|(key, value)| {
            let key = At { value: key.get_ref().to_string(), span: key.span() };
            (key, node(value.get_ref(), value.span()))
        })
        .collect();
    list.sort_by_key(|(key, _)| key.span.start);
    list
}

fn node(value: &DeValue<'_>, span: Range<usize>) -> Node {
    let data = match value {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix()).map_or(Data::Text(digits), Data::Integer)
        }
        DeValue::Float(number) => {
            Data::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN))
        }
        DeValue::Boolean(value) => Data::Bool(*value),
        DeValue::Datetime(time) => Data::Time(time.to_string()),
        DeValue::Array(values) => {
            Data::Array(values.iter().map(|one| node(one.get_ref(), one.span())).collect())
        }
        DeValue::Table(table) => Data::Table(entries(table)),
    };
    At { value: data, span }
}

/// A table that is being read. Its keys are matched without regard to case, as Testground's TOML library does.
pub(crate) struct Table<'a> {
    findings: &'a Findings,
    name: &'static str,
    entries: &'a [(At<String>, Node)],
    pub(crate) span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
    used: RefCell<Vec<usize>>,
}

impl<'a> Table<'a> {
    /// A table called `name` in messages. Something else than a table is reported and read as an empty one.
    pub(crate) fn new(findings: &'a Findings, name: &'static str, node: &'a Node) -> Self {
        let entries = match &node.value {
            Data::Table(entries) => entries.as_slice(),
            _ => {
                findings.error(
                    node.span.clone(),
                    format!("`{name}` must be a table, not {}", node.kind()),
                    format!("write `[{name}]` and its keys below"),
                );
                &[]
            }
        };
        let (asked, used) = Default::default();
        Self { findings, name, entries, span: node.span.clone(), asked, used }
    }

    /// The value of a key; an exact match goes before one of another case.
    pub(crate) fn get(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        let find = |same: &dyn Fn(&str) -> bool| {
            self.entries.iter().position(|(found, _)| same(&found.value))
        };
        let at = find(&|found| found == key)
            .or_else(|| find(&|found| found.eq_ignore_ascii_case(key)))?;
        self.used.borrow_mut().push(at);
        Some(&self.entries[at].1)
    }

    /// Reports `node` for not being `wanted`.
    fn wrong(&self, key: &str, node: &Node, wanted: &str, example: &str) {
        self.findings.error(
            node.span.clone(),
            format!("`{key}` must be {wanted}, not {}", node.kind()),
            format!("write `{key} = {example}`"),
        );
    }

    /// A text.
    pub(crate) fn text(&self, key: &'static str) -> Option<At<String>> {
        let node = self.get(key)?;
        let Data::Text(text) = &node.value else {
            self.wrong(key, node, "a text", &format!("\"{}\"", node.scalar().unwrap_or_default()));
            return None;
        };
        Some(At { value: text.clone(), span: node.span.clone() })
    }

    /// A whole number that is not negative.
    pub(crate) fn count(&self, key: &'static str) -> Option<At<u32>> {
        let node = self.get(key)?;
        let number = match node.value {
            Data::Integer(number) => u32::try_from(number).ok(),
            _ => None,
        };
        if number.is_none() {
            let message = format!("`{key}` must be a whole number from 0 to {}", u32::MAX);
            self.findings.error(
                node.span.clone(),
                message,
                format!("write `{key} = 2`, without quotes"),
            );
        }
        Some(At { value: number?, span: node.span.clone() })
    }

    /// A whole number of any size that is not negative.
    pub(crate) fn number(&self, key: &'static str) -> Option<At<u64>> {
        let node = self.get(key)?;
        let number = match node.value {
            Data::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        };
        if number.is_none() {
            self.wrong(key, node, "a whole number from 0 upwards", "42");
        }
        Some(At { value: number?, span: node.span.clone() })
    }

    /// A number.
    pub(crate) fn float(&self, key: &'static str) -> Option<At<f64>> {
        let node = self.get(key)?;
        let value = match node.value {
            Data::Float(number) => number,
            // Whole numbers of a composition are far below 2^53.
            #[expect(clippy::cast_precision_loss, reason = "a percentage is a small number")]
            Data::Integer(number) => number as f64,
            _ => {
                self.wrong(key, node, "a number", "0.5");
                return None;
            }
        };
        Some(At { value, span: node.span.clone() })
    }

    /// A boolean.
    pub(crate) fn bool(&self, key: &'static str) -> Option<bool> {
        let node = self.get(key)?;
        let Data::Bool(value) = node.value else {
            self.wrong(key, node, "a boolean", "true");
            return None;
        };
        Some(value)
    }

    /// A table.
    pub(crate) fn table(&self, key: &'static str) -> Option<Table<'a>> {
        self.get(key).map(|node| Table::new(self.findings, key, node))
    }

    /// A list of tables.
    pub(crate) fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Data::Array(nodes) = &node.value else {
            let message = format!("`{key}` must be a list of tables, not {}", node.kind());
            self.findings.error(node.span.clone(), message, format!("write `[[{key}]]`"));
            return Vec::new();
        };
        nodes.iter().map(|node| Table::new(self.findings, key, node)).collect()
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &'static str) -> Vec<String> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let list = match &node.value {
            Data::Array(nodes) => nodes.iter().map(Node::scalar).collect(),
            _ => None,
        };
        list.unwrap_or_else(|| {
            self.wrong(key, node, "a list of texts", "[\"a\", \"b\"]");
            Vec::new()
        })
    }

    /// A table of anything, as JSON.
    pub(crate) fn json(&self, key: &'static str) -> serde_json::Map<String, serde_json::Value> {
        self.table(key).map(|table| json_map(table.entries)).unwrap_or_default()
    }

    /// All entries, whatever their keys.
    pub(crate) fn entries(&self) -> &'a [(At<String>, Node)] {
        self.used.borrow_mut().extend(0..self.entries.len());
        self.entries
    }

    /// Reports the keys nobody asked for, except `ignored` ones.
    pub(crate) fn finish(self, ignored: &[&str]) {
        let used = self.used.into_inner();
        let asked = self.asked.into_inner();
        for (i, (key, _)) in self.entries.iter().enumerate() {
            let known = ignored.iter().any(|one| one.eq_ignore_ascii_case(&key.value));
            if known || used.contains(&i) {
                continue;
            }
            let message = if self.name.is_empty() {
                format!("unknown key `{}`", key.value)
            } else {
                format!("unknown key `{}` in `{}`", key.value, self.name)
            };
            let help = match closest(&key.value, asked.iter().copied()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("it is ignored; known here are {}", listed(&asked)),
            };
            if self.findings.strict {
                self.findings.error(key.span.clone(), message, help);
            } else {
                self.findings.warning(key.span.clone(), message, help);
            }
        }
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
