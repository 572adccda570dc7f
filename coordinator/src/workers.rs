//! What the coordinator knows of its workers, and which of them count as silent or lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use groundswell_common::api::{Cordon, WorkerStatus};
use groundswell_common::ids::{Epoch, RunId, WorkerId};
use groundswell_common::messages::RuntimeKind;
use groundswell_common::messages::{Heartbeat, Registration};
use groundswell_common::timing::Lease;

use crate::placement::{Capacity, Room};

/// One worker.
#[derive(Debug, Clone)]
struct Known {
    registration: Registration,
    epoch: Epoch,
    heard: Instant,
    taken: u64,
    instances: u32,
    draining: bool,
    /// Why it wants nothing new itself.
    cordon: Option<String>,
    warned: bool,
    lost: bool,
    /// This coordinator knows it from another one only.
    unheard: bool,
}

/// A worker that has not been heard for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// The worker.
    pub worker: WorkerId,
    /// For how long.
    pub silent: Duration,
    /// Whether what it runs counts as lost.
    pub lost: bool,
}

/// What to make of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// It is new: take it in.
    New,
    /// It was taken in before.
    Repeated,
    /// Its sender is not, or no longer, who it was.
    Fenced,
}

/// How many times what a worker has may be given out. Limits of instances still hold; only not all of them can use
/// all of what they may at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// Cpu.
    pub cpu: u32,
    /// Memory.
    pub memory: u32,
}

impl Overcommit {
    /// Everything once.
    pub const NONE: Self = Self { cpu: 1, memory: 1 };
    /// On one machine a limit is a limit and nothing is set aside for it, as in Testground's local runners.
    pub const LOCAL: Self = Self { cpu: 1000, memory: 1000 };

    fn of(self, has: &Registration) -> Capacity {
        let cpu_milli = u64::from(has.cpu_cores) * 1000;
        Capacity {
            slots: has.slots,
            cpu_milli: cpu_milli.saturating_mul(self.cpu.into()),
            memory_bytes: has.memory_bytes.saturating_mul(self.memory.into()),
        }
    }
}

/// All workers.
#[derive(Debug)]
pub struct Workers {
    lease: Lease,
    known: BTreeMap<WorkerId, Known>,
    /// Those that people want to take nothing new, also when they are not there.
    cordons: BTreeMap<WorkerId, Cordon>,
    /// When the time of those that are emptied is over.
    deadlines: BTreeMap<WorkerId, Instant>,
}

/// What runs on a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Slots in use.
    pub used: u32,
    /// The runs that use them.
    pub runs: Vec<RunId>,
}

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self { lease, known: BTreeMap::new(), cordons: BTreeMap::new(), deadlines: BTreeMap::new() }
    }

    /// The epoch of this very process, if it is registered and not lost.
    #[must_use]
    pub fn epoch(&self, worker: &WorkerId, boot: u64) -> Option<Epoch> {
        let known = self.known.get(worker)?;
        (known.registration.boot == boot && !known.lost).then_some(known.epoch)
    }

    /// Whether the worker's process was declared lost: it needs a new epoch then.
    #[must_use]
    pub fn is_lost(&self, worker: &WorkerId) -> bool {
        self.known.get(worker).is_some_and(|known| known.lost)
    }

    /// Takes a registration in. Says whether it replaces another, living process of that name: what that one ran
    /// is gone, but for what the new one says it has kept.
    pub fn register(&mut self, registration: Registration, epoch: Epoch, now: Instant) -> bool {
        let before = self.known.get(&registration.worker);
        let replaces =
            before.is_some_and(|known| !known.lost && known.registration.boot != registration.boot);
        let taken = before.filter(|known| known.epoch == epoch).map_or(0, |known| known.taken);
        let worker = registration.worker.clone();
        let known = Known {
            registration,
            epoch,
            heard: now,
            taken,
            instances: 0,
            draining: false,
            cordon: None,
            warned: false,
            lost: false,
            unheard: false,
        };
        self.known.insert(worker, known);
        replaces
    }

    /// Takes in a worker that another coordinator had registered. It has the whole lease to be heard, and gets
    /// nothing new before.
    pub fn expect(&mut self, registration: Registration, epoch: Epoch, now: Instant) {
        let worker = registration.worker.clone();
        self.register(registration, epoch, now);
        if let Some(known) = self.known.get_mut(&worker) {
            known.unheard = true;
        }
    }

    /// Whether a worker is known.
    #[must_use]
    pub fn knows(&self, worker: &WorkerId) -> bool {
        self.known.contains_key(worker)
    }

    /// Takes a heartbeat in. Says whether it is from a registered process.
    pub fn heard(&mut self, worker: &WorkerId, heartbeat: &Heartbeat, now: Instant) -> bool {
        let Some(known) = self.live(worker, heartbeat.epoch) else { return false };
        known.heard = now;
        known.warned = false;
        known.unheard = false;
        known.instances = heartbeat.instances;
        known.draining = heartbeat.draining;
        known.cordon.clone_from(&heartbeat.cordon);
        true
    }

    /// Decides about a report by its epoch and number.
    pub fn report(&mut self, worker: &WorkerId, epoch: Epoch, no: u64, now: Instant) -> Taking {
        let Some(known) = self.live(worker, epoch) else { return Taking::Fenced };
        known.heard = now;
        if no <= known.taken {
            return Taking::Repeated;
        }
        known.taken = no;
        Taking::New
    }

    fn live(&mut self, worker: &WorkerId, epoch: Epoch) -> Option<&mut Known> {
        self.known.get_mut(worker).filter(|known| known.epoch == epoch && !known.lost)
    }

    /// Counts every worker that is not lost as heard at `now`: the coordinator itself was away and could not hear.
    pub fn excuse(&mut self, now: Instant) {
        for known in self.known.values_mut().filter(|known| !known.lost) {
            known.heard = now;
        }
    }

    /// Workers that have become silent or lost since the last call.
    pub fn silent(&mut self, now: Instant) -> Vec<Silence> {
        let mut silences = Vec::new();
        for (worker, known) in &mut self.known {
            let silent = now.saturating_duration_since(known.heard);
            let lost = silent >= self.lease.lost;
            if known.lost || silent < self.lease.warn || (known.warned && !lost) {
                continue;
            }
            known.warned = true;
            known.lost = lost;
            silences.push(Silence { worker: worker.clone(), silent, lost });
        }
        silences
    }

    /// What workers that take new instances have, as if nothing ran there.
    #[must_use]
    pub fn rooms(&self, overcommit: Overcommit, now: Instant) -> Vec<Room> {
        let rooms = self.present(now).filter(|(worker, known)| !self.is_cordoned(worker, known));
        rooms.map(|(worker, known)| room(worker, known, overcommit)).collect()
    }

    /// What all workers that are there have, also those that take nothing new at this moment.
    #[must_use]
    pub fn rooms_with_cordoned(&self, overcommit: Overcommit, now: Instant) -> Vec<Room> {
        self.present(now).map(|(worker, known)| room(worker, known, overcommit)).collect()
    }

    /// How many workers that are there take nothing new.
    #[must_use]
    pub fn cordoned(&self, now: Instant) -> usize {
        self.present(now).filter(|(worker, known)| self.is_cordoned(worker, known)).count()
    }

    fn present(&self, now: Instant) -> impl Iterator<Item = (&WorkerId, &Known)> {
        self.known.iter().filter(move |(_, known)| {
            let silent = now.saturating_duration_since(known.heard);
            !known.lost && !known.draining && !known.unheard && silent < self.lease.warn
        })
    }

    fn is_cordoned(&self, worker: &WorkerId, known: &Known) -> bool {
        known.cordon.is_some() || self.cordons.contains_key(worker)
    }

    /// Why people want a worker to take nothing new.
    #[must_use]
    pub fn cordon(&self, worker: &WorkerId) -> Option<&Cordon> {
        self.cordons.get(worker)
    }

    /// Takes in that a worker takes nothing new, or takes runs again.
    pub fn set_cordon(&mut self, worker: &WorkerId, cordon: Option<Cordon>, now: Instant) {
        self.deadlines.remove(worker);
        let Some(cordon) = cordon else {
            self.cordons.remove(worker);
            return;
        };
        if let Some(deadline) = cordon.drain.and_then(|drain| drain.deadline) {
            self.deadlines.insert(worker.clone(), now + deadline);
        }
        self.cordons.insert(worker.clone(), cordon);
    }

    /// Workers whose time to be emptied is over, each once.
    pub fn overdue(&mut self, now: Instant) -> Vec<WorkerId> {
        let due = self.deadlines.iter().filter(|(_, deadline)| **deadline <= now);
        let due: Vec<WorkerId> = due.map(|(worker, _)| worker.clone()).collect();
        for worker in &due {
            self.deadlines.remove(worker);
        }
        due
    }

    /// The workers somebody may name: those that have registered, and those that are cordoned.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&WorkerId> {
        self.known.keys().chain(self.cordons.keys()).collect()
    }

    /// Where a worker's switch takes packets of other workers.
    #[must_use]
    pub fn overlay(&self, worker: &WorkerId) -> Option<SocketAddr> {
        self.known.get(worker)?.registration.overlay
    }

    /// The version of each worker that is there.
    pub fn versions(&self) -> impl Iterator<Item = (&WorkerId, &str)> {
        self.known.iter().map(|(worker, known)| (worker, known.registration.version.as_str()))
    }

    /// Why a runtime does not work, by the first worker that says so.
    #[must_use]
    pub fn why_not(&self, runtime: RuntimeKind) -> Option<String> {
        let named = format!("`{}`", runtime.as_str());
        self.known.iter().find_map(|(worker, known)| {
            let note = known.registration.notes.iter().find(|note| note.contains(&named))?;
            Some(format!("worker {worker} says: {note}"))
        })
    }

    /// All workers, for people.
    #[must_use]
    pub fn statuses(&self, loads: &BTreeMap<WorkerId, Load>, now: Instant) -> Vec<WorkerStatus> {
        let status = |(worker, known)| {
            let load = loads.get(worker).cloned().unwrap_or_default();
            self.status(worker, known, load, now)
        };
        self.known.iter().map(status).collect()
    }

    fn status(&self, worker: &WorkerId, known: &Known, load: Load, now: Instant) -> WorkerStatus {
        let silent = now.saturating_duration_since(known.heard);
        let has = &known.registration;
        let own = known.cordon.iter().map(|reason| Cordon {
            by: String::new(),
            reason: reason.clone(),
            since_ms: 0,
            drain: None,
        });
        WorkerStatus {
            worker: worker.clone(),
            state: self.state(worker, known, load.used, silent).to_owned(),
            version: has.version.clone(),
            slots: has.slots,
            used: load.used,
            instances: known.instances,
            runtimes: has.runtimes.clone(),
            notes: has.notes.clone(),
            labels: has.labels.clone(),
            heard_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            cordons: self.cordons.get(worker).cloned().into_iter().chain(own).collect(),
            runs: load.runs,
            card: has.card.clone(),
        }
    }

    fn state(&self, worker: &WorkerId, known: &Known, used: u32, silent: Duration) -> &'static str {
        if known.lost {
            return "lost";
        }
        if known.unheard || silent >= self.lease.warn {
            return "silent";
        }
        let drained = self.cordons.get(worker).is_some_and(|cordon| cordon.drain.is_some());
        match (known.draining, drained, self.is_cordoned(worker, known)) {
            (false, true, _) if used == 0 => "drained",
            (true, _, _) | (_, true, _) => "draining",
            (false, false, true) => "cordoned",
            (false, false, false) => "ready",
        }
    }
}

fn room(worker: &WorkerId, known: &Known, overcommit: Overcommit) -> Room {
    let has = &known.registration;
    let room = Room::empty(worker.clone(), overcommit.of(has), has.runtimes.clone());
    let slots_per_run = has.slots_per_run.unwrap_or(has.slots);
    Room { slots_per_run, labels: has.labels.clone(), ..room }
}

#[cfg(test)]
mod tests {
    use groundswell_common::messages::RuntimeKind;

    use super::*;

    fn registration(boot: u64) -> Registration {
        Registration {
            worker: WorkerId::from_lossy("w"),
            boot,
            version: "1".to_owned(),
            slots: 4,
            cpu_cores: 1,
            memory_bytes: 0,
            runtimes: vec![RuntimeKind::Netns],
            notes: vec![],
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            slots_per_run: Some(3),
            overlay: None,
            card: None,
            kept: Vec::new(),
        }
    }

    fn beat(epoch: u64) -> Heartbeat {
        Heartbeat {
            epoch: Epoch(epoch),
            desired: 0,
            instances: 0,
            draining: false,
            cordon: None,
            shares: None,
        }
    }

    #[test]
    fn a_silent_worker_is_told_of_once_then_lost_once_then_fenced() {
        let now = tokio::time::Instant::now().into_std();
        let worker = WorkerId::from_lossy("w");
        let mut workers = Workers::new(Lease::DEFAULT);
        assert!(!workers.register(registration(1), Epoch(3), now));
        assert!(workers.heard(&worker, &beat(3), now));

        let quiet = now + Lease::DEFAULT.warn;
        assert_eq!(workers.silent(quiet).len(), 1);
        assert!(workers.silent(quiet).is_empty());
        assert!(workers.rooms(Overcommit::NONE, quiet).is_empty());
        let gone = now + Lease::DEFAULT.lost;
        assert!(workers.silent(gone)[0].lost);
        assert!(workers.silent(gone).is_empty());
        assert!(!workers.heard(&worker, &beat(3), gone));
        assert_eq!(workers.report(&worker, Epoch(3), 1, gone), Taking::Fenced);
        assert_eq!(workers.epoch(&worker, 1), None);
    }

    #[test]
    fn a_room_has_what_the_worker_registered_as_often_as_it_may_be_given_out() {
        let now = tokio::time::Instant::now().into_std();
        let mut workers = Workers::new(Lease::DEFAULT);
        workers.register(Registration { memory_bytes: 7, ..registration(1) }, Epoch(3), now);
        let rooms = workers.rooms(Overcommit { cpu: 4, memory: 2 }, now);
        let total = Capacity { slots: 4, cpu_milli: 4_000, memory_bytes: 14 };
        assert_eq!((rooms[0].total, rooms[0].free), (total, total));
        assert_eq!((rooms[0].slots_per_run, rooms[0].labels["zone"].as_str()), (3, "a"));
    }

    #[test]
    fn a_coordinator_that_was_away_gives_its_workers_the_whole_lease_again() {
        let now = tokio::time::Instant::now().into_std();
        let mut workers = Workers::new(Lease::DEFAULT);
        workers.register(registration(1), Epoch(3), now);
        let back = now + 2 * Lease::DEFAULT.lost;
        workers.excuse(back);
        assert!(workers.silent(back + Lease::DEFAULT.heartbeat).is_empty());
        assert!(workers.silent(back + Lease::DEFAULT.lost)[0].lost);
    }

    #[test]
    fn a_repeated_report_is_taken_in_once_and_a_restart_fences_the_old_process() {
        let now = tokio::time::Instant::now().into_std();
        let worker = WorkerId::from_lossy("w");
        let mut workers = Workers::new(Lease::DEFAULT);
        workers.register(registration(1), Epoch(3), now);
        assert_eq!(workers.report(&worker, Epoch(3), 1, now), Taking::New);
        assert_eq!(workers.report(&worker, Epoch(3), 1, now), Taking::Repeated);
        assert!(!workers.register(registration(1), Epoch(3), now));
        assert_eq!(workers.report(&worker, Epoch(3), 1, now), Taking::Repeated);
        assert!(workers.register(registration(2), Epoch(9), now));
        assert_eq!(workers.report(&worker, Epoch(3), 2, now), Taking::Fenced);
    }

    #[test]
    fn a_cordoned_worker_takes_nothing_new_and_one_that_is_drained_has_its_time() {
        let now = tokio::time::Instant::now().into_std();
        let worker = WorkerId::from_lossy("w");
        let mut workers = Workers::new(Lease::DEFAULT);
        workers.register(registration(1), Epoch(3), now);
        let state = |workers: &Workers, used| {
            let load = Load { used, runs: Vec::new() };
            let loads = BTreeMap::from([(WorkerId::from_lossy("w"), load)]);
            workers.statuses(&loads, now).remove(0).state
        };
        let full = Heartbeat { cordon: Some("disk".to_owned()), ..beat(3) };
        workers.heard(&worker, &full, now);
        assert_eq!((state(&workers, 0).as_str(), workers.cordoned(now)), ("cordoned", 1));
        workers.heard(&worker, &beat(3), now);
        assert_eq!(state(&workers, 0), "ready");

        let deadline = Some(Duration::from_secs(60));
        let cordon = Cordon {
            by: "ana".to_owned(),
            reason: String::new(),
            since_ms: 1,
            drain: Some(groundswell_common::api::Drain { deadline }),
        };
        workers.set_cordon(&worker, Some(cordon), now);
        assert!(workers.rooms(Overcommit::NONE, now).is_empty());
        assert_eq!(workers.rooms_with_cordoned(Overcommit::NONE, now).len(), 1);
        assert_eq!(
            (state(&workers, 2).as_str(), state(&workers, 0).as_str()),
            ("draining", "drained")
        );
        // Its process may be another one: the cordon is the worker's.
        workers.register(registration(2), Epoch(4), now);
        assert_eq!(workers.cordoned(now), 1);
        let over = now + Duration::from_secs(60);
        assert!(workers.overdue(now).is_empty());
        assert_eq!(workers.overdue(over), std::slice::from_ref(&worker));
        assert!(workers.overdue(over).is_empty());
        workers.set_cordon(&worker, None, over);
        assert_eq!((workers.rooms(Overcommit::NONE, now).len(), workers.cordoned(now)), (1, 0));
    }
}
