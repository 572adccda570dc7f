//! Compares what a run has measured with what was expected of it, and says what that makes of its verdict.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::declare::{Better, KpiSpec, Stat};
use super::resolve::{Check, Judging};
use super::series::{HostLoad, SeriesKey, SeriesSet};
use super::validity::Gates;
use super::{Distribution, unit};
use crate::fidelity::{Fidelity, Grade, unmet};
use crate::ids::WorkerId;
use crate::run::Verdict;

/// How many KPIs the status of a run carries; `kpis.json` has them all.
const ROWS: usize = 12;

/// What a run has measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// All series.
    pub series: &'a SeriesSet,
    /// How the hosts were doing.
    pub hosts: &'a [(WorkerId, HostLoad)],
    /// How true the data network was.
    pub network: Option<&'a Fidelity>,
    /// The groups of the instances that the kernel killed for want of memory, each once.
    pub out_of_memory: &'a BTreeSet<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Judgement {
    /// Each expectation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<Judged>,
    /// Each validity gate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<JudgedGate>,
    /// The KPIs that matter most: those the manifest declares come first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kpis: Vec<KpiRow>,
    /// How many series there are in all.
    pub series: usize,
    /// How many values found no place because there were too many series.
    pub left_out: u64,
    /// Whether a broken gate takes the word from a run that passed, too.
    pub strict: bool,
}

/// What became of an expectation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// What was looked at, in words.
    pub what: String,
    /// What was wanted.
    pub wanted: String,
    /// What there was, in words.
    pub got: String,
    /// What there was, in the base of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What follows.
    pub state: State,
}

/// What follows for an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is as wanted.
    Kept,
    /// It is not.
    Broken,
    /// Nobody reported the KPI, which counts as broken.
    Silent,
    /// The composition has switched it off.
    Off,
}

/// What became of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedGate {
    /// Its name.
    pub name: String,
    /// What was wanted.
    pub wanted: String,
    /// What there was.
    pub got: String,
    /// What follows.
    pub state: GateState,
}

/// What follows for a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// The machines kept to it.
    Kept,
    /// They did not.
    Broken,
    /// Nobody measured it, which says nothing.
    Unmeasured,
}

/// A KPI over all groups and tags, in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KpiRow {
    /// Its name.
    pub name: String,
    /// The base of its unit.
    pub unit: String,
    /// Which direction is the good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// How many values there are.
    pub count: u64,
    /// Their statistics by name, without the count.
    pub stats: BTreeMap<String, f64>,
}

impl KpiRow {
    fn new(spec: &KpiSpec, unit: &str, values: &Distribution) -> Self {
        Self {
            name: spec.name.clone(),
            unit: unit.to_owned(),
            better: spec.better,
            count: values.count(),
            stats: stats(values),
        }
    }
}

/// The statistics of a distribution by name, without the count.
#[must_use]
pub fn stats(values: &Distribution) -> BTreeMap<String, f64> {
    let stats = Stat::ALL.into_iter().filter(|stat| *stat != Stat::Count);
    stats.filter_map(|stat| Some((stat.as_str().to_owned(), values.stat(stat)?))).collect()
}

/// All KPIs that are not diagnostics: those that are declared first, in their order.
#[must_use]
pub fn rows(judging: &Judging, series: &SeriesSet) -> Vec<KpiRow> {
    let mut rows = Vec::new();
    for spec in &judging.kpis {
        if let Ok(Some(values)) = values(series, spec, None, &BTreeMap::new()) {
            rows.push(KpiRow::new(spec, unit::base(&spec.unit).0, &values));
        }
    }
    // One that is reported in several units has a row for each.
    let done: BTreeSet<String> = rows.iter().map(|row: &KpiRow| row.name.clone()).collect();
    let mut others: BTreeMap<(&str, &str), Distribution> = BTreeMap::new();
    for (key, values) in
        series.iter().filter(|(key, _)| !key.diagnostic && !done.contains(&key.name))
    {
        others.entry((&key.name, &key.unit)).or_default().merge(values);
    }
    rows.extend(others.into_iter().map(|((name, unit), values)| {
        KpiRow::new(&KpiSpec { name: name.to_owned(), ..KpiSpec::default() }, unit, &values)
    }));
    rows
}

/// All values of a KPI, in the base of its unit: those of a group or of all, with these tags at least. None when
/// there are none.
///
/// # Errors
/// The unit in which it was reported, when that is another one than declared.
fn values(
    series: &SeriesSet,
    spec: &KpiSpec,
    group: Option<&String>,
    tags: &BTreeMap<String, String>,
) -> Result<Option<Distribution>, String> {
    let (base, factor) = unit::base(&spec.unit);
    let fits = |key: &SeriesKey| {
        let tagged = tags.iter().all(|(tag, value)| key.tags.get(tag) == Some(value));
        key.name == spec.name && group.is_none_or(|group| key.group == *group) && tagged
    };
    for diagnostic in [false, true] {
        let mut all = Distribution::default();
        for (key, values) in
            series.iter().filter(|(key, _)| key.diagnostic == diagnostic && fits(key))
        {
            if key.unit.is_empty() {
                all.merge(&values.scaled(factor));
            } else if key.unit == base {
                all.merge(values);
            } else {
                return Err(key.unit.clone());
            }
        }
        if all.count() > 0 {
            return Ok(Some(all));
        }
    }
    Ok(None)
}

/// Judges a run. None when nothing was expected of it and nothing was measured.
#[must_use]
pub fn judge(judging: &Judging, measured: Measured<'_>) -> Option<Judgement> {
    let Judging { checks, off, gates, .. } = judging;
    if measured.series.is_empty() && checks.is_empty() && off.is_empty() && gates.is_none() {
        return None;
    }
    let mut kpis = rows(judging, measured.series);
    kpis.truncate(ROWS);
    let mut expectations: Vec<Judged> =
        checks.iter().map(|check| expect(judging, check, measured.series)).collect();
    expectations.extend(off.iter().map(|(name, reason)| Judged {
        name: name.clone(),
        what: String::new(),
        wanted: String::new(),
        got: reason.clone(),
        value: None,
        state: State::Off,
    }));
    Some(Judgement {
        expectations,
        gates: gates.map(|gates| judge_gates(&gates, judging, measured)).unwrap_or_default(),
        kpis,
        series: measured.series.len(),
        left_out: measured.series.left_out(),
        strict: gates.is_some_and(|gates| gates.strict),
    })
}

fn expect(judging: &Judging, check: &Check, series: &SeriesSet) -> Judged {
    let Check { name, kpi, stat, per, op, limit, unit, group, tags } = check;
    let of_group = group.as_ref().map(|group| format!(" of group `{group}`")).unwrap_or_default();
    let with = tags.iter().map(|(tag, value)| format!(" {tag}={value}")).collect::<String>();
    let by = per.as_ref().map(|per| format!(" per {per}")).unwrap_or_default();
    let (state, value, got) = match found(judging, check, series) {
        Err(why) => (State::Broken, None, why),
        Ok(None) => (State::Silent, None, "no instance reported it".to_owned()),
        Ok(Some(got)) => {
            let state = if op.holds(got, *limit) { State::Kept } else { State::Broken };
            (state, Some(got), unit::shown(got, unit))
        }
    };
    Judged {
        name: name.clone(),
        what: format!("{} of {kpi}{by}{with}{of_group}", stat.as_str()),
        wanted: format!("{op} {}", unit::shown(*limit, unit)),
        got,
        value,
        state,
    }
}

/// The number a check is about; none when nobody reported a KPI it needs.
fn found(judging: &Judging, check: &Check, series: &SeriesSet) -> Result<Option<f64>, String> {
    let of = |name: &String| {
        let spec = judging.kpis.iter().find(|spec| spec.name == *name);
        let spec = spec.ok_or_else(|| format!("{name} is not declared"))?;
        let all = values(series, spec, check.group.as_ref(), &check.tags);
        let all = all.map_err(|unit| {
            format!("{name} was reported in `{unit}`, and is declared in `{}`", spec.unit)
        })?;
        Ok::<_, String>(all.and_then(|values| values.stat(check.stat)))
    };
    let upper = of(&check.kpi)?;
    let Some(per) = &check.per else { return Ok(upper) };
    let lower = of(per)?;
    match upper.zip(lower) {
        Some((_, 0.0)) => Err(format!("{per} is 0, and nothing is per nothing")),
        pair => Ok(pair.map(|(upper, lower)| upper / lower)),
    }
}

fn judge_gates(gates: &Gates, judging: &Judging, measured: Measured<'_>) -> Vec<JudgedGate> {
    let p95 = |name: &str| gauge(measured.series, name).and_then(|all| all.quantile(0.95));
    let worst = |of: &dyn Fn(&HostLoad) -> Option<f64>| {
        measured.hosts.iter().filter_map(|(_, host)| of(host)).reduce(f64::max)
    };
    let busy = worst(&|host| host.busy.quantile(0.95));
    let step = worst(&|host| Some(host.clock_step_s));
    let kills = (!measured.hosts.is_empty()).then(|| unexplained_kills(judging, measured));
    let numbers = [
        ("loop_lag_s", gates.loop_lag_s, p95("loop_lag_s"), "s"),
        ("fds_ratio", gates.fds_ratio, p95("fds_ratio"), ""),
        ("sync_rtt_s", gates.sync_rtt_s, p95("sync_rtt_s"), "s"),
        ("host_busy", gates.host_busy, busy, ""),
        ("clock_step_s", gates.clock_step_s, step, "s"),
        ("oom_kills", gates.oom_kills, kills, ""),
    ];
    let judged = numbers.into_iter().filter_map(|(name, limit, got, unit)| {
        let limit = limit?;
        let state = match got {
            None => GateState::Unmeasured,
            Some(got) if got <= limit => GateState::Kept,
            Some(_) => GateState::Broken,
        };
        Some(JudgedGate {
            name: name.to_owned(),
            wanted: format!("<= {}", unit::shown(limit, unit)),
            got: got.map_or_else(|| "not measured".to_owned(), |got| unit::shown(got, unit)),
            state,
        })
    });
    judged.chain(gates.fidelity.map(|wanted| network_gate(wanted, measured.network))).collect()
}

/// What instances sampled while they ran; a plan may have it in either file.
fn gauge(series: &SeriesSet, name: &str) -> Option<Distribution> {
    [true, false].into_iter().find_map(|diagnostic| {
        let mut all = Distribution::default();
        let wanted =
            series.iter().filter(|(key, _)| key.name == name && key.diagnostic == diagnostic);
        wanted.for_each(|(_, values)| all.merge(values));
        (all.count() > 0).then_some(all)
    })
}

/// Kills that no instance's own memory limit explains.
#[expect(clippy::cast_precision_loss, reason = "nobody survives 2^53 kills")]
fn unexplained_kills(judging: &Judging, measured: Measured<'_>) -> f64 {
    let killed = measured.out_of_memory;
    let explained = !killed.is_empty() && killed.is_subset(&judging.memory_limited);
    let kills = measured.hosts.iter().map(|(_, host)| host.oom_kills).sum::<u64>();
    if explained { 0.0 } else { kills as f64 }
}

fn network_gate(wanted: Grade, network: Option<&Fidelity>) -> JudgedGate {
    let state = match network {
        None => GateState::Unmeasured,
        Some(_) if unmet(network, wanted).is_some() => GateState::Broken,
        Some(_) => GateState::Kept,
    };
    let got = network.map_or("not measured", |network| network.grade.as_str());
    JudgedGate {
        name: "fidelity".to_owned(),
        wanted: format!("{wanted} or better"),
        got: got.to_owned(),
        state,
    }
}

impl Judged {
    /// What was wanted and what there was, in words.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { what, wanted, got, .. } = self;
        match (self.state, self.value) {
            (State::Off, _) => format!("is off: {got}"),
            (_, Some(_)) => format!("{what} {wanted}, got {got}"),
            (_, None) => format!("{what} {wanted}: {got}"),
        }
    }

    /// Whether it is as it should not be.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken | State::Silent)
    }
}

impl Judgement {
    /// The expectations that are not kept.
    pub fn broken(&self) -> impl Iterator<Item = &Judged> {
        self.expectations.iter().filter(|one| one.is_broken())
    }

    /// The gates that are not kept.
    pub fn broken_gates(&self) -> impl Iterator<Item = &JudgedGate> {
        self.gates.iter().filter(|gate| gate.state == GateState::Broken)
    }

    /// What a run's verdict, and the reason of it, become in the light of this. Only one about the software under
    /// test changes: trouble with the machines or a cancel says nothing of it in any case.
    #[must_use]
    pub fn weigh(&self, verdict: Verdict, reason: String) -> (Verdict, String) {
        let (verdict, reason) = match (verdict, self.reason()) {
            (Verdict::Passed, Some(broken)) => (Verdict::Failed, broken),
            (verdict, _) => (verdict, reason),
        };
        let Some(gates) = self.gates_reason() else { return (verdict, reason) };
        match verdict {
            Verdict::Failed => (Verdict::Inconclusive, format!("{gates}; otherwise: {reason}")),
            Verdict::Passed if self.strict => (Verdict::Inconclusive, gates),
            Verdict::Passed
            | Verdict::Inconclusive
            | Verdict::Infra
            | Verdict::TimedOut
            | Verdict::Canceled
            | Verdict::Rejected
            | Verdict::Unplaceable => (verdict, reason),
        }
    }

    fn reason(&self) -> Option<String> {
        let first = self.broken().next()?;
        let Judged { name, what, wanted, got, .. } = first;
        let total = self.expectations.iter().filter(|one| one.state != State::Off).count();
        let broken = self.broken().count();
        let is = if first.value.is_some() { "is " } else { "" };
        let first = format!("`{name}`: {what} was to be {wanted}, and {is}{got}");
        Some(match broken {
            1 => format!("expectation {first}"),
            _ => format!("{broken} of {total} expectations are broken; the first is {first}"),
        })
    }

    fn gates_reason(&self) -> Option<String> {
        let broken: Vec<String> = self
            .broken_gates()
            .map(|gate| format!("{} was to be {} and was {}", gate.name, gate.wanted, gate.got))
            .collect();
        (!broken.is_empty())
            .then(|| format!("the machines were not fit to tell: {}", broken.join(", ")))
    }

    /// What people should know of a run that ended with `verdict`.
    #[must_use]
    pub fn warnings(&self, verdict: Verdict) -> Vec<String> {
        let gates = self.gates_reason().filter(|_| verdict == Verdict::Passed);
        let left_out = (self.left_out > 0).then(|| {
            format!(
                "{} values of KPIs were left out: there are too many names, units and tags",
                self.left_out
            )
        });
        gates.into_iter().chain(left_out).collect()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
