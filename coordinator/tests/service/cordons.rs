//! Workers that people take out of service, with a service on a real nats-server.

use std::time::Duration;

use groundswell_common::api::{
    Answer, CancelRequest, CordonRequest, CordonWish, Drain, RefusalKind, WorkerStatus,
};
use groundswell_common::ids::WorkerId;
use groundswell_common::run::{RunPhase, RunStatus, Verdict};

use tokio::time::{sleep, timeout};

use crate::fakes::{Behavior, FakeWorker, LIMIT, Stack, request};

async fn ask(stack: &Stack, workers: &[&str], wish: CordonWish) -> Answer<Vec<WorkerStatus>> {
    let request = CordonRequest {
        workers: workers.iter().map(|name| WorkerId::from_lossy(name)).collect(),
        wish,
        by: "ana".to_owned(),
        reason: "new kernel".to_owned(),
    };
    stack.call("cordon", &request).await
}

async fn states(stack: &Stack) -> Vec<String> {
    let workers: Vec<WorkerStatus> = stack.call("workers", &()).await.expect("answered");
    workers.into_iter().map(|worker| worker.state).collect()
}

async fn cancel(stack: &mut Stack, run: &RunStatus) {
    let request = CancelRequest { run: run.run.clone(), kill: true, reason: String::new() };
    let _: RunStatus = stack.call("cancel", &request).await.expect("answered");
    stack.cleaned(run).await;
}

#[tokio::test]
async fn a_cordoned_worker_gets_nothing_new_and_a_run_says_what_it_waits_for() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang, Behavior::Hang]).await;
    let cordoned = ask(&stack, &["w0"], CordonWish::Cordon).await.expect("answered");
    assert_eq!(
        (cordoned[0].state.as_str(), cordoned[0].cordons[0].by.as_str()),
        ("cordoned", "ana")
    );
    let runs = stack.submit(&request(4)).await.expect("accepted");
    let running = stack.until(&runs, |status| status.phase == RunPhase::Running).await;
    assert_eq!(running.workers, [WorkerId::from_lossy("w1")]);

    // It would fit if nobody were cordoned, so it waits however long that takes.
    let waits = stack.submit(&request(12)).await.expect("accepted");
    let said = "needs 12 slots, the cluster has 10; 1 worker is cordoned";
    stack.until(&waits, |status| status.doing == said).await;
    ask(&stack, &["w1"], CordonWish::Cordon).await.expect("answered");
    let said = "no worker is registered; 2 workers are cordoned";
    stack.until(&waits, |status| status.doing == said).await;
    cancel(&mut stack, &runs).await;
    ask(&stack, &["w0", "w1"], CordonWish::Uncordon).await.expect("answered");
    stack.until(&waits, |status| status.phase == RunPhase::Running).await;
    assert_eq!(states(&stack).await, ["ready", "ready"]);
    cancel(&mut stack, &waits).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_cordon_outlives_the_coordinator_and_the_workers_process() {
    let mut stack = Stack::start().await;
    let mut workers = stack.workers(&[Behavior::Succeed]).await;
    ask(&stack, &["w0"], CordonWish::Cordon).await.expect("answered");
    stack.restart().await;
    workers.remove(0).kill().await;
    let _again = FakeWorker::start(&stack, 0, Behavior::Succeed).await;
    assert_eq!(states(&stack).await, ["cordoned"]);
    ask(&stack, &["w0"], CordonWish::Uncordon).await.expect("answered");
    stack.restart().await;
    // The third coordinator has not heard the worker yet.
    let ready = async {
        while states(&stack).await != ["ready"] {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, ready).await.expect("in time");
    let passes = stack.submit(&request(1)).await.expect("accepted");
    let status = stack.cleaned(&passes).await;
    assert_eq!((status.verdict, status.reason.as_str()), (Some(Verdict::Passed), ""));
    stack.stop().await;
}

#[tokio::test]
async fn a_drained_worker_is_empty_when_its_time_is_over() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang, Behavior::Hang]).await;
    let runs = stack.submit(&request(4)).await.expect("accepted");
    stack.until(&runs, |status| status.phase == RunPhase::Running).await;
    let patient = CordonWish::Drain(Drain { deadline: None });
    let left = ask(&stack, &["w0"], patient).await.expect("answered");
    assert_eq!((left[0].state.as_str(), left[0].used), ("draining", 2));
    assert_eq!(left[0].runs, std::slice::from_ref(&runs.run));

    let short = CordonWish::Drain(Drain { deadline: Some(Duration::from_millis(100)) });
    ask(&stack, &["w0"], short).await.expect("answered");
    let status = stack.cleaned(&runs).await;
    assert_eq!(status.verdict, Some(Verdict::Infra));
    let said = "its worker was drained, and the time for that was over (worker w0)";
    assert_eq!(status.reason, said);
    assert_eq!(states(&stack).await, ["drained", "ready"]);
    stack.stop().await;
}

#[tokio::test]
async fn a_worker_that_nobody_knows_is_refused_and_the_others_are_named() {
    let stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang, Behavior::Hang]).await;
    let refused = ask(&stack, &["w0", "rack7"], CordonWish::Cordon).await.expect_err("refused");
    assert_eq!(refused.kind, RefusalKind::NotFound);
    assert_eq!(refused.message, "there is no worker `rack7`");
    assert_eq!(refused.help, "there is `w0`, `w1`");
    assert_eq!(states(&stack).await, ["ready", "ready"], "nothing is changed by half");
    stack.stop().await;
}
