//! Every way an instance can end gets the right outcome and the right reason.

use crate::harness::{Composition, Home};

fn failed(case: &'static str) -> String {
    let home = Home::new();
    let flags = ["--timeout", "60s"];
    home.submit(&Composition::netns("placebo", case, 2), &flags).ends_with(10).stderr
}

#[track_caller]
fn says(text: &str, part: &str) {
    assert!(text.contains(part), "not there: {part}\n{text}");
}

#[test]
fn an_exit_code_decides_nothing() {
    let home = Home::new();
    home.submit(&Composition::netns("placebo", "exit-code", 2), &[]).ends_with(0);
}

#[test]
fn a_silent_plan_fails_whatever_it_prints() {
    says(&failed("silent"), "ended without outcome, exit code 0");
}

#[test]
fn a_failure_says_why_and_beats_a_success() {
    says(&failed("fail"), "asked to fail");
    says(&failed("contradict"), "first a failure");
}

#[test]
fn a_panic_and_a_signal_are_told_apart() {
    let panicked = failed("panic");
    says(&panicked, "exit code 101");
    says(&panicked, "asked to panic");
    says(&failed("kill"), "killed by signal 6");
}

#[test]
fn out_of_memory_is_called_that() {
    let home = Home::new();
    let mut composition = Composition::netns("placebo", "oom", 1);
    composition.group = "resources = { memory = \"64Mi\" }";
    home.submit(&composition, &[]).ends_with(10).says("out of memory");
    composition.runner = "docker";
    home.submit(&composition, &[]).ends_with(10).says("out of memory");
}

#[test]
fn a_stalled_run_ends_at_its_time_limit_and_says_who_was_missing() {
    let home = Home::new();
    let ran = home
        .submit(&Composition::netns("placebo", "stall", 3), &["--timeout", "3s"])
        .ends_with(21)
        .says("run canceled after reaching the task timeout");
    says(&ran.stderr, "never");
    let status = home.status();
    assert_eq!(status["verdict"], "timed_out");
    let stdout = home.run(&["logs", "latest"]).ends_with(0).stdout;
    says(&stdout, "claimed sequence numbers");
}

#[test]
fn ctrl_c_ends_a_run_and_keeps_what_is_there() {
    let home = Home::new();
    let running = home.submit_and_wait_for_running(&Composition::netns("placebo", "stall", 2));
    running.ctrl_c();
    running.finish().ends_with(130);
    assert_eq!(home.status()["verdict"], "canceled");
    says(&home.run(&["logs", "latest"]).ends_with(0).stdout, "network-initialized");
}
