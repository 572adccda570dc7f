//! One instance from its creation to its removal: a task of its own, so that one that hangs delays no other.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::InstanceId;
use groundswell_common::outcome::Exit;
use groundswell_common::timing::KILL_TIME;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{Instrument as _, debug, info_span};

use super::Note;
use crate::logs::LastLines;
use crate::parts::ShareSync;
use crate::runtime::{Instance, RuntimeError};

/// How long the rest of the output of an ended instance may take.
const DRAIN_LOGS: Duration = Duration::from_secs(2);
/// How long asking for the barriers may take.
const ASK: Duration = Duration::from_secs(1);

/// What the supervisor tells one instance's task. Each at most once, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Let it go.
    Start,
    /// Ask it to end.
    Terminate,
    /// End it.
    Kill,
    /// End it, and remove what is left of it.
    Remove,
}

/// Room for every order there is.
pub(crate) const ORDERS: usize = 8;

/// An instance and everything that belongs to it.
pub(crate) struct Member {
    /// Which.
    pub(crate) id: InstanceId,
    /// The instance.
    pub(crate) instance: Arc<dyn Instance>,
    /// Tasks that read its output.
    pub(crate) pumps: JoinSet<Option<String>>,
    /// The last lines it printed.
    pub(crate) last: LastLines,
    /// The run's sync.
    pub(crate) sync: Arc<dyn ShareSync>,
    /// Where its news go.
    pub(crate) notes: mpsc::Sender<Note>,
    /// Bounds how many are started at once.
    pub(crate) starts: Arc<Semaphore>,
    /// Keeps the namespace's control socket open while the instance lives.
    pub(crate) control: OwnedFd,
    /// Whether its process runs.
    pub(crate) running: bool,
    /// Whether its end was told.
    pub(crate) over: bool,
}

impl Member {
    /// Carries out orders until the instance is removed.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let instance = Arc::clone(&self.instance);
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Start) => self.start().await,
                    Some(Order::Terminate) => self.end(false).await,
                    Some(Order::Kill) => self.end(true).await,
                    // Without a supervisor nobody needs the instance either.
                    Some(Order::Remove) | None => break,
                },
                exit = instance.wait(), if self.running => {
                    self.running = false;
                    self.tell_over(Some(exit)).await;
                }
            }
        }
        self.remove().await;
    }

    async fn start(&mut self) {
        if self.over {
            return;
        }
        let span = info_span!("start");
        let started = async {
            let _turn = self.starts.acquire().await.expect("turns are never closed");
            self.instance.start().await
        };
        match started.instrument(span).await {
            Ok(()) => {
                self.running = true;
                self.tell(Note::LetGo { id: self.id, failed: None }).await;
            }
            Err(err) => {
                let fault_of_plan = matches!(err, RuntimeError::Plan(_));
                let failed = Some((Chain(&err).to_string(), fault_of_plan));
                self.tell(Note::LetGo { id: self.id, failed }).await;
                self.tell_over(None).await;
            }
        }
    }

    /// Ends it. What it waits in is asked before: its sockets are closed afterwards.
    async fn end(&mut self, kill: bool) {
        if self.over {
            return;
        }
        if !self.running {
            self.instance.kill().await;
            self.tell_over(None).await;
            return;
        }
        self.tell_waiting().await;
        if kill {
            self.instance.kill().await;
        } else {
            self.instance.terminate().await;
        }
    }

    async fn tell_waiting(&self) {
        if let Ok(waiting) = timeout(ASK, self.sync.waiting(self.id)).await
            && !waiting.is_empty()
        {
            self.tell(Note::Waiting { id: self.id, waiting }).await;
        }
    }

    async fn tell_over(&mut self, exit: Option<Exit>) {
        if self.over {
            return;
        }
        self.over = true;
        if exit.is_some() {
            self.tell_waiting().await;
            self.drain_logs().await;
        }
        let last_lines = self.last.get();
        self.tell(Note::Over { id: self.id, exit, last_lines }).await;
    }

    /// Waits for the pipes to run empty. A process that escaped may hold one open: it gets no more time.
    async fn drain_logs(&mut self) {
        let notes = self.notes.clone();
        let drained = async {
            while let Some(done) = self.pumps.join_next().await {
                if let Ok(Some(trouble)) = done {
                    let _ = notes.send(Note::Warning(trouble)).await;
                }
            }
        };
        if timeout(DRAIN_LOGS, drained).await.is_err() {
            self.pumps.abort_all();
            let text = format!("the output of instance {} was still open after its end", self.id);
            self.tell(Note::Warning(text)).await;
        }
    }

    async fn remove(&mut self) {
        if self.running {
            self.instance.kill().await;
            let ended = timeout(KILL_TIME, self.instance.wait()).await;
            self.tell_over(ended.ok()).await;
        }
        self.sync.close_instance(self.id).await;
        if let Err(err) = self.instance.remove().await {
            let error = Chain(&err).to_string();
            let text = format!("instance {} is not removed whole: {error}", self.id);
            self.tell(Note::Warning(text)).await;
        }
        debug!(instance = %self.id, control = ?self.control, "instance removed");
    }

    async fn tell(&self, note: Note) {
        // A supervisor that is gone has no use for news.
        let _ = self.notes.send(note).await;
    }
}
