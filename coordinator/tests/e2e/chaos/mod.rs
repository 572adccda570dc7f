//! Chaos: a whole cluster, each machine on a host of its own, and something of it that breaks under a run.
//!
//! Three servers of NATS, two coordinators and four workers. The run is `barrier/ledger`, whose instances check
//! themselves that nothing acknowledged is lost, doubled or in another order: that is what `passed` means here.
//! `make chaos` runs everything one after the other and prints the table of docs/reliability.md.

mod control;
mod engine;
mod lab;
mod nats;
mod storage;
mod workers;
