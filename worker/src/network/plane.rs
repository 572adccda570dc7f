//! One thread of the data plane: reads what its instances send, decides, and writes it to where it goes.
//!
//! Each thread owns the sending side of its share of the instances and a copy of every run's address
//! table, so that nothing is locked per packet. What comes in: [`Command`]s through a bounded channel,
//! each answered once it holds; an eventfd wakes the thread for them. What goes out: packets.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use groundswell_common::fidelity::NetworkReport;
use groundswell_common::ids::InstanceId;
use groundswell_common::link::Filter;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use nix::unistd;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::counters::{Counters, Fate};
use super::download::Download;
use super::download::Turn;
use super::egress::gate::Gate;
use super::goal::{Goal, Holder, Streams};
use super::links::Links;
use super::overlay::peer::Away;
use super::overlay::receiver::Neighbors;
use super::packet::{self, Ipv4Header};
use super::queue::Queue;
use super::rules::Rules;
use super::shape::{Pair, Verdict};
use super::tally::{self, Flow, Mark, Tallies};

/// Packets read from one interface before the others and the timers have their turn.
const BATCH: usize = 64;
/// Interfaces looked at per round.
const EVENTS: usize = 256;
/// Largest packet of an interface.
const LARGEST_PACKET: usize = 65_536;
/// Bytes of one instance that may wait for their time.
const WAITING_PER_INSTANCE: usize = 32 << 20;
/// Bytes that may wait for their time in one thread.
const WAITING_PER_THREAD: usize = 512 << 20;
/// The eventfd among the tokens of interfaces.
pub(super) const WAKE: u64 = u64::MAX;
/// The gateway's number in a pair; no run has that many instances.
const GATEWAY: u32 = u32::MAX;
/// Added to an instance's number in a pair for what only probes; no instance has such a number.
const PROBES: u32 = 1 << 31;
/// The number of all hosts outside the data network in a pair.
const OUTSIDE: u32 = u32::MAX - 1;

/// An instance's interface, known to every thread.
#[derive(Debug)]
pub(super) struct Port {
    /// Names it, in all runs.
    pub(super) token: u64,
    pub(super) instance: InstanceId,
    pub(super) device: OwnedFd,
    /// Whether the instance is on the network.
    pub(super) present: AtomicBool,
    pub(super) counters: Counters,
    /// What it receives passes here.
    pub(super) download: Download,
    /// What it may reach outside the data network.
    pub(super) gate: Gate,
    /// Bytes it has sent that wait for their time.
    waiting: AtomicUsize,
}

impl Port {
    pub(super) fn new(token: u64, instance: InstanceId, device: OwnedFd, gate: Gate) -> Self {
        Self {
            token,
            instance,
            device,
            present: AtomicBool::new(true),
            counters: Counters::default(),
            download: Download::default(),
            gate,
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }
}

/// What does not change in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunFacts {
    /// Names the run in the data plane.
    pub(super) key: u64,
    pub(super) seed: u64,
    pub(super) subnet: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    pub(super) broadcast: Ipv4Addr,
}

/// Something every thread does.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A run begins.
    Open(RunFacts),
    /// An interface is there.
    Attach { run: u64, address: Ipv4Addr, port: Arc<Port>, owner: bool },
    /// An instance is configured anew; its owner gets the rules.
    Configure {
        run: u64,
        port: Arc<Port>,
        from: Option<Ipv4Addr>,
        to: Ipv4Addr,
        present: bool,
        rules: Option<Rules>,
    },
    /// What was measured of a run is to be added to `into`.
    Measure { run: u64, into: Arc<Mutex<NetworkReport>> },
    /// A run has instances on other workers.
    Connect { run: u64, neighbors: Arc<Neighbors> },
    /// An instance of another worker has an address.
    Place { run: u64, away: Arc<Away>, from: Option<Ipv4Addr>, to: Ipv4Addr },
    /// The links between the groups of a run are these.
    Relink { run: u64, links: Arc<Links> },
    /// A run is over.
    Close { run: u64 },
    /// The thread ends.
    Stop,
}

/// A change and who waits for it.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) change: Change,
    pub(super) done: oneshot::Sender<Result<(), Errno>>,
}

/// A run as one thread knows it.
struct Run {
    facts: RunFacts,
    by_address: HashMap<Ipv4Addr, Holder>,
    links: Arc<Links>,
}

/// The sending side of an instance.
struct Sender {
    port: Arc<Port>,
    run: u64,
    address: Ipv4Addr,
    rules: Rules,
    /// By the destination's number.
    flows: HashMap<u32, Flow>,
    streams: Streams,
}

/// A packet that waits for its time.
struct Waiting {
    run: u64,
    from: Arc<Port>,
    to: Goal,
    due: Duration,
    mark: Mark,
    bytes: Box<[u8]>,
    /// It has had its turn at the receiver's download.
    received: bool,
}

/// Packets that wait, how many bytes they are, and what is measured of those that go.
struct Waitings {
    queue: Queue<Waiting>,
    bytes: usize,
    tallies: Tallies,
}

/// What a thread is made of.
pub(super) struct Plane {
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    /// Time before a packet is due that is not slept but spun.
    spin: Duration,
    start: Instant,
    runs: HashMap<u64, Run>,
    senders: HashMap<u64, Sender>,
    waiting: Waitings,
    buffer: Vec<u8>,
    stopped: bool,
}

impl Plane {
    /// `epoll` already watches `wake` under the token [`WAKE`].
    pub(super) fn new(
        epoll: Epoll,
        wake: Arc<EventFd>,
        commands: Receiver<Command>,
        spin: Duration,
        start: Instant,
    ) -> Self {
        Self {
            epoll,
            wake,
            commands,
            spin,
            start,
            runs: HashMap::new(),
            senders: HashMap::new(),
            waiting: Waitings { queue: Queue::new(), bytes: 0, tallies: Tallies::new(start) },
            buffer: vec![0; LARGEST_PACKET],
            stopped: false,
        }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        // The kernel may otherwise add 50 µs to each sleep. Without it packets are only less punctual.
        let _ = prctl::set_timerslack(1);
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while !self.stopped {
            let ready = self.wait(&mut events);
            self.waiting.deliver_due(self.start.elapsed());
            for event in &events[..ready] {
                if event.data() == WAKE {
                    self.obey();
                } else {
                    self.read(event.data());
                }
                // A round over many busy interfaces takes longer than a packet should be late.
                self.waiting.deliver_due(self.start.elapsed());
            }
        }
    }

    /// Waits for a packet, a command or the next packet that is due, with the clock's full precision.
    fn wait(&mut self, events: &mut [EpollEvent]) -> usize {
        let ready = self.epoll.wait(events, EpollTimeout::ZERO).unwrap_or(0);
        if ready > 0 {
            return ready;
        }
        let due = self.waiting.queue.next_due();
        let limit = due.map(|due| due.saturating_sub(self.start.elapsed()));
        if limit.is_some_and(|limit| limit <= self.spin) {
            return 0;
        }
        let limit = limit.map(|limit| TimeSpec::from_duration(limit - self.spin));
        let mut epoll = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        // An interrupted sleep is a short one; the loop looks again in any case.
        let slept = ppoll(&mut epoll, limit, None);
        self.waiting.tallies.woke(due, self.start.elapsed());
        match slept {
            Ok(1..) => self.epoll.wait(events, EpollTimeout::ZERO).unwrap_or(0),
            Ok(_) | Err(_) => 0,
        }
    }

    fn obey(&mut self) {
        // Reading resets it; what was written in between is seen below.
        let _ = self.wake.read();
        while let Ok(Command { change, done }) = self.commands.try_recv() {
            // Who asked may have gone, the change holds all the same.
            let _ = done.send(self.apply(change));
        }
    }

    fn apply(&mut self, change: Change) -> Result<(), Errno> {
        match change {
            Change::Open(facts) => {
                let (by_address, links) = Default::default();
                self.runs.insert(facts.key, Run { facts, by_address, links });
                self.waiting.tallies.open(facts.key);
            }
            Change::Attach { run, address, port, owner } => {
                if owner {
                    self.adopt(run, address, &port)?;
                }
                if let Some(run) = self.runs.get_mut(&run) {
                    run.by_address.insert(address, Holder::Here(port));
                }
            }
            Change::Configure { run, port, from, to, present, rules } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.readdress(&Holder::Here(Arc::clone(&port)), from, to);
                }
                if let (Some(sender), Some(rules)) = (self.senders.get_mut(&port.token), rules) {
                    sender.rules = rules;
                    sender.address = to;
                    port.present.store(present, Ordering::Relaxed);
                }
            }
            Change::Measure { run, into } => {
                let measured = self.waiting.tallies.report(run);
                into.lock().unwrap_or_else(PoisonError::into_inner).merge(measured);
            }
            Change::Place { run, away, from, to } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.readdress(&Holder::Away(away), from, to);
                }
            }
            Change::Connect { run, neighbors } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    let instances = neighbors.instances.values();
                    run.by_address
                        .extend(instances.map(|(away, at)| (*at, Holder::Away(Arc::clone(away)))));
                }
            }
            Change::Relink { run, links } => self.relink(run, links),
            Change::Close { run } => self.close(run),
            Change::Stop => self.stopped = true,
        }
        Ok(())
    }

    fn adopt(&mut self, run: u64, address: Ipv4Addr, port: &Arc<Port>) -> Result<(), Errno> {
        self.epoll.add(&port.device, EpollEvent::new(EpollFlags::EPOLLIN, port.token))?;
        let access = self.runs.get(&run).map(|run| run.links.access(port.instance).sends);
        self.senders.insert(
            port.token,
            Sender {
                port: Arc::clone(port),
                run,
                address,
                rules: Rules::plain(access.unwrap_or_default()),
                flows: HashMap::new(),
                streams: Streams::new(),
            },
        );
        Ok(())
    }

    /// Senders whose access link is another one than before get it as their default shape.
    fn relink(&mut self, run: u64, links: Arc<Links>) {
        let Some(known) = self.runs.get_mut(&run) else { return };
        for sender in self.senders.values_mut().filter(|sender| sender.run == run) {
            if links.reshapes(&known.links, sender.port.instance) {
                sender.rules.reshape(links.access(sender.port.instance).sends);
            }
        }
        known.links = links;
    }

    fn close(&mut self, run: u64) {
        self.runs.remove(&run);
        self.waiting.forget(run);
        self.waiting.tallies.close(run);
        let epoll = &self.epoll;
        self.senders.retain(|_, sender| {
            if sender.run == run {
                // It is gone already when its namespace was.
                let _ = epoll.delete(&sender.port.device);
            }
            sender.run != run
        });
    }

    /// Forwards what the interface `token` has sent, up to a batch.
    fn read(&mut self, token: u64) {
        let Some(sender) = self.senders.get_mut(&token) else { return };
        let Some(run) = self.runs.get(&sender.run) else { return };
        for _ in 0..BATCH {
            match unistd::read(&sender.port.device, &mut self.buffer) {
                Ok(length) => {
                    let packet = &mut self.buffer[..length];
                    let now = self.start.elapsed();
                    self.waiting.tallies.beat(now);
                    if let Err(fate) = sender.forward(run, packet, now, &mut self.waiting) {
                        sender.port.counters.count(fate);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // The namespace and with it the interface is gone; epoll would report it for ever.
                Err(_) => {
                    let _ = self.epoll.delete(&sender.port.device);
                    sender.port.present.store(false, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

impl Run {
    /// An address that another instance has taken in the meantime stays with that one.
    fn readdress(&mut self, holder: &Holder, from: Option<Ipv4Addr>, to: Ipv4Addr) {
        if from == Some(to) {
            return;
        }
        if let Some(from) = from
            && self.by_address.get(&from).is_some_and(|had| had.instance() == holder.instance())
        {
            self.by_address.remove(&from);
        }
        self.by_address.insert(to, holder.clone());
    }

    fn is_group(&self, destination: Ipv4Addr) -> bool {
        destination.is_multicast()
            || destination.is_broadcast()
            || destination == self.facts.broadcast
    }
}

impl Sender {
    /// Sends one packet on its way; `Err` is the fate of one that does not go.
    fn forward(
        &mut self,
        run: &Run,
        packet: &mut [u8],
        now: Duration,
        waiting: &mut Waitings,
    ) -> Result<(), Fate> {
        let header = self.admit(run, packet)?;
        let to_gateway = header.destination == run.facts.gateway;
        let holder = run.by_address.get(&header.destination).filter(|_| !to_gateway);
        let outside = !run.facts.subnet.contains(&header.destination);
        let nobody = if outside { OUTSIDE } else { GATEWAY };
        let number = holder.map_or(nobody, Holder::instance);
        let path = run.links.path(self.port.instance.0, number);
        let (rule, lane) = self.rules.find(header.destination);
        let filter = path.filter(rule);
        if filter != Filter::Accept {
            waiting.tallies.filtered(self.run, lane, packet.len());
        }
        match filter {
            Filter::Accept => {}
            Filter::Drop => return Err(Fate::Filtered),
            Filter::Reject => {
                if let Some(error) = packet::prohibited(packet, run.facts.gateway) {
                    let _ = unistd::write(&self.port.device, &error);
                }
                return Err(Fate::Rejected);
            }
        }
        let to = match holder {
            Some(holder) => holder.goal(&mut self.streams, &self.port),
            None if to_gateway => Goal::Here(Arc::clone(&self.port)),
            None if outside && self.port.gate.is_open() => Goal::Outside(Arc::clone(&self.port)),
            None if outside => {
                if let Some(error) = packet::prohibited(packet, run.facts.gateway) {
                    let _ = unistd::write(&self.port.device, &error);
                }
                return Err(Fate::Denied);
            }
            None => return Err(Fate::NoSuchAddress),
        };
        // Probes have a pair of their own, or they would change the fate of what the instance sends.
        let number = if header.probes { number | PROBES } else { number };
        let pair = || Pair::new(run.facts.seed, self.port.instance.0, number);
        let flow = self.flows.entry(number).or_insert_with(|| Flow::new(pair()));
        let shape = path.shape.as_ref();
        let (verdict, mark) = match header.probes {
            true => tally::decide_uncounted(lane, shape, flow, now, packet.len()),
            false => waiting.tallies.decide(self.run, lane, shape, flow, now, packet.len()),
        };
        match verdict {
            Verdict::Lost => Err(Fate::Lost),
            Verdict::Overrun => Err(Fate::Overrun),
            Verdict::Deliver { at, again, corrupt_bit } => {
                if let Some(bit) = corrupt_bit {
                    packet[bit / 8] ^= 0x80 >> (bit % 8);
                    self.port.counters.count(Fate::Corrupted);
                }
                // The gateway answers pings and nothing else.
                let reply =
                    to_gateway.then(|| packet::echo_reply(packet).ok_or(Fate::NoSuchAddress));
                let reply = reply.transpose()?;
                let departure = flow.pair.departed();
                let way = Way { run: self.run, from: &self.port, to: &to, now, departure };
                let bytes = reply.as_deref().unwrap_or(packet);
                waiting.send(&way, at, bytes, &mark);
                if let Some(again) = again {
                    self.port.counters.count(Fate::Duplicated);
                    waiting.send(&way, again, bytes, &mark.of_copy());
                }
                Ok(())
            }
        }
    }

    /// Looks whether a packet may go at all.
    fn admit(&self, run: &Run, packet: &[u8]) -> Result<Ipv4Header, Fate> {
        let header = packet::parse(packet).ok_or(Fate::NotIpv4)?;
        if !self.port.is_present() {
            return Err(Fate::Absent);
        }
        if run.is_group(header.destination) {
            return Err(Fate::Group);
        }
        if header.source != self.address {
            return Err(Fate::ForeignSource);
        }
        Ok(header)
    }
}

/// Where a packet goes from where, and the present.
struct Way<'a> {
    run: u64,
    from: &'a Arc<Port>,
    to: &'a Goal,
    now: Duration,
    /// When it left at its sender's rate.
    departure: Duration,
}

impl Waitings {
    /// Delivers a packet at `at`, which may be at once.
    fn send(&mut self, way: &Way<'_>, at: Duration, bytes: &[u8], mark: &Mark) {
        let at = way.to.hand_over_at(at, way.departure);
        if at > way.now {
            return self.keep(way, at, bytes, mark, false);
        }
        // What became due while this batch was read comes first, or a pair would be reordered.
        self.deliver_due(way.now);
        match way.to.turn(way.now, bytes.len()) {
            Turn::Now => {
                way.from.counters.count(way.to.deliver(bytes));
                self.tallies.written(way.run, mark, way.now);
            }
            Turn::At(at) => self.keep(way, at, bytes, mark, true),
            Turn::Never => {
                way.from.counters.count(Fate::Overrun);
                self.tallies.no_memory(way.run, mark);
            }
        }
    }

    fn keep(&mut self, way: &Way<'_>, at: Duration, bytes: &[u8], mark: &Mark, received: bool) {
        let own = way.from.waiting.load(Ordering::Relaxed) + bytes.len();
        if own > WAITING_PER_INSTANCE || self.bytes + bytes.len() > WAITING_PER_THREAD {
            way.from.counters.count(Fate::Overrun);
            self.tallies.no_memory(way.run, mark);
            return;
        }
        way.from.waiting.store(own, Ordering::Relaxed);
        self.bytes += bytes.len();
        let (from, to) = (Arc::clone(way.from), way.to.clone());
        let (run, mark, bytes) = (way.run, mark.clone(), bytes.into());
        self.queue.push(at, Waiting { run, from, to, due: at, mark, bytes, received });
    }

    fn deliver_due(&mut self, now: Duration) {
        while let Some(mut packet) = self.queue.pop_due(now) {
            let turn = match packet.received {
                true => Turn::Now,
                false => packet.to.turn(now, packet.bytes.len()),
            };
            if let Turn::At(at) = turn {
                (packet.received, packet.due) = (true, at);
                self.queue.push(at, packet);
                continue;
            }
            self.bytes -= packet.bytes.len();
            // Only the owner of `from` writes its count, and that is this thread.
            let left = packet.from.waiting.load(Ordering::Relaxed) - packet.bytes.len();
            packet.from.waiting.store(left, Ordering::Relaxed);
            if turn == Turn::Never {
                packet.from.counters.count(Fate::Overrun);
                self.tallies.no_memory(packet.run, &packet.mark);
            } else {
                packet.from.counters.count(packet.to.deliver(&packet.bytes));
                self.tallies.written(packet.run, &packet.mark, packet.due);
            }
        }
    }

    /// Drops what waits in a run that is over. Its instances' own counts go with them.
    fn forget(&mut self, run: u64) {
        let mut kept = 0;
        self.queue.retain(|packet| {
            let keep = packet.run != run;
            kept += if keep { packet.bytes.len() } else { 0 };
            keep
        });
        self.bytes = kept;
    }
}
