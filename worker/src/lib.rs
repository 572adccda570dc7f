//! A worker: runs its share of a run's instances on one host.
//!
//! ```text
//! agent        the worker's own life: registers, keeps its desired state, drains
//! heartbeat    says that it is alive, in a task of its own
//! supervisor   one share: prepares, starts, watches, collects, cleans
//! sync         the gateway instances talk to, and the log behind it
//! runtime      makes instances: `docker`, `netns`
//! network      carries packets between instances
//! influx       takes the metrics that SDKs write
//! ```

pub mod influx;
pub mod network;
pub mod runtime;
pub mod sync;

pub use runtime::netns::spawner_main_if_asked;
