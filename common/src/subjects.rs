//! Every NATS name Groundswell uses, in one place.
//!
//! ```text
//! GS_ASSIGN  gs.v1.assign.<worker>      stream, last kept   coordinator -> worker
//!            gs.v1.assigned.<worker>    republished copy    server      -> worker
//!            gs.v1.register.<worker>    request, reply      worker      -> coordinator
//!            gs.v1.heartbeat.<worker>   request, reply      worker      -> coordinator
//!            gs.v1.report.<worker>      request, reply      worker      -> coordinator
//!            gs.v1.claim.<worker>       request, reply      worker      -> coordinator
//!            gs.v1.address.<worker>     request, reply      coordinator -> worker
//!            gs.v1.api.<call>           request, reply      command line -> coordinator
//!            gs.v1.status.<run>         core                coordinator -> whoever watches
//!            gs.v1.event.<run>          core                worker, coordinator -> whoever watches
//!            gs.v1.log.<run>.<instance> core                worker      -> whoever watches
//! gs_ctl     $KV.gs_ctl.<key>           KV                  coordinators only, compare-and-set
//! gs_sync_<run>_<attempt>               KV                  the sync log of one attempt
//!            gs.v1.sync.<run>.<attempt>.> republished copy  server      -> worker
//! ```
//!
//! The coordinator creates streams and buckets; workers only bind to them. Nobody makes consumers.

use crate::ids::{Attempt, InstanceId, RunId, WorkerId};

/// The stream that holds each worker's assignments.
pub const ASSIGN_STREAM: &str = "GS_ASSIGN";
/// The bucket of the coordinators' control state.
pub const CONTROL_BUCKET: &str = "gs_ctl";
/// What the assignment stream stores.
pub const ASSIGN_ALL: &str = "gs.v1.assign.>";
/// Where the server republishes what the assignment stream stores.
pub const ASSIGNED_ALL: &str = "gs.v1.assigned.>";
/// Every worker's registrations.
pub const REGISTER_ALL: &str = "gs.v1.register.*";
/// Every worker's heartbeats.
pub const HEARTBEAT_ALL: &str = "gs.v1.heartbeat.*";
/// Every worker's reports.
pub const REPORT_ALL: &str = "gs.v1.report.*";
/// Every worker's claims of addresses.
pub const CLAIM_ALL: &str = "gs.v1.claim.*";
/// The states of all runs.
pub const STATUS_ALL: &str = "gs.v1.status.*";
/// Every call of the command line.
pub const API_ALL: &str = "gs.v1.api.*";

/// Subject that holds the assignments of `worker`.
#[must_use]
pub fn assign(worker: &WorkerId) -> String {
    format!("gs.v1.assign.{worker}")
}

/// Subject on which `worker` hears of a new assignment message.
#[must_use]
pub fn assigned(worker: &WorkerId) -> String {
    format!("gs.v1.assigned.{worker}")
}

/// Subject on which `worker` registers.
#[must_use]
pub fn register(worker: &WorkerId) -> String {
    format!("gs.v1.register.{worker}")
}

/// Subject of the heartbeats of `worker`.
#[must_use]
pub fn heartbeat(worker: &WorkerId) -> String {
    format!("gs.v1.heartbeat.{worker}")
}

/// Subject of the reports of `worker`.
#[must_use]
pub fn report(worker: &WorkerId) -> String {
    format!("gs.v1.report.{worker}")
}

/// Subject on which `worker` claims addresses for its instances.
#[must_use]
pub fn claim(worker: &WorkerId) -> String {
    format!("gs.v1.claim.{worker}")
}

/// Subject on which `worker` hears of new addresses of other workers' instances.
#[must_use]
pub fn address(worker: &WorkerId) -> String {
    format!("gs.v1.address.{worker}")
}

/// Subject of one call of the command line, `submit` for example.
#[must_use]
pub fn api(call: &str) -> String {
    format!("gs.v1.api.{call}")
}

/// Subject on which the state of `run` is told, whole, at each change.
#[must_use]
pub fn status(run: &RunId) -> String {
    format!("gs.v1.status.{run}")
}

/// Subject of the events of `run`.
#[must_use]
pub fn event(run: &RunId) -> String {
    format!("gs.v1.event.{run}")
}

/// Subject of the live log lines of one instance.
#[must_use]
pub fn log(run: &RunId, instance: InstanceId) -> String {
    format!("gs.v1.log.{run}.{instance}")
}

/// Subject of the live log lines of all instances of `run`.
#[must_use]
pub fn log_all(run: &RunId) -> String {
    format!("gs.v1.log.{run}.*")
}

/// Bucket of the sync log of one attempt of a run.
#[must_use]
pub fn sync_bucket(run: &RunId, attempt: Attempt) -> String {
    format!("gs_sync_{run}_{attempt}")
}

/// Prefix, without its final dot, under which the server republishes the sync log of one attempt.
#[must_use]
pub fn sync_republished(run: &RunId, attempt: Attempt) -> String {
    format!("gs.v1.sync.{run}.{attempt}")
}
