//! Reads a composition and checks what needs no manifest.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Composition, DEFAULT_RUN, Dependency, Global, Group, GroupRun, Instances, Run, RunGroup,
    Source, Texts, datasets, egress, network, placement, quantity, sizes,
};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile, suggest};
use crate::document::{At, Data, Findings, Node, Table};
use crate::kpi;
use crate::messages::Resources;

/// Keys stock files carry and nothing reads.
const STOCK: &[&str] = &["enabled", "docker_build_image"];

/// Reads the composition in `source`.
pub(super) fn parse(
    source: &Arc<SourceFile>,
    strict: bool,
    attachments: Source<'_>,
) -> Result<(Composition, Vec<Diagnostic>), Diagnostics> {
    let findings = Findings::new(source, strict);
    let root = findings.parse()?;
    let file = Table::new(&findings, "", &root);
    let (name, author) = metadata(&file);
    let global = file.table("global").map_or_else(
        || {
            findings.error(
                None,
                "there is no `[global]`",
                "write `[global]` with plan, case and runner",
            );
            None
        },
        |table| global(&findings, table),
    );
    let groups: Vec<_> =
        file.tables("groups").into_iter().filter_map(|table| group(&findings, table)).collect();
    let runs: Vec<_> =
        file.tables("runs").into_iter().filter_map(|table| run(&findings, table)).collect();
    let network = network::parse(&findings, &file, &groups, attachments);
    let datasets = datasets::parse(&findings, &file);
    file.finish(STOCK);

    let Some(global) = global else {
        return findings.conclude(()).and_then(|_| Err(Diagnostics(Vec::new())));
    };
    let runs = if runs.is_empty() { vec![default_run(&global, &groups)] } else { runs };
    let composition = Composition {
        name,
        author,
        source: Arc::clone(source),
        global,
        groups,
        network,
        datasets,
        runs,
    };
    check(&findings, &composition);
    findings.conclude(composition)
}

fn metadata(file: &Table<'_>) -> (String, String) {
    let Some(table) = file.table("metadata") else { return Default::default() };
    let text = |key| table.text(key).map(|text| text.value).unwrap_or_default();
    let both = (text("name"), text("author"));
    table.finish(STOCK);
    both
}

fn global(findings: &Findings, table: Table<'_>) -> Option<Global> {
    let plan = table.text("plan").filter(|plan| !plan.value.is_empty());
    if plan.is_none() {
        findings.error(
            table.span.clone(),
            "`global.plan` is missing",
            "write `plan = \"…\"`: the plan's directory",
        );
    }
    let given = |key| table.text(key).filter(|text| !text.value.is_empty());
    let (selectors, dependencies) = build_table(findings, &table);
    let global = Global {
        plan: plan.unwrap_or_else(|| At { value: String::new(), span: table.span.clone() }),
        case: given("case"),
        total_instances: table.count("total_instances").filter(|total| total.value > 0),
        concurrent_builds: table.count("concurrent_builds").map_or(0, |count| count.value),
        builder: given("builder"),
        build_config: table.json("build_config"),
        selectors,
        dependencies,
        runner: given("runner"),
        run_config: table.json("run_config"),
        run: table.table("run").map(|table| group_run_table(findings, table)).unwrap_or_default(),
        disable_metrics: table.bool("disable_metrics").unwrap_or(false),
        timeout: timeout(findings, &table),
        seed: table.number("seed").map(|seed| seed.value),
        placement: placement::of_run(findings, &table),
        priority: placement::priority(findings, &table),
        on_lost: placement::on_lost(findings, &table),
        expect: kpi::changes(findings, &table),
        validity: table.table("validity").map(|table| kpi::gate_limits(findings, table)),
    };
    table.finish(STOCK);
    Some(global)
}

fn timeout(findings: &Findings, table: &Table<'_>) -> Option<Duration> {
    let text = table.text("timeout")?;
    let parsed = quantity::duration(&text.value);
    if parsed.is_none() {
        findings.error(
            text.span,
            format!("`{}` is not a duration", text.value),
            "write a number with a unit, such as `\"10m\"` or `\"90s\"`",
        );
    }
    parsed
}

fn group(findings: &Findings, table: Table<'_>) -> Option<Group> {
    let id = id(findings, &table, "a group")?;
    let (selectors, dependencies) = build_table(findings, &table);
    let group = Group {
        id,
        builder: table.text("builder").filter(|builder| !builder.value.is_empty()),
        build_config: table.json("build_config"),
        selectors,
        dependencies,
        resources: resources(findings, &table),
        instances: sizes::read(findings, &table),
        run: table.table("run").map(|table| group_run_table(findings, table)).unwrap_or_default(),
        region: table.text("region").filter(|region| !region.value.is_empty()),
        link: network::access(findings, &table),
        egress: egress::read(findings, &table),
        nat: network::nats(findings, &table),
        placement: placement::of_group(findings, &table),
        datasets: datasets::of_group(findings, &table),
    };
    table.finish(STOCK);
    Some(group)
}

fn run(findings: &Findings, table: Table<'_>) -> Option<Run> {
    let id = id(findings, &table, "a run")?;
    let groups: Vec<_> =
        table.tables("groups").into_iter().filter_map(|one| run_group(findings, one)).collect();
    if groups.is_empty() {
        findings.error(
            table.span.clone(),
            format!("run `{}` has no groups", id.value),
            "write `[[runs.groups]]` with an `id`",
        );
    }
    let run = Run {
        id,
        total_instances: table.count("total_instances").filter(|total| total.value > 0),
        shared: GroupRun {
            artifact: None,
            params: texts(findings, &table, "test_params"),
            profiles: texts(findings, &table, "profiles"),
            env: texts(findings, &table, "env"),
        },
        timeout: timeout(findings, &table),
        groups,
    };
    table.finish(STOCK);
    Some(run)
}

fn run_group(findings: &Findings, table: Table<'_>) -> Option<RunGroup> {
    let id = id(findings, &table, "a run's group")?;
    let group_id = table.text("group_id").filter(|id| !id.value.is_empty());
    let group = RunGroup {
        group_id: group_id.unwrap_or_else(|| id.clone()),
        id,
        resources: resources(findings, &table),
        instances: sizes::read(findings, &table),
        run: GroupRun {
            artifact: None,
            params: texts(findings, &table, "test_params"),
            profiles: texts(findings, &table, "profiles"),
            env: texts(findings, &table, "env"),
        },
    };
    table.finish(STOCK);
    Some(group)
}

fn id(findings: &Findings, table: &Table<'_>, what: &str) -> Option<At<String>> {
    let id = table.text("id");
    if table.get("id").is_none() {
        findings.error(table.span.clone(), format!("{what} has no id"), "write `id = \"…\"`");
    }
    id
}

fn build_table(findings: &Findings, table: &Table<'_>) -> (Vec<String>, Vec<Dependency>) {
    let Some(build) = table.table("build") else { return Default::default() };
    let selectors = build.texts("selectors");
    let mut dependencies = Vec::new();
    for one in build.tables("dependencies") {
        let text = |key| one.text(key).map(|text| text.value).unwrap_or_default();
        let dependency =
            Dependency { module: text("module"), target: text("target"), version: text("version") };
        if dependency.module.is_empty() {
            findings.error(
                one.span.clone(),
                "a dependency names no module",
                "write `module = \"…\"`",
            );
        }
        one.finish(STOCK);
        dependencies.push(dependency);
    }
    build.finish(STOCK);
    (selectors, dependencies)
}

fn group_run_table(findings: &Findings, table: Table<'_>) -> GroupRun {
    let run = GroupRun {
        artifact: table.text("artifact").map(|text| text.value).filter(|text| !text.is_empty()),
        params: texts(findings, &table, "test_params"),
        profiles: texts(findings, &table, "profiles"),
        env: texts(findings, &table, "env"),
    };
    table.finish(STOCK);
    run
}

/// A table of texts. Other scalars are taken as their text, which Testground refuses.
fn texts(findings: &Findings, table: &Table<'_>, key: &'static str) -> Texts {
    let mut texts = Texts::new();
    let Some(table) = table.table(key) else { return texts };
    for (name, node) in table.entries() {
        let Some(value) = node.scalar() else {
            findings.error(
                node.span.clone(),
                format!("`{}` must be a text", name.value),
                "write lists and tables as JSON in quotes, such as `'[1, 2]'`",
            );
            continue;
        };
        if key != "env" {
            packable(findings, name, &value, node);
        }
        texts.insert(name.value.clone(), At { value, span: node.span.clone() });
    }
    texts
}

/// Parameters reach the instance as `key=value|key=value` without escaping.
fn packable(findings: &Findings, name: &At<String>, value: &str, node: &Node) {
    if value.contains('|') || name.value.contains(['|', '=']) {
        let span = if value.contains('|') { &node.span } else { &name.span };
        findings.error(
            span.clone(),
            format!("`{}` cannot reach an instance: `|` in a value, and `|` or `=` in a name, separate parameters", name.value),
            "use another separator, such as `,` or `;`",
        );
    } else if value.contains('=') {
        findings.warning(
            node.span.clone(),
            format!("the value of `{}` contains `=`", name.value),
            "the Go and JavaScript SDKs drop such a parameter; use another character",
        );
    }
}

fn resources(findings: &Findings, table: &Table<'_>) -> Resources {
    let Some(table) = table.table("resources") else { return Resources::default() };
    let resources = Resources {
        cpu_cores: amount(findings, &table, "cpu", quantity::quantity),
        memory_bytes: amount(findings, &table, "memory", quantity::bytes),
        pids: amount(findings, &table, "pids", quantity::bytes),
    };
    table.finish(STOCK);
    resources
}

fn amount<T>(
    findings: &Findings,
    table: &Table<'_>,
    key: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Option<T> {
    let node = table.get(key)?;
    let text = match &node.value {
        Data::Text(text) if text.is_empty() => return None,
        _ => node.scalar().unwrap_or_default(),
    };
    let parsed = parse(&text);
    if parsed.is_none() {
        findings.error(
            node.span.clone(),
            format!("`{text}` is not an amount of {key}"),
            "write a quantity as Kubernetes does: `\"512Mi\"` of memory, `\"500m\"` of cpu",
        );
    }
    parsed
}

/// The run of a composition that lists none: every group with what it says itself.
fn default_run(global: &Global, groups: &[Group]) -> Run {
    let of_group = |group: &Group| RunGroup {
        id: group.id.clone(),
        group_id: group.id.clone(),
        resources: Resources::default(),
        instances: Instances::default(),
        run: GroupRun::default(),
    };
    Run {
        id: At { value: DEFAULT_RUN.to_owned(), span: global.plan.span.clone() },
        total_instances: global.total_instances.clone(),
        shared: GroupRun::default(),
        timeout: None,
        groups: groups.iter().map(of_group).collect(),
    }
}

fn check(findings: &Findings, composition: &Composition) {
    if composition.groups.is_empty() {
        findings.error(
            None,
            "there are no groups",
            "write `[[groups]]` with `id` and `instances.count`",
        );
    }
    unique(findings, "group", composition.groups.iter().map(|group| &group.id));
    unique(findings, "run", composition.runs.iter().map(|run| &run.id));
    for group in &composition.groups {
        let artifact = group.run.artifact.as_ref().or(composition.global.run.artifact.as_ref());
        if group.builder.is_none() && composition.global.builder.is_none() && artifact.is_none() {
            findings.error(
                group.id.span.clone(),
                format!("group `{}` has no builder", group.id.value),
                "write `builder = \"docker:generic\"` under `[global]` or in the group",
            );
        }
    }
    network::check(findings, composition);
    placement::check(findings, composition);
    datasets::check(findings, composition);
    let known = || composition.groups.iter().map(|group| group.id.value.as_str());
    for run in &composition.runs {
        unique(findings, "group of the run", run.groups.iter().map(|group| &group.id));
        for group in &run.groups {
            directory(findings, &group.id);
            if !known().any(|id| id == group.group_id.value) {
                findings.error(
                    group.group_id.span.clone(),
                    format!("there is no group `{}`", group.group_id.value),
                    suggest(&group.group_id.value, known().collect::<Vec<_>>()),
                );
            }
        }
    }
}

fn unique<'a>(findings: &Findings, what: &str, ids: impl Iterator<Item = &'a At<String>>) {
    let mut seen = BTreeSet::new();
    for id in ids {
        if !seen.insert(&id.value) {
            findings.error(
                id.span.clone(),
                format!("{what} `{}` is there twice", id.value),
                "give each its own id",
            );
        }
    }
}

/// A run's group names a directory of outputs.
fn directory(findings: &Findings, id: &At<String>) {
    let wrong = matches!(id.value.as_str(), "" | "." | "..") || id.value.contains(['/', '\0']);
    if wrong {
        findings.error(
            id.span.clone(),
            format!("group id `{}` cannot name a directory", id.value.escape_debug()),
            "use letters, digits, `-`, `_` and `.`",
        );
    }
}
