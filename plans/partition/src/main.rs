//! Networks that are split, and that come together again.

mod dial;
mod split;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

fn main() -> ExitCode {
    groundswell_sdk::run(
        Cases::new()
            .manifest(include_str!("../manifest.toml"))
            .case("accept", split::accept)
            .case("reject", split::reject)
            .case("drop", split::drop_silently)
            .case("asymmetric", split::asymmetric)
            .case("heal", split::heal)
            .case("flapping", split::flapping),
    )
}
