//! One run while the coordinator works on it, and what is derived from it for workers and for the record.

use std::collections::BTreeMap;

use groundswell_common::api::SubmitRequest;
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::messages::{Assignment, DesiredShare, GroupSpec, Peer};
use groundswell_common::network::OverlaySecret;
use groundswell_common::run::{RunEvent, RunPhase, RunRecord, RunStatus};
use groundswell_common::telemetry;
use ipnet::Ipv4Net;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::effects::Placing;
use super::recording::Replay;
use super::shipping::Shipped;
use crate::directory::Directory;
use crate::events::EventLog;
use crate::ledger::LedgerRun;
use crate::parts::{GroupParts, Outline};
use crate::record::{KpiFile, Placed, RECORD_VERSION};
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
    pub(super) replay: Replay,
    pub(super) span: Span,
    pub(super) building: CancellationToken,
    /// The term in which this coordinator went on with it; absent when it has begun it.
    pub(super) resumed: Option<u64>,
    /// When the control state last heard of it.
    pub(super) remembered_at: Instant,
    /// Its status has changed since it was told.
    pub(super) untold: bool,
    pub(super) told_at: Option<Instant>,
    /// A record is being stored, and whether another one is to follow.
    pub(super) storing: bool,
    pub(super) store_again: bool,
    /// The final record is being stored or is stored: no earlier one may follow.
    pub(super) concluding: bool,
    /// What of it is on its way to the store for metrics.
    pub(super) shipped: Shipped,
}

impl Live {
    /// A run with what it is made from. A network key and a secret are drawn.
    pub(super) fn new(
        run: Run,
        (request, outline): (SubmitRequest, Outline),
        subnet: Ipv4Net,
        span: Span,
    ) -> Self {
        Self {
            replay: Replay::new(&run, &outline),
            run,
            // Fifty-three bits, so that tools which read numbers as floating point see the same seed.
            seed: request.seed.or(outline.seed).unwrap_or_else(|| rand::random::<u64>() >> 11),
            request,
            outline,
            subnet,
            network_key: rand::random(),
            overlay_secret: OverlaySecret::new(rand::random()),
            directory: None,
            start_time: String::new(),
            start_offset_ms: 0,
            groups: Vec::new(),
            events: EventLog::default(),
            span,
            building: CancellationToken::new(),
            resumed: None,
            remembered_at: Instant::now(),
            untold: true,
            told_at: None,
            storing: false,
            store_again: false,
            concluding: false,
            shipped: Shipped::default(),
        }
    }

    /// Forgets what was decided for the attempt before. Packets and keys of that one mean nothing in the next.
    pub(super) fn next_attempt(&mut self) {
        self.network_key = rand::random();
        self.overlay_secret = OverlaySecret::new(rand::random());
        self.directory = None;
        self.start_time.clear();
    }

    /// Takes in what another coordinator has decided.
    pub(super) fn take_over(
        &mut self,
        entry: &LedgerRun,
        placed: Option<Placed>,
        (events, replay): (EventLog, Option<Vec<u8>>),
        term: u64,
    ) {
        self.resumed = Some(term);
        self.events = events;
        replay.into_iter().for_each(|stored| self.replay.go_on_with(stored));
        self.request.queue.priority = entry.priority.or(self.request.queue.priority);
        let Some(placed) = placed else { return };
        self.seed = placed.seed;
        self.start_time = placed.start_time;
        self.start_offset_ms = placed.start_offset_ms;
        self.groups = placed.groups;
        self.network_key = entry.network_key;
        if let Some(secret) = &entry.overlay_secret {
            self.overlay_secret = secret.clone();
        }
    }

    /// Who has which address.
    pub(super) fn directory(&mut self) -> &mut Directory {
        let Self { directory, subnet, outline, resumed, .. } = self;
        // Workers have heard of changes in earlier terms, which were fewer than this.
        let before = resumed.map_or(0, |term| term << 32);
        directory.get_or_insert_with(|| {
            Directory::new(*subnet, outline.fronts()).keeping(outline.behind()).after(before)
        })
    }

    pub(super) fn id(&self) -> &RunId {
        &self.run.about().run
    }

    /// Takes in what is prepared, for one group after the other.
    pub(super) fn built(&mut self, parts: Vec<GroupParts>) {
        self.groups = self
            .outline
            .groups
            .iter()
            .zip(parts)
            .map(|(group, parts)| group.with_parts(parts))
            .collect();
    }

    /// Takes the present as the time instances are told the run began, in whole seconds as Testground has it.
    /// The first time counts.
    pub(super) fn take_start_time(&mut self) {
        if !self.start_time.is_empty() {
            return;
        }
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
            source: self.request.source_info.clone(),
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
            attempt: self.run.attempt_to_go_on_with(),
            phase,
            term,
            submitted_ms: self.run.submitted_ms(),
            started_ms: self.run.started_ms(),
            spent: self.run.spent(Instant::now().into_std()),
            cause: self.run.cause().cloned(),
            priority: self.request.queue.priority,
            network_key: self.network_key,
            overlay_secret: Some(self.overlay_secret.clone()),
        }
    }

    /// What the run is given a place with.
    pub(super) fn placing(&self, term: u64) -> Placing {
        let shares = self.run.accounts().shares().iter();
        let placed = Placed {
            seed: self.seed,
            subnet: self.subnet,
            start_time: self.start_time.clone(),
            start_offset_ms: self.start_offset_ms,
            groups: self.groups.clone(),
            shares: shares.map(|share| (share.worker.clone(), share.ranges.clone())).collect(),
        };
        let entry = self.ledger_run(RunPhase::Reserved, term);
        Placing { entry, placed, workers: self.run.workers() }
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
            labels: self.request.labels.clone(),
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

    /// What it has measured, when that is anything.
    pub(super) fn kpi_file(&self) -> Option<KpiFile> {
        let kpis = self.run.kpis();
        kpis.judgement.is_some().then(|| KpiFile::new(self.id(), &self.outline.judging, kpis))
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
