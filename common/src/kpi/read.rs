//! Reads KPIs, expectations and gates out of manifests and compositions.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::declare::{Better, Expectation, KpiSpec, Op, Scope, Stat, Wanted};
use super::unit;
use super::validity::{self, GateLimits};
use crate::diagnostic::suggest;
use crate::document::{At, Data, Findings, Node, Table};
use crate::manifest::Param;

/// What a case of a manifest says of its KPIs.
pub(crate) type Declarations = (Vec<KpiSpec>, Vec<Expectation>, Option<GateLimits>);

/// What a composition makes of the expectations of its case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// One more, or another one in place of that of the same name.
    Expect(Expectation),
    /// One that is not looked at.
    Off {
        /// Its name.
        name: At<String>,
        /// Why.
        reason: String,
    },
}

/// Reads `kpis`, `expect` and `validity` of a case.
pub(crate) fn declarations(
    findings: &Findings,
    case: &Table<'_>,
    params: &BTreeMap<String, Param>,
) -> Declarations {
    let kpis: Vec<KpiSpec> =
        case.tables("kpis").into_iter().filter_map(|table| kpi(findings, table)).collect();
    let mut names = BTreeSet::new();
    let mut expected = Vec::new();
    for table in case.tables("expect") {
        let Some(one) = expectation(findings, &table) else { continue };
        table.finish(&[]);
        check(findings, &one, &kpis, params);
        if names.insert(one.name.clone()) {
            expected.push(one);
        } else {
            findings.error(
                one.span.clone(),
                format!("expectation `{}` is there twice", one.name),
                "give each its own `name`",
            );
        }
    }
    (kpis, expected, case.table("validity").map(|table| validity::read(findings, table)))
}

/// Reads `expect` of a composition's `[global]`. What needs the manifest is checked when a run is resolved.
pub(crate) fn changes(findings: &Findings, global: &Table<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    for table in global.tables("expect") {
        let change = match table.text("off") {
            Some(reason) => off(findings, &table, reason),
            None => expectation(findings, &table).map(Change::Expect),
        };
        table.finish(&[]);
        changes.extend(change);
    }
    changes
}

fn off(findings: &Findings, table: &Table<'_>, reason: At<String>) -> Option<Change> {
    let name = table.text("name");
    if name.is_none() {
        let message = "an expectation that is switched off needs its `name`";
        findings.error(table.span.clone(), message, "write `name = \"…\"`, as the manifest has it");
    }
    if reason.value.trim().is_empty() {
        let help = "write `off = \"this network has no loss to find\"`, or whatever holds";
        findings.error(reason.span, "an expectation is switched off without a reason", help);
    }
    Some(Change::Off { name: name?, reason: reason.value })
}

fn kpi(findings: &Findings, table: Table<'_>) -> Option<KpiSpec> {
    let name = table.text("name").filter(|name| !name.value.is_empty());
    if name.is_none() {
        findings.error(
            table.span.clone(),
            "a KPI has no name",
            "write `name = \"time_to_find_s\"`",
        );
    }
    let word = |key| table.text(key).map(|text| text.value).unwrap_or_default();
    let (unit, desc) = (word("unit"), word("desc"));
    let better = table.text("better").and_then(|better| match better.value.as_str() {
        "lower" => Some(Better::Lower),
        "higher" => Some(Better::Higher),
        other => {
            let message = format!("`{other}` is no direction that is better");
            findings.error(better.span.clone(), message, "write `\"lower\"` or `\"higher\"`");
            None
        }
    });
    table.finish(&[]);
    Some(KpiSpec { name: name?.value, unit, better, desc })
}

/// Reads one expectation; everything that is wrong with it is told at once.
fn expectation(findings: &Findings, table: &Table<'_>) -> Option<Expectation> {
    let span = table.span.clone();
    let kpi = table.text("kpi").filter(|kpi| !kpi.value.is_empty());
    if kpi.is_none() {
        findings.error(
            span.clone(),
            "an expectation names no KPI",
            "write `kpi = \"time_to_find_s\"`",
        );
    }
    let (name, per, scope) = (table.text("name"), table.text("per"), table.text("scope"));
    let stat = one_of(findings, table, "stat", &Stat::ALL.map(|stat| (stat.as_str(), stat)));
    let op = one_of(findings, table, "op", &Op::ALL.map(|op| (op.as_str(), op)));
    let value = wanted(findings, table);
    let scope = scope.map_or(Some(Scope::Run), |scope| read_scope(findings, &scope));
    let (tags, only_if) = (texts(findings, table, "tags"), texts(findings, table, "only_if"));
    let (kpi, stat, op) = (kpi?.value, stat?, op?);
    if let Some(per) = per.as_ref().filter(|_| !matches!(stat, Stat::Sum | Stat::Count)) {
        let message =
            format!("the {} of one KPI divided by that of another says nothing", stat.as_str());
        findings.error(
            per.span.clone(),
            message,
            "`per` goes with `stat = \"sum\"` or `\"count\"`",
        );
    }
    let default_name = || format!("{kpi}.{}", stat.as_str());
    Some(Expectation {
        name: name.map(|name| name.value).unwrap_or_else(default_name),
        per: per.map(|per| per.value),
        value: value?,
        scope: scope?,
        kpi,
        stat,
        op,
        tags,
        only_if,
        span,
    })
}

fn one_of<T: Copy>(
    findings: &Findings,
    table: &Table<'_>,
    key: &'static str,
    words: &[(&'static str, T)],
) -> Option<T> {
    let known = || words.iter().map(|(word, _)| *word);
    let Some(text) = table.text(key) else {
        if table.get(key).is_none() {
            let message = format!("an expectation has no `{key}`");
            let words: Vec<&str> = known().collect();
            findings.error(table.span.clone(), message, format!("one of {}", words.join(", ")));
        }
        return None;
    };
    let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
    if found.is_none() {
        let message = format!("there is no {key} `{}`", text.value);
        findings.error(text.span, message, suggest(&text.value, known().collect::<Vec<_>>()));
    }
    found
}

fn wanted(findings: &Findings, table: &Table<'_>) -> Option<Wanted> {
    let Some(node) = table.get("value") else {
        let help =
            "write `value = 0.5`, `value = \"500ms\"`, or `value = \"$timeout\"` for a parameter";
        findings.error(table.span.clone(), "an expectation has no `value`", help);
        return None;
    };
    let text = node.scalar().unwrap_or_default();
    if let Some(param) = text.strip_prefix('$') {
        return Some(Wanted::Param(param.to_owned()));
    }
    let amount = match node.value {
        Data::Bool(_) | Data::Time(_) => None,
        _ => unit::amount(&text),
    };
    let Some((value, unit)) = amount else {
        let message = format!("`{text}` is not a number with a unit");
        let help =
            "write `value = 0.5`, `value = \"500ms\"`, or `value = \"$timeout\"` for a parameter";
        findings.error(node.span.clone(), message, help);
        return None;
    };
    Some(Wanted::Amount { value, unit: unit.to_owned() })
}

fn read_scope(findings: &Findings, scope: &At<String>) -> Option<Scope> {
    match scope.value.as_str() {
        "run" => Some(Scope::Run),
        "each_group" => Some(Scope::EachGroup),
        other => {
            if let Some(group) = other.strip_prefix("group:").filter(|group| !group.is_empty()) {
                return Some(Scope::Group(group.to_owned()));
            }
            let help = "write `\"run\"`, `\"each_group\"` or `\"group:ID\"`; `min` and `max` say what each instance keeps to";
            findings.error(scope.span.clone(), format!("there is no scope `{other}`"), help);
            None
        }
    }
}

fn texts(findings: &Findings, table: &Table<'_>, key: &'static str) -> BTreeMap<String, String> {
    let Some(inner) = table.table(key) else { return BTreeMap::new() };
    let mut texts = BTreeMap::new();
    for (name, node) in inner.entries() {
        match Node::scalar(node) {
            Some(text) => {
                texts.insert(name.value.clone(), text);
            }
            None => findings.error(
                node.span.clone(),
                format!("`{}` of `{key}` must be a text", name.value),
                format!("write `{key} = {{ {} = \"…\" }}`", name.value),
            ),
        }
    }
    texts
}

/// Checks an expectation against what its case declares.
pub(super) fn check(
    findings: &Findings,
    one: &Expectation,
    kpis: &[KpiSpec],
    params: &BTreeMap<String, Param>,
) {
    let mut units = Vec::new();
    for name in [Some(&one.kpi), one.per.as_ref()].into_iter().flatten() {
        match kpis.iter().find(|kpi| kpi.name == *name) {
            Some(kpi) => units.push(kpi.unit.as_str()),
            None => findings.error(
                one.span.clone(),
                format!("no KPI `{name}` is declared"),
                format!(
                    "declare it under `[[testcases.kpis]]` of the manifest, with its unit; {}",
                    suggest(name, kpis.iter().map(|kpi| kpi.name.as_str()).collect::<Vec<_>>())
                ),
            ),
        }
    }
    let mut named: Vec<&str> = one.only_if.keys().map(String::as_str).collect();
    match &one.value {
        Wanted::Amount { unit, .. } => check_unit(findings, one, unit, &units, one.span.clone()),
        Wanted::Param(param) => named.push(param),
    }
    for name in named.into_iter().filter(|name| !params.contains_key(*name)) {
        let known: Vec<&str> = params.keys().map(String::as_str).collect();
        let message = format!(
            "expectation `{}` names `{name}`, and the case has no such parameter",
            one.name
        );
        findings.error(one.span.clone(), message, suggest(name, known));
    }
}

fn check_unit(
    findings: &Findings,
    one: &Expectation,
    unit: &str,
    units: &[&str],
    span: Range<usize>,
) {
    let [of_kpi, ..] = units else { return };
    let wanted = unit_of(one, of_kpi, units.get(1).copied());
    if !unit.is_empty() && unit::base(unit).0 != unit::base(&wanted).0 {
        let is = if wanted.is_empty() {
            "a number without a unit".to_owned()
        } else {
            format!("in `{wanted}`")
        };
        findings.error(
            span,
            format!("`{unit}` is not a unit of `{}`, which is {is}", one.name),
            "write the value in that unit, or correct the unit of the KPI in the manifest",
        );
    }
}

/// The unit of what an expectation compares.
pub(super) fn unit_of(one: &Expectation, of_kpi: &str, of_per: Option<&str>) -> String {
    match (one.stat, of_per) {
        (_, Some(per)) if one.stat == Stat::Count || unit::base(per).0 == unit::base(of_kpi).0 => {
            "ratio".to_owned()
        }
        (_, Some(per)) => format!("{}/{}", unit::base(of_kpi).0, unit::base(per).0),
        (Stat::Count, None) => "count".to_owned(),
        (_, None) => of_kpi.to_owned(),
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
