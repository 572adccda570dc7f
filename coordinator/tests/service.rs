//! The service on a real nats-server, with workers that speak the wire and run nothing.

#[path = "service/cordons.rs"]
mod cordons;
#[path = "service/failover.rs"]
mod failover;
mod fakes;
#[path = "service/queue.rs"]
mod queue;

use std::net::Ipv4Addr;
use std::time::Duration;

use fakes::{Behavior, FakeWorker, Stack, request};
use futures::StreamExt as _;
use groundswell_common::api::{
    CancelRequest, RefusalKind, RunRequest, RunsRequest, SubmitRequest, WorkerStatus,
};
use groundswell_common::bus::decode;
use groundswell_common::fidelity::Grade;
use groundswell_common::ids::{Attempt, InstanceId};
use groundswell_common::messages::{AddressAnswer, AddressChange, AddressClaim, AddressTaken};
use groundswell_common::outcome::Outcome;
use groundswell_common::run::{RunEvent, RunPhase, RunRecord, RunStatus, Verdict};
use groundswell_coordinator::ledger::LedgerError;
use groundswell_coordinator::service::{Service, ServiceError};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_run_passes_and_its_record_tells_everything() {
    let mut stack = Stack::start().await;
    let workers = stack.workers(&[Behavior::Succeed, Behavior::Succeed]).await;
    let accepted = stack.submit(&request(5)).await.expect("accepted");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Passed), "{}", status.reason);
    assert_eq!(status.groups[0].1.success, 5);
    assert_eq!(status.workers.len(), 2);

    let json = stack.object(&format!("runs/{}/record.json", accepted.run)).await;
    let record: RunRecord = serde_json::from_slice(&json).expect("a record");
    assert_eq!(record.status.verdict, Some(Verdict::Passed));
    assert_eq!(record.status.phase, RunPhase::Finished);
    assert_eq!(record.ends.len(), 5);
    assert_eq!(record.indexes.len(), 2);
    // Every report comes twice here and counts once.
    let network = status.network.expect("both workers have measured");
    assert_eq!((network.packets, network.grade), (20, Grade::Exact), "{network:?}");
    assert_eq!(record.status.network, Some(network));
    assert_eq!(record.network_reports.len(), 2);
    assert_eq!(record.subnet.to_string(), "16.0.0.0/16");
    assert_eq!(record.groups[0].image, fakes::image());
    let sizes: Vec<u32> =
        record.placement.iter().map(|(_, ranges)| ranges.iter().map(|r| r.count).sum()).collect();
    assert_eq!(sizes, [3, 2]);

    let events = stack.object(&format!("runs/{}/events.jsonl", accepted.run)).await;
    let kinds: Vec<String> = String::from_utf8(events)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str::<RunEvent>(line).expect("an event").kind)
        .collect();
    for kind in ["phase", "build", "from_worker", "network", "verdict"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} in {kinds:?}");
    }
    let composition = stack.object(&format!("runs/{}/composition.toml", accepted.run)).await;
    assert_eq!(composition, b"composition");
    assert_eq!(stack.logs.calls(&accepted.run), ["create", "start", "delete"]);
    workers[0].until_unassigned().await;
    stack.stop().await;
}

#[tokio::test]
async fn a_failed_instance_makes_the_run_fail() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Succeed, Behavior::FailFirst]).await;
    let accepted = stack.submit(&request(4)).await.expect("accepted");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Failed));
    assert_eq!(status.reason, "1 of 4 instances did not succeed; the first is all[2]: broken");
    assert_eq!(status.failures.len(), 1);
    stack.stop().await;
}

#[tokio::test]
async fn a_worker_that_goes_silent_ends_its_run_as_infrastructure_failure() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang, Behavior::GoSilent]).await;
    let accepted = stack.submit(&request(4)).await.expect("accepted");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Infra));
    assert!(status.reason.starts_with("worker w1 was not heard for "), "{}", status.reason);
    let counts = status.groups[0].1;
    assert_eq!((counts.lost, counts.aborted), (2, 2));
    let listed: Vec<WorkerStatus> = stack.call("workers", &()).await.expect("answered");
    let states: Vec<&str> = listed.iter().map(|worker| worker.state.as_str()).collect();
    assert_eq!(states, ["ready", "lost"]);
    stack.stop().await;
}

#[tokio::test]
async fn a_run_that_tolerates_the_loss_passes_without_what_is_lost() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Succeed, Behavior::GoSilent]).await;
    let tolerant = SubmitRequest { composition: "tolerate(50%)".to_owned(), ..request(4) };
    let accepted = stack.submit(&tolerant).await.expect("accepted");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Passed), "{}", status.reason);
    let counts = status.groups[0].1;
    assert_eq!((counts.success, counts.lost), (2, 2));
    assert!(status.warnings.iter().any(|text| text.contains("2 of 4 are lost")), "{status:?}");
    assert!(stack.logs.calls(&accepted.run).contains(&"mark gone"));
    stack.stop().await;
}

#[tokio::test]
async fn a_run_is_tried_again_on_the_workers_that_are_left() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Succeed, Behavior::GoSilent]).await;
    let again = SubmitRequest { composition: "retry_run(1)".to_owned(), ..request(4) };
    let accepted = stack.submit(&again).await.expect("accepted");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Passed), "{}", status.reason);
    assert_eq!(status.groups[0].1.success, 4);
    assert_eq!(status.workers.len(), 1);
    let first = "attempt 1 was an infrastructure failure: worker w1";
    assert!(status.warnings.iter().any(|text| text.starts_with(first)), "{status:?}");
    let calls = stack.logs.calls(&accepted.run);
    assert_eq!(calls, ["create", "start", "delete", "create", "start", "delete"]);
    let json = stack.object(&format!("runs/{}/record.json", accepted.run)).await;
    let record: RunRecord = serde_json::from_slice(&json).expect("a record");
    assert_eq!((record.attempt, record.ends.len()), (Attempt(2), 4));
    stack.stop().await;
}

#[tokio::test]
async fn a_restarted_worker_ends_its_run_as_infrastructure_failure_at_once() {
    let mut stack = Stack::start().await;
    let mut workers = stack.workers(&[Behavior::Hang]).await;
    let accepted = stack.submit(&request(2)).await.expect("accepted");
    stack.until(&accepted, |status| status.phase == RunPhase::Running).await;
    workers.remove(0).kill().await;
    let _again = FakeWorker::start(&stack, 0, Behavior::Succeed).await;
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Infra));
    assert!(status.reason.starts_with("worker w0 was restarted"), "{}", status.reason);
    stack.stop().await;
}

#[tokio::test]
async fn a_canceled_run_is_stopped_and_collected() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang]).await;
    let accepted = stack.submit(&request(3)).await.expect("accepted");
    stack.until(&accepted, |status| status.phase == RunPhase::Running).await;
    let cancel =
        CancelRequest { run: accepted.run.clone(), kill: false, reason: "asked".to_owned() };
    let answered: RunStatus = stack.call("cancel", &cancel).await.expect("answered");
    assert_eq!(answered.run, accepted.run);
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Canceled));
    assert_eq!(status.reason, "asked");
    assert_eq!(status.groups[0].1.canceled, 3);
    assert!(status.failures.iter().all(|(_, _, _, end)| end.outcome == Outcome::Canceled));
    stack.stop().await;
}

#[tokio::test]
async fn a_run_waits_for_room_and_one_that_never_fits_is_unplaceable() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang]).await;
    let first = stack.submit(&request(6)).await.expect("accepted");
    stack.until(&first, |status| status.phase == RunPhase::Running).await;
    let second = stack.submit(&request(6)).await.expect("accepted");
    let waiting = stack.until(&second, |status| status.phase == RunPhase::Queued).await;
    assert!(waiting.verdict.is_none());
    let said = "needs 6 slots, 4 of the cluster's 10 are free";
    stack.until(&second, |status| status.doing == said).await;
    for run in [&first, &second] {
        stack.until(run, |status| status.phase == RunPhase::Running).await;
        let cancel = CancelRequest { run: run.run.clone(), kill: true, reason: String::new() };
        let _: RunStatus = stack.call("cancel", &cancel).await.expect("answered");
        stack.cleaned(run).await;
    }
    let third = stack.submit(&request(11)).await.expect("accepted");
    let status = stack.cleaned(&third).await;
    assert_eq!(status.verdict, Some(Verdict::Unplaceable));
    assert_eq!(status.reason, "needs 11 slots, the cluster has 10");
    stack.stop().await;
}

#[tokio::test]
async fn a_plan_that_does_not_build_is_rejected_and_a_wrong_request_is_refused() {
    let mut stack = Stack::start().await;
    let mut broken = request(1);
    broken.manifest = "does not build".to_owned();
    let accepted = stack.submit(&broken).await.expect("accepted");
    let status = stack.cleaned(&accepted).await;
    assert_eq!(status.verdict, Some(Verdict::Rejected));
    assert_eq!(status.reason, "it does not build");

    let mut wrong = request(1);
    wrong.manifest = "wrong".to_owned();
    let refusal = stack.submit(&wrong).await.expect_err("refused");
    assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Invalid, "unknown case"));
    let refusal = stack.submit(&request(0)).await.expect_err("refused");
    assert_eq!(refusal.message, "the run has no instances");
    stack.stop().await;
}

#[tokio::test]
async fn runs_are_found_by_name_by_prefix_and_after_a_restart_from_their_records() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Succeed]).await;
    let accepted = stack.submit(&request(1)).await.expect("accepted");
    stack.cleaned(&accepted).await;
    stack.restart().await;
    for selector in ["latest", &accepted.name, &accepted.run.as_str()[..12]] {
        let asked = RunRequest { selector: selector.to_owned() };
        let found: RunStatus = stack.call("run", &asked).await.expect("found");
        assert_eq!((found.run, found.verdict), (accepted.run.clone(), Some(Verdict::Passed)));
    }
    let listed: Vec<RunStatus> =
        stack.call("runs", &RunsRequest { limit: 10, before: None }).await.expect("answered");
    assert_eq!(listed.len(), 1);
    let unknown = RunRequest { selector: "nobody".to_owned() };
    let refusal = stack.call::<RunStatus>("run", &unknown).await.expect_err("unknown");
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    stack.stop().await;
}

#[tokio::test]
async fn a_run_that_a_coordinator_leaves_behind_gets_its_verdict_from_the_next() {
    let mut stack = Stack::start().await;
    let workers = stack.workers(&[Behavior::Hang]).await;
    let accepted = stack.submit(&request(2)).await.expect("accepted");
    stack.until(&accepted, |status| status.phase == RunPhase::Running).await;
    stack.restart().await;
    let asked = RunRequest { selector: accepted.run.to_string() };
    let found: RunStatus = stack.call("run", &asked).await.expect("found");
    assert_eq!(found.verdict, Some(Verdict::Infra));
    assert_eq!(found.reason, "the coordinator ended while the run was under way");
    assert_eq!(found.groups[0].1.aborted, 2);
    assert_eq!(stack.logs.calls(&accepted.run), ["create", "start", "delete"]);
    // The worker registers with the new coordinator and finds nothing assigned.
    workers[0].until_unassigned().await;
    stack.stop().await;
}

#[tokio::test]
async fn a_second_coordinator_is_refused_while_the_first_is_at_work() {
    let stack = Stack::start().await;
    let second = Service::start(stack.config("second"), CancellationToken::new());
    let refused = tokio::time::timeout(Duration::from_secs(10), second).await.expect("in time");
    let Err(ServiceError::Ledger(LedgerError::Occupied { name })) = refused else {
        panic!("not refused");
    };
    assert_eq!(name, "first");
    stack.stop().await;
}

#[tokio::test]
async fn an_address_is_granted_when_every_other_worker_has_heard_of_it() {
    let mut stack = Stack::start().await;
    let _workers = stack.workers(&[Behavior::Hang, Behavior::Hang]).await;
    let mut changes = stack.bus.client().subscribe("gs.v1.address.w1").await.expect("subscribed");
    let accepted = stack.submit(&request(4)).await.expect("accepted");
    stack.until(&accepted, |status| status.phase == RunPhase::Running).await;

    let claim = |instance, last| AddressClaim {
        run: accepted.run.clone(),
        attempt: Attempt::FIRST,
        instance: InstanceId(instance),
        address: Ipv4Addr::new(16, 0, 1, last),
    };
    let ask = |worker: &str, claim: AddressClaim| {
        let (bus, subject) = (stack.bus.clone(), format!("gs.v1.claim.{worker}"));
        async move { bus.request::<AddressAnswer>(subject, &claim).await.expect("answered") }
    };
    let bus = stack.bus.clone();
    let mut told = async || {
        let message = changes.next().await.expect("told");
        let change: AddressChange = decode(&message.payload).expect("a change");
        bus.reply(&message, &AddressTaken { version: change.version }).await;
        (change.instance.0, change.version, change.address.octets()[3])
    };
    // Instances 0 and 1 are on w0, the others on w1.
    assert_eq!(tokio::join!(ask("w0", claim(0, 1)), told()), (AddressAnswer::Granted, (0, 1, 1)));
    // Its answer was lost: the same change, told again.
    assert_eq!(tokio::join!(ask("w0", claim(0, 1)), told()), (AddressAnswer::Granted, (0, 1, 1)));
    assert_eq!(tokio::join!(ask("w0", claim(1, 2)), told()), (AddressAnswer::Granted, (1, 2, 2)));
    // w0 does not listen here, so the answer is to ask again.
    assert_eq!(ask("w1", claim(2, 3)).await, AddressAnswer::Pending);
    for (worker, claim, why) in [
        ("w1", claim(3, 1), "taken by instance 0"),
        ("w1", claim(3, 3), "taken by instance 2"),
        ("w1", claim(0, 7), "not on worker w1"),
        ("w0", claim(9, 7), "not on worker w0"),
        ("w1", AddressClaim { attempt: Attempt(2), ..claim(3, 8) }, "is over"),
        ("w1", AddressClaim { address: [17, 0, 0, 2].into(), ..claim(3, 8) }, "subnet"),
    ] {
        let answer = ask(worker, claim).await;
        assert!(
            matches!(&answer, AddressAnswer::Refused { reason } if reason.contains(why)),
            "{answer:?}"
        );
    }
    let cancel =
        CancelRequest { run: accepted.run.clone(), kill: true, reason: "enough".to_owned() };
    let _: RunStatus = stack.call("cancel", &cancel).await.expect("answered");
    stack.cleaned(&accepted).await;
    stack.stop().await;
}
