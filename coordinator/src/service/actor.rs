//! The one task that owns all state of the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, RunId, WorkerId};
use groundswell_common::run::{RunEvent, RunPhase, RunStatus};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, info_span, warn};

use super::effects::{self, Accepted, Done, Files, unix_ms};
use super::live::Live;
use super::queueing::Queueing;
use super::recovery::LeftBehind;
use super::teller::Teller;
use super::{DRAIN, Incoming, ServiceConfig};
use crate::assignments::Assignments;
use crate::failpoint::failpoint;
use crate::ledger::Ledger;
use crate::parts::{GroupParts, Outline, PrepareError};
use crate::run::{About, Command, Event, Now, Rules, Run};
use crate::subnets::Subnets;
use crate::tokens::Tokens;
use crate::workers::Workers;

/// The least time between two statuses of a run.
const STATUS_GAP: Duration = Duration::from_millis(50);
/// How often queued runs hear about their place.
const QUEUE_WORD: Duration = Duration::from_secs(1);
/// How often the control state hears of a run that goes on: so much of its time limit a change of leaders adds.
const REMEMBER: Duration = Duration::from_secs(30);
/// Runs that are over and kept in memory.
const PAST: usize = 500;

/// All state.
pub(super) struct Actor {
    pub(super) config: ServiceConfig,
    pub(super) ledger: Ledger,
    pub(super) assignments: Assignments,
    teller: Teller,
    pub(super) tokens: Tokens,
    pub(super) workers: Workers,
    pub(super) live: BTreeMap<RunId, Live>,
    pub(super) past: BTreeMap<RunId, RunStatus>,
    subnets: Subnets,
    /// The stream sequence of each worker's assignments.
    pub(super) sequences: BTreeMap<WorkerId, u64>,
    /// Workers whose assignments are being published: one at a time, so that the last one wins.
    pub(super) assigning: BTreeSet<WorkerId>,
    /// Workers whose assignments have changed since they were last published.
    pub(super) unassigned: BTreeSet<WorkerId>,
    progress: mpsc::Sender<(RunId, String)>,
    progress_lines: Option<mpsc::Receiver<(RunId, String)>>,
    pub(super) effects: JoinSet<Done>,
    pub(super) ending: CancellationToken,
    pub(super) queue: Queueing,
    pub(super) placed_at: Instant,
    ticked_at: Instant,
}

impl Actor {
    pub(super) fn new(
        config: ServiceConfig,
        ledger: Ledger,
        assignments: Assignments,
        (teller, tokens): (Teller, Tokens),
    ) -> Self {
        let (progress, lines) = mpsc::channel(1024);
        Self {
            workers: Workers::new(config.lease),
            subnets: Subnets::new(config.data_range),
            config,
            ledger,
            assignments,
            teller,
            tokens,
            live: BTreeMap::new(),
            past: BTreeMap::new(),
            sequences: BTreeMap::new(),
            assigning: BTreeSet::new(),
            unassigned: BTreeSet::new(),
            progress,
            progress_lines: Some(lines),
            effects: JoinSet::new(),
            ending: CancellationToken::new(),
            queue: Queueing::new(),
            placed_at: Instant::now(),
            ticked_at: Instant::now(),
        }
    }

    /// Serves until `shutdown` or until another coordinator has taken the lead.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Incoming>,
        shutdown: &CancellationToken,
    ) {
        let Some(mut progress) = self.progress_lines.take() else { return };
        let deposed = self.ledger.deposed().clone();
        self.load_usage();
        self.config.gauges.lead(self.ledger.term());
        let mut ticks = interval(STATUS_GAP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // The end comes first: a busy bus must not hold it up.
                () = shutdown.cancelled() => break,
                () = deposed.cancelled() => break,
                // Time and results before new work, so that load delays callers and not runs.
                _ = ticks.tick() => self.tick(),
                // A builder's last line comes before the news that it is done.
                Some((run, doing)) = progress.recv() => self.feed(&run, Event::Building { doing }),
                Some(done) = self.effects.join_next() => self.joined(done),
                Some(incoming) = inbox.recv() => self.incoming(incoming),
            }
        }
        self.drain().await;
    }

    /// Waits for what is being stored, for a while; leaves the rest.
    async fn drain(mut self) {
        self.config.gauges.resign();
        if self.ledger.deposed().is_cancelled() {
            warn!(runs = self.live.len(), "this coordinator does not lead any more");
            return;
        }
        info!(left = self.effects.len(), runs = self.live.len(), "coordinator ends");
        self.store_usage();
        self.ending.cancel();
        for live in self.live.values() {
            live.building.cancel();
        }
        let drained = timeout(DRAIN, async {
            while let Some(done) = self.effects.join_next().await {
                self.joined(done);
            }
        });
        if drained.await.is_err() {
            warn!("coordinator did not end in time, something may not be stored");
        }
        self.tell_all(Instant::now());
    }

    fn incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Register(message) => self.register(message),
            Incoming::Heartbeat(message) => self.heartbeat(message),
            Incoming::Report(message) => self.report(message),
            Incoming::Claim(message) => self.claim(message),
            Incoming::Call(message) => self.call(message),
            Incoming::Event(message) => self.event(&message),
        }
    }

    fn joined(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(done) => self.done(done),
            Err(err) if err.is_cancelled() => {}
            Err(err) => error!(error = %Chain(&err), "effect panicked"),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Submitted(key, submission) => self.submitted(key, submission),
            Done::UsageRead(usage) => self.usage_read(usage),
            Done::UsageKept => self.usage_kept(),
            Done::Built(run, built) => self.built(&run, built),
            Done::LogCreated(run, attempt, created) => {
                let failed = |reason| Event::LogFailed { attempt, reason };
                self.feed(&run, created.map_or_else(failed, |()| Event::LogReady { attempt }));
            }
            Done::StartAppended(run, attempt, appended) => {
                let failed = |reason| Event::StartFailed { attempt, reason };
                let event = appended.map_or_else(failed, |()| Event::StartAppended { attempt });
                self.feed(&run, event);
            }
            Done::KpisRead(run, attempt, worker, series) => {
                self.feed(&run, Event::KpisRead { worker, attempt, series });
            }
            Done::Stored(run) => self.stored(&run),
            Done::Concluded(run, Ok(())) => self.feed(&run, Event::Recorded),
            Done::Concluded(run, Err(reason)) => self.feed(&run, Event::RecordFailed { reason }),
            Done::Assigned(worker, sequence) => self.assigned(worker, sequence),
            Done::Registered(registered) => {
                let (message, registration, epoch) = *registered;
                self.registered(message, registration, epoch);
            }
            Done::TokenKept(message, kept, written) => self.token_kept(message, *kept, written),
            Done::TokenRevoked(message, id, removed) => self.token_revoked(message, &id, removed),
            Done::Cordoned(cordoned) => self.cordoned(*cordoned),
            Done::Selected(message, selected) => self.selected(message, selected),
            Done::Listed(read) => self.listed(read),
        }
    }

    // Runs.

    pub(super) fn accepted(&mut self, accepted: Accepted) {
        let Accepted { message, request, mut outline, run, submitted_ms } = accepted;
        if let Err(refusal) = self.admit(&request, &mut outline) {
            self.ledger.forget(&run);
            return self.answer::<RunStatus>(message, Err(refusal));
        }
        let range = self.config.data_range;
        if let Err(refused) = outline.network.check_nats(range) {
            self.ledger.forget(&run);
            let refusal = Refusal {
                kind: RefusalKind::Invalid,
                message: format!("runs have their networks in {range} here: {refused}"),
                help: "give `[groups.nat]` another `lan`".to_owned(),
            };
            return self.answer::<RunStatus>(message, Err(refusal));
        }
        let Some(subnet) = self.subnets.take(self.live.values().map(|live| &live.subnet)) else {
            self.ledger.forget(&run);
            let refusal = Refusal {
                kind: RefusalKind::Unavailable,
                message: "every data network is held by a live run".to_owned(),
                help: "wait for runs to end".to_owned(),
            };
            return self.answer::<RunStatus>(message, Err(refusal));
        };
        let span = info_span!("run", run = %run, plan = outline.plan, case = outline.case);
        bus::adopt_trace(&span, &message);
        let about = self.about(&run, Attempt::FIRST, &request, &outline);
        let now = Now { at: Instant::now().into_std(), unix_ms: submitted_ms };
        let (machine, commands) = Run::new(about, outline.warnings.clone(), now);
        let status = machine.status();
        let live = Live::new(machine, (request, outline), subnet, span);
        info!(run = %run, "run accepted");
        self.live.insert(run.clone(), live);
        self.carry_out(&run, commands);
        self.replace_older(&run);
        self.answer(message, Ok(status));
    }

    fn about(
        &self,
        run: &RunId,
        attempt: Attempt,
        request: &SubmitRequest,
        outline: &Outline,
    ) -> About {
        About {
            run: run.clone(),
            attempt,
            plan: outline.plan.clone(),
            case: outline.case.clone(),
            user: request.user.clone(),
            source: request.source_info.clone(),
            groups: outline.groups.iter().map(|g| (g.id.clone(), g.instances)).collect(),
            rules: Rules {
                limits: outline.limits,
                no_room_patience: self.config.no_room_patience,
                fail_fast: self.config.fail_fast,
                on_lost: outline.on_lost,
                retry_wait: self.config.retry_wait,
            },
            judging: Arc::new(outline.judging.clone()),
        }
    }

    /// Goes on with the runs of another coordinator.
    pub(super) fn resume(&mut self, left_behind: Vec<LeftBehind>) {
        let now = Now { at: Instant::now().into_std(), unix_ms: unix_ms() };
        let mut all = Vec::new();
        for one in left_behind {
            let LeftBehind { entry, request, mut outline, placed, left, events, replay, workers } =
                one;
            let run = entry.run.clone();
            let Some(subnet) = placed
                .as_ref()
                .map(|placed| placed.subnet)
                .or_else(|| self.subnets.take(self.live.values().map(|live| &live.subnet)))
            else {
                warn!(run = %run, "no data network is free for a run of another coordinator");
                continue;
            };
            self.limit_what_is_kept(&request, &mut outline);
            let span = info_span!("run", run = %run, plan = outline.plan, case = outline.case);
            let about = self.about(&run, entry.attempt, &request, &outline);
            let (machine, commands) = Run::resume(about, left, now);
            let mut live = Live::new(machine, (request, outline), subnet, span);
            live.take_over(&entry, placed, (events, replay), self.ledger.term());
            for (registration, epoch) in workers {
                if !self.workers.knows(&registration.worker) {
                    self.workers.expect(registration, epoch, now.at);
                }
            }
            info!(run = %run, phase = %entry.phase, "run goes on here");
            self.live.insert(run.clone(), live);
            all.push((run, commands));
        }
        for (run, commands) in all {
            self.carry_out(&run, commands);
        }
    }

    fn built(&mut self, run: &RunId, built: Result<Vec<GroupParts>, PrepareError>) {
        let event = match built {
            Ok(images) => {
                let Some(live) = self.live.get_mut(run) else { return };
                live.built(images);
                if live.groups.len() == live.outline.groups.len() {
                    Event::Built
                } else {
                    let reason = "the builder left a group without an image".to_owned();
                    Event::BuildFailed { reason, fault_of_plan: false }
                }
            }
            Err(PrepareError::Plan { reason }) => {
                Event::BuildFailed { reason, fault_of_plan: true }
            }
            Err(PrepareError::Host { reason }) => {
                Event::BuildFailed { reason, fault_of_plan: false }
            }
        };
        self.feed(run, event);
    }

    /// Hands an event to a run and carries out what follows.
    pub(super) fn feed(&mut self, run: &RunId, event: Event) {
        let Some(live) = self.live.get_mut(run) else { return };
        let now = Now { at: Instant::now().into_std(), unix_ms: unix_ms() };
        let before = live.run.phase();
        let commands = live.run.handle(event, now);
        live.untold = true;
        let after = live.run.phase();
        if after != before {
            live.span.in_scope(|| info!(phase = %after, "run moved on"));
        }
        self.carry_out(run, commands);
    }

    fn carry_out(&mut self, run: &RunId, commands: Vec<Command>) {
        let mut place = false;
        for command in commands {
            place |= matches!(command, Command::Place | Command::Forget);
            self.command(run, command);
        }
        self.publish_assignments();
        if place {
            self.place_queued();
        }
    }

    fn command(&mut self, run: &RunId, command: Command) {
        let Some(live) = self.live.get_mut(run) else { return };
        let attempt = live.run.about().attempt;
        let logs = Arc::clone(&self.config.parts.sync_logs);
        let term = self.ledger.term();
        let span = live.span.clone();
        match command {
            Command::Build => {
                let prepare = Arc::clone(&self.config.parts.prepare);
                let (request, progress) = (live.request.clone(), self.progress.clone());
                let build =
                    effects::build(prepare, request, run.clone(), progress, live.building.clone());
                self.effects.spawn(build.instrument(span));
            }
            Command::CancelBuild => live.building.cancel(),
            // Placing looks at all runs; see `place_queued`.
            Command::Place => {}
            Command::CreateLog => {
                live.take_start_time();
                let (ledger, objects) = (self.ledger.clone(), self.config.objects.clone());
                let place = effects::place(logs, ledger, objects, live.placing(term));
                self.effects.spawn(place.instrument(span));
            }
            Command::Assign => self.unassigned.extend(live.run.workers()),
            Command::AppendStart => {
                let entry = live.ledger_run(RunPhase::Starting, term);
                let start = effects::start(logs, self.ledger.clone(), entry);
                self.effects.spawn(start.instrument(span));
            }
            Command::Remember => {
                live.remembered_at = Instant::now();
                let entry = live.ledger_run(live.run.phase(), term);
                self.ledger.remember(&entry);
            }
            Command::WriteRecord => self.store(run),
            Command::Conclude => self.conclude(run),
            Command::MarkGone { gone, reason } => {
                let mark = effects::mark_gone(logs, (run.clone(), attempt), gone, reason);
                self.effects.spawn(mark.instrument(span));
            }
            Command::FetchKpis { worker, attempt, key } => {
                let objects = self.config.objects.clone();
                let fetch = effects::fetch_kpis(objects, (run.clone(), attempt), worker, key);
                self.effects.spawn(fetch.instrument(span));
            }
            Command::NextAttempt => live.next_attempt(),
            Command::DeleteLog { attempt } => {
                let delete = effects::delete_log(logs, run.clone(), attempt);
                self.effects.spawn(delete.instrument(span));
            }
            Command::Forget => self.forget(run),
            Command::Note { kind, text, worker } => {
                let event = live.event(kind, text, worker, unix_ms());
                live.note(&event);
                live.ship(&self.config.shipper, &event);
                self.teller.event(run, &event);
            }
        }
    }

    pub(super) fn versions(&self, live: &Live) -> BTreeMap<String, String> {
        let workers = live.run.workers();
        let mut versions: BTreeMap<String, String> = self
            .workers
            .versions()
            .filter(|(worker, _)| workers.contains(worker))
            .map(|(worker, version)| (format!("worker {worker}"), version.to_owned()))
            .collect();
        versions.insert("nats-server".to_owned(), self.config.bus.server_version());
        versions.insert("coordinator".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        versions
    }

    /// Stores the record; while one is on its way the next waits, so that the last one wins.
    fn store(&mut self, run: &RunId) {
        let Some(live) = self.live.get(run) else { return };
        let record = live.record(live.run.status(), self.versions(live));
        let Some(live) = self.live.get_mut(run) else { return };
        if live.storing {
            live.store_again = true;
            return;
        }
        live.storing = true;
        let events = live.events.to_bytes();
        let store = effects::store(self.config.objects.clone(), record, events);
        self.effects.spawn(store.instrument(live.span.clone()));
    }

    fn stored(&mut self, run: &RunId) {
        let Some(live) = self.live.get_mut(run) else { return };
        live.storing = false;
        let again = std::mem::take(&mut live.store_again);
        if live.concluding {
            self.conclude(run);
        } else if again {
            self.store(run);
        }
    }

    /// Stores events and the last record, after any earlier record.
    fn conclude(&mut self, run: &RunId) {
        self.ship_end(run);
        let Some(live) = self.live.get(run) else { return };
        let record = live.record(live.run.concluded(unix_ms()), self.versions(live));
        let Some(live) = self.live.get_mut(run) else { return };
        live.concluding = true;
        if live.storing {
            return;
        }
        live.sample();
        let at_ms = unix_ms().saturating_sub(live.run.submitted_ms());
        let files = Files {
            events: live.events.to_bytes().into(),
            replay: live.replay.finish(at_ms).into(),
            kpis: live.kpi_file(),
        };
        let conclude = effects::conclude(self.config.objects.clone(), record, files);
        self.effects.spawn(conclude.instrument(live.span.clone()));
    }

    fn forget(&mut self, run: &RunId) {
        let Some(live) = self.live.remove(run) else { return };
        let status = live.run.status();
        self.teller.status(&status);
        self.config.shipper.close(run);
        self.config.gauges.over(&status);
        self.ledger.forget(run);
        failpoint("run_forgotten");
        self.past.insert(run.clone(), status);
        self.forget_oldest();
    }

    /// Keeps the newest runs of the past.
    pub(super) fn forget_oldest(&mut self) {
        while self.past.len() > PAST {
            self.past.pop_first();
        }
    }

    // Time.

    fn tick(&mut self) {
        let now = Instant::now();
        let away = now.duration_since(self.ticked_at);
        self.ticked_at = now;
        if away >= self.config.lease.warn {
            warn!(seconds = away.as_secs(), "coordinator was away, leases begin anew");
            self.workers.excuse(now.into_std());
        }
        for silence in self.workers.silent(now.into_std()) {
            let worker = silence.worker;
            let seconds = silence.silent.as_secs();
            warn!(worker = %worker, seconds, lost = silence.lost, "worker is silent");
            if silence.lost {
                self.lose(&worker, &format!("worker {worker} was not heard for {seconds} s"));
                continue;
            }
            for run in self.runs_of(&worker) {
                let event = Event::WorkerSilent { worker: worker.clone(), silent: silence.silent };
                self.feed(&run, event);
            }
        }
        self.end_overdue(now.into_std());
        let due: Vec<RunId> = self
            .live
            .values()
            .filter(|live| live.run.deadline().is_some_and(|due| due <= now.into_std()))
            .map(|live| live.id().clone())
            .collect();
        for run in due {
            self.feed(&run, Event::DeadlinePassed);
        }
        if now.duration_since(self.placed_at) >= QUEUE_WORD {
            self.place_queued();
            self.count();
        }
        self.remember_running(now);
        self.record_replays(now);
        self.tell_all(now);
    }

    /// Lets the control state know how much of their time runs have used.
    fn remember_running(&mut self, now: Instant) {
        let term = self.ledger.term();
        for live in self.live.values_mut() {
            let running = live.run.phase() == RunPhase::Running;
            if running && now.duration_since(live.remembered_at) >= REMEMBER {
                live.remembered_at = now;
                self.ledger.remember(&live.ledger_run(RunPhase::Running, term));
            }
        }
    }

    /// Tells each status that has changed, at most once in a while.
    fn tell_all(&mut self, now: Instant) {
        for live in self.live.values_mut().filter(|live| live.untold) {
            let recent = live.told_at.is_some_and(|told| now.duration_since(told) < STATUS_GAP);
            if !recent && self.teller.status(&live.run.status()) {
                live.untold = false;
                live.told_at = Some(now);
            }
        }
    }

    /// Takes an event of a worker in. The coordinator hears its own too; those are in the log already.
    fn event(&mut self, message: &Message) {
        let Some(mut event) = readable::<RunEvent>(message) else { return };
        let Ok(run) = bus::last_token(&message.subject).parse::<RunId>() else { return };
        if let Some(live) = self.live.get_mut(&run).filter(|_| event.worker.is_some()) {
            // Workers count from the start time they were given, which is later than the submission.
            event.at_ms += live.start_offset_ms;
            live.note(&event);
            live.ship(&self.config.shipper, &event);
        }
    }
}

pub(super) fn readable<T: serde::de::DeserializeOwned>(message: &Message) -> Option<T> {
    match bus::decode(&message.payload) {
        Ok(value) => Some(value),
        Err(err) => {
            warn!(subject = %message.subject, error = %Chain(&err), "unreadable message");
            None
        }
    }
}
