//! A stack that stays, and commands that come and go.

use std::os::unix::process::CommandExt as _;

use nix::sys::signal::{Signal, kill};

use crate::harness::{Composition, Home, LIMIT, pid, processes, wait_until};

#[test]
fn runs_are_submitted_watched_and_canceled_from_other_terminals() {
    let home = Home::new();
    let mut up = home.command(&["up"]).process_group(0).spawn().expect("the coordinator runs");
    let is_up = || home.dir.path().join("up.json").is_file();
    wait_until("the stack is up", LIMIT, is_up);

    let ok = home.submit(&Composition::netns("placebo", "ok", 2), &["--detach"]).ends_with(0);
    home.run(&["wait", ok.stdout.trim()]).ends_with(0);

    let stall = home.submit(&Composition::netns("placebo", "stall", 2), &["--detach"]);
    let stall = stall.ends_with(0).stdout.trim().to_owned();
    wait_until("it runs", LIMIT, || home.status()["phase"] == "running");
    home.run(&["wait", "latest", "--timeout", "100ms"]).ends_with(124);

    let attached = home.command(&["attach", &stall]).spawn().expect("the coordinator runs");
    // Whoever leaves does not take the run with them.
    let watcher = home.command(&["attach", &stall[..12]]).spawn().expect("the coordinator runs");
    wait_until("both attach", LIMIT, || processes(&format!("attach {}", &stall[..12])).len() == 2);
    kill(pid(&watcher), Signal::SIGINT).expect("it runs");
    watcher.wait_with_output().expect("it ends");
    assert_eq!(home.status()["phase"], "running");

    home.run(&["cancel", &stall]).ends_with(0);
    let attached = attached.wait_with_output().expect("it ends");
    let seen = String::from_utf8_lossy(&attached.stderr).into_owned();
    assert!(seen.contains("CANCELED"), "{seen}");
    assert_eq!(home.status()["verdict"], "canceled");
    let listed = home.run(&["ls"]).ends_with(0).stdout;
    assert!(listed.contains("passed") && listed.contains("canceled"), "{listed}");

    kill(pid(&up), Signal::SIGINT).expect("it runs");
    assert_eq!(up.wait().expect("it ends").code(), Some(0));
    let path = home.dir.path().display().to_string();
    wait_until("no process is left", LIMIT, || processes(&path).is_empty());
    assert!(!is_up());
    home.run(&["status", &stall]).ends_with(0);
}
