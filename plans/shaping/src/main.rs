//! Whether the network is what it was asked to be.

mod chance;
mod change;
mod counters;
mod delay;
mod goodput;
mod party;
mod ping;
mod rate;
mod stream;
mod theory;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

fn main() -> ExitCode {
    groundswell_sdk::run(
        Cases::new()
            .manifest(include_str!("../manifest.toml"))
            .case("ping-pong", delay::ping_pong)
            .case("verify-latency", delay::verify_latency)
            .case("verify-jitter", delay::verify_jitter)
            .case("verify-bandwidth", rate::verify_bandwidth)
            .case("asymmetric", rate::asymmetric)
            .case("verify-loss", chance::verify_loss)
            .case("corrupt", chance::corrupt)
            .case("duplicate", chance::duplicate)
            .case("reorder", chance::reorder)
            .case("per-subnet-rules", change::per_subnet_rules)
            .case("address-change", change::address_change)
            .case("reconfigure-storm", change::reconfigure_storm),
    )
}
