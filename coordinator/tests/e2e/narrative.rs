//! What the schedule does to single instances: from the composition to what they have lived through.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::harness::{Home, named, repository};

/// The twenty nodes of `mixed.toml`, in seconds instead of minutes.
const SMALL: [&str; 5] = ["NODES=20", "CRASH=4s", "MOVE=3s", "DOWN=1s", "SECONDS=14"];
/// Strikes after this many seconds may or may not find an instance that has not ended yet.
const SURE: f64 = 11.0;

fn mixed() -> String {
    repository().join("plans/example-churn/_compositions/mixed.toml").display().to_string()
}

/// Events of a kind, of all workers of the newest run in a store: instance and text. The coordinator's log has them
/// as well.
fn events(store: &Path, kind: &str) -> BTreeSet<(u64, String)> {
    let mut found = BTreeSet::new();
    for log in named("events.jsonl", store) {
        let text = std::fs::read_to_string(log).expect("readable");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect("JSON");
            let instance = event["instance"].as_u64();
            if let (true, Some(instance), Some(text)) =
                (event["kind"] == kind, instance, event["text"].as_str())
            {
                found.insert((instance, text.to_owned()));
            }
        }
    }
    found
}

/// Strikes as they were asked for, up to a time at which no instance has ended by itself.
fn asked_for(store: &Path) -> BTreeSet<(u64, String)> {
    let asked = |(instance, text): (u64, String)| {
        let (asked, _) = text.split_once(" s, done at ").expect("a strike has both times");
        let (_, at) = asked.rsplit_once(' ').expect("it ends with a time");
        let at: f64 = at.parse().expect("a number");
        (at < SURE).then(|| (instance, asked.to_owned()))
    };
    events(store, "strike").into_iter().filter_map(asked).collect()
}

fn run_small(home: &Home) {
    let file = mixed();
    let mut arguments = vec!["submit", file.as_str()];
    arguments.extend(SMALL.iter().flat_map(|pair| ["--set", *pair]));
    home.run(&arguments).passes(20);
}

#[test]
fn a_thousand_nodes_with_five_roles_are_one_short_file() {
    let checked = Home::new().run(&["validate", &mixed()]).ends_with(0).stdout;
    let roles = "home 100 + cellar 100 + crashing 100 + moving 100 + public 600 = 1000 instances";
    let struck = "instances are struck by kill (all, every 30s, each for itself), \
                  readdress (all, every 2m, each for itself)";
    assert!(checked.contains(roles) && checked.contains(struck), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_strikes_the_same_instances_at_the_same_times_on_one_worker_and_on_two() {
    let mut all = Vec::new();
    for workers in [1, 2] {
        let cluster = Cluster::start(workers).await;
        run_small(&cluster.home);
        let status = cluster.home.status();
        assert_eq!(status["workers"].as_array().map(Vec::len), Some(workers as usize));
        let file = |path: &str| {
            let ran = cluster.home.run(&["collect", "latest", "--file", path]).ends_with(0);
            ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        for instance in ["crashing/0", "crashing/1"] {
            let lives = file(&format!("{instance}/lives.txt"));
            let count: Vec<String> = (0..lives.len()).map(|life| life.to_string()).collect();
            assert_eq!(lives, count, "{instance}");
            assert!(lives.len() >= 3, "{instance}: {lives:?}");
            let log = file(&format!("{instance}/stdout.log"));
            assert_eq!(log.iter().filter(|line| line.starts_with("life ")).count(), lives.len());
        }
        for instance in ["moving/0", "moving/1"] {
            let addresses = file(&format!("{instance}/addresses.txt"));
            assert!(addresses.len() >= 3, "{instance}: {addresses:?}");
            assert_eq!(file(&format!("{instance}/lives.txt")), ["0"]);
        }
        for instance in ["home/0", "cellar/1", "public/11"] {
            assert_eq!(file(&format!("{instance}/lives.txt")), ["0"]);
        }
        let store = cluster.objects.strip_prefix("file://").expect("a directory").to_owned();
        all.push(asked_for(Path::new(&store)));
    }
    let kinds = |what: &str| all[0].iter().filter(|(_, text)| text.contains(what)).count();
    assert!(
        kinds("kill: killed, incarnation 0") == 2 && kinds("started again") >= 4,
        "{:#?}",
        all[0]
    );
    assert!(kinds("readdress; asked for at") >= 4, "{:#?}", all[0]);
    assert_eq!(all[0], all[1]);
}

/// Two are killed for good, two are stopped for good, one is stopped and comes back, one stands still for a while.
const FATES: &str = r#"
[global]
plan = "PLAN"
case = "live"
runner = "RUNNER"
builder = "exec:command"
timeout = "2m"
run = { test_params = { seconds = "8" } }
[[groups]]
id = "killed"
instances = { count = 2 }
[[groups]]
id = "stopped"
instances = { count = 2 }
[[groups]]
id = "back"
instances = { count = 1 }
[[groups]]
id = "paused"
instances = { count = 1 }
[[schedule]]
at = "2s"
kind = "kill"
name = "end"
on = "killed"
[[schedule]]
at = "2s"
kind = "stop"
grace = "1s"
on = "stopped"
[[schedule]]
at = "2s"
kind = "stop"
grace = "1s"
for = "3s"
on = "back"
[[schedule]]
at = "2s"
kind = "pause"
for = "2s"
on = "paused"
"#;

fn fates(runner: &str) {
    let home = Home::new();
    let plan = repository().join("plans/example-churn").display().to_string();
    let file = home.write("fates.toml", &FATES.replace("PLAN", &plan).replace("RUNNER", runner));
    let ran = home.run(&["submit", &file]).ends_with(0);
    ran.says("6 = 2 success + 4 killed by the narrative").says("all accounted for");
    let status = home.status();
    assert_eq!(
        (&status["verdict"], &status["failures"]),
        (&"passed".into(), &Value::Array(vec![]))
    );

    let ends = events(home.dir.path(), "instance_ended");
    let ended = |instance: u64, text: &str| ends.contains(&(instance, text.to_owned()));
    assert!(ended(0, "killed: killed by the narrative at 2.0 s (kill `end`)"), "{ends:#?}");
    assert!(ended(2, "killed: killed by the narrative at 2.0 s (stop)"), "{ends:#?}");
    assert!(ended(4, "success") && ended(5, "success"), "{ends:#?}");
    let strikes = asked_for(home.dir.path());
    let struck = |instance: u64, text: &str| strikes.contains(&(instance, text.to_owned()));
    assert!(struck(1, "kill `end`: killed, incarnation 0; asked for at 2.000"), "{strikes:#?}");
    assert!(struck(3, "stop: asked to end, incarnation 0; asked for at 2.000"), "{strikes:#?}");
    assert!(struck(4, "stop: started again, incarnation 1; asked for at 5.000"), "{strikes:#?}");
    assert!(struck(5, "pause: paused, incarnation 0; asked for at 2.000"), "{strikes:#?}");
    assert!(struck(5, "pause: goes on, incarnation 0; asked for at 4.000"), "{strikes:#?}");
    let downs = events(home.dir.path(), "instance_down");
    let downs: Vec<u64> = downs.into_iter().map(|(instance, _)| instance).collect();
    assert_eq!(downs, [0, 1, 2, 3, 4]);
}

#[test]
fn whom_the_narrative_ends_for_good_is_accounted_for_and_has_not_failed() {
    fates("netns");
}

#[test]
fn containers_have_the_same_fates() {
    fates("docker");
}

#[test]
fn an_instance_that_dies_by_itself_between_two_strikes_has_failed() {
    let home = Home::new();
    let script = "#!/bin/sh\n[ \"$GROUNDSWELL_INCARNATION\" = 0 ] && exec sleep 60\nexit 3\n";
    home.write("dies/run.sh", script);
    let manifest = std::fs::read_to_string(repository().join("plans/example-churn/manifest.toml"));
    home.write("dies/manifest.toml", &manifest.expect("a plan"));
    let file = home.write(
        "dies.toml",
        "[global]\nplan = \"dies\"\ncase = \"live\"\nrunner = \"netns\"\nbuilder = \"exec:command\"\n\
         timeout = \"2m\"\n[[groups]]\nid = \"all\"\ninstances = { count = 1 }\n\
         [[schedule]]\nat = \"1s\"\nevery = \"4s\"\nkind = \"kill\"\nfor = \"1s\"\non = \"all\"\n",
    );
    let ran = home.run(&["submit", &file]).ends_with(10);
    ran.says("1 = 1 failure").says("ended without outcome, exit code 3");
}
