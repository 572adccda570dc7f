//! What the actor has done elsewhere: each function is one task, and its [`Done`] comes back to the actor.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, RunId, WorkerId};
use groundswell_common::messages::{Desired, ImageRef, Registration};
use groundswell_common::objects::Objects;
use groundswell_common::run::{RunPhase, RunRecord};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::assignments::Assignments;
use crate::ledger::{Ledger, LedgerError, LedgerRun};
use crate::parts::{Outline, Parts, Prepare, PrepareError, SyncLogs};
use crate::record;

/// How often an effect is tried before its failure is told.
const TRIES: u32 = 5;
/// How long to wait before the second try; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The result of an effect.
pub(super) enum Done {
    /// A run is accepted, or refused with the answer sent.
    Submitted(Option<Box<Accepted>>),
    Built(RunId, Result<Vec<ImageRef>, PrepareError>),
    LogCreated(RunId, Result<(), String>),
    StartAppended(RunId, Result<(), String>),
    /// A record of a run that goes on is stored, or not.
    Stored(RunId),
    Concluded(RunId, Result<(), String>),
    Assigned(WorkerId, Option<u64>),
    Registered(Box<(Message, Registration, Result<Epoch, LedgerError>)>),
    /// Someone asked for one run, and this is which.
    Selected(Message, Result<RunId, Refusal>),
    /// There is nothing to say.
    Nothing,
}

/// A run that is in the control state.
pub(super) struct Accepted {
    pub(super) message: Message,
    pub(super) request: SubmitRequest,
    pub(super) outline: Outline,
    pub(super) run: RunId,
    pub(super) submitted_ms: u64,
}

/// The time people read.
pub(super) fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Checks a request and makes it a run that is not forgotten any more.
pub(super) async fn accept(
    parts: Parts,
    ledger: Ledger,
    objects: Objects,
    request: SubmitRequest,
    message: Message,
) -> Result<Accepted, (Message, Refusal)> {
    let (outline, request) = match outline(&parts, request).await {
        Ok(outlined) => outlined,
        Err(refusal) => return Err((message, refusal)),
    };
    let submitted_ms = unix_ms();
    let run = RunId::new(u32::try_from(submitted_ms / 1000).unwrap_or(u32::MAX));
    let composition = request.composition.clone();
    if let Err(err) = objects.put(&record::composition_key(&run), composition).await {
        return Err((message, unavailable("the object store does not take the run", &err)));
    }
    let entry = LedgerRun {
        run: run.clone(),
        attempt: Attempt::FIRST,
        phase: RunPhase::Submitted,
        term: ledger.term(),
        submitted_ms,
    };
    if let Err(err) = ledger.put_run(&entry).await {
        return Err((message, unavailable("the control state does not take the run", &err)));
    }
    Ok(Accepted { message, request, outline, run, submitted_ms })
}

async fn outline(
    parts: &Parts,
    request: SubmitRequest,
) -> Result<(Outline, SubmitRequest), Refusal> {
    let prepare = Arc::clone(&parts.prepare);
    let outlined = tokio::task::spawn_blocking(move || (prepare.outline(&request), request)).await;
    let (outline, request) = outlined.map_err(|err| unavailable("the check failed", &err))?;
    let outline = outline?;
    if outline.groups.iter().all(|group| group.instances == 0) {
        return Err(Refusal {
            kind: RefusalKind::Invalid,
            message: "the run has no instances".to_owned(),
            help: String::new(),
        });
    }
    Ok((outline, request))
}

pub(super) fn unavailable(what: &str, err: &dyn std::error::Error) -> Refusal {
    Refusal {
        kind: RefusalKind::Unavailable,
        message: format!("{what}: {}", Chain(err)),
        help: String::new(),
    }
}

/// Builds all images; progress goes to `progress` as it comes.
pub(super) async fn build(
    prepare: Arc<dyn Prepare>,
    request: SubmitRequest,
    run: RunId,
    progress: mpsc::Sender<(RunId, String)>,
    cancel: CancellationToken,
) -> Done {
    let (sender, mut lines) = mpsc::channel(64);
    let forward = async {
        while let Some(line) = lines.recv().await {
            // The latest line is what counts; one that finds no room is left out.
            if progress.try_send((run.clone(), line)).is_err() {
                debug!(run = %run, "build progress left out");
            }
        }
    };
    let images = async {
        tokio::select! {
            images = prepare.images(&request, &run, sender, cancel.clone()) => images,
            () = cancel.cancelled() => {
                Err(PrepareError::Host { reason: "the build was canceled".to_owned() })
            }
        }
    };
    let (images, ()) = tokio::join!(images, forward);
    Done::Built(run, images)
}

/// Makes the sync log.
pub(super) async fn create_log(
    logs: Arc<dyn SyncLogs>,
    run: RunId,
    attempt: Attempt,
    workers: Vec<WorkerId>,
) -> Done {
    let created = persist(|| logs.create(&run, attempt, &workers)).await;
    Done::LogCreated(run, created)
}

/// Remembers that the run starts, then lets it: a later coordinator must know that instances may have run.
pub(super) async fn start(logs: Arc<dyn SyncLogs>, ledger: Ledger, entry: LedgerRun) -> Done {
    if let Err(err) = ledger.put_run(&entry).await {
        return Done::StartAppended(entry.run, Err(Chain(&err).to_string()));
    }
    let started = persist(|| logs.start(&entry.run, entry.attempt, ledger.term())).await;
    Done::StartAppended(entry.run, started)
}

/// Removes the sync log.
pub(super) async fn delete_log(logs: Arc<dyn SyncLogs>, run: RunId, attempt: Attempt) -> Done {
    if let Err(error) = persist(|| logs.delete(&run, attempt)).await {
        warn!(run = %run, error, "sync log not removed");
    }
    Done::Nothing
}

/// Stores the record of a run that goes on.
pub(super) async fn store(objects: Objects, record: RunRecord) -> Done {
    let run = record.status.run.clone();
    if let Err(err) = record::store(&objects, &record).await {
        warn!(run = %run, error = %Chain(&err), "record not stored");
    }
    Done::Stored(run)
}

/// Stores the events and the last record of a run.
pub(super) async fn conclude(objects: Objects, record: RunRecord, events: Vec<u8>) -> Done {
    let run = record.status.run.clone();
    let key = record::events_key(&run);
    let events = bytes::Bytes::from(events);
    let stored = async {
        persist(|| objects.put(&key, events.clone()).boxed()).await?;
        persist(|| record::store(&objects, &record).boxed()).await
    };
    let stored = stored.await;
    Done::Concluded(run, stored)
}

/// Tells a worker what it should be doing, until the server has it or the service ends.
pub(super) async fn assign(
    assignments: Assignments,
    worker: WorkerId,
    desired: Desired,
    ending: CancellationToken,
) -> Done {
    loop {
        match assignments.publish(&worker, &desired).await {
            Ok(sequence) => return Done::Assigned(worker, Some(sequence)),
            Err(err) => warn!(worker = %worker, error = %Chain(&err), "assignment not published"),
        }
        tokio::select! {
            () = ending.cancelled() => return Done::Assigned(worker, None),
            () = sleep(FIRST_WAIT) => {}
        }
    }
}

/// Tries a few times, each time after a longer wait; gives the last error's text.
async fn persist<'a, E: std::error::Error>(
    mut effect: impl FnMut() -> BoxFuture<'a, Result<(), E>>,
) -> Result<(), String> {
    let mut wait = FIRST_WAIT;
    let mut tries = 1;
    loop {
        match effect().await {
            Ok(()) => return Ok(()),
            Err(err) if tries >= TRIES => return Err(Chain(&err).to_string()),
            Err(err) => debug!(error = %Chain(&err), tries, "trying again"),
        }
        sleep(wait).await;
        wait *= 2;
        tries += 1;
    }
}
