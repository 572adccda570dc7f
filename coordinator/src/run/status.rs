//! A run as people and programs see it.

use groundswell_common::api::{InstanceState, RunGrid};
use groundswell_common::egress::ExposedPort;
use groundswell_common::ids::WorkerId;
use groundswell_common::run::{RunPhase, RunStatus};

use super::{Phase, Run};

/// How many failures a status carries; the record has them all.
const FAILURES: usize = 20;
/// How many exposed ports a status carries; the workers' events have them all.
const EXPOSED: usize = 200;

impl Run {
    /// Its state, whole.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        let over = self.phase().is_over();
        let (verdict, reason) = self.verdict();
        RunStatus {
            run: self.about.run.clone(),
            name: self.about.run.name(),
            revision: self.revision,
            plan: self.about.plan.clone(),
            case: self.about.case.clone(),
            user: self.about.user.clone(),
            source: self.about.source.clone(),
            phase: self.phase(),
            doing: self.doing(),
            submitted_ms: self.submitted_ms,
            started_ms: self.started_ms,
            finished_ms: self.finished_ms,
            groups: self.accounts.counts(),
            workers: self.workers(),
            verdict: over.then_some(verdict),
            reason: if over || self.cause.is_some() { reason } else { String::new() },
            warnings: self.warnings.clone(),
            failures: self.accounts.failures(FAILURES),
            exposed: self.exposed().take(EXPOSED).cloned().collect(),
            // Until all have reported it would only be the part of it that is known by chance.
            network: self.is_collected().then(|| self.accounts.network()).flatten(),
            judgement: self.kpis.judgement.clone(),
            forgotten: false,
        }
    }

    /// Counts the changes of its state.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Where each of its instances is, at a time of the wall clock.
    #[must_use]
    pub fn grid(&self, unix_ms: u64) -> RunGrid {
        let shares = self.accounts.shares().iter();
        RunGrid {
            run: self.about.run.clone(),
            at_ms: unix_ms.saturating_sub(self.submitted_ms),
            revision: self.revision,
            groups: self.accounts.groups().to_vec(),
            placement: shares.map(|share| (share.worker.clone(), share.ranges.clone())).collect(),
            states: self.accounts.states().into_iter().map(InstanceState::code).collect(),
        }
    }

    /// Its state once the record is stored: what the record itself has to say.
    #[must_use]
    pub fn concluded(&self, unix_ms: u64) -> RunStatus {
        let mut status = self.status();
        if self.phase == Phase::Concluding {
            let (verdict, reason) = self.verdict();
            status.phase = RunPhase::Finished;
            status.revision += 1;
            status.finished_ms = Some(unix_ms);
            status.verdict = Some(verdict);
            status.reason = reason;
            status.doing = String::new();
        }
        status
    }

    fn exposed(&self) -> impl Iterator<Item = &ExposedPort> {
        self.accounts.shares().iter().flat_map(|share| &share.exposed)
    }

    /// Whether nothing more is to come from its workers that would count.
    pub(super) fn is_collected(&self) -> bool {
        matches!(self.phase, Phase::Concluding | Phase::Finished | Phase::Cleaned)
    }

    /// When it was submitted, Unix milliseconds.
    #[must_use]
    pub fn submitted_ms(&self) -> u64 {
        self.submitted_ms
    }

    /// When its instances were started, Unix milliseconds.
    #[must_use]
    pub fn started_ms(&self) -> Option<u64> {
        self.started_ms
    }

    /// Workers that take part.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerId> {
        self.accounts.shares().iter().map(|share| share.worker.clone()).collect()
    }

    fn doing(&self) -> String {
        if !self.doing.is_empty() {
            return self.doing.clone();
        }
        let open = self.accounts.open();
        match self.phase {
            Phase::Preparing { .. } => self
                .accounts
                .shares()
                .iter()
                .find(|share| !share.prepared)
                .map(|share| {
                    let doing = if share.doing.is_empty() { "preparing" } else { &share.doing };
                    format!("worker {}: {doing}", share.worker)
                })
                .unwrap_or_default(),
            Phase::Starting { .. } => "letting instances go".to_owned(),
            Phase::Running { .. } => format!("{open} instances running"),
            Phase::Building
            | Phase::Queued { .. }
            | Phase::Resting { .. }
            | Phase::Reserved
            | Phase::Stopping { .. }
            | Phase::Collecting { .. }
            | Phase::Concluding
            | Phase::Finished
            | Phase::Cleaned => String::new(),
        }
    }
}
