//! How a whole distribution moved: from which quantile on instances are slower, and by how much.
//!
//! This describes the runs at hand. Instances of a run share a network, so their number is no evidence, and there is
//! no p-value here.

use serde::{Deserialize, Serialize};

use crate::kpi::Distribution;

/// The quantiles that are told.
pub const QUANTILES: [f64; 9] = [0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99];

/// A quantile of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuantileShift {
    /// The share of values that are not greater.
    pub q: f64,
    /// The value on the first side.
    pub a: f64,
    /// The value on the second side.
    pub b: f64,
}

/// The quantiles of both; none where one of them has no values.
#[must_use]
pub fn quantile_shifts(a: &Distribution, b: &Distribution) -> Vec<QuantileShift> {
    let shift = |q| Some(QuantileShift { q, a: a.quantile(q)?, b: b.quantile(q)? });
    QUANTILES.into_iter().filter_map(shift).collect()
}
