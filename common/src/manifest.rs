//! `manifest.toml`: a plan's name, how it can be built and run, and its cases.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile};
use crate::document::{At, Findings, Node, Table};
use crate::kpi::{self, Expectation, GateLimits, KpiSpec};

/// A plan's manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The plan's name.
    pub name: String,
    /// The builder its author prefers; empty when there is none. `submit --plan` uses it.
    pub default_builder: String,
    /// The runner its author prefers; empty when there is none. `submit --plan` uses it.
    pub default_runner: String,
    /// Each supported builder and the lowest-priority build configuration.
    pub builders: BTreeMap<String, Map<String, Value>>,
    /// Each supported runner and its default configuration.
    pub runners: BTreeMap<String, Map<String, Value>>,
    /// Directories a build needs beside the plan, by builder with `_` for `:`, relative to the plan.
    pub extra_sources: BTreeMap<String, Vec<String>>,
    /// The cases.
    pub cases: Vec<Case>,
    /// The file.
    pub(crate) source: Arc<SourceFile>,
}

/// One case of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The least instances a run of it may have.
    pub min: u32,
    /// The most instances a run of it may have.
    pub max: u32,
    /// How many a person starts with who says nothing.
    pub default: Option<u32>,
    /// Its parameters.
    pub params: BTreeMap<String, Param>,
    /// What it measures.
    pub kpis: Vec<KpiSpec>,
    /// What is expected of that.
    pub expect: Vec<Expectation>,
    /// What the machines must keep to; absent when that is not asked for.
    pub validity: Option<GateLimits>,
}

/// A parameter of a case.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Param {
    /// What it is for.
    pub desc: String,
    /// Its type, for people.
    pub kind: String,
    /// Its unit, for people.
    pub unit: String,
    /// Its default as instances get it: a text bare, anything else as JSON, none as `null`.
    pub default: String,
}

impl Manifest {
    /// Reads a manifest; unknown keys are warnings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file_name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        let source = SourceFile::new(file_name, text);
        let findings = Findings::new(&source, false);
        let root = findings.parse()?;
        let manifest = read(&findings, &root);
        findings.conclude(manifest)
    }

    /// The case called `name`.
    #[must_use]
    pub fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }
}

fn read(findings: &Findings, root: &Node) -> Manifest {
    let file = Table::new(findings, "", root);
    let name = file.text("name").map(|name| name.value).unwrap_or_default();
    if name.is_empty() {
        findings.error(None, "the plan has no name", "write `name = \"my-plan\"` at the top");
    }
    let (mut default_builder, mut default_runner) = (String::new(), String::new());
    if let Some(defaults) = file.table("defaults") {
        let text = |key| defaults.text(key).map(|text| text.value).unwrap_or_default();
        (default_builder, default_runner) = (text("builder"), text("runner"));
        defaults.finish(&[]);
    }
    let (builders, runners) = (tools(&file, "builders"), tools(&file, "runners"));
    for (tools, kind, example) in
        [(&builders, "builder", "docker:generic"), (&runners, "runner", "local:docker")]
    {
        if tools.is_empty() {
            findings.error(
                None,
                format!("the plan names no {kind}"),
                format!("write `[{kind}s.\"{example}\"]`"),
            );
        }
    }
    let extra_sources = file.table("extra_sources").map(extra_sources).unwrap_or_default();
    let cases = file.tables("testcases").into_iter().map(|table| case(findings, table)).collect();
    file.finish(&["enabled"]);
    let source = Arc::clone(&findings.source);
    Manifest {
        name,
        default_builder,
        default_runner,
        builders,
        runners,
        extra_sources,
        cases,
        source,
    }
}

fn tools(file: &Table<'_>, key: &'static str) -> BTreeMap<String, Map<String, Value>> {
    let Some(table) = file.table(key) else { return BTreeMap::new() };
    let as_map = |node: &Node| match node.json() {
        Value::Object(mut map) => {
            // Stock manifests say it everywhere, and it has no effect.
            map.retain(|key, _| !key.eq_ignore_ascii_case("enabled"));
            map
        }
        _ => Map::new(),
    };
    table.entries().iter().map(|(id, node)| (id.value.clone(), as_map(node))).collect()
}

fn extra_sources(table: Table<'_>) -> BTreeMap<String, Vec<String>> {
    let dirs = |node: &Node| match node.json() {
        Value::Array(dirs) => dirs.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(dir) => vec![dir],
        _ => Vec::new(),
    };
    table.entries().iter().map(|(builder, node)| (builder.value.clone(), dirs(node))).collect()
}

fn case(findings: &Findings, table: Table<'_>) -> Case {
    let name = table.text("name").map(|name| name.value).unwrap_or_default();
    if name.is_empty() {
        findings.error(table.span.clone(), "a case has no name", "write `name = \"my-case\"`");
    }
    let count = |value: Option<At<u32>>| value.map(|count| count.value);
    let (mut min, mut max, mut default) = (None, None, None);
    if let Some(instances) = table.table("instances") {
        (min, max) = (count(instances.count("min")), count(instances.count("max")));
        default = count(instances.count("default"));
        instances.finish(&[]);
    }
    if max.is_none() {
        findings.warning(
            table.span.clone(),
            format!("case `{name}` sets no `max`, so it takes no instances at all"),
            "write `instances = { min = 1, max = 100, default = 1 }`",
        );
    }
    let params =
        table.table("params").map(|params| read_params(findings, &params)).unwrap_or_default();
    let (kpis, expect, validity) = kpi::declarations(findings, &table, &params);
    table.finish(&["enabled", "values", "desc", "roles"]);
    let (min, max) = (min.unwrap_or(0), max.unwrap_or(0));
    Case { name, min, max, default, params, kpis, expect, validity }
}

fn read_params(findings: &Findings, table: &Table<'_>) -> BTreeMap<String, Param> {
    let mut params = BTreeMap::new();
    for (name, node) in table.entries() {
        let param = Table::new(findings, "params", node);
        let default = match param.get("default").map(Node::json) {
            None => "null".to_owned(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        // Types and units are for people; some manifests write them as numbers or lists.
        let word = |key| param.get(key).and_then(Node::scalar).unwrap_or_default();
        let (desc, kind, unit) = (word("desc"), word("type"), word("unit"));
        param.finish(&["values", "enabled"]);
        params.insert(name.value.clone(), Param { desc, kind, unit, default });
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = r#"
Name = "mesh"
[defaults]
builder = "docker:generic"
runner = "local:docker"
[builders."docker:generic"]
enabled = true
build_args = { A = "1" }
[runners."local:docker"]
enabled = true
exposed_ports = { debug = "6060" }
[extra_sources]
docker_generic = ["../common"]
[[testcases]]
name = "dial"
instances = { min = 2, max = 500, default = 10 }
  [testcases.params]
  rounds = { type = "int", desc = "dial rounds", unit = "count", default = 3 }
  name = { type = "string", default = "bare", values = ["a"] }
  list = { default = ["a", "b"] }
  half = { default = 0.5 }
  none = { type = "int" }
"#;

    #[test]
    fn a_manifest_is_read_whole_and_without_regard_to_case() {
        let (mesh, warnings) = Manifest::parse("manifest.toml", MESH).expect("a valid manifest");
        assert_eq!(warnings, []);
        assert_eq!(mesh.name, "mesh");
        assert_eq!(mesh.builders["docker:generic"]["build_args"]["A"], "1");
        assert_eq!(mesh.runners["local:docker"]["exposed_ports"]["debug"], "6060");
        assert_eq!(mesh.extra_sources["docker_generic"], ["../common"]);
        let dial = mesh.case("dial").expect("a case");
        assert_eq!((dial.min, dial.max, dial.default), (2, 500, Some(10)));
        let default = |name: &str| dial.params[name].default.as_str();
        assert_eq!(default("rounds"), "3");
        assert_eq!(default("name"), "bare");
        assert_eq!(default("list"), r#"["a","b"]"#);
        assert_eq!(default("half"), "0.5");
        assert_eq!(default("none"), "null");
    }

    #[test]
    fn a_slip_is_a_warning_with_a_suggestion() {
        let text = MESH.replace("[[testcases]]", "[[testcases]]\nintances = 3");
        let (_, warnings) = Manifest::parse("manifest.toml", &text).expect("a valid manifest");
        assert_eq!(warnings.len(), 1);
        assert_eq!(
            warnings[0].to_string(),
            "manifest.toml:15: unknown key `intances` in `testcases`"
        );
        assert_eq!(warnings[0].help, "did you mean `instances`?");
    }

    #[test]
    fn a_plan_without_name_builder_and_runner_says_so_at_once() {
        let found = Manifest::parse("manifest.toml", "").expect_err("nothing is there");
        assert_eq!(found.0.len(), 3);
    }
}
