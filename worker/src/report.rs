//! Tells the coordinator what happened: in order, at least once, in batches.
//!
//! Shares push without ever waiting; one task sends one report at a time and repeats it, same number, same
//! items, until it is acknowledged. A new epoch numbers what is left from 1 again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use groundswell_common::bus::{Bus, encode};
use groundswell_common::ids::{Epoch, WorkerId};
use groundswell_common::messages::{Report, ReportItem, ReportReply, ShareEvent};
use groundswell_common::subjects;
use groundswell_common::timing::REQUEST_TIMEOUT;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::heartbeat::Session;

/// The largest report in bytes.
const BATCH_BYTES: usize = 256 << 10;
/// How many items may wait before those without consequence are dropped.
const ROOM: usize = 10_000;

/// What waits to be told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports {
    pending: Arc<Mutex<VecDeque<ReportItem>>>,
    changed: Arc<Notify>,
}

impl Reports {
    /// Adds one thing. Progress and warnings are dropped when too much is waiting already; everything else
    /// is bounded by the number of instances.
    pub(crate) fn push(&self, item: ReportItem) {
        let mut pending = self.lock();
        let optional =
            matches!(item.what, ShareEvent::Progress { .. } | ShareEvent::Warning { .. });
        if optional && pending.len() >= ROOM {
            return;
        }
        pending.push_back(item);
        drop(pending);
        self.changed.notify_one();
    }

    /// Whether everything was told.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<ReportItem>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first items that fit into one report.
    fn batch(&self) -> Vec<ReportItem> {
        let mut bytes = 0;
        self.lock()
            .iter()
            .take_while(|item| {
                let first = bytes == 0;
                bytes += encode(item).len();
                first || bytes <= BATCH_BYTES
            })
            .cloned()
            .collect()
    }

    fn taken(&self, count: usize) {
        let mut pending = self.lock();
        let count = count.min(pending.len());
        pending.drain(..count);
    }
}

/// Sends what waits until `end`. `again` is told when the coordinator calls the epoch an old one.
pub(crate) async fn run(
    bus: Bus,
    worker: WorkerId,
    reports: Reports,
    mut session: watch::Receiver<Option<Session>>,
    again: Arc<Notify>,
    end: CancellationToken,
) {
    let mut numbering = Numbering::default();
    loop {
        let waits = async {
            while reports.is_empty() {
                reports.changed.notified().await;
            }
            session.wait_for(Option::is_some).await.ok().and_then(|session| *session)
        };
        let Some(Some(current)) = end.run_until_cancelled(waits).await else { return };
        let items = reports.batch();
        let count = items.len();
        let report = Report { epoch: current.epoch, no: numbering.next(current.epoch), items };
        let sent = send_until_taken(&bus, &worker, &report, &mut session);
        match end.run_until_cancelled(sent).await {
            None => return,
            Some(Sent::Taken) => {
                reports.taken(count);
                numbering.taken();
            }
            Some(Sent::Fenced) => {
                warn!(epoch = %current.epoch, "this worker was counted lost, registering again");
                again.notify_one();
                // Whatever it says: the coordinator may stand by the epoch.
                if !matches!(end.run_until_cancelled(session.changed()).await, Some(Ok(()))) {
                    return;
                }
            }
            Some(Sent::NewEpoch) => {}
        }
    }
}

/// Numbers reports from 1 within each epoch.
#[derive(Debug, Default)]
struct Numbering {
    epoch: Option<Epoch>,
    taken: u64,
}

impl Numbering {
    fn next(&mut self, epoch: Epoch) -> u64 {
        if self.epoch != Some(epoch) {
            *self = Self { epoch: Some(epoch), taken: 0 };
        }
        self.taken + 1
    }

    fn taken(&mut self) {
        self.taken += 1;
    }
}

enum Sent {
    Taken,
    Fenced,
    NewEpoch,
}

async fn send_until_taken(
    bus: &Bus,
    worker: &WorkerId,
    report: &Report,
    session: &mut watch::Receiver<Option<Session>>,
) -> Sent {
    let mut pause = REQUEST_TIMEOUT / 30;
    loop {
        match bus.request::<ReportReply>(subjects::report(worker), report).await {
            Ok(reply) if reply.fenced => return Sent::Fenced,
            Ok(reply) if reply.taken >= report.no => return Sent::Taken,
            Ok(reply) => debug!(taken = reply.taken, no = report.no, "report not taken yet"),
            Err(err) => debug!(error = %err, no = report.no, "report not answered"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(REQUEST_TIMEOUT);
        let epoch = session.borrow_and_update().map(|now| now.epoch);
        if epoch.is_some_and(|epoch| epoch != report.epoch) {
            return Sent::NewEpoch;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundswell_common::ids::{Attempt, RunId};

    fn item(what: ShareEvent) -> ReportItem {
        ReportItem { run: RunId::new(1), attempt: Attempt::FIRST, what }
    }

    #[test]
    fn a_batch_takes_what_fits_in_order_and_at_least_one() {
        let reports = Reports::default();
        for _ in 0..3 {
            reports.push(item(ShareEvent::Warning { text: "x".repeat(BATCH_BYTES / 2) }));
        }
        assert_eq!(reports.batch().len(), 1);
        reports.taken(1);
        reports.push(item(ShareEvent::Prepared));
        let huge = Reports::default();
        huge.push(item(ShareEvent::Warning { text: "x".repeat(BATCH_BYTES * 2) }));
        assert_eq!(huge.batch().len(), 1);
        reports.taken(2);
        assert_eq!(
            reports.batch(),
            [item(ShareEvent::Prepared)].map(|mut one| {
                one.run = reports.lock()[0].run.clone();
                one
            })
        );
    }

    #[test]
    fn under_pressure_only_what_has_no_consequence_is_dropped() {
        let reports = Reports::default();
        for _ in 0..ROOM {
            reports.push(item(ShareEvent::Started));
        }
        reports.push(item(ShareEvent::Progress { ready: 1, doing: "x".into() }));
        reports.push(item(ShareEvent::Cleaned));
        assert_eq!(reports.lock().len(), ROOM + 1);
    }

    #[test]
    fn numbers_start_again_with_each_epoch() {
        let mut numbering = Numbering::default();
        assert_eq!(numbering.next(Epoch(4)), 1);
        numbering.taken();
        assert_eq!(numbering.next(Epoch(4)), 2);
        assert_eq!(numbering.next(Epoch(9)), 1);
    }
}
