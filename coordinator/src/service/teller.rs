//! Tells whoever watches: statuses and events of runs, best effort. A full queue loses events, never a decision.

use bytes::Bytes;
use groundswell_common::bus::{self, Bus};
use groundswell_common::ids::RunId;
use groundswell_common::run::{RunEvent, RunStatus};
use groundswell_common::subjects;
use tokio::sync::mpsc;
use tracing::debug;

const QUEUE: usize = 4096;

/// Where the actor puts what is to be told.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    lines: mpsc::Sender<(String, Bytes)>,
}

impl Teller {
    pub(super) fn new() -> (Self, mpsc::Receiver<(String, Bytes)>) {
        let (lines, receiver) = mpsc::channel(QUEUE);
        (Self { lines }, receiver)
    }

    /// Whether the status is on its way; if not, it is to be told again later.
    pub(super) fn status(&self, status: &RunStatus) -> bool {
        self.lines.try_send((subjects::status(&status.run), bus::encode(status))).is_ok()
    }

    pub(super) fn event(&self, run: &RunId, event: &RunEvent) {
        if self.lines.try_send((subjects::event(run), bus::encode(event))).is_err() {
            debug!(run = %run, "event not told");
        }
    }
}

/// Publishes until the actor is gone.
pub(super) async fn run(bus: Bus, mut lines: mpsc::Receiver<(String, Bytes)>) {
    while let Some((subject, payload)) = lines.recv().await {
        if let Err(err) = bus.client().publish(subject, payload).await {
            debug!(error = %err, "status or event not told");
        }
    }
    if let Err(err) = bus.client().flush().await {
        debug!(error = %err, "last words not flushed");
    }
}
