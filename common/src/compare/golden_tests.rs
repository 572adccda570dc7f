//! Numbers of SciPy, statsmodels and MongoDB's change points, made by `tests/golden/compare/make.py`.

use serde::Deserialize;

use super::changes::{changes, strength};
use super::correction::Correction;
use super::design::{Design, Method};
use super::effect::cliff;
use super::power::power;
use super::range::{outlying, range};
use super::ranks::{
    RankTest, mann_whitney, mann_whitney_approximate, signed_rank, signed_rank_approximate,
};
use super::shift::{Shift, paired, unpaired};
use super::tails::{normal_above, student_beyond, student_quantile};
use super::welch::welch;

#[derive(Deserialize)]
struct Golden {
    normal: Vec<(f64, f64)>,
    student: Vec<(f64, f64, f64)>,
    quantiles: Vec<(f64, f64, f64)>,
    unpaired: Vec<Unpaired>,
    large: Vec<Unpaired>,
    large_tied: Tied,
    pairs: Vec<Pairs>,
    corrections: Vec<Corrected>,
    ranges: Vec<Ranged>,
    range_power: Vec<RangePower>,
    series: Vec<Series>,
}

#[derive(Deserialize)]
struct Unpaired {
    a: Vec<f64>,
    b: Vec<f64>,
    u: f64,
    p: f64,
    p_approximate: f64,
    cliff: f64,
    welch: Welch,
    shift: f64,
    /// Whether values are alike: then nothing says what the interval should be.
    ties: bool,
    interval: Option<(f64, f64)>,
}

#[derive(Deserialize)]
struct Welch {
    p: f64,
    df: f64,
    ratio: (f64, f64),
}

#[derive(Deserialize)]
struct Tied {
    a: Vec<f64>,
    b: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct Pairs {
    d: Vec<f64>,
    w: f64,
    p: f64,
    p_approximate: f64,
    shift: f64,
    ties: bool,
    interval: Option<(f64, f64)>,
}

#[derive(Deserialize)]
struct Corrected {
    p: Vec<f64>,
    holm: Vec<f64>,
    bh: Vec<f64>,
}

#[derive(Deserialize)]
struct Ranged {
    base: Vec<f64>,
    runs: Vec<f64>,
    low: f64,
    high: f64,
    p: f64,
}

#[derive(Deserialize)]
struct RangePower {
    n: usize,
    noise: f64,
    change: f64,
    power: f64,
}

#[derive(Deserialize)]
struct Series {
    values: Vec<f64>,
    changes: Vec<usize>,
    splits: Vec<(usize, usize, f64)>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/golden/compare/golden.json"))
        .expect("the file fits")
}

/// Ten digits are the same.
#[track_caller]
fn close(got: f64, wanted: f64) {
    assert!((got - wanted).abs() <= 1e-10 * (1e-4 + wanted.abs()), "{got} for {wanted}");
}

#[track_caller]
fn bounds(shift: Shift, wanted: Option<(f64, f64)>) {
    let got = shift.interval.map(|interval| (interval.low, interval.high));
    assert_eq!(got.is_some(), wanted.is_some(), "{got:?} for {wanted:?}");
    if let Some((got, wanted)) = got.zip(wanted) {
        close(got.0, wanted.0);
        close(got.1, wanted.1);
    }
}

fn p_of(test: Option<RankTest>) -> f64 {
    test.expect("there are values").p
}

#[test]
fn the_tails_of_distributions_are_those_of_scipy() {
    let golden = golden();
    golden.normal.iter().for_each(|(z, above)| close(normal_above(*z), *above));
    golden.student.iter().for_each(|(t, df, beyond)| close(student_beyond(*t, *df), *beyond));
    golden.quantiles.iter().for_each(|(p, df, t)| close(student_quantile(*p, *df), *t));
}

#[test]
fn two_sets_of_runs_are_told_apart_as_by_scipy() {
    let golden = golden();
    assert!(golden.unpaired.len() > 20);
    for case in &golden.unpaired {
        let test = mann_whitney(&case.a, &case.b).expect("there are values");
        assert!(test.exact);
        close(test.statistic, case.u);
        close(test.p, case.p);
        close(p_of(mann_whitney_approximate(&case.a, &case.b)), case.p_approximate);
        close(cliff(&case.a, &case.b).expect("there are values"), case.cliff);
    }
    for case in &golden.large {
        let test = mann_whitney(&case.a, &case.b).expect("there are values");
        assert!(!test.exact);
        close(test.p, case.p_approximate);
        // The approximation is one.
        assert!((test.p - case.p).abs() < 0.01, "{} for {}", test.p, case.p);
    }
    close(p_of(mann_whitney(&golden.large_tied.a, &golden.large_tied.b)), golden.large_tied.p);
}

#[test]
fn the_shift_between_two_sets_has_the_bounds_that_the_test_does_not_reject() {
    let golden = golden();
    let mut without = 0;
    for case in &golden.unpaired {
        let shift = unpaired(&case.a, &case.b, 0.05).expect("there are values");
        close(shift.estimate, case.shift);
        if !case.ties {
            bounds(shift, case.interval);
            without += usize::from(case.interval.is_none());
        }
    }
    // Three and three can bound nothing at 95 %.
    assert_eq!(without, 2);
    let large = &golden.large[0];
    let shift = unpaired(&large.a, &large.b, 0.05).expect("there are values");
    let (got, wanted) = (shift.interval.expect("one"), large.interval.expect("one"));
    assert!(
        (got.low - wanted.0).abs() < 0.1 && (got.high - wanted.1).abs() < 0.1,
        "{got:?} {wanted:?}"
    );
}

#[test]
fn welch_on_logarithms_is_that_of_scipy() {
    for case in &golden().unpaired {
        let test = welch(&case.a, &case.b, 0.05).expect("values differ");
        close(test.p, case.welch.p);
        close(test.freedom, case.welch.df);
        // The interval is told as what the ratio makes of the geometric mean.
        let interval = test.shift.interval.expect("there is one");
        let base = test.shift.estimate / test.ratio.expect("logarithms have one");
        close(interval.low / base + 1.0, case.welch.ratio.0);
        close(interval.high / base + 1.0, case.welch.ratio.1);
    }
}

#[test]
fn pairs_are_told_apart_as_by_scipy() {
    for case in &golden().pairs {
        let test = signed_rank(&case.d).expect("some differ");
        close(test.statistic, case.w);
        close(test.p, case.p);
        close(p_of(signed_rank_approximate(&case.d)), case.p_approximate);
        let shift = paired(&case.d, 0.05).expect("there are pairs");
        close(shift.estimate, case.shift);
        if !case.ties {
            bounds(shift, case.interval);
        }
    }
}

#[test]
fn p_values_are_corrected_as_by_statsmodels_and_scipy() {
    for case in &golden().corrections {
        for (correction, wanted) in [
            (Correction::Holm, &case.holm),
            (Correction::Bh, &case.bh),
            (Correction::None, &case.p),
        ] {
            let got = correction.adjust(&case.p);
            got.iter().zip(wanted).for_each(|(got, wanted)| close(*got, *wanted));
        }
    }
}

#[test]
fn the_range_of_the_next_run_is_that_of_students_t() {
    for case in &golden().ranges {
        let range = range(&case.base, case.runs.len(), 0.05).expect("there are runs enough");
        close(range.low, case.low);
        close(range.high, case.high);
        close(outlying(&case.base, &case.runs).expect("there are runs enough"), case.p);
    }
}

#[test]
fn the_power_of_one_run_is_that_of_the_noncentral_t() {
    for case in &golden().range_power {
        let design = Design { method: Method::Range, a: case.n, b: 1 };
        let got = power(design, case.noise, case.change, 0.05);
        assert!((got - case.power).abs() < 0.04, "{got} for {}", case.power);
    }
}

#[test]
fn a_series_changed_where_mongodb_says_so() {
    for case in &golden().series {
        case.splits
            .iter()
            .for_each(|(at, end, wanted)| close(strength(&case.values, *at, *end), *wanted));
        let found = changes(&case.values, 0.01).expect("there are runs enough");
        let found: Vec<usize> = found.into_iter().map(|change| change.at).collect();
        assert_eq!(found, case.changes);
    }
}
