//! A whole worker on a real nats-server, with scripted instances and a coordinator of a few lines.

mod coordinator;
mod fakes;
mod keep;
mod stage;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use groundswell_common::ids::InstanceId;
use groundswell_common::link::NetworkConfig;
use groundswell_common::messages::{InstanceRange, Peer, ShareEvent, Want};
use groundswell_common::outcome::Outcome;
use groundswell_common::outputs::{read_file, read_index};
use groundswell_common::timing::Lease;
use groundswell_worker::runtime::LinkState;
use groundswell_worker::runtime::fake::{Deed, Step};
use groundswell_worker::sync::{LifecycleEvent, SyncEvent};
use stage::{Stage, wait_until};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_share_goes_from_assignment_to_cleaned_and_its_outputs_are_stored() {
    let stage = Stage::new(Lease::DEFAULT, |id| {
        vec![
            Step::Print(format!("hello from {id}")),
            Step::Write("run.out".to_owned(), "done".to_owned()),
            Step::Publish(LifecycleEvent::Success),
            Step::Exit(0),
        ]
    })
    .await;
    let assignment = stage.assignment(2);
    stage.want(1, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| *event == ShareEvent::Prepared).await;
    assert_eq!(stage.runtime.deeds().len(), 2, "made and not started: {:?}", stage.runtime.deeds());
    assert_eq!(stage.sync.calls(), ["network_ready 0 1"]);

    stage.sync.tell(SyncEvent::Started).await;
    let collected = stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    let ShareEvent::Collected { index } = collected else { unreachable!("waited for it") };
    let network = stage.reported(|event| matches!(event, ShareEvent::Network { .. })).await;
    let ShareEvent::Network { report } = network else { unreachable!("waited for it") };
    assert_eq!(report.fates["delivered"], 7);
    let index = read_index(&stage.objects, &index).await.expect("an index");
    let mut stored = BTreeMap::new();
    for entry in &index.files {
        let content = read_file(&stage.objects, entry).await.expect("a file");
        let name = format!("{}/{}/{}", entry.group, entry.in_group, entry.path);
        stored.insert(name, String::from_utf8(content.to_vec()).expect("text"));
    }
    let names: Vec<&str> = stored.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "all/0/run.out",
            "all/0/stderr.log",
            "all/0/stdout.log",
            "all/1/run.out",
            "all/1/stderr.log",
            "all/1/stdout.log"
        ]
    );
    assert_eq!(stored["all/1/stdout.log"], "hello from 1\n");
    let events = format!("runs/{}/1/{}/events.jsonl", assignment.run, stage.worker);
    let events = stage.objects.get(&events).await.expect("answered").expect("stored");
    let events = String::from_utf8(events.to_vec()).expect("text");
    assert_eq!(events.matches("\"instance_ended\"").count(), 2, "{events}");

    stage.want(1, &[]).await;
    stage.reported(|event| *event == ShareEvent::Cleaned).await;
    let ends = stage.ends();
    assert!(ends.values().all(|end| end.outcome == Outcome::Success), "{ends:?}");
    assert_eq!(
        stage.runtime.deeds_to(InstanceId(0)),
        [Deed::Created, Deed::Started, Deed::Removed],
        "started once, and nothing else was done to it"
    );
    assert!(!stage.state_dir().join("spool").join(assignment.run.as_str()).join("1").exists());
    let order: Vec<_> = stage.milestones();
    assert_eq!(order, ["prepared", "started", "collected", "cleaned"]);
    stage.leave().await;
}

#[tokio::test]
async fn an_instance_that_ends_without_a_word_has_failed_and_the_log_hears_of_it() {
    let stage = Stage::new(Lease::DEFAULT, |_| {
        vec![Step::Print("about to give up".to_owned()), Step::Exit(3)]
    })
    .await;
    let assignment = stage.running(1).await;
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    let end = stage.ends()[&InstanceId(0)].clone();
    assert_eq!(end.outcome, Outcome::Failure);
    assert_eq!(end.reason, "ended without outcome, exit code 3");
    assert_eq!(end.last_lines, ["about to give up"]);
    wait_until("gone is written", || {
        stage.sync.calls().iter().any(|call| call.starts_with("gone 0"))
    })
    .await;
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_stop_ends_instances_gracefully_and_collects_what_is_there() {
    let stage = Stage::new(Lease::DEFAULT, |id| {
        let rest = if id.0 == 0 { Step::AwaitTermination } else { Step::Hang };
        vec![Step::Write("half".to_owned(), "half".to_owned()), rest]
    })
    .await;
    stage.sync.waits_in("ready");
    let assignment = stage.running(2).await;
    let stop = Want::Stop { reason: "canceled by alice".to_owned(), outcome: Outcome::Canceled };
    stage.want(1, &[(&assignment, stop)]).await;
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    for end in stage.ends().values() {
        assert_eq!(end.outcome, Outcome::Canceled);
        let text = "canceled by alice; waited in barrier `ready` (1 of 2), missing: instances 1";
        assert_eq!(end.reason, text);
    }
    let deeds = |id| stage.runtime.deeds_to(InstanceId(id));
    assert_eq!(deeds(0), [Deed::Created, Deed::Started, Deed::Terminated]);
    assert_eq!(deeds(1), [Deed::Created, Deed::Started, Deed::Terminated, Deed::Killed]);
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_kill_before_the_start_ends_what_never_ran() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let assignment = stage.assignment(2);
    stage.want(1, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| *event == ShareEvent::Prepared).await;
    let kill = Want::Kill { reason: "canceled".to_owned(), outcome: Outcome::Canceled };
    stage.want(1, &[(&assignment, kill)]).await;
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    let ends = stage.ends();
    assert_eq!(ends.len(), 2);
    assert!(ends.values().all(|end| end.outcome == Outcome::Canceled && end.exit.is_none()));
    stage.clean(&assignment).await;
    assert!(stage.runtime.deeds().iter().all(|(_, deed)| *deed != Deed::Started));
}

#[tokio::test]
async fn a_network_configuration_is_carried_out_in_order_and_one_that_cannot_be_breaks_the_run() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let assignment = stage.running(1).await;
    let instance = InstanceId(0);
    for (state, last) in [("one", 7), ("two", 8), ("refused", 0)] {
        let config = Ok(readdress(state, last));
        stage.sync.tell(SyncEvent::Network { instance, config }).await;
    }
    let broken = stage.reported(|event| matches!(event, ShareEvent::Broken { .. })).await;
    let ShareEvent::Broken { reason, fault_of_plan } = broken else { unreachable!("waited for") };
    assert!(fault_of_plan && reason.contains("16.0.1.0 is not an address"), "{reason}");
    let link = |last| {
        Deed::Linked(LinkState { up: true, address: Ipv4Addr::new(16, 0, 1, last), prefix: 16 })
    };
    assert_eq!(stage.runtime.deeds_to(instance), [Deed::Created, Deed::Started, link(7), link(8)]);
    assert_eq!(stage.sync.calls(), ["network_ready 0", "configured 0 one", "configured 0 two"]);
    stage.clean(&assignment).await;
}

fn readdress(callback_state: &str, last: u8) -> NetworkConfig {
    NetworkConfig {
        enable: true,
        ipv4: Some(Ipv4Addr::new(16, 0, 1, last)),
        default: groundswell_common::link::LinkShape::default(),
        rules: Vec::new(),
        callback_state: callback_state.to_owned(),
        routing_policy: groundswell_common::link::RoutingPolicy::DenyAll,
    }
}

#[tokio::test]
async fn between_workers_an_address_is_claimed_until_there_is_an_answer() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let mut assignment = stage.assignment(1);
    assignment.total_instances = 2;
    assignment.peers = vec![Peer {
        worker: "w2".parse().expect("an id"),
        overlay: Some(([127, 0, 0, 1], 4790).into()),
        share: vec![InstanceRange { group: 0, first: InstanceId(1), first_in_group: 1, count: 1 }],
    }];
    let assignment = stage.running_as(assignment).await;
    let instance = InstanceId(0);
    for (state, last) in [("one", 7), ("the same again", 7), ("refused", 9)] {
        let config = Ok(readdress(state, last));
        stage.sync.tell(SyncEvent::Network { instance, config }).await;
    }
    let broken = stage.reported(|event| matches!(event, ShareEvent::Broken { .. })).await;
    let ShareEvent::Broken { reason, fault_of_plan } = broken else { unreachable!("waited for") };
    assert!(fault_of_plan && reason.contains("taken by instance 1"), "{reason}");
    let claims = stage.coordinator.claims.lock().expect("not poisoned").clone();
    let asked: Vec<u8> = claims.iter().map(|claim| claim.address.octets()[3]).collect();
    assert_eq!(asked, [7, 7, 7, 9]);
    let calls = stage.sync.calls();
    assert_eq!(calls, ["network_ready 0", "configured 0 one", "configured 0 the same again"]);
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_the_plans_fault() {
    let stage = Stage::new(Lease::DEFAULT, |_| Vec::new()).await;
    let mut assignment = stage.assignment(2);
    assignment.groups[0].image.command = vec!["absent".to_owned()];
    stage.want(1, &[(&assignment, Want::Run)]).await;
    let failed = stage.reported(|event| matches!(event, ShareEvent::PrepareFailed { .. })).await;
    let reason = "there is no command `absent`".to_owned();
    assert_eq!(failed, ShareEvent::PrepareFailed { reason, fault_of_plan: true });
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_worker_that_nobody_answers_kills_its_instances_and_tells_later() {
    let stage = Stage::new(Lease::DEFAULT.faster(20), |_| vec![Step::Hang]).await;
    let assignment = stage.running(2).await;
    stage.coordinator.answers.store(false, Ordering::SeqCst);
    wait_until("both are killed", || {
        let killed = |(_, deed): &&(InstanceId, Deed)| *deed == Deed::Killed;
        stage.runtime.deeds().iter().filter(killed).count() == 2
    })
    .await;
    stage.coordinator.answers.store(true, Ordering::SeqCst);
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    assert!(stage.ends().values().all(|end| end.outcome == Outcome::Lost));
    stage.reported(|event| matches!(event, ShareEvent::Warning { .. })).await;
    stage.clean(&assignment).await;
}

#[tokio::test]
async fn a_former_leader_is_not_obeyed_and_a_lost_report_comes_again() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    stage.coordinator.drops_reports.store(2, Ordering::SeqCst);
    let assignment = stage.assignment(1);
    stage.want(5, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| *event == ShareEvent::Prepared).await;
    stage.want(4, &[]).await;
    let late = stage.assignment(1);
    stage.want(5, &[(&assignment, Want::Run), (&late, Want::Run)]).await;
    wait_until("the other share is prepared", || {
        stage.milestones().iter().filter(|name| **name == "prepared").count() == 2
    })
    .await;
    assert!(!stage.milestones().contains(&"cleaned"));
    stage.leave().await;
}

#[tokio::test]
async fn a_worker_that_leaves_ends_collects_and_cleans_what_it_has() {
    let stage = Stage::new(Lease::DEFAULT, |_| {
        vec![Step::AwaitTermination, Step::Publish(LifecycleEvent::Failure("signal".to_owned()))]
    })
    .await;
    stage.running(3).await;
    let coordinator = Arc::clone(&stage.coordinator);
    stage.leave().await;
    let ends = coordinator.ends();
    assert_eq!(ends.len(), 3);
    assert!(ends.values().all(|end| end.outcome == Outcome::Aborted), "{ends:?}");
    assert_eq!(coordinator.milestones(), ["prepared", "started", "collected", "cleaned"]);
}

#[tokio::test]
async fn an_attempt_that_was_started_in_an_earlier_life_is_lost_and_never_started_again() {
    let stage = Stage::new(Lease::DEFAULT, |_| vec![Step::Hang]).await;
    let assignment = stage.assignment(1);
    let marker = stage.state_dir().join(format!("started/{}.1", assignment.run));
    std::fs::write(&marker, "").expect("written");
    stage.want(1, &[(&assignment, Want::Run)]).await;
    stage.reported(|event| matches!(event, ShareEvent::Broken { fault_of_plan: false, .. })).await;
    assert_eq!(stage.ends()[&InstanceId(0)].outcome, Outcome::Lost);
    stage.clean(&assignment).await;
    assert_eq!(stage.runtime.deeds(), []);
    assert!(!marker.exists());
}
