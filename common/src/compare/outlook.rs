//! What a comparison could have seen, whatever it found: no result is honest without that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::comparison::{Comparison, Row};
use super::design::Method;
use super::power::{detectable, power, runs_to_see};
use super::shift::median;

/// The changes whose power is told.
const CHANGES: [f64; 2] = [0.10, 0.05];

/// What a comparison could have seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// How much runs of the same side differ, as a share: the middle one of the KPIs.
    pub noise: f64,
    /// How often a change is seen, for a change of ten per cent and one of five.
    pub seen: Vec<Seen>,
    /// How many runs of each side would see the smaller change in four of five cases, if these are too few.
    pub needed: Option<usize>,
}

/// How often a change of some size is seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The change, as a share.
    pub change: f64,
    /// How often, from 0 to 1.
    pub power: f64,
}

impl Outlook {
    /// The outlook of a comparison; none when nothing says how much runs differ, or nothing is tested.
    #[must_use]
    pub fn of(comparison: &Comparison) -> Option<Self> {
        let Comparison { design, rules, directed, .. } = comparison;
        if matches!(design.method, Method::Descriptive | Method::TooFew) {
            return None;
        }
        let demand = rules.demand(*directed);
        let noise = noise(comparison)?;
        let seen = CHANGES
            .map(|change| Seen { change, power: power(*design, noise, change, demand.hurdle()) });
        let least = CHANGES[CHANGES.len() - 1];
        let needed = runs_to_see(rules.pairing, noise, least, demand);
        let needed = needed.filter(|runs| *runs > design.a.min(design.b));
        Some(Self { noise, seen: seen.into(), needed })
    }
}

/// The middle noise of the KPIs that have a good direction, or of all when none has.
fn noise(comparison: &Comparison) -> Option<f64> {
    let of = |directed: bool| {
        let rows = comparison.rows.iter().filter(|row| row.better.is_some() || !directed);
        median(&rows.filter_map(|row| row.noise).collect::<Vec<_>>())
    };
    of(true).or_else(|| of(false))
}

/// The least change of each KPI that would have been seen in four of five cases.
#[must_use]
pub fn least_seen(comparison: &Comparison) -> BTreeMap<String, f64> {
    let least = |row: &Row| {
        let kpis = if row.better.is_some() { comparison.directed } else { 1 };
        detectable(row.design, row.noise?, comparison.rules.demand(kpis).hurdle())
    };
    comparison.rows.iter().filter_map(|row| Some((row.kpi.clone(), least(row)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::compare::{ComparedKpi, ComparedRun, Rules, Side, compare};
    use crate::kpi::Better;

    fn side(chance: &mut Chance, runs: usize) -> Side {
        let mut run = || ComparedRun {
            values: BTreeMap::from([("time".to_owned(), 100.0 * (0.03 * chance.normal()).exp())]),
            ..ComparedRun::default()
        };
        Side { name: "side".to_owned(), runs: (0..runs).map(|_| run()).collect() }
    }

    fn of(a: usize, b: usize) -> Comparison {
        let mut chance = Chance::new(7);
        let kpi = ComparedKpi {
            name: "time".to_owned(),
            better: Some(Better::Lower),
            ..ComparedKpi::default()
        };
        compare(&side(&mut chance, a), &side(&mut chance, b), &[kpi], Rules::default())
    }

    #[test]
    fn it_is_said_what_five_and_five_can_see() {
        let comparison = of(5, 5);
        let outlook = Outlook::of(&comparison).expect("they are tested");
        assert!((0.015..0.045).contains(&outlook.noise), "{outlook:?}");
        let [ten, five] = outlook.seen.as_slice() else { panic!("{outlook:?}") };
        assert!(ten.power > 0.9 && five.power < ten.power, "{outlook:?}");
        assert!(outlook.needed.is_none_or(|runs| runs > 5));
        let least = least_seen(&comparison)["time"];
        assert!((0.03..0.10).contains(&least), "{least}");
    }

    #[test]
    fn what_is_not_tested_could_see_nothing() {
        assert_eq!(Outlook::of(&of(2, 2)), None);
        assert!(least_seen(&of(2, 2)).is_empty());
        // One run beside a baseline is tested.
        assert!(
            Outlook::of(&of(9, 1))
                .is_some_and(|outlook| outlook.seen[0].power > outlook.seen[1].power)
        );
    }
}
