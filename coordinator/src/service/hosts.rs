//! The actor's side towards workers: registrations, heartbeats, reports, and what each should be doing.

use std::collections::BTreeMap;

use async_nats::Message;
use groundswell_common::bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, RunId, WorkerId};
use groundswell_common::messages::{
    Desired, Heartbeat, HeartbeatReply, Registered, Registration, Report, ReportReply, ShareEvent,
};
use tokio::time::Instant;
use tracing::{Instrument as _, info, info_span, warn};

use super::actor::{Actor, readable};
use super::effects::{self, Done};
use super::live::Live;
use crate::ledger::LedgerError;
use crate::run::Event;
use crate::workers::{Load, Taking};

/// How many workers are told at the same time what they should be doing. What each of them is told names every
/// worker of its runs, so that a thousand at once would hold up the heartbeats and fill the memory.
const TOLD_AT_ONCE: usize = 32;

impl Actor {
    pub(super) fn register(&mut self, message: Message) {
        let Some(registration) = readable::<Registration>(&message) else { return };
        let worker = &registration.worker;
        if let Some(epoch) = self.workers.epoch(worker, registration.boot) {
            return self.registered(message, registration, Ok(epoch));
        }
        let fresh = self.workers.is_lost(worker);
        let ledger = self.ledger.clone();
        self.effects.spawn(async move {
            let epoch = ledger.register(registration.clone(), fresh).await;
            Done::Registered(Box::new((message, registration, epoch)))
        });
    }

    pub(super) fn registered(
        &mut self,
        message: Message,
        registration: Registration,
        epoch: Result<Epoch, LedgerError>,
    ) {
        let worker = registration.worker.clone();
        let epoch = match epoch {
            Ok(epoch) => epoch,
            // Without an answer the worker registers again.
            Err(err) => {
                return warn!(worker = %worker, error = %Chain(&err), "worker not registered");
            }
        };
        info!(worker = %worker, epoch = epoch.0, slots = registration.slots, "worker registered");
        let kept = registration.kept.clone();
        if self.workers.register(registration, epoch, Instant::now().into_std()) {
            self.lose_but(&kept, &worker, &format!("worker {worker} was restarted"));
        }
        self.unassigned.insert(worker);
        self.publish_assignments();
        let answer = Registered { epoch, term: self.ledger.term(), lease: self.config.lease };
        self.reply(message, answer);
        self.place_queued();
    }

    pub(super) fn heartbeat(&mut self, message: Message) {
        let Some(heartbeat) = readable::<Heartbeat>(&message) else { return };
        let Ok(worker) = bus::last_token(&message.subject).parse::<WorkerId>() else { return };
        let known = self.workers.heard(&worker, &heartbeat, Instant::now().into_std());
        let desired = self.sequences.get(&worker).copied().unwrap_or(0);
        if known {
            self.miss_shares(&worker, &heartbeat, desired);
        }
        let reply = HeartbeatReply { term: self.ledger.term(), desired, register: !known };
        self.reply(message, reply);
    }

    /// A share that was taken away before its worker had heard of it is as good as cleaned up. Nobody tells that:
    /// only the last assignment is kept.
    fn miss_shares(&mut self, worker: &WorkerId, heartbeat: &Heartbeat, desired: u64) {
        let Some(shares) = &heartbeat.shares else { return };
        let pending = self.assigning.contains(worker) || self.unassigned.contains(worker);
        if pending || heartbeat.desired != desired {
            return;
        }
        let misses = |live: &&Live| {
            let about = live.run.about();
            let key = (about.run.clone(), about.attempt);
            let left = live.run.accounts().shares().iter();
            let mut left = left.filter(|share| !share.cleaned && !share.lost);
            live.run.is_let_go()
                && left.any(|share| &share.worker == worker)
                && !shares.contains(&key)
        };
        let missing: Vec<RunId> =
            self.live.values().filter(misses).map(|live| live.id().clone()).collect();
        for run in missing {
            let event = Event::Told { worker: worker.clone(), what: ShareEvent::Cleaned };
            self.feed(&run, event);
        }
    }

    pub(super) fn report(&mut self, message: Message) {
        let Some(report) = readable::<Report>(&message) else { return };
        let Ok(worker) = bus::last_token(&message.subject).parse::<WorkerId>() else { return };
        let now = Instant::now().into_std();
        let taking = self.workers.report(&worker, report.epoch, report.no, now);
        let fenced = taking == Taking::Fenced;
        let reply = ReportReply { taken: report.no, fenced, term: self.ledger.term() };
        if taking == Taking::New {
            for item in report.items {
                let current = self
                    .live
                    .get(&item.run)
                    .is_some_and(|live| live.run.about().attempt == item.attempt);
                if !current {
                    continue;
                }
                if let ShareEvent::Address { instance, address } = item.what {
                    self.granted(&item.run, instance, address);
                }
                if item.what == ShareEvent::Prepared {
                    self.tell_moved(&item.run, &worker);
                }
                let event = Event::Told { worker: worker.clone(), what: item.what };
                self.feed(&item.run, event);
            }
        }
        self.reply(message, reply);
    }

    pub(super) fn lose(&mut self, worker: &WorkerId, reason: &str) {
        self.lose_but(&[], worker, reason);
    }

    /// What a worker ran is gone, but for these attempts.
    fn lose_but(&mut self, kept: &[(RunId, Attempt)], worker: &WorkerId, reason: &str) {
        for run in self.runs_of(worker) {
            let attempt = self.live.get(&run).map(|live| live.run.about().attempt);
            if kept.iter().any(|(of, which)| *of == run && Some(*which) == attempt) {
                continue;
            }
            let event = Event::WorkerLost { worker: worker.clone(), reason: reason.to_owned() };
            self.feed(&run, event);
        }
    }

    pub(super) fn runs_of(&self, worker: &WorkerId) -> Vec<RunId> {
        self.live
            .values()
            .filter(|live| live.run.accounts().shares().iter().any(|s| &s.worker == worker))
            .map(|live| live.id().clone())
            .collect()
    }

    /// What live runs hold of each worker.
    pub(super) fn loads(&self) -> BTreeMap<WorkerId, Load> {
        let mut loads: BTreeMap<WorkerId, Load> = BTreeMap::new();
        for live in self.live.values() {
            for (worker, slots) in live.slots() {
                let load = loads.entry(worker.clone()).or_default();
                load.used += slots;
                load.runs.push(live.id().clone());
            }
        }
        loads
    }

    /// Tells as many workers as may be told at this moment; each that has been told makes room for the next.
    pub(super) fn publish_assignments(&mut self) {
        let room = TOLD_AT_ONCE.saturating_sub(self.assigning.len());
        let idle = self.unassigned.difference(&self.assigning);
        let next: Vec<WorkerId> = idle.take(room).cloned().collect();
        for worker in next {
            self.unassigned.remove(&worker);
            self.assigning.insert(worker.clone());
            let shares = self.live.values().filter_map(|live| live.desired(&worker, &self.workers));
            let shares = shares.collect::<Vec<_>>();
            let span = info_span!("assign", worker = %worker, runs = shares.len());
            let desired = Desired { term: self.ledger.term(), shares };
            let (assignments, ledger) = (self.assignments.clone(), self.ledger.clone());
            let assign = effects::assign(assignments, ledger, worker, desired, self.ending.clone());
            self.effects.spawn(assign.instrument(span));
        }
    }

    pub(super) fn assigned(&mut self, worker: WorkerId, sequence: Option<u64>) {
        self.assigning.remove(&worker);
        if let Some(sequence) = sequence {
            self.sequences.insert(worker, sequence);
        }
        if !self.ending.is_cancelled() {
            self.publish_assignments();
        }
    }
}
