//! Sync from a socket to the log and back, against a real nats-server.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the test client writes small lengths it has just compared"
)]

mod sync_client;

use std::collections::BTreeSet;

use groundswell_common::ids::{Attempt, Epoch, InstanceId};
use groundswell_common::sync::{Control, append_control, create_log, delete_log};
use groundswell_worker::sync::{LifecycleEvent, SyncEvent};
use sync_client::{Client, PREFIX, Run};

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
        if text { client.text(&sent).await } else { client.binary(&sent).await }
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
