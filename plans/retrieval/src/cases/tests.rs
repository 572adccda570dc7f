//! Every case with its instances as tasks, on a network that is not shaped.

use std::future::Future;

use groundswell_sdk::testing::Local;
use groundswell_sdk::{Ctx, Result};

use super::{chew, cold, fetch, leaves, names, nat};

fn local(groups: &[(&str, u32)]) -> Local {
    let params = [
        ("seed", "42"),
        ("timeout", "50s"),
        ("file_size", "200KiB"),
        ("block_size", "16KiB"),
        ("latency", "0s"),
        ("jitter_pct", "0"),
        ("window", "32"),
        ("replication", "20"),
        ("find_timeout", "20s"),
        ("fetch_timeout", "20s"),
        ("stagger", "0s"),
        ("settle", "200ms"),
        ("popularity", "1"),
        ("files", "2"),
        ("leave_after", "10ms"),
        ("updates", "2"),
        ("records", "4"),
        ("file_sizes", "[\"1MiB\", \"100KB\"]"),
    ];
    params
        .iter()
        .fold(Local::groups(groups).unshaped(), |run, (name, value)| run.param(name, value))
}

async fn passes<F: Future<Output = Result> + Send + 'static>(run: Local, case: fn(Ctx) -> F) {
    run.run(case).await.assert_success();
}

/// What all instances have reported under a name.
fn reported(dir: &std::path::Path, name: &str) -> Vec<f64> {
    let mut values = Vec::new();
    for instance in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(instance.unwrap().path().join("results.out")).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["name"] == name {
                values.push(line["measures"]["value"].as_f64().unwrap());
            }
        }
    }
    values
}

async fn succeeds<F: Future<Output = Result> + Send + 'static>(
    name: &str,
    groups: &[(&str, u32)],
    case: fn(Ctx) -> F,
) {
    let dir = std::env::temp_dir().join(format!("groundswell-{name}-{}", std::process::id()));
    passes(local(groups).outputs(&dir), case).await;
    let successes = reported(&dir, "success_ratio");
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(!successes.is_empty(), "nobody retrieved anything");
    assert!(successes.iter().all(|success| *success > 0.0), "{successes:?}");
}

#[tokio::test]
async fn what_one_adds_others_find_and_fetch() {
    succeeds("one", &[("crowd", 2), ("adder", 1), ("fetcher", 2)], fetch::one).await;
    succeeds("same", &[("crowd", 2), ("adder", 1), ("fetcher", 2)], fetch::all_same).await;
    succeeds("different", &[("crowd", 3), ("fetcher", 2)], fetch::all_different).await;
}

#[tokio::test]
async fn who_leaves_is_not_missed_while_another_has_the_file() {
    succeeds("leaves", &[("crowd", 2), ("adder", 2), ("fetcher", 2)], leaves::run).await;
}

#[tokio::test]
async fn a_cache_saves_the_search_and_then_the_blocks() {
    succeeds("cold", &[("crowd", 2), ("adder", 1), ("fetcher", 1)], cold::run).await;
}

#[tokio::test]
async fn names_are_resolved_to_their_latest_value() {
    succeeds("names", &[("crowd", 2), ("adder", 1), ("fetcher", 2)], names::run).await;
}

#[tokio::test]
async fn files_come_back_as_they_were_added() {
    passes(local(&[("single", 1)]), chew::run).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_way_out() {
    let run = |groups: &[(&str, u32)]| local(groups).param("timeout", "10s");
    let says = |outcomes: &dyn std::fmt::Debug, text: &str| {
        let told = format!("{outcomes:?}");
        assert!(told.contains(text), "{told}");
    };
    let outcome = run(&[("adder", 1), ("fetcher", 1)]).run(nat::run).await.0;
    says(&outcome, "give its group `[groups.nat]`");
    let outcome = run(&[("adder", 1), ("fetcher", 1)]).run(leaves::run).await.0;
    says(&outcome, "at least two are needed");
    let outcome = run(&[("crowd", 1), ("fetcher", 1)]).run(fetch::one).await.0;
    says(&outcome, "nobody is an adder");
    let outcome = run(&[("postman", 2)]).run(fetch::one).await.0;
    says(&outcome, "`postman` is no role");
    let outcome = run(&[("adder", 2)]).param("block_size", "4MiB").run(fetch::one).await.0;
    says(&outcome, "between 1B and 2MiB");
}
