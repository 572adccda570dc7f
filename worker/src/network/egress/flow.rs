//! What every flow of an instance has: its packets, its rates, its right to be, and the way back.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::frames::{self, Refusal};
use super::policy::{self, Grant};
use super::reach;
use crate::network::counters::Fate;
use crate::network::download::Turn;
use crate::network::port::Port;

/// What all flows have in common.
#[derive(Debug)]
pub(super) struct Shared {
    /// Rates count from here.
    pub(super) start: Instant,
    /// Servers of Groundswell's own.
    protected: RwLock<BTreeSet<Ipv4Addr>>,
}

impl Shared {
    pub(super) fn new(start: Instant, protected: BTreeSet<Ipv4Addr>) -> Self {
        Self { start, protected: RwLock::new(protected) }
    }

    pub(super) fn protect(&self, more: impl IntoIterator<Item = Ipv4Addr>) {
        self.protected.write().unwrap_or_else(PoisonError::into_inner).extend(more);
    }

    fn permits(&self, grant: &Grant, to: Ipv4Addr) -> bool {
        let protected = self.protected.read().unwrap_or_else(PoisonError::into_inner);
        policy::permits(grant, to, &protected)
    }

    /// Whether an instance with this grant reaches `to` from this host.
    pub(super) fn judge(&self, grant: &Grant, to: Ipv4Addr) -> Result<(), Refusal> {
        if !self.permits(grant, to) {
            return Err(Refusal::Prohibited);
        }
        reach::judge(to)
    }
}

/// The instance's end of a flow.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) port: Arc<Port>,
    inbox: mpsc::Receiver<Box<[u8]>>,
    grant: watch::Receiver<Arc<Grant>>,
    /// A packet that waits for its turn on the way out.
    held: Option<(Instant, Box<[u8]>)>,
    /// A packet that waits for its turn on the way back.
    paused: Option<(Instant, Vec<u8>)>,
    _slots: [OwnedSemaphorePermit; 2],
}

impl Inner {
    pub(super) fn new(
        shared: Arc<Shared>,
        port: Arc<Port>,
        inbox: mpsc::Receiver<Box<[u8]>>,
        slots: [OwnedSemaphorePermit; 2],
    ) -> Self {
        let grant = port.gate.watch();
        Self { shared, port, inbox, grant, held: None, paused: None, _slots: slots }
    }

    pub(super) fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Waits for what happens next. Safe to be cancelled.
    pub(super) async fn event(&mut self) -> Event {
        let (held, paused) = (self.held.as_ref(), self.paused.as_ref());
        let (held, paused) = (held.map(|(at, _)| *at), paused.map(|(at, _)| *at));
        tokio::select! {
            // A change of what it may reach comes before any packet.
            biased;
            changed = self.grant.changed() => match changed {
                Ok(()) => Event::Changed,
                Err(_) => Event::Over,
            },
            () = at(paused) => {
                if let Some((_, bytes)) = self.paused.take() {
                    self.deliver(&bytes);
                }
                Event::Freed
            }
            () = at(held) => self.held.take().map_or(Event::Freed, |(_, bytes)| Event::Packet(bytes)),
            bytes = self.inbox.recv(), if held.is_none() => match bytes {
                Some(bytes) => self.its_turn(bytes).map_or(Event::Freed, Event::Packet),
                None => Event::Over,
            },
        }
    }

    /// The next packet of the instance that is there and whose turn it is.
    pub(super) fn at_once(&mut self) -> Option<Box<[u8]>> {
        if self.held.is_some() {
            return None;
        }
        let bytes = self.inbox.try_recv().ok()?;
        self.its_turn(bytes)
    }

    /// A packet that need not wait; one that does is kept, and one for which there is no room is dropped.
    fn its_turn(&mut self, bytes: Box<[u8]>) -> Option<Box<[u8]>> {
        match self.port.gate.upload.turn(self.now(), bytes.len()) {
            Turn::Now => return Some(bytes),
            Turn::At(at) => self.held = Some((self.shared.start + at, bytes)),
            Turn::Never => self.port.counters.count(Fate::Overrun, 1),
        }
        None
    }

    /// Whether a packet may be sent back.
    pub(super) fn is_free(&self) -> bool {
        self.paused.is_none()
    }

    /// Sends a packet back when the download has taken it. Only while [`Inner::is_free`].
    pub(super) fn send_back(&mut self, bytes: Vec<u8>) {
        let now = self.now();
        let wait = |turn| match turn {
            Turn::Now => Some(Duration::ZERO),
            Turn::At(at) => Some(at),
            Turn::Never => None,
        };
        // It passes the egress' own limit and then the access link's, as any packet for the instance does.
        let due = wait(self.port.gate.download.turn(now, bytes.len()))
            .and_then(|one| Some(one.max(wait(self.port.download.turn(now, bytes.len()))?)));
        match due {
            None => self.port.counters.count(Fate::Overrun, 1),
            Some(due) if due <= now => self.deliver(&bytes),
            Some(due) => self.paused = Some((self.shared.start + due, bytes)),
        }
    }

    /// Waits until what was sent back is delivered. Before a flow ends, for what waits then goes with it.
    pub(super) async fn settle(&mut self) {
        if let Some((due, bytes)) = self.paused.take() {
            sleep_until(due).await;
            self.deliver(&bytes);
        }
    }

    /// Answers a packet of the instance with an error, and counts it.
    pub(super) fn refuse(&self, packet: &[u8], why: Refusal) {
        refuse(&self.port, packet, why);
    }

    fn deliver(&self, bytes: &[u8]) {
        let fate = give(&self.port, bytes);
        let came = fate == Fate::Delivered;
        self.port.counters.count(if came { Fate::Returned } else { fate }, 1);
    }

    /// Whether the instance may reach `to` at this moment.
    pub(super) fn may_reach(&self, to: Ipv4Addr) -> Result<(), Refusal> {
        let grant = self.port.gate.grant();
        self.shared.judge(&grant, to)
    }

    /// Waits until the instance may not reach `to` any more. Safe to be cancelled.
    pub(super) async fn revoked(&mut self, to: Ipv4Addr) {
        while self.grant.changed().await.is_ok() {
            let grant = Arc::clone(&self.grant.borrow_and_update());
            if !self.shared.permits(&grant, to) {
                return;
            }
        }
    }
}

/// What happens to a flow.
pub(super) enum Event {
    /// The instance has sent a packet, and its upload has taken it.
    Packet(Box<[u8]>),
    /// There may be room on the way back.
    Freed,
    /// What the instance may reach is something else.
    Changed,
    /// Nothing more comes.
    Over,
}

/// Waits until then, or for ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Gives a packet to the instance behind `port`.
pub(super) fn give(port: &Arc<Port>, bytes: &[u8]) -> Fate {
    port.give(bytes)
}

/// Answers a packet of the instance behind `port` with an error, and counts it.
pub(super) fn refuse(port: &Arc<Port>, packet: &[u8], why: Refusal) {
    let fate = match why {
        Refusal::Prohibited => Fate::Denied,
        Refusal::Unreachable => Fate::NoSuchAddress,
    };
    // Before the answer, so that who has heard it finds it counted.
    port.counters.count(fate, 1);
    if let Some(error) = frames::refusal(packet, why) {
        give(port, &error);
    }
}
