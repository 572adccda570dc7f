//! The coordinators' control state: bucket `gs_ctl`. Every write is a compare-and-set.
//!
//! ```text
//! leader        who coordinates; renewed every two seconds
//! worker.<id>   the registration of a worker; its revision is the worker's epoch
//! cordon.<id>   why a worker takes nothing new; `null` once it takes runs again
//! run.<id>      a run from submit to cleaned, with what another coordinator needs to go on with it
//! token.<id>    who may call, with a digest of the secret
//! key.<digest>  the run of an idempotency key
//! usage         what teams have used
//! generation    the name of all this, by which its loss is noticed
//! ```
//!
//! [`writer`] writes, [`leader`] keeps the lead. When either finds that someone else wrote in between, this
//! coordinator is deposed: it may do nothing more. Reads inform, only writes decide.

mod generation;
mod leader;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, KeyValueError};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use bytes::Bytes;
use futures::TryStreamExt as _;
use groundswell_common::api::Cordon;
use groundswell_common::bus::{self, Bus};
use groundswell_common::ids::{Attempt, Epoch, RunId, WorkerId};
use groundswell_common::messages::Registration;
use groundswell_common::network::OverlaySecret;
use groundswell_common::queue::Priority;
use groundswell_common::run::RunPhase;
use groundswell_common::subjects;
use groundswell_common::timing::Leadership;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span, warn};

use crate::run::Cause as EndCause;
use crate::tokens::Kept;
pub use generation::GenerationFile;
pub use leader::Rival;
use leader::{Leader, Renewal};
use writer::{Write, Writer};

/// Writes that may wait. A run needs about ten in its life.
const QUEUE: usize = 4096;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the control state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The bucket cannot be made.
    #[error("failed to make the bucket `{}`", subjects::CONTROL_BUCKET)]
    Make(#[source] CreateStreamError),
    /// The bucket cannot be opened.
    #[error("failed to open the bucket `{}`", subjects::CONTROL_BUCKET)]
    Open(#[source] KeyValueError),
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
    #[error("coordinator `{name}` is at work on this NATS")]
    Occupied {
        /// Its name.
        name: String,
    },
    /// The control state is not the one this coordinator knew.
    #[error(
        "NATS has lost the control state: `{path}` knows the generation {known}, NATS {}",
        found.as_ref().map_or_else(|| "none".to_owned(), |found| format!("has {found}"))
    )]
    Forgotten {
        /// The file that knows it.
        path: PathBuf,
        /// What it says.
        known: String,
        /// What NATS says.
        found: Option<String>,
    },
    /// The file that knows the generation cannot be used.
    #[error("failed to use `{path}`")]
    Generation {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The writer has ended.
    #[error("the control state is closed")]
    Closed,
    /// This coordinator does not lead any more, or cannot know it.
    #[error("this coordinator does not lead any more")]
    Deposed,
}

impl LedgerError {
    /// Whether the servers may think otherwise in a moment: they did not answer, or had no leader.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Make(err) => bus::may_pass(err),
            Self::Open(_) | Self::Unreachable { .. } | Self::Closed | Self::Deposed => true,
            Self::Conflict { .. }
            | Self::Occupied { .. }
            | Self::Forgotten { .. }
            | Self::Generation { .. } => false,
        }
    }
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
    /// When its instances were let go, Unix milliseconds, for people.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// How much of its time limit was used when this was written. Clocks of two coordinators are never compared.
    #[serde(default)]
    pub spent: Duration,
    /// Why it ends, if something has ended it.
    #[serde(default)]
    pub cause: Option<EndCause>,
    /// The priority it was given after it was submitted.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// Names it between its workers' switches.
    #[serde(default)]
    pub network_key: u64,
    /// What encrypts the packets between them; absent before it has a place.
    #[serde(default)]
    pub overlay_secret: Option<OverlaySecret>,
}

/// The control state, held by the one coordinator that leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: kv::Store,
    writes: mpsc::Sender<Write>,
    asks: mpsc::Sender<oneshot::Sender<()>>,
    term: u64,
    deposed: CancellationToken,
}

impl Ledger {
    /// Opens the control state, takes the lead, and keeps it until `closing`. A `rival` is awaited or the end. With
    /// `generation` it has to be the control state that is known there.
    ///
    /// # Errors
    /// When the bucket cannot be used or another coordinator leads.
    pub async fn open(
        bus: &Bus,
        name: &str,
        (times, rival): (Leadership, Rival),
        generation: Option<&GenerationFile>,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Result<Self, LedgerError> {
        let store = bucket(bus).await?;
        if let Some(generation) = generation {
            generation.check(&store).await?;
        }
        let leader = Leader::new(name);
        let term = leader::take(&store, &leader, times, rival).await?;
        if let Some(generation) = generation {
            generation.settle(&store).await?;
        }
        let deposed = CancellationToken::new();
        let (writes, requests) = mpsc::channel(QUEUE);
        let writer = Writer::new(store.clone(), deposed.clone(), closing.clone());
        tasks.spawn(writer.run(requests).instrument(info_span!("ledger")));
        let (asks, asked) = mpsc::channel(QUEUE);
        let renewal = Renewal {
            store: store.clone(),
            leader,
            revision: term,
            times,
            asked,
            deposed: deposed.clone(),
            closing,
        };
        tasks.spawn(renewal.run().instrument(info_span!("leader", term)));
        Ok(Self { store, writes, asks, term, deposed })
    }

    /// Returns once it is certain that this coordinator led after the call. What was written before is then seen
    /// by whoever takes the lead later.
    ///
    /// # Errors
    /// When it does not lead any more.
    pub async fn confirm(&self) -> Result<(), LedgerError> {
        let (ask, answer) = oneshot::channel();
        self.asks.send(ask).await.map_err(|_| LedgerError::Deposed)?;
        answer.await.map_err(|_| LedgerError::Deposed)
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
        self.enqueue(Write::Purge { key: run_key(run), done: None });
    }

    /// Returns when everything that was to be remembered before is written, or cannot be.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.writes.send(Write::Flush { done }).await.is_ok() {
            // A writer that has ended writes nothing more.
            let _: Result<(), _> = flushed.await;
        }
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
        let write = Write::Register { registration: Box::new(registration), fresh, done };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?.map(Epoch)
    }

    /// Runs in the control state: at start, those that an earlier coordinator left behind.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn runs(&self) -> Result<Vec<LedgerRun>, LedgerError> {
        let mut runs = Vec::new();
        for key in self.keys("run.*").await? {
            let Some(entry) = self.entry(&key).await? else { continue };
            match serde_json::from_slice(&entry.value) {
                Ok(run) => runs.push(run),
                Err(err) => warn!(key, error = %err, "unreadable run in the control state"),
            }
        }
        runs.sort_by(|a: &LedgerRun, b| a.run.cmp(&b.run));
        Ok(runs)
    }

    /// The registration of a worker and its epoch.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn worker(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(Registration, Epoch)>, LedgerError> {
        let Some(entry) = self.entry(&worker_key(worker)).await? else { return Ok(None) };
        let registration = serde_json::from_slice(&entry.value).ok();
        Ok(registration.map(|registration| (registration, Epoch(entry.revision))))
    }

    /// The tokens of this cluster.
    ///
    /// # Errors
    /// When the server does not answer or a token is unreadable: somebody would be locked out.
    pub async fn tokens(&self) -> Result<Vec<Kept>, LedgerError> {
        let mut tokens = Vec::new();
        for key in self.keys("token.*").await? {
            let Some(entry) = self.entry(&key).await? else { continue };
            let token = serde_json::from_slice(&entry.value);
            tokens.push(token.map_err(|err| unreachable("read", &key, err))?);
        }
        Ok(tokens)
    }

    /// Writes a token and waits until it is kept.
    ///
    /// # Errors
    /// When it is not.
    pub async fn put_token(&self, token: &Kept) -> Result<(), LedgerError> {
        let (done, answer) = oneshot::channel();
        let write = Write::Put { key: token_key(token), value: json(token), done: Some(done) };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?.map(drop)
    }

    /// Writes a token in the background.
    pub fn remember_token(&self, token: &Kept) {
        self.enqueue(Write::Put { key: token_key(token), value: json(token), done: None });
    }

    /// Removes a token and waits until it is certain that no successor knows it.
    ///
    /// # Errors
    /// When it may still be there.
    pub async fn remove_token(&self, id: &str) -> Result<(), LedgerError> {
        let (done, answer) = oneshot::channel();
        let write = Write::Purge { key: format!("token.{id}"), done: Some(done) };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)??;
        self.confirm().await
    }

    /// Writes why a worker takes nothing new, or that it takes runs again, and waits until it is kept.
    ///
    /// # Errors
    /// When it is not, or someone else wrote it.
    pub async fn put_cordon(
        &self,
        worker: &WorkerId,
        cordon: Option<&Cordon>,
    ) -> Result<u64, LedgerError> {
        let (done, answer) = oneshot::channel();
        let key = format!("{CORDON}{worker}");
        // A key that is written over keeps its revisions, so that a former leader's write is still found out.
        let write = Write::Put { key, value: json(&cordon), done: Some(done) };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// The workers that take nothing new, and why.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn cordons(&self) -> Result<Vec<(WorkerId, Cordon)>, LedgerError> {
        let mut cordons = Vec::new();
        for key in self.keys(&format!("{CORDON}*")).await? {
            let Some(entry) = self.entry(&key).await? else { continue };
            let worker = key.strip_prefix(CORDON).and_then(|worker| worker.parse().ok());
            match (worker, serde_json::from_slice::<Option<Cordon>>(&entry.value)) {
                (Some(worker), Ok(Some(cordon))) => cordons.push((worker, cordon)),
                (_, Ok(_)) => {}
                (_, Err(err)) => warn!(key, error = %err, "unreadable cordon in the control state"),
            }
        }
        Ok(cordons)
    }

    async fn entry(&self, key: &str) -> Result<Option<kv::Entry>, LedgerError> {
        let entry = self.store.entry(key).await.map_err(|err| unreachable("read", key, err))?;
        Ok(entry.filter(|entry| entry.operation == kv::Operation::Put))
    }

    async fn keys(&self, filter: &str) -> Result<Vec<String>, LedgerError> {
        let failed = |source: Cause| unreachable("list", filter, source);
        let subjects = format!("{}{filter}", self.store.prefix);
        let found: Vec<(String, usize)> = self
            .store
            .stream
            .info_with_subjects(&subjects)
            .await
            .map_err(|err| failed(err.into()))?
            .try_collect()
            .await
            .map_err(|err| failed(err.into()))?;
        let prefix = self.store.prefix.as_str();
        let keys = found.iter().filter_map(|(subject, _)| subject.strip_prefix(prefix));
        Ok(keys.map(str::to_owned).collect())
    }
}

/// Begins the key of a worker's cordon.
const CORDON: &str = "cordon.";

fn run_key(run: &RunId) -> String {
    format!("run.{run}")
}

fn token_key(token: &Kept) -> String {
    format!("token.{}", token.info.id)
}

fn worker_key(worker: &WorkerId) -> String {
    format!("worker.{worker}")
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
    bus.make_stream(config).await.map_err(LedgerError::Make)?;
    bus.jetstream().get_key_value(subjects::CONTROL_BUCKET).await.map_err(LedgerError::Open)
}

fn unreachable(verb: &'static str, key: &str, source: impl Into<Cause>) -> LedgerError {
    LedgerError::Unreachable { verb, key: key.to_owned(), source: source.into() }
}
