//! `compare`: tells whether runs differ, by how much, and whether that is more than chance.
//!
//! ```text
//! select   which runs a side means              load    one number of each KPI for each run
//! report   what came of it; pure                text, html, junit   how that is printed; pure
//! ```

pub(crate) mod args;
mod html;
mod junit;
pub(crate) mod load;
mod report;
pub(crate) mod select;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use groundswell_common::compare::quantiles::quantile_shifts;
use groundswell_common::compare::{ComparedKpi, ComparedRun, Pairing, Rules, Side, compare};
use groundswell_common::kpi::Distribution;
use groundswell_common::objects::Objects;

use super::exit::Exit;
use super::out::{Out, to_json};
use super::{Done, Session, Trouble, connect};
use args::{By, Compare, ReportFormat};
use load::{Measured, Wanted, differing_terms};
use report::Report;
use select::{Past, Selector};

pub(crate) async fn run(session: &Session, args: &Compare) -> Done {
    let objects = connect::objects(session).await?;
    let reports = reports(&objects, args).await?;
    print(session, args, &reports)?;
    for report in &reports {
        if let Some(why) = report.told_nothing() {
            session.out.warning(format_args!("this comparison can tell nothing: {why}"));
        }
    }
    let codes: Vec<Exit> = reports.iter().flat_map(|report| report.codes(&args.fail_on)).collect();
    Ok(Exit::strongest(&codes))
}

/// What comes of the comparisons that are asked for.
pub(crate) async fn reports(objects: &Objects, args: &Compare) -> Result<Vec<Report>, Trouble> {
    let past = Past::open(objects).await?;
    let mut names = vec![args.a.clone()];
    names.extend(args.b.iter().cloned());
    let sides = names.iter().map(|side| Selector::parse(side)).collect::<Result<Vec<_>, _>>()?;
    let mut measured = Vec::new();
    for side in past.sides(&sides, &args.of).await? {
        let mut runs = Vec::new();
        for known in side {
            runs.push(load::load(objects, known).await?);
        }
        measured.push(runs);
    }
    match args.by {
        By::Run => by_run(args, &names, &measured),
        By::Group => Ok(vec![by_group(args, &names, &measured)?]),
    }
}

fn rules(args: &Compare, pairing: Pairing) -> Rules {
    Rules {
        alpha: args.alpha,
        min_effect: args.min_effect,
        correction: args.correct.into(),
        pairing,
    }
}

fn wanted<'a>(
    args: &Compare,
    runs: impl Iterator<Item = &'a Measured>,
) -> Result<Vec<ComparedKpi>, Trouble> {
    let kpis = Wanted { names: args.kpi.as_ref(), stats: &args.stat }.kpis(runs);
    if kpis.is_empty() {
        let help = "`coordinator kpis RUN` lists what a run has measured";
        return Err(Trouble::new(Exit::NothingSelected, "these runs have no such KPIs", help));
    }
    Ok(kpis)
}

/// The first side with each of the others.
fn by_run(
    args: &Compare,
    names: &[String],
    sides: &[Vec<Measured>],
) -> Result<Vec<Report>, Trouble> {
    let pairing = if args.paired { Pairing::Interleaved } else { Pairing::None };
    let (Some((a, others)), Some((a_name, other_names))) =
        (sides.split_first(), names.split_first())
    else {
        return Ok(Vec::new());
    };
    let mut reports = Vec::new();
    for (b, b_name) in others.iter().zip(other_names) {
        let both = || a.iter().chain(b);
        let kpis = wanted(args, both())?;
        let side = |name: &String, runs: &[Measured]| Side {
            name: name.clone(),
            runs: runs.iter().map(|run| run.compared(&kpis, &args.stat)).collect(),
        };
        let comparison = compare(&side(a_name, a), &side(b_name, b), &kpis, rules(args, pairing));
        let Some(first) = both().next() else { continue };
        let mut report = Report::new(&first.known.plan, &first.known.case, comparison);
        report.notes.extend(differing_terms(both().map(|run| &run.known)));
        if others.len() > 1 {
            report.notes.push(
                "p-values are corrected within this comparison, and not over all of them"
                    .to_owned(),
            );
        }
        report.quantiles = quantiles(&kpis, &counted(a, None), &counted(b, None));
        reports.push(report);
    }
    Ok(reports)
}

/// Two groups of the same runs.
fn by_group(args: &Compare, names: &[String], sides: &[Vec<Measured>]) -> Result<Report, Trouble> {
    let runs: Vec<&Measured> = sides.iter().flatten().collect();
    let mut groups = args.groups.clone();
    if groups.is_empty() {
        groups = runs.iter().flat_map(|run| run.groups()).collect();
        groups.sort();
        groups.dedup();
    }
    let [a, b] = groups.as_slice() else {
        let message = format!("two groups are compared, and there are: {}", groups.join(", "));
        return Err(Trouble::new(Exit::Usage, message, "choose two: --groups A,B"));
    };
    let kpis = wanted(args, runs.iter().copied())?;
    let of = |group: &String| -> Vec<ComparedRun> {
        runs.iter().map(|run| run.compared_group(group, &kpis, &args.stat)).collect()
    };
    let side = |group: &String| Side { name: group.clone(), runs: of(group) };
    let comparison = compare(&side(a), &side(b), &kpis, rules(args, Pairing::Within));
    let Some(first) = runs.first() else {
        return Err(Trouble::new(Exit::NothingSelected, "no runs were named", ""));
    };
    let mut report = Report::new(&first.known.plan, &first.known.case, comparison);
    report.notes.push(format!("groups of {}", names.join(", ")));
    report.notes.extend(differing_terms(runs.iter().map(|run| &run.known)));
    let all: Vec<_> = runs.iter().filter(|run| run.known.distrust.is_empty()).copied().collect();
    let (a, b) =
        (Counted { runs: all.clone(), group: Some(a) }, Counted { runs: all, group: Some(b) });
    report.quantiles = quantiles(&kpis, &a, &b);
    Ok(report)
}

/// Runs that count, and of which group.
struct Counted<'a> {
    runs: Vec<&'a Measured>,
    group: Option<&'a String>,
}

fn counted<'a>(runs: &'a [Measured], group: Option<&'a String>) -> Counted<'a> {
    let runs = runs.iter().filter(|run| run.known.distrust.is_empty()).collect();
    Counted { runs, group }
}

impl Counted<'_> {
    fn distribution(&self, kpi: &str, unit: &str) -> Distribution {
        let mut all = Distribution::default();
        for run in &self.runs {
            all.merge(&run.distribution(kpi, unit, self.group.map(String::as_str)));
        }
        all
    }
}

/// How the values of all instances moved.
fn quantiles(
    kpis: &[ComparedKpi],
    a: &Counted<'_>,
    b: &Counted<'_>,
) -> BTreeMap<String, Vec<groundswell_common::compare::quantiles::QuantileShift>> {
    let of = |kpi: &ComparedKpi| {
        let name = kpi.name.rsplit_once('.').map_or(kpi.name.as_str(), |(name, _)| name);
        let shifts =
            quantile_shifts(&a.distribution(name, &kpi.unit), &b.distribution(name, &kpi.unit));
        (!shifts.is_empty()).then(|| (name.to_owned(), shifts))
    };
    kpis.iter().filter_map(of).collect()
}

fn print(session: &Session, args: &Compare, reports: &[Report]) -> Result<(), Trouble> {
    let format = if session.out.json { ReportFormat::Json } else { args.format };
    // A file has no colour.
    let out = Out { color: session.out.color && args.out.is_none(), ..session.out };
    let printed = rendered(&out, args, format, reports);
    match &args.out {
        None => session.out.data(printed),
        Some(file) => {
            write(file, &printed)?;
            reports.iter().for_each(|report| {
                session.out.note(format_args!(
                    "{}/{}: {}",
                    report.plan,
                    report.case,
                    report.tally()
                ));
            });
        }
    }
    Ok(())
}

/// The reports in a format.
pub(crate) fn rendered(
    out: &Out,
    args: &Compare,
    format: ReportFormat,
    reports: &[Report],
) -> String {
    let each =
        |of: &dyn Fn(&Report) -> String| reports.iter().map(of).collect::<Vec<_>>().join("\n\n");
    match format {
        ReportFormat::Text => each(&|report| text::text(out, report)),
        ReportFormat::Md => each(&text::markdown),
        ReportFormat::Json => to_json(&serde_json::json!({ "v": 1, "comparisons": reports })),
        ReportFormat::Html => html::html(reports),
        ReportFormat::Junit => junit::junit(reports, &args.fail_on),
    }
}

fn write(file: &Path, text: &str) -> Result<(), Trouble> {
    std::fs::write(file, format!("{text}\n")).map_err(|err| {
        Trouble::new(Exit::Internal, format!("failed to write `{}`: {err}", file.display()), "")
    })
}
