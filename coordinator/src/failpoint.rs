//! Places between two steps where a test may end this process, as `kill -9` does.
//!
//! `GROUNDSWELL_FAILPOINT=name` names one; the process ends when it comes by for the first time. Builds for
//! release have none.

/// Every place, in the order in which a run comes by.
pub const POINTS: [&str; 13] = [
    "submit_stored",
    "submit_kept",
    "place_stored",
    "place_kept",
    "log_made",
    "assign_decided",
    "assign_published",
    "start_kept",
    "start_appended",
    "events_stored",
    "record_stored",
    "log_removed",
    "run_forgotten",
];

/// Ends the process here if a test has asked for it.
pub(crate) fn failpoint(name: &str) {
    debug_assert!(POINTS.contains(&name), "`{name}` is in the list");
    if cfg!(debug_assertions) && std::env::var("GROUNDSWELL_FAILPOINT").is_ok_and(|at| at == name) {
        let _ends = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
    }
}
