//! The way from instances to hosts outside the data network.
//!
//! ```text
//! data plane ──Leaving──► router (a task) ──► flow (a task each) ◄──► a socket of this host
//!      ▲                                        │
//!      └────────── the instance's device ◄──────┘
//! ```
//!
//! Connections of instances end in this process, and ordinary sockets of it go on. So nothing of the host is
//! changed, neither forwarding nor firewall, it works without root as with it, and what an instance may reach is
//! decided where the connection is made.
//!
//! ```text
//! policy     who may reach what          pure
//! routes     of an instance to outside
//! frames     packets that are answers    pure
//! gate       an instance's permission and rates
//! flow       what all flows have
//! stream     a TCP connection; stack is the end that the instance talks to
//! datagrams  a UDP port, or the pings of a process
//! ```
//!
//! IPv4 only. Fragments and other protocols are dropped and counted.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::datagrams::Kind;
use self::flow::{Inner, Shared, give, refuse};
use self::frames::Cargo;
use self::gate::{Gate, Leaving};
use super::NetworkError;
use super::counters::Fate;
use super::port::Port;

mod datagrams;
mod flow;
mod frames;
pub(super) mod gate;
pub mod policy;
pub mod routes;
mod stack;
mod stream;

pub use policy::Grant;

/// Packets that may wait for the router.
const WAITING: usize = 8192;
/// Packets that may wait for one flow.
const WAITING_PER_FLOW: usize = 64;
/// Flows of all instances together.
const FLOWS: usize = 8192;
/// The rate of an instance whose composition names none, each way.
pub const DEFAULT_RATE_BPS: u64 = 100_000_000;

/// What a network without egress says to whoever wants it.
pub(super) fn unsupported() -> NetworkError {
    NetworkError::Unsupported {
        what: "reach hosts outside of it".to_owned(),
        instead: "leave out egress and extra hosts, or use the userspace switch".to_owned(),
    }
}

/// The egress of a worker. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Egress {
    way: mpsc::Sender<Leaving>,
    shared: Arc<Shared>,
    _end: DropGuard,
}

impl Egress {
    /// Starts it in the current tokio runtime. `start` is the data plane's, and `protected` are servers of
    /// Groundswell's own, which no instance reaches.
    pub(super) fn start(start: Instant, protected: BTreeSet<Ipv4Addr>) -> Self {
        let (way, leaving) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared::new(start, protected));
        let end = CancellationToken::new();
        let router = Router {
            shared: Arc::clone(&shared),
            flows: HashMap::new(),
            tasks: JoinSet::new(),
            room: Arc::new(Semaphore::new(FLOWS)),
        };
        // The task ends with the guard, which is dropped before whoever could wait for it.
        TaskTracker::new().spawn(router.run(leaving, end.clone()));
        Self { way, shared, _end: end.drop_guard() }
    }

    /// A gate for an instance. It is shut.
    pub(super) fn gate(&self) -> Gate {
        Gate::new(Some(self.way.clone()))
    }

    /// No instance reaches these addresses from now on.
    pub(super) fn protect(&self, more: impl IntoIterator<Item = Ipv4Addr>) {
        self.shared.protect(more);
    }
}

/// Names a flow: the instance's interface and its own end; for a connection the other end as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Tcp(u64, SocketAddrV4, SocketAddrV4),
    Udp(u64, SocketAddrV4),
    Ping(u64, SocketAddrV4),
}

/// Hands packets to their flows.
struct Router {
    shared: Arc<Shared>,
    flows: HashMap<Key, mpsc::Sender<Box<[u8]>>>,
    tasks: JoinSet<Key>,
    room: Arc<Semaphore>,
}

impl Router {
    async fn run(mut self, mut leaving: mpsc::Receiver<Leaving>, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                Some(over) = self.tasks.join_next() => self.forget(over),
                Some(Leaving { port, bytes }) = leaving.recv() => {
                    port.gate.taken();
                    self.route(&port, bytes);
                }
            }
        }
    }

    fn forget(&mut self, over: Result<Key, JoinError>) {
        match over {
            // Its successor may have taken the name already.
            Ok(key) => {
                if self.flows.get(&key).is_some_and(mpsc::Sender::is_closed) {
                    self.flows.remove(&key);
                }
            }
            Err(err) => {
                warn!(error = %err, "a flow of the egress panicked");
                self.flows.retain(|_, flow| !flow.is_closed());
            }
        }
    }

    fn route(&mut self, port: &Arc<Port>, bytes: Box<[u8]>) {
        let Some(cargo) = frames::cargo(&bytes) else {
            return port.counters.count(Fate::Uncarried, 1);
        };
        let key = match cargo {
            Cargo::Tcp { from, to, .. } => Key::Tcp(port.token, from, to),
            Cargo::Udp { from, .. } => Key::Udp(port.token, from),
            Cargo::Ping { from, .. } => Key::Ping(port.token, from),
        };
        let Some(flow) = self.flows.get(&key) else {
            return self.begin(port, key, cargo, bytes);
        };
        match flow.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => port.counters.count(Fate::Overrun, 1),
            Err(TrySendError::Closed(bytes)) => self.begin(port, key, cargo, bytes),
        }
    }

    fn begin(&mut self, port: &Arc<Port>, key: Key, cargo: Cargo, bytes: Box<[u8]>) {
        if let Cargo::Tcp { to, opens, .. } = cargo {
            if !opens {
                return self.reset(port, to, bytes);
            }
            if let Err(why) = self.shared.judge(&port.gate.grant(), *to.ip()) {
                return refuse(port, &bytes, why);
            }
        }
        let Some(slots) = self.slots(port) else { return port.counters.count(Fate::Overrun, 1) };
        let (flow, inbox) = mpsc::channel(WAITING_PER_FLOW);
        let inner = Inner::new(Arc::clone(&self.shared), Arc::clone(port), inbox, slots);
        self.flows.insert(key, flow);
        self.tasks.spawn(async move {
            match cargo {
                Cargo::Tcp { to, .. } => stream::carry(inner, to, bytes).await,
                Cargo::Udp { from, .. } => datagrams::carry(inner, Kind::Udp, from, bytes).await,
                Cargo::Ping { from, .. } => datagrams::carry(inner, Kind::Ping, from, bytes).await,
            }
            key
        });
    }

    /// Room for one flow more, of this instance and in all.
    fn slots(&self, port: &Port) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = Arc::clone(&port.gate.flows).try_acquire_owned().ok()?;
        let all = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some([own, all])
    }

    /// Answers a segment of a connection that does not exist (any more), as any host does.
    fn reset(&self, port: &Arc<Port>, to: SocketAddrV4, bytes: Box<[u8]>) {
        let now = self.shared.start.elapsed();
        let mut stack = stack::Stack::new(*to.ip(), now);
        stack.push(bytes);
        stack.poll(now);
        while let Some(answer) = stack.pop() {
            give(port, &answer);
        }
        port.counters.count(Fate::NoSuchAddress, 1);
    }
}
