//! Removes what a share has left on this host, and deals with shares that never lived here.

use std::sync::Arc;
use std::time::Duration;

use groundswell_common::messages::{Assignment, ReportItem, ShareEvent};
use groundswell_common::outcome::{InstanceEnd, Outcome};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::{Context, Directive, Host};
use crate::parts::ShareSync;

/// How long removing all instances of a share may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes everything of a share. Goes on after a failure; the sweep at the next start finds what is left.
pub(crate) async fn remove(context: Arc<Context>, sync: Option<Arc<dyn ShareSync>>) {
    let assignment = &context.assignment;
    context.members.close();
    if timeout(PATIENCE, context.members.wait()).await.is_err() {
        warn!(left = context.members.len(), "instances are not removed yet");
    }
    context.end.cancel();
    if let Some(sync) = sync {
        sync.close().await;
    }
    context.nats.close().await;
    context.network().close(&assignment.run).await;
    let spool = context.spool.clone();
    let state_dir = context.host.state_dir.clone();
    let (run, attempt) = super::key(assignment);
    let removed = tokio::task::spawn_blocking(move || {
        crate::reap::unmark(&state_dir, &run, attempt);
        let removed = crate::trees::remove(&spool);
        // The run's own directory goes with it, unless another attempt has something there.
        let _others = spool.parent().map(std::fs::remove_dir);
        removed
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => warn!(error = %err, "spool not removed"),
        Err(err) => warn!(error = %err, "spool not removed"),
    }
}

/// Tells that a share cannot be carried out at all, and waits for its end.
pub(crate) async fn refuse(
    host: &Host,
    assignment: &Assignment,
    mut directive: watch::Receiver<Directive>,
    why: ShareEvent,
) {
    report(host, assignment, why);
    let _ = directive.wait_for(|directive| !directive.listed || directive.leaving).await;
    crate::reap::unmark(&host.state_dir, &assignment.run, assignment.attempt);
    report(host, assignment, ShareEvent::Cleaned);
}

/// A share whose instances were let go by an earlier life of this worker and cannot be gone on with. An instance
/// of an attempt starts at most once, so they are lost.
pub(crate) async fn orphaned(
    host: &Host,
    assignment: &Assignment,
    directive: watch::Receiver<Directive>,
    why: &str,
) {
    super::adopt::give_up(host, assignment).await;
    let reason = format!("its worker was restarted while it ran: {why}");
    let lost = |reason: String| InstanceEnd {
        outcome: Outcome::Lost,
        reason,
        exit: None,
        last_lines: Vec::new(),
    };
    for place in assignment.instances() {
        let instances = vec![(place.id, lost(reason.clone()))];
        report(host, assignment, ShareEvent::Ended { instances });
    }
    let reason = format!("worker {} was restarted during the run: {why}", host.worker);
    let failed = ShareEvent::CollectFailed { reason: reason.clone() };
    let broken = ShareEvent::Broken { reason, fault_of_plan: false };
    report(host, assignment, broken.clone());
    // Nobody need wait for its outputs. The first cause is told again, and changes nothing.
    report(host, assignment, failed);
    refuse(host, assignment, directive, broken).await;
}

fn report(host: &Host, assignment: &Assignment, what: ShareEvent) {
    let (run, attempt) = super::key(assignment);
    host.reports.push(ReportItem { run, attempt, what });
}
