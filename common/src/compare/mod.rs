//! Whether runs differ, by how much, and whether that is more than chance.
//!
//! ```text
//! runs of A, runs of B ─judge─► Comparison: a finding for each KPI
//!        design  which test so many runs are for, and what it can tell at all
//!        ranks   Mann and Whitney, Wilcoxon        welch  for three runs      range  for a single one
//!        shift   by how much                       effect, power, correction
//! a series of runs ─changes─► where it changed for good
//! ```
//! The unit is the run: instances of one share its network and its hosts, so a thousand of them say less about the
//! next run than five runs do. Pure.

pub mod changes;
pub mod comparison;
pub mod correction;
pub mod design;
pub mod effect;
pub mod judge;
pub mod outlook;
pub mod power;
pub mod quantiles;
pub mod range;
pub mod ranks;
pub mod shift;
mod tails;
pub mod welch;

pub use changes::{Change, changes};
pub use comparison::{ComparedKpi, ComparedRun, Comparison, Finding, Row, Rules, Side};
pub use correction::Correction;
pub use design::{Demand, Design, Method, Pairing, enough};
pub use judge::compare;
pub use outlook::{Outlook, least_seen};

#[cfg(test)]
mod golden_tests;
