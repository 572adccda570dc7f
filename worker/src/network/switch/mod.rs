//! The default data network: a switch in this process over the TUN devices of the instances.
//!
//! This file holds the control side: who is in which run, with which address. The packets are moved by
//! the threads of the data plane, one [`super::plane`] each. A change is handed to every thread and holds once all have
//! answered. Threads get changes in the order in which they were decided, because they are sent while the
//! control state is locked.
//!
//! A run whose instances are on several workers has the other switches as [`super::overlay`] reaches them, and
//! the coordinator's word on who has which address.
//!
//! Each instance has one address, IPv4 and its counterpart in IPv6; a router of a NAT is besides the way to the IPv6
//! addresses of those behind it. `.0.1` of a run's subnet answers pings. What is sent to many reaches all of the run
//! where its links say so, and nobody elsewhere.

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use groundswell_common::fidelity::NetworkReport;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{NetworkConfig, RoutingPolicy};
use ipnet::Ipv4Net;
use tokio::time::Instant;
use tracing::debug;

use super::addresses::Addresses;
use super::counters::Counts;
use super::egress::gate::Gate;
use super::egress::{self, Egress, Grant};
use super::links::Links;
use super::overlay::counters::Underlay;
use super::overlay::end::End;
use super::overlay::{Others, UnderlayCounts};
use super::plane::{Change, RunFacts};
use super::port::Port;
use super::rules::{self, Rules};
use super::spin;
use super::thread::{Answers, Thread, done, host};
use super::{Attachment, Caps, Expected, Move, Network, NetworkError, device};
use state::{Connected, Control, Run, not_attached, refused};

/// The userspace switch. Dropping it ends its threads.
#[derive(Debug)]
pub struct Switch {
    control: Mutex<Control>,
    threads: Vec<Thread>,
    overlay: Option<End>,
    egress: Option<Egress>,
    /// All times of the data plane count from here.
    start: Instant,
}

impl Switch {
    /// Starts a switch with so many data-plane threads, at least one.
    ///
    /// # Errors
    /// When this host gives no thread or no descriptor for it.
    pub fn new(threads: usize) -> Result<Self, NetworkError> {
        Self::spinning(threads, spin::LONGEST)
    }

    /// As [`Switch::new`]; a thread that has a core to itself does not sleep but spins for the last `spin` before
    /// a packet is due, as [`super::spin`] has it.
    ///
    /// # Errors
    /// As [`Switch::new`].
    pub fn spinning(threads: usize, spin: Duration) -> Result<Self, NetworkError> {
        let start = Instant::now();
        let threads = (0..threads.max(1))
            .map(|number| Thread::start(number, spin, start))
            .collect::<std::io::Result<_>>()
            .map_err(host("start the data plane"))?;
        Ok(Self { control: Mutex::default(), threads, overlay: None, egress: None, start })
    }

    /// Adds the way to other workers: binds `address`, whose port may be 0, and starts the thread that reads it.
    ///
    /// # Errors
    /// When the address is not this host's, or this host gives no socket or thread for it.
    pub fn with_overlay(mut self, address: SocketAddr) -> Result<Self, NetworkError> {
        let doing = format!("open the overlay on {address}");
        self.overlay = Some(End::start(address, self.start).map_err(host(&doing))?);
        Ok(self)
    }

    /// Adds the way to hosts outside the data network, which tasks of the current tokio runtime carry. No instance
    /// reaches `protected`, servers of Groundswell's own.
    #[must_use]
    pub fn with_egress(mut self, protected: BTreeSet<Ipv4Addr>) -> Self {
        self.egress = Some(Egress::start(self.start, protected));
        self
    }

    /// Datagrams that came to the overlay and are damaged, none of ours, or of no run that is open here.
    #[must_use]
    pub fn strange(&self) -> u64 {
        self.overlay.as_ref().map_or(0, End::strange)
    }

    /// What became of the packets each instance of a run has sent, and of all together.
    #[must_use]
    pub fn counts(&self, run: &RunId) -> Option<(BTreeMap<InstanceId, Counts>, Counts)> {
        let control = self.lock();
        let each: BTreeMap<_, _> = control
            .runs
            .get(run)?
            .ports
            .iter()
            .map(|(instance, port)| (*instance, port.counters.read()))
            .collect();
        let mut all = Counts::default();
        each.values().for_each(|counts| all.add(counts));
        Some((each, all))
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        // Whoever panicked under the lock left at worst a claimed address behind.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that reads an interface.
    fn owner(&self, token: u64) -> usize {
        let threads = self.threads.len() as u64;
        usize::try_from(token % threads).expect("it is less than the number of threads")
    }

    /// Hands a change to every thread. To be called with the control state locked.
    fn tell(&self, change: impl Fn(usize) -> Change) -> Result<Answers, NetworkError> {
        self.all().enumerate().map(|(number, thread)| thread.tell(change(number))).collect()
    }

    /// The threads of the data plane, then the overlay's.
    fn all(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter().chain(self.overlay.as_ref().map(|overlay| &overlay.receiver))
    }

    /// Decides on the other workers of a run and hands them on.
    fn join(&self, run: &RunId, others: &Others) -> Result<Answers, NetworkError> {
        let Some(overlay) = &self.overlay else {
            return Err(NetworkError::Unsupported {
                what: "reach other workers".to_owned(),
                instead: "give the worker an overlay address".to_owned(),
            });
        };
        let mut control = self.lock();
        let run = control.run(run)?;
        if run.others.is_some() {
            return Err(NetworkError::Refused(
                "the run's workers are connected already".to_owned(),
            ));
        }
        if let Some(egress) = &self.egress {
            egress.protect(others.workers.iter().filter_map(|(worker, _)| match worker.ip() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }));
        }
        let counts = Arc::new(Underlay::default());
        let links = Arc::new(overlay.links(others, &counts));
        let mut instances = BTreeMap::new();
        for (&number, (away, address)) in &links.instances {
            run.addresses.seize(InstanceId(number), *address).map_err(refused)?;
            instances.insert(InstanceId(number), (Arc::clone(away), 0));
        }
        run.others = Some(Connected { attempt: others.attempt, instances, counts });
        let key = run.key;
        self.tell(|_| Change::Connect { run: key, neighbors: Arc::clone(&links) })
    }

    /// Decides on the new address of an instance of another worker and hands it on.
    fn relocate(&self, run: &RunId, place: Move) -> Result<Answers, NetworkError> {
        let mut control = self.lock();
        let Some(run) = control.runs.get_mut(run) else { return Ok(Answers::new()) };
        let Some(others) = &mut run.others else { return Ok(Answers::new()) };
        let Some((away, version)) = others.instances.get_mut(&place.instance) else {
            return Ok(Answers::new());
        };
        if others.attempt != place.attempt || *version >= place.version {
            return Ok(Answers::new());
        }
        let (from, to) = (run.addresses.of(place.instance), place.address);
        run.addresses.seize(place.instance, to).map_err(refused)?;
        *version = place.version;
        *run.reshaped.entry(place.instance).or_default() += 1;
        let (key, away) = (run.key, Arc::clone(away));
        self.tell(|_| Change::Place { run: key, away: Arc::clone(&away), from, to })
    }

    /// Decides on an attachment and hands it on.
    fn admit(&self, attachment: Attachment) -> Result<Answers, NetworkError> {
        let mut control = self.lock();
        control.named += 1;
        let token = control.named;
        let Attachment { run, instance, device, address } = attachment;
        let run = control.run(&run)?;
        if run.ports.contains_key(&instance) {
            return Err(NetworkError::Refused(format!("instance {instance} is attached already")));
        }
        run.addresses.claim(instance, address).map_err(refused)?;
        let gate = self.egress.as_ref().map_or_else(|| Gate::new(None, 0), Egress::gate);
        let port = Arc::new(Port::new(token, instance, device, gate));
        port.download.limit(run.links.access(instance).download_bps);
        port.offline.store(run.links.is_offline(instance), Ordering::Relaxed);
        run.ports.insert(instance, Arc::clone(&port));
        run.rules.insert(instance, Rules::plain(run.links.access(instance).sends));
        let (key, owner) = (run.key, self.owner(token));
        self.tell(|thread| Change::Attach {
            run: key,
            address,
            port: Arc::clone(&port),
            owner: thread == owner,
        })
    }

    /// Decides on a configuration and hands it on.
    fn reshape(
        &self,
        run: &RunId,
        instance: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Answers, NetworkError> {
        let mut control = self.lock();
        let run = control.run(run)?;
        let (port, from, to) = run.take_address(instance, config.ipv4)?;
        let rules = Rules::new(config);
        run.rules.insert(instance, rules.clone());
        let (key, owner) = (run.key, self.owner(port.token));
        self.tell(|thread| Change::Configure {
            run: key,
            port: Arc::clone(&port),
            from,
            to,
            present: config.enable,
            rules: (thread == owner).then(|| rules.clone()),
        })
    }

    /// Decides on another address and hands it on.
    fn move_to(
        &self,
        run: &RunId,
        instance: InstanceId,
        address: Ipv4Addr,
    ) -> Result<Answers, NetworkError> {
        let mut control = self.lock();
        let run = control.run(run)?;
        let (port, from, to) = run.take_address(instance, Some(address))?;
        let key = run.key;
        self.tell(|_| Change::Readdress { run: key, port: Arc::clone(&port), from, to })
    }
}

/// What the interfaces themselves have dropped; absent when this host does not tell.
async fn interface_drops(ports: Vec<Arc<Port>>) -> Option<u64> {
    let read = move || device::dropped(ports.iter().map(|port| &port.device));
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(drops)) => Some(drops),
        Ok(Err(err)) => {
            debug!(error = %err, "drops of the interfaces not read");
            None
        }
        Err(err) => {
            debug!(error = %err, "drops of the interfaces not read");
            None
        }
    }
}

#[async_trait]
impl Network for Switch {
    fn caps(&self) -> Caps {
        Caps {
            delay: true,
            bandwidth: true,
            impairment: true,
            rules: true,
            egress: self.egress.is_some(),
            workers: self.overlay.is_some(),
            paths: true,
            nat: true,
        }
    }

    fn overlay_address(&self) -> Option<SocketAddr> {
        self.overlay.as_ref().map(|overlay| overlay.address)
    }

    async fn connect(&self, run: &RunId, others: Others) -> Result<(), NetworkError> {
        let answers = self.join(run, &others)?;
        done(answers).await
    }

    async fn place(&self, run: &RunId, place: Move) -> Result<(), NetworkError> {
        let answers = self.relocate(run, place)?;
        done(answers).await
    }

    fn underlay(&self, run: &RunId) -> Option<UnderlayCounts> {
        Some(self.lock().runs.get(run)?.others.as_ref()?.counts.read())
    }

    async fn open(&self, run: &RunId, subnet: Ipv4Net, seed: u64) -> Result<(), NetworkError> {
        let answers = {
            let mut control = self.lock();
            if control.runs.contains_key(run) {
                return Err(NetworkError::Refused(format!("run {run} is open already")));
            }
            if subnet.prefix_len() > 29 {
                return Err(NetworkError::Refused(format!("subnet {subnet} has no room")));
            }
            control.named += 1;
            let key = control.named;
            let addresses = Addresses::new(subnet);
            let (gateway, broadcast) = (addresses.gateway(), addresses.broadcast());
            let (ports, rules, links, reshaped) = Default::default();
            let (others, relinked) = (None, 0);
            let opened = Run { key, addresses, ports, rules, others, links, relinked, reshaped };
            control.runs.insert(run.clone(), opened);
            self.tell(|_| Change::Open(RunFacts { key, seed, subnet, gateway, broadcast }))?
        };
        done(answers).await
    }

    async fn relink(&self, run: &RunId, links: Arc<Links>) -> Result<(), NetworkError> {
        let answers = {
            let mut control = self.lock();
            let run = control.run(run)?;
            run.relink(Arc::clone(&links)).map_err(host("switch the carrier of an interface"))?;
            run.relinked += 1;
            let key = run.key;
            self.tell(|_| Change::Relink { run: key, links: Arc::clone(&links) })?
        };
        done(answers).await
    }

    async fn attach(&self, attachment: Attachment) -> Result<(), NetworkError> {
        let (run, instance) = (attachment.run.clone(), attachment.instance);
        let answers = self.admit(attachment)?;
        let attached = done(answers).await;
        if attached.is_err()
            && let Ok(run) = self.lock().run(&run)
        {
            run.ports.remove(&instance);
            run.addresses.release(instance);
        }
        attached
    }

    async fn lead(
        &self,
        run: &RunId,
        instance: InstanceId,
        behind: Vec<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        let answers = {
            let mut control = self.lock();
            let run = control.run(run)?;
            let holder = run.holder(instance).ok_or_else(|| not_attached(instance))?;
            behind.iter().for_each(|address| run.addresses.keep(instance, *address));
            let (run, behind): (_, Arc<[_]>) = (run.key, behind.into());
            self.tell(|_| {
                let (holder, behind) = (holder.clone(), Arc::clone(&behind));
                Change::Lead { run, holder, behind }
            })?
        };
        done(answers).await
    }

    async fn configure(
        &self,
        run: &RunId,
        instance: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Vec<String>, NetworkError> {
        let answers = self.reshape(run, instance, config)?;
        done(answers).await?;
        let mut warnings = rules::warnings(config);
        let allow = config.routing_policy == RoutingPolicy::AllowAll;
        if allow && self.egress.is_none() {
            warnings.push(
                "Internet egress (routing_policy allow_all) is not available on this network: instances reach each other only"
                    .to_owned(),
            );
        } else if let Some(port) = self.lock().run(run)?.ports.get(&instance) {
            port.gate.change(|grant| grant.allow = allow);
        }
        Ok(warnings)
    }

    async fn permit(
        &self,
        run: &RunId,
        instance: InstanceId,
        grant: Grant,
        rate_bps: u64,
    ) -> Result<(), NetworkError> {
        if self.egress.is_none() && grant.is_open() {
            return Err(egress::unsupported());
        }
        let mut control = self.lock();
        let Some(port) = control.run(run)?.ports.get(&instance) else {
            return Err(not_attached(instance));
        };
        port.gate.limit(rate_bps);
        port.gate.change(|now| *now = grant);
        Ok(())
    }

    fn protect(&self, hosts: &BTreeSet<Ipv4Addr>) {
        if let Some(egress) = &self.egress {
            egress.protect(hosts.iter().copied());
        }
    }

    async fn reaches_internet(&self, run: &RunId, instance: InstanceId) -> bool {
        let mut control = self.lock();
        let port = control.run(run).ok().and_then(|run| run.ports.get(&instance));
        port.is_some_and(|port| port.gate.reaches_internet())
    }

    async fn readdress(
        &self,
        run: &RunId,
        instance: InstanceId,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let answers = self.move_to(run, instance, address)?;
        done(answers).await
    }

    async fn address(&self, run: &RunId, instance: InstanceId) -> Option<Ipv4Addr> {
        self.lock().runs.get(run)?.addresses.of(instance)
    }

    fn expected(&self, run: &RunId, from: InstanceId, to: InstanceId) -> Option<Expected> {
        self.lock().runs.get_mut(run)?.expected(from, to)
    }

    async fn report(&self, run: &RunId) -> Option<NetworkReport> {
        let into = NetworkReport { interface_drops: Some(0), ..NetworkReport::default() };
        let into = Arc::new(Mutex::new(into));
        let (ports, answers) = {
            let mut control = self.lock();
            let run = control.run(run).ok()?;
            let (key, ports) = (run.key, run.ports.values().cloned().collect::<Vec<_>>());
            let answers = self.tell(|_| Change::Measure { run: key, into: Arc::clone(&into) });
            (ports, answers.ok()?)
        };
        done(answers).await.ok()?;
        let mut report = std::mem::take(&mut *into.lock().unwrap_or_else(PoisonError::into_inner));
        for port in &ports {
            for (fate, count) in port.counters.read().named() {
                *report.fates.entry(fate.to_owned()).or_default() += count;
            }
        }
        report.interface_drops = interface_drops(ports).await;
        Some(report)
    }

    async fn close(&self, run: &RunId) {
        let (run, answers) = {
            let mut control = self.lock();
            let Some(run) = control.runs.remove(run) else { return };
            let key = run.key;
            (run, self.tell(|_| Change::Close { run: key }))
        };
        for port in run.ports.values() {
            port.gate.change(|grant| *grant = Grant::default());
        }
        // A dead thread holds nothing that would have to be given back.
        if let Ok(answers) = answers {
            let _ = done(answers).await;
        }
        let closing = tokio::task::spawn_blocking(move || {
            run.ports.into_values().filter_map(Arc::into_inner).for_each(|port| {
                device::close(port.device);
            });
        });
        // It does not panic; and if it did, the devices would be closed all the same.
        let _ = closing.await;
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for thread in self.all() {
            // A thread that has ended needs no telling.
            let _ = thread.tell(Change::Stop);
        }
        let receiver = self.overlay.as_mut().map(|overlay| &mut overlay.receiver);
        let threads = self.threads.iter_mut().chain(receiver);
        for handle in threads.filter_map(|thread| thread.handle.take()) {
            let _ = handle.join();
        }
    }
}
