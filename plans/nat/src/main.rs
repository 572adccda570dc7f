//! Peers behind NATs: what they find out about themselves, whom they reach through relays, and when they get through
//! to each other directly.

mod capacity;
mod failover;
mod host;
mod pairs;
mod punch;
mod relay_only;
mod routing;
mod same_nat;
mod theory;
mod verdict;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

fn main() -> ExitCode {
    groundswell_sdk::run(
        Cases::new()
            .manifest(include_str!("../manifest.toml"))
            .case("autonat-verdict", verdict::autonat_verdict)
            .case("hole-punch", punch::hole_punch)
            .case("same-nat", same_nat::same_nat)
            .case("relay-only", relay_only::relay_only)
            .case("relay-capacity", capacity::relay_capacity)
            .case("relay-failover", failover::relay_failover)
            .case("peer-routing", routing::peer_routing),
    )
}
