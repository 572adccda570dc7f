//! What becomes of a run that has lost instances, by its [`OnLost`].
//!
//! * `fail`: the loss is the cause that ends it.
//! * `tolerate`: from the start on, a loss that is small enough is a warning. Lost instances then count neither for
//!   nor against it, and the sync log says that they are gone.
//! * `retry_run`: an attempt that would conclude as an infrastructure failure is cleaned up, and after a rest the
//!   whole run is queued again, with a new log and new numbers. One instance is never started again in its attempt:
//!   it has signalled already.
//!
//! [`OnLost`]: groundswell_common::on_lost::OnLost

use groundswell_common::ids::{Attempt, InstanceId, WorkerId};
use groundswell_common::outcome::Outcome;
use groundswell_common::run::Verdict;

use super::event::note;
use super::{Accounts, Cause, Command, Facts, Kpis, Now, Phase, Run};

impl Run {
    /// Takes in that a worker is gone, and what it ran with it.
    pub(super) fn lost(&mut self, worker: &WorkerId, reason: &str, out: &mut Vec<Command>) {
        let Some(share) = self.accounts.share(worker).filter(|share| !share.lost) else { return };
        let stored = share.index.is_some();
        let all: Vec<InstanceId> = share.instances().collect();
        share.lost = true;
        let open = |instance: &InstanceId| !self.accounts.ends().contains_key(instance);
        let gone: Vec<InstanceId> = all.into_iter().filter(open).collect();
        self.accounts.end_share(worker, Outcome::Lost, reason);
        if gone.is_empty() && stored {
            return;
        }
        let text = if gone.is_empty() {
            format!("{reason}; its outputs are not stored")
        } else {
            format!("{reason}; {} instances were lost with it", gone.len())
        };
        let worker = Some(worker.clone());
        out.push(Command::Note { kind: "worker_lost", text: text.clone(), worker });
        if self.mind_lost(&text, out) && !gone.is_empty() {
            out.push(Command::MarkGone { gone, reason: reason.to_owned() });
        }
    }

    /// Ends the run because of what it has lost, or goes on and says so. Returns whether it goes on.
    pub(super) fn mind_lost(&mut self, reason: &str, out: &mut Vec<Command>) -> bool {
        let (lost, total) = (self.accounts.lost(), self.accounts.total());
        if self.spares_lost() {
            let on_lost = self.about.rules.on_lost;
            let text = format!("{reason} ({lost} of {total} are lost; on_lost = {on_lost})");
            self.warn(text, None, out);
            return true;
        }
        self.end_by(Cause::infra(reason), out);
        false
    }

    /// Whether what is lost so far counts neither for nor against the run.
    pub(super) fn spares_lost(&self) -> bool {
        let started = match self.phase {
            Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Collecting { .. }
            | Phase::Concluding
            | Phase::Finished
            | Phase::Cleaned => true,
            // All instances start or none does.
            Phase::Building
            | Phase::Queued { .. }
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Preparing { .. } => false,
        };
        let on_lost = self.about.rules.on_lost;
        started && on_lost.tolerates(self.accounts.lost(), self.accounts.total())
    }

    /// Rests before the next attempt instead of concluding, if this was an infrastructure failure and there is one
    /// left. Returns whether it does.
    pub(super) fn rest(&mut self, now: Now, out: &mut Vec<Command>) -> bool {
        let rules = self.about.rules;
        let attempt = self.about.attempt;
        let (verdict, reason) = self.verdict();
        let placed = !self.accounts.shares().is_empty();
        if verdict != Verdict::Infra || !placed || attempt.0 > rules.on_lost.retries() {
            return false;
        }
        let wait = rules.retry_wait.saturating_mul(1 << (attempt.0 - 1).min(16));
        self.warn(format!("attempt {attempt} was an infrastructure failure: {reason}"), None, out);
        self.cause = None;
        let seconds = wait.as_secs();
        let doing = format!("attempt {} begins in {seconds} s", attempt.next());
        self.enter(Phase::Resting { until: now.at + wait }, &doing, out);
        out.extend([Command::Assign, Command::DeleteLog { attempt }, Command::WriteRecord]);
        true
    }

    /// Is queued again as if it had just been built.
    pub(super) fn begin_again(&mut self, now: Now, out: &mut Vec<Command>) {
        self.about.attempt = self.about.attempt.next();
        self.accounts = Accounts::new(self.about.groups.clone());
        self.facts = Facts { built: true, ..Facts::default() };
        self.kpis = Kpis::default();
        self.started_ms = None;
        let until = now.at + self.about.rules.no_room_patience;
        self.enter(Phase::Queued { until }, "waiting for room", out);
        out.push(note("attempt", &self.about.attempt.to_string()));
        out.extend([Command::NextAttempt, Command::Place]);
    }

    /// The attempt with which another coordinator would go on.
    #[must_use]
    pub fn attempt_to_go_on_with(&self) -> Attempt {
        let attempt = self.about.attempt;
        if matches!(self.phase, Phase::Resting { .. }) { attempt.next() } else { attempt }
    }
}
