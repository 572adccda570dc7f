//! Workers that are killed or cut off, for less and for more than their lease.

use std::time::Duration;

use tokio::time::sleep;

use super::lab::{Lab, Setup};

/// A twelfth: a worker kills its instances after seven and a half seconds of silence and is lost after ten.
const FASTER: u32 = 12;
const LONG: &str = "run = { test_params = { rounds = \"150\", pause_ms = \"100\" } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_and_stays_away_is_infrastructure_and_leaves_nothing() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run(LONG, "");
    lab.kill_worker(1);
    let status = lab.ended(running, "infra");
    assert_eq!(status["groups"][0][1]["lost"], 2, "{status:#}");
    lab.until_gone(1);
    lab.note("worker killed, stays away", "infra");

    // What is left of the cluster takes the next run.
    lab.start_worker(1);
    lab.until_ready(4);
    lab.ended(lab.submit("", ""), "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_run_that_is_to_be_tried_again_passes_on_the_workers_that_are_left() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run(LONG, "on_lost = \"retry_run(1)\"\nplacement = { per_worker = 3 }");
    lab.kill_worker(1);
    let status = lab.ended(running, "passed");
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(3), "{status:#}");
    lab.until_gone(1);
    lab.note("worker killed, stays away, `on_lost = \"retry_run(1)\"`", "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_worker_that_is_cut_off_for_less_than_its_lease_is_waited_for() {
    let lab = Lab::start(Setup::faster(4)).await;
    for seconds in [5, 15] {
        let running = lab.run(LONG, "");
        lab.wire_worker(2, false);
        sleep(Duration::from_secs(seconds)).await;
        lab.wire_worker(2, true);
        lab.ended(running, "passed");
        lab.note(&format!("worker cut off for {seconds} s of a lease of 22 s"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_worker_that_comes_back_within_its_lease_finds_instances_that_do_not_connect_again_lost()
{
    let mut lab = Lab::start(Setup::faster(4)).await;
    let running = lab.run(LONG, "");
    lab.kill_worker(3);
    sleep(Duration::from_secs(3)).await;
    lab.start_worker(3);
    // The plan's SDK does not connect again; `adoption` has instances that do, and go on.
    lab.ended(running, "infra");
    lab.note("worker killed, back after 3 s of a lease of 22 s", "infra");
}

/// The only one with the lease of production.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_worker_that_is_cut_off_for_a_minute_is_waited_for_in_production() {
    let lab = Lab::start(Setup::faster(1)).await;
    let running = lab.run("run = { test_params = { rounds = \"50\", pause_ms = \"100\" } }", "");
    lab.wire_worker(2, false);
    sleep(Duration::from_secs(60)).await;
    lab.wire_worker(2, true);
    lab.ended(running, "passed");
    lab.note("worker cut off for 60 s, the lease of production", "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_worker_that_is_cut_off_for_longer_has_killed_its_instances_before_they_are_lost() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run(LONG, "");
    lab.wire_worker(2, false);
    sleep(Duration::from_secs(15)).await;
    lab.wire_worker(2, true);
    lab.ended(running, "infra");
    lab.note("worker cut off for longer than its lease", "infra");
    lab.until_ready(4);
    lab.ended(lab.submit("", ""), "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_clock_that_is_an_hour_off_changes_nothing() {
    let library = ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"];
    let library = library.iter().find(|path| std::path::Path::new(path).exists());
    let library = *library.expect("faketime: apt-get install faketime");
    let mut lab = Lab::start(Setup::faster(4)).await;
    lab.kill_worker(0);
    lab.until_gone(0);
    lab.home.variables.push(("LD_PRELOAD".to_owned(), library.to_owned()));
    lab.home.variables.push(("FAKETIME".to_owned(), "+1h".to_owned()));
    lab.home.variables.push(("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()));
    lab.start_worker(0);
    let replaced = lab.leader();
    lab.replace_coordinator(replaced);
    let variables = lab.home.variables.len() - 3;
    lab.home.variables.truncate(variables);
    lab.until_ready(4);
    let running = lab.run(LONG, "");
    let replaced = lab.leader();
    lab.replace_coordinator(replaced);
    lab.ended(running, "passed");
    lab.note("a worker and a coordinator with clocks an hour off, and fail-over", "passed");
}
