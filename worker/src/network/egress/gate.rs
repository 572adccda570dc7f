//! The gate of one instance: what it may reach outside the data network, and how fast.
//!
//! The data plane looks only whether the gate is open and hands packets over; who may go where is decided when a
//! flow begins, and again whenever the grant changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc, watch};

use super::policy::Grant;
use crate::network::counters::Fate;
use crate::network::download::Download;
use crate::network::port::Port;

/// Packets of one instance that may wait for the egress; one that floods does not take the room of others.
const WAITING: usize = 256;

/// A packet on its way out.
#[derive(Debug)]
pub(in crate::network) struct Leaving {
    pub(super) port: Arc<Port>,
    pub(super) bytes: Box<[u8]>,
}

/// The gate of one instance.
#[derive(Debug)]
pub(in crate::network) struct Gate {
    open: AtomicBool,
    grant: watch::Sender<Arc<Grant>>,
    /// Absent where the network has no egress.
    way: Option<mpsc::Sender<Leaving>>,
    waiting: AtomicUsize,
    /// What it sends passes here.
    pub(super) upload: Download,
    /// What it receives passes here.
    pub(super) download: Download,
    pub(super) flows: Arc<Semaphore>,
}

impl Gate {
    /// A gate that is shut. Its instance may have so many flows at a time.
    pub(in crate::network) fn new(way: Option<mpsc::Sender<Leaving>>, flows: usize) -> Self {
        Self {
            open: AtomicBool::new(false),
            grant: watch::Sender::default(),
            way,
            waiting: AtomicUsize::new(0),
            upload: Download::default(),
            download: Download::default(),
            flows: Arc::new(Semaphore::new(flows)),
        }
    }

    pub(in crate::network) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Limits both directions to so many bits per second; 0 lifts the limits.
    pub(in crate::network) fn limit(&self, bps: u64) {
        self.upload.limit(bps);
        self.download.limit(bps);
    }

    /// Changes what the instance may reach. Flows that it may not have any more end.
    pub(in crate::network) fn change(&self, change: impl FnOnce(&mut Grant)) {
        self.grant.send_if_modified(|grant| {
            let mut wanted = Grant::clone(grant);
            change(&mut wanted);
            let changed = wanted != **grant;
            self.open.store(wanted.is_open(), Ordering::Relaxed);
            *grant = Arc::new(wanted);
            changed
        });
    }

    pub(in crate::network) fn reaches_internet(&self) -> bool {
        self.grant.borrow().allow
    }

    pub(super) fn grant(&self) -> Arc<Grant> {
        Arc::clone(&self.grant.borrow())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Grant>> {
        self.grant.subscribe()
    }

    /// Hands a packet of the instance behind `port` over to the egress.
    pub(in crate::network) fn leave(&self, port: &Arc<Port>, bytes: &[u8]) -> Fate {
        let Some(way) = &self.way else { return Fate::Denied };
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING
            || way.try_send(Leaving { port: Arc::clone(port), bytes: bytes.into() }).is_err()
        {
            self.taken();
            return Fate::Overrun;
        }
        Fate::Outside
    }

    /// One packet less waits.
    pub(super) fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
