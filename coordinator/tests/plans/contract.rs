//! The runner's own contract: what an instance gets and leaves arrives unchanged, and each ending is told as what it is.

use std::sync::PoisonError;

use sha2::{Digest as _, Sha256};

use crate::{Home, TURN, passes, plans};

/// Runs a composition that ends badly, as it should.
fn fails(composition: &str, code: i32, why: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let file = plans().join("contract/_compositions").join(composition);
    let (ended, said) = Home::new().submit(&file, &[]);
    assert_eq!(ended, Some(code), "{composition}:\n{said}");
    assert!(said.contains(why), "{composition}: not there: {why}\n{said}");
}

/// A file that an instance of the home's last run left.
fn file(home: &Home, path: &str) -> Vec<u8> {
    let collected = home.coordinator().args(["collect", "latest", "--file", path]).output();
    let collected = collected.expect("the coordinator runs");
    let said = String::from_utf8_lossy(&collected.stderr);
    assert!(collected.status.success(), "{path}: {}\n{said}", collected.status);
    collected.stdout
}

#[test]
fn parameters_arrive_as_they_were_written() {
    passes("contract", "smoke.toml");
}

#[test]
fn outputs_come_back_byte_by_byte() {
    let home = passes("contract", "smoke-artifact.toml");
    let artifact = file(&home, "all/0/artifact.bin");
    assert_eq!(artifact.len(), 64_000_000);
    let digest: String =
        Sha256::digest(&artifact).iter().map(|byte| format!("{byte:02x}")).collect();
    let written = file(&home, "all/0/artifact.sha256");
    assert_eq!(String::from_utf8_lossy(&written), format!("{digest}  artifact.bin\n"));
}

#[test]
fn every_line_is_kept_in_its_place() {
    let home = passes("contract", "smoke-log-flood.toml");
    for log in ["all/0/stdout.log", "all/0/stderr.log"] {
        let text = String::from_utf8(file(&home, log)).expect("text");
        let numbers = text.lines().filter_map(|line| line.strip_prefix("flood "));
        let numbers = numbers.map(|rest| rest.split(' ').next().expect("a word"));
        let wrong =
            numbers.clone().enumerate().find(|(place, number)| *number != place.to_string());
        assert_eq!(wrong, None, "{log}");
        assert_eq!(numbers.count(), 100_000, "{log}");
    }
}

#[test]
fn millions_of_values_add_up() {
    passes("contract", "smoke-metrics.toml");
}

#[test]
fn an_exit_code_decides_nothing() {
    passes("contract", "smoke-exit-nonzero.toml");
}

#[test]
fn processes_that_do_not_want_to_end_are_ended() {
    let home = passes("contract", "smoke-fork-leak.toml");
    let status: serde_json::Value = serde_json::from_str(&home.status()).expect("JSON");
    let run = status[0]["run"].as_str().expect("the run's id");
    let told = file(&home, "all/1/left-behind-3");
    assert!(!told.is_empty(), "the last process was there");
    // They have the run's id among their arguments.
    let left: Vec<String> = std::fs::read_dir("/proc")
        .expect("there")
        .flatten()
        .map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("--left-behind") && line.contains(run))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn each_bad_end_is_told_as_what_it_is() {
    fails("fails-silent-exit.toml", 10, "ended without outcome, exit code 0");
    fails("fails-oom.toml", 10, "out of memory");
    fails("fails-panic.toml", 10, "asked to panic");
    fails("fails-abort.toml", 10, "killed by signal 6");
    fails("fails-stall.toml", 21, "run canceled after reaching the task timeout");
}
