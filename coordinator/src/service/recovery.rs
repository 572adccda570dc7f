//! Ends what an earlier coordinator left behind. An accepted run is never forgotten: it gets a verdict.

use groundswell_common::chain::Chain;
use groundswell_common::ids::InstanceId;
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::run::{RunPhase, RunRecord, Verdict};
use tracing::{info, warn};

use super::ServiceConfig;
use super::effects::unix_ms;
use crate::ledger::{Ledger, LedgerError, LedgerRun};
use crate::record;

const REASON: &str = "the coordinator ended while the run was under way";

/// Gives every run in the control state that is not over the verdict `infra`, removes its sync log, forgets it.
/// Its workers clean up when they register with this coordinator and find nothing assigned.
pub(super) async fn end_leftovers(
    config: &ServiceConfig,
    ledger: &Ledger,
) -> Result<(), LedgerError> {
    for left in ledger.runs().await? {
        info!(run = %left.run, phase = %left.phase, "run of an earlier coordinator ends");
        if let Err(err) = config.parts.sync_logs.delete(&left.run, left.attempt).await {
            warn!(run = %left.run, error = %Chain(&err), "sync log not removed");
        }
        if end(config, &left).await {
            ledger.forget(&left.run);
        }
    }
    Ok(())
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
