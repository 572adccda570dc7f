//! The queue of a service on a real nats-server: who goes first, who waits, who is replaced or refused.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fakes::{self, Behavior, Stack, request};
use groundswell_common::api::{CancelRequest, RefusalKind, SubmitRequest};
use groundswell_common::queue::{Priority, PriorityRequest, QueueEntry};
use groundswell_common::run::{RunPhase, RunStatus, SourceInfo, Verdict};
use groundswell_coordinator::queue::Policy;
use groundswell_coordinator::queue::policy::{Quota, Team};

/// How often the queue is asked for until it is as it should be.
const ASKED: u32 = 3_000;

fn of_team(team: &str, instances: u32) -> SubmitRequest {
    let mut request = request(instances);
    request.queue.team = Some(team.to_owned());
    request
}

/// A stack whose one worker has 10 slots, all of them held by a run of team `a`.
async fn full(policy: Policy) -> (Stack, fakes::FakeWorker, RunStatus) {
    let mut stack = Stack::start_with(policy).await;
    let worker = stack.workers(&[Behavior::Hang]).await.remove(0);
    let first = stack.submit(&of_team("a", 10)).await.expect("accepted");
    stack.until(&first, |status| status.phase == RunPhase::Running).await;
    (stack, worker, first)
}

/// Waits until these runs, in this order, are the queue.
async fn until_queue(stack: &Stack, runs: &[&RunStatus]) -> Vec<QueueEntry> {
    let mut found = Vec::new();
    for _ in 0..ASKED {
        found = stack.call::<Vec<QueueEntry>>("queue", &()).await.expect("answered");
        if found.iter().map(|entry| &entry.run).eq(runs.iter().map(|status| &status.run)) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the queue is {found:?}");
}

async fn cancel(stack: &mut Stack, run: &RunStatus) {
    let request = CancelRequest { run: run.run.clone(), kill: true, reason: "enough".to_owned() };
    let _: RunStatus = stack.call("cancel", &request).await.expect("answered");
    stack.cleaned(run).await;
}

#[tokio::test]
async fn the_team_that_had_less_goes_first() {
    let (mut stack, _worker, first) = full(Policy::default()).await;
    let of_a = stack.submit(&of_team("a", 10)).await.expect("accepted");
    stack.until(&of_a, |status| status.phase == RunPhase::Queued).await;
    let of_b = stack.submit(&of_team("b", 10)).await.expect("accepted");
    let queue = until_queue(&stack, &[&of_b, &of_a]).await;
    assert_eq!((queue[0].place, queue[0].team.as_str(), queue[0].instances), (1, "b", 10));
    assert_eq!(queue[0].reason, "needs 10 slots, 0 of the cluster's 10 are free");
    let said = "number 1 of 2 in the queue: needs 10 slots, 0 of the cluster's 10 are free";
    stack.until(&of_b, |status| status.doing == said).await;

    cancel(&mut stack, &first).await;
    stack.until(&of_b, |status| status.phase == RunPhase::Running).await;
    let waits = stack.until(&of_a, |status| status.phase == RunPhase::Queued).await;
    assert_eq!(waits.verdict, None);
    cancel(&mut stack, &of_a).await;
    cancel(&mut stack, &of_b).await;
    stack.stop().await;
}

#[tokio::test]
async fn what_a_team_has_used_is_known_after_a_restart() {
    let (mut stack, _worker, _) = full(Policy::default()).await;
    stack.restart().await;
    let mut filler = stack.submit(&of_team("c", 10)).await.expect("accepted");
    filler = stack.until(&filler, |status| status.phase == RunPhase::Running).await;
    let of_a = stack.submit(&of_team("a", 10)).await.expect("accepted");
    let of_b = stack.submit(&of_team("b", 10)).await.expect("accepted");
    until_queue(&stack, &[&of_b, &of_a]).await;
    for run in [&of_a, &of_b, &filler] {
        cancel(&mut stack, run).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_short_run_starts_before_the_first_one_and_a_long_one_does_not() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang]).await;
    let with = |instances, minutes: u64| SubmitRequest {
        timeout: Some(Duration::from_secs(60 * minutes)),
        ..request(instances)
    };
    let runs = stack.submit(&with(6, 10)).await.expect("accepted");
    stack.until(&runs, |status| status.phase == RunPhase::Running).await;
    let head = stack.submit(&with(8, 10)).await.expect("accepted");
    until_queue(&stack, &[&head]).await;
    let long = stack.submit(&with(4, 20)).await.expect("accepted");
    let queue = until_queue(&stack, &[&head, &long]).await;
    let says =
        format!("{} goes first, within 11m, and this run may take longer than that", head.name);
    assert_eq!(queue[1].reason, says);
    let short = stack.submit(&with(4, 1)).await.expect("accepted");
    stack.until(&short, |status| status.phase == RunPhase::Running).await;
    until_queue(&stack, &[&head, &long]).await;
    for run in [&long, &head, &short, &runs] {
        cancel(&mut stack, run).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_newer_run_of_a_branch_replaces_the_one_that_waits() {
    let (mut stack, _worker, first) = full(Policy::default()).await;
    let of_branch = |branch: &str, commit: &str, replace| {
        let mut request = request(1);
        request.source_info = SourceInfo {
            repo: "github.com/x/y".to_owned(),
            branch: branch.to_owned(),
            commit: commit.to_owned(),
            dirty: false,
        };
        request.queue.replace = replace;
        request
    };
    let older = stack.submit(&of_branch("main", "1", true)).await.expect("accepted");
    let other = stack.submit(&of_branch("dev", "1", true)).await.expect("accepted");
    let asks_nothing = stack.submit(&of_branch("main", "2", false)).await.expect("accepted");
    until_queue(&stack, &[&older, &other, &asks_nothing]).await;
    let newer = stack.submit(&of_branch("main", "3", true)).await.expect("accepted");
    for replaced in [&older, &asks_nothing] {
        let status = stack.cleaned(replaced).await;
        assert_eq!(status.verdict, Some(Verdict::Canceled));
        assert_eq!(status.reason, format!("replaced by {} of the same branch", newer.name));
    }
    until_queue(&stack, &[&other, &newer]).await;
    for run in [&other, &newer, &first] {
        cancel(&mut stack, run).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn the_same_key_with_the_same_content_is_the_same_run() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Succeed]).await;
    let mut asked = request(2);
    asked.queue.key = Some("job 17".to_owned());
    let accepted = stack.submit(&asked).await.expect("accepted");
    asked.queue.priority = Some(Priority::Batch);
    let again = stack.submit(&asked).await.expect("the same run");
    assert_eq!(again.run, accepted.run, "how urgent it is makes no other run");
    stack.cleaned(&accepted).await;

    stack.restart().await;
    let again = stack.submit(&asked).await.expect("the same run");
    assert_eq!((again.run, again.verdict), (accepted.run.clone(), Some(Verdict::Passed)));
    asked.seed = Some(1);
    let refused = stack.submit(&asked).await.expect_err("another content");
    assert_eq!(refused.kind, RefusalKind::Invalid);
    assert!(refused.message.contains(accepted.run.as_str()), "{}", refused.message);
    stack.stop().await;
}

#[tokio::test]
async fn a_team_has_no_more_than_its_quota() {
    let quota = Quota { instances: Some(5), queued: Some(1), ..Quota::default() };
    let core = Team { quota, ..Team::default() };
    let teams = BTreeMap::from([("core".to_owned(), core)]);
    let mut stack = Stack::start_with(Policy { teams, ..Policy::default() }).await;
    let _workers = stack.workers(&[Behavior::Hang]).await;
    let refused = stack.submit(&of_team("core", 6)).await.expect_err("too many");
    assert_eq!(refused.kind, RefusalKind::Unplaceable);
    assert_eq!(refused.message, "needs 6 slots, the cluster has 10, the quota of team `core` is 5");
    let refused = stack.submit(&of_team("cora", 1)).await.expect_err("no such team");
    assert_eq!(refused.message, "there is no team `cora`");

    let runs = stack.submit(&of_team("core", 3)).await.expect("accepted");
    stack.until(&runs, |status| status.phase == RunPhase::Running).await;
    let waits = stack.submit(&of_team("core", 3)).await.expect("accepted");
    let queue = until_queue(&stack, &[&waits]).await;
    assert_eq!(queue[0].reason, "team `core` has 3 of its 5 instances, and this run needs 3");
    let refused = stack.submit(&of_team("core", 1)).await.expect_err("one waits already");
    assert_eq!(refused.kind, RefusalKind::Unavailable);
    let other = stack.submit(&request(7)).await.expect("accepted");
    stack.until(&other, |status| status.phase == RunPhase::Running).await;
    for run in [&waits, &runs, &other] {
        cancel(&mut stack, run).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_run_that_waits_can_be_made_more_urgent() {
    let (mut stack, _worker, first) = full(Policy::default()).await;
    let one = stack.submit(&request(1)).await.expect("accepted");
    until_queue(&stack, &[&one]).await;
    let mut batch = request(1);
    batch.queue.priority = Some(Priority::Batch);
    let two = stack.submit(&batch).await.expect("accepted");
    until_queue(&stack, &[&one, &two]).await;
    let asked = PriorityRequest { run: two.run.clone(), priority: Priority::Interactive };
    let _: RunStatus = stack.call("priority", &asked).await.expect("answered");
    let queue = until_queue(&stack, &[&two, &one]).await;
    assert_eq!(queue[0].priority, Priority::Interactive);
    let asked = PriorityRequest { run: first.run.clone(), priority: Priority::Batch };
    let refused = stack.call::<RunStatus>("priority", &asked).await.expect_err("it runs");
    assert!(refused.message.ends_with("does not wait"), "{}", refused.message);
    for run in [&one, &two, &first] {
        cancel(&mut stack, run).await;
    }
    stack.stop().await;
}
