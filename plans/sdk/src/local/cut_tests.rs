//! Connections that break: nothing is lost, and nothing counts twice.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::service::Service;
use crate::Sync;
use crate::sync::connection::Target;

const LIMIT: Duration = Duration::from_secs(30);

/// A way to the service that can be cut.
struct Way {
    port: u16,
    cut: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Way {
    async fn to(service: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = watch::Sender::new(0);
        let mut tasks = JoinSet::new();
        let cuts = cut.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                connections.spawn(async move {
                    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, service)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, cut, _tasks: tasks }
    }

    fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}

fn target(port: u16, instance: u32) -> Target {
    let session = format!("session-{instance}");
    Target { host: "127.0.0.1".to_owned(), port, session, instance: Some(instance) }
}

#[tokio::test]
async fn signals_over_a_connection_that_breaks_again_and_again_count_once_each() {
    let service = Service::start().await.unwrap();
    let way = Way::to(service.port()).await;
    let (sync, connection) = Sync::new("run:r:", target(way.port, 0));
    let mut tasks = JoinSet::new();
    tasks.spawn(connection.run());
    let mut numbers = Vec::new();
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let sync = sync.clone();
            calls.spawn(async move { sync.signal("s").await.unwrap() });
        }
        if round % 2 == 0 {
            tokio::task::yield_now().await;
            way.cut();
        }
        numbers.extend(timeout(LIMIT, calls.join_all()).await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=400).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_barrier_and_a_subscription_go_on_over_another_connection() {
    let service = Service::start().await.unwrap();
    let way = Way::to(service.port()).await;
    let (sync, connection) = Sync::new("run:r:", target(way.port, 0));
    let (other, straight) = Sync::new("run:r:", target(service.port(), 1));
    let mut tasks = JoinSet::new();
    tasks.spawn(connection.run());
    tasks.spawn(straight.run());
    let mut items = sync.subscribe::<u64>("t").await.unwrap();
    other.publish("t", &0_u64).await.unwrap();
    assert_eq!(timeout(LIMIT, items.next()).await.unwrap(), Ok(0));
    let waiting = sync.clone();
    let mut barrier = JoinSet::new();
    barrier.spawn(async move { waiting.wait("s", 1).await });
    for number in 1..10_u64 {
        way.cut();
        other.publish("t", &number).await.unwrap();
        assert_eq!(timeout(LIMIT, items.next()).await.unwrap(), Ok(number));
    }
    other.signal("s").await.unwrap();
    let passed = timeout(LIMIT, barrier.join_next()).await.unwrap();
    assert_eq!(passed.unwrap().unwrap(), Ok(()));
}

#[tokio::test]
async fn a_reader_that_sleeps_gets_everything_when_it_wakes() {
    let service = Service::start().await.unwrap();
    let (sync, connection) = Sync::new("run:r:", target(service.port(), 0));
    let mut tasks = JoinSet::new();
    tasks.spawn(connection.run());
    let mut items = sync.subscribe::<u64>("t").await.unwrap();
    for number in 0..5000_u64 {
        // Would wait for ever if the reader that does not read held up the answers.
        timeout(LIMIT, sync.publish("t", &number)).await.unwrap().unwrap();
    }
    for number in 0..5000_u64 {
        assert_eq!(timeout(LIMIT, items.next()).await.unwrap(), Ok(number));
    }
}
