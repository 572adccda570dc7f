//! Many KPIs give chance many chances: what a p-value has to be when several are looked at together.

use serde::{Deserialize, Serialize};

use super::ranks::float;

/// How p-values are corrected for their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Holm's: the chance of one false alarm or more stays below alpha.
    #[default]
    Holm,
    /// Benjamini and Hochberg's: of all alarms, the share of false ones stays below alpha.
    Bh,
    /// None: each KPI for itself.
    None,
}

impl Correction {
    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holm => "holm",
            Self::Bh => "bh",
            Self::None => "none",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holm => "Holm",
            Self::Bh => "Benjamini-Hochberg",
            Self::None => "no correction",
        }
    }

    /// The corrected p-values, in the order of the given ones.
    #[must_use]
    pub fn adjust(self, values: &[f64]) -> Vec<f64> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|one, other| values[*one].total_cmp(&values[*other]));
        let mut adjusted = values.to_vec();
        let count = values.len();
        match self {
            Self::None => {}
            Self::Holm => {
                let mut most = 0.0_f64;
                for (before, at) in order.into_iter().enumerate() {
                    most = most.max(values[at] * float(count - before)).min(1.0);
                    adjusted[at] = most;
                }
            }
            Self::Bh => {
                let mut least = 1.0_f64;
                for (before, at) in order.into_iter().enumerate().rev() {
                    least = least.min(values[at] * float(count) / float(before + 1));
                    adjusted[at] = least;
                }
            }
        }
        adjusted
    }

    /// What a p-value has to be below for one KPI of `count` to be told from chance, when it is the only one that
    /// has changed.
    #[must_use]
    pub fn hurdle(self, alpha: f64, count: usize) -> f64 {
        match self {
            Self::Holm | Self::Bh => alpha / float(count.max(1)),
            Self::None => alpha,
        }
    }
}
