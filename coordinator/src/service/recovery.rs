//! What becomes of the runs that another coordinator has begun. An accepted run is never forgotten: one of several
//! coordinators goes on with it, one that works alone gives it a verdict.

use std::time::Duration;

use groundswell_common::api::SubmitRequest;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, InstanceId};
use groundswell_common::messages::Registration;
use groundswell_common::objects::ObjectsError;
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::run::{RunPhase, RunRecord, Verdict};
use tokio::time::sleep;
use tracing::{info, warn};

use super::ServiceConfig;
use super::effects::unix_ms;
use crate::events::EventLog;
use crate::ledger::{Ledger, LedgerError, LedgerRun};
use crate::parts::Outline;
use crate::record::{self, Placed};
use crate::run::Left;

const REASON: &str = "the coordinator ended while the run was under way";
/// How long to wait before what does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// A run of another coordinator with everything needed to go on with it.
pub(super) struct LeftBehind {
    pub(super) entry: LedgerRun,
    pub(super) request: SubmitRequest,
    pub(super) outline: Outline,
    pub(super) placed: Option<Placed>,
    pub(super) left: Left,
    pub(super) events: EventLog,
    /// As much of its replay file as is stored.
    pub(super) replay: Option<Vec<u8>>,
    /// The workers that have a share of it, as they had registered.
    pub(super) workers: Vec<(Registration, Epoch)>,
}

/// Everything there is to go on with. Runs whose record has a verdict are only cleaned up; one whose request is
/// gone gets the verdict `infra`.
///
/// Waits for an object store that does not answer: workers would clean up what is not assigned to them any more.
pub(super) async fn left_behind(
    config: &ServiceConfig,
    ledger: &Ledger,
) -> Result<Vec<LeftBehind>, LedgerError> {
    let mut all = Vec::new();
    for entry in ledger.runs().await? {
        let found = loop {
            match find(config, &entry, ledger.term()).await {
                Ok(found) => break found,
                Err(err) => {
                    warn!(run = %entry.run, error = %Chain(&err), "run not read, trying again");
                    sleep(AGAIN).await;
                }
            }
        };
        let Some(mut found) = found else {
            finish(config, ledger, &entry).await;
            continue;
        };
        delete_logs(config, &entry, found.left.phase < RunPhase::Preparing).await;
        for (worker, _) in found.placed.iter().flat_map(|placed| &placed.shares) {
            found.workers.extend(ledger.worker(worker).await?);
        }
        all.push(found);
    }
    // Those that have a data network keep it.
    all.sort_by_key(|found| found.placed.is_none());
    Ok(all)
}

/// Reads what is stored of a run. `None` when there is nothing to go on with.
async fn find(
    config: &ServiceConfig,
    entry: &LedgerRun,
    term: u64,
) -> Result<Option<LeftBehind>, ObjectsError> {
    let (objects, run) = (&config.objects, &entry.run);
    let record = record::load(objects, run).await?;
    if record.as_ref().is_some_and(|record| record.status.phase.is_over()) {
        return Ok(None);
    }
    let Some(request) = record::load_request(objects, run).await? else { return Ok(None) };
    let outline = match config.parts.prepare.outline(&request) {
        Ok(outline) => outline,
        Err(refusal) => {
            warn!(run = %run, refusal = refusal.message, "run cannot be gone on with");
            return Ok(None);
        }
    };
    let placed = if entry.phase >= RunPhase::Preparing {
        record::load_placed(objects, run).await?
    } else {
        None
    };
    let events = objects.get(&record::events_key(run)).await?.unwrap_or_default();
    let replay = objects.get(&record::replay_key(run)).await?.map(|file| file.to_vec());
    let left = Left {
        phase: entry.phase,
        shares: placed.as_ref().map(|placed| placed.shares.clone()).unwrap_or_default(),
        cause: entry.cause.clone(),
        spent: entry.spent,
        submitted_ms: entry.submitted_ms,
        started_ms: entry.started_ms,
        warnings: record.map(|record| record.status.warnings).unwrap_or_default(),
        // A run has fewer revisions in one term.
        revision: term << 32,
    };
    Ok(Some(LeftBehind {
        entry: entry.clone(),
        request,
        outline,
        placed,
        left,
        events: EventLog::continued(events.to_vec()),
        replay,
        workers: Vec::new(),
    }))
}

/// Gives every run in the control state that is not over the verdict `infra`, and forgets it. Its workers clean
/// up when they register with this coordinator and find nothing assigned.
pub(super) async fn end_leftovers(
    config: &ServiceConfig,
    ledger: &Ledger,
) -> Result<(), LedgerError> {
    for left in ledger.runs().await? {
        info!(run = %left.run, phase = %left.phase, "run of an earlier coordinator ends");
        finish(config, ledger, &left).await;
    }
    Ok(())
}

/// Removes the sync log, sees to it that there is a verdict, and forgets the run.
async fn finish(config: &ServiceConfig, ledger: &Ledger, left: &LedgerRun) {
    delete_logs(config, left, true).await;
    if end(config, left).await {
        ledger.forget(&left.run);
    }
}

/// Removes the sync logs of attempts that are over, and that of the current one unless it is still needed.
async fn delete_logs(config: &ServiceConfig, left: &LedgerRun, current: bool) {
    let last = if current { left.attempt.0 } else { left.attempt.0.saturating_sub(1) };
    for attempt in (1..=last).map(Attempt) {
        if let Err(err) = config.parts.sync_logs.delete(&left.run, attempt).await {
            warn!(run = %left.run, %attempt, error = %Chain(&err), "sync log not removed");
        }
    }
}

/// Whether the run has a verdict in its record; without one it stays in the control state for the next start.
async fn end(config: &ServiceConfig, left: &LedgerRun) -> bool {
    let found = match record::load(&config.objects, &left.run).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            warn!(run = %left.run, "run has no record");
            return true;
        }
        Err(err) => {
            warn!(run = %left.run, error = %Chain(&err), "record not read");
            return false;
        }
    };
    if found.status.phase.is_over() {
        return true;
    }
    match record::store(&config.objects, &ended(found)).await {
        Ok(()) => true,
        Err(err) => {
            warn!(run = %left.run, error = %Chain(&err), "record not stored");
            false
        }
    }
}

fn ended(mut record: RunRecord) -> RunRecord {
    let total: u32 = record.status.groups.iter().map(|(_, counts)| counts.want).sum();
    let end = InstanceEnd {
        outcome: Outcome::Aborted,
        reason: REASON.to_owned(),
        exit: None,
        last_lines: Vec::new(),
    };
    record.ends = (0..total).map(|number| (InstanceId(number), end.clone())).collect();
    let status = &mut record.status;
    for (_, counts) in &mut status.groups {
        *counts = groundswell_common::run::GroupCounts {
            want: counts.want,
            ready: counts.want,
            aborted: counts.want,
            ..Default::default()
        };
    }
    status.phase = RunPhase::Finished;
    status.revision += 1;
    status.finished_ms = Some(unix_ms());
    status.verdict = Some(Verdict::Infra);
    REASON.clone_into(&mut status.reason);
    status.doing.clear();
    record
}
