//! How large a difference is beside the differences within each side.

use serde::{Deserialize, Serialize};

use super::ranks::float;

/// Cliff's delta: how much more often a run of the second side is above one of the first than below it, from -1 to 1.
/// None when one of them is empty.
#[must_use]
pub fn cliff(a: &[f64], b: &[f64]) -> Option<f64> {
    let pairs = || b.iter().flat_map(|to| a.iter().map(move |from| (from, to)));
    let above = pairs().filter(|(from, to)| to > from).count();
    let below = pairs().filter(|(from, to)| to < from).count();
    let all = a.len() * b.len();
    (all > 0).then(|| (float(above) - float(below)) / float(all))
}

/// What people call an effect of that size. The bounds are those of Romano and others (2006).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// Below 0.147.
    Negligible,
    /// Below 0.33.
    Small,
    /// Below 0.474.
    Medium,
    /// From there on.
    Large,
}

impl Size {
    /// The size of a delta, whatever its direction.
    #[must_use]
    pub fn of(delta: f64) -> Self {
        match delta.abs() {
            size if size < 0.147 => Self::Negligible,
            size if size < 0.33 => Self::Small,
            size if size < 0.474 => Self::Medium,
            _ => Self::Large,
        }
    }

    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Negligible => "negligible",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}
