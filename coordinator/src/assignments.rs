//! The stream that holds, for each worker, everything it should be doing.
//!
//! A message replaces the one before it only if that is still the one this coordinator knows: a leader that was
//! away for a while cannot overwrite what its successor has said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::header;
use async_nats::jetstream::context::{CreateStreamError, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Republish, StorageType};
use groundswell_common::bus::{self, Bus};
use groundswell_common::ids::WorkerId;
use groundswell_common::messages::Desired;
use groundswell_common::subjects;

/// The stream of assignments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Assignments {
    bus: Bus,
    /// The sequence of the last message to each worker.
    last: Arc<Mutex<BTreeMap<WorkerId, u64>>>,
}

/// Why a worker was not told.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// The server did not take the message.
    #[error("failed to publish the assignments of worker `{worker}`")]
    Publish {
        /// Which.
        worker: WorkerId,
        /// Why.
        #[source]
        source: PublishError,
    },
    /// What the worker was told last cannot be read.
    #[error("failed to read the assignments of worker `{worker}`")]
    Read {
        /// Which.
        worker: WorkerId,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A later leader has told the worker something.
    #[error("worker `{worker}` was told something by the leader of term {term}")]
    Deposed {
        /// Which.
        worker: WorkerId,
        /// That leader's term.
        term: u64,
    },
}

impl Assignments {
    /// Makes the stream, or takes the one that is there.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn open(bus: &Bus) -> Result<Self, CreateStreamError> {
        let config = Config {
            name: subjects::ASSIGN_STREAM.to_owned(),
            description: Some("everything each worker should be doing".to_owned()),
            subjects: vec![subjects::ASSIGN_ALL.to_owned()],
            max_messages_per_subject: 1,
            storage: StorageType::File,
            allow_direct: true,
            republish: Some(Republish {
                source: subjects::ASSIGN_ALL.to_owned(),
                destination: subjects::ASSIGNED_ALL.to_owned(),
                headers_only: false,
            }),
            ..Config::default()
        };
        bus.make_stream(config).await?;
        Ok(Self { bus: bus.clone(), last: Arc::default() })
    }

    /// Replaces what `worker` should be doing; returns the stream sequence the worker will know it by. One at a
    /// time for each worker.
    ///
    /// # Errors
    /// When the server does not acknowledge it, or a later leader has spoken.
    pub async fn publish(&self, worker: &WorkerId, desired: &Desired) -> Result<u64, AssignError> {
        let known = self.lock().get(worker).copied();
        let expected = match known {
            Some(sequence) => sequence,
            None => self.told(worker, desired.term).await?,
        };
        match self.replace(worker, desired, expected).await {
            Ok(sequence) => {
                self.lock().insert(worker.clone(), sequence);
                Ok(sequence)
            }
            Err(source) => {
                // What is there now may be this message without its acknowledgement, or another leader's.
                self.lock().remove(worker);
                if source.kind() == PublishErrorKind::WrongLastSequence {
                    self.told(worker, desired.term).await?;
                }
                Err(AssignError::Publish { worker: worker.clone(), source })
            }
        }
    }

    async fn replace(
        &self,
        worker: &WorkerId,
        desired: &Desired,
        expected: u64,
    ) -> Result<u64, PublishError> {
        let mut headers = bus::trace_headers();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let subject = subjects::assign(worker);
        let jetstream = self.bus.jetstream();
        let sent = jetstream.publish_with_headers(subject, headers, bus::encode(desired)).await?;
        Ok(sent.await?.sequence)
    }

    /// The sequence of what `worker` was told last, 0 for nothing.
    async fn told(&self, worker: &WorkerId, term: u64) -> Result<u64, AssignError> {
        let failed = |source| AssignError::Read { worker: worker.clone(), source };
        let stream = self.bus.jetstream().get_stream_no_info(subjects::ASSIGN_STREAM).await;
        let stream = stream.map_err(|err| failed(err.into()))?;
        let message = match stream.get_last_raw_message_by_subject(&subjects::assign(worker)).await
        {
            Ok(message) => message,
            Err(err) if matches!(err.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                return Ok(0);
            }
            Err(err) => return Err(failed(err.into())),
        };
        let said: Desired = bus::decode(&message.payload).map_err(|err| failed(err.into()))?;
        if said.term > term {
            return Err(AssignError::Deposed { worker: worker.clone(), term: said.term });
        }
        Ok(message.sequence)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkerId, u64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
