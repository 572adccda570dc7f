//! TOML as a tree that knows where everything stands, read the way Testground reads it: keys match without
//! regard to case, and unknown keys are no errors.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile, suggest};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Array(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
}

/// Parses a file.
pub(crate) fn parse(source: &Arc<SourceFile>) -> Result<Node, Diagnostics> {
    let parsed = DeTable::parse(&source.text).map_err(|err| {
        let message = format!("not valid TOML: {}", err.message().trim());
        Diagnostic::error(source, err.span(), message, "see https://toml.io")
    })?;
    let span = parsed.span();
    Ok(Node { span, value: table(parsed.get_ref()) })
}

fn table(table: &DeTable<'_>) -> Value {
    let mut entries: Vec<(Key, Node)> = table
        .iter()
        .map(|(key, value)| {
            (Key { name: key.get_ref().to_string(), span: key.span() }, node(value))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.span.start);
    Value::Table(entries)
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let tree = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix())
                .map_or_else(|_| Value::Text(number.as_str().to_owned()), Value::Integer)
        }
        DeValue::Float(number) => number
            .as_str()
            .replace('_', "")
            .parse()
            .map_or_else(|_| Value::Text(number.as_str().to_owned()), Value::Float),
        DeValue::Boolean(yes) => Value::Bool(*yes),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Node { span: value.span(), value: tree }
}

impl Node {
    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The value as JSON, without places.
    pub(crate) fn json(&self) -> Json {
        match &self.value {
            Value::Text(text) => Json::from(text.as_str()),
            Value::Integer(number) => Json::from(*number),
            Value::Float(number) => Json::from(*number),
            Value::Bool(yes) => Json::from(*yes),
            Value::Array(items) => items.iter().map(Self::json).collect(),
            Value::Table(entries) => Json::Object(
                entries.iter().map(|(key, value)| (key.name.clone(), value.json())).collect(),
            ),
        }
    }

    /// A scalar as text; tables and lists have none.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Float(number) => Some(Json::from(*number).to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            Value::Array(_) | Value::Table(_) => None,
        }
    }
}

/// Collects what is wrong while a file is read, so that all of it can be told at once.
#[derive(Debug)]
pub(crate) struct Reader<'s> {
    pub(crate) source: &'s Arc<SourceFile>,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
    strict: bool,
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s Arc<SourceFile>, strict: bool) -> Self {
        Self { source, errors: RefCell::default(), warnings: RefCell::default(), strict }
    }

    pub(crate) fn error(&self, span: Range<usize>, message: impl Into<String>, help: &str) {
        let found = Diagnostic::error(self.source, span, message, help);
        self.errors.borrow_mut().push(found);
    }

    /// A warning; with `strict` an error.
    pub(crate) fn warn(&self, span: Range<usize>, message: impl Into<String>, help: &str) {
        if self.strict {
            self.error(span, message, help);
            return;
        }
        let found = Diagnostic::warning(self.source, span, message, help);
        self.warnings.borrow_mut().push(found);
    }

    /// `read`, or everything that was wrong; with the warnings.
    pub(crate) fn finish<T>(self, read: T) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
        let errors = self.errors.into_inner();
        if errors.is_empty() {
            Ok((read, self.warnings.into_inner()))
        } else {
            Err(Diagnostics(errors))
        }
    }

    /// Opens a table; what is not one is an error and reads as empty.
    pub(crate) fn table<'r>(&'r self, node: Option<&'r Node>, what: &'r str) -> Fields<'r, 's> {
        let entries = match node.map(|node| (&node.value, node)) {
            Some((Value::Table(entries), _)) => entries.as_slice(),
            Some((_, node)) => {
                self.error(
                    node.span.clone(),
                    format!("{what} is {}, not a table", node.kind()),
                    "write it as a table, `[name]` or `{ key = value }`",
                );
                &[]
            }
            None => &[],
        };
        Fields {
            reader: self,
            what,
            entries,
            span: node.map_or(0..0, |node| node.span.clone()),
            known: RefCell::default(),
        }
    }
}

/// The fields of one table. Each is asked for by name; what nobody asked for is unknown.
pub(crate) struct Fields<'r, 's> {
    reader: &'r Reader<'s>,
    what: &'r str,
    entries: &'r [(Key, Node)],
    pub(crate) span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

impl<'r> Fields<'r, '_> {
    /// A field, by its name in any case.
    pub(crate) fn get(&self, name: &'static str) -> Option<&'r Node> {
        self.known.borrow_mut().push(name);
        let exact = self.entries.iter().find(|(key, _)| key.name == name);
        exact
            .or_else(|| self.entries.iter().find(|(key, _)| key.name.eq_ignore_ascii_case(name)))
            .map(|(_, node)| node)
    }

    /// Marks fields that stock files carry and nobody reads.
    pub(crate) fn ignore(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    /// A text; absent and `""` are both empty.
    pub(crate) fn text(&self, name: &'static str) -> String {
        let Some(node) = self.get(name) else { return String::new() };
        if let Value::Text(text) = &node.value {
            return text.clone();
        }
        self.wrong(name, node, "a text in quotes");
        String::new()
    }

    /// A count, zero or more.
    pub(crate) fn count(&self, name: &'static str) -> Option<u32> {
        let node = self.get(name)?;
        if let Value::Integer(number) = node.value
            && let Ok(count) = u32::try_from(number)
        {
            return Some(count);
        }
        self.wrong(name, node, "a whole number, 0 or more");
        None
    }

    /// A number.
    pub(crate) fn number(&self, name: &'static str) -> Option<f64> {
        let node = self.get(name)?;
        match node.value {
            Value::Float(number) => Some(number),
            #[expect(
                clippy::cast_precision_loss,
                reason = "such a number is a fraction or a small count"
            )]
            Value::Integer(number) => Some(number as f64),
            Value::Text(_) | Value::Bool(_) | Value::Array(_) | Value::Table(_) => {
                self.wrong(name, node, "a number");
                None
            }
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, name: &'static str) -> Option<bool> {
        let node = self.get(name)?;
        if let Value::Bool(yes) = node.value {
            return Some(yes);
        }
        self.wrong(name, node, "true or false");
        None
    }

    /// A list of tables.
    pub(crate) fn tables(&self, name: &'static str) -> &'r [Node] {
        match self.get(name).map(|node| (&node.value, node)) {
            Some((Value::Array(items), _)) => items,
            Some((_, node)) => {
                self.wrong(name, node, "a list of tables, `[[…]]`");
                &[]
            }
            None => &[],
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &'static str) -> Vec<String> {
        let items = self.tables(name);
        items
            .iter()
            .filter_map(|item| {
                if let Value::Text(text) = &item.value {
                    return Some(text.clone());
                }
                self.wrong(name, item, "a text in quotes");
                None
            })
            .collect()
    }

    /// A table of any content, as JSON, with the case of its keys kept.
    pub(crate) fn free_table(&self, name: &'static str) -> serde_json::Map<String, Json> {
        match self.get(name).map(Node::json) {
            Some(Json::Object(map)) => map,
            Some(_) => {
                if let Some(node) = self.get(name) {
                    self.wrong(name, node, "a table");
                }
                serde_json::Map::new()
            }
            None => serde_json::Map::new(),
        }
    }

    /// The entries as they stand.
    pub(crate) fn entries(&self) -> &'r [(Key, Node)] {
        self.entries
    }

    fn wrong(&self, name: &str, node: &Node, wanted: &str) {
        let message = format!("`{name}` of {} is {}, not {wanted}", self.what, node.kind());
        self.reader.error(node.span.clone(), message, &format!("write `{name}` as {wanted}"));
    }

    /// Warns of what nobody asked for.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.entries {
            if known.iter().any(|name| name.eq_ignore_ascii_case(&key.name)) {
                continue;
            }
            let help = suggest(&key.name, known.iter().copied());
            let message = format!("unknown key `{}` in {}", key.name, self.what);
            self.reader.warn(key.span.clone(), message, &help);
        }
    }
}
