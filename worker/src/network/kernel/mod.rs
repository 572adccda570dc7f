//! The alternative data network: the kernel routes, shapes and filters.
//!
//! ```text
//! instance ── eth1 (HTB, netem) ── i0 (HTB) ─┐
//! instance ── eth1 (HTB, netem) ── i1 (HTB) ─┤ router of the run: routes, nftables
//! ```
//!
//! A run has one router, a network namespace of the worker. What an instance sends is shaped on its own
//! interface, where it cannot change it; what it receives is limited on the router's. The namespace goes with
//! the last descriptor of it, so nothing is left of a worker that was killed.
//!
//! ```text
//! can        what this kernel can do, and the refusal of what it cannot
//! tc         what HTB and netem are told                     pure
//! intervals  rules by prefix as ranges of addresses          pure
//! nftables   filters, and which class an address has         pure
//! links      interfaces, addresses, routes, counters by netlink
//! shaping    the queues of one interface
//! steering   one core for each interface, which keeps packets in order
//! run        the router of a run and the links of its instances
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use groundswell_common::fidelity::NetworkReport;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{NetworkConfig, RoutingPolicy};
use groundswell_common::network::NetworkPlan;
use ipnet::Ipv4Net;
use tokio::time::{Instant, sleep};
use tracing::debug;

use self::can::Can;
use self::run::Run;
use super::links::Links;
use super::overlay::Others;
use super::thread::host;
use super::{Attachment, Caps, Expected, Network, NetworkError, rules};

mod can;
mod intervals;
mod links;
mod nftables;
mod run;
mod shaping;
mod steering;
mod tc;

/// How long the kernel may take until packets pass a new interface.
const READY: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// The kernel as a data network. What it can do here is found out when it is first asked.
#[derive(Debug, Default)]
pub struct Kernel {
    can: Arc<OnceLock<Can>>,
    runs: Mutex<BTreeMap<RunId, Arc<Mutex<Run>>>>,
}

impl Kernel {
    /// The kernel of this host.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    async fn can(&self) -> Result<Can, NetworkError> {
        let can = Arc::clone(&self.can);
        blocking(move || Ok(can.get_or_init(Can::probe).clone())).await
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<Mutex<Run>>>> {
        // Nothing panics between two changes of the table.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the network of a run, one after the other.
    async fn within<T: Send + 'static>(
        &self,
        run: &RunId,
        act: impl FnOnce(&mut Run) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let found = self.runs().get(run).map(Arc::clone);
        let Some(found) = found else {
            return Err(NetworkError::Refused(format!(
                "the data network of run {run} is not open"
            )));
        };
        blocking(move || act(&mut found.lock().unwrap_or_else(PoisonError::into_inner))).await
    }

    /// Waits until the kernel lets packets pass an interface that it has just taken up.
    async fn ready(&self, run: &RunId, instance: InstanceId) -> Result<(), NetworkError> {
        let limit = Instant::now() + READY;
        while !self.within(run, move |run| run.is_ready(instance)).await? {
            if Instant::now() > limit {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(host("wait for an interface")(late));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// Does what waits for the kernel where waiting delays nobody.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|err| Err(host("work on the data network")(std::io::Error::other(err))))
}

#[async_trait]
impl Network for Kernel {
    fn caps(&self) -> Caps {
        let can = self.can.get_or_init(Can::probe);
        let works = can.refused.is_none();
        Caps {
            delay: can.netem,
            bandwidth: works,
            impairment: can.netem,
            rules: works,
            egress: false,
            workers: false,
            paths: false,
            nat: false,
        }
    }

    async fn check(&self, plan: &NetworkPlan) -> Result<(), NetworkError> {
        self.can().await?.check_plan(plan)
    }

    async fn connect(&self, _: &RunId, _: Others) -> Result<(), NetworkError> {
        Err(can::refuse("connect several workers in the kernel", "run on one worker, or "))
    }

    async fn open(&self, run: &RunId, subnet: Ipv4Net, seed: u64) -> Result<(), NetworkError> {
        let can = self.can().await?;
        can.check()?;
        if self.runs().contains_key(run) {
            return Err(NetworkError::Refused(format!("run {run} is open already")));
        }
        let opened = blocking(move || Run::open(subnet, &can, seed)).await?;
        self.runs().insert(run.clone(), Arc::new(Mutex::new(opened)));
        Ok(())
    }

    async fn relink(&self, run: &RunId, links: Arc<Links>) -> Result<(), NetworkError> {
        self.within(run, move |run| run.relink(links)).await
    }

    async fn attach(&self, attachment: Attachment) -> Result<(), NetworkError> {
        let Attachment { run, instance, device, address } = attachment;
        self.within(&run, move |run| run.attach(instance, device, address)).await?;
        self.ready(&run, instance).await
    }

    async fn configure(
        &self,
        run: &RunId,
        instance: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Vec<String>, NetworkError> {
        self.can().await?.check_config(config)?;
        let asked = config.clone();
        self.within(run, move |run| run.configure(instance, &asked)).await?;
        self.ready(run, instance).await?;
        let mut warnings = rules::warnings(config);
        if config.routing_policy == RoutingPolicy::AllowAll {
            warnings.push(
                "Internet egress (routing_policy allow_all) is not available on the kernel's data path: instances reach each other only"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }

    async fn readdress(
        &self,
        run: &RunId,
        instance: InstanceId,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        self.within(run, move |run| run.readdress(instance, address)).await?;
        self.ready(run, instance).await
    }

    async fn address(&self, run: &RunId, instance: InstanceId) -> Option<Ipv4Addr> {
        self.within(run, move |run| Ok(run.address(instance))).await.ok()?
    }

    fn expected(&self, run: &RunId, from: InstanceId, to: InstanceId) -> Option<Expected> {
        let run = self.runs().get(run).map(Arc::clone)?;
        // While the network is being changed nothing is expected of it.
        run.try_lock().ok()?.expected(from, to)
    }

    async fn report(&self, run: &RunId) -> Option<NetworkReport> {
        let report = self.within(run, |run| run.report()).await;
        report.inspect_err(|err| debug!(error = %err, "the network of a run is not reported")).ok()
    }

    async fn close(&self, run: &RunId) {
        let closed = self.runs().remove(run);
        // Whoever still uses it drops it last; and a drop does not panic.
        let _ = tokio::task::spawn_blocking(move || drop(closed)).await;
    }
}
