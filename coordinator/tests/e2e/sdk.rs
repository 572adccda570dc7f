//! Plans built with Groundswell's own SDK for Rust, and the templates of `plan new`.

use crate::adoption::until_printed;
use crate::cluster::Cluster;
use crate::harness::{Home, repository};
use crate::plans::quick;

/// Makes a plan of a template in the home and returns its composition.
fn template(home: &Home, template: &str, language: &str) -> String {
    let plan = format!("{template}-{language}");
    home.run(&["plan", "new", &plan, "--template", template, "--lang", language]).ends_with(0);
    let file = home.dir.path().join(&plan).join("composition.toml");
    let text = std::fs::read_to_string(&file).expect("made");
    std::fs::write(&file, quick(&text)).expect("written");
    file.display().to_string()
}

#[test]
fn the_rust_sdk_measures_latency_and_leaves_its_kpis() {
    let home = Home::new();
    let file = template(&home, "ping", "rust");
    home.run(&["submit", &file, "--collect"]).passes(3);
    let kept = |name: &str| {
        let path = format!("nodes/1/{name}");
        home.run(&["collect", "latest", "--file", &path]).ends_with(0).stdout
    };
    let results = kept("results.out");
    assert!(results.contains("\"rtt_s\"") && results.contains("\"phase_s\""), "{results}");
    let events = kept("events.out");
    let starts =
        |line: &str| ["\"instance\":1", "\"stage_start\""].iter().all(|part| line.contains(part));
    assert!(events.lines().any(starts), "{events}");
    assert!(kept("stdout.log").contains("success_event"));
}

#[test]
fn templates_in_rust_make_plans_that_pass() {
    for (name, instances) in [("gossip", 6), ("dht", 8), ("nat", 5), ("churn", 6), ("load", 3)] {
        let home = Home::new();
        let file = template(&home, name, "rust");
        home.run(&["submit", &file]).passes(instances);
    }
}

#[test]
fn templates_in_javascript_make_plans_that_pass() {
    let all = [("ping", 3), ("gossip", 6), ("dht", 8), ("nat", 5), ("churn", 6), ("load", 3)];
    for (name, instances) in all {
        let home = Home::new();
        let file = template(&home, name, "js");
        home.run(&["submit", &file]).passes(instances);
    }
}

#[test]
fn templates_in_shell_make_plans_that_pass() {
    for name in ["ping", "load"] {
        let home = Home::new();
        let file = template(&home, name, "sh");
        home.run(&["submit", &file]).passes(3);
    }
}

/// The peer that is built with the SDK: it says what the others say.
const OWN_PEER: &str = r#"
use std::process::ExitCode;

use groundswell_sdk::prelude::*;
use serde_json::json;

fn main() -> ExitCode {
    groundswell_sdk::run(Cases::new().case("meet", meet))
}

async fn meet(cx: Ctx) -> Result {
    cx.publish("hello", &json!({ "language": "rust" })).await?;
    let mut heard = cx.subscribe::<serde_json::Value>("hello").await?;
    let mut languages = Vec::new();
    for _ in 0..cx.instances() {
        languages.push(heard.next().await?["language"].to_string());
    }
    ensure!(languages.iter().any(|language| language == "\"js\""), "{languages:?}");
    cx.signal_and_wait("done").await?;
    Ok(())
}
"#;

#[test]
fn the_rust_sdk_meets_the_published_ones_in_one_run() {
    let home = Home::new();
    let from = repository().join("plans/example-mixed");
    for name in ["manifest.toml", "rust/Cargo.toml", "rust/Cargo.lock", "rust/src/main.rs"]
        .into_iter()
        .chain(["js/index.js", "js/package.json", "js/package-lock.json"])
    {
        let text = std::fs::read_to_string(from.join(name)).expect("there");
        home.write(&format!("mixed/{name}"), &text);
    }
    home.run(&["plan", "new", "mixed/own", "--template", "ping"]).ends_with(0);
    home.write("mixed/own/src/main.rs", OWN_PEER);
    let text = std::fs::read_to_string(from.join("_compositions/meet.toml")).expect("there");
    let own = "[[groups]]\nid = \"own\"\nbuilder = \"exec:cargo\"\ninstances = { count = 2 }\n\
               build_config = { path = \"own\", profile = \"dev\" }\n";
    let file = home.write("mixed/_compositions/meet.toml", &format!("{}\n{own}", quick(&text)));
    home.run(&["submit", &file]).ends_with(0).says("6 = 6 success");
}

/// Counts, and insists on every number having been given out once.
const COUNTER: &str = r#"
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;

const ROUNDS: u64 = 200;

fn main() -> ExitCode {
    groundswell_sdk::run(Cases::new().case("ping", count))
}

async fn count(cx: Ctx) -> Result {
    cx.signal_and_wait("here").await?;
    let mut numbers = Vec::new();
    for round in 0..ROUNDS {
        cx.message(format!("line {round}"));
        numbers.push(cx.signal("tick").await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all = cx.exchange("numbers", &numbers).await?;
    let given: BTreeSet<u64> = all.into_iter().flat_map(|member| member.value).collect();
    let wanted: BTreeSet<u64> = (1..=ROUNDS * u64::from(cx.instances())).collect();
    ensure!(given == wanted, "{} numbers for {} signals", given.len(), wanted.len());
    Ok(())
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn instances_outlive_a_restart_of_their_worker_and_nothing_counts_twice() {
    let mut cluster = Cluster::start(1).await;
    let file = template(&cluster.home, "ping", "rust");
    cluster.home.write("ping-rust/src/main.rs", COUNTER);
    let running = cluster.home.start(&["submit", &file, "--progress", "plain"]);
    running.until("phase=running");
    for line in ["line 50", "line 100"] {
        until_printed(&cluster.state_dir(0), line);
        cluster.kill(0);
        cluster.start_again(0);
    }
    running.finish().ends_with(0).says("3 = 3 success").says("was restarted during the run");
}
