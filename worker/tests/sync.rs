//! Sync from a socket to the log and back, against a real nats-server.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the test client writes small lengths it has just compared"
)]

mod sessions;
mod sync_client;

use std::collections::BTreeSet;

use groundswell_common::ids::{Attempt, Epoch, InstanceId};
use groundswell_common::sync::{Control, append_control, create_log, delete_log};
use groundswell_worker::sync::{LifecycleEvent, SyncEvent, SyncLimits};
use sync_client::{Client, PREFIX, Run};
use tokio::io::AsyncReadExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_those_that_were_recorded() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    let recorded = [
        (
            true,
            r#"{"publish":{"topic":"@topics:peers","payload":{"ID":"js-1","Addrs":["/ip4/127.0.0.1/tcp/1"]}},"id":"7"}"#,
            r#"{"id":"7","error":"","publish":{"seq":1},"subscribe":"","signal_entry":null}"#,
        ),
        (
            true,
            r#"{"subscribe":{"topic":"@topics:peers"},"id":"8"}"#,
            r#"{"id":"8","error":"","publish":null,"subscribe":"{\"ID\":\"js-1\",\"Addrs\":[\"/ip4/127.0.0.1/tcp/1\"]}","signal_entry":null}"#,
        ),
        (
            false,
            r#"{"id":"3","is_cancel":false,"signal_entry":{"state":"@states:initialized_global"}}"#,
            r#"{"id":"3","error":"","publish":null,"subscribe":"","signal_entry":{"seq":1}}"#,
        ),
        (
            false,
            r#"{"id":"4","is_cancel":false,"barrier":{"state":"@states:initialized_global","target":1}}"#,
            r#"{"id":"4","error":"","publish":null,"subscribe":"","signal_entry":null}"#,
        ),
    ];
    for (text, sent, expected) in recorded {
        let sent = sent.replace('@', PREFIX);
        if text {
            client.text(&sent).await
        } else {
            client.binary(&sent).await
        }
        assert_eq!(client.message().await, expected);
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_agree_on_ordinals_and_on_the_order_of_topics() {
    const EACH: u64 = 50;
    let run = Run::new(3).await;
    let gateways = [run.gateway(0, 1).await, run.gateway(1, 1).await, run.gateway(2, 1).await];
    let mut clients = Vec::new();
    for number in 0..9_u32 {
        let gateway = &gateways[number as usize % 3];
        clients.push((gateway.client(number).await, number));
    }
    let mut parts = tokio::task::JoinSet::new();
    for (mut client, number) in clients {
        parts.spawn(async move {
            let mut ordinals = Vec::new();
            let mut positions = Vec::new();
            for round in 0..EACH {
                ordinals.push(client.signal("all").await);
                let payload = format!(r#"{{"from":{number},"round":{round}}}"#);
                positions.push((client.publish("topics:t", &payload).await, payload));
            }
            client.barrier("all", 9 * EACH as i64).await;
            client.subscribe("topics:t").await;
            let mut items = Vec::new();
            for _ in 0..9 * EACH {
                items.push(client.item().await);
            }
            (ordinals, positions, items)
        });
    }
    let parts = parts.join_all().await;
    let ordinals: BTreeSet<u64> = parts.iter().flat_map(|part| part.0.clone()).collect();
    assert_eq!(ordinals, (1..=9 * EACH).collect());
    for (_, positions, items) in &parts {
        assert_eq!(items, &parts[0].2, "one order everywhere");
        for (position, payload) in positions {
            assert_eq!(&items[*position as usize - 1], payload);
        }
    }
    for gateway in gateways {
        gateway.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_signal_is_there_after_its_barrier() {
    let run = Run::new(2).await;
    let (here, there) = (run.gateway(0, 1).await, run.gateway(1, 1).await);
    let mut publisher = here.client(0).await;
    let mut reader = there.client(1).await;
    for round in 0..20 {
        reader.begin_barrier(&format!("round-{round}"), 1).await;
        publisher.publish(&format!("topics:t{round}"), "1").await;
        publisher.begin_signal(&format!("round-{round}")).await;
        reader.message().await;
        // Nothing but the item may come first: it is in the worker's own copy already.
        reader.subscribe(&format!("topics:t{round}")).await;
        assert_eq!(reader.item().await, "1");
        publisher.message().await;
    }
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_comes_late_replays_from_the_start() {
    let mut run = Run::new(2).await;
    let first = run.gateway(0, 1).await;
    let mut client = first.client(0).await;
    for n in 0..100 {
        client.publish("topics:t", &n.to_string()).await;
        client.signal("s").await;
    }
    first.close().await;
    run.server.kill().await.expect("killed");
    run.server.restart().await.expect("up again");

    let late = run.gateway(1, 1).await;
    let mut client = late.client(1).await;
    client.barrier("s", 100).await;
    client.subscribe("topics:t").await;
    for n in 0..100 {
        assert_eq!(client.item().await, n.to_string());
    }
    assert_eq!(client.signal("s").await, 101);
    late.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sockets_of_one_instance_have_ids_of_their_own() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let address = gateway.serve(0).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(address).await);
    }
    for client in &mut clients {
        client.begin_signal("s").await;
        client.begin_barrier("s", 20).await;
    }
    let mut ordinals = BTreeSet::new();
    for client in &mut clients {
        let answer = client.response().await;
        assert_eq!(answer["id"], "0");
        ordinals.insert(answer["signal_entry"]["seq"].as_u64().expect("a signal's answer"));
        assert_eq!(client.response().await["id"], "1");
    }
    assert_eq!(ordinals, (1..=20).collect());
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_and_doubles_nothing() {
    const EACH: u64 = 300;
    let mut run = Run::new(2).await;
    let gateways = [run.gateway(0, 1).await, run.gateway(1, 1).await];
    let mut parts = tokio::task::JoinSet::new();
    let (half, mut halfway) = tokio::sync::mpsc::channel(8);
    for number in 0..4_u32 {
        let mut client = gateways[number as usize % 2].client(number).await;
        let half = half.clone();
        parts.spawn(async move {
            let mut ordinals = Vec::new();
            for round in 0..EACH {
                ordinals.push(client.signal("s").await);
                client.publish("topics:t", &format!("[{number},{round}]")).await;
                if round == EACH / 3 {
                    half.send(()).await.expect("the test waits");
                }
            }
            client.barrier("s", 4 * EACH as i64).await;
            client.subscribe("topics:t").await;
            let mut items = Vec::new();
            for _ in 0..4 * EACH {
                items.push(client.item().await);
            }
            (ordinals, items)
        });
    }
    halfway.recv().await.expect("halfway");
    run.server.kill().await.expect("killed");
    run.server.restart().await.expect("up again");
    let parts = parts.join_all().await;
    let ordinals: Vec<u64> = parts.iter().flat_map(|part| part.0.clone()).collect();
    assert_eq!(ordinals.len() as u64, 4 * EACH);
    assert_eq!(ordinals.into_iter().collect::<BTreeSet<_>>(), (1..=4 * EACH).collect());
    for (_, items) in &parts {
        assert_eq!(items, &parts[0].1);
        assert_eq!(items.iter().collect::<BTreeSet<_>>().len() as u64, 4 * EACH);
    }
    for gateway in gateways {
        gateway.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_or_not_a_request_is_refused_and_the_rest_goes_on() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    client
        .text(
            r#"{"id":"0","signal_entry":{"state":"run:other:plan:probe:case:ping-pong:states:s"}}"#,
        )
        .await;
    let answer = client.response().await;
    let error: String =
        serde_json::from_str(answer["error"].as_str().expect("text")).expect("JSON in itself");
    assert!(error.contains("not of this run"), "{error}");
    client.text("null").await;
    assert_ne!(client.response().await["error"], "");
    let large = format!(
        r#"{{"id":"1","publish":{{"topic":"{PREFIX}topics:t","payload":"{}"}}}}"#,
        "x".repeat(300_000)
    );
    client.text(&large).await;
    assert_ne!(client.response().await["error"], "");
    client.frame(0x89, b"are you there").await;
    assert_eq!(client.receive().await, (0x8a, b"are you there".to_vec()));
    // A message in three frames.
    let whole = format!(r#"{{"id":"5","signal_entry":{{"state":"{PREFIX}states:s"}}}}"#);
    let (start, end) = whole.as_bytes().split_at(10);
    client.frame(0x01, start).await;
    client.frame(0x00, b"").await;
    client.frame(0x80, end).await;
    assert_eq!(client.response().await["signal_entry"]["seq"], 1);
    client.text("{").await;
    assert_eq!(client.receive().await, (0x88, 1007_u16.to_be_bytes().to_vec()));
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_above_zero_passes_at_once_and_a_cancelled_call_is_silent() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    client.barrier("never", 0).await;
    client.barrier("never", -1).await;
    let barrier = client.begin_barrier("s", 1).await;
    let subscription = client.subscribe("topics:t").await;
    let kept = client.subscribe("topics:t").await;
    for id in [barrier, subscription] {
        client.text(&format!(r#"{{"id":"{id}","is_cancel":true}}"#)).await;
    }
    client.begin_publish("topics:t", "1").await;
    client.begin_signal("s").await;
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        ids.insert(client.response().await["id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(ids, BTreeSet::from([kept, kept + 1, kept + 2].map(|id| id.to_string())));
    client.barrier("s", 1).await;
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_hears_its_own_instances_in_order_and_can_signal_for_them() {
    let run = Run::new(2).await;
    let (mut here, mut there) = (run.gateway(0, 1).await, run.gateway(1, 1).await);
    let ids = [InstanceId(0), InstanceId(1)];
    let (mut client, mut other) = (here.client(0).await, there.client(1).await);
    here.sync.network_ready(&ids[..1]).await;
    here.sync.network_ready(&ids[..1]).await;
    there.sync.network_ready(&ids[1..]).await;
    client.barrier("network-initialized", 2).await;
    append_control(&run.bus, &run.run, Attempt::FIRST, &[Control::Start { term: 1 }])
        .await
        .expect("stored");
    assert_eq!(here.event().await, SyncEvent::Started);
    assert_eq!(there.event().await, SyncEvent::Started);

    let config = r#"{"network":"default","enable":true,"callback_state":"shaped"}"#;
    other.publish("topics:network:host-0", config).await;
    client.publish("run_events", r#"{"crash_event":{"groups":"g","error":"boom"}}"#).await;
    let SyncEvent::Network { instance, config } = here.event().await else {
        panic!("a network configuration comes first");
    };
    assert_eq!(instance, InstanceId(0));
    here.sync.configured(instance, &config.expect("valid").callback_state).await;
    let said = LifecycleEvent::Crash { error: "boom".into(), stacktrace: String::new() };
    assert_eq!(here.event().await, SyncEvent::Said { instance: InstanceId(0), event: said });
    other.barrier("shaped", 1).await;
    assert_eq!(here.sync.count("network-initialized").await, 2);

    other.begin_barrier("shaped", 3).await;
    other.publish("run_events", r#"{"success_event":{"group":"g"}}"#).await;
    let waiting = there.sync.waiting(InstanceId(1)).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].state.as_str(), waiting[0].count, waiting[0].target), ("shaped", 1, 3));
    assert_eq!(waiting[0].missing[0], InstanceId(1));
    assert_eq!((waiting[0].missing.len(), waiting[0].missing_total), (10, 29));
    let said = SyncEvent::Said { instance: InstanceId(1), event: LifecycleEvent::Success };
    assert_eq!(there.event().await, said, "and nothing of other workers' instances before");
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_restarts_hears_its_instances_again_and_counts_nothing_twice() {
    let run = Run::new(1).await;
    let mut first = run.gateway(0, 1).await;
    let mut client = first.client(0).await;
    let config = r#"{"network":"default","enable":true,"callback_state":"shaped"}"#;
    first.sync.network_ready(&[InstanceId(0)]).await;
    client.publish("topics:network:host-0", config).await;
    assert!(matches!(first.event().await, SyncEvent::Network { .. }));
    first.sync.configured(InstanceId(0), "shaped").await;
    client.publish("run_events", r#"{"success_event":{}}"#).await;
    client.barrier("shaped", 1).await;
    client.signal("s").await;
    first.close().await;

    let mut second = run.gateway(0, 2).await;
    let mut client = second.client(0).await;
    client.barrier("s", 1).await;
    let mut heard = [second.event().await, second.event().await];
    heard.sort_by_key(|event| matches!(event, SyncEvent::Network { .. }));
    assert!(matches!(heard[0], SyncEvent::Said { .. }));
    second.sync.configured(InstanceId(0), "shaped").await;
    second.sync.network_ready(&[InstanceId(0)]).await;
    assert_eq!(client.signal("s").await, 2);
    assert_eq!(second.sync.count("shaped").await, 1);
    assert_eq!(second.sync.count("network-initialized").await, 1);
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_is_the_plans_fault_and_every_call_is_answered() {
    let run = Run::with_limit(1, 100_000).await;
    let mut gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    let barrier = client.begin_barrier("never", 1).await;
    let payload = format!("\"{}\"", "x".repeat(1000));
    let mut answers = Vec::new();
    loop {
        client.begin_publish("topics:t", &payload).await;
        let answer = client.response().await;
        if answer["error"] != "" {
            answers.push(answer["id"].as_str().expect("an id").to_owned());
            break;
        }
        assert!(answer["publish"]["seq"].as_u64().expect("a position") < 200);
    }
    answers.push(client.response().await["id"].as_str().expect("an id").to_owned());
    assert!(answers.contains(&barrier.to_string()));
    assert!(matches!(gateway.event().await, SyncEvent::Broken { fault_of_plan: true, .. }));
    client.begin_signal("s").await;
    assert_ne!(client.response().await["error"], "");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_began_anew_is_noticed() {
    let run = Run::new(1).await;
    let mut gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    for _ in 0..10 {
        client.signal("s").await;
    }
    delete_log(&run.bus, &run.run, Attempt::FIRST).await.expect("deleted");
    let workers = ["w0".parse().expect("a worker id")];
    create_log(&run.bus, &run.run, Attempt::FIRST, 1 << 20, &workers).await.expect("a log");
    client.begin_signal("s").await;
    assert_ne!(client.response().await["error"], "");
    assert!(matches!(gateway.event().await, SyncEvent::Broken { fault_of_plan: false, .. }));
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_fenced_stops() {
    let run = Run::new(1).await;
    let mut gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    client.signal("s").await;
    let fence = Control::Fence { worker: "w0".parse().expect("a worker id"), epoch: Epoch(2) };
    append_control(&run.bus, &run.run, Attempt::FIRST, std::slice::from_ref(&fence))
        .await
        .expect("stored");
    assert!(matches!(gateway.event().await, SyncEvent::Broken { fault_of_plan: false, .. }));
    let first =
        append_control(&run.bus, &run.run, Attempt::FIRST, std::slice::from_ref(&fence)).await;
    let second = append_control(&run.bus, &run.run, Attempt::FIRST, &[fence]).await;
    assert_eq!(first.expect("stored"), second.expect("stored"), "the same record, stored once");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_a_key_value_bucket() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut client = gateway.client(0).await;
    client.signal("s").await;
    let bucket = format!("gs_sync_{}_1", run.run);
    let store = run.bus.jetstream().get_key_value(bucket).await.expect("a bucket");
    assert!(store.get("w0.1.1").await.expect("readable").is_some());
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_gets_everything_in_the_end() {
    const ITEMS: u64 = 400;
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut publisher = gateway.client(0).await;
    let mut reader = gateway.client(1).await;
    reader.subscribe("topics:t").await;
    // 20 MB, far more than socket buffers hold, before the reader begins.
    let payload = format!("\"{}\"", "x".repeat(50_000));
    for _ in 0..ITEMS {
        publisher.publish("topics:t", &payload).await;
    }
    for _ in 0..ITEMS {
        assert_eq!(reader.item().await, payload);
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_asks_for_too_much_is_slowed_down_and_the_others_are_not() {
    const SIGNALS: u32 = 300;
    let mut run = Run::new(1).await;
    run.limits = SyncLimits { ops_per_second: 100, ..run.limits };
    let mut gateway = run.gateway(0, 1).await;
    let (mut greedy, mut modest) = (gateway.client(0).await, gateway.client(1).await);
    let begin = tokio::time::Instant::now();
    for _ in 0..SIGNALS {
        greedy.begin_signal("greedy").await;
        // Sent apart, so that they are not read at once.
        tokio::task::yield_now().await;
    }
    let beside = tokio::time::Instant::now();
    modest.signal("modest").await;
    assert!(beside.elapsed() < std::time::Duration::from_millis(900), "{:?}", beside.elapsed());
    for _ in 0..SIGNALS {
        assert_eq!(greedy.response().await["error"], "");
    }
    // What is read at once is paid for afterwards.
    greedy.signal("greedy").await;
    assert!(begin.elapsed() > std::time::Duration::from_secs(1), "{:?}", begin.elapsed());
    let SyncEvent::Warning(text) = gateway.event().await else { panic!("no warning") };
    assert!(text.contains("instance 0 is slowed down") && text.contains("100 sync"), "{text}");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_used_its_part_of_the_log_is_refused_and_told_of() {
    let mut run = Run::new(1).await;
    run.limits = SyncLimits { bytes: 1000, ..run.limits };
    let mut gateway = run.gateway(0, 1).await;
    let (mut greedy, mut modest) = (gateway.client(0).await, gateway.client(1).await);
    let payload = format!("\"{}\"", "x".repeat(900));
    greedy.publish("topics:t", &payload).await;
    for _ in 0..2 {
        greedy.begin_publish("topics:t", &payload).await;
        let answer = greedy.response().await;
        assert!(answer["error"].as_str().expect("text").contains("sync_bytes"), "{answer}");
    }
    modest.publish("topics:t", &payload).await;
    let event = gateway.event().await;
    let SyncEvent::Excess { instance: InstanceId(0), reason } = event else { panic!("{event:?}") };
    assert!(reason.contains("all of its 1000 bytes"), "{reason}");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_ids_and_sockets_beyond_measure_are_refused() {
    let mut run = Run::new(1).await;
    run.limits = SyncLimits { connections: 2, unfinished_bytes: 1 << 20, ..run.limits };
    let gateway = run.gateway(0, 1).await;
    let address = gateway.serve(0).await;
    let mut client = Client::connect(address).await;
    client.begin_signal(&"x".repeat(5000)).await;
    assert!(client.response().await["error"].to_string().contains("longer than 4096 bytes"));
    assert_eq!(client.signal("s").await, 1);
    let mut other = Client::connect(address).await;
    other.text(&format!(r#"{{"id":"{}","is_cancel":true}}"#, "1".repeat(2000))).await;
    assert_eq!(other.receive().await, (0x88, 1007_u16.to_be_bytes().to_vec()));
    let mut open = Client::connect(address).await;
    assert_eq!(open.signal("s").await, 2, "there is room for a second one again");
    let mut third = tokio::net::TcpStream::connect(address).await.expect("accepted by the kernel");
    assert!(!matches!(third.read(&mut [0]).await, Ok(1..)), "and none for a third one");
    // A message that never ends.
    client.frame(0x01, &vec![b'x'; 1_048_000]).await;
    client.frame(0x00, &vec![b'x'; 1_000]).await;
    assert_eq!(client.receive().await, (0x88, 1009_u16.to_be_bytes().to_vec()));
    gateway.close().await;
}
