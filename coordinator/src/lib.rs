//! Plans runs, assigns instances to workers, reports.
//!
//! ```text
//! run, placement, queue, workers, directory   decide; pure, time is an argument
//! build                                from a plan's source to an image in the object store
//! parts                                what a run needs before it can be placed, and its sync log
//! points                               what of a run goes to the store for metrics; pure
//! ledger, assignments, record          one thin shell per place where something is kept
//! baselines, datasets                  what people keep in the object store by name
//! failpoint                            where a test may end the process
//! service                              the one task that owns all state, and the effects around it
//! ```

pub mod assignments;
pub mod baselines;
pub mod build;
pub mod config;
pub mod datasets;
pub mod directory;
pub mod events;
pub mod failpoint;
pub mod http;
pub mod ledger;
pub mod parts;
pub mod placement;
pub mod points;
pub mod queue;
pub mod record;
pub mod replay;
pub mod run;
pub mod service;
pub mod subnets;
pub mod tokens;
pub mod workers;
