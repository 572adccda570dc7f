//! What the actor has done elsewhere: each function is one task, and its [`Done`] comes back to the actor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Message;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::kpi::SeriesSet;
use groundswell_common::messages::{Desired, Registration};
use groundswell_common::objects::{Objects, ObjectsError};
use groundswell_common::run::{RunPhase, RunRecord, RunStatus};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::ServiceConfig;
use super::cordons::Cordoned;
use super::keys::{self, Claim};
use crate::assignments::{AssignError, Assignments};
use crate::failpoint::failpoint;
use crate::ledger::{Ledger, LedgerError, LedgerRun};
use crate::parts::{GroupParts, Outline, Parts, Prepare, PrepareError, SyncLogs};
use crate::queue::Usage;
use crate::record::{self, KpiFile, Placed};
use crate::tokens::Kept;

/// How often an effect is tried before its failure is told.
const TRIES: u32 = 5;
/// How long to wait before the second try; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The result of an effect.
pub(super) enum Done {
    /// What came of a submit, and its key.
    Submitted(Option<String>, Submission),
    /// What teams have used, as an earlier coordinator has kept it.
    UsageRead(Usage),
    /// What teams have used is kept, or not.
    UsageKept,
    Built(RunId, Result<Vec<GroupParts>, PrepareError>),
    LogCreated(RunId, Attempt, Result<(), String>),
    StartAppended(RunId, Attempt, Result<(), String>),
    /// A record of a run that goes on is stored, or not.
    Stored(RunId),
    Concluded(RunId, Result<(), String>),
    /// The KPIs of a worker's share were read, or cannot be.
    KpisRead(RunId, Attempt, WorkerId, Result<SeriesSet, String>),
    Assigned(WorkerId, Option<u64>),
    Registered(Box<(Message, Registration, Result<Epoch, LedgerError>)>),
    /// A token was written down, or not.
    TokenKept(Message, Box<Kept>, Result<(), LedgerError>),
    /// A token was removed, or not.
    TokenRevoked(Message, String, Result<(), LedgerError>),
    /// Workers take nothing new, or take runs again; kept in the control state, or not.
    Cordoned(Box<Cordoned>),
    /// Someone asked for one run, and this is which.
    Selected(Message, Result<RunId, Refusal>),
    Listed(Vec<RunStatus>),
    /// There is nothing to say.
    Nothing,
}

/// What came of a submit.
pub(super) enum Submission {
    /// There is a new run.
    Accepted(Box<Accepted>),
    /// The same was submitted before, with the same key.
    Known(Message, RunId),
    /// It was refused, and the answer is sent.
    Refused,
    /// Nobody knows whether the control state has it. Whoever asked hears nothing, and asks again: by the key the
    /// next leader knows whether there is a run.
    Unanswered,
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
    config: ServiceConfig,
    ledger: Ledger,
    request: SubmitRequest,
    message: Message,
) -> Result<Submission, (Message, Refusal)> {
    let (outline, request) = match outline(&config.parts, request).await {
        Ok(outlined) => outlined,
        Err(refusal) => return Err((message, refusal)),
    };
    let submitted_ms = unix_ms();
    let run = RunId::at(submitted_ms);
    match keys::claim(&config.bus, &config.objects, &request, &run, submitted_ms).await {
        Ok(Claim::New) => {}
        Ok(Claim::Known(run)) => return Ok(Submission::Known(message, run)),
        Ok(Claim::Other(run)) => return Err((message, other_content(&run))),
        Err(err) => {
            warn!(run = %run, error = %Chain(err.as_ref()), "key of a submit not kept");
            return Ok(Submission::Unanswered);
        }
    }
    let composition = request.composition.clone();
    let stored = async {
        config.objects.put(&record::composition_key(&run), composition).await?;
        record::store_request(&config.objects, &run, &request).await
    };
    if let Err(err) = stored.await {
        return Err((message, unavailable("the object store does not take the run", &err)));
    }
    failpoint("submit_stored");
    let entry = LedgerRun {
        run: run.clone(),
        attempt: Attempt::FIRST,
        phase: RunPhase::Submitted,
        term: ledger.term(),
        submitted_ms,
        started_ms: None,
        spent: Duration::ZERO,
        cause: None,
        priority: None,
        network_key: 0,
        overlay_secret: None,
    };
    // A successor finds the run only if this was the leader after it was written.
    let kept = async {
        ledger.put_run(&entry).await?;
        ledger.confirm().await
    };
    if let Err(err) = kept.await {
        warn!(run = %run, error = %Chain(&err), "nobody knows whether a run is kept");
        return Ok(Submission::Unanswered);
    }
    failpoint("submit_kept");
    let accepted = Accepted { message, request, outline, run, submitted_ms };
    Ok(Submission::Accepted(Box::new(accepted)))
}

fn other_content(run: &RunId) -> Refusal {
    Refusal {
        kind: RefusalKind::Invalid,
        message: format!("the key is that of {} ({run}), which is another run", run.name()),
        help: "give another --idempotency-key, or submit what was submitted with this one"
            .to_owned(),
    }
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

pub(super) fn unavailable(what: &str, err: &(dyn std::error::Error + 'static)) -> Refusal {
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

/// What a run is given a place with.
pub(super) struct Placing {
    pub(super) entry: LedgerRun,
    pub(super) placed: Placed,
    pub(super) workers: Vec<WorkerId>,
}

/// Stores who gets what, so that another coordinator can go on with it, and makes the sync log.
pub(super) async fn place(
    logs: Arc<dyn SyncLogs>,
    ledger: Ledger,
    objects: Objects,
    placing: Placing,
) -> Done {
    let Placing { entry, placed, workers } = placing;
    let (run, attempt) = (entry.run.clone(), entry.attempt);
    let made = async {
        persist(|| record::store_placed(&objects, &run, &placed).boxed()).await?;
        failpoint("place_stored");
        ledger.put_run(&entry).await.map_err(|err| Chain(&err).to_string())?;
        failpoint("place_kept");
        persist(|| logs.create(&run, entry.attempt, &workers)).await
    };
    let made = made.await;
    failpoint("log_made");
    Done::LogCreated(run, attempt, made)
}

/// Remembers that the run starts, then lets it: a later coordinator must know that instances may have run.
pub(super) async fn start(logs: Arc<dyn SyncLogs>, ledger: Ledger, entry: LedgerRun) -> Done {
    if let Err(err) = ledger.put_run(&entry).await {
        return Done::StartAppended(entry.run, entry.attempt, Err(Chain(&err).to_string()));
    }
    failpoint("start_kept");
    let started = persist(|| logs.start(&entry.run, entry.attempt, ledger.term())).await;
    failpoint("start_appended");
    Done::StartAppended(entry.run, entry.attempt, started)
}

/// Tells in the sync log that instances are lost.
pub(super) async fn mark_gone(
    logs: Arc<dyn SyncLogs>,
    (run, attempt): (RunId, Attempt),
    gone: Vec<InstanceId>,
    reason: String,
) -> Done {
    if let Err(error) = persist(|| logs.mark_gone(&run, attempt, &gone, &reason)).await {
        warn!(run = %run, error, "lost instances are not in the sync log");
    }
    Done::Nothing
}

/// Removes the sync log.
pub(super) async fn delete_log(logs: Arc<dyn SyncLogs>, run: RunId, attempt: Attempt) -> Done {
    if let Err(error) = persist(|| logs.delete(&run, attempt)).await {
        warn!(run = %run, error, "sync log not removed");
    }
    failpoint("log_removed");
    Done::Nothing
}

/// Stores the record of a run that goes on, and its events so far.
pub(super) async fn store(objects: Objects, record: RunRecord, events: Vec<u8>) -> Done {
    let run = record.status.run.clone();
    let stored = async {
        objects.put(&record::events_key(&run), events).await?;
        record::store(&objects, &record).await
    };
    if let Err(err) = stored.await {
        warn!(run = %run, error = %Chain(&err), "record not stored");
    }
    Done::Stored(run)
}

/// Stores the replay file of a run as far as it is written.
pub(super) async fn store_replay(objects: Objects, run: RunId, file: Vec<u8>) -> Done {
    if let Err(err) = objects.put(&record::replay_key(&run), file).await {
        debug!(run = %run, error = %Chain(&err), "replay not stored, its next block brings it");
    }
    Done::Stored(run)
}

/// What is kept of a run beside its record.
pub(super) struct Files {
    pub(super) events: bytes::Bytes,
    pub(super) replay: bytes::Bytes,
    pub(super) kpis: Option<KpiFile>,
}

/// Stores the events and the last record of a run.
pub(super) async fn conclude(objects: Objects, record: RunRecord, files: Files) -> Done {
    let run = record.status.run.clone();
    let (key, replay_key) = (record::events_key(&run), record::replay_key(&run));
    let Files { events, replay, kpis } = files;
    let stored = async {
        persist(|| objects.put(&key, events.clone()).boxed()).await?;
        persist(|| objects.put(&replay_key, replay.clone()).boxed()).await?;
        failpoint("events_stored");
        if let Some(kpis) = &kpis {
            persist(|| record::store_kpis(&objects, &run, kpis).boxed()).await?;
        }
        persist(|| record::store(&objects, &record).boxed()).await
    };
    let stored = stored.await;
    failpoint("record_stored");
    Done::Concluded(run, stored)
}

/// Tells a worker what it should be doing, until the server has it, the service ends, or it turns out that
/// another coordinator leads. What led to it is in the control state first, so that no successor knows less than
/// a worker.
pub(super) async fn assign(
    assignments: Assignments,
    ledger: Ledger,
    worker: WorkerId,
    desired: Desired,
    ending: CancellationToken,
) -> Done {
    if ending.run_until_cancelled(ledger.flush()).await.is_none() {
        return Done::Assigned(worker, None);
    }
    let begins = !desired.shares.is_empty();
    if begins {
        failpoint("assign_decided");
    }
    loop {
        match assignments.publish(&worker, &desired).await {
            Ok(sequence) => {
                if begins {
                    failpoint("assign_published");
                }
                return Done::Assigned(worker, Some(sequence));
            }
            Err(err @ AssignError::Deposed { .. }) => {
                error!(error = %Chain(&err), "another coordinator leads");
                ledger.deposed().cancel();
                return Done::Assigned(worker, None);
            }
            Err(err) => warn!(worker = %worker, error = %Chain(&err), "assignment not published"),
        }
        tokio::select! {
            () = ending.cancelled() => return Done::Assigned(worker, None),
            () = sleep(FIRST_WAIT) => {}
        }
    }
}

/// Reads the KPIs of a share that were too many for a message.
pub(super) async fn fetch_kpis(
    objects: Objects,
    (run, attempt): (RunId, Attempt),
    worker: WorkerId,
    key: String,
) -> Done {
    let read = Mutex::new(None);
    let fetched = persist(|| {
        async {
            let series = record::load_series(&objects, &key).await?;
            *read.lock().unwrap_or_else(PoisonError::into_inner) = series;
            Ok::<_, ObjectsError>(())
        }
        .boxed()
    });
    let fetched = fetched.await;
    let series = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missing = || format!("`{key}` is not there, or is not what it should be");
    Done::KpisRead(run, attempt, worker, fetched.and_then(|()| series.ok_or_else(missing)))
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
