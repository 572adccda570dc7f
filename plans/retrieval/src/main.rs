//! From adding a file to reading it elsewhere.
//!
//! Adders put files into their stores and announce them in the DHT. Fetchers
//! know a file's name and nothing else: they look for providers, connect to
//! them, through relays where need be, fetch the blocks, and check them.
//!
//! `rig` brings up the network, `retrieve` is what a user waits for, `cases`
//! what each case does with it.

mod cases;
mod naming;
mod params;
mod popularity;
mod retrieve;
mod rig;

use std::process::ExitCode;

use groundswell_sdk::{Cases, run};

fn main() -> ExitCode {
    run(Cases::new()
        .manifest(include_str!("../manifest.toml"))
        .threads(2)
        .case("add-find-fetch", cases::fetch::one)
        .case("all-want-same", cases::fetch::all_same)
        .case("all-want-different", cases::fetch::all_different)
        .case("provider-behind-nat", cases::nat::run)
        .case("provider-leaves", cases::leaves::run)
        .case("cold-cache", cases::cold::run)
        .case("naming", cases::names::run)
        .case("chew", cases::chew::run))
}
