//! A run that another coordinator has begun.
//!
//! The control state says how far it had come and why it was ending, workers tell everything else again. So the
//! run goes back to the last point where that suffices: what had not been placed is built again, and what had
//! begun to start waits for its workers' word and moves on as far as that allows.

use std::time::{Duration, Instant};

use groundswell_common::run::RunPhase;
use groundswell_common::timing::COLLECT_TIMEOUT;

use super::event::note;
use super::{About, Cause, Command, Facts, Now, Phase, Run};
use crate::placement;

/// What is left of a run.
#[derive(Debug, Clone)]
pub struct Left {
    /// Where it was.
    pub phase: RunPhase,
    /// Who had got what; empty before that was decided.
    pub shares: Vec<placement::Share>,
    /// Why it was ending.
    pub cause: Option<Cause>,
    /// How much of its time limit was used.
    pub spent: Duration,
    /// When it was submitted, Unix milliseconds.
    pub submitted_ms: u64,
    /// When its instances were let go, Unix milliseconds.
    pub started_ms: Option<u64>,
    /// What people had been told.
    pub warnings: Vec<String>,
    /// Higher than any revision of its status so far.
    pub revision: u64,
}

impl Run {
    /// Goes on with a run that another coordinator has begun, and says what to do first.
    #[must_use]
    pub fn resume(about: About, left: Left, now: Now) -> (Self, Vec<Command>) {
        let (mut run, _) = Self::new(about, left.warnings, now);
        run.revision = left.revision;
        run.submitted_ms = left.submitted_ms;
        run.started_ms = left.started_ms;
        run.cause = left.cause;
        let mut out = vec![note("resumed", &format!("by another coordinator, {}", left.phase))];
        let placed = !left.shares.is_empty() && left.phase >= RunPhase::Preparing;
        if placed {
            run.accounts.place(left.shares);
        }
        let limits = run.about.rules.limits;
        if placed {
            run.facts = Facts { built: true, log_ready: true, ..Facts::default() };
            run.phase = if left.phase == RunPhase::Preparing {
                Phase::Preparing { until: now.at + limits.prepare }
            } else {
                // The record may not be in the log. A second one changes nothing.
                out.extend(run.cause.is_none().then_some(Command::AppendStart));
                // Outputs may take longer than the run might.
                let rest = if left.phase == RunPhase::Collecting {
                    COLLECT_TIMEOUT
                } else {
                    limits.run.saturating_sub(left.spent)
                };
                Phase::Starting { until: now.at + rest }
            };
        } else {
            // No worker has heard of it: it is remembered before anyone is assigned anything.
            out.push(Command::Build);
        }
        while run.step(now, &mut out) {}
        out.extend([Command::Remember, Command::Assign]);
        (run, out)
    }

    /// How much of its time limit the run has used.
    #[must_use]
    pub fn spent(&self, now: Instant) -> Duration {
        let limit = self.about.rules.limits.run;
        match self.phase {
            Phase::Starting { until } | Phase::Running { until } => {
                limit.saturating_sub(until.saturating_duration_since(now))
            }
            Phase::Stopping { .. }
            | Phase::Collecting { .. }
            | Phase::Concluding
            | Phase::Building
            | Phase::Queued { .. }
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Preparing { .. }
            | Phase::Finished
            | Phase::Cleaned => Duration::ZERO,
        }
    }

    /// Why it ends, if something has ended it.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }
}
