//! Coordination between instances: the gateway they talk to, and the replicated log behind it.
//!
//! ```text
//! protocol   the Testground wire format, in and out (pure)
//! websocket  frames and the handshake (pure)
//! lifecycle  what instances say about themselves on `run_events` (pure)
//! log        the replicated log's state machine (pure), which fills
//! tables     states and topics (pure)
//! requests   requests that clients may make again (pure)
//! meter      how much an instance has asked for (pure)
//! outbox     what the instances want appended, until it is in the log (pure)
//! gateway    the handle, and the thread that owns all sockets and the log
//! kv         writer and follower of the run's KV bucket
//! connections   who is connected, for the worker's next life
//! ```

pub(crate) mod connections;
mod gateway;
mod kv;
pub(crate) mod lifecycle;
mod log;
mod meter;
mod outbox;
mod protocol;
mod requests;
mod tables;
mod websocket;

pub use gateway::{RunSync, SyncError};
pub use meter::SyncLimits;

use std::path::PathBuf;

use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::link::{InvalidNetworkConfig, NetworkConfig};

/// What the sync of one attempt of a run needs to know.
#[derive(Debug, Clone)]
pub struct SyncSpec {
    /// The run.
    pub run: RunId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// `TEST_PLAN`, part of every key.
    pub plan: String,
    /// `TEST_CASE`, part of every key.
    pub case: String,
    /// This worker.
    pub worker: WorkerId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Every worker that takes part. Batches of others are ignored.
    pub workers: Vec<WorkerId>,
    /// Instances in the whole run.
    pub total_instances: u32,
    /// The file in which it is written down who is connected, if anybody may ask.
    pub connections: Option<PathBuf>,
    /// What one instance may ask for.
    pub limits: SyncLimits,
}

/// What the supervisor of a share hears from its sync, in log order.
#[derive(Debug, Clone, PartialEq)]
pub enum SyncEvent {
    /// The start record was seen: every instance of the run is ready.
    Started,
    /// A local instance published a lifecycle event.
    Said {
        /// Which instance.
        instance: InstanceId,
        /// What.
        event: LifecycleEvent,
    },
    /// A network configuration was published for a local instance. Apply it, then call
    /// `RunSync::configured` with its callback state.
    Network {
        /// Which instance.
        instance: InstanceId,
        /// The configuration, or why it cannot be carried out.
        config: Result<NetworkConfig, InvalidNetworkConfig>,
    },
    /// An instance has asked for more than it may. Its calls are answered with an error from here on.
    Excess {
        /// Which instance.
        instance: InstanceId,
        /// What was too much.
        reason: String,
    },
    /// Something people should know, without consequence for the outcome.
    Warning(String),
    /// The log cannot be trusted any more, or its quota is used up. Every open call has been answered with
    /// an error, and nothing follows.
    Broken {
        /// Why.
        reason: String,
        /// Whether the plan is the cause (quota), and not NATS.
        fault_of_plan: bool,
    },
}

/// A lifecycle event of an instance, as its SDK published it on `run_events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// It started.
    Start,
    /// A message for people.
    Message(String),
    /// A stage begins.
    StageStart(String),
    /// A stage ends.
    StageEnd(String),
    /// It succeeded.
    Success,
    /// It failed.
    Failure(String),
    /// It crashed.
    Crash {
        /// What happened.
        error: String,
        /// Where.
        stacktrace: String,
    },
}

/// Begins the reason of an instance that the run's narrative has ended for good.
pub(crate) const FELLED: &str = "killed by the narrative";

/// A barrier an instance waits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The state's name, without the run's prefix.
    pub state: String,
    /// How many have signalled it.
    pub count: u64,
    /// How many it waits for.
    pub target: u64,
    /// Instances of the run that have not signalled it, at most the first 10.
    pub missing: Vec<InstanceId>,
    /// How many are missing in all.
    pub missing_total: u64,
    /// Those of the missing that the run's narrative has ended for good, and when.
    pub felled: Vec<(InstanceId, String)>,
}

impl Waiting {
    /// A missing instance, and why it is if that is known.
    pub(crate) fn name(&self, missing: InstanceId) -> String {
        match self.felled.iter().find(|(id, _)| *id == missing) {
            Some((id, reason)) => format!("{id} [{reason}]"),
            None => missing.to_string(),
        }
    }
}
