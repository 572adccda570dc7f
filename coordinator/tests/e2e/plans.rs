//! Plans on the published SDKs, unchanged, pass on both runtimes.

use crate::harness::{Composition, Home, repository};

fn passes(composition: &Composition, flags: &[&str]) {
    Home::new().submit(composition, flags).passes(composition.count);
}

#[test]
fn the_rust_crate_exchanges_addresses_between_2_10_and_100_instances() {
    for count in [2, 10, 100] {
        passes(&Composition::netns("barrier", "exchange", count), &[]);
    }
}

#[test]
fn the_rust_crate_exchanges_addresses_over_three_workers() {
    passes(&Composition::netns("barrier", "exchange", 10), &["--workers", "3"]);
    passes(&Composition::netns("barrier", "exchange", 99), &["--workers", "3"]);
}

#[test]
fn the_rust_crate_exchanges_addresses_between_containers() {
    passes(&Composition::docker("barrier", "exchange", 2), &[]);
    passes(&Composition::docker("barrier", "exchange", 20), &[]);
    passes(&Composition::docker("barrier", "exchange", 9), &["--workers", "3"]);
}

#[test]
fn barrier_after_barrier() {
    passes(&Composition::netns("barrier", "rounds", 10), &[]);
}

#[test]
fn ping_pong_measures_the_latency_it_asked_for() {
    passes(&Composition::netns("ping-pong", "ping-pong", 2), &[]);
    passes(&Composition::docker("ping-pong", "ping-pong", 2), &[]);
}

#[test]
fn regions_that_are_split_do_not_reach_each_other() {
    for case in ["accept", "reject", "drop"] {
        passes(&Composition::netns("splitbrain", case, 6), &[]);
        passes(&Composition::docker("splitbrain", case, 6), &[]);
        passes(&Composition::netns("splitbrain", case, 6), &["--workers", "3"]);
    }
}

#[test]
fn ping_pong_measures_it_between_two_workers() {
    // One instance on each; both take new addresses, so the coordinator decides about them as well.
    let mut encrypted = Composition::netns("ping-pong", "ping-pong", 2);
    encrypted.group = "link = { download = \"500Mbit\" }\n[network]\nencrypt = true";
    let docker = Composition::docker("ping-pong", "ping-pong", 2);
    for composition in [Composition::netns("ping-pong", "ping-pong", 2), encrypted, docker] {
        let home = Home::new();
        home.submit(&composition, &["--workers", "2"])
            .ends_with(0)
            .says("2 = 2 success")
            .says("all accounted for");
        let workers = home.status()["workers"].as_array().map(Vec::len);
        assert_eq!(workers, Some(2), "one instance on each");
    }
}

#[test]
fn a_run_says_how_true_its_network_was() {
    let home = Home::new();
    home.submit(&Composition::netns("ping-pong", "ping-pong", 2), &[])
        .ends_with(0)
        .says("  network    ");
    let network = home.status()["network"].clone();
    assert!(network["packets"].as_u64().expect("counted") > 0, "{network}");
    assert!(network["late"]["max_ns"].as_u64().expect("measured") > 0, "{network}");
    assert_eq!(network["interface_drops"], 0, "{network}");
    assert_eq!(network["unmeasured"].as_array().map(Vec::len), Some(0), "{network}");
    let lanes = network["lanes"].as_array().expect("a list");
    let delayed =
        |lane: &serde_json::Value| lane["what"].as_str().unwrap_or("").starts_with("100 ms");
    assert!(lanes.iter().any(delayed), "{network}");
    let shown = home.run(&["status", "latest"]).ends_with(0).stdout;
    assert!(shown.contains(" round trips, 1 pair\n"), "{shown}");
    let probes = &network["probes"];
    let late = |which: &str| probes["late"][which].as_u64().unwrap_or(u64::MAX);
    assert!(late("p50_ns") < 50_000_000, "a delay of 100 ms is known: {probes}");
    assert_eq!(probes["earliest_ns"].as_u64().map(|early| early < 1_000_000), Some(true));
    assert!(shown.contains(" delivered"), "{shown}");
}

#[test]
fn a_plan_that_sends_nothing_has_an_idle_network_that_meets_everything() {
    let home = Home::new();
    let exact = ["--require-fidelity", "exact"];
    let ran = home.submit(&Composition::netns("placebo", "ok", 2), &exact).ends_with(0);
    assert!(!ran.stderr.contains("  network "), "{}", ran.stderr);
    assert_eq!(home.status()["network"]["grade"], "idle");
    home.submit(&Composition::netns("placebo", "fail", 2), &exact).ends_with(10);
}

#[test]
fn the_javascript_sdk_runs_unchanged() {
    passes(&Composition::netns("example-js", "output", 1), &[]);
    passes(&Composition::netns("example-js", "sync", 5), &[]);
    let home = Home::new();
    home.submit(&Composition::netns("example-js", "failure", 1), &[])
        .ends_with(10)
        .says("intentional failure");
}

#[test]
fn a_shell_script_leaves_its_output() {
    let home = Home::new();
    home.submit(&Composition::netns("example-sh", "environment", 2), &["--collect"])
        .ends_with(0)
        .says("2 = 2 success");
    let file = |path: &str| home.run(&["collect", "latest", "--file", path]).ends_with(0).stdout;
    assert_eq!(file("all/1/params.txt").trim(), "greeting=hello");
    let environment = file("all/0/environment.txt");
    assert_eq!(environment.lines().count(), 18, "{environment}");
    assert!(file("all/0/stdout.log").contains("plan example-sh case environment group all of 2"));
    let archives = std::fs::read_dir(home.dir.path())
        .expect("there")
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "tgz"))
        .count();
    assert_eq!(archives, 1);
}

#[test]
fn two_languages_meet_in_one_run() {
    let home = Home::new();
    let from = repository().join("plans/example-mixed");
    let text = std::fs::read_to_string(from.join("_compositions/meet.toml")).expect("there");
    let text = text.replace("plan = \"..\"", &format!("plan = \"{}\"", from.display()));
    let file = home.write("meet.toml", &quick(&text));
    home.run(&["submit", &file]).ends_with(0).says("4 = 4 success");
}

#[test]
fn a_dockerfile_runs_as_a_container() {
    let home = Home::new();
    let dockerfile = "FROM scratch\nARG PLAN_PATH\nCOPY ./plan/${PLAN_PATH}/busybox /bin/sh\n\
                      COPY ./plan/run.sh /run.sh\nENTRYPOINT [\"/bin/sh\", \"/run.sh\"]\n";
    let manifest = "name = \"stock\"\n[defaults]\nbuilder = \"docker:generic\"\nrunner = \"local:docker\"\n\
                    [builders.\"docker:generic\"]\nenabled = true\n\
                    [runners.\"local:docker\"]\nenabled = true\noutcome_from = \"stdout\"\n\
                    [[testcases]]\nname = \"hello\"\ninstances = { min = 1, max = 9, default = 2 }\n";
    let script = "echo hello from $TEST_GROUP_ID > $TEST_OUTPUTS_PATH/hello\n\
                  echo '{\"event\":{\"success_event\":{}}}'\n";
    for (name, text) in
        [("Dockerfile", dockerfile), ("manifest.toml", manifest), ("run.sh", script)]
    {
        home.write(&format!("stock/{name}"), text);
    }
    std::fs::copy("/bin/busybox", home.dir.path().join("stock/busybox")).expect("busybox-static");
    let arguments = ["submit", "--plan", "stock", "--case", "hello", "--instances", "2"];
    home.run(&arguments).ends_with(0).says("2 = 2 success");
    let hello = home.run(&["collect", "latest", "--file", "single/1/hello"]).ends_with(0).stdout;
    assert_eq!(hello, "hello from single\n");
}

#[test]
fn each_template_makes_a_plan_that_passes() {
    let home = Home::new();
    for language in ["rust", "js", "sh"] {
        home.run(&["plan", "new", language, "--lang", language]).ends_with(0);
        let file = home.dir.path().join(language).join("composition.toml");
        let text = std::fs::read_to_string(&file).expect("made");
        std::fs::write(&file, quick(&text)).expect("written");
        let file = file.display().to_string();
        home.run(&["submit", &file]).ends_with(0).says("2 = 2 success");
    }
}

/// A composition whose Cargo builds do not take minutes.
pub(crate) fn quick(text: &str) -> String {
    let profile = "builder = \"exec:cargo\"\nbuild_config = { profile = \"dev\" }";
    text.replace("builder = \"exec:cargo\"", profile)
}
