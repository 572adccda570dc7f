//! One share of a run, from its assignment to the last trace of it on this host.
//!
//! [`phase`] decides; this file is the shell around it: one task per share that owns everything known of
//! its instances, and hands work to tasks of its own.
//!
//! ```text
//! in   directive   what the coordinator wants (watch)
//! in   notes       what the share's own tasks tell: prepare, member, links
//! in   sync        what happens in the run's log
//! out  reports     what the coordinator is told
//! out  orders      to each instance's task
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use groundswell_common::ids::{Epoch, InstanceId};
use groundswell_common::messages::{Assignment, ShareEvent};
use groundswell_common::outcome::Outcome;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span, warn};

use crate::events::{EventLog, Whom};
use crate::logs;
use crate::parts::ShareSync;
use crate::runtime::Runtime;
use crate::sync::SyncEvent;

mod adopt;
mod claims;
mod collect;
mod context;
mod datasets;
mod excess;
mod expose;
mod fate;
mod hear;
mod known;
mod links;
pub(crate) mod load;
mod member;
mod nats;
mod outside;
mod phase;
mod prepare;
mod probes;
mod remove;
mod schedule;

use adopt::Adoption;
use context::{Context, Note};
pub(crate) use context::{Directive, Host, key};
use known::Known;
use load::Load;
use member::Order;
use phase::{Command, Event, Machine, Phase};
use prepare::Unprepared;
use probes::Probes;

/// How long the outcome of an instance that has ended may still be on its way. Its sockets were served
/// here, so what it published went into the log before its end was seen; only a slow bus holds it up.
const OUTCOME_SETTLE: Duration = Duration::from_secs(2);
/// How often progress is told at most.
const PROGRESS: Duration = Duration::from_millis(500);
/// How many notes wait for the supervisor.
const NOTES: usize = 4096;

/// Carries a share through its life. Returns when nothing of it is left on this host.
pub(crate) async fn supervise(
    host: Arc<Host>,
    epoch: Epoch,
    assignment: Arc<Assignment>,
    directive: watch::Receiver<Directive>,
) {
    let span = info_span!(
        "assignment",
        run = %assignment.run,
        attempt = %assignment.attempt,
        worker = %host.worker,
        plan = assignment.plan,
        case = assignment.case,
    );
    groundswell_common::telemetry::set_parent(&span, &assignment.trace);
    let (shipper, run) = (host.parts.shipper.clone(), assignment.run.clone());
    let life = async {
        let found = host.parts.runtimes.iter().find(|one| one.kind() == assignment.runtime);
        let Some(runtime) = found.cloned() else {
            return remove::refuse(&host, &assignment, directive, no_runtime(&assignment)).await;
        };
        if crate::reap::was_started(&host.state_dir, &assignment.run, assignment.attempt) {
            return match adopt::find(&host, &assignment) {
                Ok(adoption) => {
                    let adoption = Some(adoption);
                    Supervisor::new(host, epoch, assignment, runtime, directive, adoption)
                        .run()
                        .await;
                }
                Err(why) => remove::orphaned(&host, &assignment, directive, &why).await,
            };
        }
        Supervisor::new(host, epoch, assignment, runtime, directive, None).run().await;
    };
    life.instrument(span).await;
    shipper.close(&run);
}

fn no_runtime(assignment: &Assignment) -> ShareEvent {
    ShareEvent::PrepareFailed {
        reason: format!("runtime `{}` does not work on this worker", assignment.runtime.as_str()),
        fault_of_plan: false,
    }
}

struct Supervisor {
    context: Arc<Context>,
    machine: Machine,
    directive: watch::Receiver<Directive>,
    notes: mpsc::Receiver<Note>,
    sync: Option<Arc<dyn ShareSync>>,
    sync_events: Option<mpsc::Receiver<SyncEvent>>,
    /// What the log had about instances that are still being adopted.
    early: Vec<SyncEvent>,
    known: BTreeMap<InstanceId, Known>,
    left: usize,
    to_let_go: usize,
    /// Instances that are over without an outcome, by when that is their end.
    settling: BTreeSet<(Instant, InstanceId)>,
    /// Instances that ended badly, to be written into the log.
    gone: Vec<(InstanceId, String)>,
    /// Long steps: preparing, collecting, removing.
    steps: JoinSet<Step>,
    /// Short effects nobody waits for.
    effects: JoinSet<()>,
    /// Ends the network's schedule.
    schedule: Option<AbortHandle>,
    preparing: bool,
    removing: bool,
    abort: CancellationToken,
    ready: u32,
    doing: String,
    progress_told: Option<Instant>,
}

/// How a long step ended.
enum Step {
    Prepared(Result<(), Unprepared>),
    Collected(Result<String, String>),
    Removed,
}

enum Input {
    Directive(Directive),
    Note(Note),
    Sync(SyncEvent),
    SyncClosed,
    Step(Step),
    Deadline,
}

impl Supervisor {
    fn new(
        host: Arc<Host>,
        epoch: Epoch,
        assignment: Arc<Assignment>,
        runtime: Arc<dyn Runtime>,
        mut directive: watch::Receiver<Directive>,
        adoption: Option<Adoption>,
    ) -> Self {
        directive.mark_changed();
        let spool = crate::reap::spool(&host.state_dir, &assignment.run, assignment.attempt);
        if let Err(err) = std::fs::create_dir_all(&spool) {
            warn!(error = %err, path = %spool.display(), "spool cannot be created");
        }
        let (live, live_out) = logs::live();
        let (notes_in, notes) = mpsc::channel(NOTES);
        host.tasks.spawn(logs::publish(host.bus.clone(), assignment.run.clone(), live_out));
        let events = EventLog::start(
            host.bus.clone(),
            assignment.run.clone(),
            host.worker.clone(),
            &assignment.start_time,
            &spool.join("events.jsonl"),
            &host.tasks,
        );
        let known: BTreeMap<_, _> =
            assignment.instances().map(|place| (place.id, Known::new(place))).collect();
        let now = Instant::now().into_std();
        let probes = Probes::new(&assignment);
        let sizes: Vec<u32> = assignment.groups.iter().map(|group| group.instances).collect();
        let strikes = assignment.network.strikes(assignment.seed, &sizes);
        let mut this = Self {
            machine: Machine::new(assignment.limits, now),
            left: known.len(),
            to_let_go: known.len(),
            known,
            context: Arc::new(Context {
                host,
                assignment,
                epoch,
                runtime,
                spool,
                events,
                live,
                nats: nats::Nats::default(),
                notes: notes_in,
                members: TaskTracker::new(),
                servers: TaskTracker::new(),
                end: CancellationToken::new(),
                probes,
                load: Load::default(),
                outside: OnceLock::new(),
                datasets: OnceLock::new(),
                strikes,
                adoption,
            }),
            directive,
            notes,
            sync: None,
            sync_events: None,
            early: Vec::new(),
            settling: BTreeSet::new(),
            gone: Vec::new(),
            steps: JoinSet::new(),
            effects: JoinSet::new(),
            schedule: None,
            preparing: true,
            removing: false,
            abort: CancellationToken::new(),
            ready: 0,
            doing: String::new(),
            progress_told: None,
        };
        // Instances that run already are taken over in any case: whoever wants their end has to reach them.
        let adopts = this.context.adoption.is_some();
        let abort = if adopts { CancellationToken::new() } else { this.abort.clone() };
        let context = Arc::clone(&this.context);
        let prepare = async move { Step::Prepared(prepare::prepare(context, abort).await) };
        this.steps.spawn(prepare.in_current_span());
        this
    }

    async fn run(mut self) {
        info!(instances = self.left, "share assigned");
        if let Some(adoption) = &self.context.adoption {
            let text = adoption.text(&self.context.host);
            self.context.events.add("worker_restarted", text.clone(), None);
            self.warning(text);
        }
        while self.machine.phase() != Phase::Gone {
            let input = self.next().await;
            self.take(input);
            self.after_each();
        }
        self.effects.shutdown().await;
        info!("share cleaned");
    }

    async fn next(&mut self) -> Input {
        while self.effects.try_join_next().is_some() {}
        let deadline = self.deadline();
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.directive.changed() => {
                    return Input::Directive(self.directive.borrow_and_update().clone());
                }
                // Before steps: what a step's tasks told comes before its end.
                Some(note) = self.notes.recv() => return Input::Note(note),
                event = heard(&mut self.sync_events), if self.sync_events.is_some() => {
                    return event.map_or(Input::SyncClosed, Input::Sync);
                }
                Some(step) = self.steps.join_next() => match step {
                    Ok(step) => return Input::Step(step),
                    Err(err) => warn!(error = %err, "a step of a share panicked"),
                },
                () = sleep_until(deadline) => return Input::Deadline,
            }
        }
    }

    fn deadline(&self) -> Instant {
        let settle = self.settling.first().map(|(at, _)| *at);
        let machine = self.machine.deadline().map(Instant::from_std);
        let far = Instant::now() + Duration::from_secs(3600);
        let due = [settle, machine].into_iter().flatten().min().unwrap_or(far);
        due.max(Instant::now() + phase::DEADLINE_SLACK)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Directive(directive) if !directive.listed => {
                self.handle(Event::Released);
            }
            Input::Directive(directive) => self.handle(Event::Wanted(directive.want)),
            Input::Note(note) => self.on_note(note),
            Input::Sync(event) => self.on_sync(event),
            Input::SyncClosed => self.sync_events = None,
            Input::Step(Step::Prepared(result)) => self.on_prepared(result),
            Input::Step(Step::Collected(result)) => self.handle(Event::Collected(result)),
            Input::Step(Step::Removed) => self.handle(Event::Removed),
            Input::Deadline => {
                self.settle_late();
                self.handle(Event::DeadlinePassed);
            }
        }
    }

    /// Conditions that any input may have brought about.
    fn after_each(&mut self) {
        if !self.gone.is_empty() && self.notes.is_empty() {
            let gone = std::mem::take(&mut self.gone);
            if let Some(sync) = self.sync.clone() {
                self.effects.spawn(async move { sync.gone(gone).await });
            }
        }
        if self.left == 0 && !self.preparing {
            self.handle(Event::AllEnded);
        }
        if self.machine.phase() == Phase::Done && self.directive.borrow().leaving {
            self.handle(Event::Released);
        }
    }

    fn handle(&mut self, event: Event) {
        let before = self.machine.phase();
        let commands = self.machine.handle(event, Instant::now().into_std());
        let phase = self.machine.phase();
        if before.as_str() != phase.as_str() {
            info!(phase = phase.as_str(), "share changed phase");
            self.context.events.add("phase", format!("share is {}", phase.as_str()), None);
        }
        for command in commands {
            self.act(command);
        }
    }

    fn act(&mut self, command: Command) {
        match command {
            Command::Report(what) => self.context.report(what),
            Command::AbortPrepare => self.abort.cancel(),
            Command::Start => self.start(),
            Command::Stop { outcome, reason, kill } => self.stop(outcome, &reason, kill),
            Command::Kill => self.order_all(Order::Kill),
            Command::GiveUp => self.give_up(),
            Command::Collect => {
                self.schedule.take().inspect(AbortHandle::abort);
                let context = Arc::clone(&self.context);
                let collect = async { Step::Collected(collect::collect(context).await) };
                self.steps.spawn(collect.instrument(info_span!("collect")));
            }
            Command::Remove => {
                self.schedule.take().inspect(AbortHandle::abort);
                self.abort.cancel();
                self.removing = true;
                self.order_all(Order::Remove);
                if !self.preparing {
                    self.remove();
                }
            }
        }
    }

    fn remove(&mut self) {
        let (context, sync) = (Arc::clone(&self.context), self.sync.clone());
        let remove = async move {
            remove::remove(context, sync).await;
            Step::Removed
        };
        self.steps.spawn(remove.in_current_span());
    }

    fn start(&mut self) {
        self.context.events.add("start", "the start record was seen", None);
        Probes::start(&self.context);
        Load::start(&self.context);
        let began = self.started();
        self.order_all(Order::Start(began));
        let narrative = schedule::play_narrative(Arc::clone(&self.context), began);
        let schedule = schedule::play(Arc::clone(&self.context), began);
        let schedule = async {
            tokio::join!(schedule, narrative);
        };
        self.schedule = Some(self.effects.spawn(schedule.in_current_span()));
        self.check_let_go();
    }

    /// When the instances were let go, be it by an earlier life of this worker.
    fn started(&self) -> Instant {
        let (now, Context { adoption, host, assignment, .. }) = (Instant::now(), &*self.context);
        if let Some(since) = adoption.as_ref().and_then(|adoption| adoption.since_start) {
            return now.checked_sub(since).unwrap_or(now);
        }
        crate::reap::note_start(&host.state_dir, &assignment.run, assignment.attempt);
        now
    }

    fn check_let_go(&mut self) {
        if self.to_let_go == 0 {
            self.handle(Event::LetGo);
        }
    }

    fn stop(&mut self, outcome: Outcome, reason: &str, kill: bool) {
        let text = format!("instances are being ended: {reason}");
        self.context.events.add("stop", text, None);
        for known in self.known.values_mut() {
            known.fold.on_stop(outcome, reason);
        }
        self.order_all(if kill { Order::Kill } else { Order::Terminate });
        self.end_unmade();
    }

    /// Instances that were never made are over as soon as nobody makes them.
    fn end_unmade(&mut self) {
        if self.preparing {
            return;
        }
        let unmade: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| known.orders.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in unmade {
            self.on_over(id, None, Vec::new());
        }
    }

    fn give_up(&mut self) {
        let stuck: Vec<_> =
            self.known.iter().filter(|(_, known)| !known.ended).map(|(id, _)| *id).collect();
        self.warning(format!("{} instances could not be killed", stuck.len()));
        for id in stuck {
            self.end(id);
        }
    }

    fn order_all(&mut self, order: Order) {
        for known in self.known.values() {
            known.order(order);
        }
    }

    fn warning(&mut self, text: String) {
        warn!(warning = text, "a run carries a warning");
        self.context.events.add("warning", text.clone(), None);
        self.context.report(ShareEvent::Warning { text });
    }

    fn progress(&mut self, at_once: bool) {
        let due = self.progress_told.is_none_or(|told| told.elapsed() >= PROGRESS);
        if at_once || due {
            self.progress_told = Some(Instant::now());
            let doing = self.doing.clone();
            self.context.report(ShareEvent::Progress { ready: self.ready, doing });
        }
    }

    fn whom(&self, id: InstanceId) -> Option<Whom> {
        let place = self.known.get(&id)?.place;
        Some(Whom { group: self.context.group(place).to_owned(), instance: id })
    }
}

async fn heard(events: &mut Option<mpsc::Receiver<SyncEvent>>) -> Option<SyncEvent> {
    events.as_mut()?.recv().await
}
