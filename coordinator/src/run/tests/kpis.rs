//! What a run has measured, on its way to a verdict.

use std::collections::BTreeMap;
use std::sync::Arc;

use groundswell_common::kpi::{
    Check, Gates, HostLoad, Judging, KpiReport, KpiSpec, Op, SeriesKey, SeriesSet, Stat,
};

use super::*;

/// The p95 of the KPI `time` has to be under five seconds.
fn judging(gates: Option<Gates>) -> Arc<Judging> {
    let spec = KpiSpec { name: "time".to_owned(), unit: "s".to_owned(), ..KpiSpec::default() };
    let check = Check {
        name: "fast".to_owned(),
        kpi: "time".to_owned(),
        stat: Stat::P95,
        per: None,
        op: Op::Less,
        limit: 5.0,
        unit: "s".to_owned(),
        group: None,
        tags: BTreeMap::new(),
    };
    Arc::new(Judging { kpis: vec![spec], checks: vec![check], gates, ..Judging::default() })
}

fn series(value: f64) -> SeriesSet {
    let (name, group, unit) = ("time".to_owned(), "g0".to_owned(), "s".to_owned());
    let mut set = SeriesSet::default();
    set.record(&SeriesKey { name, group, unit, ..SeriesKey::default() }, value);
    set
}

fn measured(value: f64) -> ShareEvent {
    ShareEvent::Kpis {
        report: Box::new(KpiReport { series: series(value), ..KpiReport::default() }),
    }
}

/// Two instances on two workers that have succeeded.
fn succeeded(gates: Option<Gates>) -> Story {
    let mut story = Story::running(&[1, 1]);
    story.run.about.judging = judging(gates);
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(1, Outcome::Success)]);
    story
}

#[test]
fn values_of_all_shares_are_judged_whatever_comes_twice_or_late() {
    let mut story = succeeded(None);
    story.tell(0, measured(1.0));
    story.tell(0, measured(1.0));
    story.tell(1, measured(7.0));
    story.collected();
    story.tell(1, measured(9.0));
    assert_eq!(story.run.kpis().series.iter().next().expect("one").1.count(), 2);
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Failed);
    assert_eq!(reason, "expectation `fast`: p95 of time was to be < 5 s, and is 7 s");
    let text = "fast is broken: p95 of time < 5 s, got 7 s";
    assert!(story.commands.contains(&note("expectation", text)), "{:?}", story.commands);
}

#[test]
fn a_run_that_measured_nothing_breaks_what_was_expected() {
    let mut story = succeeded(None);
    story.collected();
    assert_eq!(story.verdict().0, Verdict::Failed);
}

#[test]
fn a_busy_host_makes_it_inconclusive() {
    let mut story = succeeded(Some(Gates::default()));
    let mut host = HostLoad::default();
    host.busy.record(1.0);
    let report = KpiReport { series: series(7.0), host, ..KpiReport::default() };
    story.tell(0, ShareEvent::Kpis { report: Box::new(report) });
    story.collected();
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(reason.contains("host_busy was to be <= 0.85 and was 1"), "{reason}");
}

#[test]
fn what_is_in_the_object_store_is_waited_for() {
    let mut story = succeeded(None);
    let stored = ShareEvent::Kpis {
        report: Box::new(KpiReport { stored: Some("key".to_owned()), ..KpiReport::default() }),
    };
    let attempt = Attempt::FIRST;
    let fetch = Command::FetchKpis { worker: worker(0), attempt, key: "key".to_owned() };
    assert!(story.tell(0, stored.clone()).contains(&fetch));
    assert!(!story.tell(0, stored).contains(&fetch), "once is enough");
    story.collected();
    assert_eq!(story.run.phase(), RunPhase::Collecting);
    assert!(!story.commands.contains(&Command::Conclude));
    let read = |series| Event::KpisRead { worker: worker(0), attempt, series };
    story.feed(read(Ok(series(1.0))));
    story.feed(read(Ok(series(9.0))));
    assert_eq!(story.verdict(), (Verdict::Passed, String::new()));
}

#[test]
fn kpis_that_cannot_be_read_are_no_failure_of_the_software() {
    let stored = || ShareEvent::Kpis {
        report: Box::new(KpiReport { stored: Some("key".to_owned()), ..KpiReport::default() }),
    };
    let mut story = succeeded(None);
    story.tell(0, stored());
    story.collected();
    let series = Err("no bucket".to_owned());
    story.feed(Event::KpisRead { worker: worker(0), attempt: Attempt::FIRST, series });
    let (verdict, reason) = story.verdict();
    assert_eq!(
        (verdict, reason.as_str()),
        (Verdict::Infra, "the KPIs of worker w0 cannot be read: no bucket")
    );

    let mut story = succeeded(None);
    story.tell(0, stored());
    story.collected();
    story.wait(COLLECT_TIMEOUT);
    assert_eq!(story.verdict().0, Verdict::Infra);
}

#[test]
fn nothing_is_expected_of_a_run_that_was_cut_short() {
    let mut story = Story::running(&[1, 1]);
    story.run.about.judging = judging(Some(Gates::default()));
    story.feed(Event::CancelRequested { reason: "enough".to_owned(), kill: false });
    story.ended(0, &[(0, Outcome::Canceled)]);
    story.ended(1, &[(1, Outcome::Canceled)]);
    story.tell(0, measured(7.0));
    story.collected();
    assert_eq!(story.verdict(), (Verdict::Canceled, "enough".to_owned()));
    let judgement = story.run.status().judgement.expect("something was measured");
    assert!(judgement.expectations.is_empty() && judgement.gates.is_empty());
    assert_eq!(judgement.kpis[0].count, 1);
}
