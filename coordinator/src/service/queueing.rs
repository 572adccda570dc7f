//! The actor's side towards the queue: who is let in, who starts next, and what everybody has used.
//!
//! The queue itself is derived from the live runs each time it is looked at. Only what teams have used is kept
//! beside them, in the control state's key `usage`, now and then: a coordinator that loses the last minute of it
//! orders a queue a little differently and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::Message;
use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::RunId;
use groundswell_common::queue::{PriorityRequest, QueueEntry};
use groundswell_common::run::{RunPhase, RunStatus};
use groundswell_common::subjects;
use tokio::time::Instant;
use tracing::{debug, info};

use super::actor::Actor;
use super::effects::{Done, unix_ms};
use super::keys;
use super::live::Live;
use crate::parts::Outline;
use crate::placement::{Distribution, NoRoom, place};
use crate::queue::admit::{Arrival, admit, log_cap, outputs_cap, replaces};
use crate::queue::{
    ALLOWANCE, Decision, Holding, Owner, Plan, Policy, Usage, View, Waiting, Why, decide,
};
use crate::run::Event;
use crate::tokens::Caller;

/// Where in the control state the usage is kept.
const USAGE: &str = "usage";
/// How often it is.
const USAGE_KEPT: Duration = Duration::from_secs(60);

/// What the actor remembers for the queue.
pub(super) struct Queueing {
    usage: Usage,
    kept_at: Instant,
    keeping: bool,
    /// The queue as it was last decided about, for people.
    entries: Vec<QueueEntry>,
    /// Keys of submits that are under way.
    pub(super) submitting: BTreeSet<String>,
}

impl Queueing {
    pub(super) fn new() -> Self {
        let mut usage = Usage::default();
        // Before this moment nothing was used.
        usage.rest(unix_ms(), Policy::default().half_life);
        Self {
            usage,
            kept_at: Instant::now(),
            keeping: false,
            entries: Vec::new(),
            submitting: BTreeSet::new(),
        }
    }
}

impl Live {
    fn owner(&self, policy: &Policy) -> Owner {
        let asked = self.request.queue.team.as_deref();
        let user = self.request.user.clone();
        Owner { team: policy.team_of(asked, &user), user }
    }

    fn is_waiting(&self) -> bool {
        self.run.phase() <= RunPhase::Queued
    }

    /// How long it holds its room at most.
    fn hold(&self) -> Duration {
        self.outline.limits.run + ALLOWANCE
    }

    fn waiting(&self, policy: &Policy, distribution: Distribution) -> Waiting {
        Waiting {
            run: self.id().clone(),
            owner: self.owner(policy),
            priority: self.request.queue.priority.or(self.outline.priority).unwrap_or_default(),
            since_ms: self.run.submitted_ms(),
            hold: self.hold(),
            gang: self.outline.gang(distribution),
        }
    }

    /// The room it holds; none when it holds none.
    fn holding(&self, policy: &Policy, now_ms: u64) -> Option<Holding> {
        let gang = self.outline.gang(Distribution::default());
        let shares = self.run.accounts().shares().iter();
        let held: Vec<_> = shares
            .filter(|share| !share.cleaned && !share.lost)
            .map(|share| (share.worker.clone(), gang.held(&share.ranges)))
            .collect();
        let left = if self.run.phase() >= RunPhase::Collecting { ALLOWANCE } else { self.hold() };
        let started_ms = self.run.started_ms().filter(|_| self.run.phase() < RunPhase::Collecting);
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        (!held.is_empty()).then(|| Holding {
            run: self.id().clone(),
            owner: self.owner(policy),
            instances: held.iter().map(|(_, held)| held.slots).sum(),
            until_ms: started_ms.unwrap_or(now_ms).saturating_add(left_ms),
            held,
            exclusive: gang.wish.exclusive,
        })
    }
}

impl Actor {
    /// Lets a run in or says why not, and lowers its limits to what its team may have.
    pub(super) fn admit(
        &self,
        request: &SubmitRequest,
        outline: &mut Outline,
    ) -> Result<(), Refusal> {
        let policy = &self.config.policy;
        let user = request.user.as_str();
        let team = policy.team_of(request.queue.team.as_deref(), user);
        let waits = |live: &&Live| {
            let stays = !replaces(request, &live.request);
            live.is_waiting() && stays && live.owner(policy).team == team
        };
        let rooms = self.rooms();
        let arrival = Arrival {
            team: &team,
            user,
            instances: outline.parties().map(|party| party.instances).sum(),
            run_time: outline.limits.run,
            queued: u32::try_from(self.live.values().filter(waits).count()).unwrap_or(u32::MAX),
            slots: rooms.iter().map(|room| u64::from(room.total.slots)).sum(),
        };
        admit(policy, &arrival).map_err(|refused| Refusal {
            kind: refused.kind(),
            message: refused.to_string(),
            help: refused.help(),
        })?;
        self.limit_what_is_kept(request, outline);
        Ok(())
    }

    /// Lowers how much instances may print and leave to what the run's team may have.
    pub(super) fn limit_what_is_kept(&self, request: &SubmitRequest, outline: &mut Outline) {
        let policy = &self.config.policy;
        let team = policy.team_of(request.queue.team.as_deref(), &request.user);
        let quota = &policy.team(&team).quota;
        let instances = outline.parties().map(|party| party.instances).sum();
        let options = &mut outline.options;
        options.log_cap_bytes = log_cap(options.log_cap_bytes, quota.log_bytes, instances);
        let outputs = &mut options.quotas.outputs_bytes;
        *outputs = outputs_cap(*outputs, quota.outputs_bytes, instances);
    }

    /// Ends the waiting runs whose place `run` takes.
    pub(super) fn replace_older(&mut self, run: &RunId) {
        let Some(new) = self.live.get(run) else { return };
        let older: Vec<RunId> = self
            .live
            .values()
            .filter(|live| live.id() != run && live.is_waiting())
            .filter(|live| replaces(&new.request, &live.request))
            .map(|live| live.id().clone())
            .collect();
        for old in older {
            info!(run = %old, by = %run, "waiting run is replaced by a newer one");
            let reason = format!("replaced by {} of the same branch", run.name());
            self.feed(&old, Event::CancelRequested { reason, kill: false });
        }
    }

    /// The team on whose account a live run is.
    pub(super) fn team_of(&self, run: &RunId) -> Option<String> {
        let live = self.live.get(run)?;
        Some(live.owner(&self.config.policy).team)
    }

    fn rooms(&self) -> Vec<crate::placement::Room> {
        self.workers.rooms(self.config.overcommit, Instant::now().into_std())
    }

    /// Starts what can start of the runs that wait, and tells the others why they wait.
    pub(super) fn place_queued(&mut self) {
        self.placed_at = Instant::now();
        let now_ms = unix_ms();
        let (policy, distribution) = (self.config.policy.clone(), self.config.distribution);
        let queued = self.live.values().filter(|live| live.run.is_queued());
        let waiting: Vec<Waiting> =
            queued.map(|live| live.waiting(&policy, distribution)).collect();
        let holding = self.account(&policy, now_ms);
        let plan = decide(&View {
            waiting: &waiting,
            holding: &holding,
            rooms: &self.rooms(),
            usage: &self.queue.usage,
            policy: &policy,
            now_ms,
        });
        self.queue.entries = self.entries(&plan, &waiting, now_ms);
        for (run, decision) in plan.decisions {
            let event = self.placement(&run, decision);
            self.feed(&run, event);
        }
        self.keep_usage();
    }

    /// The runs that hold room; what they have held until now is on their owners' accounts.
    fn account(&mut self, policy: &Policy, now_ms: u64) -> Vec<Holding> {
        let holding = self.live.values().filter_map(|live| live.holding(policy, now_ms));
        let holding: Vec<Holding> = holding.collect();
        let held = holding.iter().map(|holding| (&holding.owner, holding.instances));
        self.queue.usage.advance(now_ms, policy.half_life, held);
        holding
    }

    fn placement(&self, run: &RunId, decision: Decision) -> Event {
        let why = match decision {
            Decision::Start(shares) => return Event::Placed { shares },
            Decision::Wait(why) => why,
        };
        debug!(run = %run, reason = %why, "run waits");
        let temporary = match &why {
            Why::NoRoom(no_room) => no_room.is_temporary() || self.fits_without_cordons(run),
            Why::Instances { .. } | Why::Runs { .. } | Why::Behind { .. } => true,
        };
        let reason = self.reason(&why);
        let (mut places, total) = (self.queue.entries.iter(), self.queue.entries.len());
        let place = places.find(|entry| &entry.run == run).map(|entry| entry.place);
        let reason = match place {
            Some(place) if temporary && total > 1 => {
                format!("number {place} of {total} in the queue: {reason}")
            }
            Some(_) | None => reason,
        };
        Event::NoRoom { reason, temporary }
    }

    fn reason(&self, why: &Why) -> String {
        let note = match why {
            Why::NoRoom(NoRoom::NoRuntime { runtime }) => self.workers.why_not(*runtime),
            Why::NoRoom(_) | Why::Instances { .. } | Why::Runs { .. } | Why::Behind { .. } => None,
        };
        let reason = note.map_or_else(|| why.to_string(), |note| format!("{why}: {note}"));
        match (why, self.workers.cordoned(Instant::now().into_std())) {
            (Why::NoRoom(_), 1) => format!("{reason}; 1 worker is cordoned"),
            (Why::NoRoom(_), cordoned @ 2..) => {
                format!("{reason}; {cordoned} workers are cordoned")
            }
            (_, _) => reason,
        }
    }

    /// Whether a run would find room, some day, on the workers that take nothing new at this moment and the others.
    fn fits_without_cordons(&self, run: &RunId) -> bool {
        let now = Instant::now().into_std();
        let Some(live) = self.live.get(run).filter(|_| self.workers.cordoned(now) > 0) else {
            return false;
        };
        let rooms = self.workers.rooms_with_cordoned(self.config.overcommit, now);
        place(&live.outline.gang(self.config.distribution), &rooms).is_ok()
    }

    /// The runs that go on waiting, for people.
    fn entries(&self, plan: &Plan, waiting: &[Waiting], now_ms: u64) -> Vec<QueueEntry> {
        let mut entries = Vec::new();
        for (run, decision) in &plan.decisions {
            let Decision::Wait(why) = decision else { continue };
            let found = waiting.iter().find(|waiting| &waiting.run == run).zip(self.live.get(run));
            let Some((waiting, live)) = found else { continue };
            entries.push(QueueEntry {
                place: u32::try_from(entries.len() + 1).unwrap_or(u32::MAX),
                run: run.clone(),
                name: run.name(),
                plan: live.outline.plan.clone(),
                case: live.outline.case.clone(),
                team: waiting.owner.team.clone(),
                user: waiting.owner.user.clone(),
                priority: waiting.priority,
                instances: waiting.gang.instances(),
                waited_ms: now_ms.saturating_sub(waiting.since_ms),
                reason: self.reason(why),
            });
        }
        entries
    }

    // Calls.

    pub(super) fn call_queue(&mut self, message: Message) {
        let entries = self.queue.entries.clone();
        self.answer(message, Ok(entries));
    }

    pub(super) fn call_priority(&mut self, message: Message, caller: &Caller) {
        let Some((message, request)) = self.decoded::<PriorityRequest>(message) else { return };
        let PriorityRequest { run, priority } = request;
        let term = self.ledger.term();
        if let Err(refusal) = self.may_act_on(caller, &run) {
            return self.answer::<RunStatus>(message, Err(refusal));
        }
        let Some(live) = self.live.get_mut(&run).filter(|live| live.is_waiting()) else {
            let refusal = Refusal {
                kind: RefusalKind::Invalid,
                message: format!("{} ({run}) does not wait", run.name()),
                help: "`coordinator queue` lists the runs that do".to_owned(),
            };
            return self.answer::<RunStatus>(message, Err(refusal));
        };
        info!(run = %run, %priority, "run has another priority");
        live.request.queue.priority = Some(priority);
        let entry = live.ledger_run(live.run.phase(), term);
        self.ledger.remember(&entry);
        self.place_queued();
        let ledger = self.ledger.clone();
        self.effects.spawn(async move {
            // A successor has to know it too before anybody is told.
            ledger.flush().await;
            Done::Selected(message, Ok(run))
        });
    }

    // What everybody has used.

    /// Reads what an earlier coordinator has kept, and removes what it has kept for too long.
    pub(super) fn load_usage(&mut self) {
        let bus = self.config.bus.clone();
        self.effects.spawn(async move {
            keys::sweep(&bus, unix_ms()).await;
            match read_usage(&bus).await {
                Ok(Some((_, usage))) => Done::UsageRead(usage),
                Ok(None) => Done::Nothing,
                Err(reason) => {
                    debug!(reason, "usage of teams not read");
                    Done::Nothing
                }
            }
        });
    }

    pub(super) fn usage_read(&mut self, mut usage: Usage) {
        usage.rest(unix_ms(), self.config.policy.half_life);
        self.queue.usage = usage;
    }

    fn keep_usage(&mut self) {
        if self.queue.keeping || self.queue.kept_at.elapsed() < USAGE_KEPT {
            return;
        }
        self.store_usage();
    }

    /// Keeps what everybody has used for the next coordinator.
    pub(super) fn store_usage(&mut self) {
        let policy = self.config.policy.clone();
        self.account(&policy, unix_ms());
        self.queue.keeping = true;
        self.queue.kept_at = Instant::now();
        let (bus, usage) = (self.config.bus.clone(), self.queue.usage.clone());
        self.effects.spawn(async move {
            if let Err(reason) = write_usage(&bus, &usage).await {
                debug!(reason, "usage of teams not kept");
            }
            Done::UsageKept
        });
    }

    pub(super) fn usage_kept(&mut self) {
        self.queue.keeping = false;
    }
}

/// What is kept, and the revision of it.
async fn read_usage(bus: &Bus) -> Result<Option<(u64, Usage)>, String> {
    let store = bus.jetstream().get_key_value(subjects::CONTROL_BUCKET).await;
    let store = store.map_err(|err| Chain(&err).to_string())?;
    let entry = store.entry(USAGE).await.map_err(|err| Chain(&err).to_string())?;
    let Some(entry) = entry else { return Ok(None) };
    // What cannot be read, a purged key for example, is nothing.
    let usage = serde_json::from_slice(&entry.value).unwrap_or_default();
    Ok(Some((entry.revision, usage)))
}

async fn write_usage(bus: &Bus, usage: &Usage) -> Result<(), String> {
    let revision = read_usage(bus).await?.map_or(0, |(revision, _)| revision);
    let store = bus.jetstream().get_key_value(subjects::CONTROL_BUCKET).await;
    let store = store.map_err(|err| Chain(&err).to_string())?;
    let value = serde_json::to_vec(usage).expect("usage is plain data that always encodes");
    let written = store.update(USAGE, value.into(), revision).await;
    written.map(drop).map_err(|err| Chain(&err).to_string())
}
