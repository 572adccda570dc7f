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
//! reach      how this host gets there
//! routes     of an instance to outside
//! frames     packets that are answers    pure
//! gate       an instance's permission and rates
//! flow       what all flows have
//! stream     a TCP connection; stack is the end that the instance talks to
//! datagrams  a UDP port, or the pings of a process
//! ```
//!
//! IPv4 only. Fragments, other protocols and what is damaged are dropped and counted.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
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
mod reach;
pub mod routes;
mod stack;
mod stream;

pub use policy::Grant;

/// Packets that may wait for the router.
const WAITING: usize = 8192;
/// Packets that may wait for one flow.
const WAITING_PER_FLOW: usize = 64;
/// Flows of all instances together, and of one, where this host has descriptors enough.
const FLOWS: usize = 8192;
const FLOWS_OF_ONE: usize = 512;
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
    flows: usize,
    _end: DropGuard,
}

impl Egress {
    /// Starts it in the current tokio runtime. `start` is the data plane's, and `protected` are servers of
    /// Groundswell's own, which no instance reaches.
    pub(super) fn start(start: Instant, protected: BTreeSet<Ipv4Addr>) -> Self {
        let (way, leaving) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared::new(start, protected));
        let end = CancellationToken::new();
        // The worker raises its limit to this one.
        let flows = flows_within(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, most)| most));
        let router = Router::new(Arc::clone(&shared), flows);
        // The task ends with the guard, which is dropped before whoever could wait for it.
        TaskTracker::new().spawn(router.run(leaving, end.clone()));
        Self { way, shared, flows, _end: end.drop_guard() }
    }

    /// A gate for an instance. It is shut.
    pub(super) fn gate(&self) -> Gate {
        Gate::new(Some(self.way.clone()), (self.flows / 4).clamp(1, FLOWS_OF_ONE))
    }

    /// No instance reaches these addresses from now on.
    pub(super) fn protect(&self, more: impl IntoIterator<Item = Ipv4Addr>) {
        self.shared.protect(more);
    }
}

/// How many flows there may be with so many descriptors. Each takes one, and what is left of them is for the
/// instances themselves.
fn flows_within(descriptors: u64) -> usize {
    usize::try_from(descriptors / 4).map_or(FLOWS, |flows| flows.clamp(1, FLOWS))
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
    fn new(shared: Arc<Shared>, flows: usize) -> Self {
        let room = Arc::new(Semaphore::new(flows));
        Self { shared, flows: HashMap::new(), tasks: JoinSet::new(), room }
    }

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
        if !frames::is_sound(&bytes) {
            return port.counters.count(Fate::Damaged, 1);
        }
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
        // Before anything is made for it: what may not go takes no room and no descriptor.
        if let Err(why) = self.shared.judge(&port.gate.grant(), cargo.to()) {
            return refuse(port, &bytes, why);
        }
        if let Cargo::Tcp { to, opens: false, .. } = cargo {
            return self.reset(port, to, bytes);
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use groundswell_common::ids::InstanceId;

    use super::frames::tests::{ACK, SYN, segment};
    use super::*;

    /// An instance that may reach everything that may be granted, and its end of the device.
    fn instance() -> (Arc<Port>, UnixStream) {
        let (device, inside) = UnixStream::pair().expect("a pair");
        inside.set_nonblocking(true).expect("set");
        let port = Port::new(1, InstanceId(0), device.into(), Gate::new(None, 9));
        port.gate.change(|grant| grant.hosts = vec!["0.0.0.0/0".parse().expect("a network")]);
        (Arc::new(port), inside)
    }

    fn router() -> Router {
        let protected = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 7)]);
        Router::new(Arc::new(Shared::new(Instant::now(), protected)), 9)
    }

    fn udp(to: [u8; 4]) -> Box<[u8]> {
        let from = SocketAddrV4::new(Ipv4Addr::new(16, 0, 0, 2), 4000);
        let packet = frames::datagram(from, SocketAddrV4::new(to.into(), 53), b"x");
        packet.expect("it is short").into()
    }

    #[tokio::test]
    async fn what_is_for_a_group_or_damaged_ends_there_and_nothing_else_does() {
        let (mut router, (port, mut inside)) = (router(), instance());
        router.route(&port, segment(Ipv4Addr::new(224, 0, 0, 9), ACK, 7).into());
        assert_eq!(port.counters.read().of(Fate::Uncarried), 1);
        let mut damaged = segment(Ipv4Addr::LOCALHOST, SYN, 7);
        damaged[39] ^= 1;
        router.route(&port, damaged.into());
        assert_eq!(port.counters.read().of(Fate::Damaged), 1);
        assert!(inside.read(&mut [0; 99]).is_err(), "nobody is told");
        // A segment of no connection is judged before it is answered.
        router.route(&port, segment(Ipv4Addr::new(198, 51, 100, 7), ACK, 7).into());
        assert_eq!(port.counters.read().of(Fate::Denied), 1);
        assert!(inside.read(&mut [0; 99]).is_ok());
    }

    #[tokio::test]
    async fn nothing_is_opened_for_what_may_not_go() {
        let (mut router, (port, mut inside)) = (router(), instance());
        for forbidden in [[198, 51, 100, 7], [127, 0, 0, 1], [169, 254, 169, 254]] {
            router.route(&port, udp(forbidden));
            assert!(inside.read(&mut [0; 99]).is_ok(), "{forbidden:?} is refused");
        }
        assert_eq!(port.counters.read().of(Fate::Denied), 3);
        assert_eq!((router.flows.len(), port.gate.flows.available_permits()), (0, 9));
    }

    #[test]
    fn flows_leave_descriptors_to_the_instances() {
        assert_eq!(flows_within(1 << 20), FLOWS);
        assert_eq!(flows_within(1024), 256);
        assert_eq!(flows_within(0), 1);
        assert_eq!(flows_within(u64::MAX), FLOWS);
    }
}
