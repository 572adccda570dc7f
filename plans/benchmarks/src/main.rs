//! How fast the test bed itself is: starting, configuring the network, barriers, topics, connections, metrics.
//!
//! The cases, parameters and KPIs have the names they had in Testground's plan `benchmarks`.

mod barrier;
mod begin;
mod flood;
mod herd;
mod network;
mod startup;
mod storm;
mod subtree;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

fn main() -> ExitCode {
    begin::note();
    groundswell_sdk::run(
        Cases::new()
            .manifest(include_str!("../manifest.toml"))
            .case("startup", startup::startup)
            .case("netinit", network::netinit)
            .case("netlinkshape", network::netlinkshape)
            .case("barrier", barrier::barrier)
            .case("subtree", subtree::subtree)
            .case("storm", storm::storm)
            .case("pubsub-herd", herd::pubsub_herd)
            .case("metrics-flood", flood::metrics_flood),
    )
}
