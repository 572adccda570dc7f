//! The thread that owns every socket of a run on this worker, and its copy of the log.
//!
//! ```text
//! sockets ──read──► protocol ──► outbox ──► kv writer
//!    ▲                                          ⋮ (the bus)
//!    └──write── replies, items ◄── log ◄── kv follower
//! ```
//!
//! One thread with one epoll, because everything the sockets ask for is decided by one state machine: a barrier of
//! ten thousand is ten thousand reads and writes, and waking a task for each would cost as much again. All
//! answers to one connection that fall due in one turn leave in one write.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use groundswell_common::ids::InstanceId;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

mod inputs;
mod limits;
mod news;
mod requests;

use super::connection::{Connection, Flushed, Received};
use super::slots::{Slot, Slots};
use super::{Input, Progress, Waker};
use crate::sync::connections::Connections;
use crate::sync::log::{Effect, Log};
use crate::sync::meter::Meter;
use crate::sync::outbox::{Outbox, Outgoing};
use crate::sync::protocol::{self};
use crate::sync::websocket::CloseCode;
use crate::sync::{SyncEvent, SyncSpec};

/// How much is read from a socket at once.
const READ_BYTES: usize = 64 * 1024;
/// How many events epoll may tell at once.
const EVENTS: usize = 1024;
/// How often the hub looks at things nobody wakes it for.
const TICK: Duration = Duration::from_secs(1);
/// A connection that has been sent nothing for so long gets a harmless message: the Go SDK ends its instance
/// after an hour without one.
const KEEP_ALIVE: Duration = Duration::from_secs(600);
/// Larger responses end the Go SDK's connection.
const GO_LIMIT_BYTES: usize = 32 * 1024;
/// The token of the waker; slots never have it.
const WAKER: u64 = u64::MAX;

/// A barrier someone waits in.
#[derive(Debug)]
struct Wait {
    connection: u64,
    id: Box<str>,
    state: Box<str>,
    target: u64,
}

/// An instance whose sockets are here.
#[derive(Debug)]
struct Served {
    listener: u64,
    connections: Vec<u64>,
    /// Whether there ever was one.
    connected: bool,
    /// How many of its network configurations have been signalled.
    configured: u64,
    /// What it has asked for.
    meter: Meter,
    /// Bytes of messages that have not arrived whole, of all its connections.
    unfinished: usize,
}

/// What the hub is given.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) inbox: mpsc::Receiver<Input>,
    pub(super) waker: Waker,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) events: mpsc::Sender<SyncEvent>,
}

#[derive(Debug)]
pub(super) struct Hub {
    spec: SyncSpec,
    prefix: String,
    epoll: Epoll,
    ends: Ends,
    log: Log,
    outbox: Outbox,
    slots: Slots,
    instances: BTreeMap<InstanceId, Served>,
    connections: Connections,
    /// Topics of network configurations, and for which local instance.
    network_topics: HashMap<usize, InstanceId>,
    run_events: usize,
    /// By topic: connection and number of each subscription.
    subscribers: Vec<Vec<(u64, usize)>>,
    waits: BTreeMap<u64, Wait>,
    next_wait: u64,
    /// Whether the log has been read to its end once. Nothing is appended before.
    caught_up: bool,
    broken: Option<String>,
    closing: bool,
    /// Topics with new items, connections to flush, to flush again, and to read again.
    grown: Vec<usize>,
    dirty: Vec<u64>,
    unread: Vec<u64>,
    paused: Vec<u64>,
    /// Connections of instances that have asked for too much at once.
    slowed: BTreeSet<u64>,
    warned: Vec<usize>,
    backlog: VecDeque<SyncEvent>,
    effects: Vec<Effect>,
    scratch: Vec<u8>,
    now: Instant,
    last_tick: Instant,
}

impl Hub {
    pub(super) fn new(spec: SyncSpec, mut log: Log, ends: Ends) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(ends.waker.0.as_ref(), EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
        let run_events = log.topic_index("run_events");
        let prefix = format!("run:{}:plan:{}:case:{}:", spec.run, spec.plan, spec.case);
        let now = Instant::now();
        Ok(Self {
            prefix,
            epoll,
            ends,
            log,
            outbox: Outbox::new(spec.worker.clone(), spec.epoch),
            connections: spec
                .connections
                .as_deref()
                .map(Connections::append_to)
                .unwrap_or_default(),
            spec,
            slots: Slots::default(),
            instances: BTreeMap::new(),
            network_topics: HashMap::new(),
            run_events,
            subscribers: Vec::new(),
            waits: BTreeMap::new(),
            next_wait: 0,
            caught_up: false,
            broken: None,
            closing: false,
            grown: Vec::new(),
            dirty: Vec::new(),
            unread: Vec::new(),
            paused: Vec::new(),
            slowed: BTreeSet::new(),
            warned: Vec::new(),
            backlog: VecDeque::new(),
            effects: Vec::new(),
            scratch: Vec::new(),
            now,
            last_tick: now,
        })
    }

    /// Runs until it is told to close, or its handles are gone.
    pub(super) fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0_u8; READ_BYTES];
        while !self.closing {
            let count = match self.epoll.wait(&mut events, self.patience()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(err) => {
                    warn!(error = %err, "sync gateway cannot wait for sockets");
                    self.freeze(format!("epoll failed: {err}"), false);
                    self.closing = true;
                    0
                }
            };
            self.now = Instant::now();
            self.go_on();
            for token in std::mem::take(&mut self.unread) {
                self.read(token, &mut buffer);
            }
            for event in &events[..count] {
                self.ready(event.data(), event.events(), &mut buffer);
            }
            self.take_inputs();
            self.append();
            self.flush();
            self.tell();
            self.tick();
        }
        self.farewell();
    }

    fn patience(&self) -> EpollTimeout {
        let wait = if !self.dirty.is_empty() || !self.unread.is_empty() {
            Duration::ZERO
        } else if self.backlog.is_empty() && self.slowed.is_empty() {
            TICK
        } else {
            Duration::from_millis(10)
        };
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO)
    }

    fn ready(&mut self, token: u64, flags: EpollFlags, buffer: &mut [u8]) {
        if token == WAKER {
            self.ends.waker.reset();
            return;
        }
        match self.slots.get_mut(token) {
            Some(Slot::Listener(..)) => self.accept(token),
            Some(Slot::Connection(connection)) => {
                if flags.contains(EpollFlags::EPOLLOUT) {
                    connection.unblock();
                    self.mark(token);
                }
                if flags.intersects(!EpollFlags::EPOLLOUT) {
                    self.read(token, buffer);
                }
            }
            None => {}
        }
    }

    fn accept(&mut self, token: u64) {
        while let Some(Slot::Listener(listener, instance)) = self.slots.get_mut(token) {
            let instance = *instance;
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) => {
                    warn!(error = %err, %instance, "sync connection not accepted");
                    return;
                }
            };
            if !self.may_connect(instance) {
                debug!(%instance, "sync connection refused: there are too many");
                continue;
            }
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            let connection = Connection::new(stream, instance, self.now);
            let new = self.slots.insert(Slot::Connection(Box::new(connection)));
            let Some(Slot::Connection(connection)) = self.slots.get_mut(new) else { continue };
            // Edge-triggered, so that a socket that is full costs no further calls.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
            let event = EpollEvent::new(flags | EpollFlags::EPOLLET, new);
            if let Err(err) = self.epoll.add(connection.stream().as_fd(), event) {
                warn!(error = %err, %instance, "sync connection not watched");
                self.slots.remove(new);
                continue;
            }
            self.connections.opened(instance);
            if let Some(served) = self.instances.get_mut(&instance) {
                served.connections.push(new);
                served.connected = true;
            }
        }
    }

    fn read(&mut self, token: u64, buffer: &mut [u8]) {
        let Some(mut connection) = self.slots.take_connection(token) else { return };
        if self.holds_back(token, &connection) {
            self.slots.put_connection(token, connection);
            return;
        }
        match connection.receive(buffer) {
            Received::Nothing => {}
            Received::Ended => {
                self.end(token, &connection);
                return;
            }
            Received::Bytes(count) => {
                let (mut operations, before) = (0, connection.unfinished());
                connection.consume(&mut buffer[..count], |connection, message| {
                    operations += 1;
                    self.message(token, connection, message)
                });
                self.account(&mut connection, count, operations, before);
                self.mark_taken(token, &mut connection);
                if count == buffer.len() {
                    self.unread.push(token);
                }
            }
        }
        self.slots.put_connection(token, connection);
    }

    fn mark(&mut self, token: u64) {
        if let Some(Slot::Connection(connection)) = self.slots.get_mut(token)
            && !std::mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push(token);
        }
    }

    fn mark_taken(&mut self, token: u64, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(token);
        }
    }

    fn append(&mut self) {
        if self.caught_up && self.broken.is_none() {
            let batch = self.outbox.take(self.log.seen(), self.log.own_op());
            if let Some(batch) = batch
                && self.ends.outgoing.try_send(batch).is_err()
            {
                debug!("sync writer has ended");
            }
        }
        let now = Progress {
            seq: self.log.seen().seq,
            own: self.outbox.landed_no(),
            pending: !self.outbox.is_empty() || !self.waits.is_empty(),
        };
        self.ends.progress.send_if_modified(|known| std::mem::replace(known, now) != now);
    }

    fn flush(&mut self) {
        for token in std::mem::take(&mut self.dirty) {
            let Some(mut connection) = self.slots.take_connection(token) else { continue };
            connection.dirty = false;
            match connection.flush(&self.log, self.now) {
                Flushed::All | Flushed::Blocked => {}
                Flushed::More => self.mark_taken(token, &mut connection),
                Flushed::Ended => {
                    self.end(token, &connection);
                    continue;
                }
                Flushed::Overflowed => {
                    let instance = connection.instance;
                    let what = format!(
                        "a sync connection of instance {instance} was closed: 64 MiB wait and it does not read"
                    );
                    self.backlog.push_back(SyncEvent::Warning(what));
                    self.end(token, &connection);
                    continue;
                }
            }
            self.slots.put_connection(token, connection);
        }
    }

    /// Hands events to the supervisor; what it does not take yet waits.
    fn tell(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.ends.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
    }

    fn tick(&mut self) {
        if self.now.duration_since(self.last_tick) < TICK {
            return;
        }
        self.last_tick = self.now;
        for token in self.slots.tokens() {
            let Some(Slot::Connection(connection)) = self.slots.get_mut(token) else { continue };
            if connection.is_open() && self.now.duration_since(connection.last_sent) >= KEEP_ALIVE {
                connection.send(&mut self.scratch, |out| {
                    protocol::passed(out, protocol::KEEP_ALIVE_ID);
                });
                self.mark(token);
            }
        }
    }

    /// The log cannot be used any more: every open call gets an error, and so will every later one.
    fn freeze(&mut self, reason: String, fault_of_plan: bool) {
        if self.broken.is_some() {
            return;
        }
        let why = format!("sync is lost: {reason}");
        for caller in self.outbox.abandon() {
            self.fail(caller.connection, &caller.id, &why);
        }
        for wait in std::mem::take(&mut self.waits).into_values() {
            self.fail(wait.connection, &wait.id, &why);
        }
        for token in self.slots.tokens() {
            let Some(connection) = self.slots.connection(token) else { continue };
            for id in connection.subscription_ids() {
                self.fail(token, &id, &why);
            }
        }
        self.broken = Some(why);
        self.backlog.push_back(SyncEvent::Broken { reason, fault_of_plan });
    }

    fn fail(&mut self, token: u64, id: &str, why: &str) {
        if let Some(Slot::Connection(connection)) = self.slots.get_mut(token) {
            connection.send(&mut self.scratch, |out| protocol::failed(out, id, why));
            self.mark(token);
        }
    }

    fn farewell(&mut self) {
        for token in self.slots.tokens() {
            if let Some(Slot::Connection(connection)) = self.slots.get_mut(token) {
                connection.close(CloseCode::GoingAway);
            }
            self.mark(token);
        }
        self.flush();
        self.tell();
    }
}
