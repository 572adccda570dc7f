//! `composition.toml`: which case of which plan to run, with which groups, how many instances each.
//!
//! Reading is in three steps: the file is executed as a template ([`crate::template`]), parsed here, and
//! each of its runs is resolved against the plan's manifest ([`resolve()`]).

mod quantity;
mod resolve;
#[cfg(test)]
mod tests;
pub(crate) mod toml_tree;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json};

pub use resolve::{BuildInput, Dependency, ResolvedGroup, ResolvedRun, resolve, runtime_of};

use self::toml_tree::{Fields, Node, Reader};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile};

/// A composition as it is written, before any default is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// Its text after templating.
    pub source: Arc<SourceFile>,
    /// `metadata.name`.
    pub name: String,
    /// `[global]`.
    pub global: Global,
    /// `[[groups]]`.
    pub groups: Vec<Group>,
    /// `[[runs]]`.
    pub runs: Vec<Run>,
}

/// `[global]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Global {
    /// The plan: a path or a name.
    pub plan: String,
    /// The case.
    pub case: String,
    /// Instances of the run that is made when there are no `[[runs]]`.
    pub total_instances: Option<u32>,
    /// Builds at a time; 0 is unlimited.
    pub concurrent_builds: u32,
    /// Builder of groups that name none.
    pub builder: String,
    /// Builder options of all groups.
    pub build_config: Map<String, Json>,
    /// Selectors and dependencies of all groups.
    pub build: Build,
    /// The runner.
    pub runner: String,
    /// Runner options; they win over the manifest's.
    pub run_config: Map<String, Json>,
    /// Defaults of all groups.
    pub run: RunFields,
    /// `TEST_DISABLE_METRICS`.
    pub disable_metrics: bool,
    /// How long a run may take.
    pub timeout: Option<Duration>,
    /// Seed of everything drawn by chance.
    pub seed: Option<u64>,
    spans: GlobalSpans,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct GlobalSpans {
    table: Range<usize>,
    case: Range<usize>,
    builder: Range<usize>,
    runner: Range<usize>,
    run_config: Range<usize>,
}

/// `build` of a group: selectors and dependency overrides.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Build {
    /// Build tags or features.
    pub selectors: Vec<String>,
    /// Overrides of the software under test.
    pub dependencies: Vec<Dependency>,
}

/// `run` of a group: what its instances get.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunFields {
    /// A ready image; given, nothing is built.
    pub artifact: String,
    /// Test parameters.
    pub test_params: BTreeMap<String, String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Profiles to capture.
    pub profiles: BTreeMap<String, String>,
}

/// How many instances a group has, as written.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Instances {
    /// A number; wins when it is not 0.
    pub count: u32,
    /// A fraction of the run's total, 0.5 is half.
    pub percentage: f64,
}

/// What an instance may use, as written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourceFields {
    /// Memory, `512Mi`.
    pub memory: String,
    /// Cpu, `500m` or `2`.
    pub cpu: String,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// One of `[[groups]]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Its builder.
    pub builder: String,
    /// Its builder options.
    pub build_config: Map<String, Json>,
    /// Its selectors and dependencies.
    pub build: Build,
    /// What its instances may use.
    pub resources: ResourceFields,
    /// How many instances.
    pub instances: Instances,
    /// What its instances get.
    pub run: RunFields,
    span: Range<usize>,
}

/// One of `[[runs]]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its instances in all.
    pub total_instances: Option<u32>,
    /// Parameters of all its groups.
    pub test_params: BTreeMap<String, String>,
    /// Environment of all its groups.
    pub env: BTreeMap<String, String>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Its groups.
    pub groups: Vec<RunGroup>,
    span: Range<usize>,
}

/// One of `[[runs.groups]]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunGroup {
    /// Its id: `TEST_GROUP_ID`.
    pub id: String,
    /// The group it is made from.
    pub group_id: String,
    /// What its instances may use.
    pub resources: ResourceFields,
    /// How many instances.
    pub instances: Instances,
    /// What its instances get; it has no artifact.
    pub run: RunFields,
    span: Range<usize>,
}

impl Composition {
    /// Reads a composition whose template has been executed.
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
        let fields = reader.table(Some(&root), "the composition");
        let metadata = reader.table(fields.get("metadata"), "[metadata]");
        let name = metadata.text("name");
        metadata.ignore(&["author"]);
        metadata.finish();
        let composition = Self {
            source: Arc::clone(&source),
            name,
            global: global(&reader, &fields),
            groups: groups(&reader, &fields),
            runs: runs(&reader, &fields),
        };
        fields.finish();
        check(&reader, &composition);
        reader.finish(composition)
    }

    /// The ids of its runs in the order they are executed: alphabetical.
    #[must_use]
    pub fn run_ids(&self) -> Vec<String> {
        if self.runs.is_empty() {
            return vec!["default".to_owned()];
        }
        let mut ids: Vec<String> = self.runs.iter().map(|run| run.id.clone()).collect();
        ids.sort();
        ids
    }
}

fn global(reader: &Reader<'_>, root: &Fields<'_, '_>) -> Global {
    let fields = reader.table(root.get("global"), "[global]");
    let span = |name| fields.get(name).map_or(fields.span.clone(), |node| node.span.clone());
    let spans = GlobalSpans {
        table: fields.span.clone(),
        case: span("case"),
        builder: span("builder"),
        runner: span("runner"),
        run_config: span("run_config"),
    };
    let found = Global {
        plan: fields.text("plan"),
        case: fields.text("case"),
        total_instances: fields.count("total_instances").filter(|&count| count > 0),
        concurrent_builds: fields.count("concurrent_builds").unwrap_or(0),
        builder: fields.text("builder"),
        build_config: fields.free_table("build_config"),
        build: build(reader, &fields),
        runner: fields.text("runner"),
        run_config: fields.free_table("run_config"),
        run: run_table(reader, &fields),
        disable_metrics: fields.flag("disable_metrics").unwrap_or(false),
        timeout: timeout(reader, &fields),
        seed: fields.get("seed").and_then(|node| seed(reader, node)),
        spans,
    };
    fields.ignore(&["docker_build_image"]);
    if found.plan.is_empty() {
        let help = "add `plan = \"…\"`: a path beside this file, or the name of a plan";
        reader.error(fields.span.clone(), "[global] has no `plan`", help);
    }
    fields.finish();
    found
}

fn groups(reader: &Reader<'_>, root: &Fields<'_, '_>) -> Vec<Group> {
    root.tables("groups")
        .iter()
        .map(|node| {
            let fields = reader.table(Some(node), "[[groups]]");
            let found = Group {
                id: id(reader, &fields, node, "group"),
                builder: fields.text("builder"),
                build_config: fields.free_table("build_config"),
                build: build(reader, &fields),
                resources: resources(reader, &fields),
                instances: instances(reader, &fields),
                run: run_table(reader, &fields),
                span: first_line(reader, node),
            };
            fields.finish();
            found
        })
        .collect()
}

fn runs(reader: &Reader<'_>, root: &Fields<'_, '_>) -> Vec<Run> {
    root.tables("runs")
        .iter()
        .map(|node| {
            let fields = reader.table(Some(node), "[[runs]]");
            let found = Run {
                id: id(reader, &fields, node, "run"),
                total_instances: fields.count("total_instances").filter(|&count| count > 0),
                test_params: texts(reader, &fields, "test_params"),
                env: texts(reader, &fields, "env"),
                timeout: timeout(reader, &fields),
                groups: run_groups(reader, &fields),
                span: first_line(reader, node),
            };
            fields.finish();
            found
        })
        .collect()
}

fn run_groups(reader: &Reader<'_>, run: &Fields<'_, '_>) -> Vec<RunGroup> {
    run.tables("groups")
        .iter()
        .map(|node| {
            let fields = reader.table(Some(node), "[[runs.groups]]");
            let id = id(reader, &fields, node, "group");
            let group_id = fields.text("group_id");
            let found = RunGroup {
                group_id: if group_id.is_empty() { id.clone() } else { group_id },
                id,
                resources: resources(reader, &fields),
                instances: instances(reader, &fields),
                run: run_fields(reader, &fields),
                span: first_line(reader, node),
            };
            fields.finish();
            found
        })
        .collect()
}

/// An id; it becomes a directory's name.
fn id(reader: &Reader<'_>, fields: &Fields<'_, '_>, node: &Node, what: &str) -> String {
    let id = fields.text("id");
    let span = fields.get("id").map_or_else(|| first_line(reader, node), |node| node.span.clone());
    if id.is_empty() {
        reader.error(span, format!("a {what} has no `id`"), "add `id = \"…\"`");
    } else if id == "." || id == ".." || id.contains(['/', '\0', '\n']) {
        let message = format!("`{id}` cannot be the id of a {what}: it becomes a directory's name");
        reader.error(span, message, "use letters, digits, `-`, `_` and `.`");
    }
    id
}

fn build(reader: &Reader<'_>, owner: &Fields<'_, '_>) -> Build {
    let fields = reader.table(owner.get("build"), "`build`");
    let dependencies = fields
        .tables("dependencies")
        .iter()
        .map(|node| {
            let dependency = reader.table(Some(node), "a dependency");
            let found = Dependency {
                module: dependency.text("module"),
                target: dependency.text("target"),
                version: dependency.text("version"),
            };
            if found.module.is_empty() || found.version.is_empty() {
                let message = "a dependency needs `module` and `version`";
                reader.error(node.span.clone(), message, "write both as texts");
            }
            dependency.finish();
            found
        })
        .collect();
    let found = Build { selectors: fields.texts("selectors"), dependencies };
    fields.finish();
    found
}

fn run_table(reader: &Reader<'_>, owner: &Fields<'_, '_>) -> RunFields {
    let fields = reader.table(owner.get("run"), "`run`");
    let artifact = fields.text("artifact");
    let found = RunFields { artifact, ..run_fields(reader, &fields) };
    fields.finish();
    found
}

fn run_fields(reader: &Reader<'_>, fields: &Fields<'_, '_>) -> RunFields {
    RunFields {
        artifact: String::new(),
        test_params: texts(reader, fields, "test_params"),
        env: texts(reader, fields, "env"),
        profiles: texts(reader, fields, "profiles"),
    }
}

/// A map of texts; other scalars become text. Parameters travel joined by `|` without escaping.
fn texts(
    reader: &Reader<'_>,
    owner: &Fields<'_, '_>,
    name: &'static str,
) -> BTreeMap<String, String> {
    let table = reader.table(owner.get(name), name);
    let mut found = BTreeMap::new();
    for (key, node) in table.entries() {
        let Some(value) = node.scalar() else {
            let message = format!("`{}` is {}, not a text", key.name, node.kind());
            reader.error(node.span.clone(), message, "write it as JSON text in quotes");
            continue;
        };
        if name == "test_params" {
            check_param(reader, &key.name, &value, node);
        }
        found.insert(key.name.clone(), value);
    }
    found
}

fn check_param(reader: &Reader<'_>, key: &str, value: &str, node: &Node) {
    if value.contains('|') || key.contains('|') {
        let message = format!("parameter `{key}` contains `|`, which separates parameters");
        reader.error(node.span.clone(), message, "use another character");
    } else if value.contains('=') {
        let message = format!("parameter `{key}` contains `=`: Go and JavaScript plans drop it");
        reader.warn(node.span.clone(), message, "Rust plans of testground 0.4 read it");
    }
}

fn resources(reader: &Reader<'_>, owner: &Fields<'_, '_>) -> ResourceFields {
    let fields = reader.table(owner.get("resources"), "`resources`");
    let found = ResourceFields {
        memory: quantity_text(reader, &fields, "memory", |text| quantity::bytes(text).is_some()),
        cpu: quantity_text(reader, &fields, "cpu", |text| quantity::cores(text).is_some()),
        pids: fields.count("pids"),
    };
    fields.finish();
    found
}

fn quantity_text(
    reader: &Reader<'_>,
    fields: &Fields<'_, '_>,
    name: &'static str,
    valid: impl Fn(&str) -> bool,
) -> String {
    let Some(node) = fields.get(name) else { return String::new() };
    let text = node.scalar().unwrap_or_default();
    if !text.is_empty() && !valid(&text) {
        let help = "memory as `512Mi` or `1G`, cpu as `500m` or `2`";
        reader.error(node.span.clone(), format!("`{name} = {text}` is not a quantity"), help);
        return String::new();
    }
    text
}

fn instances(reader: &Reader<'_>, owner: &Fields<'_, '_>) -> Instances {
    let fields = reader.table(owner.get("instances"), "`instances`");
    let percentage = fields.number("percentage").unwrap_or(0.0);
    if !(0.0..=1.0).contains(&percentage) {
        let help = "a fraction: 0.5 is half of the instances";
        let message = format!("`percentage = {percentage}` is not between 0 and 1");
        reader.error(fields.span.clone(), message, help);
    }
    let found = Instances { count: fields.count("count").unwrap_or(0), percentage };
    fields.finish();
    found
}

fn timeout(reader: &Reader<'_>, fields: &Fields<'_, '_>) -> Option<Duration> {
    let node = fields.get("timeout")?;
    let text = node.scalar().unwrap_or_default();
    let parsed = humantime::parse_duration(&text);
    if parsed.is_err() {
        let message = format!("`timeout = {text}` is not a duration");
        reader.error(node.span.clone(), message, "write `timeout = \"10m\"`");
    }
    parsed.ok()
}

fn seed(reader: &Reader<'_>, node: &Node) -> Option<u64> {
    let seed = node.scalar().and_then(|text| text.parse().ok());
    if seed.is_none() {
        reader.error(node.span.clone(), "`seed` is not a whole number", "write `seed = 42`");
    }
    seed
}

/// The first line of a table; the whole of it would underline half the file.
fn first_line(reader: &Reader<'_>, node: &Node) -> Range<usize> {
    let text = &reader.source.text[node.span.clone()];
    let length = text.find('\n').unwrap_or(text.len());
    node.span.start..node.span.start + length
}

/// What must hold whatever the manifest says.
fn check(reader: &Reader<'_>, composition: &Composition) {
    if composition.groups.is_empty() {
        let help = "add `[[groups]]` with an `id` and `instances = { count = 2 }`";
        reader.error(0..0, "the composition has no groups", help);
    }
    unique(reader, "group", composition.groups.iter().map(|g| (&g.id, &g.span)));
    unique(reader, "run", composition.runs.iter().map(|r| (&r.id, &r.span)));
    for run in &composition.runs {
        if run.groups.is_empty() {
            let message = format!("run `{}` has no groups", run.id);
            reader.error(run.span.clone(), message, "add `[[runs.groups]]` with an `id`");
        }
        unique(reader, "group of this run", run.groups.iter().map(|g| (&g.id, &g.span)));
        for group in &run.groups {
            if composition.groups.iter().all(|known| known.id != group.group_id) {
                let known: Vec<&str> = composition.groups.iter().map(|g| g.id.as_str()).collect();
                let message = format!("there is no group `{}`", group.group_id);
                let help = format!("the composition has: {}", known.join(", "));
                reader.error(group.span.clone(), message, &help);
            }
        }
    }
}

fn unique<'a>(
    reader: &Reader<'_>,
    what: &str,
    ids: impl Iterator<Item = (&'a String, &'a Range<usize>)>,
) {
    let mut seen = std::collections::BTreeSet::new();
    for (id, span) in ids {
        if !id.is_empty() && !seen.insert(id) {
            let message = format!("`{id}` is the id of more than one {what}");
            reader.error(span.clone(), message, "give each its own id");
        }
    }
}
