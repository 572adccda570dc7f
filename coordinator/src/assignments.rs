//! The stream that holds, for each worker, everything it should be doing.

use groundswell_common::bus::{self, Bus};
use groundswell_common::ids::WorkerId;
use groundswell_common::messages::Desired;
use groundswell_common::subjects;

use async_nats::jetstream::context::{CreateStreamError, PublishError};
use async_nats::jetstream::stream::{Config, Republish, StorageType};

/// The stream of assignments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Assignments {
    bus: Bus,
}

/// Why a worker was not told.
#[derive(Debug, thiserror::Error)]
#[error("failed to publish the assignments of worker `{worker}`")]
pub struct AssignError {
    /// Which.
    pub worker: WorkerId,
    /// Why.
    #[source]
    pub source: PublishError,
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
        bus.jetstream().create_or_update_stream(config).await?;
        Ok(Self { bus: bus.clone() })
    }

    /// Replaces what `worker` should be doing; returns the stream sequence the worker will know it by.
    ///
    /// # Errors
    /// When the server does not acknowledge it.
    pub async fn publish(&self, worker: &WorkerId, desired: &Desired) -> Result<u64, AssignError> {
        let failed = |source| AssignError { worker: worker.clone(), source };
        let sent = self
            .bus
            .jetstream()
            .publish_with_headers(
                subjects::assign(worker),
                bus::trace_headers(),
                bus::encode(desired),
            )
            .await
            .map_err(failed)?;
        Ok(sent.await.map_err(failed)?.sequence)
    }
}
