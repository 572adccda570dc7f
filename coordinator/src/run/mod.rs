//! The life of a run: events and the time in, commands out.
//!
//! ```text
//! building -> queued -> reserved -> preparing -> starting -> running -> collecting -> concluding -> finished -> cleaned
//!     |         |          |            |            |          |            ^            ^
//!     |         |          |            |            `-- cause -+- stopping -'            |
//!     `---------+----------+------------'--------- cause: nothing has run an instruction -'
//! ```
//! Instead of concluding as an infrastructure failure a run may rest and be queued again; see [`lost`].
//!
//! A fact is noted first; then [`Run::handle`] moves on as far as the facts allow. So it does not matter in which
//! order facts arrive, or how often.
//!
//! How the verdict comes about:
//! * The first cause to end a run decides, with one exception: trouble with the infrastructure wins over a failure.
//! * Without a cause: passed when every instance succeeded and every output and the record are stored, failed when
//!   an instance failed, infra otherwise.
//! * An instance is accounted for when its worker tells its end, when its worker is lost, or when the run ends
//!   before anything was started. The first of these counts.
//!
//! Failing fast: an instance that ended without success may leave the others waiting in a barrier for ever. The
//! coordinator cannot see barriers, so it goes by silence: when an instance has ended without success and no other
//! instance has said anything or ended for [`Rules::fail_fast`], the run is stopped. The verdict would be `failed`
//! either way; what is saved is the time until the limit. Plans whose instances work on silently for longer need
//! the rule off or longer.

mod accounts;
mod ending;
mod event;
mod kpis;
mod lost;
mod resume;
mod status;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use groundswell_common::ids::{Attempt, WorkerId};
use groundswell_common::messages::{ShareEvent, Want};
use groundswell_common::outcome::Outcome;
use groundswell_common::run::RunPhase;
use groundswell_common::timing::{COLLECT_TIMEOUT, KILL_TIME};

pub use accounts::{Accounts, Share};
pub use ending::Cause;
use event::note;
pub use event::{About, Command, Event, Now, Rules};
pub use kpis::{Kpis, ShareKpis};
pub use resume::Left;

use crate::placement;

/// The log line of Testground that scripts look for.
pub const TIMED_OUT: &str = "run canceled after reaching the task timeout";
/// How long nothing may be heard of any instance after one has failed.
pub const FAIL_FAST_QUIET: Duration = Duration::from_secs(30);

/// How long a queued run may go without a word about its place before it counts as never fitting.
const QUEUE_WORD: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Building,
    Queued {
        until: Instant,
    },
    /// An attempt is over and cleaned up; the next one waits.
    Resting {
        until: Instant,
    },
    Reserved,
    Preparing {
        until: Instant,
    },
    Starting {
        until: Instant,
    },
    Running {
        until: Instant,
    },
    Stopping {
        until: Instant,
        killing: bool,
    },
    Collecting {
        until: Instant,
    },
    Concluding,
    Finished,
    Cleaned,
}

/// Facts that have no other place.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    built: bool,
    log_ready: bool,
    start_appended: bool,
    recorded: bool,
}

/// One attempt of a run.
#[derive(Debug, Clone)]
pub struct Run {
    about: About,
    phase: Phase,
    accounts: Accounts,
    cause: Option<Cause>,
    facts: Facts,
    kpis: Kpis,
    doing: String,
    warnings: Vec<String>,
    last_word: Instant,
    revision: u64,
    submitted_ms: u64,
    started_ms: Option<u64>,
    finished_ms: Option<u64>,
}

impl Run {
    /// A run that has just been submitted, and what to do first.
    #[must_use]
    pub fn new(about: About, warnings: Vec<String>, now: Now) -> (Self, Vec<Command>) {
        let run = Self {
            accounts: Accounts::new(about.groups.clone()),
            about,
            phase: Phase::Building,
            cause: None,
            facts: Facts::default(),
            kpis: Kpis::default(),
            doing: "building".to_owned(),
            warnings,
            last_word: now.at,
            revision: 1,
            submitted_ms: now.unix_ms,
            started_ms: None,
            finished_ms: None,
        };
        let mut commands = vec![note("phase", "submitted")];
        commands.extend(run.warnings.iter().map(|text| note("warning", text)));
        commands.extend([Command::WriteRecord, Command::Build]);
        (run, commands)
    }

    /// What it is about.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Its books.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Whether it waits for a place, and for nothing else.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued { .. })
    }

    /// Whether its workers are to clean up what they have of it.
    #[must_use]
    pub fn is_let_go(&self) -> bool {
        matches!(self.phase, Phase::Resting { .. } | Phase::Finished)
    }

    /// What each of its workers should make of its share; absent when workers should have none.
    #[must_use]
    pub fn want(&self) -> Option<Want> {
        match self.phase {
            Phase::Building | Phase::Queued { .. } | Phase::Reserved => None,
            Phase::Resting { .. } => None,
            Phase::Finished | Phase::Cleaned => None,
            Phase::Preparing { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                Some(Want::Run)
            }
            Phase::Stopping { .. } | Phase::Collecting { .. } | Phase::Concluding => {
                Some(self.cause.as_ref().map_or(Want::Run, |cause| {
                    let (reason, outcome) = (cause.reason.clone(), cause.outcome);
                    if cause.kill {
                        Want::Kill { reason, outcome }
                    } else {
                        Want::Stop { reason, outcome }
                    }
                }))
            }
        }
    }

    /// When [`Event::DeadlinePassed`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Queued { until }
            | Phase::Preparing { until }
            | Phase::Starting { until }
            | Phase::Stopping { until, .. }
            | Phase::Collecting { until } => Some(until),
            Phase::Running { until } => {
                Some(self.fail_fast_due().map_or(until, |due| due.min(until)))
            }
            Phase::Resting { until } => self.accounts.is_clean().then_some(until),
            Phase::Building
            | Phase::Reserved
            | Phase::Concluding
            | Phase::Finished
            | Phase::Cleaned => None,
        }
    }

    /// Takes an event in and returns what to do next.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Command> {
        let mut out = Vec::new();
        self.note_event(event, now, &mut out);
        while self.step(now, &mut out) {}
        self.revision += 1;
        out
    }

    fn note_event(&mut self, event: Event, now: Now, out: &mut Vec<Command>) {
        match event {
            Event::Building { doing } => {
                if self.phase == Phase::Building {
                    out.push(note("build", &doing));
                    self.doing = doing;
                }
            }
            Event::Built => self.facts.built = true,
            Event::BuildFailed { reason, fault_of_plan: true } => {
                self.end_by(Cause::rejected(reason), out);
            }
            Event::BuildFailed { reason, fault_of_plan: false } => {
                self.end_by(Cause::infra(reason), out);
            }
            Event::Placed { shares } => self.placed(shares),
            Event::NoRoom { reason, temporary } => self.no_room(reason, temporary, now),
            Event::LogReady { attempt } => self.log_ready(attempt, out),
            Event::LogFailed { attempt, reason } | Event::StartFailed { attempt, reason } => {
                if attempt == self.about.attempt {
                    self.end_by(Cause::infra(reason), out);
                }
            }
            Event::StartAppended { attempt } => {
                self.facts.start_appended |= attempt == self.about.attempt;
            }
            Event::Told { worker, what } => self.told(&worker, what, now, out),
            Event::KpisRead { worker, attempt, series } => {
                self.kpis_read(&worker, attempt, series, out);
            }
            Event::WorkerSilent { worker, silent } => {
                let text = format!("worker {worker} was not heard for {} s", silent.as_secs());
                self.warn(text, Some(&worker), out);
            }
            Event::WorkerLost { worker, reason } => self.lost(&worker, &reason, out),
            Event::CancelRequested { reason, kill } => self.cancel(reason, kill, now, out),
            Event::Warned { text } => self.warn(text, None, out),
            Event::Trouble { reason } => self.end_by(Cause::infra(reason), out),
            Event::DeadlinePassed => self.deadline_passed(now, out),
            Event::Recorded => self.facts.recorded |= self.phase == Phase::Concluding,
            Event::RecordFailed { reason } => self.record_failed(&reason, out),
        }
    }

    fn placed(&mut self, shares: Vec<placement::Share>) {
        if matches!(self.phase, Phase::Queued { .. }) && self.accounts.shares().is_empty() {
            self.accounts.place(shares);
        }
    }

    fn no_room(&mut self, reason: String, temporary: bool, now: Now) {
        let Phase::Queued { until } = &mut self.phase else { return };
        // Patience is for workers that have not come yet, not for other runs that take their time.
        if temporary {
            *until = now.at + QUEUE_WORD.max(self.about.rules.no_room_patience);
        }
        self.doing = reason;
    }

    fn log_ready(&mut self, attempt: Attempt, out: &mut Vec<Command>) {
        let current = attempt == self.about.attempt;
        // The run or its attempt ended while the log was being made: nobody else will remove it.
        if !current || self.is_collected() || matches!(self.phase, Phase::Resting { .. }) {
            return out.push(Command::DeleteLog { attempt });
        }
        self.facts.log_ready = true;
    }

    fn told(&mut self, worker: &WorkerId, what: ShareEvent, now: Now, out: &mut Vec<Command>) {
        let concluded = self.is_collected();
        let may_go = concluded || self.is_let_go();
        let Some(share) = self.accounts.share(worker).filter(|share| !share.lost) else { return };
        match what {
            ShareEvent::Progress { ready, doing } => {
                share.ready = ready.min(share.size());
                share.doing = doing;
            }
            ShareEvent::Prepared => share.prepared = true,
            ShareEvent::Started => {
                share.prepared = true;
                share.started = true;
                self.last_word = now.at;
            }
            ShareEvent::Said { .. } => self.last_word = now.at,
            ShareEvent::Ended { instances } => {
                self.last_word = now.at;
                let mut lost = None;
                for (instance, end) in instances {
                    let reason = (end.outcome == Outcome::Lost).then(|| end.reason.clone());
                    if self.accounts.end(worker, instance, end) {
                        lost = lost.or(reason);
                    }
                }
                if let Some(reason) = lost {
                    self.mind_lost(&reason, out);
                }
            }
            ShareEvent::PrepareFailed { reason, fault_of_plan } => {
                self.broken(
                    &format!("worker {worker} cannot prepare: {reason}"),
                    fault_of_plan,
                    out,
                );
            }
            ShareEvent::Broken { reason, fault_of_plan } => {
                self.broken(&format!("{reason} (worker {worker})"), fault_of_plan, out);
            }
            ShareEvent::Warning { text } => self.warn(text, Some(worker), out),
            ShareEvent::Exposed { ports } => share.exposed = ports,
            // One that is repeated, or comes after the record was written, changes nothing.
            ShareEvent::Network { report } if !concluded => {
                share.network.get_or_insert(report);
            }
            ShareEvent::Network { .. } => {}
            ShareEvent::Kpis { report } => self.kpis_told(worker, *report, out),
            ShareEvent::Collected { index } => share.index = Some(index),
            ShareEvent::CollectFailed { reason } => {
                share.collect_failed = share.index.is_none();
                self.outputs_missing(worker, &reason, out);
            }
            ShareEvent::Cleaned => {
                let expected = may_go || share.is_settled();
                share.cleaned = true;
                if !expected {
                    self.lost(
                        worker,
                        &format!("worker {worker} has removed its share unasked"),
                        out,
                    );
                }
            }
            ShareEvent::Retold => share.retold = true,
            // The directory of addresses is none of the run's books.
            ShareEvent::Address { .. } => {}
        }
    }

    fn warn(&mut self, text: String, worker: Option<&WorkerId>, out: &mut Vec<Command>) {
        const MOST: usize = 100;
        if self.warnings.contains(&text) || self.warnings.len() >= MOST {
            return;
        }
        out.push(Command::Note { kind: "warning", text: text.clone(), worker: worker.cloned() });
        self.warnings.push(text);
    }

    /// Moves on by one phase when the facts allow it.
    fn step(&mut self, now: Now, out: &mut Vec<Command>) -> bool {
        let limits = self.about.rules.limits;
        let ended = self.accounts.open() == 0;
        match self.phase {
            Phase::Building
            | Phase::Queued { .. }
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Preparing { .. }
                if self.cause.is_some() =>
            {
                self.end_unstarted(now, out);
            }
            Phase::Resting { until } if until <= now.at && self.accounts.is_clean() => {
                self.begin_again(now, out);
            }
            Phase::Building if self.facts.built => {
                let until = now.at + self.about.rules.no_room_patience;
                self.enter(Phase::Queued { until }, "waiting for room", out);
                out.push(Command::Place);
            }
            Phase::Queued { .. } if !self.accounts.shares().is_empty() => {
                self.enter(Phase::Reserved, "making the sync log", out);
                out.push(Command::CreateLog);
            }
            Phase::Reserved if self.facts.log_ready => {
                let until = now.at + limits.prepare;
                self.enter(Phase::Preparing { until }, "", out);
                out.push(Command::Assign);
            }
            Phase::Preparing { .. } if self.accounts.every(|share| share.prepared) => {
                self.started_ms = Some(now.unix_ms);
                self.last_word = now.at;
                self.enter(Phase::Starting { until: now.at + limits.run }, "", out);
                out.extend([Command::WriteRecord, Command::AppendStart]);
            }
            Phase::Starting { .. } | Phase::Running { .. } if ended => {
                self.collect("storing outputs", now, out);
            }
            Phase::Starting { .. } | Phase::Running { .. } if self.cause.is_some() => {
                let grace = limits.stop_grace + limits.outcome_grace + KILL_TIME;
                let killing = self.cause.as_ref().is_some_and(|cause| cause.kill);
                let until = now.at + if killing { 2 * KILL_TIME } else { grace };
                self.enter(Phase::Stopping { until, killing }, "stopping instances", out);
                out.push(Command::Assign);
            }
            Phase::Starting { until } if self.facts.start_appended && self.all_started() => {
                self.enter(Phase::Running { until }, "", out);
            }
            Phase::Stopping { .. } if ended => self.collect("storing outputs", now, out),
            Phase::Collecting { .. } if self.accounts.every(Share::is_settled) => {
                self.conclude(now, out);
            }
            Phase::Concluding if self.facts.recorded => {
                self.finished_ms = Some(now.unix_ms);
                self.enter(Phase::Finished, "cleaning up", out);
                let attempt = self.about.attempt;
                out.extend([Command::Assign, Command::DeleteLog { attempt }]);
            }
            Phase::Finished if self.accounts.is_clean() => {
                self.enter(Phase::Cleaned, "", out);
                out.push(Command::Forget);
            }
            // The facts do not allow more.
            Phase::Building
            | Phase::Queued { .. }
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Collecting { .. }
            | Phase::Concluding
            | Phase::Finished
            | Phase::Cleaned => return false,
        }
        true
    }

    fn all_started(&self) -> bool {
        self.accounts.every(|share| share.started || share.lost)
    }

    fn collect(&mut self, doing: &str, now: Now, out: &mut Vec<Command>) {
        let killed = self.cause.as_ref().is_some_and(|cause| cause.kill);
        let limit = if killed { KILL_TIME } else { COLLECT_TIMEOUT };
        self.enter(Phase::Collecting { until: now.at + limit }, doing, out);
    }

    fn conclude(&mut self, now: Now, out: &mut Vec<Command>) {
        if self.rest(now, out) {
            return;
        }
        self.judge(out);
        self.enter(Phase::Concluding, "storing the record", out);
        let (verdict, reason) = self.verdict();
        let text =
            if reason.is_empty() { verdict.to_string() } else { format!("{verdict}: {reason}") };
        if let Some(network) = self.accounts.network() {
            out.push(note("network", &network.line()));
            out.extend(network.reasons.iter().map(|reason| note("network", reason)));
        }
        out.extend([note("verdict", &text), Command::Conclude]);
    }

    fn enter(&mut self, phase: Phase, doing: &str, out: &mut Vec<Command>) {
        let before = self.phase();
        self.phase = phase;
        doing.clone_into(&mut self.doing);
        let after = self.phase();
        if after != before {
            out.extend([note("phase", after.as_str()), Command::Remember]);
        }
    }

    /// Where it is, in the words people know.
    #[must_use]
    pub fn phase(&self) -> RunPhase {
        match self.phase {
            Phase::Building => RunPhase::Submitted,
            Phase::Queued { .. } | Phase::Resting { .. } => RunPhase::Queued,
            Phase::Reserved => RunPhase::Reserved,
            Phase::Preparing { .. } => RunPhase::Preparing,
            Phase::Starting { .. } => RunPhase::Starting,
            Phase::Running { .. } => RunPhase::Running,
            Phase::Stopping { .. } | Phase::Collecting { .. } | Phase::Concluding => {
                RunPhase::Collecting
            }
            Phase::Finished => RunPhase::Finished,
            Phase::Cleaned => RunPhase::Cleaned,
        }
    }
}
