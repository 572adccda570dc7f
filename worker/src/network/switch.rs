//! The default data network: a switch in this process over the TUN devices of the instances.
//!
//! This file holds the control side: who is in which run, with which address. The packets are moved by
//! the threads of the data plane, one [`super::plane`] each. A change is handed to every thread and holds once all have
//! answered. Threads get changes in the order in which they were decided, because they are sent while the
//! control state is locked.
//!
//! IPv4 only, no broadcast and no multicast. `.0.1` of a run's subnet answers pings.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{NetworkConfig, RoutingPolicy};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::addresses::Addresses;
use super::counters::Counts;
use super::links::Links;
use super::plane::{Change, Command, Plane, Port, RunFacts, WAKE};
use super::rules::{self, Rules};
use super::{Attachment, Caps, Network, NetworkError, device};

/// Changes that may wait for a thread. Each caller waits for its own, so this is a bound on callers.
const COMMANDS: usize = 1024;

/// The userspace switch. Dropping it ends its threads.
#[derive(Debug)]
pub struct Switch {
    control: Mutex<Control>,
    threads: Vec<Thread>,
}

/// One thread of the data plane, seen from outside.
#[derive(Debug)]
struct Thread {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Control {
    runs: BTreeMap<RunId, Run>,
    /// Names given to runs and interfaces so far; none is given twice.
    named: u64,
}

#[derive(Debug)]
struct Run {
    key: u64,
    addresses: Addresses,
    ports: BTreeMap<InstanceId, Arc<Port>>,
    links: Arc<Links>,
}

/// What the threads will say about a change.
type Answers = Vec<oneshot::Receiver<Result<(), Errno>>>;

impl Switch {
    /// Starts a switch with so many data-plane threads, at least one.
    ///
    /// # Errors
    /// When this host gives no thread or no descriptor for it.
    pub fn new(threads: usize) -> Result<Self, NetworkError> {
        Self::spinning(threads, Duration::ZERO)
    }

    /// As [`Switch::new`]; the threads do not sleep but spin for the last `spin` before a packet is due.
    /// That is more punctual, for a thread that has a core to itself.
    ///
    /// # Errors
    /// As [`Switch::new`].
    pub fn spinning(threads: usize, spin: Duration) -> Result<Self, NetworkError> {
        let start = Instant::now();
        let threads = (0..threads.max(1))
            .map(|number| Thread::start(number, spin, start))
            .collect::<std::io::Result<_>>()
            .map_err(host("start the data plane"))?;
        Ok(Self { control: Mutex::default(), threads })
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
        self.threads
            .iter()
            .enumerate()
            .map(|(number, thread)| thread.tell(change(number)))
            .collect()
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
        let port = Arc::new(Port::new(token, instance, device));
        port.download.limit(run.links.access(instance).download_bps);
        run.ports.insert(instance, Arc::clone(&port));
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
        let Some(port) = run.ports.get(&instance).map(Arc::clone) else {
            return Err(NetworkError::Refused(format!("instance {instance} is not attached")));
        };
        let from = run.addresses.of(instance).expect("an attached instance has an address");
        let to = config.ipv4.unwrap_or(from);
        run.addresses.claim(instance, to).map_err(refused)?;
        let (key, owner) = (run.key, self.owner(port.token));
        self.tell(|thread| Change::Configure {
            run: key,
            port: Arc::clone(&port),
            from,
            to,
            present: config.enable,
            rules: (thread == owner).then(|| Rules::new(config)),
        })
    }
}

impl Run {
    /// Takes in what is decided for receivers and interfaces; senders hear of it in their threads.
    fn relink(&mut self, links: Arc<Links>) -> std::io::Result<()> {
        let before = std::mem::replace(&mut self.links, Arc::clone(&links));
        for (instance, port) in &self.ports {
            port.download.limit(links.access(*instance).download_bps);
            let carrier = links.has_carrier(*instance);
            if carrier != before.has_carrier(*instance) {
                device::set_carrier(&port.device, carrier)?;
            }
        }
        Ok(())
    }
}

impl Control {
    fn run(&mut self, run: &RunId) -> Result<&mut Run, NetworkError> {
        self.runs.get_mut(run).ok_or_else(|| {
            NetworkError::Refused(format!("the data network of run {run} is not open"))
        })
    }
}

impl Thread {
    fn start(number: usize, spin: Duration, start: Instant) -> std::io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let wake = Arc::new(wake);
        let (commands, inbox) = sync_channel(COMMANDS);
        let plane = Plane::new(epoll, Arc::clone(&wake), inbox, spin, start);
        let handle = std::thread::Builder::new()
            .name(format!("gs-net-{number}"))
            .spawn(move || plane.run())?;
        Ok(Self { commands, wake, handle: Some(handle) })
    }

    fn tell(&self, change: Change) -> Result<oneshot::Receiver<Result<(), Errno>>, NetworkError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command { change, done }).map_err(|_| dead())?;
        // It fails when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
        Ok(answer)
    }
}

/// Waits until every thread has done it.
async fn done(answers: Answers) -> Result<(), NetworkError> {
    for answer in answers {
        answer
            .await
            .map_err(|_| dead())?
            .map_err(|errno| host("watch the interface")(errno.into()))?;
    }
    Ok(())
}

fn refused(why: super::addresses::AddressRefused) -> NetworkError {
    NetworkError::Refused(why.to_string())
}

fn host(doing: &str) -> impl Fn(std::io::Error) -> NetworkError {
    move |source| NetworkError::Host { doing: doing.to_owned(), source }
}

fn dead() -> NetworkError {
    host("reach the data plane")(std::io::Error::other("its thread has ended"))
}

#[async_trait]
impl Network for Switch {
    fn caps(&self) -> Caps {
        Caps {
            delay: true,
            bandwidth: true,
            impairment: true,
            rules: true,
            egress: false,
            workers: false,
        }
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
            control.runs.insert(
                run.clone(),
                Run { key, addresses, ports: BTreeMap::new(), links: Arc::default() },
            );
            self.tell(|_| Change::Open(RunFacts { key, seed, gateway, broadcast }))?
        };
        done(answers).await
    }

    async fn relink(&self, run: &RunId, links: Arc<Links>) -> Result<(), NetworkError> {
        let answers = {
            let mut control = self.lock();
            let run = control.run(run)?;
            run.relink(Arc::clone(&links)).map_err(host("switch the carrier of an interface"))?;
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

    async fn configure(
        &self,
        run: &RunId,
        instance: InstanceId,
        config: &NetworkConfig,
    ) -> Result<Vec<String>, NetworkError> {
        let answers = self.reshape(run, instance, config)?;
        done(answers).await?;
        let mut warnings = rules::warnings(config);
        if config.routing_policy == RoutingPolicy::AllowAll {
            warnings.push(
                "Internet egress (routing_policy allow_all) is not available on this network: instances reach each other only"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }

    async fn address(&self, run: &RunId, instance: InstanceId) -> Option<Ipv4Addr> {
        self.lock().runs.get(run)?.addresses.of(instance)
    }

    async fn close(&self, run: &RunId) {
        let (run, answers) = {
            let mut control = self.lock();
            let Some(run) = control.runs.remove(run) else { return };
            let key = run.key;
            (run, self.tell(|_| Change::Close { run: key }))
        };
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
        for thread in &self.threads {
            // A thread that has ended needs no telling.
            let _ = thread.tell(Change::Stop);
        }
        for handle in self.threads.iter_mut().filter_map(|thread| thread.handle.take()) {
            let _ = handle.join();
        }
    }
}
