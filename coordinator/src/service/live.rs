//! One run while the coordinator works on it, and what is derived from it for workers and for the record.

use std::collections::BTreeMap;

use groundswell_common::api::SubmitRequest;
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::messages::{Assignment, DesiredShare, GroupSpec, ImageRef, Peer};
use groundswell_common::network::OverlaySecret;
use groundswell_common::run::{RunEvent, RunPhase, RunRecord, RunStatus};
use groundswell_common::telemetry;
use ipnet::Ipv4Net;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::directory::Directory;
use crate::events::EventLog;
use crate::ledger::LedgerRun;
use crate::parts::Outline;
use crate::record::RECORD_VERSION;
use crate::run::Run;
use crate::workers::Workers;

/// A run and everything that belongs to it.
pub(super) struct Live {
    pub(super) run: Run,
    pub(super) request: SubmitRequest,
    pub(super) outline: Outline,
    pub(super) seed: u64,
    pub(super) subnet: Ipv4Net,
    /// Names the run between its workers' switches.
    pub(super) network_key: u64,
    pub(super) overlay_secret: OverlaySecret,
    /// Who has which address, once an instance has claimed one.
    pub(super) directory: Option<Directory>,
    pub(super) start_time: String,
    /// From the submission to the start time.
    pub(super) start_offset_ms: u64,
    pub(super) groups: Vec<GroupSpec>,
    pub(super) events: EventLog,
    pub(super) span: Span,
    pub(super) building: CancellationToken,
    /// Its status has changed since it was told.
    pub(super) untold: bool,
    pub(super) told_at: Option<Instant>,
    /// A record is being stored, and whether another one is to follow.
    pub(super) storing: bool,
    pub(super) store_again: bool,
    /// The final record is being stored or is stored: no earlier one may follow.
    pub(super) concluding: bool,
}

impl Live {
    pub(super) fn id(&self) -> &RunId {
        &self.run.about().run
    }

    /// Takes the images in, one for each group.
    pub(super) fn built(&mut self, images: Vec<ImageRef>) {
        self.groups = self
            .outline
            .groups
            .iter()
            .zip(images)
            .map(|(group, image)| group.with_image(image))
            .collect();
    }

    /// Takes the present as the time instances are told the run began, in whole seconds as Testground has it.
    pub(super) fn take_start_time(&mut self) {
        let now = jiff::Timestamp::now();
        self.start_time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let start_ms = u64::try_from(now.as_second()).unwrap_or(0) * 1000;
        self.start_offset_ms = start_ms.saturating_sub(self.run.submitted_ms());
    }

    /// Slots it holds on each worker.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&WorkerId, u32)> {
        self.run
            .accounts()
            .shares()
            .iter()
            .filter(|share| !share.cleaned && !share.lost)
            .map(|share| (&share.worker, share.size()))
    }

    /// What `worker` should make of its share; absent when it should have none.
    pub(super) fn desired(&self, worker: &WorkerId, workers: &Workers) -> Option<DesiredShare> {
        let want = self.run.want()?;
        let share = self
            .run
            .accounts()
            .shares()
            .iter()
            .find(|share| &share.worker == worker && !share.lost)?;
        let about = self.run.about();
        let assignment = Assignment {
            run: about.run.clone(),
            attempt: about.attempt,
            plan: about.plan.clone(),
            case: about.case.clone(),
            runtime: self.outline.runtime,
            total_instances: self.run.accounts().total(),
            subnet: self.subnet,
            start_time: self.start_time.clone(),
            disable_metrics: self.outline.disable_metrics,
            seed: self.seed,
            groups: self.groups.clone(),
            network: self.outline.network.clone(),
            share: share.ranges.clone(),
            workers: self.run.workers(),
            peers: self.peers(worker, workers),
            network_key: self.network_key,
            overlay_secret: self.outline.network.encrypt.then(|| self.overlay_secret.clone()),
            options: self.outline.options.clone(),
            limits: self.outline.limits,
            trace: telemetry::context_of(&self.span),
        };
        Some(DesiredShare { assignment, want })
    }

    /// The other workers of the run.
    fn peers(&self, worker: &WorkerId, workers: &Workers) -> Vec<Peer> {
        let shares = self.run.accounts().shares().iter();
        shares
            .filter(|share| &share.worker != worker)
            .map(|share| Peer {
                worker: share.worker.clone(),
                overlay: workers.overlay(&share.worker),
                share: share.ranges.clone(),
            })
            .collect()
    }

    pub(super) fn ledger_run(&self, phase: RunPhase, term: u64) -> LedgerRun {
        let about = self.run.about();
        LedgerRun {
            run: about.run.clone(),
            attempt: about.attempt,
            phase,
            term,
            submitted_ms: self.run.submitted_ms(),
        }
    }

    /// Everything decided so far.
    pub(super) fn record(
        &self,
        status: RunStatus,
        versions: BTreeMap<String, String>,
    ) -> RunRecord {
        let accounts = self.run.accounts();
        RunRecord {
            v: RECORD_VERSION,
            status,
            attempt: self.run.about().attempt,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            composition: self.request.composition.clone(),
            run_in_composition: self.request.run.clone(),
            runtime: self.outline.runtime,
            seed: self.seed,
            subnet: self.subnet,
            groups: self.groups.clone(),
            network: self.outline.network.clone(),
            options: self.outline.options.clone(),
            limits: self.outline.limits,
            placement: accounts
                .shares()
                .iter()
                .map(|share| (share.worker.clone(), share.ranges.clone()))
                .collect(),
            source: self.request.source_info.clone(),
            versions,
            ends: accounts.ends().iter().map(|(id, end)| (*id, end.clone())).collect(),
            indexes: accounts.shares().iter().filter_map(|share| share.index.clone()).collect(),
            network_reports: accounts
                .shares()
                .iter()
                .filter_map(|share| Some((share.worker.clone(), share.network.clone()?)))
                .collect(),
        }
    }

    /// An event of the coordinator's own, with the time since the run was submitted.
    pub(super) fn event(
        &self,
        kind: &str,
        text: String,
        worker: Option<WorkerId>,
        unix_ms: u64,
    ) -> RunEvent {
        RunEvent {
            at_ms: unix_ms.saturating_sub(self.run.submitted_ms()),
            kind: kind.to_owned(),
            text,
            worker,
            group: None,
            instance: None,
        }
    }
}
