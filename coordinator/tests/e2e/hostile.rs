//! Instances that do what they must not: each gets its outcome and the reason, and nobody else notices.

use std::process::Command;

use nix::ifaddrs::getifaddrs;
use serde_json::Value;

use crate::harness::{Composition, Home, LIMIT, Running, repository, wait_until};
use crate::leftovers::nothing_is_left;

/// Each group of the composition, and with which words it fails, if it does.
const GROUPS: [(&str, Option<&str>); 16] = [
    ("good", None),
    ("fork", None),
    ("memory", Some("out of memory")),
    ("outputs", Some("outputs_bytes")),
    ("temp", Some("temp_bytes")),
    ("tmp", None),
    ("print", None),
    ("sparse", Some("1.0 TiB are in its directory `/outputs`, more than 64.0 MiB")),
    ("links", None),
    ("files", Some("more than 10000 files are in its directory `/outputs`")),
    ("deep", Some("nested too deep")),
    ("payload", None),
    ("flood", Some("sync_bytes")),
    ("keys", None),
    ("connect", None),
    ("escape", None),
];

/// The longest round of barriers among those that behave, on a machine that builds something else meanwhile.
const LONGEST_ROUND_MS: u64 = 5_000;

/// A stack that goes on, and its home.
struct Stack {
    home: Home,
    up: Running,
}

impl Stack {
    fn start() -> Self {
        let home = Home::new();
        let up = home.start(&["up"]);
        up.until("up: 1 worker");
        Self { home, up }
    }

    /// Runs all of it at once.
    fn run(&self, runner: &str) -> Value {
        let plan = repository().join("plans/hostile");
        let text = std::fs::read_to_string(plan.join("_compositions/all.toml")).expect("there");
        let built =
            format!("plan = \"{}\"\nbuild_config = {{ profile = \"dev\" }}", plan.display());
        let targets = format!("what = \"connect\", targets = \"{}\"", self.nats().join(","));
        let text = text
            .replace("plan = \"hostile\"", &built)
            .replace("runner = \"netns\"", &format!("runner = \"{runner}\""))
            .replace("what = \"connect\"", &targets);
        let file = self.home.write("all.toml", &text);
        self.home.run(&["submit", &file, "--timeout", "2m"]).ends_with(10);
        self.home.status()
    }

    /// Where the servers of the stack's NATS are, by every address of this host.
    fn nats(&self) -> Vec<String> {
        let endpoint = self.home.dir.path().join("stacks/0/endpoint.json");
        let text = std::fs::read_to_string(endpoint).expect("a stack");
        let endpoint: Value = serde_json::from_str(&text).expect("JSON");
        let url = endpoint["url"].as_str().expect("an address");
        let port = url.rsplit(':').next().expect("a port");
        let addresses = getifaddrs()
            .expect("interfaces")
            .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
        addresses.map(|address| format!("{address}:{port}")).collect()
    }

    fn outputs(&self, file: &str) -> String {
        self.home.run(&["collect", "latest", "--file", file]).ends_with(0).stdout
    }

    fn is_ready(&self) {
        let listed = self.home.run(&["workers", "--json"]).ends_with(0).stdout;
        let workers: Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(workers[0]["state"], "ready", "{workers:#}");
        assert_eq!(workers.as_array().map(Vec::len), Some(1), "{workers:#}");
    }

    /// What lies in the worker's spool.
    fn spooled(&self) -> String {
        let found = Command::new("find")
            .arg(self.home.dir.path().join("stacks"))
            .args(["-path", "*/spool/*", "-maxdepth", "6"])
            .output()
            .expect("find runs");
        String::from_utf8_lossy(&found.stdout).into_owned()
    }

    fn end(self) {
        let worker = self.home.status()["workers"][0].as_str().expect("a worker").to_owned();
        self.up.ctrl_c();
        self.up.finish().ends_with(0);
        nothing_is_left(&self.home, &worker);
    }
}

fn each_gets_its_outcome(status: &Value) {
    let failures = status["failures"].as_array().expect("a list");
    for (group, fails) in GROUPS {
        let of_group = |failure: &&Value| failure[1] == group;
        let failed = failures.iter().find(of_group).map(|failure| &failure[3]["reason"]);
        match (fails, failed.and_then(Value::as_str)) {
            (None, None) => {}
            (Some(wanted), Some(reason)) if reason.contains(wanted) => {}
            (wanted, reason) => panic!("{group}: {reason:?}, not {wanted:?}\n{status:#}"),
        }
    }
    let wanted: usize = GROUPS.iter().filter(|(_, fails)| fails.is_some()).count();
    assert_eq!(failures.len(), wanted, "{failures:#?}");
}

fn people_are_told(status: &Value) {
    let warnings: Vec<&str> =
        status["warnings"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let told = [
        "was cut after 1048576 bytes",
        "is slowed down: it asks for more than 10000 sync operations in a second",
        "`links/0/passwd` is a link",
        "`links/0/pipe` is not a regular file",
        "`links/0/first-name` has more than one name",
        "`sparse/0/sparse` is too large",
        "more files were left out: each is one too many",
    ];
    for text in told {
        assert!(warnings.iter().any(|warning| warning.contains(text)), "{text}\n{warnings:#?}");
    }
}

fn only_what_may_be_is_stored(stack: &Stack) {
    assert_eq!(stack.outputs("links/0/kept"), "an ordinary file\n");
    for name in ["passwd", "upwards", "root", "environment", "pipe", "first-name", "hosts"] {
        let file = format!("links/0/{name}");
        let ran = stack.home.run(&["collect", "latest", "--file", &file]);
        assert_ne!(ran.code, Some(0), "{file}: {}", ran.stdout);
    }
}

fn the_others_did_not_notice(stack: &Stack) {
    for number in 0..3 {
        let said = stack.outputs(&format!("good/{number}/stdout.log"));
        let longest = said.split("longest round ").nth(1).and_then(|rest| rest.split(' ').next());
        let longest: u64 = longest.and_then(|text| text.parse().ok()).expect("a number");
        assert!(longest < LONGEST_ROUND_MS, "{longest} ms");
    }
}

fn nobody_else_notices(runner: &'static str) {
    let stack = Stack::start();
    let status = stack.run(runner);
    each_gets_its_outcome(&status);
    people_are_told(&status);
    only_what_may_be_is_stored(&stack);
    the_others_did_not_notice(&stack);

    stack.is_ready();
    wait_until("nothing of the run is on the host", LIMIT, || stack.spooled().is_empty());
    let mut shut = Composition { runner, ..Composition::netns("hostile", "abuse", 2) };
    shut.global = "run_config = { read_only_root = true }";
    shut.group = "run.test_params = { what = \"write\" }";
    stack.home.submit(&shut, &[]).passes(2);
    stack.end();
}

#[test]
fn nobody_notices_hostile_instances_in_namespaces() {
    nobody_else_notices("netns");
}

#[test]
fn nobody_notices_hostile_instances_in_containers() {
    nobody_else_notices("docker");
}
