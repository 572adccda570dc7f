//! Who can dial whom, and who is reached all the same.

mod class;
mod flip;
mod host;
mod matrix;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

fn main() -> ExitCode {
    groundswell_sdk::run(
        Cases::new()
            .manifest(include_str!("../manifest.toml"))
            .case("undialable", matrix::undialable)
            .case("relay-only", matrix::relay_only)
            .case("selective", matrix::selective)
            .case("flip-flop", flip::flip_flop)
            .case("ipv-mismatch", matrix::ipv_mismatch)
            .case("transport-mismatch", matrix::transport_mismatch),
    )
}
