use proptest::prelude::*;

use super::*;
use crate::chance::Chance;
use crate::compare::Correction;

fn runs(name: &str, values: &[f64]) -> Side {
    side(name, &[("time", values)])
}

/// A side whose runs have these KPIs, the first values of each in the first run.
fn side(name: &str, kpis: &[(&str, &[f64])]) -> Side {
    let count = kpis.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let run = |at: usize| ComparedRun {
        name: format!("{name}{at}"),
        distrust: Vec::new(),
        values: kpis
            .iter()
            .filter_map(|(kpi, values)| Some(((*kpi).to_owned(), *values.get(at)?)))
            .collect(),
    };
    Side { name: name.to_owned(), runs: (0..count).map(run).collect() }
}

fn kpi(name: &str, better: Option<Better>) -> ComparedKpi {
    ComparedKpi { name: name.to_owned(), unit: "s".to_owned(), better }
}

fn time() -> Vec<ComparedKpi> {
    vec![kpi("time", Some(Better::Lower))]
}

/// One KPI of these values, the less the better.
fn compared(a: &[f64], b: &[f64], rules: Rules) -> Row {
    let mut comparison = compare(&runs("a", a), &runs("b", b), &time(), rules);
    comparison.rows.remove(0)
}

fn drawn(chance: &mut Chance, runs: usize, middle: f64, noise: f64) -> Vec<f64> {
    (0..runs).map(|_| middle * (noise * chance.normal()).exp()).collect()
}

const SLOW: [f64; 5] = [110.0, 112.0, 109.0, 113.0, 111.0];
const FAST: [f64; 5] = [100.0, 101.0, 99.0, 102.0, 98.0];

#[test]
fn what_changed_is_better_or_worse_by_the_direction_of_the_kpi() {
    let of = |better, a: &[f64], b: &[f64]| {
        let kpis = [kpi("time", better)];
        compare(&runs("a", a), &runs("b", b), &kpis, Rules::default()).rows[0].finding
    };
    assert_eq!(of(Some(Better::Lower), &FAST, &SLOW), Finding::Regression);
    assert_eq!(of(Some(Better::Lower), &SLOW, &FAST), Finding::Improvement);
    assert_eq!(of(Some(Better::Higher), &FAST, &SLOW), Finding::Improvement);
    assert_eq!(of(Some(Better::Higher), &SLOW, &FAST), Finding::Regression);
    assert_eq!(of(None, &FAST, &SLOW), Finding::Changed);
    assert_eq!(of(Some(Better::Lower), &FAST, &FAST), Finding::Same);
}

#[test]
fn a_row_has_the_shift_its_interval_and_the_effect() {
    let row = compared(&FAST, &SLOW, Rules::default());
    let shift = row.shift.expect("both have values");
    let interval = shift.interval.expect("five and five have one");
    assert_eq!((shift.estimate, interval.low, interval.high), (11.0, 8.0, 14.0));
    assert!((interval.confidence - (1.0 - 8.0 / 252.0)).abs() < 1e-12);
    assert_eq!(row.change, Some(0.11));
    assert!((row.p.expect("tested") - 2.0 / 252.0).abs() < 1e-12);
    assert_eq!((row.delta, row.size), (Some(1.0), Some(Size::Large)));
    assert!((row.noise.expect("known") - 0.0151).abs() < 1e-3, "{:?}", row.noise);
}

#[test]
fn a_change_that_does_not_matter_is_none() {
    let slower: Vec<f64> = FAST.iter().map(|value| value + 10.0).collect();
    let rules = Rules { min_effect: 0.2, ..Rules::default() };
    let row = compared(&FAST, &slower, rules);
    assert_eq!(row.finding, Finding::Same);
    assert_eq!(row.why, "it changed, by less than what is said to matter");
    // Of nothing, anything is a large share.
    let row = compared(&[0.0; 5], &[1.0, 2.0, 1.0, 3.0, 2.0], rules);
    assert_eq!((row.finding, row.change), (Finding::Regression, None));
}

#[test]
fn what_may_be_chance_is_inconclusive_when_it_would_matter() {
    let row = compared(&[90.0, 100.0, 110.0, 95.0], &[104.0, 98.0, 112.0, 120.0], Rules::default());
    assert_eq!(row.finding, Finding::Inconclusive);
    assert_eq!(row.why, "the difference would matter, and may be chance");
}

#[test]
fn too_few_runs_are_refused_and_it_is_said_how_many_would_do() {
    let refused = |a: &[f64], b: &[f64], rules| {
        let row = compared(a, b, rules);
        assert_eq!(row.finding, Finding::Inconclusive);
        row.why
    };
    let default = Rules::default();
    let wanted = "2 v 2 runs cannot tell a change from chance; 4 of each side can";
    assert_eq!(refused(&FAST[..2], &SLOW[..2], default), wanted);
    assert_eq!(refused(&FAST, &[], default), "no trusted run of b has it");
    let strict = Rules { alpha: 0.01, ..default };
    let wanted = "4 v 4 runs cannot tell a change from chance; 5 of each side can";
    assert_eq!(refused(&FAST[..4], &SLOW[..4], strict), wanted);
}

#[test]
fn more_kpis_than_the_runs_carry_are_refused() {
    let names: Vec<String> = (0..7).map(|at| format!("k{at}")).collect();
    let all = |values: &'static [f64]| -> Vec<(&str, &[f64])> {
        names.iter().map(|name| (name.as_str(), values)).collect()
    };
    let kpis: Vec<ComparedKpi> = names.iter().map(|name| kpi(name, Some(Better::Lower))).collect();
    let (a, b) = (side("a", &all(&FAST)), side("b", &all(&SLOW)));
    let of = |count: usize, correction| {
        compare(&a, &b, &kpis[..count], Rules { correction, ..Rules::default() })
    };
    let six = of(6, Correction::Holm);
    assert!(six.rows.iter().all(|row| row.finding == Finding::Regression));
    assert!((six.rows[5].p_corrected.expect("directed") - 6.0 * 2.0 / 252.0).abs() < 1e-12);
    let seven = of(7, Correction::Holm);
    let wanted =
        "5 v 5 runs cannot tell a change from chance for 7 KPIs at once; 6 of each side can";
    assert!(seven.rows.iter().all(|row| row.why == wanted), "{:?}", seven.rows[0]);
    assert_eq!(seven.found(Finding::Inconclusive, true).count(), 7);
    // Without a correction each stands for itself.
    assert_eq!(of(7, Correction::None).found(Finding::Regression, true).count(), 7);
}

#[test]
fn a_kpi_that_one_side_lacks_takes_no_chance_from_the_others() {
    let a = side("a", &[("time", &FAST), ("gone", &FAST)]);
    let kpis = [kpi("time", Some(Better::Lower)), kpi("gone", Some(Better::Lower))];
    let comparison = compare(&a, &runs("b", &SLOW), &kpis, Rules::default());
    assert_eq!(comparison.directed, 1);
    assert_eq!(comparison.rows[0].p_corrected, comparison.rows[0].p);
    assert_eq!(comparison.rows[1].why, "no trusted run of b has it");
}

#[test]
fn kpis_without_a_good_direction_are_not_corrected_which_is_said() {
    let all = [("time", &FAST[..]), ("x", &FAST), ("y", &FAST)];
    let kpis = [kpi("time", Some(Better::Lower)), kpi("x", None), kpi("y", None)];
    let comparison = compare(&side("a", &all), &side("b", &all), &kpis, Rules::default());
    assert_eq!(comparison.directed, 1);
    assert_eq!(comparison.rows[1].p_corrected, None);
    let note = "2 KPIs have no good direction; their p-values are not corrected for their number, so at 0.05 about \
        one in 20 of them is called changed by chance";
    assert_eq!(comparison.notes, [note]);
}

#[test]
fn where_no_kpi_has_a_good_direction_none_can_regress() {
    let kpis = [kpi("time", None)];
    let comparison = compare(&runs("a", &FAST), &runs("b", &SLOW), &kpis, Rules::default());
    assert_eq!(comparison.rows[0].finding, Finding::Changed);
    assert!(comparison.notes[0].starts_with("no KPI has a good direction"));
}

#[test]
fn runs_that_are_not_trusted_are_left_out_and_named() {
    let mut b = runs("b", &[110.0, 112.0, 109.0, 113.0, 111.0, 500.0]);
    b.runs[5].distrust = vec!["host_busy was 0.99".to_owned()];
    let comparison = compare(&runs("a", &FAST), &b, &time(), Rules::default());
    assert_eq!(comparison.b.runs, ["b0", "b1", "b2", "b3", "b4"]);
    assert_eq!(comparison.b.left_out.len(), 1);
    assert_eq!(comparison.b.left_out[0].run, "b5");
    assert_eq!(comparison.rows[0], compared(&FAST, &SLOW, Rules::default()));
    // With one of a side's runs goes what it could tell.
    b.runs.iter_mut().skip(2).for_each(|run| run.distrust = vec!["degraded".to_owned()]);
    let few = compare(&runs("a", &FAST), &b, &time(), Rules::default());
    assert_eq!(few.design.method, Method::TooFew);
    assert_eq!(few.rows[0].finding, Finding::Inconclusive);
}

#[test]
fn three_runs_of_a_side_are_told_apart_and_called_weak() {
    let row = compared(&FAST[..3], &SLOW[..3], Rules::default());
    assert_eq!((row.design.method, row.finding), (Method::Welch, Finding::Regression));
    assert!(row.change.is_some_and(|change| (change - 0.1033).abs() < 1e-3), "{:?}", row.change);
    let comparison = compare(&runs("a", &FAST[..3]), &runs("b", &SLOW), &time(), Rules::default());
    assert!(comparison.notes[0].starts_with("3 runs of a side are weak evidence"));
    // Values that never vary give the test nothing to go by; equal ones are the same all the same.
    let row = compared(&[10.0; 3], &[12.0; 3], Rules::default());
    assert_eq!(row.why, "the runs of a side are all alike, so nothing says what chance does");
    assert_eq!(compared(&[10.0; 3], &[10.0; 3], Rules::default()).finding, Finding::Same);
}

#[test]
fn one_run_is_compared_with_where_the_next_of_the_baseline_would_lie() {
    let baseline = [371.0, 365.0, 380.0, 374.0, 360.0, 377.0, 369.0, 372.0, 371.0];
    let of = |run: f64| compared(&baseline, &[run], Rules::default());
    let (inside, outside) = (of(375.0), of(412.0));
    assert_eq!((inside.finding, outside.finding), (Finding::Same, Finding::Regression));
    assert!((outside.change.expect("a share") - 41.0 / 371.0).abs() < 1e-12);
    let range = outside.range.expect("nine runs have one");
    assert!(
        (352.0..360.0).contains(&range.low) && (380.0..392.0).contains(&range.high),
        "{range:?}"
    );
    // Seven runs do not say where the next one lies.
    let row = compared(&baseline[..7], &[412.0], Rules::default());
    assert_eq!((row.design.method, row.finding), (Method::TooFew, Finding::Inconclusive));
    // All alike say nothing either, unless nothing is new.
    assert_eq!(compared(&[7.0; 9], &[8.0], Rules::default()).finding, Finding::Inconclusive);
    assert_eq!(compared(&[7.0; 9], &[7.0], Rules::default()).finding, Finding::Same);
}

#[test]
fn pairs_see_through_what_both_of_a_pair_suffer() {
    // Every day is another one, and each second run is 4 to 5 % slower on its day.
    let days = [100.0, 140.0, 90.0, 180.0, 120.0, 160.0, 110.0];
    let slower: Vec<f64> =
        days.iter().enumerate().map(|(at, day)| day * (1.04 + 0.001 * at as f64)).collect();
    let unpaired = compared(&days, &slower, Rules::default());
    assert_eq!(unpaired.finding, Finding::Inconclusive);
    let rules = Rules { pairing: Pairing::Interleaved, ..Rules::default() };
    let paired = compared(&days, &slower, rules);
    assert_eq!((paired.design.method, paired.finding), (Method::SignedRank, Finding::Regression));
    assert!(paired.noise < Some(0.01) && unpaired.noise > Some(0.2));
    // A pair goes with each of its runs.
    let (a, mut b) = (runs("a", &days), runs("b", &slower));
    b.runs[3].distrust = vec!["degraded".to_owned()];
    let six = compare(&a, &b, &time(), rules);
    assert_eq!((six.design.a, six.rows[0].finding), (6, Finding::Regression));
    assert_eq!(six.notes, ["1 trusted runs have no partner in a pair"]);
}

#[test]
fn groups_within_few_runs_are_only_described() {
    let rules = Rules { pairing: Pairing::Within, ..Rules::default() };
    let row = compared(&FAST, &SLOW, rules);
    assert_eq!((row.finding, row.p), (Finding::Descriptive, None));
    assert_eq!(row.shift.map(|shift| shift.estimate), Some(11.0));
    let (six, more) = (
        [FAST[0], FAST[1], FAST[2], FAST[3], FAST[4], 103.0],
        [SLOW[0], SLOW[1], SLOW[2], SLOW[3], SLOW[4], 115.0],
    );
    assert_eq!(compared(&six, &more, rules).finding, Finding::Regression);
}

/// How many of 200 comparisons of five runs with five of another middle find this.
fn found(wanted: Finding, kpis: usize, change: f64) -> usize {
    let mut chance = Chance::new(4711);
    let names: Vec<String> = (0..kpis).map(|at| format!("k{at}")).collect();
    let all: Vec<ComparedKpi> = names.iter().map(|name| kpi(name, Some(Better::Lower))).collect();
    let mut one = |name: &str, middle: f64| {
        let values: Vec<Vec<f64>> =
            names.iter().map(|_| drawn(&mut chance, 5, middle, 0.03)).collect();
        let values: Vec<(&str, &[f64])> = names
            .iter()
            .zip(&values)
            .map(|(name, values)| (name.as_str(), values.as_slice()))
            .collect();
        side(name, &values)
    };
    let comparisons = (0..200).map(|_| {
        compare(&one("a", 100.0), &one("b", 100.0 * (1.0 + change)), &all, Rules::default())
    });
    comparisons.filter(|comparison| comparison.found(wanted, true).next().is_some()).count()
}

#[test]
fn of_comparisons_of_the_same_at_most_six_in_a_hundred_alarm() {
    for kpis in [1, 6] {
        let alarms = found(Finding::Regression, kpis, 0.0) + found(Finding::Improvement, kpis, 0.0);
        assert!(alarms <= 12, "{alarms} of 200 with {kpis} KPIs");
    }
}

#[test]
fn ten_per_cent_are_nearly_always_seen_and_five_every_other_time() {
    let seen = |change| found(Finding::Regression, 1, change);
    assert!(seen(0.10) >= 190, "{} of 200", seen(0.10));
    assert!((80..=125).contains(&seen(0.05)), "{} of 200", seen(0.05));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whoever_changes_sides_finds_the_opposite(
        a in prop::collection::vec(1.0..100.0_f64, 4..9),
        b in prop::collection::vec(1.0..100.0_f64, 4..9),
    ) {
        let rules = Rules { min_effect: 0.0, ..Rules::default() };
        let (there, back) = (compared(&a, &b, rules), compared(&b, &a, rules));
        let near = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (Some(one), Some(other)) => (one - other).abs() < 1e-9,
            (one, other) => one == other,
        };
        prop_assert!(near(there.p, back.p));
        prop_assert!(near(there.delta, back.delta.map(|delta| -delta)));
        let (from, to) = (there.shift.expect("values"), back.shift.expect("values"));
        prop_assert!(near(Some(from.estimate), Some(-to.estimate)));
        prop_assert!(near(from.interval.map(|i| i.low), to.interval.map(|i| -i.high)));
        let opposite = match there.finding {
            Finding::Regression => Finding::Improvement,
            Finding::Improvement => Finding::Regression,
            Finding::Inconclusive | Finding::Changed | Finding::Same | Finding::Descriptive => there.finding,
        };
        prop_assert_eq!(back.finding, opposite);
    }

    #[test]
    fn another_unit_changes_no_finding(
        a in prop::collection::vec(1.0..100.0_f64, 1..9),
        b in prop::collection::vec(1.0..100.0_f64, 1..9),
        power in -3..4_i32,
    ) {
        // A factor of two changes no digit of a float.
        let factor = 2.0_f64.powi(power);
        let of = |values: &[f64]| values.iter().map(|value| value * factor).collect::<Vec<_>>();
        let (one, other) = (compared(&a, &b, Rules::default()), compared(&of(&a), &of(&b), Rules::default()));
        prop_assert_eq!((one.finding, one.why, one.delta), (other.finding, other.why, other.delta));
        prop_assert_eq!(one.p.is_some(), other.p.is_some());
    }

    #[test]
    fn bounds_hold_the_estimate_and_p_values_are_probabilities(
        a in prop::collection::vec(0..6_u8, 1..12),
        b in prop::collection::vec(0..6_u8, 1..12),
        pairing in prop_oneof![Just(Pairing::None), Just(Pairing::Interleaved), Just(Pairing::Within)],
    ) {
        let of = |values: &[u8]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
        let row = compared(&of(&a), &of(&b), Rules { pairing, ..Rules::default() });
        prop_assert!(row.p.is_none_or(|p| (0.0..=1.0).contains(&p)), "{:?}", row);
        prop_assert!(row.p.zip(row.p_corrected).is_none_or(|(p, corrected)| corrected >= p));
        if let Some(interval) = row.shift.and_then(|shift| shift.interval) {
            let estimate = row.shift.expect("it has an interval").estimate;
            prop_assert!(interval.low <= estimate && estimate <= interval.high);
            prop_assert!(interval.confidence >= 0.95 - 1e-12);
        }
        prop_assert!(row.delta.is_none_or(|delta| (-1.0..=1.0).contains(&delta)));
    }

    #[test]
    fn a_comparison_travels_as_json(
        a in prop::collection::vec(1.0..100.0_f64, 0..6),
        b in prop::collection::vec(1.0..100.0_f64, 0..6),
    ) {
        let comparison = compare(&runs("a", &a), &runs("b", &b), &time(), Rules::default());
        let json = serde_json::to_value(&comparison).expect("plain data");
        let back: Comparison = serde_json::from_value(json).expect("the same");
        prop_assert_eq!(back.rows[0].finding, comparison.rows[0].finding);
    }
}
