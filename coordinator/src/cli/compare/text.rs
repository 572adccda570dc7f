//! A comparison in words and columns, and as Markdown.

use std::fmt::Write as _;

use groundswell_common::compare::{Finding, Row};

use super::report::{Cells, Report, remark};
use crate::cli::out::{Out, Paint};

/// How many KPIs without a good direction and without a finding are listed.
const QUIET_ROWS: usize = 12;

/// For a terminal.
pub(crate) fn text(out: &Out, report: &Report) -> String {
    let comparison = &report.comparison;
    let mut lines = vec![
        format!(
            "{}/{}  A = {} ({})  B = {} ({})",
            report.plan,
            report.case,
            comparison.a.name,
            runs(comparison.a.runs.len()),
            comparison.b.name,
            runs(comparison.b.runs.len()),
        ),
        report.method(),
    ];
    let (shown, hidden) = shown(report);
    lines.extend(table(out, &shown));
    if hidden > 0 {
        lines.push(format!("  and {hidden} more without a finding: --json"));
    }
    let remarks = shown.iter().filter_map(|row| Some((row, remark(report, row)?)));
    lines.extend(remarks.map(|(row, remark)| format!("  {}: {remark}", row.kpi)));
    lines.extend(report.power().map(|power| format!("  power     {power}")));
    lines.extend(report.left_out().map(|run| format!("  left out  {run}")));
    lines.extend(report.notes.iter().map(|note| format!("  note      {note}")));
    lines.push(format!("  found     {}", report.tally()));
    lines.join("\n")
}

fn runs(count: usize) -> String {
    if count == 1 { "1 run".to_owned() } else { format!("{count} runs") }
}

/// The rows people have to see, and how many others there are.
fn shown(report: &Report) -> (Vec<&Row>, usize) {
    let mut left = QUIET_ROWS;
    let rows = &report.comparison.rows;
    let mut keep = |row: &&Row| {
        let quiet =
            row.better.is_none() && matches!(row.finding, Finding::Same | Finding::Inconclusive);
        if quiet {
            left = left.saturating_sub(1);
        }
        !quiet || left > 0
    };
    let shown: Vec<&Row> = rows.iter().filter(|row| keep(row)).collect();
    let hidden = rows.len() - shown.len();
    (shown, hidden)
}

fn table(out: &Out, rows: &[&Row]) -> Vec<String> {
    const HEADERS: [&str; 8] = ["KPI", "A", "B", "SHIFT", "CHANGE", "P", "EFFECT", "FINDING"];
    let mut cells: Vec<[String; 8]> = vec![HEADERS.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let Cells { kpi, a, b, shift, change, p, effect, finding } = Cells::of(row);
        [kpi, a, b, shift, change, p, effect, finding]
    }));
    let mut widths = [0; 8];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |(at, row): (usize, &[String; 8])| {
        let mut line = String::new();
        for (cell, width) in row[..7].iter().zip(widths) {
            let _ = write!(line, "  {cell:<width$}");
        }
        let finding = &row[7];
        let painted = at.checked_sub(1).map(|at| out.paint(paint_of(rows[at].finding), finding));
        format!("{line}  {}", painted.as_ref().unwrap_or(finding))
    };
    cells.iter().enumerate().map(line).collect()
}

fn paint_of(finding: Finding) -> Paint {
    match finding {
        Finding::Regression => Paint::Bad,
        Finding::Improvement => Paint::Good,
        Finding::Inconclusive | Finding::Changed => Paint::Warning,
        Finding::Same | Finding::Descriptive => Paint::Dim,
    }
}

/// For a comment that is updated in place: the first line says which one it is.
pub(crate) fn markdown(report: &Report) -> String {
    let comparison = &report.comparison;
    let (a, b) = (&comparison.a, &comparison.b);
    let (plan, case) = (&report.plan, &report.case);
    let mut text = format!("<!-- groundswell:compare:{plan}/{case} -->\n");
    let _ = writeln!(
        text,
        "### {plan}/{case}: {} ({} v {} runs)\n\n| KPI | {} | {} | change | p | finding |\n|---|---|---|---|---|---|",
        report.tally(),
        a.runs.len(),
        b.runs.len(),
        cell(&a.name),
        cell(&b.name),
    );
    let (shown, hidden) = shown(report);
    for row in &shown {
        let Cells { kpi, a, b, shift, change, p, finding, .. } = Cells::of(row);
        let change = if change.is_empty() { shift } else { change };
        let cells = [kpi, a, b, change, p, format!("{} {finding}", symbol(row.finding))];
        let _ = writeln!(text, "| {} |", cells.map(|text| cell(&text)).join(" | "));
    }
    if hidden > 0 {
        let _ = writeln!(text, "\nand {hidden} more without a finding");
    }
    let _ = writeln!(text, "\n<details><summary>{}</summary>\n", report.method());
    let remarks =
        shown.iter().filter_map(|row| Some(format!("{}: {}", row.kpi, remark(report, row)?)));
    let lines = remarks
        .chain(report.power())
        .chain(report.left_out().map(|run| format!("left out: {run}")))
        .chain(report.notes.iter().cloned())
        .chain([format!("A: {}", a.runs.join(", ")), format!("B: {}", b.runs.join(", "))]);
    lines.for_each(|line| {
        let _ = writeln!(text, "* {line}");
    });
    text.push_str("\n</details>");
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A finding at a glance.
pub(crate) fn symbol(finding: Finding) -> &'static str {
    match finding {
        Finding::Regression => "🔴",
        Finding::Improvement => "🟢",
        Finding::Changed => "🔵",
        Finding::Inconclusive => "🟡",
        Finding::Same | Finding::Descriptive => "⚪",
    }
}
