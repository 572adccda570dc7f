//! What an instance may rely on, and how each of its endings is told.

mod artifact;
mod ending;
mod flood;
mod leak;
mod metrics;
mod params;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

fn main() -> ExitCode {
    // The processes that `fork-leak` leaves behind are this program, too.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(left_behind) = leak::LeftBehind::parse(&arguments) {
        return left_behind.live();
    }
    let code = groundswell_sdk::run(
        Cases::new()
            .manifest(include_str!("../manifest.toml"))
            .case("params", params::echo)
            .case("artifact", artifact::write)
            .case("log-flood", flood::print)
            .case("metrics", metrics::record)
            .case("fork-leak", leak::leave_processes)
            .case(ending::EXIT_NONZERO, ending::succeed)
            .case("silent-exit", ending::exit_silently)
            .case("oom", ending::take_all_memory)
            .case("stall", ending::stall)
            .case("panic", ending::panic)
            .case("abort", ending::abort),
    );
    ending::exit_code(code)
}
