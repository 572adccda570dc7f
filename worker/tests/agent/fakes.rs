//! Sync, network and metrics that do what a test says.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use groundswell_common::bus::Bus;
use groundswell_common::fidelity::NetworkReport;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::NetworkConfig;
use groundswell_worker::network::links::Links;
use groundswell_worker::network::overlay::Others;
use groundswell_worker::network::{Attachment, Caps, Network, NetworkError};
use groundswell_worker::parts::{Metrics, MetricsSource, OpenSync, Opened, ShareSync};
use groundswell_worker::sync::{SyncEvent, SyncSpec, Waiting};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A sync that says what the test wants and records what it is told.
#[derive(Clone, Default)]
pub(crate) struct FakeSync(Arc<SyncState>);

#[derive(Default)]
pub(crate) struct SyncState {
    events: Mutex<Option<mpsc::Sender<SyncEvent>>>,
    calls: Mutex<Vec<String>>,
    barrier: Mutex<Option<String>>,
}

impl FakeSync {
    pub(crate) fn sender(&self) -> mpsc::Sender<SyncEvent> {
        self.0.events.lock().expect("not poisoned").clone().expect("the sync is open")
    }

    pub(crate) async fn tell(&self, event: SyncEvent) {
        self.sender().send(event).await.expect("the supervisor listens");
    }

    pub(crate) fn tell_now(&self, event: SyncEvent) {
        self.sender().try_send(event).expect("there is room");
    }

    pub(crate) fn waits_in(&self, state: &str) {
        *self.0.barrier.lock().expect("not poisoned") = Some(state.to_owned());
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.calls.lock().expect("not poisoned").clone()
    }

    pub(crate) fn call(&self, text: String) {
        self.0.calls.lock().expect("not poisoned").push(text);
    }
}

#[async_trait]
impl OpenSync for FakeSync {
    async fn open(&self, _: Bus, _: SyncSpec, _: &TaskTracker) -> anyhow::Result<Opened> {
        let (events, heard) = mpsc::channel(64);
        *self.0.events.lock().expect("not poisoned") = Some(events);
        Ok((Arc::new(self.clone()), heard))
    }
}

#[async_trait]
impl ShareSync for FakeSync {
    async fn serve(&self, _: InstanceId, _: String, _: OwnedFd) {}

    async fn network_ready(&self, instances: &[InstanceId]) {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        self.call(format!("network_ready {}", ids.join(" ")));
    }

    async fn configured(&self, instance: InstanceId, callback_state: &str) {
        self.call(format!("configured {instance} {callback_state}"));
    }

    async fn gone(&self, instances: Vec<(InstanceId, String)>) {
        for (instance, reason) in instances {
            self.call(format!("gone {instance} {reason}"));
        }
    }

    async fn close_instance(&self, _: InstanceId) {}

    async fn waiting(&self, _: InstanceId) -> Vec<Waiting> {
        let barrier = self.0.barrier.lock().expect("not poisoned").clone();
        let waiting = |state| Waiting {
            state,
            count: 1,
            target: 2,
            missing: vec![InstanceId(1)],
            missing_total: 1,
            felled: Vec::new(),
        };
        barrier.into_iter().map(waiting).collect()
    }

    async fn close(&self) {}
}

pub(crate) struct FakeNetwork;

#[async_trait]
impl Network for FakeNetwork {
    fn caps(&self) -> Caps {
        Caps {
            delay: true,
            bandwidth: true,
            impairment: true,
            rules: true,
            egress: false,
            workers: false,
            paths: true,
            nat: false,
        }
    }

    async fn open(&self, _: &RunId, _: ipnet::Ipv4Net, _: u64) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn connect(&self, _: &RunId, _: Others) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn relink(&self, _: &RunId, _: Arc<Links>) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn attach(&self, _: Attachment) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn configure(
        &self,
        _: &RunId,
        _: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Vec<String>, NetworkError> {
        match config.ipv4 {
            Some(address) if address.octets()[3] == 0 => {
                Err(NetworkError::Refused(format!("{address} is not an address of an instance")))
            }
            Some(_) | None => Ok(Vec::new()),
        }
    }

    async fn address(&self, _: &RunId, _: InstanceId) -> Option<Ipv4Addr> {
        None
    }

    async fn report(&self, _: &RunId) -> Option<NetworkReport> {
        let mut report = NetworkReport::default();
        report.fates.insert("delivered".to_owned(), 7);
        Some(report)
    }

    async fn close(&self, _: &RunId) {}
}

pub(crate) struct NoMetrics;

impl Metrics for NoMetrics {
    fn serve(&self, _: OwnedFd, _: MetricsSource, _: CancellationToken, _: &TaskTracker) {}
}
