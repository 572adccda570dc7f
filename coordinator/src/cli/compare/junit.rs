//! Comparisons as test results: a suite for each, a case for each KPI that has a good direction.

use std::fmt::Write as _;

use groundswell_common::compare::{Finding, Row};

use super::args::FailOn;
use super::report::{Cells, Report, escaped, remark};

/// The XML that collectors of test results read.
pub(crate) fn junit(reports: &[Report], fail_on: &[FailOn]) -> String {
    let mut xml =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"groundswell compare\">\n"
            .to_owned();
    reports.iter().for_each(|report| suite(&mut xml, report, fail_on));
    xml.push_str("</testsuites>");
    xml
}

fn suite(xml: &mut String, report: &Report, fail_on: &[FailOn]) {
    let comparison = &report.comparison;
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.better.is_some()).collect();
    let count = |finding| rows.iter().filter(|row| row.finding == finding).count();
    let strict = fail_on.contains(&FailOn::Inconclusive);
    let unsure = count(Finding::Inconclusive);
    let (errors, skipped) = if strict { (unsure, 0) } else { (0, unsure) };
    let name =
        format!("{}/{}: {} v {}", report.plan, report.case, comparison.a.name, comparison.b.name);
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{errors}\" skipped=\"{skipped}\">",
        escaped(&name),
        rows.len(),
        count(Finding::Regression),
    );
    xml.push_str("    <properties>\n");
    let properties = [
        ("method", report.method()),
        ("a", comparison.a.runs.join(" ")),
        ("b", comparison.b.runs.join(" ")),
        ("left_out", report.left_out().collect::<Vec<_>>().join(" | ")),
        ("power", report.power().unwrap_or_default()),
    ];
    for (name, value) in properties.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(xml, "      <property name=\"{name}\" value=\"{}\"/>", escaped(value));
    }
    xml.push_str("    </properties>\n");
    for row in rows {
        case(xml, report, row, strict);
    }
    xml.push_str("  </testsuite>\n");
}

fn case(xml: &mut String, report: &Report, row: &Row, strict: bool) {
    let Cells { kpi, a, b, shift, change, p, effect, .. } = Cells::of(row);
    let class = format!("{}.{}", report.plan, report.case);
    let _ =
        write!(xml, "    <testcase classname=\"{}\" name=\"{}\"", escaped(&class), escaped(&kpi));
    let remark = remark(report, row).unwrap_or_default();
    let message = format!("{a} to {b}, {change}");
    let numbers = format!("shift {shift}; p {p}; effect {effect}; {remark}");
    let child = match row.finding {
        Finding::Regression => Some(("failure", message, numbers)),
        Finding::Inconclusive if strict => Some(("error", row.why.clone(), numbers)),
        Finding::Inconclusive => Some(("skipped", row.why.clone(), String::new())),
        Finding::Improvement | Finding::Changed | Finding::Same | Finding::Descriptive => None,
    };
    match child {
        None => xml.push_str("/>\n"),
        Some((kind, message, text)) => {
            let _ = writeln!(
                xml,
                ">\n      <{kind} message=\"{}\">{}</{kind}>\n    </testcase>",
                escaped(&message),
                escaped(&text)
            );
        }
    }
}
