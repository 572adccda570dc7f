//! One socket of an instance: what has arrived of it, what is to be sent, what it has subscribed to.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::linux::net::TcpStreamExt as _;

use groundswell_common::ids::InstanceId;
use tokio::time::Instant;

use crate::sync::log::Log;
use crate::sync::protocol;
use crate::sync::websocket::{self, CloseCode, Handshake, Kind};

/// How much is made ready for one write. Items of a subscription are encoded only when the socket has taken what
/// came before, so a slow reader costs no memory.
const CHUNK_BYTES: usize = 64 * 1024;
/// Most that may wait for a socket that does not read.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// A buffer above this size is given back once it is empty.
const KEPT_BYTES: usize = 4 * 1024;
/// Most operations of one connection that may wait to be stored; it is not read meanwhile.
const MAX_OPEN_CALLS: usize = 8 * 1024;

/// Most barriers and subscriptions that a connection may wait in at a time.
const MAX_WAITS: usize = 4 * 1024;

/// What became of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything was sent.
    All,
    /// There is more, and the socket takes it.
    More,
    /// The socket is full; epoll will tell.
    Blocked,
    /// The connection is over.
    Ended,
    /// So much waits that the connection is given up.
    Overflowed,
}

/// What became of an attempt to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes are in the scratch buffer, and there may be more.
    Bytes(usize),
    /// Nothing has come.
    Nothing,
    /// The peer has gone.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    /// What is left is sent, then the socket is closed.
    Closing,
}

#[derive(Debug)]
struct Subscription {
    id: Box<str>,
    topic: usize,
    next: usize,
    queued: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) instance: InstanceId,
    /// The session of a client that may come back over another connection.
    pub(super) session: Option<u64>,
    phase: Phase,
    /// The beginning of a frame that is not complete.
    input: Vec<u8>,
    /// The frames so far of a message in several frames.
    message: Option<Vec<u8>>,
    output: Vec<u8>,
    sent: usize,
    blocked: bool,
    subscriptions: Vec<Option<Subscription>>,
    /// How many of them there are.
    subscribed: usize,
    /// Subscriptions that have items to send.
    behind: Vec<usize>,
    /// The barriers it waits in.
    pub(super) waits: Vec<u64>,
    /// Operations that are not answered yet.
    pub(super) open_calls: usize,
    pub(super) last_sent: Instant,
    /// Whether it is in the list of those to be flushed.
    pub(super) dirty: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, instance: InstanceId, now: Instant) -> Self {
        Self {
            stream,
            instance,
            session: None,
            phase: Phase::Opening,
            input: Vec::new(),
            message: None,
            output: Vec::new(),
            sent: 0,
            blocked: false,
            subscriptions: Vec::new(),
            subscribed: 0,
            behind: Vec::new(),
            waits: Vec::new(),
            open_calls: 0,
            last_sent: now,
            dirty: false,
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it has so many open calls that it is not read for a while.
    pub(super) fn is_paused(&self) -> bool {
        self.open_calls >= MAX_OPEN_CALLS
    }

    /// Whether it may wait for one more thing.
    pub(super) fn may_wait(&self) -> bool {
        self.waits.len() + self.subscribed < MAX_WAITS
    }

    /// Bytes of messages that have not arrived whole.
    pub(super) fn unfinished(&self) -> usize {
        self.input.len() + self.message.as_ref().map_or(0, Vec::len)
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> Received {
        if self.phase == Phase::Closing {
            return Received::Nothing;
        }
        match self.stream.read(scratch) {
            Ok(0) => Received::Ended,
            Ok(count) => Received::Bytes(count),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => Received::Nothing,
            Err(_) => Received::Ended,
        }
    }

    /// Takes what was received and calls `on_message` for each complete message in it.
    pub(super) fn consume(
        &mut self,
        received: &mut [u8],
        mut on_message: impl FnMut(&mut Self, &[u8]) -> Result<(), CloseCode>,
    ) {
        let rest = if self.input.is_empty() {
            let used = self.frames(received, &mut on_message);
            received[used..].to_vec()
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(received);
            let used = self.frames(&mut input, &mut on_message);
            input.drain(..used);
            input
        };
        if self.phase == Phase::Closing {
            return;
        }
        if !rest.is_empty() {
            // The Rust crate writes head and payload of a frame separately and without TCP_NODELAY: unless the
            // head is acknowledged at once, the payload follows only after the delayed acknowledgement, 44 ms later.
            let _ = self.stream.set_quickack(true);
        }
        self.input = rest;
    }

    /// Handles complete frames and returns how many bytes they took.
    fn frames(
        &mut self,
        input: &mut [u8],
        on_message: &mut impl FnMut(&mut Self, &[u8]) -> Result<(), CloseCode>,
    ) -> usize {
        let mut used = 0;
        if self.phase == Phase::Opening {
            match websocket::handshake(input) {
                Handshake::Incomplete => return 0,
                Handshake::Refused { response } => {
                    self.output.extend_from_slice(response);
                    self.phase = Phase::Closing;
                    return input.len();
                }
                Handshake::Accepted { len, response, session } => {
                    self.session = session;
                    self.output.extend_from_slice(&response);
                    self.phase = Phase::Open;
                    used = len;
                }
            }
        }
        while self.phase == Phase::Open {
            let rest = &mut input[used..];
            let outcome = match websocket::frame(rest) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    used += frame.len;
                    self.frame(frame.kind, frame.last, frame.payload(rest), on_message)
                }
                Err(code) => Err(code),
            };
            if let Err(code) = outcome {
                self.close(code);
            }
        }
        used
    }

    fn frame(
        &mut self,
        kind: Kind,
        last: bool,
        payload: &[u8],
        on_message: &mut impl FnMut(&mut Self, &[u8]) -> Result<(), CloseCode>,
    ) -> Result<(), CloseCode> {
        match kind {
            Kind::Data if self.message.is_some() => Err(CloseCode::Protocol),
            Kind::Data if last => on_message(self, payload),
            Kind::Data => {
                self.message = Some(payload.to_vec());
                Ok(())
            }
            Kind::Continuation => {
                let mut message = self.message.take().ok_or(CloseCode::Protocol)?;
                if message.len() + payload.len() > websocket::MAX_MESSAGE_BYTES {
                    return Err(CloseCode::TooLarge);
                }
                message.extend_from_slice(payload);
                if last {
                    return on_message(self, &message);
                }
                self.message = Some(message);
                Ok(())
            }
            Kind::Close => Err(CloseCode::Normal),
            Kind::Ping => {
                websocket::pong(&mut self.output, payload);
                Ok(())
            }
            Kind::Pong => Ok(()),
        }
    }

    /// Says goodbye. What was to be sent before is still sent.
    pub(super) fn close(&mut self, code: CloseCode) {
        if self.phase == Phase::Open {
            websocket::close(&mut self.output, code);
        }
        self.phase = Phase::Closing;
        self.behind.clear();
    }

    /// Adds one message to what is to be sent. `scratch` is any buffer.
    pub(super) fn send(&mut self, scratch: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.phase != Phase::Open {
            return;
        }
        scratch.clear();
        write(scratch);
        websocket::text_head(&mut self.output, scratch.len());
        self.output.extend_from_slice(scratch);
    }

    /// Begins a subscription after the first `next` items, and returns its number.
    pub(super) fn subscribe(&mut self, id: &str, topic: usize, next: usize) -> usize {
        let at = self.subscriptions.len();
        self.subscriptions.push(Some(Subscription { id: id.into(), topic, next, queued: true }));
        self.subscribed += 1;
        self.behind.push(at);
        at
    }

    /// The topic of subscription `at` has grown.
    pub(super) fn fall_behind(&mut self, at: usize) {
        let Some(Some(subscription)) = self.subscriptions.get_mut(at) else { return };
        if !std::mem::replace(&mut subscription.queued, true) {
            self.behind.push(at);
        }
    }

    /// Ends the subscriptions with this id; returns their topics and numbers.
    pub(super) fn unsubscribe(&mut self, id: &str) -> Vec<(usize, usize)> {
        let mut ended = Vec::new();
        for (at, slot) in self.subscriptions.iter_mut().enumerate() {
            if let Some(gone) = slot.take_if(|subscription| *subscription.id == *id) {
                ended.push((gone.topic, at));
            }
        }
        self.subscribed -= ended.len();
        // Numbers above the last one that is in use are given out again.
        let used = self.subscriptions.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.subscriptions.truncate(used);
        ended
    }

    /// Topics and numbers of all its subscriptions.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = (usize, usize)> {
        let all = self.subscriptions.iter().enumerate();
        all.filter_map(|(at, slot)| slot.as_ref().map(|subscription| (subscription.topic, at)))
    }

    /// Ids of all its subscriptions.
    pub(super) fn subscription_ids(&self) -> Vec<Box<str>> {
        self.subscriptions.iter().flatten().map(|subscription| subscription.id.clone()).collect()
    }

    /// The socket takes bytes again.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Sends what the socket takes, at most one chunk.
    pub(super) fn flush(&mut self, log: &Log, now: Instant) -> Flushed {
        if self.blocked {
            let waiting = self.output.len() - self.sent;
            return if waiting > MAX_WAITING_BYTES {
                Flushed::Overflowed
            } else {
                Flushed::Blocked
            };
        }
        if self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        self.fill(log);
        if !self.output.is_empty() {
            self.last_sent = now;
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => return Flushed::More,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Flushed::Ended,
            }
            if self.sent < self.output.len() {
                self.blocked = true;
                return Flushed::Blocked;
            }
            self.sent = 0;
            self.output.clear();
            if self.output.capacity() > KEPT_BYTES {
                self.output = Vec::new();
            }
        }
        match self.phase {
            Phase::Closing => Flushed::Ended,
            Phase::Opening | Phase::Open if self.behind.is_empty() => Flushed::All,
            Phase::Opening | Phase::Open => Flushed::More,
        }
    }

    /// Encodes items of subscriptions until there is enough for one write.
    fn fill(&mut self, log: &Log) {
        while self.output.len() - self.sent < CHUNK_BYTES {
            let Some(at) = self.behind.last().copied() else { return };
            let Some(Some(subscription)) = self.subscriptions.get_mut(at) else {
                self.behind.pop();
                continue;
            };
            let topic = log.topic(subscription.topic);
            if subscription.next >= topic.len() {
                subscription.queued = false;
                self.behind.pop();
                continue;
            }
            let item = topic.item(subscription.next);
            let id = &subscription.id;
            websocket::text_head(&mut self.output, protocol::item_len(id, item));
            protocol::item(&mut self.output, id, item);
            subscription.next += 1;
        }
    }
}
