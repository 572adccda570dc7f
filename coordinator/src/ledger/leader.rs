//! Who leads: a key that its holder renews, and that another takes when it has stayed unchanged for long enough.
//!
//! Nobody compares clocks. A standby measures by its own how long the key's revision has stayed the same, the
//! leader by its own how long ago it sent the last renewal that arrived. The leader gives up first.

use async_nats::jetstream::kv;
use groundswell_common::chain::Chain;
use groundswell_common::timing::Leadership;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{LedgerError, json, unreachable};

const KEY: &str = "leader";

/// What a coordinator does when another one leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// Gives up at once: two of them on one machine are a mistake.
    Refuse,
    /// Waits until the other one has ended.
    Await,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Leader {
    name: String,
    nonce: u64,
    renewed: u64,
}

impl Leader {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), nonce: rand::random(), renewed: 0 }
    }
}

/// Takes the key: at once when it is free, otherwise when it stays unchanged for long enough. Returns its
/// revision, which is the term.
pub(super) async fn take(
    store: &kv::Store,
    leader: &Leader,
    times: Leadership,
    rival: Rival,
) -> Result<u64, LedgerError> {
    let mut standing_by = false;
    loop {
        match run_for(store, leader, times).await {
            Ok(Candidacy::Won { term }) => return Ok(term),
            Ok(Candidacy::Held { by }) if rival == Rival::Refuse => {
                return Err(LedgerError::Occupied { name: by });
            }
            Ok(Candidacy::Held { by }) => {
                if !standing_by {
                    info!(leader = by, "standing by");
                }
                standing_by = true;
            }
            // Whoever stands by outlives the servers as well.
            Err(err) if standing_by => {
                debug!(error = %Chain(&err), "the lead cannot be watched");
                sleep(times.renew).await;
            }
            Err(err) => return Err(err),
        }
    }
}

/// What came of trying to take the key once.
enum Candidacy {
    Won { term: u64 },
    Held { by: String },
}

async fn run_for(
    store: &kv::Store,
    leader: &Leader,
    times: Leadership,
) -> Result<Candidacy, LedgerError> {
    let (mut revision, holder) = read(store).await?;
    if let Some(holder) = holder {
        match abandoned(store, revision, times).await? {
            Some(last) => revision = last,
            None => return Ok(Candidacy::Held { by: holder.name }),
        }
    }
    let err = match store.update(KEY, json(leader), revision).await {
        Ok(term) => return Ok(Candidacy::Won { term }),
        Err(err) => err,
    };
    // The write may have arrived without its acknowledgement; another standby may have been faster.
    match read(store).await? {
        (term, Some(holder)) if holder.nonce == leader.nonce => Ok(Candidacy::Won { term }),
        (_, Some(holder)) => Ok(Candidacy::Held { by: holder.name }),
        (_, None) => Err(unreachable("take", KEY, err)),
    }
}

/// The revision at which the key can be taken: it stayed there for long enough, or was given up meanwhile.
async fn abandoned(
    store: &kv::Store,
    revision: u64,
    times: Leadership,
) -> Result<Option<u64>, LedgerError> {
    let since = Instant::now();
    while since.elapsed() < times.takeover {
        sleep(times.renew / 4).await;
        let (found, holder) = read(store).await?;
        if found != revision {
            return Ok(holder.is_none().then_some(found));
        }
    }
    Ok(Some(revision))
}

async fn read(store: &kv::Store) -> Result<(u64, Option<Leader>), LedgerError> {
    let entry = store.entry(KEY).await.map_err(|err| unreachable("read", KEY, err))?;
    let Some(entry) = entry else { return Ok((0, None)) };
    let holder = match entry.operation {
        kv::Operation::Put => serde_json::from_slice(&entry.value).ok(),
        kv::Operation::Delete | kv::Operation::Purge => None,
    };
    Ok((entry.revision, holder))
}

/// Keeps the key. Ends when it is lost or given up.
pub(super) struct Renewal {
    pub(super) store: kv::Store,
    pub(super) leader: Leader,
    pub(super) revision: u64,
    pub(super) times: Leadership,
    /// Whoever wants to know that this is still the leader.
    pub(super) asked: mpsc::Receiver<oneshot::Sender<()>>,
    pub(super) deposed: CancellationToken,
    pub(super) closing: CancellationToken,
}

/// What came of one renewal.
enum Renewed {
    Kept,
    Lost,
    Unknown,
}

impl Renewal {
    /// Renews until `closing`, then gives the key up.
    pub(super) async fn run(mut self) {
        let mut kept = Instant::now();
        let mut asking = Vec::new();
        loop {
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = self.deposed.cancelled() => return,
                () = sleep(self.times.renew) => {}
                Some(ask) = self.asked.recv() => asking.push(ask),
            }
            let sent = Instant::now();
            match timeout_at(kept + self.times.step_down, self.renew()).await {
                Ok(Renewed::Kept) => {
                    kept = sent;
                    for ask in asking.drain(..) {
                        // Whoever asked may have given up.
                        let _: Result<(), ()> = ask.send(());
                    }
                }
                Ok(Renewed::Unknown) => sleep(self.times.renew / 10).await,
                Ok(Renewed::Lost) => {
                    error!("another coordinator has taken the lead");
                    return self.deposed.cancel();
                }
                Err(_) => {
                    error!(
                        seconds = self.times.step_down.as_secs_f64(),
                        "the lead was not renewed"
                    );
                    return self.deposed.cancel();
                }
            }
        }
        if let Err(err) = self.store.delete_expect_revision(KEY, Some(self.revision)).await {
            debug!(error = %Chain(&err), "lead not given up");
        }
    }

    async fn renew(&mut self) -> Renewed {
        self.leader.renewed += 1;
        let err = match self.store.update(KEY, json(&self.leader), self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                return Renewed::Kept;
            }
            Err(err) => err,
        };
        warn!(error = %Chain(&err), "lead not renewed");
        // The write may have arrived without its acknowledgement.
        match read(&self.store).await {
            Ok((revision, Some(holder))) if holder.nonce == self.leader.nonce => {
                let arrived = revision != self.revision;
                self.revision = revision;
                if arrived { Renewed::Kept } else { Renewed::Unknown }
            }
            Ok(_) => Renewed::Lost,
            Err(_) => Renewed::Unknown,
        }
    }
}
