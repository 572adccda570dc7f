//! Idempotency keys: whoever submits the same again with the same key gets the run there is.
//!
//! A key is in the control state before its run is, as `key.<digest>`. If the coordinator ends between the two,
//! the key names a run that nobody knows, and the next submit takes it over.

use async_nats::jetstream::kv;
use futures::TryStreamExt as _;
use groundswell_common::api::SubmitRequest;
use groundswell_common::bus::{self, Bus};
use groundswell_common::chain::Chain;
use groundswell_common::ids::RunId;
use groundswell_common::objects::{Objects, digest};
use groundswell_common::queue::QueueWish;
use groundswell_common::subjects;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::record;

/// How long a key is kept, in milliseconds: three days, longer than anybody tries again.
const KEPT_MS: u64 = 3 * 24 * 3600 * 1000;
/// How much of a digest names a key.
const NAME: usize = 32;

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    run: RunId,
    /// Digest of what was submitted.
    content: String,
    at_ms: u64,
}

/// What a key means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nobody had it: it is that of the new run.
    New,
    /// It is that of a run of the same content.
    Known(RunId),
    /// It is that of a run of another content.
    Other(RunId),
}

/// Takes the request's key for `run`, unless another run has it.
pub(super) async fn claim(
    bus: &Bus,
    objects: &Objects,
    request: &SubmitRequest,
    run: &RunId,
    now_ms: u64,
) -> Result<Claim, Cause> {
    let Some(key) = &request.queue.key else { return Ok(Claim::New) };
    let store = bus.jetstream().get_key_value(subjects::CONTROL_BUCKET).await?;
    let name = format!("key.{}", &hex(key.as_bytes())[..NAME]);
    let own = Entry { run: run.clone(), content: content(request), at_ms: now_ms };
    let found = store.entry(&name).await?;
    // The mark of a removed key has a revision too.
    let revision = found.as_ref().map_or(0, |found| found.revision);
    if let Some(found) = found.filter(|found| found.operation == kv::Operation::Put) {
        let entry: Entry = serde_json::from_slice(&found.value)?;
        if is_known(&store, objects, &entry.run).await? {
            let same = entry.content == own.content;
            return Ok(if same { Claim::Known(entry.run) } else { Claim::Other(entry.run) });
        }
    }
    store.update(&name, serde_json::to_vec(&own)?.into(), revision).await?;
    Ok(Claim::New)
}

/// Whether anything is left of a run that was accepted.
async fn is_known(store: &kv::Store, objects: &Objects, run: &RunId) -> Result<bool, Cause> {
    let live = store.get(format!("run.{run}")).await?.is_some();
    Ok(live || record::load(objects, run).await?.is_some())
}

/// Digest of everything that makes a run what it is.
fn content(request: &SubmitRequest) -> String {
    let request = SubmitRequest { queue: QueueWish::default(), ..request.clone() };
    hex(&bus::encode(&request))
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes).trim_start_matches("sha256:").to_owned()
}

/// Removes keys that nobody will use again.
pub(super) async fn sweep(bus: &Bus, now_ms: u64) {
    if let Err(err) = try_sweep(bus, now_ms).await {
        debug!(error = %Chain(err.as_ref()), "old keys not removed");
    }
}

async fn try_sweep(bus: &Bus, now_ms: u64) -> Result<(), Cause> {
    let store = bus.jetstream().get_key_value(subjects::CONTROL_BUCKET).await?;
    let filter = format!("{}key.*", store.prefix);
    let found: Vec<(String, usize)> =
        store.stream.info_with_subjects(&filter).await?.try_collect().await?;
    for (subject, _) in found {
        let name = subject.trim_start_matches(&store.prefix).to_owned();
        let Some(value) = store.get(&name).await? else { continue };
        let entry = serde_json::from_slice::<Entry>(&value);
        if entry.map_or(true, |entry| now_ms.saturating_sub(entry.at_ms) > KEPT_MS) {
            store.purge(&name).await?;
        }
    }
    Ok(())
}
