//! The sync log of one attempt of a run: what is in it, and how the coordinator makes, marks and deletes it.
//!
//! ```text
//! bucket  gs_sync_<run>_<attempt>, a stream whose sequence numbers are the order of everything
//! key     <writer>.<epoch>.<no>        one batch of a worker
//!         =coordinator.0.<digest>      records of the coordinator; no worker id contains `=`
//! value   Batch, MessagePack with positional fields
//! ```
//!
//! A run's own prefix (`run:<R>:plan:<P>:case:<C>:`) is left out of keys, and each batch carries a table of
//! the keys it uses, so that ten thousand signals take about 100 kB.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::debug;

use crate::bus::Bus;
use crate::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use crate::subjects::{sync_bucket, sync_republished};

/// Version of the format. A log of another version is not read.
pub const VERSION: u8 = 1;
/// Writer of the coordinator's records.
pub const COORDINATOR: &str = "=coordinator";
/// Largest batch a worker appends, before its last operation is added.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Most operations in a batch.
pub const MAX_BATCH_OPS: usize = 16_384;
/// Largest payload of one publish.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Largest log when nobody asked for another limit.
pub const DEFAULT_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// How long the server itself recognises a batch it has stored already. Correctness does not rest on it:
/// readers count each writer's batches.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);
/// Values kept of one key. A key is written once; a second copy may appear when an acknowledgement is lost for
/// longer than [`DUPLICATE_WINDOW`], and dropping the first would leave a hole.
const HISTORY: i64 = 64;
/// Room for the batch's frame around [`MAX_BATCH_BYTES`] and one last large payload.
const MAX_MESSAGE_BYTES: i32 = 1024 * 1024;
/// How often a control record is tried before its append fails.
const CONTROL_TRIES: u32 = 30;

/// What one writer appends at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<'a> {
    /// [`VERSION`].
    pub v: u8,
    /// A worker, or [`COORDINATOR`].
    pub writer: &'a str,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The batch's number within the epoch, from 1 without gaps.
    pub no: u64,
    /// What the writer had read of the log when it wrote.
    pub seen: Seen,
    /// Keys that operations name by their position here.
    #[serde(borrow)]
    pub keys: Vec<&'a str>,
    /// The operations, in order.
    #[serde(borrow)]
    pub ops: Vec<Op<'a>>,
}

/// A place in the log and the hash of everything up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Sequence in the stream; 0 is nothing.
    pub seq: u64,
    /// See [`rolling_hash`].
    pub hash: u64,
}

/// One operation. A key is a position in the batch's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op<'a> {
    /// An instance enters a state: instance, operation number, key.
    #[serde(rename = "s")]
    Signal(InstanceId, u64, u32),
    /// An instance appends to a topic: instance, operation number, key, JSON text.
    #[serde(rename = "p")]
    Publish(InstanceId, u64, u32, &'a str),
    /// As [`Op::Signal`], of a client that may repeat itself.
    #[serde(rename = "S")]
    NamedSignal(InstanceId, u64, u32, RequestName),
    /// As [`Op::Publish`], of a client that may repeat itself.
    #[serde(rename = "P")]
    NamedPublish(InstanceId, u64, u32, &'a str, RequestName),
    /// The platform signals once for an instance whose network is up: instance, key.
    #[serde(rename = "r")]
    Ready(InstanceId, u32),
    /// The platform signals for a network configuration: instance, which of its configurations, key.
    #[serde(rename = "c")]
    Configured(InstanceId, u64, u32),
    /// The first record of every log.
    #[serde(rename = "g")]
    Genesis {
        /// The run.
        run: RunId,
        /// Which attempt of it.
        attempt: Attempt,
        /// Every worker that may write.
        workers: Vec<WorkerId>,
    },
    /// Every instance is ready: they may begin.
    #[serde(rename = "b")]
    Start {
        /// The leader's term.
        term: u64,
    },
    /// Batches of `worker` below `epoch` no longer count.
    #[serde(rename = "f")]
    Fence {
        /// Whose.
        worker: WorkerId,
        /// The first epoch that counts.
        epoch: Epoch,
    },
    /// An instance has ended and will do nothing more.
    #[serde(rename = "o")]
    Gone {
        /// Which.
        instance: InstanceId,
        /// Why, for people.
        reason: &'a str,
    },
    /// The run is over; what follows does not count.
    #[serde(rename = "e")]
    Seal,
}

/// Names a request of an instance, so that it counts once however often it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestName {
    /// The client's session, which outlives its connections.
    pub session: u64,
    /// The request's number in the session. The numbers of what is appended only grow.
    pub number: u64,
    /// Whether the instance may signal the state only once, in whatever session.
    pub once: bool,
}

/// A record the coordinator appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Every instance is ready: they may begin.
    Start {
        /// The leader's term.
        term: u64,
    },
    /// Batches of `worker` below `epoch` no longer count.
    Fence {
        /// Whose.
        worker: WorkerId,
        /// The first epoch that counts.
        epoch: Epoch,
    },
    /// An instance has ended and will do nothing more.
    Gone {
        /// Which.
        instance: InstanceId,
        /// Why, for people.
        reason: String,
    },
    /// The run is over; what follows does not count.
    Seal,
}

/// Why the coordinator cannot use a log.
#[derive(Debug, thiserror::Error)]
pub enum SyncLogError {
    /// The stream cannot be made.
    #[error("failed to create the sync log `{bucket}`")]
    Create {
        /// Which.
        bucket: String,
        /// Why.
        #[source]
        source: jetstream::context::CreateStreamError,
    },
    /// A record was not stored.
    #[error("failed to append to the sync log `{bucket}`")]
    Append {
        /// To which.
        bucket: String,
        /// Why, at the last try.
        #[source]
        source: jetstream::context::PublishError,
    },
    /// The stream cannot be deleted.
    #[error("failed to delete the sync log `{bucket}`")]
    Delete {
        /// Which.
        bucket: String,
        /// Why.
        #[source]
        source: jetstream::context::DeleteStreamError,
    },
}

/// Creates the log of one attempt and writes its first record. Doing it twice changes nothing.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn create_log(
    bus: &Bus,
    run: &RunId,
    attempt: Attempt,
    max_bytes: u64,
    workers: &[WorkerId],
) -> Result<(), SyncLogError> {
    let bucket = sync_bucket(run, attempt);
    bus.make_stream(stream_config(run, attempt, max_bytes))
        .await
        .map_err(|source| SyncLogError::Create { bucket, source })?;
    let genesis = Op::Genesis { run: run.clone(), attempt, workers: workers.to_vec() };
    append(bus, run, attempt, vec![genesis]).await.map(drop)
}

/// Appends records of the coordinator and returns their place in the log. Appending the same records twice
/// stores them once, so a caller that does not know whether it succeeded repeats.
///
/// # Errors
/// When the server refuses, or has not answered in about half a minute.
pub async fn append_control(
    bus: &Bus,
    run: &RunId,
    attempt: Attempt,
    records: &[Control],
) -> Result<u64, SyncLogError> {
    let ops = records
        .iter()
        .map(|record| match record {
            Control::Start { term } => Op::Start { term: *term },
            Control::Fence { worker, epoch } => Op::Fence { worker: worker.clone(), epoch: *epoch },
            Control::Gone { instance, reason } => Op::Gone { instance: *instance, reason },
            Control::Seal => Op::Seal,
        })
        .collect();
    append(bus, run, attempt, ops).await
}

/// Deletes the log of one attempt; it is no error when there is none.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn delete_log(bus: &Bus, run: &RunId, attempt: Attempt) -> Result<(), SyncLogError> {
    let bucket = sync_bucket(run, attempt);
    match bus.jetstream().delete_stream(stream_name(run, attempt)).await {
        Ok(_) => Ok(()),
        Err(err) if is_absent(&err) => Ok(()),
        Err(source) => Err(SyncLogError::Delete { bucket, source }),
    }
}

/// The stream behind the bucket of one attempt.
#[must_use]
pub fn stream_name(run: &RunId, attempt: Attempt) -> String {
    format!("KV_{}", sync_bucket(run, attempt))
}

/// The subject that stores a batch.
#[must_use]
pub fn batch_subject(run: &RunId, attempt: Attempt, writer: &str, epoch: Epoch, no: u64) -> String {
    format!("$KV.{}.{writer}.{epoch}.{no}", sync_bucket(run, attempt))
}

/// Encodes a batch.
#[must_use]
pub fn encode(batch: &Batch<'_>) -> Bytes {
    rmp_serde::to_vec(batch).expect("a batch is plain data that always encodes").into()
}

/// Decodes a batch; its texts borrow from `value`.
///
/// # Errors
/// When it is not one.
pub fn decode(value: &[u8]) -> Result<Batch<'_>, rmp_serde::decode::Error> {
    rmp_serde::from_slice(value)
}

/// The hash of a log that ends with `value` at `seq` and had `hash` before.
///
/// It finds replicas that differ by damage, not by malice, and must be the same in every worker.
#[must_use]
pub fn rolling_hash(hash: u64, seq: u64, value: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    let mut hash = mix(mix(hash, seq), value.len() as u64);
    let (words, rest) = value.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0_u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}

fn stream_config(run: &RunId, attempt: Attempt, max_bytes: u64) -> Config {
    let bucket = sync_bucket(run, attempt);
    Config {
        name: stream_name(run, attempt),
        description: Some(format!("groundswell sync log of {run}, attempt {attempt}")),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        max_messages_per_subject: HISTORY,
        max_message_size: MAX_MESSAGE_BYTES,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        republish: Some(Republish {
            source: format!("$KV.{bucket}.>"),
            destination: format!("{}.>", sync_republished(run, attempt)),
            headers_only: false,
        }),
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}

async fn append(
    bus: &Bus,
    run: &RunId,
    attempt: Attempt,
    ops: Vec<Op<'_>>,
) -> Result<u64, SyncLogError> {
    let batch = Batch {
        v: VERSION,
        writer: COORDINATOR,
        epoch: Epoch(0),
        no: 0,
        seen: Seen::default(),
        keys: Vec::new(),
        ops,
    };
    let value = encode(&batch);
    let no = rolling_hash(0, 0, &value);
    let subject = batch_subject(run, attempt, COORDINATOR, Epoch(0), no);
    let mut tries = 0;
    loop {
        let message = PublishMessage::build().payload(value.clone()).message_id(&subject);
        let sent = bus.jetstream().send_publish(subject.clone(), message).await;
        let stored = match sent {
            Ok(acknowledged) => acknowledged.await,
            Err(err) => Err(err),
        };
        match stored {
            Ok(ack) => return Ok(ack.sequence),
            Err(source) => {
                tries += 1;
                if tries >= CONTROL_TRIES || is_full(&source) {
                    let bucket = sync_bucket(run, attempt);
                    return Err(SyncLogError::Append { bucket, source });
                }
                debug!(error = %source, tries, "control record not stored yet");
                sleep(backoff(tries)).await;
            }
        }
    }
}

/// How long to wait before a batch is sent again: 50 ms, doubling up to one second, and some chance.
#[must_use]
pub fn backoff(tries: u32) -> Duration {
    let step = 50_u64 << tries.saturating_sub(1).min(5);
    Duration::from_millis(step.min(1000) + rand::random_range(0..50))
}

/// Whether a failed publish means that the log has used up its size limit. A full disk has the same code
/// and other words.
#[must_use]
pub fn is_full(err: &jetstream::context::PublishError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(one) = cause {
        if let Some(refusal) = one.downcast_ref::<jetstream::Error>() {
            return refusal.error_code() == ErrorCode::STREAM_STORE_FAILED
                && refusal.to_string().contains("maximum bytes");
        }
        cause = one.source();
    }
    false
}

fn is_absent(err: &jetstream::context::DeleteStreamError) -> bool {
    use jetstream::context::GetStreamErrorKind::JetStream;
    matches!(err.kind(), JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let name = RequestName { session: u64::MAX, number: 9, once: true };
        let batch = Batch {
            v: VERSION,
            writer: "w1",
            epoch: Epoch(7),
            no: 3,
            seen: Seen { seq: 9, hash: u64::MAX },
            keys: vec!["states:ready", "topics:peers"],
            ops: vec![
                Op::Signal(InstanceId(3), 1, 0),
                Op::Publish(InstanceId(3), 2, 1, r#"{"a":1}"#),
                Op::NamedSignal(InstanceId(3), 3, 0, name),
                Op::NamedPublish(InstanceId(3), 4, 1, "7", name),
                Op::Ready(InstanceId(4), 0),
                Op::Configured(InstanceId(4), 1, 0),
                Op::Genesis {
                    run: "c8k3vmlrirtj2p8lcec0".parse().unwrap(),
                    attempt: Attempt::FIRST,
                    workers: vec!["w1".parse().unwrap()],
                },
                Op::Start { term: 5 },
                Op::Fence { worker: "w1".parse().unwrap(), epoch: Epoch(8) },
                Op::Gone { instance: InstanceId(3), reason: "out of memory" },
                Op::Seal,
            ],
        };
        assert_eq!(decode(&encode(&batch)).unwrap(), batch);
    }

    #[test]
    fn ten_thousand_signals_are_small() {
        let ops = (0..10_000).map(|i| Op::Signal(InstanceId(i), 20, 0)).collect();
        let batch = Batch {
            v: VERSION,
            writer: "w1",
            epoch: Epoch(7),
            no: 3,
            seen: Seen::default(),
            keys: vec!["states:ready"],
            ops,
        };
        assert!(encode(&batch).len() < 100_000, "{}", encode(&batch).len());
    }

    #[test]
    fn the_hash_depends_on_every_byte_and_on_the_place() {
        let hash = rolling_hash(0, 1, b"0123456789");
        assert_ne!(hash, rolling_hash(0, 2, b"0123456789"));
        assert_ne!(hash, rolling_hash(1, 1, b"0123456789"));
        assert_ne!(hash, rolling_hash(0, 1, b"0123456788"));
        assert_ne!(hash, rolling_hash(0, 1, b"0123456789\0"));
    }
}
