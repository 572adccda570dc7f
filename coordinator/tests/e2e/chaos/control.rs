//! Coordinators that are killed or stopped, wherever their run is.

use std::time::Duration;

use groundswell_coordinator::failpoint;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::lab::{Lab, Setup};

const FASTER: u32 = 5;
const SOME: &str = "run = { test_params = { rounds = \"60\", pause_ms = \"50\" } }";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn the_leader_is_killed_in_each_phase() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    for phase in ["submitted", "reserved", "preparing", "starting", "running", "collecting"] {
        let leader = lab.leader();
        let running = lab.submit(SOME, "");
        running.until(&format!("phase={phase}"));
        lab.replace_coordinator(leader);
        lab.ended(running, "passed");
        lab.note(&format!("leading coordinator killed while {phase}"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn the_leader_is_killed_between_any_two_steps() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    for point in failpoint::POINTS {
        let doomed = lab.doom_leader(point);
        let running = lab.submit(SOME, "");
        lab.revive(doomed);
        lab.ended(running, "passed");
        lab.note(&format!("leading coordinator killed at `{point}`"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn both_coordinators_are_killed_and_one_comes_back() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run(SOME, "");
    lab.replace_coordinator(0);
    lab.replace_coordinator(1);
    lab.ended(running, "passed");
    lab.note("both coordinators killed and started again", "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn the_leader_is_stopped_and_finds_another_when_it_goes_on() {
    let lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run("run = { test_params = { rounds = \"200\", pause_ms = \"100\" } }", "");
    let leader = lab.leader();
    lab.signal_coordinator(leader, Signal::SIGSTOP);
    assert_ne!(lab.leader(), leader, "the standby leads");
    lab.signal_coordinator(leader, Signal::SIGCONT);
    sleep(Duration::from_secs(2)).await;
    assert_ne!(lab.leader(), leader, "it does not lead again");
    lab.ended(running, "passed");
    lab.note("leading coordinator stopped until another leads, then continued", "passed");
}
