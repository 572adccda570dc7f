//! What coordinator and worker both use: the vocabulary of a run, and the plumbing of a process.
//!
//! The first half is pure: no IO, no clock, no spawn. The second half holds the thin shells around
//! NATS, the object store and telemetry.

// The vocabulary.
pub mod addresses;
pub mod api;
pub mod builds;
pub mod chance;
pub mod compare;
pub mod composition;
pub mod datasets;
pub mod diagnostic;
mod document;
pub mod duration;
pub mod egress;
pub mod fidelity;
pub mod ids;
pub mod instance_env;
pub mod kpi;
pub mod link;
pub mod manifest;
pub mod messages;
pub mod narrative;
pub mod nat;
pub mod network;
pub mod outcome;
pub mod permissions;
pub mod placement;
pub mod queue;
pub mod quotas;
pub mod run;
pub mod subjects;
pub mod template;
pub mod timing;
pub mod token;
pub mod trust;

// The plumbing.
pub mod bus;
pub mod card;
pub mod chain;
pub mod metrics;
pub mod nats_server;
pub mod objects;
pub mod on_lost;
pub mod outputs;
pub mod sync;
pub mod telemetry;
