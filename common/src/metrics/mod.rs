//! Metrics on their way out: to a store with InfluxDB's interface, and to whoever asks for Prometheus text.
//!
//! ```text
//! Point, lines of instances ──► Shipper ──► queue ──► ship ──► Store ──► POST /api/v2/write
//!                                  │ full: the oldest go        │ later: tried again; refused: given up
//!                                  └────────── Losses of a run ◄┘
//! registry ◄── GET /metrics
//! ```
//! Nobody ever waits for a metric. What the store does not take is counted by reason, and told.

pub mod config;
pub mod line;
pub mod loss;
pub mod point;
mod queue;
pub mod scrape;
mod ship;
mod shipper;
mod store;

pub use config::{MetricsConfig, MetricsError, MetricsSection};
pub use loss::{Losses, Reason};
pub use point::{Point, Unencodable, Value};
pub use shipper::{Limits, Shipper, Shipping, Totals};
pub use store::check;
