//! What came of a comparison, ready to be printed: in words, as Markdown, as a page, for a machine that collects test
//! results. Pure.

use std::collections::BTreeMap;

use groundswell_common::compare::quantiles::QuantileShift;
use groundswell_common::compare::shift::Interval;
use groundswell_common::compare::{Comparison, Finding, Method, Outlook, Row, least_seen};
use groundswell_common::kpi::unit;
use serde::Serialize;

use super::args::FailOn;
use crate::cli::exit::Exit;

/// One comparison and what people have to know with it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) plan: String,
    pub(crate) case: String,
    pub(crate) comparison: Comparison,
    /// What it could have seen.
    pub(crate) outlook: Option<Outlook>,
    /// The least change of each KPI that would mostly have been seen, as a share.
    pub(crate) least_seen: BTreeMap<String, f64>,
    /// How the values of all instances moved, by KPI without its statistic. This describes, and tests nothing.
    pub(crate) quantiles: BTreeMap<String, Vec<QuantileShift>>,
    /// What differs between the runs besides the software, and the like.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(plan: &str, case: &str, comparison: Comparison) -> Self {
        Self {
            plan: plan.to_owned(),
            case: case.to_owned(),
            outlook: Outlook::of(&comparison),
            least_seen: least_seen(&comparison),
            quantiles: BTreeMap::new(),
            notes: comparison.notes.clone(),
            comparison,
        }
    }

    /// What the exit code tells of it.
    pub(crate) fn codes(&self, fail_on: &[FailOn]) -> Vec<Exit> {
        let found = |finding| self.comparison.found(finding, true).next().is_some();
        let mut codes = Vec::new();
        for what in fail_on {
            match what {
                FailOn::Regression if found(Finding::Regression) => codes.push(Exit::Regression),
                FailOn::Inconclusive if found(Finding::Inconclusive) => {
                    codes.push(Exit::Inconclusive)
                }
                FailOn::Regression | FailOn::Inconclusive | FailOn::None => {}
            }
        }
        codes
    }

    /// Why it could tell nothing at all of any KPI that has a good direction, if so.
    pub(crate) fn told_nothing(&self) -> Option<&str> {
        let Comparison { rows, rules, directed, .. } = &self.comparison;
        let mut all = rows.iter().filter(|row| row.better.is_some());
        let first = all.next()?;
        let demand = rules.demand(*directed);
        let nothing = |row: &Row| {
            row.finding == Finding::Inconclusive && (row.p.is_none() || !row.design.tells(demand))
        };
        (nothing(first) && all.all(nothing)).then_some(first.why.as_str())
    }

    /// How many KPIs have which finding: `1 regression, 2 same`.
    pub(crate) fn tally(&self) -> String {
        let mut counts: BTreeMap<Finding, usize> = BTreeMap::new();
        self.comparison.rows.iter().for_each(|row| *counts.entry(row.finding).or_default() += 1);
        let words = counts
            .into_iter()
            .map(|(finding, count)| format!("{count} {}", plural(finding, count)));
        let words: Vec<String> = words.collect();
        if words.is_empty() { "no KPIs".to_owned() } else { words.join(", ") }
    }

    /// How it was done, in one line.
    pub(crate) fn method(&self) -> String {
        let Comparison { design, rules, directed, .. } = &self.comparison;
        let many = match directed {
            0 => "no KPI has a good direction".to_owned(),
            1 => "1 KPI has a good direction".to_owned(),
            many => format!("{} over {many} KPIs", rules.correction.name()),
        };
        format!(
            "{design} · {many} · min effect {} · alpha {}",
            percent(rules.min_effect),
            rules.alpha
        )
    }

    /// What it could have seen, in one line.
    pub(crate) fn power(&self) -> Option<String> {
        let Outlook { noise, seen, needed } = self.outlook.as_ref()?;
        let seen: Vec<String> = seen
            .iter()
            .map(|seen| {
                format!("a change of {} in {:.0} %", percent(seen.change), seen.power * 100.0)
            })
            .collect();
        let more = needed.map(|runs| format!("; {runs} of each side would see the latter in 80 %"));
        Some(format!(
            "runs of a side differ by {}, so these see {} of all cases{}",
            percent(*noise),
            seen.join(" and "),
            more.unwrap_or_default()
        ))
    }

    /// Runs that do not count, and why, each in words.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = String> {
        let sides = [&self.comparison.a, &self.comparison.b];
        sides.into_iter().flat_map(|side| {
            side.left_out
                .iter()
                .map(|out| format!("{} of {}: {}", out.run, side.name, out.why.join("; ")))
        })
    }
}

fn plural(finding: Finding, count: usize) -> &'static str {
    match (finding, count) {
        (Finding::Regression, 2..) => "regressions",
        (Finding::Improvement, 2..) => "improvements",
        (_, _) => finding.as_str(),
    }
}

/// The cells of a row, as texts.
pub(crate) struct Cells {
    pub(crate) kpi: String,
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) shift: String,
    pub(crate) change: String,
    pub(crate) p: String,
    pub(crate) effect: String,
    pub(crate) finding: String,
}

impl Cells {
    pub(crate) fn of(row: &Row) -> Self {
        let value = |value: Option<f64>| {
            value.map_or("–".to_owned(), |value| unit::shown(value, &row.unit))
        };
        let shift = row.shift.map(|shift| {
            let bounds = |interval: Interval| {
                format!(
                    " [{}, {}]",
                    signed(interval.low, &row.unit),
                    signed(interval.high, &row.unit)
                )
            };
            format!(
                "{}{}",
                signed(shift.estimate, &row.unit),
                shift.interval.map(bounds).unwrap_or_default()
            )
        });
        let change = row.change.map(|change| {
            let bounds = |interval: Interval| {
                format!(" [{}, {}]", signed_percent(interval.low), signed_percent(interval.high))
            };
            format!(
                "{}{}",
                signed_percent(change),
                row.change_interval.map(bounds).unwrap_or_default()
            )
        });
        let effect =
            row.delta.zip(row.size).map(|(delta, size)| format!("{delta:.2} {}", size.as_str()));
        Self {
            kpi: row.kpi.clone(),
            a: value(row.a.median),
            b: value(row.b.median),
            shift: shift.unwrap_or_default(),
            change: change.unwrap_or_default(),
            p: row.p_corrected.or(row.p).map(p_value).unwrap_or_default(),
            effect: effect.unwrap_or_default(),
            finding: match row.finding {
                Finding::Regression => "REGRESSION".to_owned(),
                Finding::Inconclusive
                | Finding::Improvement
                | Finding::Changed
                | Finding::Same
                | Finding::Descriptive => row.finding.as_str().to_owned(),
            },
        }
    }
}

/// What is to be said of a row besides its cells; absent when the cells say all.
pub(crate) fn remark(report: &Report, row: &Row) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    if !row.why.is_empty() {
        parts.push(row.why.clone());
    }
    if let Some(range) = row.range.filter(|_| row.design.method == Method::Range) {
        let (low, high) = (unit::shown(range.low, &row.unit), unit::shown(range.high, &row.unit));
        let inside =
            if row.b.median.is_some_and(|b| range.contains(b)) { "inside" } else { "outside" };
        parts.push(format!(
            "{inside} {low} … {high}, where {:.0} % of further runs lie",
            range.coverage * 100.0
        ));
    }
    let unsure = matches!(row.finding, Finding::Same | Finding::Inconclusive);
    if let Some(least) = report.least_seen.get(&row.kpi).filter(|_| unsure && row.p.is_some()) {
        parts.push(format!("a change below {} is mostly not seen", percent(*least)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// An amount with its sign.
fn signed(value: f64, unit: &str) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", unit::shown(value, unit))
}

fn signed_percent(share: f64) -> String {
    let sign = if share > 0.0 { "+" } else { "" };
    format!("{sign}{}", percent(share))
}

/// A share in per cent, to a tenth; less than that to two figures.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent != 0.0 && percent.abs() < 0.1 {
        return format!("{percent:.3} %");
    }
    let text = format!("{percent:.1}");
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") }
}

/// Text in HTML and XML.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no other control characters.
            letter if letter.is_control() && !matches!(letter, '\n' | '\t' | '\r') => {
                escaped.push('\u{fffd}')
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}
