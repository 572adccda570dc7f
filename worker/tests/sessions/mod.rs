//! Clients that lose their connection and come back with the session they had.

use std::net::SocketAddr;

use super::sync_client::{Client, PREFIX, Run};

/// A connection of the session `name`.
async fn connect(address: SocketAddr, name: u64) -> Client {
    Client::connect_with(address, &format!("X-Groundswell-Session: {name:016x}\r\n")).await
}

async fn signal(client: &mut Client, id: u64, once: bool) -> u64 {
    let body = format!(r#"{{"state":"{PREFIX}states:s","once":{once}}}"#);
    client.text(&format!(r#"{{"id":"{id}","signal_entry":{body}}}"#)).await;
    let response = client.response().await;
    assert_eq!(response["id"], id.to_string());
    response["signal_entry"]["seq"].as_u64().expect("a number")
}

async fn publish(client: &mut Client, id: u64, payload: u64) -> u64 {
    let body = format!(r#"{{"topic":"{PREFIX}topics:t","payload":{payload}}}"#);
    client.text(&format!(r#"{{"id":"{id}","publish":{body}}}"#)).await;
    client.response().await["publish"]["seq"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_made_again_in_its_session_counts_once_and_has_its_old_answer() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let address = gateway.serve(0).await;
    let mut first = connect(address, 7).await;
    assert_eq!(signal(&mut first, 0, false).await, 1);
    assert_eq!(publish(&mut first, 1, 10).await, 1);
    drop(first);
    let mut other = connect(address, 8).await;
    assert_eq!(signal(&mut other, 0, false).await, 2, "another session has numbers of its own");
    let mut second = connect(address, 7).await;
    assert_eq!(signal(&mut second, 0, false).await, 1);
    assert_eq!(publish(&mut second, 1, 10).await, 1);
    assert_eq!(signal(&mut second, 2, false).await, 3);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_gateway() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut client = connect(gateway.serve(0).await, 7).await;
    for id in 0..3 {
        assert_eq!(signal(&mut client, id, false).await, id + 1);
    }
    gateway.close().await;
    let next = run.gateway(0, 2).await;
    let mut client = connect(next.serve(0).await, 7).await;
    assert_eq!(signal(&mut client, 1, false).await, 2);
    assert_eq!(signal(&mut client, 2, false).await, 3);
    assert_eq!(signal(&mut client, 3, false).await, 4);
    next.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_session_counts_every_time() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let address = gateway.serve(0).await;
    for count in 1..=2 {
        let mut client = Client::connect(address).await;
        assert_eq!(signal(&mut client, 0, true).await, count);
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_signals_once_in_all_its_sessions_and_on_all_workers() {
    let run = Run::new(2).await;
    let (one, two) = (run.gateway(0, 1).await, run.gateway(1, 1).await);
    let (here, there) = (one.serve(0).await, two.serve(1).await);
    assert_eq!(signal(&mut connect(here, 7).await, 0, true).await, 1);
    assert_eq!(signal(&mut connect(there, 7).await, 0, true).await, 2);
    assert_eq!(signal(&mut connect(here, 8).await, 0, true).await, 1);
    assert_eq!(signal(&mut connect(there, 9).await, 0, false).await, 3);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_on_where_it_was_also_in_the_gateways_next_life() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    let mut client = connect(gateway.serve(0).await, 7).await;
    for id in 0..5 {
        publish(&mut client, id, id).await;
    }
    gateway.close().await;
    let next = run.gateway(0, 2).await;
    let mut client = connect(next.serve(0).await, 7).await;
    let body = format!(r#"{{"topic":"{PREFIX}topics:t","after":3}}"#);
    client.text(&format!(r#"{{"id":"5","subscribe":{body}}}"#)).await;
    assert_eq!(client.item().await, "3");
    assert_eq!(client.item().await, "4");
    next.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_and_has_not_signalled_is_told() {
    let run = Run::new(1).await;
    let gateway = run.gateway(0, 1).await;
    for instance in [4, 2, 9] {
        gateway.client(instance).await.signal("here").await;
    }
    let mut client = gateway.client(2).await;
    client.signal("s").await;
    let body = format!(r#"{{"state":"{PREFIX}states:s","of":"{PREFIX}states:here"}}"#);
    client.text(&format!(r#"{{"id":"7","inspect":{body}}}"#)).await;
    let told = client.response().await;
    let wanted = serde_json::json!({ "count": 1, "missing": [4, 9], "missing_total": 2 });
    assert_eq!(told["inspect"], wanted);
    gateway.close().await;
}
