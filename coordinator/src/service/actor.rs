//! The one task that owns all state of the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use groundswell_common::api::{Refusal, RefusalKind};
use groundswell_common::bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, RunId, WorkerId};
use groundswell_common::messages::ImageRef;
use groundswell_common::network::OverlaySecret;
use groundswell_common::run::{RunEvent, RunPhase, RunStatus};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use super::effects::{self, Accepted, Done, unix_ms};
use super::live::Live;
use super::teller::Teller;
use super::{DRAIN, Incoming, ServiceConfig};
use crate::assignments::Assignments;
use crate::events::EventLog;
use crate::ledger::Ledger;
use crate::parts::PrepareError;
use crate::placement::{NoRoom, Party, place};
use crate::run::{About, Command, Event, Now, Rules, Run};
use crate::subnets::Subnets;
use crate::workers::Workers;

/// The least time between two statuses of a run.
const STATUS_GAP: Duration = Duration::from_millis(50);
/// How often queued runs hear about their place.
const QUEUE_WORD: Duration = Duration::from_secs(1);
/// Runs that are over and kept in memory.
const PAST: usize = 500;

/// All state.
pub(super) struct Actor {
    pub(super) config: ServiceConfig,
    pub(super) ledger: Ledger,
    pub(super) assignments: Assignments,
    teller: Teller,
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
    placed_at: Instant,
    ticked_at: Instant,
}

impl Actor {
    pub(super) fn new(
        config: ServiceConfig,
        ledger: Ledger,
        assignments: Assignments,
        teller: Teller,
    ) -> Self {
        let (progress, lines) = mpsc::channel(1024);
        Self {
            workers: Workers::new(config.lease),
            subnets: Subnets::new(config.data_range),
            config,
            ledger,
            assignments,
            teller,
            live: BTreeMap::new(),
            past: BTreeMap::new(),
            sequences: BTreeMap::new(),
            assigning: BTreeSet::new(),
            unassigned: BTreeSet::new(),
            progress,
            progress_lines: Some(lines),
            effects: JoinSet::new(),
            ending: CancellationToken::new(),
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
        info!(left = self.effects.len(), runs = self.live.len(), "coordinator ends");
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
            Done::Nothing | Done::Submitted(None) => {}
            Done::Submitted(Some(accepted)) => self.accepted(*accepted),
            Done::Built(run, built) => self.built(&run, built),
            Done::LogCreated(run, Ok(())) => self.feed(&run, Event::LogReady),
            Done::LogCreated(run, Err(reason)) => self.feed(&run, Event::LogFailed { reason }),
            Done::StartAppended(run, Ok(())) => self.feed(&run, Event::StartAppended),
            Done::StartAppended(run, Err(reason)) => self.feed(&run, Event::StartFailed { reason }),
            Done::Stored(run) => self.stored(&run),
            Done::Concluded(run, Ok(())) => self.feed(&run, Event::Recorded),
            Done::Concluded(run, Err(reason)) => self.feed(&run, Event::RecordFailed { reason }),
            Done::Assigned(worker, sequence) => self.assigned(worker, sequence),
            Done::Registered(registered) => {
                let (message, registration, epoch) = *registered;
                self.registered(message, registration, epoch);
            }
            Done::Selected(message, selected) => self.selected(message, selected),
        }
    }

    // Runs.

    fn accepted(&mut self, accepted: Accepted) {
        let Accepted { message, request, outline, run, submitted_ms } = accepted;
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
        let about = About {
            run: run.clone(),
            attempt: Attempt::FIRST,
            plan: outline.plan.clone(),
            case: outline.case.clone(),
            user: request.user.clone(),
            groups: outline.groups.iter().map(|g| (g.id.clone(), g.instances)).collect(),
            rules: Rules {
                limits: outline.limits,
                no_room_patience: self.config.no_room_patience,
                fail_fast: self.config.fail_fast,
            },
        };
        let now = Now { at: Instant::now().into_std(), unix_ms: submitted_ms };
        let (machine, commands) = Run::new(about, outline.warnings.clone(), now);
        let status = machine.status();
        let live = Live {
            run: machine,
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
            untold: true,
            told_at: None,
            storing: false,
            store_again: false,
            concluding: false,
        };
        info!(run = %run, "run accepted");
        self.live.insert(run.clone(), live);
        self.carry_out(&run, commands);
        self.answer(message, Ok(status));
    }

    fn built(&mut self, run: &RunId, built: Result<Vec<ImageRef>, PrepareError>) {
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
                let workers = live.run.workers();
                let create = effects::create_log(logs, run.clone(), attempt, workers);
                self.effects.spawn(create.instrument(span));
            }
            Command::Assign => self.unassigned.extend(live.run.workers()),
            Command::AppendStart => {
                let entry = live.ledger_run(RunPhase::Starting, term);
                let start = effects::start(logs, self.ledger.clone(), entry);
                self.effects.spawn(start.instrument(span));
            }
            Command::Remember => {
                let entry = live.ledger_run(live.run.phase(), term);
                self.ledger.remember(&entry);
            }
            Command::WriteRecord => self.store(run),
            Command::Conclude => self.conclude(run),
            Command::DeleteLog => {
                let delete = effects::delete_log(logs, run.clone(), attempt);
                self.effects.spawn(delete.instrument(span));
            }
            Command::Forget => self.forget(run),
            Command::Note { kind, text, worker } => {
                let event = live.event(kind, text, worker, unix_ms());
                live.events.push(&event);
                self.teller.event(run, &event);
            }
        }
    }

    fn versions(&self, live: &Live) -> BTreeMap<String, String> {
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
        let store = effects::store(self.config.objects.clone(), record);
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
        let Some(live) = self.live.get(run) else { return };
        let record = live.record(live.run.concluded(unix_ms()), self.versions(live));
        let Some(live) = self.live.get_mut(run) else { return };
        live.concluding = true;
        if live.storing {
            return;
        }
        let events = live.events.to_bytes();
        let conclude = effects::conclude(self.config.objects.clone(), record, events);
        self.effects.spawn(conclude.instrument(live.span.clone()));
    }

    fn forget(&mut self, run: &RunId) {
        let Some(live) = self.live.remove(run) else { return };
        let status = live.run.status();
        self.teller.status(&status);
        self.ledger.forget(run);
        self.past.insert(run.clone(), status);
        while self.past.len() > PAST {
            self.past.pop_first();
        }
    }

    /// Finds places for queued runs, strictly in the order of their ids, which is that of submission.
    pub(super) fn place_queued(&mut self) {
        self.placed_at = Instant::now();
        let queued: Vec<RunId> = self
            .live
            .values()
            .filter(|live| live.run.phase() == RunPhase::Queued)
            .map(|live| live.id().clone())
            .collect();
        let mut ahead = 0;
        for run in queued {
            let event = self.placement(&run, ahead);
            ahead += u32::from(matches!(event, Event::NoRoom { .. }));
            self.feed(&run, event);
        }
    }

    fn placement(&self, run: &RunId, ahead: u32) -> Event {
        if ahead > 0 {
            let reason = format!("waiting behind {ahead} other runs");
            return Event::NoRoom { reason, temporary: true };
        }
        let Some(live) = self.live.get(run) else {
            return Event::NoRoom { reason: String::new(), temporary: true };
        };
        let groups: Vec<Party> = live.outline.parties().collect();
        let rooms = self.workers.rooms(&self.used(), Instant::now().into_std());
        match place(&groups, live.outline.runtime, &rooms, self.config.distribution) {
            Ok(shares) => Event::Placed { shares },
            Err(no_room) => {
                debug!(run = %run, reason = %no_room, "no room");
                let temporary = NoRoom::is_temporary(&no_room);
                let mut reason = no_room.to_string();
                if let NoRoom::NoRuntime { runtime } = no_room
                    && let Some(note) = self.workers.why_not(runtime)
                {
                    reason = format!("{reason}: {note}");
                }
                Event::NoRoom { reason, temporary }
            }
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
        }
        self.tell_all(now);
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
            live.events.push(&event);
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
