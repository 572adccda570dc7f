//! One thread of the data plane: reads what its instances send, decides, and writes it to where it goes.
//!
//! Each thread owns the sending side of its share of the instances and a copy of every run's address
//! table, so that nothing is locked per packet. What comes in: [`Command`]s through a bounded channel,
//! each answered once it holds; an eventfd wakes the thread for them. What goes out: packets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use groundswell_common::fidelity::NetworkReport;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::goal::Holder;
use super::links::Links;
use super::numbers::Numbered;
use super::offload;
use super::overlay::peer::Away;
use super::overlay::receiver::Neighbors;
use super::pace::Pace;
use super::packet::{Header, Version};
use super::port::Port;
use super::rules::Rules;
use super::sender::Sender;
use super::waiting::Waitings;

/// Packets read from one interface before the others have their turn, and bytes: trains are long.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 1 << 20;
/// Interfaces looked at per round.
const EVENTS: usize = 256;
/// Largest packet of an interface.
const LARGEST_PACKET: usize = 65_536;
/// The eventfd among the tokens of interfaces.
pub(super) const WAKE: u64 = u64::MAX;

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
    /// An instance has another address.
    Readdress { run: u64, port: Arc<Port>, from: Option<Ipv4Addr>, to: Ipv4Addr },
    /// An interface is the way to more addresses, of IPv6 alone; its owner lets it send from there.
    Lead { run: u64, holder: Holder, behind: Arc<[Ipv4Addr]> },
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
pub(super) struct Run {
    pub(super) facts: RunFacts,
    /// By the bits of an address.
    pub(super) by_address: Numbered<u32, Holder>,
    /// Who is the way to an address of IPv6, by the bits of the one it is the counterpart of. It goes before
    /// `by_address`: a router of a NAT leads IPv6 to its members, and their IPv4 addresses are nobody's.
    behind: Numbered<u32, Holder>,
    /// All instances, by their numbers, with their addresses.
    pub(super) members: BTreeMap<u32, (Ipv4Addr, Holder)>,
    pub(super) links: Arc<Links>,
}

/// What a thread is made of.
pub(super) struct Plane {
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    pace: Pace,
    start: Instant,
    runs: Numbered<u64, Run>,
    senders: Numbered<u64, Sender>,
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
            pace: Pace::new(spin),
            start,
            runs: Numbered::default(),
            senders: Numbered::default(),
            waiting: Waitings::new(start),
            buffer: vec![0; offload::HEADER + LARGEST_PACKET],
            stopped: false,
        }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        // The kernel may otherwise add 50 µs to each sleep. Without it packets are only less punctual.
        let _ = prctl::set_timerslack(1);
        self.pace.start(self.start.elapsed());
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while !self.stopped {
            let ready = self.wait(&mut events);
            let now = self.start.elapsed();
            self.pace.look_around(now);
            self.waiting.deliver_due(now);
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
        let now = self.start.elapsed();
        let due = self.waiting.next_due();
        let limit = due.map(|due| due.saturating_sub(now));
        if limit.is_some_and(|limit| limit <= self.pace.early()) {
            return self.spin(events, now, limit.unwrap_or_default());
        }
        let limit = limit.map(|limit| TimeSpec::from_duration(limit - self.pace.early()));
        let mut epoll = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        // An interrupted sleep is a short one; the loop looks again in any case.
        self.pace.sleeps(now);
        let slept = ppoll(&mut epoll, limit, None);
        let woken = self.start.elapsed();
        self.pace.wakes(woken);
        self.waiting.tallies.woke(due, woken);
        match slept {
            Ok(1..) => self.epoll.wait(events, EpollTimeout::ZERO).unwrap_or(0),
            Ok(_) | Err(_) => 0,
        }
    }

    /// Spins until a packet is due, or has come.
    fn spin(&mut self, events: &mut [EpollEvent], from: Duration, limit: Duration) -> usize {
        let mut ready = 0;
        let mut now = from;
        while ready == 0 && now - from < limit {
            ready = self.epoll.wait(events, EpollTimeout::ZERO).unwrap_or(0);
            now = self.start.elapsed();
        }
        self.waiting.tallies.beat(now);
        ready
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
                let (by_address, behind, members, links) = Default::default();
                self.runs.insert(facts.key, Run { facts, by_address, behind, members, links });
                self.waiting.tallies.open(facts.key);
            }
            Change::Attach { run, address, port, owner } => {
                if owner {
                    self.adopt(run, address, &port)?;
                }
                if let Some(run) = self.runs.get_mut(&run) {
                    run.readdress(&Holder::Here(port), None, address);
                }
            }
            Change::Configure { run, port, from, to, present, rules } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.readdress(&Holder::Here(Arc::clone(&port)), from, to);
                }
                if let (Some(sender), Some(mut rules)) = (self.senders.get_mut(&port.token), rules)
                {
                    rules.follow(&sender.rules, self.start.elapsed());
                    sender.rules = rules;
                    sender.address = to;
                    port.present.store(present, Ordering::Relaxed);
                }
            }
            Change::Readdress { run, port, from, to } => {
                if let Some(sender) = self.senders.get_mut(&port.token) {
                    sender.address = to;
                }
                if let Some(run) = self.runs.get_mut(&run) {
                    run.readdress(&Holder::Here(port), from, to);
                }
            }
            Change::Lead { run, holder, behind } => self.lead(run, &holder, &behind),
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
                    for (away, address) in neighbors.instances.values() {
                        run.readdress(&Holder::Away(Arc::clone(away)), None, *address);
                    }
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
        let rules = Rules::plain(access.unwrap_or_default());
        self.senders.insert(port.token, Sender::new(run, port, address, rules));
        Ok(())
    }

    fn lead(&mut self, run: u64, holder: &Holder, behind: &[Ipv4Addr]) {
        if let Holder::Here(port) = holder
            && let Some(sender) = self.senders.get_mut(&port.token)
        {
            sender.behind.extend(behind);
        }
        if let Some(run) = self.runs.get_mut(&run) {
            run.behind.extend(behind.iter().map(|one| (one.to_bits(), holder.clone())));
        }
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
        let mut bytes = 0;
        for _ in 0..BATCH {
            match sender.port.read(&mut self.buffer) {
                Ok(length) => {
                    let now = self.start.elapsed();
                    self.waiting.tallies.beat(now);
                    self.waiting.deliver_due(now);
                    sender.forward(run, &mut self.buffer[..length], now, &mut self.waiting);
                    bytes += length;
                    if bytes > BATCH_BYTES {
                        return;
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
        if let Some(from) = from.map(Ipv4Addr::to_bits)
            && self.by_address.get(&from).is_some_and(|had| had.instance() == holder.instance())
        {
            self.by_address.remove(&from);
        }
        self.by_address.insert(to.to_bits(), holder.clone());
        self.members.insert(holder.instance(), (to, holder.clone()));
    }

    /// Who takes a packet.
    pub(super) fn holder(&self, header: &Header) -> Option<&Holder> {
        let address = header.destination.to_bits();
        let behind = match header.version {
            Version::V4 => None,
            Version::V6 => self.behind.get(&address),
        };
        behind.or_else(|| self.by_address.get(&address))
    }

    /// Whether a packet goes to many.
    pub(super) fn is_group(&self, header: &Header) -> bool {
        header.group || header.destination == self.facts.broadcast
    }
}
