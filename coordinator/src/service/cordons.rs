//! The actor's side towards people who take workers out of service.
//!
//! A cordon is kept in the control state before it is answered, so the next leader and the worker's next process
//! keep it. What a worker runs when it is cordoned goes on there.

use std::collections::BTreeSet;

use async_nats::Message;
use groundswell_common::api::{
    Answer, Cordon, CordonRequest, CordonWish, Refusal, RefusalKind, WorkerStatus,
};
use groundswell_common::diagnostic::suggest;
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::messages::ShareEvent;
use groundswell_common::run::RunPhase;
use tokio::time::Instant;
use tracing::{info, warn};

use super::actor::Actor;
use super::effects::{Done, unavailable, unix_ms};
use crate::ledger::{Ledger, LedgerError};
use crate::run::Event;

/// So many workers are listed in a refusal.
const NAMED: usize = 20;

/// What somebody asked for, and whether it is kept.
pub(super) struct Cordoned {
    message: Message,
    changes: Vec<(WorkerId, Option<Cordon>)>,
    kept: Result<(), LedgerError>,
}

impl Actor {
    /// Takes in what the control state has.
    pub(super) fn keep_cordons(&mut self, cordons: Vec<(WorkerId, Cordon)>) {
        for (worker, cordon) in cordons {
            info!(worker = %worker, by = cordon.by, reason = cordon.reason, "worker is cordoned");
            self.workers.set_cordon(&worker, Some(cordon), Instant::now().into_std());
        }
    }

    pub(super) fn call_cordon(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<CordonRequest>(message) else { return };
        let names = self.workers.names();
        if let Some(unknown) = request.workers.iter().find(|worker| !names.contains(worker)) {
            let refusal = no_such_worker(unknown, &names);
            return self.answer::<Vec<WorkerStatus>>(message, Err(refusal));
        }
        let changes: Vec<_> = request
            .workers
            .iter()
            .map(|worker| (worker.clone(), wished(&request, self.workers.cordon(worker))))
            .collect();
        let ledger = self.ledger.clone();
        self.effects.spawn(async move {
            let kept = keep(&ledger, &changes).await;
            Done::Cordoned(Box::new(Cordoned { message, changes, kept }))
        });
    }

    /// Goes on with what is kept.
    pub(super) fn cordoned(&mut self, cordoned: Cordoned) {
        let Cordoned { message, changes, kept } = cordoned;
        if let Err(err) = kept {
            let refusal = unavailable("the control state does not take the cordon", &err);
            return self.answer::<Vec<WorkerStatus>>(message, Err(refusal));
        }
        let now = Instant::now().into_std();
        for (worker, cordon) in &changes {
            let (by, is) = (cordon.as_ref().map(|cordon| &cordon.by), cordon.is_some());
            info!(worker = %worker, cordoned = is, by, "people changed what a worker takes");
            self.workers.set_cordon(worker, cordon.clone(), now);
        }
        let mut statuses = self.workers.statuses(&self.loads(), now);
        statuses.retain(|status| changes.iter().any(|(worker, _)| worker == &status.worker));
        let answer: Answer<Vec<WorkerStatus>> = Ok(statuses);
        self.answer(message, answer);
        self.place_queued();
    }

    /// Ends what is left on workers whose time to be emptied is over.
    pub(super) fn end_overdue(&mut self, now: std::time::Instant) {
        for worker in self.workers.overdue(now) {
            // What collects its outputs has ended, and is gone soon.
            let ends = |run: &RunId| {
                self.live.get(run).is_some_and(|live| live.run.phase() < RunPhase::Collecting)
            };
            let mut runs = self.loads().remove(&worker).unwrap_or_default().runs;
            runs.retain(ends);
            warn!(worker = %worker, runs = runs.len(), "time to drain a worker is over");
            for run in runs {
                let reason = "its worker was drained, and the time for that was over".to_owned();
                let what = ShareEvent::Broken { reason, fault_of_plan: false };
                self.feed(&run, Event::Told { worker: worker.clone(), what });
            }
        }
    }
}

/// What a worker's cordon is to be.
fn wished(request: &CordonRequest, before: Option<&Cordon>) -> Option<Cordon> {
    let drain = match request.wish {
        CordonWish::Uncordon => return None,
        CordonWish::Cordon => None,
        CordonWish::Drain(drain) => Some(drain),
    };
    let reason = match (request.reason.as_str(), before) {
        ("", Some(before)) => before.reason.clone(),
        (reason, _) => reason.to_owned(),
    };
    Some(Cordon { by: request.by.clone(), reason, since_ms: unix_ms(), drain })
}

async fn keep(ledger: &Ledger, changes: &[(WorkerId, Option<Cordon>)]) -> Result<(), LedgerError> {
    for (worker, cordon) in changes {
        ledger.put_cordon(worker, cordon.as_ref()).await?;
    }
    // A successor finds them only if this was the leader after they were written.
    ledger.confirm().await
}

fn no_such_worker(unknown: &WorkerId, names: &BTreeSet<&WorkerId>) -> Refusal {
    let help = match names.len() {
        0 => "no worker has registered".to_owned(),
        1..=NAMED => suggest(unknown.as_str(), names.iter().map(|name| name.as_str())),
        _ => "`coordinator workers` lists those there are".to_owned(),
    };
    let message = format!("there is no worker `{unknown}`");
    Refusal { kind: RefusalKind::NotFound, message, help }
}
