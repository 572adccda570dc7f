//! The coordinators' control state: bucket `gs_ctl`. Every write is a compare-and-set.
//!
//! ```text
//! leader        who coordinates; renewed every two seconds
//! worker.<id>   the registration of a worker; its revision is the worker's epoch
//! run.<id>      a run from submit to cleaned
//! ```
//!
//! One task writes, in the order of the requests, and knows the revision of each key it wrote. Another renews
//! the key `leader`. When either finds that someone else wrote in between, this coordinator is deposed: it may do
//! nothing more. Reads inform, only writes decide.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use bytes::Bytes;
use futures::TryStreamExt as _;
use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, RunId};
use groundswell_common::messages::Registration;
use groundswell_common::run::RunPhase;
use groundswell_common::subjects;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, error, info_span, warn};

/// How often the leader renews its key.
pub const LEADER_RENEW: Duration = Duration::from_secs(2);
/// How long the leader's key must stay unchanged before another may take it.
pub const LEADER_TAKEOVER: Duration = Duration::from_secs(15);
/// How long to wait before a write that was not acknowledged is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Writes that may wait. A run needs about ten in its life.
const QUEUE: usize = 4096;

const LEADER: &str = "leader";

const _: () = assert!(LEADER_RENEW.as_millis() * 3 <= LEADER_TAKEOVER.as_millis());

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the control state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The bucket cannot be made or opened.
    #[error("failed to open the bucket `{}`", subjects::CONTROL_BUCKET)]
    Open(#[source] Cause),
    /// The server does not answer.
    #[error("failed to {verb} `{key}` in the control state")]
    Unreachable {
        /// What was tried.
        verb: &'static str,
        /// On which key.
        key: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Someone else wrote in between.
    #[error("`{key}` in the control state was changed by another coordinator")]
    Conflict {
        /// Which key.
        key: String,
    },
    /// Another coordinator is at work.
    #[error(
        "coordinator `{name}` is at work on this NATS; a second one would take {} s after it has ended",
        LEADER_TAKEOVER.as_secs()
    )]
    Occupied {
        /// Its name.
        name: String,
    },
    /// The writer has ended.
    #[error("the control state is closed")]
    Closed,
}

/// A run in the control state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRun {
    /// The run.
    pub run: RunId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Where it is.
    pub phase: RunPhase,
    /// The term in which this was written.
    pub term: u64,
    /// When it was submitted, Unix milliseconds.
    pub submitted_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Leader {
    name: String,
    nonce: u64,
    renewed: u64,
}

enum Write {
    Put {
        key: String,
        value: Bytes,
        done: Option<oneshot::Sender<Result<u64, LedgerError>>>,
    },
    Register {
        registration: Registration,
        fresh: bool,
        done: oneshot::Sender<Result<u64, LedgerError>>,
    },
    Purge {
        key: String,
    },
}

/// The control state, held by the one coordinator that leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: kv::Store,
    writes: mpsc::Sender<Write>,
    term: u64,
    deposed: CancellationToken,
}

impl Ledger {
    /// Opens the control state, takes the lead, and keeps it until `closing`.
    ///
    /// # Errors
    /// When the bucket cannot be used or another coordinator leads.
    pub async fn open(
        bus: &Bus,
        name: &str,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Result<Self, LedgerError> {
        let store = bucket(bus).await?;
        let leader = Leader { name: name.to_owned(), nonce: rand::random(), renewed: 0 };
        let term = take_lead(&store, &leader).await?;
        let deposed = CancellationToken::new();
        let (writes, requests) = mpsc::channel(QUEUE);
        let writer = Writer {
            store: store.clone(),
            revisions: BTreeMap::new(),
            deposed: deposed.clone(),
            closing: closing.clone(),
        };
        tasks.spawn(writer.run(requests).instrument(info_span!("ledger")));
        let renewal = renew(store.clone(), leader, term, deposed.clone(), closing);
        tasks.spawn(renewal.instrument(info_span!("leader")));
        Ok(Self { store, writes, term, deposed })
    }

    /// The revision of the key `leader` at the time it was taken: it only grows.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Canceled when another coordinator has taken the lead.
    #[must_use]
    pub fn deposed(&self) -> &CancellationToken {
        &self.deposed
    }

    /// Writes the state of a run and waits until it is kept.
    ///
    /// # Errors
    /// When it is not, or someone else wrote it.
    pub async fn put_run(&self, run: &LedgerRun) -> Result<u64, LedgerError> {
        let (done, answer) = oneshot::channel();
        let write = Write::Put { key: run_key(&run.run), value: json(run), done: Some(done) };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Writes the state of a run in the background, after everything written before.
    pub fn remember(&self, run: &LedgerRun) {
        self.enqueue(Write::Put { key: run_key(&run.run), value: json(run), done: None });
    }

    /// Removes a run that is over and cleaned, in the background.
    pub fn forget(&self, run: &RunId) {
        self.enqueue(Write::Purge { key: run_key(run) });
    }

    fn enqueue(&self, write: Write) {
        if self.writes.try_send(write).is_err() {
            warn!("control state is behind, a write was left out");
        }
    }

    /// Writes a worker's registration and returns its epoch. The same process keeps its epoch unless `fresh`.
    ///
    /// # Errors
    /// When it is not kept.
    pub async fn register(
        &self,
        registration: Registration,
        fresh: bool,
    ) -> Result<Epoch, LedgerError> {
        let (done, answer) = oneshot::channel();
        let write = Write::Register { registration, fresh, done };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?.map(Epoch)
    }

    /// Runs in the control state: at start, those that an earlier coordinator left behind.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn runs(&self) -> Result<Vec<LedgerRun>, LedgerError> {
        let failed = |source: Cause| LedgerError::Unreachable {
            verb: "list",
            key: "run.*".to_owned(),
            source,
        };
        let filter = format!("{}run.*", self.store.prefix);
        let found: Vec<(String, usize)> = self
            .store
            .stream
            .info_with_subjects(&filter)
            .await
            .map_err(|err| failed(err.into()))?
            .try_collect()
            .await
            .map_err(|err| failed(err.into()))?;
        let mut runs = Vec::new();
        for (subject, _) in found {
            let key = subject.trim_start_matches(&self.store.prefix).to_owned();
            let Some(value) = self.store.get(&key).await.map_err(|err| failed(err.into()))? else {
                continue;
            };
            match serde_json::from_slice(&value) {
                Ok(run) => runs.push(run),
                Err(err) => warn!(key, error = %err, "unreadable run in the control state"),
            }
        }
        runs.sort_by(|a: &LedgerRun, b| a.run.cmp(&b.run));
        Ok(runs)
    }
}

fn run_key(run: &RunId) -> String {
    format!("run.{run}")
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("control state is plain data that always encodes").into()
}

/// The bucket, made by hand: a client that makes it through the KV interface turns direct reads on, and those
/// may be stale.
async fn bucket(bus: &Bus) -> Result<kv::Store, LedgerError> {
    let config = Config {
        name: format!("KV_{}", subjects::CONTROL_BUCKET),
        description: Some("control state of the coordinators".to_owned()),
        subjects: vec![format!("$KV.{}.>", subjects::CONTROL_BUCKET)],
        max_messages_per_subject: 8,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: false,
        ..Config::default()
    };
    let jetstream = bus.jetstream();
    jetstream.create_or_update_stream(config).await.map_err(|err| LedgerError::Open(err.into()))?;
    jetstream
        .get_key_value(subjects::CONTROL_BUCKET)
        .await
        .map_err(|err| LedgerError::Open(err.into()))
}

/// Takes the key `leader`: at once when it is free, otherwise when it stays unchanged for long enough.
async fn take_lead(store: &kv::Store, leader: &Leader) -> Result<u64, LedgerError> {
    let (mut revision, holder) = read_leader(store).await?;
    if let Some(holder) = holder {
        let watched_since = Instant::now();
        warn!(name = holder.name, "another coordinator held the lead, waiting for a sign of it");
        while watched_since.elapsed() < LEADER_TAKEOVER {
            sleep(RETRY).await;
            let (found, holder) = read_leader(store).await?;
            match holder {
                Some(holder) if found != revision => {
                    return Err(LedgerError::Occupied { name: holder.name });
                }
                Some(_) => {}
                None => {
                    revision = found;
                    break;
                }
            }
        }
    }
    let taken = store.update(LEADER, json(leader), revision).await;
    taken.map_err(|err| unreachable("take", LEADER, err))
}

async fn read_leader(store: &kv::Store) -> Result<(u64, Option<Leader>), LedgerError> {
    let entry = store.entry(LEADER).await.map_err(|err| unreachable("read", LEADER, err))?;
    let Some(entry) = entry else { return Ok((0, None)) };
    let holder = match entry.operation {
        kv::Operation::Put => serde_json::from_slice(&entry.value).ok(),
        kv::Operation::Delete | kv::Operation::Purge => None,
    };
    Ok((entry.revision, holder))
}

fn unreachable(verb: &'static str, key: &str, source: impl Into<Cause>) -> LedgerError {
    LedgerError::Unreachable { verb, key: key.to_owned(), source: source.into() }
}

/// Renews the key until `closing`, then gives it up.
async fn renew(
    store: kv::Store,
    mut leader: Leader,
    term: u64,
    deposed: CancellationToken,
    closing: CancellationToken,
) {
    let mut revision = term;
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            () = sleep(LEADER_RENEW) => {}
        }
        leader.renewed += 1;
        match store.update(LEADER, json(&leader), revision).await {
            Ok(renewed) => revision = renewed,
            Err(err) => {
                debug!(error = %Chain(&err), "lead not renewed");
                // The write may have arrived without its acknowledgement.
                match read_leader(&store).await {
                    Ok((found, Some(holder))) if holder.nonce == leader.nonce => revision = found,
                    Ok(_) => {
                        error!(term, "another coordinator has taken the lead");
                        deposed.cancel();
                        return;
                    }
                    Err(err) => warn!(error = %Chain(&err), "lead not renewed"),
                }
            }
        }
    }
    if let Err(err) = store.delete_expect_revision(LEADER, Some(revision)).await {
        debug!(error = %Chain(&err), "lead not given up");
    }
}

struct Writer {
    store: kv::Store,
    revisions: BTreeMap<String, u64>,
    deposed: CancellationToken,
    closing: CancellationToken,
}

impl Writer {
    /// Writes one request after the other; what waits when closing is still tried once.
    async fn run(mut self, mut requests: mpsc::Receiver<Write>) {
        while let Some(request) = requests.recv().await {
            match request {
                Write::Put { key, value, done } => {
                    let written = self.put(&key, &value).await;
                    answer(done, written);
                }
                Write::Register { registration, fresh, done } => {
                    let written = self.register(&registration, fresh).await;
                    answer(Some(done), written);
                }
                Write::Purge { key } => {
                    self.revisions.remove(&key);
                    if let Err(err) = self.store.purge(&key).await {
                        debug!(key, error = %Chain(&err), "run not removed from the control state");
                    }
                }
            }
        }
    }

    async fn register(
        &mut self,
        registration: &Registration,
        fresh: bool,
    ) -> Result<u64, LedgerError> {
        let key = format!("worker.{}", registration.worker);
        if !fresh {
            let entry = self.read(&key).await?;
            let same = entry.filter(|entry| {
                serde_json::from_slice::<Registration>(&entry.value)
                    .is_ok_and(|before| before.boot == registration.boot)
            });
            if let Some(entry) = same {
                return Ok(entry.revision);
            }
        }
        self.put(&key, &json(registration)).await
    }

    /// Writes until it is acknowledged, someone else has written, or the coordinator closes.
    async fn put(&mut self, key: &str, value: &Bytes) -> Result<u64, LedgerError> {
        loop {
            match self.try_put(key, value).await {
                Ok(revision) => {
                    self.revisions.insert(key.to_owned(), revision);
                    return Ok(revision);
                }
                Err(err @ LedgerError::Conflict { .. }) => {
                    error!(key, "the control state was changed by another coordinator");
                    self.deposed.cancel();
                    return Err(err);
                }
                Err(err) if self.closing.is_cancelled() || self.deposed.is_cancelled() => {
                    return Err(err);
                }
                Err(err) => {
                    warn!(key, error = %Chain(&err), "control state not written, trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_put(&mut self, key: &str, value: &Bytes) -> Result<u64, LedgerError> {
        let revision = match self.revisions.get(key) {
            Some(revision) => *revision,
            None => self.read(key).await?.map_or(0, |entry| entry.revision),
        };
        let err = match self.store.update(key, value.clone(), revision).await {
            Ok(revision) => return Ok(revision),
            Err(err) => err,
        };
        // The write may have arrived without its acknowledgement.
        let found = self.read(key).await?;
        match found {
            Some(entry) if entry.value == *value => Ok(entry.revision),
            Some(entry) if entry.revision != revision => {
                Err(LedgerError::Conflict { key: key.to_owned() })
            }
            Some(_) | None => Err(unreachable("write", key, err)),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<kv::Entry>, LedgerError> {
        self.store.entry(key).await.map_err(|err| unreachable("read", key, err))
    }
}

fn answer(
    done: Option<oneshot::Sender<Result<u64, LedgerError>>>,
    written: Result<u64, LedgerError>,
) {
    // Whoever asked may have given up; the write counts all the same.
    if let Some(done) = done {
        drop(done.send(written));
    }
}
