//! The one task that writes, in the order of the requests, and knows the revision of each key it wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::kv;
use bytes::Bytes;
use groundswell_common::chain::Chain;
use groundswell_common::messages::Registration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{LedgerError, json, unreachable, worker_key};

/// How long to wait before a write that was not acknowledged is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// A request to the writer.
pub(super) enum Write {
    Put {
        key: String,
        value: Bytes,
        done: Option<oneshot::Sender<Result<u64, LedgerError>>>,
    },
    Register {
        registration: Box<Registration>,
        fresh: bool,
        done: oneshot::Sender<Result<u64, LedgerError>>,
    },
    Purge {
        key: String,
        done: Option<oneshot::Sender<Result<u64, LedgerError>>>,
    },
    /// Answers when everything before it was written.
    Flush {
        done: oneshot::Sender<()>,
    },
}

/// The task.
pub(super) struct Writer {
    store: kv::Store,
    revisions: BTreeMap<String, u64>,
    deposed: CancellationToken,
    closing: CancellationToken,
}

impl Writer {
    pub(super) fn new(
        store: kv::Store,
        deposed: CancellationToken,
        closing: CancellationToken,
    ) -> Self {
        Self { store, revisions: BTreeMap::new(), deposed, closing }
    }

    /// Writes one request after the other; what waits when closing is still tried once.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Write>) {
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
                // Whoever asked may have given up.
                Write::Flush { done } => drop(done.send(())),
                Write::Purge { key, done } => {
                    self.revisions.remove(&key);
                    let purged = self.store.purge(&key).await.map(|()| 0);
                    let purged = purged.map_err(|err| unreachable("remove", &key, err));
                    if let Err(err) = &purged {
                        debug!(key, error = %Chain(err), "key not removed from the control state");
                    }
                    answer(done, purged);
                }
            }
        }
    }

    async fn register(
        &mut self,
        registration: &Registration,
        fresh: bool,
    ) -> Result<u64, LedgerError> {
        let key = worker_key(&registration.worker);
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
