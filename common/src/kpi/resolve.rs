//! Decides what a run is judged by: what its case declares, and what its composition makes of that.

use std::collections::{BTreeMap, BTreeSet};

use super::declare::{Expectation, KpiSpec, Op, Scope, Stat, Wanted};
use super::read::{self, Change};
use super::unit;
use super::validity::{GateLimits, Gates};
use crate::composition::ResolvedGroup;
use crate::diagnostic::suggest;
use crate::document::Findings;
use crate::manifest::Case;

/// Everything a run is judged by beside the ends of its instances.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judging {
    /// The KPIs its case declares.
    pub kpis: Vec<KpiSpec>,
    /// What must hold.
    pub checks: Vec<Check>,
    /// Expectations that are not looked at, each with the reason.
    pub off: Vec<(String, String)>,
    /// What the machines must have kept to, if anything.
    pub gates: Option<Gates>,
    /// Groups whose instances have a memory limit of their own: to reach it says nothing about the host.
    pub memory_limited: BTreeSet<String>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The expectation it is of.
    pub name: String,
    /// The KPI.
    pub kpi: String,
    /// What of it.
    pub stat: Stat,
    /// The KPI it is divided by.
    pub per: Option<String>,
    /// How it is compared.
    pub op: Op,
    /// With what, in `unit`.
    pub limit: f64,
    /// The base of the unit of both sides.
    pub unit: String,
    /// The group whose values count; absent for all.
    pub group: Option<String>,
    /// Only values with these tags.
    pub tags: BTreeMap<String, String>,
}

/// What a composition says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes<'a> {
    pub(crate) changes: &'a [Change],
    pub(crate) gates: Option<&'a GateLimits>,
}

/// Puts together what the files say; what is wrong goes to `findings`, which are about the composition.
pub(crate) fn resolve(
    findings: &Findings,
    case: &Case,
    wishes: Wishes<'_>,
    groups: &[ResolvedGroup],
) -> Judging {
    let mut expected = case.expect.clone();
    let mut off = Vec::new();
    for change in wishes.changes {
        match change {
            Change::Expect(one) => {
                read::check(findings, one, &case.kpis, &case.params);
                match expected.iter_mut().find(|known| known.name == one.name) {
                    Some(known) => known.clone_from(one),
                    None => expected.push(one.clone()),
                }
            }
            Change::Off { name, reason } => {
                let before = expected.len();
                expected.retain(|known| known.name != name.value);
                if expected.len() == before {
                    let known: Vec<&str> = expected.iter().map(|one| one.name.as_str()).collect();
                    let message = format!("no expectation `{}` is there to switch off", name.value);
                    findings.error(name.span.clone(), message, suggest(&name.value, known));
                }
                off.push((name.value.clone(), reason.clone()));
            }
        }
    }
    let checks = expected.iter().flat_map(|one| checks(findings, case, one, groups)).collect();
    let gates = Gates::of(case.validity.as_ref(), wishes.gates);
    let limited = groups.iter().filter(|group| group.resources.memory_bytes.is_some());
    let memory_limited = limited.map(|group| group.id.clone()).collect();
    Judging { kpis: case.kpis.clone(), checks, off, gates, memory_limited }
}

/// What one expectation compares in this run.
fn checks(
    findings: &Findings,
    case: &Case,
    one: &Expectation,
    groups: &[ResolvedGroup],
) -> Vec<Check> {
    let applies = |group: &&ResolvedGroup| {
        let same = |(name, value): (&String, &String)| group.params.get(name) == Some(value);
        one.only_if.iter().all(same)
    };
    let with_instances = || groups.iter().filter(|group| group.instances > 0);
    match &one.scope {
        Scope::Run => {
            if !with_instances().all(|group| applies(&group)) {
                return Vec::new();
            }
            let limits: Vec<f64> =
                with_instances().filter_map(|group| limit(findings, case, one, group)).collect();
            let same = limits.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
            if !same {
                let message =
                    format!("the groups differ in what expectation `{}` compares with", one.name);
                findings.error(
                    None,
                    message,
                    "give it `scope = \"each_group\"`, or all groups one value",
                );
            }
            limits.first().map(|limit| check(case, one, *limit, None)).into_iter().collect()
        }
        Scope::EachGroup => with_instances()
            .filter(applies)
            .filter_map(|group| {
                Some(check(case, one, limit(findings, case, one, group)?, Some(&group.id)))
            })
            .collect(),
        Scope::Group(id) => {
            let Some(group) = groups.iter().find(|group| group.id == *id) else {
                let known: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
                let message = format!(
                    "expectation `{}` is about group `{id}`, which the run does not have",
                    one.name
                );
                findings.warning(None, message, suggest(id, known));
                return Vec::new();
            };
            let limit =
                Some(group).filter(applies).and_then(|group| limit(findings, case, one, group));
            limit.map(|limit| check(case, one, limit, Some(id))).into_iter().collect()
        }
    }
}

fn declared<'a>(case: &'a Case, name: &str) -> &'a str {
    case.kpis.iter().find(|kpi| kpi.name == name).map_or("", |kpi| kpi.unit.as_str())
}

fn full_unit(case: &Case, one: &Expectation) -> String {
    read::unit_of(one, declared(case, &one.kpi), one.per.as_deref().map(|per| declared(case, per)))
}

/// The number an expectation compares with in a group, in the base of its unit.
fn limit(
    findings: &Findings,
    case: &Case,
    one: &Expectation,
    group: &ResolvedGroup,
) -> Option<f64> {
    let full = full_unit(case, one);
    let in_base = |value: f64, unit: &str| {
        value * unit::base(if unit.is_empty() { full.as_str() } else { unit }).1
    };
    let param = match &one.value {
        Wanted::Amount { value, unit } => return Some(in_base(*value, unit)),
        Wanted::Param(param) => param,
    };
    // That there is none was told when the expectation was checked.
    let text = group.params.get(param)?;
    let amount = unit::amount(text);
    let fits = |unit: &str| unit.is_empty() || unit::base(unit).0 == unit::base(&full).0;
    let Some((value, unit)) = amount.filter(|(_, unit)| fits(unit)) else {
        let wanted =
            if full.is_empty() { "a number".to_owned() } else { format!("a number in `{full}`") };
        findings.error(
            None,
            format!("expectation `{}` compares with `{param}`, which is `{text}` in group `{}` and not {wanted}", one.name, group.id),
            format!("set the parameter `{param}` to {wanted}, or switch the expectation off"),
        );
        return None;
    };
    Some(in_base(value, unit))
}

fn check(case: &Case, one: &Expectation, limit: f64, group: Option<&String>) -> Check {
    Check {
        name: one.name.clone(),
        kpi: one.kpi.clone(),
        stat: one.stat,
        per: one.per.clone(),
        op: one.op,
        limit,
        unit: unit::base(&full_unit(case, one)).0.to_owned(),
        group: group.cloned(),
        tags: one.tags.clone(),
    }
}
