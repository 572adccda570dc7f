//! Every plan on Groundswell's own SDK runs at smoke scale and keeps what its manifest expects.
//!
//! They run one after the other, apart from the other end-to-end tests, because they measure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

mod contract;
mod inventory;

/// Plans whose runs need nothing but this machine.
const PLANS: [&str; 12] = [
    "benchmark-wrapper",
    "benchmarks",
    "bitswap",
    "churn",
    "contract",
    "dht",
    "nat",
    "partition",
    "pubsub",
    "reachability",
    "retrieval",
    "shaping",
];
/// Plans with a smoke composition that needs more, and what that is.
const ELSEWHERE: [(&str, &str); 1] =
    [("interop", "js-libp2p from npm: `the_implementations_understand_each_other` runs it")];
/// What `submit` ends with when the machines were too busy for a verdict.
const INCONCLUSIVE: i32 = 13;

/// One run at a time.
static TURN: Mutex<()> = Mutex::new(());

fn plans() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().expect("the crate is in the repository").join("plans")
}

/// Runs a composition; once more when the machine was too busy the first time. Returns the home it ran in.
fn passes(plan: &str, composition: &str) -> Home {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new();
    let file = plans().join(plan).join("_compositions").join(composition);
    let submit = || home.submit(&file, &[]);
    let (code, said) = submit();
    let (code, said) = if code == Some(INCONCLUSIVE) { submit() } else { (code, said) };
    assert_eq!(code, Some(0), "{plan}/{composition}:\n{said}");
    assert!(said.contains("all accounted for"), "{plan}/{composition}:\n{said}");
    implements_what_it_says(plan);
    home
}

/// A case of the manifest without an implementation would fail only when somebody runs it.
fn implements_what_it_says(plan: &str) {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/cargo/target/debug");
    let names = [plan.to_owned(), format!("plan-{plan}")];
    let Some(binary) = names.iter().map(|name| built.join(name)).find(|path| path.is_file()) else {
        return assert!(!plans().join(plan).join("Cargo.toml").is_file(), "{plan} was not built");
    };
    let listed = Command::new(&binary).arg("--list-cases").output().expect("it runs").stdout;
    let listed: BTreeSet<String> = serde_json::from_slice(&listed).expect("a list");
    assert_eq!(listed, cases(&plans().join(plan).join("manifest.toml")).into_iter().collect());
}

/// The cases of a manifest.
fn cases(manifest: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(manifest).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let cases = manifest["testcases"].as_array().expect("cases").iter();
    cases.map(|case| case["name"].as_str().expect("a name").to_owned()).collect()
}

/// Where a run keeps what it has; builds are shared by all.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        std::fs::create_dir_all(&cache).expect("a cache");
        let home = tempfile::tempdir().expect("a home");
        std::os::unix::fs::symlink(cache, home.path().join("cache")).expect("linked");
        Self(home)
    }

    fn coordinator(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.env("GROUNDSWELL_HOME", self.0.path()).env("XDG_CONFIG_HOME", self.0.path());
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Submits a composition; the exit code and what was said.
    fn submit(&self, file: &Path, options: &[&str]) -> (Option<i32>, String) {
        let output = self.coordinator().arg("submit").arg(file).args(options).output();
        let output = output.expect("the coordinator runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What is known of the newest run, as JSON.
    fn status(&self) -> String {
        let output = self.coordinator().args(["status", "latest", "--json"]).output();
        String::from_utf8_lossy(&output.expect("the coordinator runs").stdout).into_owned()
    }
}

#[test]
fn every_plan_with_a_smoke_composition_is_run() {
    let smoke = |entry: &std::fs::DirEntry| entry.path().join("_compositions/smoke.toml").is_file();
    let found: BTreeSet<String> = std::fs::read_dir(plans())
        .expect("there are plans")
        .flatten()
        .filter(smoke)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let run =
        PLANS.iter().chain(ELSEWHERE.iter().map(|(plan, _)| plan)).map(|plan| (*plan).to_owned());
    assert_eq!(found, run.collect());
}

#[test]
fn a_command_that_prints_is_a_plan() {
    passes("benchmark-wrapper", "smoke.toml");
}

#[test]
fn barriers_are_measured() {
    passes("benchmarks", "smoke.toml");
}

#[test]
fn files_are_spread_by_bitswap() {
    passes("bitswap", "smoke.toml");
}

#[test]
fn a_dht_survives_crashes() {
    passes("churn", "smoke.toml");
}

#[test]
fn a_dht_finds_providers() {
    passes("dht", "smoke.toml");
}

#[test]
fn holes_are_punched_where_they_can_be() {
    passes("nat", "smoke.toml");
}

#[test]
fn partitions_keep_regions_apart_and_heal() {
    passes("partition", "smoke.toml");
}

#[test]
fn scores_get_rid_of_sybils() {
    passes("pubsub", "smoke.toml");
}

#[test]
fn who_cannot_be_dialled_is_reached_through_a_relay() {
    passes("reachability", "smoke.toml");
}

#[test]
fn what_is_added_is_found_and_fetched() {
    passes("retrieval", "smoke.toml");
}

#[test]
fn the_implementations_understand_each_other() {
    passes("interop", "smoke.toml");
}

#[test]
fn latencies_are_what_was_asked_for() {
    passes("shaping", "smoke.toml");
}

#[test]
fn packets_are_lost_as_often_as_asked_for() {
    passes("shaping", "smoke-verify-loss.toml");
}

#[test]
fn changes_are_in_force_when_the_call_returns() {
    passes("shaping", "smoke-reconfigure-storm.toml");
}

#[test]
#[ignore = "the other cases, which take four minutes: make plans"]
fn the_network_is_what_it_was_asked_to_be() {
    let cases = [
        "ping-pong",
        "verify-jitter",
        "verify-bandwidth",
        "asymmetric",
        "corrupt",
        "duplicate",
        "reorder",
        "per-subnet-rules",
        "address-change",
    ];
    for case in cases {
        passes("shaping", &format!("smoke-{case}.toml"));
    }
}

#[test]
#[ignore = "builds four versions of libp2p, QUIC, and packages of npm: make plans"]
fn all_implementations_understand_each_other_in_every_way() {
    let cases = ["ping", "transports", "bitswap-fetch", "bitswap-many", "hole-punch"];
    for case in cases {
        passes("interop", &format!("{case}.toml"));
    }
}

#[test]
#[ignore = "builds QUIC: make plans"]
fn what_speaks_quic_is_reached_and_punches_holes() {
    passes("reachability", "smoke-transport-mismatch.toml");
    passes("nat", "matrix-quic.toml");
}
