//! What a design would see: how often it tells a change of a given size, and from which size on it mostly does.
//!
//! By simulation, as runs vary log-normally, with the same numbers each time: the same question has one answer.

use super::design::{Demand, Design, Method, Pairing, enough};
use super::range::outlying;
use super::ranks::{EXACT, float, mann_whitney, signed_rank, u_distribution};
use super::shift::median;
use super::welch::{Spread, positive, scaled, welch_p};
use crate::chance::Chance;

/// How often a change should be seen by those who ask for the least one that is.
pub const OFTEN: f64 = 0.8;
/// How often each change is tried.
const TRIALS: usize = 1000;
/// Where the numbers come from.
const SEED: u64 = 0x5377_656c_6c00;
/// No change beyond tenfold is looked for.
const MOST_CHANGE: f64 = 9.0;

/// How much runs of the same side differ: the standard deviation of their logarithms, or the relative one where they
/// have none; of pairs, what is left of it between both. None when too few say so.
#[must_use]
pub fn noise(a: &[f64], b: &[f64], method: Method) -> Option<f64> {
    if method == Method::SignedRank {
        return noise_of_pairs(a, b);
    }
    let logs = positive(a) && positive(b);
    let sides: Vec<(f64, f64)> = [a, b]
        .iter()
        .filter(|side| side.len() > 1)
        .map(|side| (Spread::of(&scaled(side, logs)).variance, float(side.len() - 1)))
        .collect();
    let freedom: f64 = sides.iter().map(|(_, freedom)| freedom).sum();
    let squares: f64 = sides.iter().map(|(variance, freedom)| variance * freedom).sum();
    relative((squares / freedom).sqrt(), logs, a)
}

fn noise_of_pairs(a: &[f64], b: &[f64]) -> Option<f64> {
    let logs = positive(a) && positive(b);
    let (from, to) = (scaled(a, logs), scaled(b, logs));
    let differences: Vec<f64> = from.iter().zip(&to).map(|(from, to)| to - from).collect();
    relative((Spread::of(&differences).variance / 2.0).sqrt(), logs, a)
}

fn relative(deviation: f64, logs: bool, a: &[f64]) -> Option<f64> {
    let base = if logs { 1.0 } else { median(a)?.abs() };
    let noise = deviation / base;
    noise.is_finite().then_some(noise)
}

/// How often a design with so much noise tells a change of the share `change` from chance, from 0 to 1.
#[must_use]
pub fn power(design: Design, noise: f64, change: f64, hurdle: f64) -> f64 {
    let tester = Tester::of(design, hurdle);
    let mut chance = Chance::new(SEED);
    let mut side = |runs: usize, by: f64| -> Vec<f64> {
        (0..runs).map(|_| by + noise * chance.normal()).collect()
    };
    let moved = change.ln_1p();
    let seen = (0..TRIALS).filter(|_| {
        let (a, b) = (side(design.a, 0.0), side(design.b, moved));
        tester.tells(&a, &b)
    });
    float(seen.count()) / float(TRIALS)
}

/// The least change, upwards, that a design with so much noise tells in [`OFTEN`] of all cases. None when it tells
/// none, or only one beyond tenfold.
#[must_use]
pub fn detectable(design: Design, noise: f64, hurdle: f64) -> Option<f64> {
    let tells = |change: f64| power(design, noise, change, hurdle) >= OFTEN;
    if !tells(MOST_CHANGE) {
        return None;
    }
    let (mut low, mut high) = (0.0_f64, MOST_CHANGE.ln_1p());
    for _ in 0..12 {
        let middle = f64::midpoint(low, high);
        if tells(middle.exp_m1()) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high.exp_m1())
}

/// How many runs of each side see a change of that size in [`OFTEN`] of all cases; none below a hundred.
#[must_use]
pub fn runs_to_see(pairing: Pairing, noise: f64, change: f64, demand: Demand) -> Option<usize> {
    let least = enough(pairing, demand)?;
    (least..100).find(|runs| {
        let design = Design::of(*runs, *runs, *runs, pairing, demand);
        power(design, noise, change, demand.hurdle()) >= OFTEN
    })
}

/// A test with its bounds worked out, for many trials of values that are never alike.
struct Tester {
    method: Method,
    hurdle: f64,
    /// Mann and Whitney's U tells when it is below this, or as far from the other end.
    bound: Option<usize>,
}

impl Tester {
    fn of(Design { method, a, b }: Design, hurdle: f64) -> Self {
        let counted = method == Method::MannWhitney && a + b <= EXACT;
        let bound = counted.then(|| {
            let mut tail = 0.0;
            let likely = u_distribution(a, b);
            let telling = likely.iter().take_while(|likely| {
                tail += 2.0 * **likely;
                tail < hurdle
            });
            telling.count()
        });
        Self { method, hurdle, bound }
    }

    /// Whether it tells two sets of logarithms apart.
    fn tells(&self, a: &[f64], b: &[f64]) -> bool {
        let p = match (self.method, self.bound) {
            (Method::MannWhitney, Some(bound)) => {
                let pairs = b.iter().flat_map(|to| a.iter().map(move |from| to > from));
                let greater = pairs.filter(|greater| *greater).count();
                return greater.min(a.len() * b.len() - greater) < bound;
            }
            (Method::MannWhitney, None) => mann_whitney(a, b).map(|test| test.p),
            (Method::SignedRank, _) => {
                // The deviation of a difference is that of both of its runs.
                let differences: Vec<f64> = a.iter().zip(b).map(|(from, to)| to - from).collect();
                signed_rank(&differences).map(|test| test.p)
            }
            (Method::Welch, _) => welch_p(&powers(a), &powers(b)),
            (Method::Range, _) => outlying(&powers(a), &powers(b)),
            (Method::Descriptive | Method::TooFew, _) => None,
        };
        p.is_some_and(|p| p < self.hurdle)
    }
}

fn powers(logs: &[f64]) -> Vec<f64> {
    logs.iter().map(|log| log.exp()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Correction;

    /// Runs differ by 3 %, and their medians of a thousand instances, which differ by 20 %, by 0.8 % more.
    const NOISE: f64 = 0.031;

    #[test]
    fn power_is_that_of_the_reference() {
        // Runs of each side, the method, and how often +5 % and +10 % are seen by 400 trials of another simulation.
        let reference = [
            (4, Method::MannWhitney, 0.33, 0.82),
            (5, Method::MannWhitney, 0.49, 0.98),
            (7, Method::MannWhitney, 0.70, 1.0),
            (10, Method::MannWhitney, 0.91, 1.0),
            (3, Method::Welch, 0.24, 0.67),
            (5, Method::Welch, 0.58, 0.98),
        ];
        for (runs, method, five, ten) in reference {
            let design = Design { method, a: runs, b: runs };
            let got = [0.05, 0.10].map(|change| power(design, NOISE, change, 0.05));
            let off = [got[0] - five, got[1] - ten];
            assert!(off.iter().all(|off| off.abs() < 0.08), "{runs} {method:?}: {got:?}");
        }
    }

    #[test]
    fn where_nothing_has_changed_a_test_seldom_says_so() {
        for method in [Method::MannWhitney, Method::SignedRank, Method::Welch] {
            for runs in [6, 9] {
                let alarms = power(Design { method, a: runs, b: runs }, 0.03, 0.0, 0.05);
                assert!(alarms <= 0.065, "{method:?} of {runs}: {alarms}");
            }
        }
        let one_run = Design { method: Method::Range, a: 9, b: 1 };
        assert!((power(one_run, 0.03, 0.0, 0.05) - 0.05).abs() < 0.02);
        let many = Design { method: Method::MannWhitney, a: 40, b: 40 };
        assert!((power(many, 0.03, 0.0, 0.05) - 0.05).abs() < 0.02);
    }

    #[test]
    fn the_least_change_that_is_seen_is_seen_often() {
        let design = Design { method: Method::MannWhitney, a: 5, b: 5 };
        let least = detectable(design, 0.03, 0.05).expect("some change is seen");
        let seen = power(design, 0.03, least, 0.05);
        assert!((OFTEN..OFTEN + 0.05).contains(&seen), "{least} is seen in {seen}");
        assert!((0.05..0.09).contains(&least), "{least}");
        // Not with as many KPIs as it cannot carry, however great the change.
        assert_eq!(detectable(design, 0.03, 0.05 / 7.0), None);
    }

    #[test]
    fn more_runs_are_advised_for_less() {
        let demand = Demand { alpha: 0.05, correction: Correction::Holm, kpis: 1 };
        let runs = |change| runs_to_see(Pairing::None, 0.03, change, demand);
        assert_eq!(runs(0.10), Some(4));
        let five = runs(0.05).expect("some number");
        assert!((7..=10).contains(&five), "{five}");
        assert_eq!(runs_to_see(Pairing::None, 0.5, 0.001, demand), None);
    }

    #[test]
    fn noise_is_relative_and_between_pairs_what_they_do_not_share() {
        let close = |got: Option<f64>, wanted: f64| {
            assert!(got.is_some_and(|got| (got - wanted).abs() < 1e-3), "{got:?} for {wanted}");
        };
        let (a, b) = ([97.0, 100.0, 103.0], [194.0, 200.0, 206.0]);
        close(noise(&a, &b, Method::MannWhitney), 0.030);
        close(noise(&a, &b, Method::SignedRank), 0.0);
        close(noise(&[0.0, 10.0, 20.0], &[10.0], Method::MannWhitney), 1.0);
        assert_eq!(noise(&[1.0], &[2.0], Method::TooFew), None);
        assert_eq!(noise(&[0.0, 0.0], &[0.0, 1.0], Method::Welch), None);
    }
}
