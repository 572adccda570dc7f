//! What so many runs can tell at all: which test they are for, and whether it can reach significance.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::correction::Correction;
use super::range::RANGE_RUNS;
use super::ranks::{EXACT, float};

/// From so many runs on each side, their order alone can tell.
pub const RANK_RUNS: usize = 4;
/// From so many on each side, something can be told if their values are taken to be normal.
pub const WELCH_RUNS: usize = 3;
/// From so many pairs on, they are looked at as pairs.
pub const PAIRS: usize = 6;
/// Nobody is told to repeat a run more often than this.
const MOST_REPEATS: usize = 100;

/// How runs of the two sides belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Not at all.
    #[default]
    None,
    /// The first of one ran beside the first of the other, and so on.
    Interleaved,
    /// Both sides are of the same runs: two groups of each, which share a network.
    Within,
}

/// How two sides are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Mann and Whitney's test.
    MannWhitney,
    /// Wilcoxon's test of pairs.
    SignedRank,
    /// Welch's t, which is weak: so few values do not show whether they are normal.
    Welch,
    /// Whether one run, or two, lie where a further run of the baseline would.
    Range,
    /// Not at all: the numbers describe these runs and say nothing about others.
    Descriptive,
    /// Not at all: there are too few runs.
    TooFew,
}

/// A method and the runs it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Design {
    /// How sides are told apart.
    pub method: Method,
    /// Runs of the first side, or pairs.
    pub a: usize,
    /// Runs of the second side, or pairs.
    pub b: usize,
}

/// What is asked of a design.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// How often a change may be told where there is none.
    pub alpha: f64,
    /// How p-values are corrected.
    pub correction: Correction,
    /// For how many KPIs.
    pub kpis: usize,
}

impl Demand {
    /// What a p-value has to be below for one KPI that alone has changed.
    #[must_use]
    pub fn hurdle(self) -> f64 {
        self.correction.hurdle(self.alpha, self.kpis)
    }
}

impl Design {
    /// The design for so many runs, of which `pairs` are in pairs. With as few pairs as cannot tell what is demanded
    /// the interleaved runs are compared without them, which can.
    #[must_use]
    pub fn of(a: usize, b: usize, pairs: usize, pairing: Pairing, demand: Demand) -> Self {
        let in_pairs = |method| Self { method, a: pairs, b: pairs };
        let signed = in_pairs(Method::SignedRank);
        match pairing {
            Pairing::Within if pairs >= PAIRS => return signed,
            Pairing::Within => return in_pairs(Method::Descriptive),
            Pairing::Interleaved if pairs >= PAIRS && signed.tells(demand) => return signed,
            Pairing::Interleaved | Pairing::None => {}
        }
        let method = match a.min(b) {
            RANK_RUNS.. => Method::MannWhitney,
            WELCH_RUNS => Method::Welch,
            1.. if a >= RANGE_RUNS && b < WELCH_RUNS => Method::Range,
            _ => Method::TooFew,
        };
        Self { method, a, b }
    }

    /// The smallest p-value that can come of it.
    #[must_use]
    pub fn smallest_p(self) -> f64 {
        match self.method {
            Method::MannWhitney => 2.0 / choices(self.a + self.b, self.a.min(self.b)),
            Method::SignedRank => (0..self.a).fold(2.0, |p, _| p / 2.0),
            Method::Welch | Method::Range => 0.0,
            Method::Descriptive | Method::TooFew => 1.0,
        }
    }

    /// Whether it can tell a change of one KPI among those demanded.
    #[must_use]
    pub fn tells(self, demand: Demand) -> bool {
        self.smallest_p() < demand.hurdle()
    }

    /// For how many KPIs it can tell that one of them has changed, up to `most`.
    #[must_use]
    pub fn carries(self, demand: Demand, most: usize) -> usize {
        (1..=most).take_while(|kpis| self.tells(Demand { kpis: *kpis, ..demand })).count()
    }

    /// Whether the p-value is right without a further assumption.
    #[must_use]
    pub fn is_exact(self) -> bool {
        match self.method {
            Method::MannWhitney => self.a + self.b <= EXACT,
            Method::SignedRank => self.a <= EXACT,
            Method::Welch | Method::Range | Method::Descriptive | Method::TooFew => false,
        }
    }
}

impl fmt::Display for Design {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a, b, .. } = self;
        let exact = if self.is_exact() { "exact " } else { "" };
        match self.method {
            Method::MannWhitney => write!(f, "{exact}Mann-Whitney test of {a} v {b} runs"),
            Method::SignedRank => write!(f, "{exact}Wilcoxon test of {a} pairs of runs"),
            Method::Welch => write!(f, "Welch's t of {a} v {b} runs, which is weak"),
            Method::Range => write!(f, "the range of {a} runs, and {b} beside it"),
            Method::Descriptive => write!(f, "{a} v {b} groups within runs, described only"),
            Method::TooFew => write!(f, "{a} v {b} runs, too few for any test"),
        }
    }
}

/// The fewest runs of each side that can tell what is demanded; none when that is beyond all reason.
#[must_use]
pub fn enough(pairing: Pairing, demand: Demand) -> Option<usize> {
    // Three runs do by Welch's t, but nobody is told to repeat what remains weak.
    (RANK_RUNS..MOST_REPEATS).find(|runs| {
        let design = Design::of(*runs, *runs, *runs, pairing, demand);
        design.method != Method::Descriptive && design.tells(demand)
    })
}

/// In how many ways `some` can be chosen among `all`.
fn choices(all: usize, some: usize) -> f64 {
    (0..some).fold(1.0, |ways, at| ways * float(all - at) / float(at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(kpis: usize) -> Demand {
        Demand { alpha: 0.05, correction: Correction::Holm, kpis }
    }

    fn unpaired(runs: usize) -> Design {
        Design::of(runs, runs, 0, Pairing::None, demand(1))
    }

    #[test]
    fn what_a_design_carries_is_known_before_any_run() {
        let carried = |runs| unpaired(runs).carries(demand(1), 99);
        assert_eq!([4, 5, 6].map(carried), [1, 6, 23]);
        let pairs = |pairs| {
            let design = Design { method: Method::SignedRank, a: pairs, b: pairs };
            design.carries(demand(1), 99)
        };
        assert_eq!([5, 6, 7, 8, 10].map(pairs), [0, 1, 3, 6, 25]);
        let alone = Demand { correction: Correction::None, ..demand(1) };
        assert_eq!(unpaired(4).carries(alone, 99), 99);
    }

    #[test]
    fn the_method_follows_from_the_number_of_runs() {
        let of = |a, b| Design::of(a, b, 0, Pairing::None, demand(1)).method;
        assert_eq!(of(4, 9), Method::MannWhitney);
        assert_eq!([of(3, 3), of(3, 20), of(20, 3)], [Method::Welch; 3]);
        assert_eq!([of(8, 1), of(20, 2)], [Method::Range; 2]);
        // It is the baseline that has to say how much runs vary.
        assert_eq!([of(7, 1), of(1, 8), of(2, 2), of(8, 0)], [Method::TooFew; 4]);
    }

    #[test]
    fn pairs_are_looked_at_as_such_where_that_can_tell() {
        let of = |pairs, kpis| {
            Design::of(pairs, pairs, pairs, Pairing::Interleaved, demand(kpis)).method
        };
        assert_eq!([of(6, 1), of(8, 6)], [Method::SignedRank; 2]);
        assert_eq!([of(5, 1), of(6, 2)], [Method::MannWhitney; 2]);
        let within = |pairs| Design::of(pairs, pairs, pairs, Pairing::Within, demand(2)).method;
        assert_eq!([within(5), within(6)], [Method::Descriptive, Method::SignedRank]);
    }

    #[test]
    fn people_are_told_how_often_to_repeat() {
        let unpaired = |kpis| enough(Pairing::None, demand(kpis));
        assert_eq!([1, 6, 7, 23, 24].map(unpaired), [4, 5, 6, 6, 7].map(Some));
        assert_eq!(enough(Pairing::Within, demand(6)), Some(8));
        assert_eq!(enough(Pairing::None, Demand { alpha: 0.0, ..demand(1) }), None);
    }
}
