//! A peer as the engine sees it: what it has been told, what it waits for,
//! and whether its stream takes another message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Cid;
use crate::ledger::{Answer, Ledger};
use crate::wire::{Entry, Message, Want};

/// Small messages to a peer are at least this far apart, so that what comes
/// within this time goes together.
const LINGER: Duration = Duration::from_millis(10);
/// A stream that breaks within this time was perhaps never read: rust-libp2p
/// throws streams away of which several come at once.
const EARLY: Duration = Duration::from_secs(2);

/// When something of a block last came from a peer; its readers write it, the
/// engine reads it.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    start: Instant,
    millis: Arc<AtomicU64>,
}

impl Heard {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, millis: Arc::default() }
    }

    pub(crate) fn now(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// What a peer's writer sends next; blocks are read when their turn comes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    pub(crate) blocks: Vec<Cid>,
}

/// The stream to a peer.
#[derive(Debug)]
pub(crate) enum Link {
    /// None is open.
    Closed,
    /// One is being opened.
    Opening(mpsc::Sender<Outgoing>),
    /// One is open; `legacy` if the peer speaks version 1.1.
    Open { writer: mpsc::Sender<Outgoing>, legacy: bool, busy: bool },
    /// The peer did not take one.
    Refused {
        /// When.
        at: Instant,
    },
}

/// A peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    pub(crate) link: Link,
    /// The number of the writer that `link` is about.
    pub(crate) writer: u64,
    pub(crate) ledger: Ledger,
    pub(crate) heard: Heard,
    /// The wantlist as the peer knows it, or will after the next message.
    told: BTreeMap<Cid, Want>,
    /// What of it is not sent yet.
    unsent: BTreeMap<Cid, Entry>,
    /// Whether the peer has to get the whole wantlist.
    full: bool,
    urgent: bool,
    sent_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// What was answered while the stream was young.
    early: Answer,
}

impl Peer {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            connected: false,
            link: Link::Closed,
            writer: 0,
            ledger: Ledger::default(),
            heard: Heard::new(start),
            told: BTreeMap::new(),
            unsent: BTreeMap::new(),
            full: false,
            urgent: false,
            sent_at: None,
            opened_at: None,
            early: Answer::default(),
        }
    }

    /// Changes the wantlist that the peer is to know.
    pub(crate) fn tell(&mut self, cid: Cid, want: Want) {
        let entry = Entry { cid, want, priority: 1, send_dont_have: want != Want::Cancel };
        match want {
            Want::Have | Want::Block => {
                self.told.insert(cid, want);
                self.unsent.insert(cid, entry);
                self.urgent |= want == Want::Block;
            }
            Want::Cancel => {
                if self.told.remove(&cid).is_some() {
                    self.unsent.insert(cid, entry);
                }
            }
        }
    }

    /// The peer has sent a block and so forgotten that it is wanted.
    pub(crate) fn has_sent(&mut self, cid: &Cid) {
        self.told.remove(cid);
        self.unsent.remove(cid);
    }

    /// The stream to the peer is open.
    pub(crate) fn opened(&mut self, legacy: bool, now: Instant) {
        let link = std::mem::replace(&mut self.link, Link::Closed);
        self.link = match link {
            Link::Opening(writer) => Link::Open { writer, legacy, busy: false },
            other @ (Link::Closed | Link::Open { .. } | Link::Refused { .. }) => other,
        };
        self.opened_at = Some(now);
        self.early = Answer::default();
    }

    /// The stream is gone, and with it perhaps what was sent last.
    pub(crate) fn stream_lost(&mut self) {
        self.link = Link::Closed;
        self.full = !self.told.is_empty();
        self.ledger.answer_again(std::mem::take(&mut self.early));
    }

    /// Whether there is something to say.
    pub(crate) fn has_something(&self) -> bool {
        self.full || !self.unsent.is_empty() || self.ledger.is_waiting()
    }

    /// When the next message may go, if there is one and the stream is free.
    pub(crate) fn due(&self) -> Option<Instant> {
        let free = matches!(self.link, Link::Open { busy: false, .. });
        if !free || !self.has_something() {
            return None;
        }
        let urgent = self.urgent || self.full || self.ledger.has_blocks();
        let sent_at = self.sent_at.unwrap_or(self.heard.start);
        Some(if urgent { sent_at } else { sent_at + LINGER })
    }

    /// Takes the next message, with about `limit` bytes of blocks.
    pub(crate) fn compose(&mut self, limit: usize, now: Instant) -> Outgoing {
        let legacy = matches!(self.link, Link::Open { legacy: true, .. });
        let answer = self.ledger.take(limit);
        if self.opened_at.is_some_and(|opened| now - opened < EARLY) {
            self.early.presences.extend(&answer.presences);
            self.early.blocks.extend(&answer.blocks);
        } else {
            self.early = Answer::default();
        }
        let full = std::mem::take(&mut self.full);
        let mut unsent = std::mem::take(&mut self.unsent);
        if full {
            let all = self.told.iter();
            let entry = |(cid, want): (&Cid, &Want)| {
                (*cid, Entry { cid: *cid, want: *want, priority: 1, send_dont_have: true })
            };
            unsent = all.map(entry).collect();
        }
        let mut wants: Vec<_> = unsent.into_values().collect();
        let mut presences = answer.presences;
        let mut pending_bytes = answer.pending_bytes;
        if legacy {
            // It would take a question for a want, and knows no presences.
            wants.retain(|entry| entry.want != Want::Have);
            wants.iter_mut().for_each(|entry| entry.send_dont_have = false);
            presences.clear();
            pending_bytes = 0;
        }
        self.urgent = false;
        self.sent_at = Some(now);
        let message = Message { wants, full, blocks: Vec::new(), presences, pending_bytes };
        Outgoing { message, blocks: answer.blocks }
    }
}
