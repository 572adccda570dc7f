//! Finding peers, providers and values in a Kademlia network.
//!
//! Every case brings up a network of all instances, lets it settle, has those
//! with the role for it search, and compares what they find with what is known
//! from the seed.

mod cases;
mod search;
mod summary;

use std::process::ExitCode;

use groundswell_sdk::{Cases, run};

fn main() -> ExitCode {
    run(Cases::new()
        .manifest(include_str!("../manifest.toml"))
        .case("bootstrap-network", cases::bootstrap::run)
        .case("find-peers", cases::peers::run)
        .case("find-providers", cases::providers::run)
        .case("get-closest-peers", cases::closest::run)
        .case("put-get-value", cases::values::run)
        .case("provide-stress", cases::stress::run)
        .case("newcomers", cases::newcomers::run)
        .case("lookup-under-load", cases::load::run)
        .case("client-modes", cases::client_modes::run))
}
