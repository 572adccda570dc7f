//! What the coordinator knows of its workers, and which of them count as silent or lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use groundswell_common::api::WorkerStatus;
use groundswell_common::ids::{Epoch, WorkerId};
use groundswell_common::messages::RuntimeKind;
use groundswell_common::messages::{Heartbeat, Registration};
use groundswell_common::timing::Lease;

use crate::placement::Room;

/// One worker.
#[derive(Debug, Clone)]
struct Known {
    registration: Registration,
    epoch: Epoch,
    heard: Instant,
    taken: u64,
    instances: u32,
    draining: bool,
    warned: bool,
    lost: bool,
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

/// All workers.
#[derive(Debug)]
pub struct Workers {
    lease: Lease,
    known: BTreeMap<WorkerId, Known>,
}

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self { lease, known: BTreeMap::new() }
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
    /// is gone.
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
            warned: false,
            lost: false,
        };
        self.known.insert(worker, known);
        replaces
    }

    /// Takes a heartbeat in. Says whether it is from a registered process.
    pub fn heard(&mut self, worker: &WorkerId, heartbeat: &Heartbeat, now: Instant) -> bool {
        let Some(known) = self.live(worker, heartbeat.epoch) else { return false };
        known.heard = now;
        known.warned = false;
        known.instances = heartbeat.instances;
        known.draining = heartbeat.draining;
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

    /// What workers that take new instances have to offer. `used` is the number of slots that live runs hold.
    #[must_use]
    pub fn rooms(&self, used: &BTreeMap<WorkerId, u32>, now: Instant) -> Vec<Room> {
        self.known
            .iter()
            .filter(|(_, known)| {
                let silent = now.saturating_duration_since(known.heard);
                !known.lost && !known.draining && silent < self.lease.warn
            })
            .map(|(worker, known)| Room {
                worker: worker.clone(),
                slots: known.registration.slots,
                free: known
                    .registration
                    .slots
                    .saturating_sub(used.get(worker).copied().unwrap_or(0)),
                runtimes: known.registration.runtimes.clone(),
            })
            .collect()
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
    pub fn statuses(&self, used: &BTreeMap<WorkerId, u32>, now: Instant) -> Vec<WorkerStatus> {
        self.known
            .iter()
            .map(|(worker, known)| {
                let silent = now.saturating_duration_since(known.heard);
                let state = match (known.lost, silent >= self.lease.warn, known.draining) {
                    (true, _, _) => "lost",
                    (false, true, _) => "silent",
                    (false, false, true) => "draining",
                    (false, false, false) => "ready",
                };
                WorkerStatus {
                    worker: worker.clone(),
                    state: state.to_owned(),
                    version: known.registration.version.clone(),
                    slots: known.registration.slots,
                    used: used.get(worker).copied().unwrap_or(0),
                    instances: known.instances,
                    runtimes: known.registration.runtimes.clone(),
                    notes: known.registration.notes.clone(),
                    heard_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect()
    }
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
            labels: BTreeMap::new(),
            overlay: None,
        }
    }

    fn beat(epoch: u64) -> Heartbeat {
        Heartbeat { epoch: Epoch(epoch), desired: 0, instances: 0, draining: false }
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
        assert!(workers.rooms(&BTreeMap::new(), quiet).is_empty());
        let gone = now + Lease::DEFAULT.lost;
        assert!(workers.silent(gone)[0].lost);
        assert!(workers.silent(gone).is_empty());
        assert!(!workers.heard(&worker, &beat(3), gone));
        assert_eq!(workers.report(&worker, Epoch(3), 1, gone), Taking::Fenced);
        assert_eq!(workers.epoch(&worker, 1), None);
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
}
