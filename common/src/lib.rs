//! What coordinator and worker both use: the vocabulary of a run, and the plumbing of a process.
//!
//! The first half is pure: no IO, no clock, no spawn. The second half holds the thin shells around
//! NATS, the object store and telemetry.

// The vocabulary.
pub mod api;
pub mod duration;
pub mod ids;
pub mod link;
pub mod messages;
pub mod outcome;
pub mod run;
pub mod subjects;
pub mod timing;

// The plumbing.
pub mod bus;
pub mod chain;
pub mod nats_server;
pub mod objects;
pub mod outputs;
pub mod sync;
pub mod telemetry;
