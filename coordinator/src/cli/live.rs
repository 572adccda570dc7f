//! Watches a run until it is over: what the coordinator tells, what people press, what the clock says.
//!
//! ```text
//! in   gs.v1.status.<run>, gs.v1.event.<run>, gs.v1.log.<run>.*     what is told
//!      a `run` call every few seconds                               in case something was not heard
//!      signals, keys, the local stack's health
//! out  a `cancel` call                                              at most two: gracefully, then kill
//! ```

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use groundswell_common::api::{CancelRequest, RunRequest};
use groundswell_common::bus::decode;
use groundswell_common::run::{RunStatus, Verdict};
use groundswell_common::subjects;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::Trouble;
use super::call::call;
use super::connect::Link;
use super::exit::Exit;
use super::keys::{Interrupt, Interrupts, Keys};
use super::progress::Progress;
use super::summary::totals;
use crate::local::Stack;

/// How often plain progress says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often the coordinator is asked, in case something was not heard.
const POLL: Duration = Duration::from_secs(5);
/// How long the coordinator may be unheard before this process gives up watching.
const GIVE_UP: Duration = Duration::from_secs(150);
/// How often bars are drawn.
const FRAME: Duration = Duration::from_millis(200);

/// How a run is watched.
pub(crate) struct Watch<'a> {
    /// Where the coordinator is.
    pub(crate) link: &'a Link,
    /// Signals, listened to since before the run was submitted.
    pub(crate) interrupts: &'a mut Interrupts,
    /// The run is this process's own: Ctrl-C cancels it. Otherwise Ctrl-C leaves it.
    pub(crate) own: bool,
    /// Whether it can go on without this process, and if not, why.
    pub(crate) detach: Result<(), &'static str>,
    /// Whether to show what instances print.
    pub(crate) follow_logs: bool,
    /// The stack in this process, when there is one.
    pub(crate) stack: Option<&'a mut Stack>,
}

/// How watching ended.
#[derive(Debug)]
pub(crate) enum Watched {
    /// The run is over.
    Over(Box<RunStatus>, Stopped),
    /// The run goes on and this process leaves it.
    Detached,
    /// People did not want to wait any longer for a run they have canceled.
    Left,
}

/// How this process tried to stop the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stopped {
    by: Option<Interrupt>,
    times: u8,
}

impl Stopped {
    /// Everything that holds for a run that is over; none is a pass.
    pub(crate) fn codes_of(self, status: &RunStatus) -> Vec<Exit> {
        let mut codes = self.codes(status.verdict);
        let broken = status.judgement.as_ref().is_some_and(|one| one.broken().next().is_some());
        if broken && status.verdict == Some(Verdict::Failed) {
            if totals(status).failure == 0 {
                codes.retain(|exit| *exit != Exit::Failures);
            }
            codes.push(Exit::Threshold);
        }
        codes
    }

    /// Everything that holds for a run that ended like this, whatever was expected of it.
    fn codes(self, verdict: Option<Verdict>) -> Vec<Exit> {
        let mut codes = Vec::new();
        match verdict {
            Some(Verdict::Canceled) => codes.push(match (self.by, self.times) {
                (Some(_), 2..) => Exit::Killed,
                (Some(Interrupt::Term), _) => Exit::Terminated,
                (Some(Interrupt::Int) | None, _) => Exit::Interrupted,
            }),
            Some(verdict) => codes.push(Exit::of_verdict(verdict)),
            None => codes.push(Exit::Internal),
        }
        codes.retain(|exit| *exit != Exit::Passed);
        codes
    }
}

enum Asked {
    Polled(Result<RunStatus, Trouble>),
    Canceled(Result<RunStatus, Trouble>),
}

impl Watch<'_> {
    /// Watches the run that `status` is the state of.
    pub(crate) async fn run(
        &mut self,
        status: RunStatus,
        progress: &mut Progress,
    ) -> Result<Watched, Trouble> {
        let client = self.link.bus.client().clone();
        let subscribe = |subject: String| {
            let client = client.clone();
            async move {
                client
                    .subscribe(subject)
                    .await
                    .map_err(|err| Trouble::from_error(Exit::Unreachable, &err))
            }
        };
        let mut statuses = subscribe(subjects::status(&status.run)).await?;
        let mut events = subscribe(subjects::event(&status.run)).await?;
        let mut logs = match self.follow_logs {
            true => subscribe(subjects::log_all(&status.run)).await?.boxed(),
            false => futures::stream::pending().boxed(),
        };
        let mut keys = if self.own || self.detach.is_ok() { Keys::take() } else { None };
        let mut state = State::new(status);
        progress.status(&state.status);
        // What was told between the submit and the subscription is asked for once.
        state.asking.push(self.poll(&state.status));
        let mut poll = later(POLL);
        let mut heartbeat = later(HEARTBEAT);
        let mut frame = interval(FRAME);
        while !state.status.phase.is_over() {
            tokio::select! {
                Some(message) = statuses.next() => {
                    if let Ok(status) = decode(&message.payload) {
                        state.take(status, progress);
                    }
                }
                Some(message) = events.next() => {
                    if let Ok(event) = decode(&message.payload) {
                        progress.event(&event);
                    }
                }
                Some(message) = logs.next() => {
                    if let Ok(log) = decode(&message.payload) {
                        progress.log(&log);
                    }
                }
                Some(asked) = state.asking.next() => state.on_answer(asked, progress)?,
                interrupt = self.interrupts.next() => {
                    if let Some(left) = self.on_interrupt(interrupt, &mut state, progress) {
                        return Ok(left);
                    }
                }
                key = next_key(keys.as_mut()) => {
                    if let Some(left) = self.on_key(key, &state, progress) {
                        return Ok(left);
                    }
                }
                reason = broken(self.stack.as_deref_mut()) => {
                    return Err(Trouble::new(Exit::Infra, reason, "run again with -v to see more"));
                }
                _ = poll.tick() => {
                    if state.asking.is_empty() {
                        state.asking.push(self.poll(&state.status));
                    }
                }
                _ = heartbeat.tick() => progress.heartbeat(&state.status),
                _ = frame.tick() => progress.tick(),
            }
        }
        Ok(Watched::Over(Box::new(state.status), state.stopped))
    }

    fn poll(&self, status: &RunStatus) -> BoxFuture<'static, Asked> {
        let bus = self.link.bus.clone();
        let request = RunRequest { selector: status.run.to_string() };
        Box::pin(async move { Asked::Polled(call(&bus, "run", &request).await) })
    }

    fn cancel(
        &self,
        status: &RunStatus,
        interrupt: Interrupt,
        kill: bool,
    ) -> BoxFuture<'static, Asked> {
        let bus = self.link.bus.clone();
        let reason = match interrupt {
            Interrupt::Int => "canceled with Ctrl-C",
            Interrupt::Term => "canceled because the command that submitted it was terminated",
        };
        let request = CancelRequest { run: status.run.clone(), kill, reason: reason.to_owned() };
        Box::pin(async move { Asked::Canceled(call(&bus, "cancel", &request).await) })
    }

    fn on_interrupt(
        &self,
        interrupt: Interrupt,
        state: &mut State,
        progress: &Progress,
    ) -> Option<Watched> {
        let name = &state.status.name;
        if !self.own {
            return Some(Watched::Detached);
        }
        state.stopped.by.get_or_insert(interrupt);
        state.stopped.times += 1;
        match state.stopped.times {
            1 => {
                let detach =
                    if self.detach.is_ok() { " · d = leave it to end by itself" } else { "" };
                progress.urgent(&format!(
                    "canceling {name}: its instances get SIGTERM, then outputs are collected\n    \
                     Ctrl-C again = kill now{detach}"
                ));
            }
            2 => progress.urgent(&format!("killing {name}; Ctrl-C again = leave without waiting")),
            _ => {
                progress.urgent(&format!("leaving {name} without waiting for its end"));
                return Some(Watched::Left);
            }
        }
        let kill = state.stopped.times > 1;
        state.asking.push(self.cancel(&state.status, interrupt, kill));
        None
    }

    fn on_key(&self, key: u8, state: &State, progress: &Progress) -> Option<Watched> {
        match (key, self.detach) {
            (b'd', Ok(())) => Some(Watched::Detached),
            (b'd', Err(why)) => {
                progress.urgent(&format!("cannot detach: {why}"));
                None
            }
            (b'q', _) if !self.own => Some(Watched::Detached),
            (b'?', _) => {
                let own =
                    if self.own { "Ctrl-C = cancel the run · " } else { "Ctrl-C = leave · " };
                progress.urgent(&format!("{}: {own}d = detach", state.status.name));
                None
            }
            (_, _) => None,
        }
    }
}

/// What is known of the run.
struct State {
    status: RunStatus,
    stopped: Stopped,
    heard: Instant,
    silent: bool,
    /// The coordinator has not known the run when it was asked last.
    forgotten: bool,
    asking: FuturesUnordered<BoxFuture<'static, Asked>>,
}

impl State {
    fn new(status: RunStatus) -> Self {
        Self {
            status,
            stopped: Stopped::default(),
            heard: Instant::now(),
            silent: false,
            forgotten: false,
            asking: FuturesUnordered::new(),
        }
    }

    fn take(&mut self, status: RunStatus, progress: &mut Progress) {
        self.heard = Instant::now();
        self.silent = false;
        self.forgotten = false;
        // Answers and told states overtake each other; only news counts. The end is news however it is numbered: it
        // may come from the record, when the coordinator that wrote it was killed before it could tell.
        if status.revision > self.status.revision || status.phase.is_over() {
            self.status = status;
            progress.status(&self.status);
        }
    }

    fn on_answer(&mut self, asked: Asked, progress: &mut Progress) -> Result<(), Trouble> {
        match asked {
            Asked::Polled(Ok(status)) if status.forgotten => {
                if std::mem::replace(&mut self.forgotten, true) {
                    return Err(forgotten(&status));
                }
            }
            Asked::Polled(Ok(status)) | Asked::Canceled(Ok(status)) => self.take(status, progress),
            Asked::Canceled(Err(trouble)) => {
                progress.urgent(&format!("the cancel was not taken: {}", trouble.message));
            }
            Asked::Polled(Err(trouble)) if trouble.exit == Exit::NothingSelected => {
                return Err(trouble);
            }
            Asked::Polled(Err(trouble)) if self.heard.elapsed() > GIVE_UP => {
                let help = format!("the run may go on: `coordinator attach {}`", self.status.run);
                return Err(Trouble { help, ..trouble });
            }
            Asked::Polled(Err(trouble)) => {
                if !self.silent {
                    self.silent = true;
                    progress.urgent(&format!("{}; still watching", trouble.message));
                }
            }
        }
        Ok(())
    }
}

fn later(period: Duration) -> tokio::time::Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A run that goes on nowhere, as it was twice.
fn forgotten(status: &RunStatus) -> Trouble {
    Trouble::new(
        Exit::Infra,
        format!(
            "the cluster does not know {} any more: NATS has lost its control state",
            status.name
        ),
        format!("its record says how far it was: `coordinator status {}`", status.run),
    )
}

async fn next_key(keys: Option<&mut Keys>) -> u8 {
    match keys {
        Some(keys) => keys.next().await,
        None => std::future::pending().await,
    }
}

async fn broken(stack: Option<&mut Stack>) -> String {
    match stack {
        Some(stack) => stack.broken().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_says_who_stopped_the_run_and_how() {
        let stopped = |by, times| Stopped { by: Some(by), times };
        let canceled = Some(Verdict::Canceled);
        assert_eq!(stopped(Interrupt::Int, 1).codes(canceled), [Exit::Interrupted]);
        assert_eq!(stopped(Interrupt::Term, 1).codes(canceled), [Exit::Terminated]);
        assert_eq!(stopped(Interrupt::Int, 2).codes(canceled), [Exit::Killed]);
        assert_eq!(Stopped::default().codes(canceled), [Exit::Interrupted]);
    }

    #[test]
    fn an_expectation_has_a_code_of_its_own_beside_that_of_instances() {
        let mut status: RunStatus = serde_json::from_value(serde_json::json!({
            "run": "c8k3vmlrirtj2p8lcec0", "name": "n", "revision": 1, "plan": "p", "case": "c",
            "phase": "finished", "doing": "", "submitted_ms": 0, "workers": [], "verdict": "failed",
            "groups": [["a", { "want": 1, "success": 1 }]],
            "judgement": { "expectations": [
                { "name": "fast", "what": "", "wanted": "", "got": "", "state": "silent" },
            ] },
        }))
        .expect("a status");
        assert_eq!(Stopped::default().codes_of(&status), [Exit::Threshold]);
        status.groups[0].1.failure = 1;
        assert_eq!(Stopped::default().codes_of(&status), [Exit::Failures, Exit::Threshold]);
        status.verdict = Some(Verdict::Inconclusive);
        assert_eq!(Stopped::default().codes_of(&status), [Exit::Inconclusive]);
    }

    #[test]
    fn a_run_that_was_over_before_the_cancel_keeps_its_code() {
        let late = Stopped { by: Some(Interrupt::Int), times: 1 };
        assert_eq!(late.codes(Some(Verdict::Passed)), []);
        assert_eq!(late.codes(Some(Verdict::Failed)), [Exit::Failures]);
    }
}
