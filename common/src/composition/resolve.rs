//! Decides everything about one run that composition and manifest decide together.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Composition, Group, ResolvedGroup, ResolvedRun, Run, RunGroup, Texts, builds, datasets, merge,
    network, options, placement, sizes,
};
use crate::addresses::MOST_INSTANCES;
use crate::diagnostic::{Diagnostic, Diagnostics, closest, suggest};
use crate::document::{At, Findings};
use crate::instance_env::contract_name;
use crate::kpi;
use crate::manifest::{Case, Manifest};
use crate::messages::RuntimeKind;
use crate::timing::RUN_TIMEOUT;

/// Every runner a composition may name, and how its instances are run.
const RUNNERS: [(&str, RuntimeKind); 5] = [
    ("local:docker", RuntimeKind::Docker),
    ("cluster:k8s", RuntimeKind::Docker),
    ("docker", RuntimeKind::Docker),
    ("local:exec", RuntimeKind::Netns),
    ("netns", RuntimeKind::Netns),
];

/// Resolves the run `run_id` of `composition` against the plan's manifest.
///
/// # Errors
/// Everything that keeps the run from starting.
pub fn resolve(
    composition: &Composition,
    manifest: &Manifest,
    run_id: &str,
) -> Result<ResolvedRun, Diagnostics> {
    let findings = Findings::new(&composition.source, false);
    let run = find_run(composition, run_id)?;
    let case = find_case(&findings, composition, manifest);
    let runner = find_runner(&findings, composition, manifest);
    let (Some(case), Some((runner, runtime, defaults))) = (case, runner) else {
        let mut found = findings.conclude(()).err().unwrap_or(Diagnostics(Vec::new()));
        found.0.extend(
            builds::build_groups(composition, manifest).err().into_iter().flat_map(|more| more.0),
        );
        return Err(found);
    };
    let global = &composition.global;
    let counts = sizes::count(&findings, composition, run);
    let total_instances = check_total(&findings, case, run, &counts);
    let counts = counts.into_iter().map(Option::unwrap_or_default);
    let mut groups = Vec::new();
    for (one, instances) in run.groups.iter().zip(counts) {
        let Some(group) = build_group(composition, one) else { continue };
        let mut resolved = resolve_group(composition, case, run, one, group);
        resolved.instances = instances;
        match builds::input_of(composition, manifest, group) {
            Ok(build) => {
                resolved.build_key =
                    build.as_ref().map(builds::BuildInput::key).unwrap_or_default();
                resolved.builder = build.as_ref().map(|build| build.builder.clone());
                resolved.build = build;
            }
            Err(found) => findings.push(found),
        }
        groups.push(resolved);
    }
    check_params(&findings, composition, case, run, &groups);
    let run_config = merge::config(&[&global.run_config, &defaults]);
    let options = options::read(&runner.value, &run_config);
    report_options(&findings, composition, &runner, &options);
    let wishes = kpi::Wishes { changes: &global.expect, gates: global.validity.as_ref() };
    let judging = kpi::resolve(&findings, case, wishes, &groups);
    let timeout = run.timeout.or(global.timeout).or(options.timeout);
    let end = timeout.unwrap_or(RUN_TIMEOUT);
    let sizes: Vec<u32> = groups.iter().map(|group| group.instances).collect();
    let resolved = ResolvedRun {
        id: run_id.to_owned(),
        plan: contract_name(&manifest.name),
        case: contract_name(&case.name),
        runner: runner.value,
        runtime,
        total_instances,
        groups,
        run_config,
        options: options.run,
        outcome_grace: options.outcome_grace,
        network: network::compile(&findings, composition, run, &sizes, end),
        timeout,
        seed: global.seed,
        placement: global.placement.clone(),
        priority: global.priority,
        on_lost: global.on_lost,
        judging,
        disable_metrics: global.disable_metrics,
        concurrent_builds: global.concurrent_builds,
        warnings: Vec::new(),
    };
    let (resolved, warnings) = findings.conclude(resolved)?;
    Ok(ResolvedRun { warnings, ..resolved })
}

fn find_run<'a>(composition: &'a Composition, run_id: &str) -> Result<&'a Run, Diagnostics> {
    composition.runs.iter().find(|run| run.id.value == run_id).ok_or_else(|| {
        let known: Vec<_> = composition.runs.iter().map(|run| run.id.value.as_str()).collect();
        let help = suggest(run_id, known);
        Diagnostic::error(&composition.source, None, format!("there is no run `{run_id}`"), help)
            .into()
    })
}

fn find_case<'a>(
    findings: &Findings,
    composition: &Composition,
    manifest: &'a Manifest,
) -> Option<&'a Case> {
    let known: Vec<_> = manifest.cases.iter().map(|case| case.name.as_str()).collect();
    let Some(wanted) = &composition.global.case else {
        let help = format!("write `case = \"…\"` under `[global]`; {}", suggest("", known));
        findings.error(None, "`global.case` is missing", help);
        return None;
    };
    let found = manifest.case(&wanted.value);
    if found.is_none() {
        findings.error(
            wanted.span.clone(),
            format!("plan `{}` has no case `{}`", manifest.name, wanted.value),
            suggest(&wanted.value, known),
        );
    }
    found
}

/// The runner, its runtime, and the manifest's configuration for it. A plan that supports one runner of
/// a runtime supports all of them, so that stock manifests need no edit.
fn find_runner(
    findings: &Findings,
    composition: &Composition,
    manifest: &Manifest,
) -> Option<(At<String>, RuntimeKind, Map<String, Value>)> {
    let names = RUNNERS.map(|(name, _)| name);
    let Some(wanted) = composition.global.runner.clone() else {
        let help = format!("write `runner = \"…\"` under `[global]`; {}", suggest("", names));
        findings.error(None, "`global.runner` is missing", help);
        return None;
    };
    let runtime_of =
        |name: &str| RUNNERS.iter().find(|(one, _)| *one == name).map(|(_, kind)| *kind);
    let Some(runtime) = runtime_of(&wanted.value) else {
        findings.error(
            wanted.span.clone(),
            format!("there is no runner `{}`", wanted.value),
            suggest(&wanted.value, names),
        );
        return None;
    };
    let same = || manifest.runners.iter().find(|(name, _)| runtime_of(name) == Some(runtime));
    let config = manifest.runners.get(&wanted.value).or_else(|| same().map(|(_, config)| config));
    // Groundswell's own runner needs no word of the plan: it runs whatever was built.
    if config.is_none() && wanted.value != "netns" {
        let known: Vec<_> = manifest.runners.keys().map(String::as_str).collect();
        findings.error(
            wanted.span.clone(),
            format!("plan `{}` does not support runner `{}`", manifest.name, wanted.value),
            format!("{}; runners are listed in its manifest.toml", suggest(&wanted.value, known)),
        );
        return None;
    }
    Some((wanted, runtime, config.cloned().unwrap_or_default()))
}

pub(super) fn build_group<'a>(composition: &'a Composition, one: &RunGroup) -> Option<&'a Group> {
    composition.groups.iter().find(|group| group.id.value == one.group_id.value)
}

fn check_total(findings: &Findings, case: &Case, run: &Run, counts: &[Option<u32>]) -> u32 {
    let Some(counts) = counts.iter().copied().collect::<Option<Vec<u32>>>() else { return 0 };
    let sum: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let each = || {
        let parts: Vec<_> = run
            .groups
            .iter()
            .zip(&counts)
            .map(|(group, count)| format!("`{}` {count}", group.id.value))
            .collect();
        parts.join(", ")
    };
    let place = run.total_instances.as_ref().map(|total| total.span.clone());
    if let Some(total) = &run.total_instances
        && u64::from(total.value) != sum
    {
        findings.error(
            total.span.clone(),
            format!("the groups add up to {sum} instances, not {}", total.value),
            sizes::what_to_change(u64::from(total.value), sum, &each()),
        );
    } else if sum < u64::from(case.min) || sum > u64::from(case.max) {
        let place = place.or_else(|| run.groups.first().map(|group| group.id.span.clone()));
        findings.error(
            place,
            format!("case `{}` takes {} to {} instances, not {sum}", case.name, case.min, case.max),
            format!("change the groups' instances: {}", each()),
        );
    } else if sum > u64::from(MOST_INSTANCES) {
        findings.error(
            place.or_else(|| run.groups.first().map(|group| group.id.span.clone())),
            format!(
                "a run's network has {MOST_INSTANCES} addresses, and {sum} instances need one each"
            ),
            "run fewer instances, or several runs side by side, or several nodes in one process",
        );
    }
    u32::try_from(sum).unwrap_or(u32::MAX)
}

fn resolve_group(
    composition: &Composition,
    case: &Case,
    run: &Run,
    one: &RunGroup,
    group: &Group,
) -> ResolvedGroup {
    let global = &composition.global.run;
    let layers = [&one.run, &run.shared, &group.run, global];
    let mut params = merge::texts(&layers.map(|layer| &layer.params));
    for (name, param) in &case.params {
        let slot = params.entry(name.clone()).or_default();
        if slot.is_empty() {
            slot.clone_from(&param.default);
        }
    }
    ResolvedGroup {
        id: one.id.value.clone(),
        build_group: group.id.value.clone(),
        builder: None,
        build: None,
        artifact: builds::artifact_of(composition, group).cloned(),
        instances: 0,
        params,
        env: merge::texts(&layers.map(|layer| &layer.env)),
        profiles: merge::texts(&layers.map(|layer| &layer.profiles)),
        resources: merge::resources(&one.resources, &group.resources),
        egress: group.egress.clone(),
        placement: placement::resolve(run, &group.placement),
        datasets: datasets::resolve(composition, group),
        build_key: String::new(),
    }
}

/// Looks for slips in names of parameters, and for defaults that cannot be packed.
fn check_params(
    findings: &Findings,
    composition: &Composition,
    case: &Case,
    run: &Run,
    groups: &[ResolvedGroup],
) {
    let declared = || case.params.keys().map(String::as_str);
    let of_groups = composition.groups.iter().map(|group| &group.run.params);
    let of_run = run.groups.iter().map(|group| &group.run.params);
    let given = [&composition.global.run.params, &run.shared.params];
    let given: BTreeMap<_, _> =
        given.into_iter().chain(of_groups).chain(of_run).flat_map(Texts::iter).collect();
    for (name, value) in given {
        if let Some(close) = closest(name, declared())
            && close != name
            && !case.params.contains_key(name)
        {
            findings.warning(
                value.span.clone(),
                format!("case `{}` declares no parameter `{name}`", case.name),
                format!("did you mean `{close}`?"),
            );
        }
    }
    for (name, param) in &case.params {
        let used = groups.iter().any(|group| group.params.get(name) == Some(&param.default));
        if used && (param.default.contains('|') || name.contains(['|', '='])) {
            findings.error(
                None,
                format!("the manifest's default of `{name}` cannot reach an instance: `|` separates parameters"),
                "set it in the composition, or change the manifest",
            );
        }
    }
}

fn report_options(
    findings: &Findings,
    composition: &Composition,
    runner: &At<String>,
    options: &options::Options,
) {
    for (_, message) in &options.wrong {
        findings.error(
            runner.span.clone(),
            message.clone(),
            "correct it under `[global.run_config]`, or in the manifest's table of the runner",
        );
    }
    for key in &options.ignored {
        // What a manifest says for Testground's own runners is no slip of the composition's author.
        if composition.global.run_config.keys().any(|own| own.eq_ignore_ascii_case(key)) {
            findings.warning(
                runner.span.clone(),
                format!("runner option `{key}` changes nothing here"),
                "remove it from `[global.run_config]` if it is not for Testground",
            );
        }
    }
}
