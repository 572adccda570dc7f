//! The thread that takes what other workers send: a datagram comes in, a packet goes to its interface.
//!
//! It gets the same [`Change`]s as the threads of the data plane, and answers them in the same way. It also sends
//! the probes by which the delay between workers is known. Like those threads it goes before all ordinary ones.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver as Inbox;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use groundswell_common::ids::InstanceId;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::Epoll;
use nix::sys::eventfd::EventFd;
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use tokio::time::Instant;

use super::arrivals::{Arrival as Packet, Arrivals};
use super::counters::{Underlay, add};
use super::delay::RoundTrips;
use super::header::{self, Header, Kind};
use super::peer::{Away, Line, Peer};
use super::seal::Seal;
use super::window::{Arrival, Window};
use crate::network::pace::Pace;
use crate::network::plane::{Change, Command};
use crate::network::port::Port;
use crate::network::probe::PROBES;

/// Datagrams read before changes have their turn.
const BATCH: usize = 256;
/// The largest datagram.
const LARGEST: usize = 65_536;
/// How often each worker is probed.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// How often at first, until the shortest round trip has shown itself.
const PROBE_FIRST: Duration = Duration::from_millis(10);
/// How many of those.
const FIRST_PROBES: u32 = 20;

/// A run, and its other workers, as every thread is told.
#[derive(Debug)]
pub(in crate::network) struct Neighbors {
    /// Names the run between its workers.
    pub(in crate::network) key: u64,
    pub(in crate::network) attempt: u32,
    pub(in crate::network) peers: Vec<Arc<Peer>>,
    /// The instances that are not here, with their addresses at the start.
    pub(in crate::network) instances: BTreeMap<u32, (Arc<Away>, Ipv4Addr)>,
    pub(in crate::network) counts: Arc<Underlay>,
    /// Whether this worker goes on in the middle of the run.
    pub(in crate::network) again: bool,
    /// What makes packets between workers unreadable and unforgeable, when the run wants that.
    pub(in crate::network) seal: Option<Arc<Seal>>,
}

/// A run as this thread knows it.
struct Run {
    /// Names the run in the data plane.
    key: u64,
    links: Option<Arc<Neighbors>>,
    trips: HashMap<SocketAddr, RoundTrips>,
    ports: HashMap<InstanceId, Arc<Port>>,
    windows: HashMap<(u32, u32), Window>,
    probes_sent: u32,
    probe_at: Option<Instant>,
}

/// What the thread is made of.
pub(in crate::network) struct Receiver {
    line: Arc<Line>,
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Inbox<Command>,
    pace: Pace,
    start: Instant,
    runs: HashMap<u64, Run>,
    /// Runs by their name between workers.
    by_key: HashMap<u64, u64>,
    /// What has arrived and waits for its turn at the receiver's download.
    arrivals: Arrivals,
    /// Datagrams that are none of ours, damaged, or of no run that is open here.
    strange: Arc<AtomicU64>,
    buffer: Vec<u8>,
    stopped: bool,
}

impl Receiver {
    /// `epoll` watches `wake` and the line's socket. Times count from `start`, as in the other threads.
    pub(in crate::network) fn new(
        line: Arc<Line>,
        epoll: Epoll,
        wake: Arc<EventFd>,
        commands: Inbox<Command>,
        strange: Arc<AtomicU64>,
        start: Instant,
    ) -> Self {
        Self {
            line,
            epoll,
            wake,
            commands,
            // It waits for datagrams more than for times, so it never spins.
            pace: Pace::new(Duration::ZERO),
            start,
            runs: HashMap::new(),
            by_key: HashMap::new(),
            arrivals: Arrivals::new(start),
            strange,
            buffer: vec![0; LARGEST],
            stopped: false,
        }
    }

    /// Works until it is told to stop.
    pub(in crate::network) fn run(mut self) {
        // The kernel may otherwise add 50 µs to each sleep. Without it packets are only less punctual.
        let _ = prctl::set_timerslack(1);
        self.pace.start(self.start.elapsed());
        while !self.stopped {
            self.wait();
            self.pace.look_around(self.start.elapsed());
            self.arrivals.deliver_due();
            self.obey();
            self.receive();
        }
    }

    /// Waits for a datagram, a change, the next probe or the next turn.
    fn wait(&mut self) {
        let limit = [self.probe_due(), self.arrivals.next_due()].into_iter().flatten().min();
        let mut epoll = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        self.pace.sleeps(self.start.elapsed());
        // An interrupted wait is a short one; everything is looked at in any case.
        let _ = ppoll(&mut epoll, limit.map(TimeSpec::from_duration), None);
        self.pace.wakes(self.start.elapsed());
        self.arrivals.woke();
    }

    fn obey(&mut self) {
        let _ = self.wake.read();
        while let Ok(Command { change, done }) = self.commands.try_recv() {
            self.apply(change);
            // Who asked may have gone, the change holds all the same.
            let _ = done.send(Ok(()));
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Open(facts) => {
                self.runs.insert(facts.key, Run::new(facts.key));
                self.arrivals.open(facts.key);
            }
            Change::Connect { run, neighbors: links } => {
                links.peers.iter().for_each(|peer| peer.learn_mtu());
                self.by_key.insert(links.key, run);
                if let Some(run) = self.runs.get_mut(&run) {
                    run.links = Some(links);
                    run.probe_at = Some(Instant::now());
                }
            }
            Change::Attach { run, port, .. } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.ports.insert(port.instance, port);
                }
            }
            Change::Close { run } => {
                self.runs.remove(&run);
                self.arrivals.close(run);
                self.by_key.retain(|_, other| *other != run);
            }
            Change::Measure { run, into } => {
                let measured = self.arrivals.report(run);
                into.lock().unwrap_or_else(PoisonError::into_inner).merge(measured);
            }
            Change::Stop => self.stopped = true,
            // Packets come with their destination's number, so addresses do not matter here.
            Change::Configure { .. }
            | Change::Readdress { .. }
            | Change::Lead { .. }
            | Change::Place { .. }
            | Change::Relink { .. } => {}
        }
    }

    /// Takes what has arrived, up to a batch.
    fn receive(&mut self) {
        for _ in 0..BATCH {
            let Ok((length, from)) = self.line.socket().recv_from(&mut self.buffer) else { return };
            let datagram = &mut self.buffer[..length];
            let run = header::run_of(datagram).and_then(|key| self.by_key.get(&key));
            match run.and_then(|run| self.runs.get_mut(run)) {
                Some(run) => {
                    if !run.take(datagram, from, &self.line, &mut self.arrivals) {
                        add(&self.strange, 1);
                    }
                }
                None => add(&self.strange, 1),
            }
            self.arrivals.deliver_due();
        }
    }

    /// Sends the probes that are due; gives the time until the next.
    fn probe_due(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        for run in self.runs.values_mut() {
            let (Some(links), Some(due)) = (&run.links, run.probe_at) else { continue };
            let mut left = due.saturating_duration_since(now);
            if left.is_zero() {
                links.peers.iter().for_each(|peer| peer.probe());
                run.probes_sent = run.probes_sent.saturating_add(1);
                left = if run.probes_sent < FIRST_PROBES { PROBE_FIRST } else { PROBE_EVERY };
                run.probe_at = Some(now + left);
            }
            next = Some(next.map_or(left, |next| next.min(left)));
        }
        next
    }
}

impl Run {
    fn new(key: u64) -> Self {
        Self {
            key,
            links: None,
            trips: HashMap::new(),
            ports: HashMap::new(),
            windows: HashMap::new(),
            probes_sent: 0,
            probe_at: None,
        }
    }

    /// Takes a datagram; `false` when it is damaged.
    fn take(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        line: &Line,
        arrivals: &mut Arrivals,
    ) -> bool {
        let Some(links) = self.links.clone() else { return true };
        let foreign = || add(&links.counts.foreign, 1);
        let plain = match &links.seal {
            // What is not sealed may be forged, and what does not open is.
            Some(seal) => match seal.open(datagram) {
                Some(plain) => plain,
                None => {
                    foreign();
                    return true;
                }
            },
            None => datagram,
        };
        let Some((header, packet)) = Header::parse(plain) else { return false };
        let peer = match header.kind {
            Kind::Packet => links.instances.get(&header.source).map(|(away, _)| &away.peer),
            Kind::Probe | Kind::Echo => links.peers.iter().find(|peer| peer.address == from),
        };
        let peer = peer.filter(|peer| peer.address == from && links.attempt == header.attempt);
        let Some(peer) = peer else {
            foreign();
            return true;
        };
        match header.kind {
            Kind::Probe => peer.echo(&header),
            Kind::Echo => {
                if let Some(trip) = line.now_ns().checked_sub(header.sent_ns) {
                    let trips = self.trips.entry(from).or_insert_with(RoundTrips::new);
                    peer.measured(trips.take(Duration::from_nanos(trip)));
                }
            }
            Kind::Packet => self.deliver(&header, packet, &links, arrivals),
        }
        true
    }

    fn deliver(
        &mut self,
        header: &Header,
        packet: &[u8],
        links: &Neighbors,
        arrivals: &mut Arrivals,
    ) {
        let counts = &links.counts;
        let Some(port) = self.ports.get(&InstanceId(header.destination & !PROBES)) else {
            return add(&counts.untaken, 1);
        };
        let window = match self.windows.entry((header.source, header.destination)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let first = if links.again { header.sequence } else { 1 };
                entry.insert(Window::before(first))
            }
        };
        match window.take(header.sequence) {
            Arrival::New { missing } => add(&counts.lost, missing),
            Arrival::Late => {
                counts.lost.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
                add(&counts.late, 1);
            }
            Arrival::Again => return add(&counts.duplicated, 1),
            // It stays among the lost, which it is for its receiver.
            Arrival::Forgotten => return add(&counts.late, 1),
        }
        add(&counts.received, 1);
        arrivals.take(&Packet { run: self.key, to: port, counts, bytes: packet });
    }
}
