//! One run of a composition with every default applied, in the order Testground applies them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{
    Build, Composition, Group, Instances, ResourceFields, Run, RunFields, RunGroup, quantity,
};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::manifest::{Case, Manifest};
use crate::messages::{Resources, RunOptions, RuntimeKind};
use crate::timing::OUTCOME_GRACE;

/// How much of an instance's stdout, and of its stderr, is kept when nobody says otherwise.
const LOG_CAP_BYTES: u64 = 64 << 20;

/// Runner options that mean something here.
const KNOWN_OPTIONS: [&str; 7] = [
    "log_level",
    "exposed_ports",
    "ulimits",
    "additional_hosts",
    "keep_containers",
    "log_cap_bytes",
    "outcomes_collection_timeout",
];

/// A dependency of the software under test to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Dependency {
    /// What to replace.
    pub module: String,
    /// By what; empty is the same module.
    #[serde(default)]
    pub target: String,
    /// Version, commit or branch.
    pub version: String,
}

/// What a group is built from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildInput {
    /// The builder.
    pub builder: String,
    /// Its options.
    pub config: Map<String, Json>,
    /// Build tags or features, sorted.
    pub selectors: Vec<String>,
    /// Overrides, sorted by module.
    pub dependencies: Vec<Dependency>,
}

impl BuildInput {
    /// Equal for groups that share a build. Unlike Testground's it has the dependencies' targets in it.
    #[must_use]
    pub fn key(&self) -> String {
        serde_json::to_string(self).expect("plain data always encodes")
    }
}

/// A group of a run with every default applied.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedGroup {
    /// Its id: `TEST_GROUP_ID`.
    pub id: String,
    /// The composition's group it is made from.
    pub build_group: String,
    /// What it is built from.
    pub build: BuildInput,
    /// A ready image; given, nothing is built.
    pub artifact: Option<String>,
    /// How many instances.
    pub instances: u32,
    /// Test parameters.
    pub params: BTreeMap<String, String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Profiles to capture.
    pub profiles: BTreeMap<String, String>,
    /// What an instance may use.
    pub resources: Resources,
}

/// A run with every default applied.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedRun {
    /// Its id in the composition.
    pub id: String,
    /// The plan's name, by the manifest.
    pub plan: String,
    /// The case.
    pub case: String,
    /// The runner as written.
    pub runner: String,
    /// The runtime it stands for.
    pub runtime: RuntimeKind,
    /// Instances in all.
    pub total_instances: u32,
    /// Its groups.
    pub groups: Vec<ResolvedGroup>,
    /// Builds of groups this run does not use; Testground builds them all the same, so that a broken
    /// composition is noticed.
    pub unused_builds: Vec<BuildInput>,
    /// Runner options.
    pub options: RunOptions,
    /// How long outcomes may take to arrive.
    pub outcome_grace: Duration,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Seed of everything drawn by chance.
    pub seed: Option<u64>,
    /// `TEST_DISABLE_METRICS`.
    pub disable_metrics: bool,
    /// Builds at a time; 0 is unlimited.
    pub concurrent_builds: u32,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// The runtime a runner's name stands for.
#[must_use]
pub fn runtime_of(runner: &str) -> Option<RuntimeKind> {
    match runner {
        "docker" | "local:docker" | "cluster:k8s" | "cluster:swarm" => Some(RuntimeKind::Docker),
        "netns" | "local:exec" => Some(RuntimeKind::Netns),
        _ => None,
    }
}

/// Applies every default to one run of a composition and checks it against the manifest.
///
/// # Errors
/// Everything that is wrong with it, with its place in the composition.
pub fn resolve(
    composition: &Composition,
    manifest: &Manifest,
    run_id: &str,
) -> Result<ResolvedRun, Diagnostics> {
    let mut resolving =
        Resolving { composition, manifest, errors: Vec::new(), warnings: Vec::new() };
    let run = resolving.run(run_id)?;
    let resolved = resolving.resolved(&run);
    if resolving.errors.is_empty() { Ok(resolved) } else { Err(Diagnostics(resolving.errors)) }
}

struct Resolving<'a> {
    composition: &'a Composition,
    manifest: &'a Manifest,
    errors: Vec<Diagnostic>,
    warnings: Vec<String>,
}

impl Resolving<'_> {
    fn error(&mut self, span: Range<usize>, message: String, help: impl Into<String>) {
        self.errors.push(Diagnostic::error(&self.composition.source, span, message, help));
    }

    /// The run of this id; without `[[runs]]` there is one, `default`, with every group.
    fn run(&self, run_id: &str) -> Result<Run, Diagnostics> {
        let composition = self.composition;
        if composition.runs.is_empty() && run_id == "default" {
            return Ok(Run {
                id: run_id.to_owned(),
                total_instances: composition.global.total_instances,
                groups: composition
                    .groups
                    .iter()
                    .map(|group| RunGroup {
                        id: group.id.clone(),
                        group_id: group.id.clone(),
                        span: group.span.clone(),
                        ..RunGroup::default()
                    })
                    .collect(),
                span: composition.global.spans.table.clone(),
                ..Run::default()
            });
        }
        composition.runs.iter().find(|run| run.id == run_id).cloned().ok_or_else(|| {
            let message = format!("there is no run `{run_id}`");
            let help = format!("the composition has: {}", composition.run_ids().join(", "));
            Diagnostic::error(&composition.source, None, message, help).into()
        })
    }

    fn resolved(&mut self, run: &Run) -> ResolvedRun {
        let composition = self.composition;
        let global = &composition.global;
        let case = self.case();
        let (runner, runtime) = self.runner();
        let (options, outcome_grace) = self.options(&runner);
        let groups: Vec<ResolvedGroup> =
            run.groups.iter().filter_map(|group| self.group(run, group, case.as_ref())).collect();
        let total_instances = self.total(run, &groups, case.as_ref());
        let unused_builds = self.unused_builds(&groups);
        ResolvedRun {
            id: run.id.clone(),
            plan: self.manifest.name.clone(),
            case: global.case.clone(),
            runner,
            runtime,
            total_instances,
            groups,
            unused_builds,
            options,
            outcome_grace,
            timeout: run.timeout.or(global.timeout),
            seed: global.seed,
            disable_metrics: global.disable_metrics,
            concurrent_builds: global.concurrent_builds,
            warnings: std::mem::take(&mut self.warnings),
        }
    }

    fn case(&mut self) -> Option<Case> {
        let global = &self.composition.global;
        let case = self.manifest.case(&global.case).cloned();
        if case.is_none() {
            let known: Vec<&str> = self.manifest.cases.iter().map(|c| c.name.as_str()).collect();
            let message = if global.case.is_empty() {
                "[global] has no `case`".to_owned()
            } else {
                format!("plan `{}` has no case `{}`", self.manifest.name, global.case)
            };
            let help = format!("its manifest has: {}", known.join(", "));
            self.error(global.spans.case.clone(), message, help);
        }
        case
    }

    /// The runner; a manifest that supports another name of the same runtime will do.
    fn runner(&mut self) -> (String, RuntimeKind) {
        let global = &self.composition.global;
        let mut runner = global.runner.clone();
        if runner.is_empty() {
            runner.clone_from(&self.manifest.default_runner);
        }
        let supported: Vec<&str> = self.manifest.runners.keys().map(String::as_str).collect();
        let listed = if supported.is_empty() { "none".to_owned() } else { supported.join(", ") };
        let span = global.spans.runner.clone();
        let Some(runtime) = runtime_of(&runner) else {
            let message = if runner.is_empty() {
                "[global] has no `runner`".to_owned()
            } else {
                format!("there is no runner `{runner}`")
            };
            let help = format!("use netns or docker; the plan's manifest supports: {listed}");
            self.error(span, message, help);
            return (runner, RuntimeKind::Netns);
        };
        if !supported.iter().any(|name| runtime_of(name) == Some(runtime)) {
            let message =
                format!("plan `{}` does not support runner `{runner}`", self.manifest.name);
            let help =
                format!("its manifest supports: {listed}; add `[runners.\"{runner}\"]` there");
            self.error(span, message, help);
        }
        (runner, runtime)
    }

    /// Runner options: the composition's win over the manifest's.
    fn options(&mut self, runner: &str) -> (RunOptions, Duration) {
        let mut config = self.manifest.runners.get(runner).cloned().unwrap_or_default();
        config.extend(self.composition.global.run_config.clone());
        let texts = |value: &Json| -> Vec<String> {
            value.as_array().into_iter().flatten().map(text_of).collect()
        };
        let list = |name: &str| config.get(name).map(texts).unwrap_or_default();
        let options = RunOptions {
            log_level: config.get("log_level").map(text_of).unwrap_or_default(),
            exposed_ports: config
                .get("exposed_ports")
                .and_then(Json::as_object)
                .into_iter()
                .flatten()
                .map(|(label, port)| (label.clone(), text_of(port)))
                .collect(),
            ulimits: list("ulimits"),
            additional_hosts: list("additional_hosts"),
            keep_containers: config.get("keep_containers").is_some_and(is_true),
            log_cap_bytes: config
                .get("log_cap_bytes")
                .and_then(Json::as_u64)
                .unwrap_or(LOG_CAP_BYTES),
        };
        for name in config.keys() {
            let ours = KNOWN_OPTIONS.contains(&name.as_str());
            if !ours && name != "enabled" {
                self.warnings.push(format!("runner option `{name}` has no effect here"));
            }
        }
        let grace = match config.get("outcomes_collection_timeout") {
            None => Some(OUTCOME_GRACE),
            Some(Json::Number(nanoseconds)) => nanoseconds.as_u64().map(Duration::from_nanos),
            Some(other) => humantime::parse_duration(&text_of(other)).ok(),
        };
        if grace.is_none() {
            let message = "`outcomes_collection_timeout` is not a duration".to_owned();
            let span = self.composition.global.spans.run_config.clone();
            self.error(span, message, "write it as `\"45s\"` or in nanoseconds");
        }
        (options, grace.unwrap_or(OUTCOME_GRACE))
    }

    fn group(&mut self, run: &Run, group: &RunGroup, case: Option<&Case>) -> Option<ResolvedGroup> {
        let composition = self.composition;
        let from = composition.groups.iter().find(|known| known.id == group.group_id)?;
        let global = &composition.global.run;
        let layers = [&group.run, &RunFields::of(run), &from.run, global].map(Clone::clone);
        let fill = |pick: fn(&RunFields) -> &BTreeMap<String, String>| filled(&layers, pick);
        let mut params = fill(|fields| &fields.test_params);
        for (name, value) in case.into_iter().flat_map(|case| &case.params) {
            fill_one(&mut params, name, value);
        }
        let artifact = [&from.run.artifact, &global.artifact];
        Some(ResolvedGroup {
            id: group.id.clone(),
            build_group: from.id.clone(),
            build: self.build(from),
            artifact: artifact.into_iter().find(|text| !text.is_empty()).cloned(),
            instances: self.instances(run, group, from),
            params,
            env: fill(|fields| &fields.env),
            profiles: fill(|fields| &fields.profiles),
            resources: resources(&group.resources, &from.resources),
        })
    }

    fn instances(&mut self, run: &Run, group: &RunGroup, from: &Group) -> u32 {
        let Instances { count, percentage } = Instances {
            count: if group.instances.count > 0 {
                group.instances.count
            } else {
                from.instances.count
            },
            percentage: if group.instances.percentage > 0.0 {
                group.instances.percentage
            } else {
                from.instances.percentage
            },
        };
        if count > 0 {
            return count;
        }
        if percentage <= 0.0 {
            let message = format!("group `{}` has no instances", group.id);
            let help = "give it `instances = { count = 2 }` or `{ percentage = 0.5 }`";
            self.error(group.span.clone(), message, help);
            return 0;
        }
        let Some(total) = run.total_instances else {
            let message = format!("group `{}` has a percentage, of an unknown total", group.id);
            let help = if self.composition.runs.is_empty() {
                "add `total_instances` to [global]".to_owned()
            } else {
                format!(
                    "add `total_instances` to run `{}`; [global]'s does not count for it",
                    run.id
                )
            };
            self.error(group.span.clone(), message, help);
            return 0;
        };
        // Half rounds away from zero, as Go's math.Round does.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction between 0 and 1 of a u32"
        )]
        let share = (percentage * f64::from(total)).round() as u32;
        share
    }

    fn total(&mut self, run: &Run, groups: &[ResolvedGroup], case: Option<&Case>) -> u32 {
        let sum: u32 = groups.iter().map(|group| group.instances).sum();
        let total = run.total_instances.unwrap_or(sum);
        if self.errors.is_empty() && total != sum {
            let parts: Vec<String> =
                groups.iter().map(|g| format!("{} {}", g.instances, g.id)).collect();
            let message =
                format!("the groups of run `{}` have {sum} instances, not {total}", run.id);
            let help = format!("{} = {sum}; change them or `total_instances`", parts.join(" + "));
            self.error(run.span.clone(), message, help);
        }
        if let Some(case) = case
            && self.errors.is_empty()
            && !(case.min_instances..=case.max_instances).contains(&total)
        {
            let message = format!("case `{}` cannot run with {total} instances", case.name);
            let help =
                format!("its manifest allows {} to {}", case.min_instances, case.max_instances);
            self.error(run.span.clone(), message, help);
        }
        total
    }

    fn build(&mut self, group: &Group) -> BuildInput {
        let global = &self.composition.global;
        let mut builder = if group.builder.is_empty() { &global.builder } else { &group.builder };
        if builder.is_empty() {
            builder = &self.manifest.default_builder;
        }
        let ready = !group.run.artifact.is_empty() || !global.run.artifact.is_empty();
        let supported: Vec<&str> = self.manifest.builders.keys().map(String::as_str).collect();
        if !ready && !supported.contains(&builder.as_str()) {
            let span =
                if group.builder.is_empty() { &global.spans.builder } else { &group.span }.clone();
            let message = if builder.is_empty() {
                format!("group `{}` has no builder, and [global] neither", group.id)
            } else {
                format!("plan `{}` does not support builder `{builder}`", self.manifest.name)
            };
            self.error(span, message, format!("its manifest supports: {}", supported.join(", ")));
        }
        let mut config = self.manifest.builders.get(builder).cloned().unwrap_or_default();
        config.remove("enabled");
        config.extend(global.build_config.clone());
        config.extend(group.build_config.clone());
        BuildInput { builder: builder.clone(), config, ..merged(&group.build, &global.build) }
    }

    fn unused_builds(&mut self, groups: &[ResolvedGroup]) -> Vec<BuildInput> {
        let composition = self.composition;
        let unused = composition.groups.iter().filter(|known| {
            let used = groups.iter().any(|group| group.build_group == known.id);
            let ready =
                !known.run.artifact.is_empty() || !composition.global.run.artifact.is_empty();
            !used && !ready
        });
        let mut builds: Vec<BuildInput> = unused.map(|group| self.build(group)).collect();
        builds.retain(|build| groups.iter().all(|group| group.build != *build));
        builds.sort_by_key(BuildInput::key);
        builds.dedup();
        builds
    }
}

impl RunFields {
    fn of(run: &Run) -> Self {
        Self { test_params: run.test_params.clone(), env: run.env.clone(), ..Self::default() }
    }
}

/// A group's selectors win when it has any; dependencies are merged by module.
fn merged(group: &Build, global: &Build) -> BuildInput {
    let mut selectors =
        if group.selectors.is_empty() { global.selectors.clone() } else { group.selectors.clone() };
    selectors.sort();
    let mut dependencies: BTreeMap<&str, &Dependency> = BTreeMap::new();
    for dependency in global.dependencies.iter().chain(&group.dependencies) {
        dependencies.insert(&dependency.module, dependency);
    }
    BuildInput {
        builder: String::new(),
        config: Map::new(),
        selectors,
        dependencies: dependencies.into_values().cloned().collect(),
    }
}

/// Lays maps over each other, the first winning. A value that is empty counts as not set.
fn filled(
    layers: &[RunFields],
    pick: fn(&RunFields) -> &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut result = BTreeMap::new();
    for layer in layers {
        for (name, value) in pick(layer) {
            fill_one(&mut result, name, value);
        }
    }
    result
}

fn fill_one(map: &mut BTreeMap<String, String>, name: &str, value: &str) {
    let slot = map.entry(name.to_owned()).or_default();
    if slot.is_empty() {
        value.clone_into(slot);
    }
}

fn resources(group: &ResourceFields, from: &ResourceFields) -> Resources {
    let pick = |own: &str, inherited: &str| -> String {
        if own.is_empty() { inherited.to_owned() } else { own.to_owned() }
    };
    Resources {
        cpu_cores: quantity::cores(&pick(&group.cpu, &from.cpu)),
        memory_bytes: quantity::bytes(&pick(&group.memory, &from.memory)),
        pids: group.pids.or(from.pids).map(u64::from),
    }
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_true(value: &Json) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}
