//! Comparisons as one page that needs nothing else: the table, each run as a point, and how the whole distribution
//! moved.

use std::fmt::Write as _;

use groundswell_common::compare::Row;
use groundswell_common::compare::quantiles::QuantileShift;
use groundswell_common::kpi::unit;

use super::report::{Cells, Report, escaped, percent, remark};
use super::text::symbol;

/// Width of the drawings, in pixels.
const WIDTH: f64 = 420.0;
/// What is left free at their ends.
const MARGIN: f64 = 12.0;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25em .7em;border-bottom:1px solid #ddd}\
td{font-variant-numeric:tabular-nums}.a{fill:#3b6ea8}.b{fill:#d1662b}.zero{stroke:#999}.moved{fill:none;stroke:#d1662b;\
stroke-width:2}.range{fill:#3b6ea822}text{font-size:11px;fill:#555}small{color:#555}section{margin:1.5em 0}";

/// The page.
pub(crate) fn html(reports: &[Report]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Comparison of runs</title>\n\
         <style>{STYLE}</style></head><body>\n"
    );
    reports.iter().for_each(|report| one(&mut page, report));
    page.push_str("</body></html>");
    page
}

fn one(page: &mut String, report: &Report) {
    let (a, b) = (&report.comparison.a, &report.comparison.b);
    let title = format!("{}/{}: {}", report.plan, report.case, report.tally());
    let _ = writeln!(page, "<h1>{}</h1>\n<p>{}</p>", escaped(&title), escaped(&report.method()));
    let _ = writeln!(
        page,
        "<table><tr><th>KPI<th>A: {}<th>B: {}<th>shift<th>change<th>p<th>effect<th>finding</tr>",
        escaped(&a.name),
        escaped(&b.name)
    );
    for row in &report.comparison.rows {
        let Cells { kpi, a, b, shift, change, p, effect, finding } = Cells::of(row);
        let cells =
            [kpi, a, b, shift, change, p, effect, format!("{} {finding}", symbol(row.finding))];
        let cells: String = cells.iter().map(|cell| format!("<td>{}", escaped(cell))).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    page.push_str("</table>\n");
    let lines = report
        .power()
        .into_iter()
        .chain(report.left_out().map(|run| format!("left out: {run}")))
        .chain(report.notes.iter().cloned())
        .chain([format!("A: {}", a.runs.join(", ")), format!("B: {}", b.runs.join(", "))]);
    let lines: String = lines.map(|line| format!("<li>{}\n", escaped(&line))).collect();
    let _ = writeln!(page, "<ul>\n{lines}</ul>");
    for row in &report.comparison.rows {
        section(page, report, row);
    }
}

fn section(page: &mut String, report: &Report, row: &Row) {
    if row.a.values.is_empty() && row.b.values.is_empty() {
        return;
    }
    let remark =
        remark(report, row).map(|remark| format!("<p><small>{}</small></p>\n", escaped(&remark)));
    let _ = writeln!(
        page,
        "<section><h2>{}</h2>\n{}{}",
        escaped(&row.kpi),
        remark.unwrap_or_default(),
        runs(row)
    );
    let kpi = row.kpi.rsplit_once('.').map_or(row.kpi.as_str(), |(kpi, _)| kpi);
    if let Some(shifts) = report.quantiles.get(kpi).filter(|shifts| !shifts.is_empty()) {
        let _ = writeln!(page, "{}", moved(shifts));
    }
    page.push_str("</section>\n");
}

/// Each run as a point, those of A above those of B.
fn runs(row: &Row) -> String {
    let bounds = row.range.iter().flat_map(|range| [range.low, range.high]);
    let all: Vec<f64> = row.a.values.iter().chain(&row.b.values).copied().chain(bounds).collect();
    let axis = Axis::of(&all);
    let mut drawing = format!(
        "<svg width=\"{WIDTH}\" height=\"76\" role=\"img\" aria-label=\"runs of A and B\">"
    );
    if let Some(range) = row.range {
        let (from, to) = (axis.at(range.low), axis.at(range.high));
        let _ = write!(
            drawing,
            "<rect class=\"range\" x=\"{from:.1}\" y=\"8\" width=\"{:.1}\" height=\"46\"/>",
            to - from
        );
    }
    for (class, height, values) in [("a", 20, &row.a.values), ("b", 42, &row.b.values)] {
        for value in values {
            let shown = escaped(&unit::shown(*value, &row.unit));
            let at = axis.at(*value);
            let _ = write!(
                drawing,
                "<circle class=\"{class}\" cx=\"{at:.1}\" cy=\"{height}\" r=\"5\" fill-opacity=\".7\"><title>{shown}</title></circle>"
            );
        }
    }
    let (low, high) = (unit::shown(axis.low, &row.unit), unit::shown(axis.high, &row.unit));
    let _ = write!(
        drawing,
        "<text x=\"{MARGIN}\" y=\"70\">{}</text><text x=\"{:.1}\" y=\"70\" text-anchor=\"end\">{}</text></svg>",
        escaped(&low),
        WIDTH - MARGIN,
        escaped(&high)
    );
    drawing
}

/// By what share each quantile of all instances' values moved from A to B.
fn moved(shifts: &[QuantileShift]) -> String {
    let share = |shift: &QuantileShift| (shift.b - shift.a) / shift.a.abs();
    let points: Vec<(f64, f64)> = shifts
        .iter()
        .map(|shift| (shift.q, share(shift)))
        .filter(|(_, share)| share.is_finite())
        .collect();
    if points.is_empty() {
        return String::new();
    }
    let shares: Vec<f64> = points.iter().map(|(_, share)| *share).chain([0.0]).collect();
    let axis = Axis::of(&shares);
    let across = |q: f64| MARGIN + q * (WIDTH - 2.0 * MARGIN);
    let down = |share: f64| 110.0 - (axis.at(share) - MARGIN) / (WIDTH - 2.0 * MARGIN) * 90.0;
    let line: Vec<String> =
        points.iter().map(|(q, share)| format!("{:.1},{:.1}", across(*q), down(*share))).collect();
    let zero = down(0.0);
    let words: Vec<String> =
        points.iter().map(|(q, share)| format!("p{:.0} {}", q * 100.0, percent(*share))).collect();
    format!(
        "<svg width=\"{WIDTH}\" height=\"130\" role=\"img\" aria-label=\"change by quantile\">\
         <line class=\"zero\" x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{zero:.1}\" y2=\"{zero:.1}\"/>\
         <polyline class=\"moved\" points=\"{}\"/></svg>\n<p><small>how values of instances moved, described and not \
         tested: {}</small></p>",
        WIDTH - MARGIN,
        line.join(" "),
        words.join(", ")
    )
}

/// Where a value is drawn.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn of(values: &[f64]) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { low, high }
    }

    fn at(&self, value: f64) -> f64 {
        let room = WIDTH - 2.0 * MARGIN;
        let part =
            if self.high > self.low { (value - self.low) / (self.high - self.low) } else { 0.5 };
        MARGIN + part * room
    }
}
