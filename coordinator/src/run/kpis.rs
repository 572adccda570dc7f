//! What a run has measured, taken in share by share, and what it is judged to be when all is there.

use std::collections::BTreeSet;

use groundswell_common::ids::{Attempt, WorkerId};
use groundswell_common::kpi::judge::judge;
use groundswell_common::kpi::{HostLoad, Judged, Judgement, KpiReport, Measured, SeriesSet};
use groundswell_common::run::Verdict;

use super::event::note;
use super::{Cause, Command, Run};

/// What the shares of an attempt have told of their KPIs.
#[derive(Debug, Clone, Default)]
pub struct Kpis {
    /// All series, merged.
    pub series: SeriesSet,
    /// How the host of each worker was doing.
    pub hosts: Vec<(WorkerId, HostLoad)>,
    /// What came of it, once everything was there.
    pub judgement: Option<Judgement>,
}

/// How far it is with the KPIs of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShareKpis {
    /// The worker has not told of them.
    #[default]
    Untold,
    /// They are being read from the object store.
    Fetching,
    /// They are among those of the run.
    Here,
}

impl Run {
    /// What it has measured so far.
    #[must_use]
    pub fn kpis(&self) -> &Kpis {
        &self.kpis
    }

    /// Takes the KPIs of a share in. What is told again, or too late, changes nothing.
    pub(super) fn kpis_told(
        &mut self,
        worker: &WorkerId,
        report: KpiReport,
        out: &mut Vec<Command>,
    ) {
        let concluded = self.is_collected();
        let attempt = self.about.attempt;
        let Some(share) = self.accounts.share(worker) else { return };
        if concluded || share.kpis != ShareKpis::Untold {
            return;
        }
        let KpiReport { series, stored, host } = report;
        share.kpis = ShareKpis::Here;
        if let Some(key) = stored {
            share.kpis = ShareKpis::Fetching;
            out.push(Command::FetchKpis { worker: worker.clone(), attempt, key });
        }
        self.kpis.series.merge(&series);
        self.kpis.hosts.push((worker.clone(), host));
    }

    /// Takes in what was read from the object store.
    pub(super) fn kpis_read(
        &mut self,
        worker: &WorkerId,
        attempt: Attempt,
        series: Result<SeriesSet, String>,
        out: &mut Vec<Command>,
    ) {
        let current = attempt == self.about.attempt;
        let Some(share) = self.accounts.share(worker).filter(|_| current) else { return };
        if share.kpis != ShareKpis::Fetching {
            return;
        }
        share.kpis = ShareKpis::Here;
        match series {
            Ok(series) => self.kpis.series.merge(&series),
            Err(reason) => {
                let text = format!("the KPIs of worker {worker} cannot be read: {reason}");
                self.warn(text.clone(), Some(worker), out);
                self.end_by(Cause::infra(text), out);
            }
        }
    }

    /// Judges what was measured. Nothing is expected of a run that never got as far as to measure something.
    pub(super) fn judge(&mut self, out: &mut Vec<Command>) {
        if self.started_ms.is_none() {
            return;
        }
        let network = self.accounts.network();
        let out_of_memory = self.out_of_memory();
        let measured = Measured {
            series: &self.kpis.series,
            hosts: &self.kpis.hosts,
            network: network.as_ref(),
            out_of_memory: &out_of_memory,
        };
        let Some(mut judgement) = judge(&self.about.judging, measured) else { return };
        let verdict = self.verdict().0;
        // What was cut short has not had the time to keep to anything.
        if !matches!(verdict, Verdict::Passed | Verdict::Failed) {
            judgement.expectations.clear();
            judgement.gates.clear();
        }
        let broken = |one: &Judged| format!("{} is broken: {}", one.name, one.text());
        out.extend(judgement.broken().map(|one| note("expectation", &broken(one))));
        let verdict = judgement.weigh(verdict, String::new()).0;
        for text in judgement.warnings(verdict) {
            self.warn(text, None, out);
        }
        self.kpis.judgement = Some(judgement);
    }

    /// The groups of the instances that the kernel killed for want of memory.
    fn out_of_memory(&self) -> BTreeSet<String> {
        let killed = self
            .accounts
            .ends()
            .iter()
            .filter(|(_, end)| end.exit.as_ref().is_some_and(|exit| exit.oom_killed));
        killed
            .filter_map(|(instance, _)| {
                let (group, _) = self.accounts.locate(*instance);
                self.about.groups.get(group).map(|(name, _)| name.clone())
            })
            .collect()
    }
}
