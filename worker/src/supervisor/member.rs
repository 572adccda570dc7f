//! One instance from its creation to its removal: a task of its own, so that one that hangs delays no other.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::InstanceId;
use groundswell_common::narrative::{Act, Step};
use groundswell_common::outcome::Exit;
use groundswell_common::timing::KILL_TIME;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tracing::{Instrument as _, debug, info_span};

use super::Note;
use super::excess::Allowance;
use super::fate::{Fate, State};
use crate::logs::LastLines;
use crate::parts::ShareSync;
use crate::runtime::{Instance, RuntimeError};

/// How long the rest of the output of an ended instance may take.
const DRAIN_LOGS: Duration = Duration::from_secs(2);
/// How often its directories are looked at while it runs.
const LOOK: Duration = Duration::from_secs(3);
/// How long asking for the barriers may take.
const ASK: Duration = Duration::from_secs(1);

/// What the supervisor tells one instance's task. Each at most once, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Let it go. Times of the run count from this moment.
    Start(Instant),
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
    /// What its directories may hold.
    pub(crate) allowance: Allowance,
    /// What the run's narrative does to it.
    pub(crate) fate: Fate,
    /// Whether its process runs.
    pub(crate) running: bool,
    /// Whether its end was told.
    pub(crate) over: bool,
}

impl Member {
    /// Carries out orders until the instance is removed.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let instance = Arc::clone(&self.instance);
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.fate.due(self.running).filter(|_| !self.over);
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Start(at)) => {
                        self.fate.begin(at);
                        self.start().await;
                    }
                    Some(Order::Terminate) => self.end(false).await,
                    Some(Order::Kill) => self.end(true).await,
                    // Without a supervisor nobody needs the instance either.
                    Some(Order::Remove) | None => break,
                },
                exit = instance.wait(), if self.running => {
                    self.running = false;
                    self.on_exit(exit).await;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some(step) = self.fate.next() {
                        self.take(&step).await;
                    }
                }
                // An instance that has its directories looked at hears its orders a little later, and no other does.
                _ = looks.tick(), if self.running => {
                    let excess = self.allowance.while_it_runs().await;
                    self.tell_excess(excess).await;
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

    /// Takes a step of the narrative. What does not fit to how things are changes nothing: it has ended by itself.
    async fn take(&mut self, step: &Step) {
        match (step.act, self.fate.state, self.running) {
            (Act::Kill { for_good }, State::Up | State::Paused, true) => {
                self.fell(step, "killed", for_good).await;
                self.instance.kill().await;
            }
            (Act::Terminate { for_good }, State::Up | State::Paused, true) => {
                self.fell(step, "asked to end", for_good).await;
                self.tell(Note::Ending { id: self.id }).await;
                self.instance.terminate().await;
            }
            (Act::KillLeft { .. }, State::Felled { .. }, true) => {
                self.fate.tell(step, "killed after its grace");
                self.instance.kill().await;
            }
            (Act::Start, State::Felled { for_good: false }, false) => self.start_again(step).await,
            (Act::Pause, State::Up, true) => {
                self.fate.tell(step, "paused");
                self.fate.state = State::Paused;
                self.instance.pause().await;
            }
            (Act::Resume, State::Paused, true) => {
                self.fate.tell(step, "goes on");
                self.fate.state = State::Up;
                self.instance.resume().await;
            }
            (
                Act::Kill { .. }
                | Act::Terminate { .. }
                | Act::KillLeft { .. }
                | Act::Start
                | Act::Pause
                | Act::Resume,
                _,
                _,
            ) => {}
        }
    }

    /// Writes down, before it is done, that its end is the narrative's.
    async fn fell(&mut self, step: &Step, deed: &str, for_good: bool) {
        self.fate.tell(step, deed);
        self.fate.state = State::Felled { for_good };
        if for_good {
            // What it waits in is asked while its sockets are open.
            self.tell_waiting().await;
            self.tell(Note::Felled { id: self.id, reason: self.fate.reason(step) }).await;
        }
    }

    async fn start_again(&mut self, step: &Step) {
        self.fate.incarnation += 1;
        match self.instance.again(self.fate.incarnation).await {
            Ok(()) => {
                self.running = true;
                self.fate.state = State::Up;
                self.fate.tell(step, "started again");
                self.tell(Note::Back { id: self.id }).await;
            }
            Err(err) => {
                let fault_of_plan = matches!(err, RuntimeError::Plan(_));
                let failed = Some((Chain(&err).to_string(), fault_of_plan));
                self.tell(Note::LetGo { id: self.id, failed }).await;
                let last = self.fate.last.take();
                self.tell_over(last).await;
            }
        }
    }

    /// Its first process has ended: for good, unless the narrative starts it again.
    async fn on_exit(&mut self, exit: Exit) {
        if self.fate.is_felled() {
            self.fate.tell_down(&exit);
        }
        if self.fate.state == (State::Felled { for_good: false }) {
            self.fate.last = Some(exit);
            return;
        }
        self.tell_over(Some(exit)).await;
    }

    /// Ends it. What it waits in is asked before: its sockets are closed afterwards.
    async fn end(&mut self, kill: bool) {
        if self.over {
            return;
        }
        let paused = self.fate.state == State::Paused;
        self.fate.cease();
        if !self.running {
            self.instance.kill().await;
            let last = self.fate.last.take();
            self.tell_over(last).await;
            return;
        }
        self.tell_waiting().await;
        if paused {
            self.instance.resume().await;
        }
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

    async fn tell_excess(&self, excess: Option<String>) {
        if let Some(reason) = excess {
            self.tell(Note::Excess { id: self.id, reason }).await;
        }
    }

    async fn tell_over(&mut self, exit: Option<Exit>) {
        if self.over {
            return;
        }
        self.over = true;
        self.instance.part().await;
        if exit.is_some() {
            if timeout(ASK, self.sync.has_connected(self.id)).await.unwrap_or_default() {
                self.tell(Note::Connected { id: self.id }).await;
            }
            self.tell_waiting().await;
            self.drain_logs().await;
            let excess = self.allowance.at_its_end().await;
            self.tell_excess(excess).await;
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
