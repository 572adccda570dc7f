//! The sync gateway of a run on this worker: a handle for the supervisor, and what runs behind it.
//!
//! ```text
//! RunSync ──Input──► hub (a thread: sockets, log) ──SyncEvent──► supervisor
//!                     │  ▲
//!            Outgoing ▼  │ Input::Entries
//!                 kv writer, kv follower (tasks)
//! ```

mod connection;
mod hub;
mod slots;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use groundswell_common::bus::Bus;
use groundswell_common::ids::InstanceId;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span};

use super::kv::{self, LogName};
use super::log::{Entry, Identity, Log};
use super::{SyncEvent, SyncSpec, Waiting};

/// Inputs that may wait for the hub.
const INPUTS: usize = 1024;
/// Events that may wait for the supervisor before they wait in the hub.
const EVENTS: usize = 1024;

/// Why the sync of a run cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The log cannot be followed.
    #[error("failed to follow the sync log `{bucket}`")]
    Follow {
        /// Which.
        bucket: String,
        /// Why.
        #[source]
        source: async_nats::SubscribeError,
    },
    /// The kernel refuses what the gateway's thread needs.
    #[error("failed to set up the sync gateway")]
    Gateway(#[source] io::Error),
}

/// What the hub is told.
#[derive(Debug)]
pub(super) enum Input {
    Entries(Vec<Entry>),
    CaughtUp,
    Broken { reason: String, fault_of_plan: bool },
    Serve { instance: InstanceId, hostname: String, listener: OwnedFd },
    NetworkReady(Vec<InstanceId>),
    Configured { instance: InstanceId, state: String },
    Gone(Vec<(InstanceId, String)>),
    CloseInstance(InstanceId),
    Waiting { instance: InstanceId, reply: oneshot::Sender<Vec<Waiting>> },
    Count { state: String, reply: oneshot::Sender<u64> },
    HasConnected { instance: InstanceId, reply: oneshot::Sender<bool> },
    Close,
}

/// How far the hub has come; writer and follower watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    /// The last entry applied.
    pub(super) seq: u64,
    /// The last own batch that is in the log.
    pub(super) own: u64,
    /// Whether anyone waits for news.
    pub(super) pending: bool,
}

/// Interrupts the hub's wait for sockets.
#[derive(Debug, Clone)]
pub(super) struct Waker(Arc<EventFd>);

impl Waker {
    fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the hub is awake.
        let _ = self.0.write(1);
    }

    fn reset(&self) {
        let _ = self.0.read();
    }
}

/// The way into the hub.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Input>,
    waker: Waker,
}

impl Inbox {
    /// Hands over an input. One that comes after the hub has ended is dropped.
    pub(super) async fn send(&self, input: Input) {
        if self.sender.send(input).await.is_ok() {
            self.waker.wake();
        }
    }
}

/// The sync of one attempt of a run on this worker. Cheap to clone; when the last clone is dropped, it ends.
#[derive(Debug, Clone)]
pub struct RunSync {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inbox: Inbox,
    _end: DropGuard,
}

impl RunSync {
    /// Starts to follow the run's log, which the coordinator has created. Tasks and thread run on `tasks`.
    ///
    /// # Errors
    /// When the log cannot be followed or the kernel refuses the gateway's thread what it needs.
    pub async fn open(
        bus: Bus,
        spec: SyncSpec,
        tasks: &TaskTracker,
    ) -> Result<(Self, mpsc::Receiver<SyncEvent>), SyncError> {
        let name = LogName::new(&spec);
        let follower = kv::Follower::subscribe(bus.clone(), name.clone())
            .await
            .map_err(|source| SyncError::Follow { bucket: name.bucket.clone(), source })?;
        let waker = Waker::new().map_err(SyncError::Gateway)?;
        let (sender, inputs) = mpsc::channel(INPUTS);
        let (outgoing, batches) = mpsc::channel(1);
        let (progress, progressed) = watch::channel(Progress::default());
        let (events, told) = mpsc::channel(EVENTS);
        let inbox = Inbox { sender, waker: waker.clone() };
        let log = Log::new(Identity {
            run: spec.run.clone(),
            attempt: spec.attempt,
            me: spec.worker.clone(),
            epoch: spec.epoch,
            workers: spec.workers.iter().cloned().collect(),
        });
        let span = info_span!("sync", run = %spec.run, worker = %spec.worker);
        let ends = hub::Ends { inbox: inputs, waker, outgoing, progress, events };
        let hub = hub::Hub::new(spec, log, ends).map_err(SyncError::Gateway)?;
        let in_thread = span.clone();
        tasks.spawn_blocking(move || in_thread.in_scope(|| hub.run()));

        let end = CancellationToken::new();
        let writer = kv::Writer { bus, name, inbox: inbox.clone() };
        let writing = writer.run(batches, progressed.clone(), end.clone());
        tasks.spawn(writing.instrument(span.clone()));
        let following = follower.run(inbox.clone(), progressed, end.clone());
        tasks.spawn(following.instrument(span));
        let shared = Shared { inbox, _end: end.drop_guard() };
        Ok((Self { shared: Arc::new(shared) }, told))
    }

    /// Accepts connections of `instance` on `listener`, which does not block. `hostname` is the instance's own.
    pub async fn serve(&self, instance: InstanceId, hostname: String, listener: OwnedFd) {
        self.shared.inbox.send(Input::Serve { instance, hostname, listener }).await;
    }

    /// Signals `network-initialized` once for each instance, however often it is called.
    pub async fn network_ready(&self, instances: &[InstanceId]) {
        self.shared.inbox.send(Input::NetworkReady(instances.to_vec())).await;
    }

    /// Signals that the instance's next network configuration holds. An empty state signals nothing.
    pub async fn configured(&self, instance: InstanceId, callback_state: &str) {
        let state = callback_state.to_owned();
        self.shared.inbox.send(Input::Configured { instance, state }).await;
    }

    /// Records that instances have ended, and why.
    pub async fn gone(&self, instances: Vec<(InstanceId, String)>) {
        self.shared.inbox.send(Input::Gone(instances)).await;
    }

    /// Closes the instance's listener and sockets. What it has asked to append is still appended.
    pub async fn close_instance(&self, instance: InstanceId) {
        self.shared.inbox.send(Input::CloseInstance(instance)).await;
    }

    /// The barriers the instance waits in.
    pub async fn waiting(&self, instance: InstanceId) -> Vec<Waiting> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.send(Input::Waiting { instance, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Whether the instance has ever connected to this gateway.
    pub async fn has_connected(&self, instance: InstanceId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.send(Input::HasConnected { instance, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// How often a state, named without the run's prefix, has been signalled in the whole run.
    pub async fn count(&self, state: &str) -> u64 {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.send(Input::Count { state: state.to_owned(), reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Ends the sync on this worker: closes all sockets and stops following the log.
    pub async fn close(self) {
        self.shared.inbox.send(Input::Close).await;
        self.shared.inbox.sender.closed().await;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The hub ends when it finds no more senders; writer and follower drop theirs on cancellation, and a full
        // channel means that the hub is awake.
        let _ = self.inbox.sender.try_send(Input::Close);
        self.inbox.waker.wake();
    }
}
