//! Compares two sets of runs, KPI by KPI.
//!
//! The unit is the run: each has one number for a KPI. A change counts when chance alone would seldom make it, after
//! correction for the number of KPIs, and when it is large enough to matter. Runs that cannot be trusted are left out
//! and named; a design that cannot tell a change from chance is refused, whatever the numbers look like.

use super::comparison::{
    ComparedKpi, ComparedRun, Comparison, Finding, LeftOut, Row, Rules, Side, SideUsed, Values,
};
use super::design::{Design, Method, Pairing, enough};
use super::effect::{Size, cliff};
use super::power::noise;
use super::range::{Range, outlying, range};
use super::ranks::{mann_whitney, signed_rank};
use super::shift::{Interval, Shift, median, paired, unpaired};
use super::welch::welch;
use crate::kpi::Better;

/// Version of the format of a [`Comparison`].
const VERSION: u32 = 1;

/// Compares the runs of `b` with those of `a`.
#[must_use]
pub fn compare(a: &Side, b: &Side, kpis: &[ComparedKpi], rules: Rules) -> Comparison {
    let trusted = Trusted::of(a, b, rules.pairing);
    // A KPI that one side does not have is not tested, and so takes no chance from the others.
    let directed =
        kpis.iter().filter(|kpi| kpi.better.is_some() && trusted.both_have(&kpi.name)).count();
    let mut rows: Vec<Row> = kpis.iter().map(|kpi| row(&trusted, kpi, rules, directed)).collect();
    correct(&mut rows, rules);
    rows.iter_mut().for_each(|row| find(row, &trusted, rules, directed));
    let design = trusted.design(trusted.pairs.len(), rules, directed);
    let notes = notes(&trusted, &rows, rules);
    let used = |side: &Side, runs: &[&ComparedRun]| SideUsed {
        name: side.name.clone(),
        runs: runs.iter().map(|run| run.name.clone()).collect(),
        left_out: side
            .runs
            .iter()
            .filter(|run| !run.distrust.is_empty())
            .map(|run| LeftOut { run: run.name.clone(), why: run.distrust.clone() })
            .collect(),
    };
    let (a, b) = (used(a, &trusted.a), used(b, &trusted.b));
    Comparison { v: VERSION, a, b, rules, design, directed, rows, notes }
}

/// The runs that count.
struct Trusted<'a> {
    names: [&'a str; 2],
    a: Vec<&'a ComparedRun>,
    b: Vec<&'a ComparedRun>,
    /// Those that are paired, both of which count.
    pairs: Vec<(&'a ComparedRun, &'a ComparedRun)>,
    /// Runs that have no partner.
    alone: usize,
}

impl<'a> Trusted<'a> {
    fn of(a: &'a Side, b: &'a Side, pairing: Pairing) -> Self {
        let counts = |run: &&ComparedRun| run.distrust.is_empty();
        let (ours, theirs) = (a.runs.iter().filter(counts), b.runs.iter().filter(counts));
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
        let pairs: Vec<_> = match pairing {
            Pairing::None => Vec::new(),
            Pairing::Interleaved | Pairing::Within => {
                let all = a.runs.iter().zip(&b.runs);
                all.filter(|(one, other)| counts(one) && counts(other)).collect()
            }
        };
        let alone = match pairing {
            Pairing::None => 0,
            Pairing::Interleaved | Pairing::Within => ours.len() + theirs.len() - 2 * pairs.len(),
        };
        Self { names: [&a.name, &b.name], a: ours, b: theirs, pairs, alone }
    }

    fn both_have(&self, kpi: &str) -> bool {
        [&self.a, &self.b].iter().all(|runs| runs.iter().any(|run| run.values.contains_key(kpi)))
    }

    fn design(&self, pairs: usize, rules: Rules, directed: usize) -> Design {
        let (a, b) = (self.a.len(), self.b.len());
        Design::of(a, b, pairs, rules.pairing, rules.demand(directed))
    }

    /// The values of a KPI and the design they are for: those of pairs where pairs are compared.
    fn values(
        &self,
        kpi: &ComparedKpi,
        rules: Rules,
        directed: usize,
    ) -> (Design, Vec<f64>, Vec<f64>) {
        let value = |run: &ComparedRun| run.values.get(&kpi.name).copied();
        let pairs = self.pairs.iter().filter_map(|(a, b)| value(a).zip(value(b)));
        let (first, second): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let of = |runs: &[&ComparedRun]| runs.iter().filter_map(|run| value(run)).collect();
        let (a, b): (Vec<f64>, Vec<f64>) = (of(&self.a), of(&self.b));
        // A KPI without a good direction stands for itself.
        let kpis = if kpi.better.is_some() { directed } else { 1 };
        let demand = rules.demand(kpis);
        let design = Design::of(a.len(), b.len(), first.len(), rules.pairing, demand);
        match design.method {
            Method::SignedRank | Method::Descriptive => (design, first, second),
            Method::MannWhitney | Method::Welch | Method::Range | Method::TooFew => (design, a, b),
        }
    }
}

/// Everything about a KPI but what follows.
fn row(trusted: &Trusted<'_>, kpi: &ComparedKpi, rules: Rules, directed: usize) -> Row {
    let (design, a, b) = trusted.values(kpi, rules, directed);
    let Tested { p, shift, change, change_interval, range } = tested(design.method, &a, &b, rules);
    let delta = cliff(&a, &b);
    let noise = noise(&a, &b, design.method);
    let values = |values: Vec<f64>| Values { median: median(&values), values };
    Row {
        kpi: kpi.name.clone(),
        unit: kpi.unit.clone(),
        better: kpi.better,
        design,
        shift,
        change,
        change_interval,
        p,
        p_corrected: None,
        delta,
        size: delta.map(Size::of),
        range,
        noise,
        finding: Finding::Inconclusive,
        why: String::new(),
        a: values(a),
        b: values(b),
    }
}

/// What a test has to say.
struct Tested {
    p: Option<f64>,
    shift: Option<Shift>,
    change: Option<f64>,
    change_interval: Option<Interval>,
    range: Option<Range>,
}

fn tested(method: Method, a: &[f64], b: &[f64], rules: Rules) -> Tested {
    let alpha = rules.alpha;
    let base = median(a).map(f64::abs).filter(|base| *base > 0.0);
    let told = |p: Option<f64>, shift: Option<Shift>, range: Option<Range>| Tested {
        p,
        change: shift.zip(base).map(|(shift, base)| shift.estimate / base),
        change_interval: shift.and_then(|shift| shift.interval).zip(base).map(share),
        shift,
        range,
    };
    let without_interval = || {
        let estimate = median(b)? - median(a)?;
        Some(Shift { estimate, interval: None })
    };
    // Where no value differs from any other, no test has anything to look at, and nothing has changed.
    let alike = alike(a, b).then_some(1.0);
    match method {
        Method::MannWhitney => {
            told(mann_whitney(a, b).map(|test| test.p), unpaired(a, b, alpha), None)
        }
        Method::SignedRank => {
            let differences: Vec<f64> = a.iter().zip(b).map(|(from, to)| to - from).collect();
            let p = signed_rank(&differences).map_or(1.0, |test| test.p);
            told(Some(p), paired(&differences, alpha), None)
        }
        Method::Welch => match welch(a, b, alpha) {
            Some(test) => {
                let told = told(Some(test.p), Some(test.shift), None);
                Tested { change: test.ratio, ..told }
            }
            None => told(alike, without_interval(), None),
        },
        Method::Range => {
            let p = outlying(a, b).or(alike);
            told(p, without_interval(), range(a, b.len(), alpha))
        }
        Method::Descriptive | Method::TooFew => told(None, without_interval(), None),
    }
}

fn share((interval, base): (Interval, f64)) -> Interval {
    Interval { low: interval.low / base, high: interval.high / base, ..interval }
}

fn alike(a: &[f64], b: &[f64]) -> bool {
    let mut all = a.iter().chain(b);
    let first = all.next();
    all.all(|value| Some(value) == first)
}

/// Corrects the p-values of KPIs that have a good direction for their number.
fn correct(rows: &mut [Row], rules: Rules) {
    let mut directed: Vec<&mut Row> =
        rows.iter_mut().filter(|row| row.better.is_some() && row.p.is_some()).collect();
    let values: Vec<f64> = directed.iter().filter_map(|row| row.p).collect();
    let corrected = rules.correction.adjust(&values);
    directed.iter_mut().zip(corrected).for_each(|(row, p)| row.p_corrected = Some(p));
}

/// What follows from the numbers of a row.
fn find(row: &mut Row, trusted: &Trusted<'_>, rules: Rules, directed: usize) {
    if row.design.method == Method::Descriptive && !row.a.values.is_empty() {
        row.finding = Finding::Descriptive;
        "instances of a run share a network".clone_into(&mut row.why);
        return;
    }
    if let Some(why) = untold(row, trusted, rules, directed) {
        (row.finding, row.why) = (Finding::Inconclusive, why);
        return;
    }
    let p = row.p_corrected.or(row.p).unwrap_or(1.0);
    let estimate = row.shift.map_or(0.0, |shift| shift.estimate);
    // Whatever comes of nothing is a large share of it.
    let matters = row.change.map_or(estimate != 0.0, |change| change.abs() >= rules.min_effect);
    let beyond = row.range.is_none_or(|range| !row.b.median.is_some_and(|b| range.contains(b)));
    let told = p < rules.alpha && beyond;
    (row.finding, row.why) = match (told, matters) {
        (true, true) => (direction(row.better, estimate), String::new()),
        (true, false) => {
            (Finding::Same, "it changed, by less than what is said to matter".to_owned())
        }
        (false, true) => {
            let why = "the difference would matter, and may be chance";
            (Finding::Inconclusive, why.to_owned())
        }
        (false, false) => (Finding::Same, String::new()),
    };
}

fn direction(better: Option<Better>, shift: f64) -> Finding {
    match better {
        None => Finding::Changed,
        Some(Better::Lower) if shift > 0.0 => Finding::Regression,
        Some(Better::Higher) if shift < 0.0 => Finding::Regression,
        Some(Better::Lower | Better::Higher) => Finding::Improvement,
    }
}

/// Why nobody can tell, if so, and what would help.
fn untold(row: &Row, trusted: &Trusted<'_>, rules: Rules, directed: usize) -> Option<String> {
    for (values, name) in [&row.a, &row.b].into_iter().zip(trusted.names) {
        if values.values.is_empty() {
            return Some(format!("no trusted run of {name} has it"));
        }
    }
    let kpis = if row.better.is_some() { directed } else { 1 };
    let demand = rules.demand(kpis);
    if !row.design.tells(demand) {
        let (a, b) = (row.design.a, row.design.b);
        let with = if kpis > 1 { format!(" for {kpis} KPIs at once") } else { String::new() };
        let help = enough(rules.pairing, demand)
            .map(|runs| format!("; {runs} of each side can"))
            .unwrap_or_default();
        return Some(format!("{a} v {b} runs cannot tell a change from chance{with}{help}"));
    }
    row.p
        .is_none()
        .then(|| "the runs of a side are all alike, so nothing says what chance does".to_owned())
}

/// What people should know of the comparison as a whole.
fn notes(trusted: &Trusted<'_>, rows: &[Row], rules: Rules) -> Vec<String> {
    let mut notes = Vec::new();
    if trusted.alone > 0 {
        notes.push(format!("{} trusted runs have no partner in a pair", trusted.alone));
    }
    if rows.iter().any(|row| row.design.method == Method::Welch) {
        notes.push(
            "3 runs of a side are weak evidence: too few to see how they are distributed"
                .to_owned(),
        );
    }
    if !rows.is_empty() && rows.iter().all(|row| row.better.is_none()) {
        let text =
            "no KPI has a good direction, so none can regress: the manifest says it with `better`";
        notes.push(text.to_owned());
    }
    let loose = rows.iter().filter(|row| row.better.is_none() && row.p.is_some()).count();
    if loose > 1 {
        notes.push(format!(
            "{loose} KPIs have no good direction; their p-values are not corrected for their number, so at {} \
             about one in {:.0} of them is called changed by chance",
            rules.alpha,
            1.0 / rules.alpha
        ));
    }
    notes
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
