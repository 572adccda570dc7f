//! A stack that stays, and commands that come and go.

use crate::harness::{BUILD_LIMIT, Composition, Home, LIMIT, processes, wait_until};

#[test]
fn runs_are_submitted_watched_and_canceled_from_other_terminals() {
    let home = Home::new();
    let up = home.start(&["up"]);
    up.until("up: 1 worker");

    let ok = home.submit(&Composition::netns("placebo", "ok", 2), &["--detach"]).ends_with(0);
    home.run(&["wait", ok.stdout.trim()]).ends_with(0);

    let stall = home.submit(&Composition::netns("placebo", "stall", 2), &["--detach"]);
    let stall = stall.ends_with(0).stdout.trim().to_owned();
    wait_until("it runs", BUILD_LIMIT, || home.status()["phase"] == "running");
    home.run(&["wait", "latest", "--timeout", "100ms"]).ends_with(124);

    let attached = home.start(&["attach", &stall]);
    attached.until("watching");
    // Whoever leaves does not take the run with them.
    let watcher = home.start(&["attach", &stall[..12]]);
    watcher.until("watching");
    watcher.ctrl_c();
    watcher.finish().ends_with(0).says("goes on");
    assert_eq!(home.status()["phase"], "running");

    home.run(&["cancel", &stall]).ends_with(0);
    attached.finish().says("CANCELED");
    assert_eq!(home.status()["verdict"], "canceled");
    let listed = home.run(&["ls"]).ends_with(0).stdout;
    assert!(listed.contains("passed") && listed.contains("canceled"), "{listed}");

    up.ctrl_c();
    up.finish().ends_with(0);
    let path = home.dir.path().display().to_string();
    wait_until("no process is left", LIMIT, || processes(&path).is_empty());
    assert!(!home.dir.path().join("up.json").exists());
    home.run(&["status", &stall]).ends_with(0);
}
