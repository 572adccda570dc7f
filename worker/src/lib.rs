//! A worker: runs its share of a run's instances on one host.
//!
//! ```text
//! agent        the worker's own life: registers, keeps its desired state, drains
//! heartbeat    says that it is alive, in a task of its own
//! rig          how the worker is doing, for whoever asks
//! report       tells the coordinator what happened, in order, at least once
//! supervisor   one share: prepares, starts, watches, collects, cleans
//! instance     how one instance ends (pure)
//! logs events outputs images    what instances print, do, leave, and are made from
//! reap         what an earlier life has left
//! keep         disks, images, and what nothing explains any more
//! trees        directories that instances have filled
//! measure      what this host can do
//! clean doctor card  what people ask of a worker besides running it
//! parts        what all of this is wrapped around, and the seams
//! sync         the gateway instances talk to, and the log behind it
//! runtime      makes instances: `docker`, `netns`
//! network      carries packets between instances
//! names        tells instances each other's addresses
//! influx       takes the metrics that SDKs write, keeps them and sends them on
//! ```

pub mod agent;
pub mod config;
pub mod doctor;
pub mod influx;
pub mod network;
pub mod parts;
pub mod runtime;
pub mod sync;

pub mod card;
pub mod clean;
pub mod keep;
pub mod measure;

mod datasets;
mod events;
mod heartbeat;
mod images;
mod instance;
pub mod keeper;
mod kpis;
mod logs;
pub mod names;
mod outputs;
mod reap;
mod report;
mod rig;
mod supervisor;
mod trees;

pub use runtime::netns::spawner_main_if_asked;
