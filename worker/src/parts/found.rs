//! The real parts, as far as this host has what they need.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::InstanceId;
use groundswell_common::instance_env::instance_env;
use groundswell_common::messages::RuntimeKind;
use groundswell_common::metrics::Shipper;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::{Metrics, MetricsSource, OpenSync, Opened, Parts, Servers, ShareSync};
use crate::config::WorkerConfig;
use crate::influx::line::Identity;
use crate::influx::{self, MetricsSink};
use crate::keeper::Keeper;
use crate::network::Network as _;
use crate::network::kernel::Kernel;
use crate::network::overlay;
use crate::network::switch::Switch;
use crate::runtime::docker::{DockerConfig, DockerRuntime};
use crate::runtime::netns::{NetnsConfig, NetnsRuntime};
use crate::runtime::{Runtime, RuntimeError};
use crate::sync::{RunSync, SyncSpec, Waiting};

/// How much of one instance's metrics is kept.
const METRICS_CAP: u64 = 64 << 20;
/// The file in the state directory that says where the overlay was.
const OVERLAY: &str = "overlay";
/// The most threads that carry packets.
const MOST_SWITCH_THREADS: usize = 8;

impl Parts {
    /// Finds the runtimes that work on this host, and why the others do not.
    ///
    /// # Errors
    /// When the data network cannot be started.
    pub async fn find(config: &WorkerConfig) -> anyhow::Result<Self> {
        Self::find_with(config, None).await
    }

    /// As [`Parts::find`]; instances live on with the keeper when this process is killed.
    ///
    /// # Errors
    /// As [`Parts::find`].
    pub async fn find_with(config: &WorkerConfig, keeper: Option<Keeper>) -> anyhow::Result<Self> {
        let mut runtimes: Vec<Arc<dyn Runtime>> = Vec::new();
        let mut notes = Vec::new();
        for kind in [RuntimeKind::Netns, RuntimeKind::Docker] {
            if !config.runtimes.is_empty() && !config.runtimes.contains(&kind) {
                continue;
            }
            match runtime(kind, config, keeper.clone()).await {
                Ok(runtime) => runtimes.push(runtime),
                Err(err) => {
                    let note = Chain(&err).to_string();
                    info!(runtime = kind.as_str(), error = note, "runtime does not work here");
                    notes.push(note);
                }
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let switch = Switch::new((cores / 2).clamp(1, MOST_SWITCH_THREADS))?;
        let switch = switch.with_overlay(overlay_address(config)?)?;
        // The next life takes the same port, where other workers send to.
        if let Some(address) = switch.overlay_address() {
            std::fs::write(config.state_dir.join(OVERLAY), address.to_string())?;
        }
        // What no instance may reach it is told with each share.
        let switch = switch.with_egress(BTreeSet::new());
        Ok(Self {
            runtimes,
            notes,
            network: Arc::new(switch),
            kernel: Arc::new(Kernel::new()),
            servers: Arc::new(Servers::of(config)),
            sync: Arc::new(BusSync),
            metrics: Arc::new(InfluxEndpoint { shipper: Shipper::off() }),
            shipper: Shipper::off(),
            keeper,
            env: instance_env,
        })
    }

    /// The same, with metrics going to a store.
    #[must_use]
    pub fn shipping(self, shipper: Shipper) -> Self {
        let endpoint = InfluxEndpoint { shipper: shipper.clone() };
        Self { metrics: Arc::new(endpoint), shipper, ..self }
    }
}

/// Where the overlay is bound to. Of any free port it is the one of an earlier life, if that is still free.
fn overlay_address(config: &WorkerConfig) -> anyhow::Result<SocketAddr> {
    let address = match config.overlay()? {
        Some(address) => address,
        None => {
            let address = overlay::address_towards(&config.bus.url).context(
                "failed to find the local address that reaches NATS: give --overlay-address",
            )?;
            SocketAddr::new(address, 0)
        }
    };
    let before = std::fs::read_to_string(config.state_dir.join(OVERLAY)).unwrap_or_default();
    let before = before.parse::<SocketAddr>().ok().filter(|before| {
        address.port() == 0 && before.ip() == address.ip() && UdpSocket::bind(before).is_ok()
    });
    Ok(before.unwrap_or(address))
}

async fn runtime(
    kind: RuntimeKind,
    config: &WorkerConfig,
    keeper: Option<Keeper>,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let worker = config.id.clone();
    let state_dir = config.state_dir.join(kind.as_str());
    match kind {
        RuntimeKind::Netns => {
            let itself = || PathBuf::from("/proc/self/exe");
            let spawner = config.spawner.clone().unwrap_or_else(itself);
            std::fs::create_dir_all(&state_dir).map_err(|source| RuntimeError::Host {
                doing: format!("create `{}`", state_dir.display()),
                source: source.into(),
            })?;
            let config = NetnsConfig { worker, state_dir, spawner };
            Ok(Arc::new(NetnsRuntime::with_keeper(config, keeper).await?))
        }
        RuntimeKind::Docker => {
            let config = DockerConfig { worker, state_dir, socket: None };
            Ok(Arc::new(DockerRuntime::connect(config).await?))
        }
    }
}

/// Sync over the bus.
struct BusSync;

#[async_trait]
impl OpenSync for BusSync {
    async fn open(&self, bus: Bus, spec: SyncSpec, tasks: &TaskTracker) -> anyhow::Result<Opened> {
        let (sync, events) = RunSync::open(bus, spec, tasks).await?;
        Ok((Arc::new(sync), events))
    }
}

#[async_trait]
impl ShareSync for RunSync {
    async fn serve(&self, instance: InstanceId, hostname: String, listener: OwnedFd) {
        Self::serve(self, instance, hostname, listener).await;
    }

    async fn network_ready(&self, instances: &[InstanceId]) {
        Self::network_ready(self, instances).await;
    }

    async fn configured(&self, instance: InstanceId, callback_state: &str) {
        Self::configured(self, instance, callback_state).await;
    }

    async fn gone(&self, instances: Vec<(InstanceId, String)>) {
        Self::gone(self, instances).await;
    }

    async fn close_instance(&self, instance: InstanceId) {
        Self::close_instance(self, instance).await;
    }

    async fn waiting(&self, instance: InstanceId) -> Vec<Waiting> {
        Self::waiting(self, instance).await
    }

    async fn has_connected(&self, instance: InstanceId) -> bool {
        Self::has_connected(self, instance).await
    }

    async fn close(&self) {
        Self::close(self.clone()).await;
    }
}

/// The Influx endpoint of an instance, kept in a file beside its logs and sent on.
struct InfluxEndpoint {
    shipper: Shipper,
}

impl Metrics for InfluxEndpoint {
    fn serve(
        &self,
        listener: OwnedFd,
        source: MetricsSource,
        end: CancellationToken,
        tasks: &TaskTracker,
    ) {
        let (labels, from) = (source.labels, source.source);
        let tags = [
            ("run", labels.run.to_string()),
            ("plan", labels.plan),
            ("case", labels.case),
            ("group", labels.group),
            ("worker", labels.worker.to_string()),
            ("branch", from.branch),
            ("commit", from.commit),
        ];
        let identity = Identity {
            tags: tags.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            instance: labels.instance.0,
        };
        let (sink, written) = MetricsSink::new(source.file, METRICS_CAP);
        let sink = sink.shipping(self.shipper.clone(), labels.run);
        tasks.spawn(async move {
            if let Err(err) = written.await {
                debug!(error = %err, "metrics are not kept");
            }
        });
        tasks.spawn(async move {
            if let Err(err) = influx::serve(listener, identity, sink, end).await {
                debug!(error = %err, "metrics are not taken");
            }
        });
    }
}
