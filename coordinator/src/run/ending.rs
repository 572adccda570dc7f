//! Why a run ends, what happens to instances that will not report, and which verdict follows.

use std::time::Instant;

use groundswell_common::ids::WorkerId;
use groundswell_common::outcome::Outcome;
use groundswell_common::run::Verdict;
use groundswell_common::timing::KILL_TIME;
use serde::{Deserialize, Serialize};

use super::event::note;
use super::{Command, Now, Phase, Run, ShareKpis, TIMED_OUT};

/// Why a run ends before its instances have ended by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub(super) verdict: Verdict,
    pub(super) reason: String,
    /// Of instances that have not ended by themselves.
    pub(super) outcome: Outcome,
    /// Without grace.
    pub(super) kill: bool,
}

impl Cause {
    pub(super) fn new(verdict: Verdict, outcome: Outcome, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), outcome, kill: false }
    }

    pub(super) fn infra(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Infra, Outcome::Aborted, reason)
    }

    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Failed, Outcome::Failure, reason)
    }

    pub(super) fn rejected(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Rejected, Outcome::Aborted, reason)
    }

    pub(super) fn unplaceable(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Unplaceable, Outcome::Aborted, reason)
    }
}

impl Run {
    pub(super) fn cancel(&mut self, reason: String, kill: bool, now: Now, out: &mut Vec<Command>) {
        // Whoever cancels while outputs are being stored still gets them; killing gives them up.
        let collecting = matches!(self.phase, Phase::Collecting { .. });
        if collecting && !kill {
            return;
        }
        self.end_by(Cause::new(Verdict::Canceled, Outcome::Canceled, reason), out);
        if !kill {
            return;
        }
        if let Some(cause) = &mut self.cause {
            cause.kill = true;
        }
        let soon = now.at + KILL_TIME;
        match &mut self.phase {
            Phase::Stopping { until, killing } => {
                *killing = true;
                *until = soon;
                out.push(Command::Assign);
            }
            Phase::Collecting { until } => {
                *until = soon;
                out.push(Command::Assign);
            }
            Phase::Building
            | Phase::Queued { .. }
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Concluding
            | Phase::Finished
            | Phase::Cleaned => {}
        }
    }

    /// Notes why the run ends. The first cause counts, but infrastructure wins over failure.
    pub(super) fn end_by(&mut self, cause: Cause, out: &mut Vec<Command>) {
        if self.is_collected() {
            return;
        }
        // What is still told about an attempt that is over does not end the next one.
        let resting = matches!(self.phase, Phase::Resting { .. });
        if resting && cause.verdict != Verdict::Canceled {
            return;
        }
        let wins = match &self.cause {
            None => true,
            Some(first) => first.verdict == Verdict::Failed && cause.verdict == Verdict::Infra,
        };
        if wins {
            out.push(note("cause", &cause.reason));
            self.cause = Some(cause);
        } else if self.cause.as_ref().is_some_and(|first| *first != cause) {
            out.push(note("late_cause", &cause.reason));
        }
    }

    pub(super) fn broken(&mut self, reason: &str, fault_of_plan: bool, out: &mut Vec<Command>) {
        let cause = if fault_of_plan { Cause::failed(reason) } else { Cause::infra(reason) };
        self.end_by(cause, out);
    }

    pub(super) fn outputs_missing(
        &mut self,
        worker: &WorkerId,
        reason: &str,
        out: &mut Vec<Command>,
    ) {
        let text = format!("the outputs of worker {worker} are not stored: {reason}");
        self.warn(text.clone(), Some(worker), out);
        self.end_by(Cause::infra(text), out);
    }

    pub(super) fn deadline_passed(&mut self, now: Now, out: &mut Vec<Command>) {
        if self.deadline().is_none_or(|deadline| now.at < deadline) {
            return;
        }
        match self.phase {
            Phase::Queued { .. } => self.end_by(Cause::unplaceable(self.doing.clone()), out),
            Phase::Preparing { .. } => self.end_by(Cause::infra(self.not_ready()), out),
            Phase::Starting { until } | Phase::Running { until } if until <= now.at => {
                self.end_by(Cause::new(Verdict::TimedOut, Outcome::TimedOut, TIMED_OUT), out);
            }
            Phase::Running { .. } => self.end_by(Cause::failed(self.stuck()), out),
            Phase::Stopping { killing: false, .. } => {
                if let Some(cause) = &mut self.cause {
                    cause.kill = true;
                }
                self.phase = Phase::Stopping { until: now.at + 2 * KILL_TIME, killing: true };
                out.push(Command::Assign);
            }
            Phase::Stopping { killing: true, .. } => self.give_up_instances(out),
            Phase::Collecting { .. } => self.give_up_outputs(out),
            // Events are hints: a deadline that has moved is not one.
            Phase::Starting { .. }
            | Phase::Building
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Concluding
            | Phase::Finished
            | Phase::Cleaned => {}
        }
    }

    pub(super) fn fail_fast_due(&self) -> Option<Instant> {
        let quiet = self.about.rules.fail_fast?;
        self.accounts.first_bad()?;
        Some(self.last_word + quiet)
    }

    fn not_ready(&self) -> String {
        let late: Vec<String> = self
            .accounts
            .shares()
            .iter()
            .filter(|share| !share.prepared)
            .map(|share| {
                let doing = if share.doing.is_empty() { "no word" } else { &share.doing };
                format!("{} ({} of {} ready, {doing})", share.worker, share.ready, share.size())
            })
            .collect();
        let limit = self.about.rules.limits.prepare.as_secs();
        format!("not ready within {limit} s: worker {}", late.join(", worker "))
    }

    fn stuck(&self) -> String {
        let Some(bad) = self.accounts.first_bad() else { return String::new() };
        let outcome = self.accounts.ends()[&bad].outcome;
        format!(
            "instance {} ended with {outcome}; the others were still waiting",
            self.accounts.label(bad)
        )
    }

    fn give_up_instances(&mut self, out: &mut Vec<Command>) {
        let open = self.accounts.open();
        let text = format!("{open} instances did not end although they were killed");
        self.warn(text.clone(), None, out);
        self.end_by(Cause::infra(text), out);
        self.accounts.end_rest(Outcome::Aborted, "its worker did not report its end");
    }

    fn give_up_outputs(&mut self, out: &mut Vec<Command>) {
        let late: Vec<WorkerId> = self
            .accounts
            .shares()
            .iter()
            .filter(|share| !share.is_settled())
            .map(|share| share.worker.clone())
            .collect();
        for worker in late {
            if let Some(share) = self.accounts.share(&worker) {
                share.collect_failed = true;
                share.kpis = ShareKpis::Here;
            }
            self.outputs_missing(&worker, "it took too long", out);
        }
    }

    pub(super) fn record_failed(&mut self, reason: &str, out: &mut Vec<Command>) {
        if self.phase != Phase::Concluding {
            return;
        }
        let text = format!("the run's record is not stored: {reason}");
        self.warn(text.clone(), None, out);
        let verdict = self.verdict().0;
        if matches!(verdict, Verdict::Passed | Verdict::Failed | Verdict::Inconclusive) {
            self.cause = Some(Cause::infra(text));
        }
        self.facts.recorded = true;
    }

    /// Ends a run of which no instance has run an instruction: nothing to stop and nothing to collect.
    pub(super) fn end_unstarted(&mut self, now: Now, out: &mut Vec<Command>) {
        let Some(cause) = self.cause.clone() else { return };
        if self.phase == Phase::Building {
            out.push(Command::CancelBuild);
        }
        self.accounts.end_rest(cause.outcome, &format!("never started: {}", cause.reason));
        self.conclude(now, out);
    }

    /// How it ended, or would if this were all, and why it did not pass.
    pub(super) fn verdict(&self) -> (Verdict, String) {
        let (verdict, reason) = self.verdict_by_ends();
        match &self.kpis.judgement {
            Some(judgement) => judgement.weigh(verdict, reason),
            None => (verdict, reason),
        }
    }

    /// The same by what ended it and how its instances ended.
    fn verdict_by_ends(&self) -> (Verdict, String) {
        let spared = self.spares_lost();
        let good = |o| matches!(o, Outcome::Success | Outcome::Killed);
        let bad = |o| !(good(o) || spared && o == Outcome::Lost);
        let infra = |o| bad(o) && o != Outcome::Failure;
        match &self.cause {
            Some(cause) if cause.verdict != Verdict::Failed || self.accounts.count(infra) == 0 => {
                (cause.verdict, cause.reason.clone())
            }
            Some(_) => (Verdict::Infra, self.first_reason(infra)),
            None if self.accounts.count(infra) > 0 => (Verdict::Infra, self.first_reason(infra)),
            None if self.accounts.count(bad) > 0 => (Verdict::Failed, self.first_reason(bad)),
            None => (Verdict::Passed, String::new()),
        }
    }

    fn first_reason(&self, what: impl Fn(Outcome) -> bool) -> String {
        let total = self.accounts.total();
        let count = self.accounts.count(&what);
        let Some((instance, end)) = self.accounts.ends().iter().find(|(_, end)| what(end.outcome))
        else {
            return String::new();
        };
        let why = if end.reason.is_empty() { end.outcome.as_str() } else { &end.reason };
        format!(
            "{count} of {total} instances did not succeed; the first is {}: {why}",
            self.accounts.label(*instance)
        )
    }
}
