//! Servers of NATS that are killed, stopped, cut off, and that lose what they have stored.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::lab::{Lab, Setup};

/// A third of the usual intervals: an election of NATS takes up to ten seconds, and a worker gives up after thirty.
const FASTER: u32 = 3;
/// Long enough for a fault and its end.
const LONG: &str = "run = { test_params = { rounds = \"120\", pause_ms = \"100\" } }";

async fn pause(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_of_three_is_killed_and_comes_back() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    for number in 0..3 {
        let running = lab.run(LONG, "");
        lab.kill_server(number);
        pause(5).await;
        lab.start_server(number).await;
        lab.ended(running, "passed");
        lab.note(&format!("NATS server {number} of 3 killed, back after 5 s"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn one_server_is_stopped_and_goes_on_with_old_news() {
    let lab = Lab::start(Setup::faster(FASTER)).await;
    for number in 0..3 {
        let running = lab.run(LONG, "");
        lab.signal_server(number, Signal::SIGSTOP);
        pause(6).await;
        lab.signal_server(number, Signal::SIGCONT);
        lab.ended(running, "passed");
        lab.note(&format!("NATS server {number} of 3 stopped for 6 s"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn one_server_is_cut_off_from_everybody() {
    let lab = Lab::start(Setup::faster(FASTER)).await;
    for number in 0..3 {
        let running = lab.run(LONG, "");
        lab.wire_server(number, false);
        pause(10).await;
        lab.wire_server(number, true);
        lab.ended(running, "passed");
        lab.note(&format!("NATS server {number} of 3 cut off for 10 s"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn two_servers_and_then_all_are_killed_and_come_back() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    for (killed, away) in [(vec![0, 1], 8), (vec![0, 1, 2], 3)] {
        let running = lab.run(LONG, "");
        for number in &killed {
            lab.kill_server(*number);
        }
        pause(away).await;
        for number in &killed {
            lab.start_server(*number).await;
        }
        lab.ended(running, "passed");
        let many = killed.len();
        lab.note(&format!("{many} of 3 NATS servers killed, back after {away} s"), "passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn a_server_whose_blocks_have_flipped_bits_takes_nothing_with_it() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run(LONG, "");
    lab.kill_server(2);
    let flipped = lab.flip(2);
    assert!(flipped > 0, "it has block files");
    lab.start_server(2).await;
    lab.ended(running, "passed");
    lab.note("NATS server killed, a bit flipped in each of its block files, back", "passed");
    // What comes later works as well.
    lab.ended(lab.submit("", ""), "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn what_all_servers_have_forgotten_is_never_a_pass_or_a_failure() {
    let mut lab = Lab::start(Setup::faster(FASTER)).await;
    let running = lab.run(LONG, "");
    for number in 0..3 {
        lab.kill_server(number);
        lab.wipe(number);
    }
    for number in 0..3 {
        lab.start_server(number).await;
    }
    lab.bootstrap();
    let ran = running.finish();
    assert!(!matches!(ran.code, Some(0 | 10)), "{:?}\n{}", ran.code, ran.stderr);
    let code = ran.code.unwrap_or(-1);
    let came = format!("coordinators refuse until `--bootstrap`; exit code {code}");
    lab.note("all NATS servers killed and their data wiped", &came);
    lab.until_ready(4);
    lab.ended(lab.submit("", ""), "passed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn disks_that_are_full_hold_a_run_up_and_do_not_fail_it() {
    let mut lab = Lab::start(Setup { small_disks: true, ..Setup::faster(FASTER) }).await;
    let running = lab.run(LONG, "");
    for number in 0..3 {
        lab.fill(number, true);
    }
    pause(5).await;
    // What the server's authors advise: make room, then start it again.
    for number in 0..3 {
        lab.fill(number, false);
        lab.kill_server(number);
        lab.start_server(number).await;
    }
    let ran = running.finish();
    assert!(matches!(ran.code, Some(0 | 20)), "{:?}\n{}", ran.code, ran.stderr);
    let came = if ran.code == Some(0) { "passed" } else { "infra" };
    lab.note("disks of all NATS servers full for 5 s, then room and a restart", came);
    lab.until_ready(4);
    lab.ended(lab.submit("", ""), "passed");
}
