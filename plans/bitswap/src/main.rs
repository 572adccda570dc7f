//! Spreading blocks from those who have them to those who want them.
//!
//! Every case brings up a node with Bitswap in each instance, connects seeds
//! and leeches, and runs rounds: in each the seeds make a file that nobody has
//! seen before and the leeches fetch it. What comes is checked byte by byte.
//!
//! `rig` is what an instance is made of, `round` what all cases do in a round,
//! `cases` what each does differently.

mod cases;
mod kpi;
mod params;
mod rig;
mod round;

use std::process::ExitCode;

use groundswell_sdk::{Cases, run};

fn main() -> ExitCode {
    run(Cases::new()
        .manifest(include_str!("../manifest.toml"))
        .threads(2)
        .case("transfer", cases::transfer::same)
        .case("transfer-different", cases::transfer::different)
        .case("spread", cases::spread::run)
        .case("seed-selection", cases::selection::run)
        .case("version-compat", cases::compat::run)
        .case("waves", cases::waves::run)
        .case("sparse", cases::sparse::run)
        .case("gc-while-transferring", cases::gc::run)
        .case("fuzz", cases::fuzz::run)
        .case("rarest-missing", cases::rarest::run))
}
