//! Tells the coordinator what happened: in order, at least once, in batches.
//!
//! Shares push without ever waiting; one task sends one report at a time and repeats it, same number, same
//! items, until it is acknowledged. A new epoch numbers what is left from 1 again.
//!
//! A new leader knows nothing of what its predecessor was told. Everything with consequence is kept, for each
//! share until some time after it is gone from here, and told again when the term has risen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use groundswell_common::bus::{Bus, encode};
use groundswell_common::ids::{Attempt, Epoch, RunId, WorkerId};
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

/// How many shares that are gone are remembered.
const GONE: usize = 100;
/// How many warnings of a share are remembered.
const WARNINGS: usize = 100;

type Key = (RunId, Attempt);

/// What waits to be told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports {
    queue: Arc<Mutex<Queue>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<ReportItem>,
    /// Everything with consequence that was ever pushed about a share, in order.
    said: BTreeMap<Key, Vec<ShareEvent>>,
    /// Shares that are gone, in the order in which they went.
    gone: VecDeque<Key>,
}

impl Queue {
    fn remember(&mut self, item: &ReportItem) {
        let key = (item.run.clone(), item.attempt);
        let said = self.said.entry(key.clone()).or_default();
        match &item.what {
            ShareEvent::Progress { .. } | ShareEvent::Said { .. } | ShareEvent::Retold => return,
            ShareEvent::Warning { .. } => {
                let warnings = said.iter().filter(|one| matches!(one, ShareEvent::Warning { .. }));
                if warnings.count() >= WARNINGS {
                    return;
                }
            }
            // The last one counts.
            ShareEvent::Address { instance, .. } => said.retain(
                |one| !matches!(one, ShareEvent::Address { instance: of, .. } if of == instance),
            ),
            ShareEvent::Cleaned => self.gone.push_back(key),
            ShareEvent::Prepared
            | ShareEvent::PrepareFailed { .. }
            | ShareEvent::Started
            | ShareEvent::Ended { .. }
            | ShareEvent::Broken { .. }
            | ShareEvent::Exposed { .. }
            | ShareEvent::Network { .. }
            | ShareEvent::Kpis { .. }
            | ShareEvent::Collected { .. }
            | ShareEvent::CollectFailed { .. } => {}
        }
        said.push(item.what.clone());
        while self.gone.len() > GONE {
            let Some(oldest) = self.gone.pop_front() else { break };
            self.said.remove(&oldest);
        }
    }
}

impl Reports {
    /// Adds one thing. Progress and warnings are dropped when too much is waiting already; everything else
    /// is bounded by the number of instances.
    pub(crate) fn push(&self, item: ReportItem) {
        let mut queue = self.lock();
        let optional =
            matches!(item.what, ShareEvent::Progress { .. } | ShareEvent::Warning { .. });
        if optional && queue.pending.len() >= ROOM {
            return;
        }
        queue.remember(&item);
        queue.pending.push_back(item);
        drop(queue);
        self.changed.notify_one();
    }

    /// Puts everything that was ever said in the place of what waits. Progress is lost; there will be more.
    fn retell(&self) {
        let mut queue = self.lock();
        let Queue { pending, said, .. } = &mut *queue;
        pending.clear();
        for ((run, attempt), said) in said {
            let all = said.iter().cloned().chain([ShareEvent::Retold]);
            pending.extend(all.map(|what| ReportItem {
                run: run.clone(),
                attempt: *attempt,
                what,
            }));
        }
    }

    /// Whether the share was here and is gone: it must not begin again.
    pub(crate) fn is_gone(&self, run: &RunId, attempt: Attempt) -> bool {
        self.lock().gone.contains(&(run.clone(), attempt))
    }

    /// Whether everything was told.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().pending.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first items that fit into one report.
    fn batch(&self) -> Vec<ReportItem> {
        let mut bytes = 0;
        self.lock()
            .pending
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
        let pending = &mut self.lock().pending;
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
    let mut term = None;
    loop {
        let registered =
            async { session.wait_for(Option::is_some).await.ok().and_then(|now| *now) };
        let Some(Some(current)) = end.run_until_cancelled(registered).await else { return };
        if term.is_some_and(|term| current.term > term) {
            debug!(term = current.term, "telling everything again to a new leader");
            reports.retell();
        }
        term = Some(current.term);
        if reports.is_empty() {
            tokio::select! {
                () = end.cancelled() => return,
                () = reports.changed.notified() => {}
                Ok(()) = session.changed() => {}
            }
            continue;
        }
        let items = reports.batch();
        let count = items.len();
        let report = Report { epoch: current.epoch, no: numbering.next(current.epoch), items };
        let sent = send_until_taken(&bus, &worker, &report, current.term, &mut session);
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
            Some(Sent::Changed) => {}
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
    /// The epoch or the term is another one now.
    Changed,
}

async fn send_until_taken(
    bus: &Bus,
    worker: &WorkerId,
    report: &Report,
    term: u64,
    session: &mut watch::Receiver<Option<Session>>,
) -> Sent {
    let mut pause = REQUEST_TIMEOUT / 30;
    loop {
        match bus.request::<ReportReply>(subjects::report(worker), report).await {
            Ok(reply) if reply.term < term => debug!(term = reply.term, "taken by a former leader"),
            Ok(reply) if reply.fenced => return Sent::Fenced,
            Ok(reply) if reply.taken >= report.no => return Sent::Taken,
            Ok(reply) => debug!(taken = reply.taken, no = report.no, "report not taken yet"),
            Err(err) => debug!(error = %err, no = report.no, "report not answered"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(REQUEST_TIMEOUT);
        let changed = |now: Session| now.epoch != report.epoch || now.term != term;
        if session.borrow_and_update().is_some_and(changed) {
            return Sent::Changed;
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
                one.run = reports.lock().pending[0].run.clone();
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
        assert_eq!(reports.lock().pending.len(), ROOM + 1);
    }

    #[test]
    fn a_new_leader_is_told_what_has_consequence_once_and_in_order() {
        let reports = Reports::default();
        let key = item(ShareEvent::Retold);
        let at = |last| ShareEvent::Address {
            instance: groundswell_common::ids::InstanceId(3),
            address: std::net::Ipv4Addr::new(16, 0, 1, last),
        };
        for what in [
            ShareEvent::Progress { ready: 1, doing: String::new() },
            ShareEvent::Prepared,
            at(1),
            ShareEvent::Started,
            at(2),
        ] {
            reports.push(ReportItem { what, ..key.clone() });
        }
        reports.taken(5);
        assert!(reports.is_empty());
        reports.push(ReportItem { what: ShareEvent::Cleaned, ..key.clone() });
        reports.retell();
        let told: Vec<ShareEvent> = reports.batch().into_iter().map(|item| item.what).collect();
        let expected = [
            ShareEvent::Prepared,
            ShareEvent::Started,
            at(2),
            ShareEvent::Cleaned,
            ShareEvent::Retold,
        ];
        assert_eq!(told, expected);
        assert!(reports.is_gone(&key.run, key.attempt));
    }

    #[test]
    fn shares_that_are_gone_are_forgotten_after_a_while() {
        let reports = Reports::default();
        for number in 0..=u32::try_from(GONE).expect("small") {
            let run = RunId::new(number);
            reports.push(ReportItem { run, ..item(ShareEvent::Cleaned) });
        }
        assert_eq!(reports.lock().said.len(), GONE);
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
