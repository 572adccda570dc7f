//! A WebSocket client that shows every byte, and a run's worth of gateways over one nats-server.

use std::net::SocketAddr;
use std::time::Duration;

use groundswell_common::bus::{Bus, BusConfig};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::nats_server::NatsServer;
use groundswell_common::sync::{DEFAULT_MAX_BYTES, create_log};
use groundswell_worker::sync::{RunSync, SyncEvent, SyncLimits, SyncSpec};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub(crate) const PREFIX: &str = "run:c8k3vmlrirtj2p8lcec0:plan:probe:case:ping-pong:";
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    next_id: u64,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, "").await
    }

    /// Connects with more headers, each with its line's end.
    pub(crate) async fn connect_with(address: SocketAddr, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: ...\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut input = Vec::new();
        while !input.ends_with(b"\r\n\r\n") {
            input.push(stream.read_u8().await.expect("a response"));
        }
        assert!(input.starts_with(b"HTTP/1.1 101 "));
        Self { stream, input: Vec::new(), next_id: 0 }
    }

    pub(crate) async fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut out = vec![first];
        match payload.len() {
            short @ 0..126 => out.push(0x80 | short as u8),
            medium @ 126..65_536 => {
                out.push(0x80 | 126);
                out.extend((medium as u16).to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend([9, 8, 7, 6]);
        out.extend(payload.iter().zip([9, 8, 7, 6].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&out).await.expect("sent");
    }

    pub(crate) async fn text(&mut self, message: &str) {
        self.frame(0x81, message.as_bytes()).await;
    }

    pub(crate) async fn binary(&mut self, message: &str) {
        self.frame(0x82, message.as_bytes()).await;
    }

    /// The next frame: its first byte and its payload.
    pub(crate) async fn receive(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            let read = timeout(LIMIT, self.stream.read_buf(&mut self.input));
            let count = read.await.expect("an answer in time").expect("readable");
            assert_ne!(count, 0, "the gateway closed the connection");
        }
    }

    fn take(&mut self) -> Option<(u8, Vec<u8>)> {
        let (len, start) = match *self.input.get(1)? {
            126 => (u16::from_be_bytes(self.input.get(2..4)?.try_into().ok()?) as usize, 4),
            127 => (u64::from_be_bytes(self.input.get(2..10)?.try_into().ok()?) as usize, 10),
            short => (short as usize, 2),
        };
        let payload = self.input.get(start..start + len)?.to_vec();
        let first = self.input[0];
        self.input.drain(..start + len);
        Some((first, payload))
    }

    /// The next text message.
    pub(crate) async fn message(&mut self) -> String {
        let (first, payload) = self.receive().await;
        assert_eq!(first, 0x81, "a text frame");
        String::from_utf8(payload).expect("text")
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Sends a signal without waiting.
    pub(crate) async fn begin_signal(&mut self, state: &str) {
        let id = self.id();
        let key = format!("{PREFIX}states:{state}");
        self.text(&format!(r#"{{"id":"{id}","signal_entry":{{"state":"{key}"}}}}"#)).await;
    }

    /// Sends a publish without waiting.
    pub(crate) async fn begin_publish(&mut self, topic: &str, payload: &str) {
        let id = self.id();
        let key = format!("{PREFIX}{topic}");
        let body = format!(r#"{{"topic":"{key}","payload":{payload}}}"#);
        self.text(&format!(r#"{{"id":"{id}","publish":{body}}}"#)).await;
    }

    pub(crate) async fn begin_barrier(&mut self, state: &str, target: i64) -> u64 {
        let id = self.id();
        let key = format!("{PREFIX}states:{state}");
        let body = format!(r#"{{"state":"{key}","target":{target}}}"#);
        self.text(&format!(r#"{{"id":"{id}","barrier":{body}}}"#)).await;
        id
    }

    pub(crate) async fn subscribe(&mut self, topic: &str) -> u64 {
        let id = self.id();
        let key = format!("{PREFIX}{topic}");
        self.text(&format!(r#"{{"id":"{id}","subscribe":{{"topic":"{key}"}}}}"#)).await;
        id
    }

    /// The next response, read.
    pub(crate) async fn response(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.message().await).expect("JSON")
    }

    pub(crate) async fn signal(&mut self, state: &str) -> u64 {
        self.begin_signal(state).await;
        self.response().await["signal_entry"]["seq"].as_u64().expect("a signal's answer")
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) -> u64 {
        self.begin_publish(topic, payload).await;
        self.response().await["publish"]["seq"].as_u64().expect("a publish's answer")
    }

    pub(crate) async fn barrier(&mut self, state: &str, target: i64) {
        let id = self.begin_barrier(state, target).await;
        let passed = format!(
            r#"{{"id":"{id}","error":"","publish":null,"subscribe":"","signal_entry":null}}"#
        );
        assert_eq!(self.message().await, passed);
    }

    /// The next item of a subscription.
    pub(crate) async fn item(&mut self) -> String {
        self.response().await["subscribe"].as_str().expect("an item").to_owned()
    }
}

/// One worker's part of a run.
pub(crate) struct Gateway {
    pub(crate) sync: RunSync,
    pub(crate) events: mpsc::Receiver<SyncEvent>,
    pub(crate) tasks: TaskTracker,
}

impl Gateway {
    /// Serves `instance` under the host name `host-<instance>`; returns where.
    pub(crate) async fn serve(&self, instance: u32) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("does not block");
        let address = listener.local_addr().expect("an address");
        self.sync.serve(InstanceId(instance), format!("host-{instance}"), listener.into()).await;
        address
    }

    pub(crate) async fn client(&self, instance: u32) -> Client {
        Client::connect(self.serve(instance).await).await
    }

    pub(crate) async fn event(&mut self) -> SyncEvent {
        timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("an event")
    }

    /// Closes and waits until nothing runs any more.
    pub(crate) async fn close(self) {
        self.sync.close().await;
        self.tasks.close();
        timeout(LIMIT, self.tasks.wait()).await.expect("everything ends");
    }
}

/// A run with its log on a nats-server of its own.
pub(crate) struct Run {
    pub(crate) server: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) run: RunId,
    /// What its gateways let one instance ask for.
    pub(crate) limits: SyncLimits,
    workers: Vec<WorkerId>,
    _directory: TempDir,
}

impl Run {
    pub(crate) async fn new(workers: usize) -> Self {
        Self::with_limit(workers, DEFAULT_MAX_BYTES).await
    }

    pub(crate) async fn with_limit(workers: usize, max_bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = NatsServer::start(directory.path()).await.expect("a nats-server");
        let bus = connect(&server.url()).await;
        let run: RunId = "c8k3vmlrirtj2p8lcec0".parse().expect("a run id");
        let workers: Vec<WorkerId> =
            (0..workers).map(|n| format!("w{n}").parse().expect("a worker id")).collect();
        create_log(&bus, &run, Attempt::FIRST, max_bytes, &workers).await.expect("a log");
        let limits = SyncLimits::default();
        Self { server, bus, run, limits, workers, _directory: directory }
    }

    /// Opens the gateway of worker `number` in its life `epoch`.
    pub(crate) async fn gateway(&self, number: usize, epoch: u64) -> Gateway {
        let spec = SyncSpec {
            run: self.run.clone(),
            attempt: Attempt::FIRST,
            plan: "probe".into(),
            case: "ping-pong".into(),
            worker: self.workers[number].clone(),
            epoch: Epoch(epoch),
            workers: self.workers.clone(),
            total_instances: 30,
            connections: None,
            limits: self.limits,
        };
        let tasks = TaskTracker::new();
        let bus = connect(&self.server.url()).await;
        let (sync, events) = RunSync::open(bus, spec, &tasks).await.expect("a gateway");
        Gateway { sync, events, tasks }
    }
}

pub(crate) async fn connect(url: &str) -> Bus {
    let config = BusConfig::open(url.to_owned(), "test");
    Bus::connect(&config).await.expect("a bus")
}
