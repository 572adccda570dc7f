//! `trend`: a KPI over the runs of a case, and where it changed for good.

use std::collections::BTreeSet;

use groundswell_common::compare::Change;
use groundswell_common::compare::changes::{TREND_RUNS, changes};
use groundswell_common::kpi::unit;
use serde::Serialize;

use super::compare::args::{Of, Trend};
use super::compare::load::{self, Measured, named};
use super::compare::select::{Known, Past};
use super::exit::Exit;
use super::out::List;
use super::runs::timestamp;
use super::{Done, Session, Trouble, connect};

/// How often a change may be found in a series that has none.
const ALPHA: f64 = 0.05;

/// One run of a trend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Point {
    run: String,
    name: String,
    submitted_ms: u64,
    commit: String,
    value: f64,
    unit: String,
    /// What began with this run.
    change: Option<Change>,
}

pub(crate) async fn run(session: &Session, args: &Trend) -> Done {
    let objects = connect::objects(session).await?;
    let past = Past::open(&objects).await?;
    let of = Of { plan: args.plan.clone(), case: args.case.clone(), last: args.last };
    let on_branch =
        |run: &Known| args.branch.as_ref().is_none_or(|branch| *branch == run.source.branch);
    let known = past.newest(&of, on_branch).await?;
    one_case(&known)?;
    let mut runs = Vec::new();
    for known in known {
        runs.push(load::load(&objects, known).await?);
    }
    let mut points = points(&runs, args);
    if points.is_empty() {
        return Err(nothing(&runs, args));
    }
    let left_out = runs.len() - points.len();
    if left_out > 0 {
        session.out.note(format_args!(
            "{left_out} of {} runs are left out: they cannot be trusted, or do not have {}",
            runs.len(),
            named(&args.kpi, args.stat)
        ));
    }
    if args.changepoints {
        let values: Vec<f64> = points.iter().map(|point| point.value).collect();
        match changes(&values, ALPHA) {
            Some(found) => {
                found.into_iter().for_each(|change| points[change.at].change = Some(change))
            }
            None => session.out.warning(format_args!(
                "changes are looked for in {TREND_RUNS} runs or more, and there are {}",
                points.len()
            )),
        }
    }
    session.out.list(&rows(&points, args.changepoints), args.format);
    Ok(Exit::Passed)
}

fn one_case(runs: &[Known]) -> Result<(), Trouble> {
    let cases: BTreeSet<String> =
        runs.iter().map(|run| format!("{}/{}", run.plan, run.case)).collect();
    if cases.len() < 2 {
        return Ok(());
    }
    let cases: Vec<String> = cases.into_iter().collect();
    let message = format!("there are runs of several cases: {}", cases.join(", "));
    Err(Trouble::new(Exit::Usage, message, "choose one with --plan and --case"))
}

/// The runs that can be trusted and have the KPI, in one unit: that of the newest.
fn points(runs: &[Measured], args: &Trend) -> Vec<Point> {
    let trusted = || runs.iter().filter(|run| run.known.distrust.is_empty());
    let unit = trusted().rev().find_map(|run| run.unit(&args.kpi)).unwrap_or_default().to_owned();
    let point = |run: &Measured| {
        let value = run.value(&args.kpi, args.stat)?;
        let Known { run: id, name, submitted_ms, source, .. } = &run.known;
        (run.unit(&args.kpi) == Some(unit.as_str())).then(|| Point {
            run: id.to_string(),
            name: name.clone(),
            submitted_ms: *submitted_ms,
            commit: source.commit.chars().take(12).collect(),
            value,
            unit: unit.clone(),
            change: None,
        })
    };
    trusted().filter_map(point).collect()
}

fn nothing(runs: &[Measured], args: &Trend) -> Trouble {
    let names: BTreeSet<&str> = runs.iter().flat_map(Measured::names).collect();
    let names: Vec<&str> = names.into_iter().take(12).collect();
    let help = if names.is_empty() {
        "`coordinator ls` lists runs".to_owned()
    } else {
        format!("they have {}", names.join(", "))
    };
    let message =
        format!("of {} runs none that can be trusted has the KPI `{}`", runs.len(), args.kpi);
    Trouble::new(Exit::NothingSelected, message, help)
}

fn rows(points: &[Point], changes: bool) -> List<'_, Point> {
    const HEADERS: [&str; 5] = ["NAME", "SUBMITTED", "COMMIT", "VALUE", "CHANGE"];
    let row = |point: &Point| {
        vec![
            point.name.clone(),
            timestamp(point.submitted_ms),
            point.commit.clone(),
            unit::shown(point.value, &point.unit),
            point.change.map(|change| told(change, &point.unit)).unwrap_or_default(),
        ]
    };
    let columns = if changes { HEADERS.len() } else { HEADERS.len() - 1 };
    List {
        headers: &HEADERS[..columns],
        name: 0,
        wide_from: columns,
        rows: points.iter().map(row).map(|row| row.into_iter().take(columns).collect()).collect(),
        values: points,
    }
}

fn told(change: Change, unit: &str) -> String {
    let share = (change.after - change.before) / change.before.abs();
    let share =
        if share.is_finite() { format!(", {:+.1} %", share * 100.0) } else { String::new() };
    let (before, after) = (unit::shown(change.before, unit), unit::shown(change.after, unit));
    format!("{before} → {after}{share} (p {:.3})", change.p)
}
