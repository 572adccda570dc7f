use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::kpi::{Op, Stat};

fn spec(name: &str, unit: &str) -> KpiSpec {
    KpiSpec { name: name.to_owned(), unit: unit.to_owned(), ..KpiSpec::default() }
}

fn key(name: &str, group: &str, unit: &str) -> SeriesKey {
    let (name, group, unit) = (name.to_owned(), group.to_owned(), unit.to_owned());
    SeriesKey { name, group, unit, ..SeriesKey::default() }
}

fn check(kpi: &str, stat: Stat, op: Op, limit: f64) -> Check {
    Check {
        name: format!("{kpi}.{}", stat.as_str()),
        kpi: kpi.to_owned(),
        stat,
        per: None,
        op,
        limit,
        unit: "s".to_owned(),
        group: None,
        tags: BTreeMap::new(),
    }
}

/// Times of two groups: 1 to 10 s and 11 to 20 s.
fn times() -> SeriesSet {
    let mut series = SeriesSet::default();
    for n in 1..=20_u32 {
        let group = if n <= 10 { "a" } else { "b" };
        series.record(&key("time", group, "s"), f64::from(n));
    }
    series
}

fn host(busy: f64) -> Vec<(WorkerId, HostLoad)> {
    let mut load = HostLoad::default();
    load.busy.record(busy);
    vec![(WorkerId::from_lossy("w"), load)]
}

fn judged(judging: &Judging, series: &SeriesSet, hosts: &[(WorkerId, HostLoad)]) -> Judgement {
    let out_of_memory = &BTreeSet::new();
    judge(judging, Measured { series, hosts, network: None, out_of_memory }).expect("something")
}

fn expecting(checks: Vec<Check>) -> Judging {
    let kpis = vec![spec("time", "s"), spec("errors", "count"), spec("dials", "count")];
    Judging { kpis, checks, ..Judging::default() }
}

#[test]
fn an_expectation_is_about_all_values_or_those_of_a_group() {
    let whole = check("time", Stat::P95, Op::AtMost, 19.0);
    let of_a = Check { group: Some("a".to_owned()), limit: 9.0, ..whole.clone() };
    let judgement = judged(&expecting(vec![whole, of_a]), &times(), &[]);
    let states: Vec<State> = judgement.expectations.iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Kept, State::Broken]);
    let (verdict, reason) = judgement.weigh(Verdict::Passed, String::new());
    assert_eq!(verdict, Verdict::Failed);
    assert_eq!(
        reason,
        "expectation `time.p95`: p95 of time of group `a` was to be <= 9 s, and is 10 s"
    );
}

#[test]
fn silence_is_a_broken_expectation() {
    let mut tagged = check("time", Stat::Max, Op::Less, 100.0);
    tagged.tags.insert("phase".to_owned(), "search".to_owned());
    let judgement =
        judged(&expecting(vec![tagged, check("errors", Stat::Sum, Op::Equal, 0.0)]), &times(), &[]);
    assert!(judgement.expectations.iter().all(|one| one.state == State::Silent));
    let (_, reason) = judgement.weigh(Verdict::Passed, String::new());
    assert_eq!(
        reason,
        "2 of 2 expectations are broken; the first is `time.max`: max of time phase=search was to be < 100 s, and no instance reported it"
    );
}

#[test]
fn a_sum_may_be_per_another_sum() {
    let mut series = times();
    for (name, value) in [("errors", 3.0), ("dials", 60.0), ("dials", 40.0)] {
        series.record(&key(name, "a", "count"), value);
    }
    let ratio = Check {
        per: Some("dials".to_owned()),
        unit: "ratio".to_owned(),
        ..check("errors", Stat::Sum, Op::AtMost, 0.03)
    };
    let none = Check { per: Some("time".to_owned()), group: Some("c".to_owned()), ..ratio.clone() };
    let judgement = judged(&expecting(vec![ratio, none]), &series, &[]);
    assert_eq!(judgement.expectations[0].value, Some(0.03));
    assert_eq!(judgement.expectations[0].state, State::Kept);
    assert_eq!(judgement.expectations[1].state, State::Silent);
}

#[test]
fn a_value_without_a_unit_has_the_declared_one_and_another_unit_is_told() {
    let mut series = SeriesSet::default();
    series.record(&key("time", "a", ""), 250.0);
    let mut judging = expecting(vec![check("time", Stat::Max, Op::Less, 0.3)]);
    judging.kpis[0].unit = "ms".to_owned();
    assert_eq!(judged(&judging, &series, &[]).expectations[0].value, Some(0.25));
    series.record(&key("time", "a", "B"), 1.0);
    let wrong = judged(&judging, &series, &[]);
    assert_eq!(wrong.expectations[0].state, State::Broken);
    assert_eq!(wrong.expectations[0].got, "time was reported in `B`, and is declared in `ms`");
}

#[test]
fn machines_that_were_not_fit_make_a_failure_inconclusive_and_a_pass_a_warning() {
    let gates = Some(Gates::default());
    let judging = Judging { gates, ..expecting(vec![check("time", Stat::Max, Op::Less, 5.0)]) };
    let busy = judged(&judging, &times(), &host(0.99));
    let (verdict, reason) = busy.weigh(Verdict::Passed, String::new());
    assert_eq!(verdict, Verdict::Inconclusive);
    assert_eq!(
        reason,
        "the machines were not fit to tell: host_busy was to be <= 0.85 and was 0.99; otherwise: \
         expectation `time.max`: max of time was to be < 5 s, and is 20 s"
    );
    assert_eq!(busy.weigh(Verdict::Failed, "x".to_owned()).0, Verdict::Inconclusive);
    assert_eq!(busy.weigh(Verdict::Infra, "x".to_owned()), (Verdict::Infra, "x".to_owned()));
    let idle = judged(&judging, &times(), &host(0.1));
    assert_eq!(idle.weigh(Verdict::Passed, String::new()).0, Verdict::Failed);

    let lenient = Judging { checks: Vec::new(), ..judging.clone() };
    let passed = judged(&lenient, &times(), &host(0.99));
    assert_eq!(passed.weigh(Verdict::Passed, String::new()).0, Verdict::Passed);
    assert_eq!(passed.warnings(Verdict::Passed).len(), 1);
    let strict = Judging { gates: Some(Gates { strict: true, ..Gates::default() }), ..lenient };
    let strict = judged(&strict, &times(), &host(0.99));
    assert_eq!(strict.weigh(Verdict::Passed, String::new()).0, Verdict::Inconclusive);
}

#[test]
fn gates_look_at_diagnostics_and_what_nobody_measured_breaks_none() {
    let gates = Some(Gates { fds_ratio: None, ..Gates::default() });
    let judging = Judging { gates, ..Judging::default() };
    let mut series = SeriesSet::default();
    let lag = SeriesKey { diagnostic: true, ..key("loop_lag_s", "a", "s") };
    (0..20).for_each(|_| series.record(&lag, 0.2));
    // The plan has measured something else of that name.
    series.record(&key("loop_lag_s", "a", "s"), 0.0);
    let judgement = judged(&judging, &series, &[]);
    let states: Vec<_> =
        judgement.gates.iter().map(|gate| (gate.name.as_str(), gate.state)).collect();
    let unmeasured = |name| (name, GateState::Unmeasured);
    assert_eq!(
        states,
        [
            ("loop_lag_s", GateState::Broken),
            unmeasured("sync_rtt_s"),
            unmeasured("host_busy"),
            unmeasured("clock_step_s"),
            unmeasured("oom_kills"),
            unmeasured("fidelity"),
        ]
    );
}

#[test]
fn a_kill_at_an_instances_own_limit_says_nothing_of_the_host() {
    let judging = Judging {
        gates: Some(Gates::default()),
        memory_limited: BTreeSet::from(["small".to_owned()]),
        ..Judging::default()
    };
    let hosts = [(WorkerId::from_lossy("w"), HostLoad { oom_kills: 2, ..HostLoad::default() })];
    let state = |groups: &[&str]| {
        let out_of_memory = &groups.iter().map(|group| (*group).to_owned()).collect();
        let measured =
            Measured { series: &SeriesSet::default(), hosts: &hosts, network: None, out_of_memory };
        let judgement = judge(&judging, measured).expect("gates");
        judgement.gates.iter().find(|gate| gate.name == "oom_kills").expect("on").state
    };
    assert_eq!(state(&["small"]), GateState::Kept);
    assert_eq!(state(&["small", "large"]), GateState::Broken);
    assert_eq!(state(&[]), GateState::Broken);
}

#[test]
fn declared_kpis_come_first_and_diagnostics_not_at_all() {
    let mut series = times();
    series.record(&key("another", "a", ""), 1.0);
    series.record(&SeriesKey { diagnostic: true, ..key("cpu_s", "a", "s") }, 1.0);
    let judgement = judged(&expecting(Vec::new()), &series, &[]);
    let names: Vec<&str> = judgement.kpis.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["time", "another"]);
    assert_eq!((judgement.kpis[0].count, judgement.kpis[0].stats["p50"]), (20, 10.0));
    assert_eq!(judgement.series, 4);
    let nothing = SeriesSet::default();
    let measured =
        Measured { series: &nothing, hosts: &[], network: None, out_of_memory: &BTreeSet::new() };
    assert_eq!(judge(&expecting(Vec::new()), measured), None);
}
