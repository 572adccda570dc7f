//! Several coordinators on a real nats-server: one leads, another goes on with what it had begun.

use std::time::Duration;

use groundswell_common::api::{CancelRequest, SubmitRequest};
use groundswell_common::ids::Attempt;
use groundswell_common::queue::{Priority, PriorityRequest, QueueEntry};
use groundswell_common::run::{RunPhase, RunRecord, RunStatus, Verdict};
use groundswell_common::subjects;
use groundswell_coordinator::ledger::{GenerationFile, LedgerError};
use groundswell_coordinator::service::{Service, ServiceConfig, ServiceError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::fakes::{Behavior, LIMIT, Stack, request};

#[tokio::test]
async fn one_of_three_leads_and_another_takes_over_when_it_is_killed() {
    let stack = Stack::bare().await;
    let first = stack.candidate("first");
    first.leads().await;
    let others = [stack.candidate("second"), stack.candidate("third")];
    first.kill();
    tokio::select! {
        () = others[0].leads() => assert!(!others[1].leads_now()),
        () = others[1].leads() => assert!(!others[0].leads_now()),
    }
    stack.stop_bare().await;
}

#[tokio::test]
async fn a_running_run_goes_on_under_the_next_leader() {
    let mut stack = Stack::bare().await;
    let first = stack.candidate("first");
    first.leads().await;
    let _workers = stack.workers(&[Behavior::Hang, Behavior::Hang]).await;
    let accepted = stack.submit(&request(4)).await.expect("accepted");
    let before = stack.until(&accepted, |status| status.phase == RunPhase::Running).await;
    let second = stack.candidate("second");
    first.kill();
    second.leads().await;
    let resumed = stack
        .until(&accepted, |status| {
            status.phase == RunPhase::Running && status.revision > before.revision + 1000
        })
        .await;
    assert_eq!(resumed.workers, before.workers);
    assert_eq!(resumed.started_ms, before.started_ms);
    assert_eq!(resumed.groups[0].1.running, 4);
    let cancel = CancelRequest { run: accepted.run.clone(), kill: false, reason: "ok".to_owned() };
    let _: RunStatus = stack.call("cancel", &cancel).await.expect("answered");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Canceled), "{}", status.reason);
    assert_eq!(status.groups[0].1.canceled, 4);
    let events = stack.object(&format!("runs/{}/events.jsonl", accepted.run)).await;
    let events = String::from_utf8(events).expect("text");
    assert!(events.contains("submitted") && events.contains("resumed"), "{events}");
    stack.stop_bare().await;
}

/// Whatever the leader was at when it ended: the run is gone on with, and its instances were let go once.
#[tokio::test]
async fn a_run_survives_the_loss_of_its_leader_in_every_phase() {
    for phase in
        ["submitted", "queued", "reserved", "preparing", "starting", "running", "collecting"]
    {
        let stack = Stack::bare().await;
        let first = stack.candidate("first");
        first.leads().await;
        let _workers = stack.workers(&[Behavior::Succeed, Behavior::Succeed]).await;
        let mut events = stack.bus.client().subscribe("gs.v1.event.*").await.expect("subscribed");
        stack.bus.client().flush().await.expect("flushed");
        let accepted = stack.submit(&request(4)).await.expect("accepted");
        stack.event(&mut events, |event| event.kind == "phase" && event.text == phase).await;
        first.kill();
        let second = stack.candidate("second");
        second.leads().await;
        let status = stack.over(&accepted).await;
        assert_eq!(status.verdict, Some(Verdict::Passed), "killed when {phase}: {}", status.reason);
        assert_eq!(status.groups[0].1.success, 4, "killed when {phase}");
        stack.stop_bare().await;
    }
}

#[tokio::test]
async fn a_priority_that_was_given_later_is_the_next_leaders_too() {
    let mut stack = Stack::bare().await;
    let first = stack.candidate("first");
    first.leads().await;
    let _workers = stack.workers(&[Behavior::Hang]).await;
    let runs = stack.submit(&request(10)).await.expect("accepted");
    stack.until(&runs, |status| status.phase == RunPhase::Running).await;
    let waits = stack.submit(&request(1)).await.expect("accepted");
    stack.until(&waits, |status| status.phase == RunPhase::Queued).await;
    let asked = PriorityRequest { run: waits.run.clone(), priority: Priority::Interactive };
    let _: RunStatus = stack.call("priority", &asked).await.expect("answered");
    first.kill();
    let second = stack.candidate("second");
    second.leads().await;
    // It answers once it has told how its runs are; revisions of a later term are that much higher.
    stack.until(&runs, |status| status.revision > 1 << 32).await;
    let queued = async {
        loop {
            let queue: Vec<QueueEntry> = stack.call("queue", &()).await.expect("answered");
            if let Some(entry) = queue.first() {
                break entry.priority;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let priority = timeout(LIMIT, queued).await.expect("in time");
    assert_eq!(priority, Priority::Interactive);
    stack.stop_bare().await;
}

#[tokio::test]
async fn a_run_that_rests_before_its_next_attempt_is_tried_again_by_the_next_leader() {
    let stack = Stack::bare().await;
    let first = stack.candidate("first");
    first.leads().await;
    let _workers = stack.workers(&[Behavior::Succeed, Behavior::GoSilent]).await;
    let mut events = stack.bus.client().subscribe("gs.v1.event.*").await.expect("subscribed");
    stack.bus.client().flush().await.expect("flushed");
    let again = SubmitRequest { composition: "retry_run(1)".to_owned(), ..request(4) };
    let accepted = stack.submit(&again).await.expect("accepted");
    stack.event(&mut events, |event| event.text.starts_with("attempt 1 was")).await;
    first.kill();
    let second = stack.candidate("second");
    second.leads().await;
    let status = stack.over(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Passed), "{}", status.reason);
    let json = stack.object(&format!("runs/{}/record.json", accepted.run)).await;
    let record: RunRecord = serde_json::from_slice(&json).expect("a record");
    assert_eq!(record.attempt, Attempt(2));
    stack.stop_bare().await;
}

#[tokio::test]
async fn a_control_state_that_nats_has_lost_is_not_gone_on_with_until_people_say_so() {
    let stack = Stack::bare().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("generations/lab");
    let serve = async |bootstrap| {
        let generation = Some(GenerationFile { path: path.clone(), bootstrap });
        let config = ServiceConfig { generation, standby: true, ..stack.config("one") };
        Service::start(config, CancellationToken::new()).await
    };
    let bucket = format!("KV_{}", subjects::CONTROL_BUCKET);
    for _ in 0..2 {
        serve(false).await.expect("it is the one it knows").stop().await;
    }
    let known = std::fs::read_to_string(&path).expect("kept");
    stack.bus.jetstream().delete_stream(&bucket).await.expect("lost");
    let refused = serve(false).await.expect_err("refused");
    assert!(
        matches!(refused, ServiceError::Ledger(LedgerError::Forgotten { found: None, .. })),
        "{refused:?}"
    );
    assert_eq!(std::fs::read_to_string(&path).expect("kept"), known);
    serve(true).await.expect("people said so").stop().await;
    assert_ne!(std::fs::read_to_string(&path).expect("kept"), known);
    serve(false).await.expect("it is the one it knows").stop().await;
    stack.stop_bare().await;
}
