//! The actor's side towards workers: registrations, heartbeats, reports, and what each should be doing.

use std::collections::BTreeMap;

use async_nats::Message;
use groundswell_common::bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Epoch, RunId, WorkerId};
use groundswell_common::messages::{
    Desired, Heartbeat, HeartbeatReply, Registered, Registration, Report, ReportReply,
};
use tokio::time::Instant;
use tracing::{Instrument as _, info, info_span, warn};

use super::actor::{Actor, readable};
use super::effects::{self, Done};
use super::live::Live;
use crate::ledger::LedgerError;
use crate::run::Event;
use crate::workers::Taking;

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
        if self.workers.register(registration, epoch, Instant::now().into_std()) {
            self.lose(&worker, &format!("worker {worker} was restarted"));
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
        let reply = HeartbeatReply { term: self.ledger.term(), desired, register: !known };
        self.reply(message, reply);
    }

    pub(super) fn report(&mut self, message: Message) {
        let Some(report) = readable::<Report>(&message) else { return };
        let Ok(worker) = bus::last_token(&message.subject).parse::<WorkerId>() else { return };
        let now = Instant::now().into_std();
        let taking = self.workers.report(&worker, report.epoch, report.no, now);
        let reply = ReportReply { taken: report.no, fenced: taking == Taking::Fenced };
        if taking == Taking::New {
            for item in report.items {
                let current = self
                    .live
                    .get(&item.run)
                    .is_some_and(|live| live.run.about().attempt == item.attempt);
                if current {
                    let event = Event::Told { worker: worker.clone(), what: item.what };
                    self.feed(&item.run, event);
                }
            }
        }
        self.reply(message, reply);
    }

    pub(super) fn lose(&mut self, worker: &WorkerId, reason: &str) {
        for run in self.runs_of(worker) {
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

    /// Slots that live runs hold on each worker.
    pub(super) fn used(&self) -> BTreeMap<WorkerId, u32> {
        let mut used = BTreeMap::new();
        for (worker, slots) in self.live.values().flat_map(Live::slots) {
            *used.entry(worker.clone()).or_insert(0) += slots;
        }
        used
    }

    pub(super) fn publish_assignments(&mut self) {
        for worker in std::mem::take(&mut self.unassigned) {
            if !self.assigning.insert(worker.clone()) {
                self.unassigned.insert(worker);
                continue;
            }
            let shares = self.live.values().filter_map(|live| live.desired(&worker, &self.workers));
            let shares = shares.collect::<Vec<_>>();
            let span = info_span!("assign", worker = %worker, runs = shares.len());
            let desired = Desired { term: self.ledger.term(), shares };
            let (assignments, ending) = (self.assignments.clone(), self.ending.clone());
            self.effects
                .spawn(effects::assign(assignments, worker, desired, ending).instrument(span));
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
