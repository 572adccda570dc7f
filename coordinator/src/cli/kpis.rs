//! What a run has measured and what was expected of it: for its summary, and `kpis`.

use groundswell_common::kpi::{GateState, Judged, JudgedGate, Judgement, KpiRow, State, unit};
use groundswell_coordinator::record;

use super::args::Kpis;
use super::exit::Exit;
use super::out::{List, Out, Paint};
use super::{Done, Session, Trouble, find};

/// How many KPIs the summary shows.
const KPIS: usize = 6;
/// How many expectations that are kept the summary names when others are not.
const KEPT: usize = 5;

/// For the summary of a run.
pub(crate) fn lines(out: &Out, judgement: &Judgement) -> Vec<String> {
    let mut lines: Vec<String> = judgement.kpis.iter().take(KPIS).map(row).collect();
    if judgement.kpis.len() > KPIS {
        lines.push("and more: coordinator kpis".to_owned());
    }
    let mut lines = labelled("kpis", lines);
    lines.extend(labelled("expected", expectations(out, &judgement.expectations)));
    lines.extend(labelled("machines", gates(out, &judgement.gates)));
    lines
}

/// The first line has the label; the others stand below it.
fn labelled(label: &str, lines: Vec<String>) -> Vec<String> {
    let label = |at| if at == 0 { label } else { "" };
    lines.into_iter().enumerate().map(|(at, line)| format!("  {:<10} {line}", label(at))).collect()
}

fn row(row: &KpiRow) -> String {
    let stat = |name: &str| row.stats.get(name).map(|value| unit::shown(*value, &row.unit));
    if row.count == 1 {
        return format!("{}  {}", row.name, stat("max").unwrap_or_default());
    }
    let stats = ["mean", "p50", "p95", "max"];
    let stats = stats.iter().filter_map(|name| Some(format!("{name} {}", stat(name)?)));
    format!("{}  {}  ({} values)", row.name, stats.collect::<Vec<_>>().join("  "), row.count)
}

fn expectations(out: &Out, all: &[Judged]) -> Vec<String> {
    let of = |states: &'static [State]| all.iter().filter(move |one| states.contains(&one.state));
    let kept = of(&[State::Kept]).count();
    let mut lines: Vec<String> = of(&[State::Broken, State::Silent])
        .map(|one| {
            let mark = out.paint(Paint::Bad, "✘");
            format!("{mark} {}  {}", one.name, one.text())
        })
        .collect();
    let named = of(&[State::Kept]).take(KEPT).map(|one| {
        let mark = out.paint(Paint::Good, "✔");
        format!("{mark} {}  {}", one.name, one.text())
    });
    lines.extend(named);
    if kept > KEPT {
        lines.push(format!("and {} more are kept", kept - KEPT));
    }
    lines.extend(of(&[State::Off]).map(|one| format!("– {}  {}", one.name, one.text())));
    lines
}

fn gates(out: &Out, all: &[JudgedGate]) -> Vec<String> {
    let broken = all.iter().filter(|gate| gate.state == GateState::Broken);
    let mut lines: Vec<String> = broken
        .map(|gate| {
            let mark = out.paint(Paint::Warning, "✘");
            format!("{mark} {} {}, was {}", gate.name, gate.wanted, gate.got)
        })
        .collect();
    let measured = all.iter().filter(|gate| gate.state != GateState::Unmeasured).count();
    if lines.is_empty() && measured > 0 {
        lines.push(format!(
            "{} {measured} of {} gates measured, all kept",
            out.paint(Paint::Good, "✔"),
            all.len()
        ));
    }
    lines
}

/// `kpis`: everything a run has measured.
pub(crate) async fn run(session: &Session, args: &Kpis) -> Done {
    const HEADERS: [&str; 10] =
        ["KPI", "UNIT", "COUNT", "MEAN", "P50", "P95", "MAX", "MIN", "P90", "P99"];
    let found = find::run(session, &args.run).await?;
    let objects = found.objects(session).await?;
    let run = &found.status.run;
    let loaded = record::load_kpis(&objects, run).await;
    let Some(file) = loaded.map_err(|err| Trouble::from_error(Exit::Infra, &err))? else {
        let help = "instances report KPIs in `results.out` of their outputs; they are stored at the run's end";
        return Err(Trouble::new(
            Exit::NothingSelected,
            format!("no KPIs of {run} are stored"),
            help,
        ));
    };
    if session.out.json {
        session.out.json(&file);
        return Ok(Exit::Passed);
    }
    let cells = |row: &KpiRow| {
        let stat = |name: &str| {
            row.stats.get(name).map(|value| unit::shown(*value, "")).unwrap_or_default()
        };
        let stats = HEADERS[3..].iter().map(|name| stat(&name.to_lowercase()));
        [row.name.clone(), row.unit.clone(), row.count.to_string()]
            .into_iter()
            .chain(stats)
            .collect()
    };
    let list = List {
        headers: &HEADERS,
        name: 0,
        wide_from: 7,
        rows: file.kpis.iter().map(cells).collect(),
        values: &file.kpis,
    };
    session.out.list(&list, args.format);
    Ok(Exit::Passed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PLAIN: Out = Out { json: false, color: false, quiet: false, verbose: false };

    fn judged(name: &str, got: &str, state: State) -> Judged {
        Judged {
            name: name.to_owned(),
            what: format!("p95 of {name}"),
            wanted: "< 500 ms".to_owned(),
            got: got.to_owned(),
            value: Some(0.5),
            state,
        }
    }

    #[test]
    fn the_summary_has_what_matters_most_and_every_broken_expectation() {
        let stats = [("mean", 0.2), ("p50", 0.1), ("p95", 0.61), ("max", 1.5)];
        let stats: BTreeMap<_, _> = stats.map(|(name, value)| (name.to_owned(), value)).into();
        let time = KpiRow {
            name: "time".into(),
            unit: "s".into(),
            count: 200,
            stats,
            ..KpiRow::default()
        };
        let peers = KpiRow {
            name: "peers".into(),
            count: 1,
            stats: BTreeMap::from([("max".to_owned(), 7.0)]),
            ..KpiRow::default()
        };
        let gate = |name: &str, state| JudgedGate {
            name: name.to_owned(),
            wanted: "<= 0.85".to_owned(),
            got: "0.99".to_owned(),
            state,
        };
        let judgement = Judgement {
            expectations: vec![
                judged("kept", "20 ms", State::Kept),
                judged("slow", "610 ms", State::Broken),
                Judged { value: None, ..judged("mute", "no instance reported it", State::Silent) },
                judged("loss", "there is none here", State::Off),
            ],
            gates: vec![gate("host_busy", GateState::Broken), gate("fds_ratio", GateState::Kept)],
            kpis: vec![time, peers],
            ..Judgement::default()
        };
        insta::assert_snapshot!(lines(&PLAIN, &judgement).join("\n"), @"
          kpis       time  mean 200 ms  p50 100 ms  p95 610 ms  max 1.5 s  (200 values)
                     peers  7
          expected   ✘ slow  p95 of slow < 500 ms, got 610 ms
                     ✘ mute  p95 of mute < 500 ms: no instance reported it
                     ✔ kept  p95 of kept < 500 ms, got 20 ms
                     – loss  is off: there is none here
          machines   ✘ host_busy <= 0.85, was 0.99
        ");
    }
}
