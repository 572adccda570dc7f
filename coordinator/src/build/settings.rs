//! Reads a builder's options. Keys a builder does not know are left alone: manifests name options of
//! Testground's builders as well.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{BuildError, BuildRequest};

/// The options of one request.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a>(pub(super) &'a BuildRequest);

impl Settings<'_> {
    /// A text; absent or empty is `None`.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, BuildError> {
        match self.0.config.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, format!("`{other}` is not a text"))),
        }
    }

    /// A flag; absent is no.
    pub(super) fn flag(&self, key: &str) -> Result<bool, BuildError> {
        match self.0.config.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, format!("`{other}` is neither true nor false"))),
        }
    }

    /// Selectors and dependencies as texts, for builders that leave it to the plan what to make of them.
    pub(super) fn choices(&self) -> Vec<(String, String)> {
        let one = |one: &super::Dependency| {
            let target = if one.target.is_empty() { &one.module } else { &one.target };
            format!("{}={target}@{}", one.module, one.version)
        };
        let dependencies: Vec<_> = self.0.dependencies.iter().map(one).collect();
        [("SELECTORS", self.0.selectors.join(",")), ("DEPENDENCIES", dependencies.join(" "))]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), text))
            .collect()
    }

    /// A list of texts; one text counts as a list of it.
    pub(super) fn list(&self, key: &str) -> Result<Vec<String>, BuildError> {
        let not_texts =
            |value: &Value| self.wrong(key, format!("`{value}` is not a list of texts"));
        match self.0.config.get(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(value @ Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| not_texts(value)))
                .collect(),
            Some(value) => Err(not_texts(value)),
        }
    }

    /// A table of texts; numbers and booleans are written out.
    pub(super) fn table(&self, key: &str) -> Result<BTreeMap<String, String>, BuildError> {
        let Some(value) = self.0.config.get(key) else { return Ok(BTreeMap::new()) };
        let Value::Object(table) = value else {
            return Err(self.wrong(key, format!("`{value}` is not a table")));
        };
        let mut texts = BTreeMap::new();
        for (name, value) in table {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(self.wrong(key, format!("`{name}` is not a text")));
                }
            };
            texts.insert(name.clone(), text);
        }
        Ok(texts)
    }

    /// A path within the plan, in its normal form; absent is the plan itself.
    pub(super) fn path(&self, key: &str) -> Result<PathBuf, BuildError> {
        let text = self.text(key)?.unwrap_or_default();
        within(&text).ok_or_else(|| self.wrong(key, format!("`{text}` is not a path in the plan")))
    }

    /// Paths within the plan.
    pub(super) fn paths(&self, key: &str) -> Result<Vec<PathBuf>, BuildError> {
        let wrong = |text: &str| self.wrong(key, format!("`{text}` is not a path in the plan"));
        self.list(key)?.iter().map(|text| within(text).ok_or_else(|| wrong(text))).collect()
    }

    /// An error about an option.
    pub(super) fn wrong(&self, key: &str, reason: String) -> BuildError {
        BuildError::Option { builder: self.0.builder.clone(), key: key.to_owned(), reason }
    }
}

/// A relative path without `.` and without a step up.
fn within(text: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_within_the_plan() {
        assert_eq!(within("./a/./b/"), Some(PathBuf::from("a/b")));
        assert_eq!(within(""), Some(PathBuf::new()));
        assert_eq!(within("../sdk"), None);
        assert_eq!(within("/etc"), None);
    }
}
