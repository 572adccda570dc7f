//! `manifest.toml`: what a plan is called, how it is built and run, its cases and their parameters.
//!
//! Read as Testground reads it: `docs/writing-plans.md` has the keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::composition::toml_tree::{self, Fields, Reader, Value};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile};

/// A plan's manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Its file, for messages.
    pub source: Arc<SourceFile>,
    /// The plan's name: `TEST_PLAN`.
    pub name: String,
    /// The builder its author prefers; empty when there is none.
    pub default_builder: String,
    /// The runner its author prefers; empty when there is none.
    pub default_runner: String,
    /// The builders it supports, each with its options.
    pub builders: BTreeMap<String, Map<String, Json>>,
    /// The runners it supports, each with its options.
    pub runners: BTreeMap<String, Map<String, Json>>,
    /// Directories besides the plan's own, by builder with `:` written as `_`.
    pub extra_sources: BTreeMap<String, Vec<String>>,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// A test case of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name: `TEST_CASE`.
    pub name: String,
    /// The fewest instances a run of it may have.
    pub min_instances: u32,
    /// The most instances a run of it may have.
    pub max_instances: u32,
    /// The number of instances its author suggests.
    pub default_instances: u32,
    /// Parameters with their defaults as instances get them.
    pub params: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Everything that is wrong in it, with its place.
    pub fn parse(
        file_name: &str,
        text: &str,
        strict: bool,
    ) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        let source = SourceFile::new(file_name, text);
        let root = toml_tree::parse(&source)?;
        let reader = Reader::new(&source, strict);
        let fields = reader.table(Some(&root), "the manifest");
        let name = fields.text("name");
        if name.is_empty() {
            reader.error(0..0, "the manifest has no `name`", "add `name = \"…\"` at its top");
        }
        let defaults = reader.table(fields.get("defaults"), "[defaults]");
        let manifest = Self {
            source: Arc::clone(&source),
            name,
            default_builder: defaults.text("builder"),
            default_runner: defaults.text("runner"),
            builders: options(&reader, &fields, "builders"),
            runners: options(&reader, &fields, "runners"),
            extra_sources: extra_sources(&reader, &fields),
            cases: cases(&reader, &fields),
        };
        defaults.finish();
        fields.finish();
        reader.finish(manifest)
    }

    /// The case of this name.
    #[must_use]
    pub fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }
}

fn options(
    reader: &Reader<'_>,
    fields: &Fields<'_, '_>,
    which: &'static str,
) -> BTreeMap<String, Map<String, Json>> {
    let table = reader.table(fields.get(which), which);
    table
        .entries()
        .iter()
        .map(|(key, node)| {
            if let Json::Object(map) = node.json() {
                return (key.name.clone(), map);
            }
            let message = format!("`{which}.\"{}\"` is {}, not a table", key.name, node.kind());
            reader.error(node.span.clone(), message, "write it as a table");
            (key.name.clone(), Map::new())
        })
        .collect()
}

fn extra_sources(reader: &Reader<'_>, fields: &Fields<'_, '_>) -> BTreeMap<String, Vec<String>> {
    let table = reader.table(fields.get("extra_sources"), "[extra_sources]");
    table
        .entries()
        .iter()
        .map(|(key, node)| {
            if let Json::Array(items) = node.json() {
                let directories =
                    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
                return (key.name.clone(), directories);
            }
            let message = format!("`{}` is {}, not a list", key.name, node.kind());
            reader.error(node.span.clone(), message, "write a list of directories");
            (key.name.clone(), Vec::new())
        })
        .collect()
}

fn cases(reader: &Reader<'_>, fields: &Fields<'_, '_>) -> Vec<Case> {
    let nodes = fields.tables("testcases");
    nodes
        .iter()
        .map(|node| {
            let case = reader.table(Some(node), "[[testcases]]");
            let name = case.text("name");
            if name.is_empty() {
                reader.error(node.span.clone(), "a test case has no `name`", "add `name = \"…\"`");
            }
            let instances = reader.table(case.get("instances"), "`instances` of a test case");
            let found = Case {
                name,
                min_instances: instances.count("min").unwrap_or(0),
                max_instances: instances.count("max").unwrap_or(0),
                default_instances: instances.count("default").unwrap_or(0),
                params: params(reader, &case),
            };
            instances.finish();
            case.ignore(&["roles", "runners"]);
            case.finish();
            found
        })
        .collect()
}

/// A text default is passed bare, any other is encoded as JSON; without one the value is the text `null`.
fn params(reader: &Reader<'_>, case: &Fields<'_, '_>) -> BTreeMap<String, String> {
    let table = reader.table(case.get("params"), "`params` of a test case");
    table
        .entries()
        .iter()
        .map(|(key, node)| {
            let param = reader.table(Some(node), "a parameter");
            param.ignore(&["type", "desc", "description", "unit", "values"]);
            let value = match param.get("default") {
                None => "null".to_owned(),
                Some(default) => {
                    if let Value::Text(text) = &default.value {
                        text.clone()
                    } else {
                        default.json().to_string()
                    }
                }
            };
            param.finish();
            (key.name.clone(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = r#"
name = "mesh"
[defaults]
builder = "docker:generic"
[builders."docker:generic"]
enabled = true
[runners."local:docker"]
exposed_ports = { debug = "6060" }
[[testcases]]
name = "dial"
instances = { Min = 2, max = 500, default = 10 }
  [testcases.params]
  rounds = { type = "int", desc = "dial rounds", unit = "count", default = 3 }
  ratio = { type = "float", default = 0.5 }
  name = { type = "string", default = "x y" }
  list = { type = "json", default = ["a", "b"] }
  open = { type = "int" }
"#;

    #[test]
    fn defaults_become_what_instances_get() {
        let (manifest, warnings) = Manifest::parse("m.toml", MESH, false).expect("valid");
        assert!(warnings.is_empty(), "{warnings:?}");
        let case = manifest.case("dial").expect("there");
        assert_eq!((case.min_instances, case.max_instances), (2, 500));
        let get = |name: &str| case.params[name].as_str();
        assert_eq!(get("rounds"), "3");
        assert_eq!(get("ratio"), "0.5");
        assert_eq!(get("name"), "x y");
        assert_eq!(get("list"), r#"["a","b"]"#);
        assert_eq!(get("open"), "null");
        assert_eq!(manifest.runners["local:docker"]["exposed_ports"]["debug"], "6060");
    }

    #[test]
    fn an_unknown_key_is_a_warning_that_guesses_and_an_error_when_strict() {
        let text = "name = \"x\"\n[[testcase]]\nname = \"y\"\n";
        let (_, warnings) = Manifest::parse("m.toml", text, false).expect("tolerated");
        assert_eq!(warnings[0].to_string(), "m.toml:2: unknown key `testcase` in the manifest");
        assert_eq!(warnings[0].help, "did you mean `testcases`?");
        assert!(Manifest::parse("m.toml", text, true).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once() {
        let text = "[[testcases]]\ninstances = { min = \"2\" }\n";
        let wrong = Manifest::parse("m.toml", text, false).expect_err("wrong");
        assert_eq!(wrong.0.len(), 3, "{wrong}");
    }
}
