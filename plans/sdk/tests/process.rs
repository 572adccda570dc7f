//! A plan as a process, as a platform runs it: against a service that answers as others were recorded to answer.
#![expect(clippy::unwrap_used, reason = "also what helps the tests may panic")]

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

const LIMIT: Duration = Duration::from_secs(30);
const PREFIX: &str = "run:r0000001:plan:probe:case:CASE:";

/// The example plan, which is built with the tests.
fn plan() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/greet")
}

/// An instance of a run of one, as Testground's runners start it.
fn instance(case: &str, port: u16) -> Command {
    let mut command = Command::new(plan());
    command
        .env_clear()
        .envs([
            ("TEST_PLAN", "probe"),
            ("TEST_CASE", case),
            ("TEST_RUN", "r0000001"),
            ("TEST_INSTANCE_COUNT", "1"),
            ("TEST_GROUP_ID", "single"),
            ("TEST_GROUP_INSTANCE_COUNT", "1"),
            ("TEST_SIDECAR", "true"),
            ("SYNC_SERVICE_HOST", "127.0.0.1"),
            ("SYNC_SERVICE_PORT", &port.to_string()),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Plays a service that knows nothing of Groundswell, for one client, and returns what it was asked.
///
/// Answers have the forms of the Go service: all keys, or for `sparse` only those that say something.
async fn serve(listener: TcpListener, sparse: bool) -> Vec<Value> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    let (mut asked, mut seq) = (Vec::new(), 0);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let request: Value = serde_json::from_str(&text).unwrap();
        let id = &request["id"];
        seq += 1;
        let full = |publish: Value, item: &str, signal: Value| json!({ "id": id, "error": "", "publish": publish, "subscribe": item, "signal_entry": signal });
        let mut answer = if request.get("publish").is_some() {
            full(json!({ "seq": seq }), "", Value::Null)
        } else if request.get("signal_entry").is_some() {
            full(Value::Null, "", json!({ "seq": 1 }))
        } else if request.get("subscribe").is_some() {
            full(Value::Null, r#"{"ID":"js-1","Addrs":["/ip4/127.0.0.1/tcp/1"]}"#, Value::Null)
        } else {
            full(Value::Null, "", Value::Null)
        };
        if sparse {
            answer.as_object_mut().unwrap().retain(|_, value| !value.is_null() && *value != "");
        }
        asked.push(request);
        if socket.send(Message::text(answer.to_string())).await.is_err() {
            break;
        }
    }
    asked
}

/// Runs a case against such a service: what the plan did, and what it asked for.
async fn play(case: &str, sparse: bool) -> (Output, Vec<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (output, asked) = timeout(LIMIT, async {
        tokio::join!(instance(case, port).output(), serve(listener, sparse))
    })
    .await
    .unwrap();
    (output.unwrap(), asked)
}

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone()).collect()
}

#[tokio::test]
async fn what_it_says_is_what_the_other_sdks_say() {
    for sparse in [false, true] {
        let (output, asked) = play("ready", sparse).await;
        assert!(output.status.success(), "{output:?}");
        let key = |name: &str| format!("{}{name}", PREFIX.replace("CASE", "ready"));
        let stage = |kind: &str| {
            json!({ "topic": key("run_events"),
                    "payload": { kind: { "name": "network-initialized", "group": "single" } } })
        };
        let wanted = [
            json!({ "publish": stage("stage_start_event") }),
            json!({ "barrier": { "state": key("states:network-initialized"), "target": 1 } }),
            json!({ "publish": stage("stage_end_event") }),
            json!({ "signal_entry": { "state": key("states:initialized_global") } }),
            json!({ "signal_entry": { "state": key("states:initialized_group_single") } }),
            json!({ "signal_entry": { "state": key("states:ready") } }),
            json!({ "barrier": { "state": key("states:ready"), "target": 1 } }),
            json!({ "subscribe": { "topic": key("topics:peers") } }),
            json!({ "publish": { "topic": key("topics:peers"), "payload": { "ID": "rust-1" } } }),
            json!({ "publish": { "topic": key("run_events"),
                                 "payload": { "success_event": { "group": "single" } } } }),
        ];
        assert_eq!(asked.len(), wanted.len(), "{asked:#?}");
        for (at, (asked, mut wanted)) in asked.iter().zip(wanted).enumerate() {
            wanted["id"] = json!(at.to_string());
            wanted["is_cancel"] = json!(false);
            assert_eq!(*asked, wanted);
        }
    }
}

#[tokio::test]
async fn outcomes_are_published_printed_and_told_by_the_exit_code() {
    let (output, asked) = play("fail", false).await;
    assert_eq!(output.status.code(), Some(1));
    let failure =
        json!({ "failure_event": { "group": "single", "error": "there are 1 instances" } });
    assert_eq!(events(&output).last(), Some(&failure));
    assert_eq!(asked.last().unwrap()["publish"]["payload"], failure);

    let (output, asked) = play("crash", false).await;
    assert_eq!(output.status.code(), Some(2));
    let crash = &asked.last().unwrap()["publish"]["payload"]["crash_event"];
    let error = crash["error"].as_str().unwrap();
    assert!(
        error.contains("examples/greet.rs") && error.ends_with("instance 0 has a bug"),
        "{error}"
    );
    assert!(crash["stacktrace"].as_str().unwrap().contains("greet"), "{crash}");
    assert_eq!(crash["group"], "single");

    let (output, _) = play("missing", false).await;
    let wanted = json!({ "failure_event": { "group": "single", "error": "this plan has no case `missing`" } });
    assert_eq!(events(&output).last(), Some(&wanted));
}

#[tokio::test]
async fn an_instance_that_is_stopped_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut child = instance("wait", port).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let stop = async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.contains("waiting") {
                break;
            }
        }
        let id = child.id().unwrap().to_string();
        Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        // Read on, so that the plan can print.
        while lines.next_line().await.unwrap().is_some() {}
        child.wait().await.unwrap()
    };
    let (status, asked) =
        timeout(LIMIT, async { tokio::join!(stop, serve(listener, false)) }).await.unwrap();
    assert_eq!(status.code(), Some(1));
    let aborted = json!({ "failure_event": { "group": "single", "error": "aborted" } });
    assert_eq!(asked.last().unwrap()["publish"]["payload"], aborted);
}

#[tokio::test]
async fn a_service_that_does_not_know_sessions_and_goes_ends_the_instance() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = async {
        // The first connection is cut as soon as something was asked.
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        socket.next().await.unwrap().unwrap();
        drop(socket);
        serve(listener, false).await
    };
    let (output, asked) =
        timeout(LIMIT, async { tokio::join!(instance("ready", port).output(), service) })
            .await
            .unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(asked, Vec::<Value>::new(), "what may have been done is not asked for again");
    let error = events(&output).last().unwrap()["failure_event"]["error"].to_string();
    assert!(error.contains("sync is lost"), "{error}");
}

#[tokio::test]
async fn without_a_platform_the_plan_runs_in_processes_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(plan());
    command.args(["--local", "3", "--group", "seeds=1", "--param", "words=good morning", "--out"]);
    let output = timeout(LIMIT, command.arg(dir.path()).output()).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("0 of 3 failed"), "{text}");
    for instance in 0..3 {
        let results = dir.path().join(instance.to_string()).join("results.out");
        let results = std::fs::read_to_string(results).unwrap();
        assert!(results.contains("\"greetings\"") && results.contains("\"dial_s\""), "{results}");
    }
    let output =
        Command::new(plan()).args(["--local", "2", "--case", "fail"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn the_command_line_lists_cases_and_explains_itself() {
    let output = Command::new(plan()).arg("--list-cases").output().await.unwrap();
    let cases: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(cases, json!(["greet", "ready", "fail", "crash", "wait"]));
    let output = Command::new(plan()).args(["--local", "2", "--case", "x"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(why.trim(), "there is no case `x`; there are: greet, ready, fail, crash, wait");
}
