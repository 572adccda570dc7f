//! What a run measured, what was expected of it, and whether the machines can be believed.
//!
//! ```text
//! lines of instances ─reader─► SeriesSet (per share) ─merge─► SeriesSet (run) ─judge─► Judgement
//! manifest, composition ─resolve─► Judging ───────────────────────────────────────┘
//! ```
//! Values are merged without loss: a percentile of a run is that of all its values, and not one of percentiles. Pure.

pub mod declare;
pub mod distribution;
pub mod judge;
pub mod lines;
mod read;
pub mod reader;
mod resolve;
pub mod series;
pub mod unit;
pub mod validity;

pub use declare::{Better, Expectation, KpiSpec, Op, Scope, Stat};
pub use distribution::Distribution;
pub use judge::{GateState, Judged, JudgedGate, Judgement, KpiRow, Measured, State};
pub(crate) use read::{Change, changes, declarations};
pub use reader::Reader;
pub use resolve::{Check, Judging};
pub(crate) use resolve::{Wishes, resolve};
pub use series::{HostLoad, KpiReport, Series, SeriesKey, SeriesSet};
pub(crate) use validity::read as gate_limits;
pub use validity::{GateLimits, Gates};
