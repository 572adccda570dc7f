//! Nothing is left on the host but outputs, however a run ends.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{Composition, Home, LIMIT, control_groups, processes, wait_until};

/// The part of every local worker's name that tells one home from another.
fn worker_of(home: &Home) -> String {
    home.status()["workers"][0].as_str().expect("a worker").to_owned()
}

fn containers(worker: &str) -> String {
    let filter = format!("label=dev.groundswell.worker={worker}");
    let output = Command::new("docker").args(["ps", "-aq", "--filter", &filter]).output();
    String::from_utf8_lossy(&output.expect("docker runs").stdout).trim().to_owned()
}

pub(crate) fn nothing_is_left(home: &Home, worker: &str) {
    let path = home.dir.path().display().to_string();
    wait_until("no process is left", LIMIT, || processes(&path).is_empty());
    wait_until("no control group is left", LIMIT, || control_groups(worker).is_empty());
    assert_eq!(containers(worker), "");
    let mounts = std::fs::read_to_string("/proc/mounts").expect("there");
    assert!(!mounts.contains(&path), "{mounts}");
}

fn stacks(home: &Home) -> usize {
    std::fs::read_dir(home.dir.path().join("stacks")).map_or(0, Iterator::count)
}

#[test]
fn after_a_run_and_after_ctrl_c_nothing_is_left() {
    let home = Home::new();
    home.submit(&Composition::netns("placebo", "ok", 3), &[]).ends_with(0);
    let worker = worker_of(&home);
    nothing_is_left(&home, &worker);
    assert_eq!(stacks(&home), 0);

    let running = home.submit_and_wait_for_running(&Composition::docker("placebo", "stall", 2));
    running.signal(Signal::SIGINT);
    running.finish().ends_with(130);
    nothing_is_left(&home, &worker);
    assert_eq!(stacks(&home), 0);
}

#[test]
fn after_kill_9_of_the_coordinator_the_next_submit_clears_up() {
    let home = Home::new();
    let running = home.submit_and_wait_for_running(&Composition::netns("placebo", "stall", 3));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.finish().code, None);
    let path = home.dir.path().display().to_string();
    wait_until("no process is left", LIMIT, || processes(&path).is_empty());

    home.submit(&Composition::netns("placebo", "ok", 2), &[]).ends_with(0);
    nothing_is_left(&home, &worker_of(&home));
    assert_eq!(stacks(&home), 0);
}
