//! What a comparison is asked and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::correction::Correction;
use super::design::{Demand, Design, Pairing};
use super::effect::Size;
use super::range::Range;
use super::shift::{Interval, Shift};
use crate::kpi::Better;

/// A run, as comparisons see it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComparedRun {
    /// What people call it.
    pub name: String,
    /// Why it cannot be trusted; empty when it can.
    pub distrust: Vec<String>,
    /// The one number that each KPI has in it, in the base of its unit.
    pub values: BTreeMap<String, f64>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Side {
    /// What people call it.
    pub name: String,
    /// Its runs; pairs have the same place on both sides.
    pub runs: Vec<ComparedRun>,
}

/// A KPI that is to be compared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComparedKpi {
    /// Its name, by which runs have its value.
    pub name: String,
    /// The base of its unit.
    pub unit: String,
    /// Which direction is the good one. Only with one can there be a regression, and only those KPIs are corrected for
    /// their number.
    pub better: Option<Better>,
}

/// The rules of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// How often a change may be found where there is none.
    pub alpha: f64,
    /// A change by a smaller share is none that matters.
    pub min_effect: f64,
    /// How p-values are corrected for the number of KPIs.
    pub correction: Correction,
    /// How runs of the two sides belong together.
    pub pairing: Pairing,
}

impl Default for Rules {
    fn default() -> Self {
        let (correction, pairing) = (Correction::default(), Pairing::default());
        Self { alpha: 0.05, min_effect: 0.03, correction, pairing }
    }
}

impl Rules {
    /// What is demanded of a design for so many KPIs.
    #[must_use]
    pub fn demand(&self, kpis: usize) -> Demand {
        Demand { alpha: self.alpha, correction: self.correction, kpis }
    }
}

/// What was found of a KPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It changed for the worse, by as much as matters.
    Regression,
    /// Nobody can tell, from these runs.
    Inconclusive,
    /// It changed for the better.
    Improvement,
    /// It changed, and neither direction is the good one.
    Changed,
    /// No change was found that matters.
    Same,
    /// Nothing was tested: the numbers describe these runs.
    Descriptive,
}

impl Finding {
    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::Inconclusive => "inconclusive",
            Self::Improvement => "improvement",
            Self::Changed => "changed",
            Self::Same => "same",
            Self::Descriptive => "descriptive",
        }
    }
}

/// The values of a KPI on one side.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Values {
    /// One of each run that has it, in the order of the runs.
    pub values: Vec<f64>,
    /// Their median.
    pub median: Option<f64>,
}

/// What was found of a KPI, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The KPI.
    pub kpi: String,
    /// The base of its unit.
    pub unit: String,
    /// Which direction is the good one.
    pub better: Option<Better>,
    /// The first side.
    pub a: Values,
    /// The second side.
    pub b: Values,
    /// How the sides were told apart.
    pub design: Design,
    /// From the first side to the second, in the unit.
    pub shift: Option<Shift>,
    /// The shift as a share of the first side's median; none when that is zero.
    pub change: Option<f64>,
    /// Where that share lies.
    pub change_interval: Option<Interval>,
    /// How likely the sides would be this far apart by chance alone.
    pub p: Option<f64>,
    /// The same, corrected for the number of KPIs that have a good direction; none for those that have none.
    pub p_corrected: Option<f64>,
    /// Cliff's delta: how much more often a run of the second side is above one of the first than below it.
    pub delta: Option<f64>,
    /// What people call a delta of that size.
    pub size: Option<Size>,
    /// Where a further run of the first side would lie, when there is only one on the second, or two.
    pub range: Option<Range>,
    /// How much runs of the same side differ, as a share.
    pub noise: Option<f64>,
    /// What follows.
    pub finding: Finding,
    /// Why, in words; empty where the numbers say it.
    pub why: String,
}

/// Whose runs were compared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SideUsed {
    /// What people call it.
    pub name: String,
    /// The runs that count.
    pub runs: Vec<String>,
    /// The runs that do not.
    pub left_out: Vec<LeftOut>,
}

/// A run that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The run.
    pub run: String,
    /// Why.
    pub why: Vec<String>,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this format.
    pub v: u32,
    /// The first side; what is called a change starts from it.
    pub a: SideUsed,
    /// The second side.
    pub b: SideUsed,
    /// The rules.
    pub rules: Rules,
    /// How sides are told apart, for KPIs that all runs have.
    pub design: Design,
    /// How many KPIs have a good direction, for which p-values are corrected.
    pub directed: usize,
    /// The KPIs, in the order in which they were asked for.
    pub rows: Vec<Row>,
    /// What people should know before they trust it.
    pub notes: Vec<String>,
}

impl Comparison {
    /// The rows with this finding, of KPIs that have a good direction if `directed`.
    pub fn found(&self, finding: Finding, directed: bool) -> impl Iterator<Item = &Row> {
        let fits = move |row: &&Row| row.finding == finding && (row.better.is_some() || !directed);
        self.rows.iter().filter(fits)
    }
}
