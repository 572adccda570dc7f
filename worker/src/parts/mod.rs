//! The parts a worker is put together from, and the seams they are joined at.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use groundswell_common::bus::Bus;
use groundswell_common::ids::InstanceId;
use groundswell_common::messages::{Assignment, InstancePlace};
use groundswell_common::metrics::Shipper;
use groundswell_common::run::SourceInfo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::keeper::Keeper;
use crate::network::Network;
use crate::runtime::{InstanceLabels, Runtime};
use crate::sync::{SyncEvent, SyncSpec, Waiting};

mod found;
mod servers;

pub(crate) use servers::addresses_of;
pub use servers::{Servers, UnknownServer};

/// Everything the worker process is wrapped around.
#[derive(Clone)]
pub struct Parts {
    /// The runtimes that work on this host.
    pub runtimes: Vec<Arc<dyn Runtime>>,
    /// For each runtime that does not work, why.
    pub notes: Vec<String>,
    /// The data network.
    pub network: Arc<dyn Network>,
    /// The data network of runs that ask for the kernel's data path.
    pub kernel: Arc<dyn Network>,
    /// The servers it depends on.
    pub servers: Arc<Servers>,
    /// Opens the sync of a run.
    pub sync: Arc<dyn OpenSync>,
    /// Takes what instances write to the Influx endpoint.
    pub metrics: Arc<dyn Metrics>,
    /// Where metrics go from here.
    pub shipper: Shipper,
    /// What instances live on with when this process is killed; without it they end with it.
    pub keeper: Option<Keeper>,
    /// The environment of an instance.
    pub env: fn(&Assignment, InstancePlace) -> BTreeMap<String, String>,
}

/// What opening a sync gives: the handle, and what is heard from it in log order.
pub type Opened = (Arc<dyn ShareSync>, mpsc::Receiver<SyncEvent>);

/// Opens the sync of one attempt of a run.
#[async_trait]
pub trait OpenSync: Send + Sync {
    /// Binds to the run's log and materialises it.
    ///
    /// # Errors
    /// When there is no such log or the bus does not answer.
    async fn open(&self, bus: Bus, spec: SyncSpec, tasks: &TaskTracker) -> anyhow::Result<Opened>;
}

/// The sync of one attempt of a run, as its supervisor uses it.
#[async_trait]
pub trait ShareSync: Send + Sync {
    /// Serves the instance behind a listening socket.
    async fn serve(&self, instance: InstanceId, hostname: String, listener: OwnedFd);
    /// Signals `network-initialized` for instances whose network is ready.
    async fn network_ready(&self, instances: &[InstanceId]);
    /// Signals that a network configuration holds.
    async fn configured(&self, instance: InstanceId, callback_state: &str);
    /// Writes down that instances are gone, with the reason.
    async fn gone(&self, instances: Vec<(InstanceId, String)>);
    /// Closes an instance's sockets.
    async fn close_instance(&self, instance: InstanceId);
    /// The barriers an instance waits in.
    async fn waiting(&self, instance: InstanceId) -> Vec<Waiting>;
    /// Whether the instance has ever connected.
    async fn has_connected(&self, instance: InstanceId) -> bool {
        let _ = instance;
        true
    }
    /// Ends it.
    async fn close(&self);
}

/// Takes what an instance writes to the Influx endpoint inside its namespace.
pub trait Metrics: Send + Sync {
    /// Serves one instance until `end`.
    fn serve(
        &self,
        listener: OwnedFd,
        source: MetricsSource,
        end: CancellationToken,
        tasks: &TaskTracker,
    );
}

/// Whose metrics they are, and where they are kept.
#[derive(Debug, Clone)]
pub struct MetricsSource {
    /// Whose.
    pub labels: InstanceLabels,
    /// Where the software under test comes from.
    pub source: SourceInfo,
    /// The file they are kept in, line protocol.
    pub file: PathBuf,
}
