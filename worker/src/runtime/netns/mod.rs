//! Makes instances without Docker: a process in namespaces and a cgroup of its own.
//!
//! ```text
//! worker ──socket──► spawner ──clone──► init (PID 1 of the instance) ──fork──► plan
//!    └────────────────channel─────────────┘
//! ```
//!
//! The [`spawner`] is a small process beside the worker that makes the instances; each instance's [`init`]
//! prepares itself, in parallel with others, and talks to the worker over a channel of its own. The routers of
//! NATs are kept by processes like it. Nothing is
//! mounted, named or left where the host could see it, except cgroups and the unpacked images.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use groundswell_common::chain::Chain;
use groundswell_common::ids::WorkerId;
use groundswell_common::messages::{ImageKind, ImageRef, RuntimeKind};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::cgroup::Cgroups;
use super::{
    Behind, Created, Instance, InstanceLabels, InstanceSpec, Nat, Place, Runtime, RuntimeError,
    ShareKey, StoredImage, Trace, attempt_of,
};
use crate::keeper::{Deposit, Keeper};
use crate::network::nat::TreeSpec;
use crate::network::wire::{NameSockets, Wired};
use channel::{
    Failure, FromInit, Hello, Image, InitSpec, MAX_MESSAGE, Request, make_room, receive, send_bytes,
};
use images::Images;
use instance::{Channel, NetnsInstance};
use nat::Kept;
pub use spawner::spawner_main_if_asked;

pub(crate) mod channel;
mod datasets;
mod images;
mod init;
mod instance;
mod nat;
mod process;
mod root;
mod seccomp;
mod spawner;
pub(crate) mod sys;

/// How long the spawner may take to be ready; most of it is for the one before to clean up.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
/// The name under which the keeper has the spawner.
const DEPOSIT: &str = "netns";
/// Instances prepared at the same time, for each processor. One waits some milliseconds for the kernel's RCU when
/// it leaves the host's root, and others use the processor meanwhile; more only queue at the kernel's locks.
const AT_ONCE_PER_CPU: usize = 4;

/// What the runtime needs to know.
#[derive(Debug, Clone)]
pub struct NetnsConfig {
    /// Whose instances it makes; cgroups are named after it.
    pub worker: WorkerId,
    /// Where unpacked images are kept. Belongs to this runtime.
    pub state_dir: PathBuf,
    /// The executable that calls [`spawner_main_if_asked`] first; usually this one, `/proc/self/exe`.
    pub spawner: PathBuf,
}

/// Makes instances of namespaces and cgroups.
pub struct NetnsRuntime {
    inner: Arc<Inner>,
}

/// How long a step of making an instance took: how often it was done, and microseconds in total.
pub type StepTimes = BTreeMap<String, (u64, u64)>;

struct Inner {
    images: Images,
    cgroups: Cgroups,
    missing: Vec<String>,
    socket: AsyncFd<OwnedFd>,
    spawner: Spawner,
    /// What instances live on with when this process is killed.
    keeper: Option<Keeper>,
    permits: Semaphore,
    followers: TaskTracker,
    steps: Mutex<StepTimes>,
}

/// The spawner as its worker knows it.
enum Spawner {
    /// Started by this process.
    Child(Mutex<Child>),
    /// Started by an earlier life of this worker: it has this file locked.
    Found(PathBuf),
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.keeper.as_ref().is_some_and(|keeper| !keeper.has_ended()) {
            // The worker could not start. Its next life may.
            return;
        }
        // The spawner ends all instances and itself when its socket ends.
        let _ended = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        match &mut self.spawner {
            Spawner::Child(child) => {
                let _status = child.get_mut().unwrap_or_else(PoisonError::into_inner).wait();
            }
            Spawner::Found(lock) => spawner::wait_for_end(lock),
        }
    }
}

impl NetnsRuntime {
    /// Starts the spawner.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] when the kernel or the host's settings do not allow instances here.
    pub async fn new(config: NetnsConfig) -> Result<Self, RuntimeError> {
        Self::with_keeper(config, None).await
    }

    /// Starts the spawner, or goes on with the one that the keeper has from an earlier life of this worker.
    ///
    /// # Errors
    ///
    /// As [`NetnsRuntime::new`].
    pub async fn with_keeper(
        config: NetnsConfig,
        keeper: Option<Keeper>,
    ) -> Result<Self, RuntimeError> {
        if let Some(keeper) = keeper.clone()
            && let Some(note) = keeper.found().get(DEPOSIT)
        {
            match Self::found(&config, keeper, note).await {
                Ok(found) => return Ok(found),
                Err(err) => warn!(error = %Chain(&err), "the spawner that was here is not used"),
            }
        }
        Self::start(config, keeper).await
    }

    async fn found(
        config: &NetnsConfig,
        keeper: Keeper,
        note: &[u8],
    ) -> Result<Self, RuntimeError> {
        let doing = "take over the spawner";
        let missing =
            rmp_serde::from_slice(note).map_err(|err| host(doing, io::Error::other(err)))?;
        let mut descriptors = keeper.take(DEPOSIT).await.map_err(|err| host(doing, err))?;
        let socket =
            descriptors.pop().ok_or_else(|| host(doing, io::ErrorKind::NotFound.into()))?;
        let inner = Inner {
            images: Images::open(&config.state_dir)?,
            cgroups: Cgroups::detect(&config.worker),
            missing,
            socket: sys::watch(socket).map_err(|err| host(doing, err))?,
            spawner: Spawner::Found(spawner::lock_path(&config.state_dir, &config.worker)),
            keeper: Some(keeper),
            permits: Semaphore::new(at_once()),
            followers: TaskTracker::new(),
            steps: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn start(config: NetnsConfig, keeper: Option<Keeper>) -> Result<Self, RuntimeError> {
        let images = Images::open(&config.state_dir)?;
        let state_dir =
            config.state_dir.canonicalize().map_err(|err| host("find the state directory", err))?;
        let (socket, theirs) = socket_pair().map_err(|err| host("make a socket", err))?;
        make_room(&socket);
        let child = Command::new(&config.spawner)
            .arg(spawner::ARGUMENT)
            .arg(config.worker.as_str())
            .arg(&state_dir)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Whoever reads the worker's must not wait for a spawner that outlives it.
            .stderr(if keeper.is_some() { Stdio::null() } else { Stdio::inherit() })
            .spawn()
            .map_err(|err| host(&format!("run the spawner `{}`", config.spawner.display()), err))?;
        let socket = sys::watch(socket).map_err(|err| host("watch the spawner", err))?;
        let mut inner = Inner {
            images,
            cgroups: Cgroups::detect(&config.worker),
            missing: Vec::new(),
            socket,
            spawner: Spawner::Child(Mutex::new(child)),
            keeper,
            permits: Semaphore::new(at_once()),
            followers: TaskTracker::new(),
            steps: Mutex::default(),
        };
        inner.missing = match inner.hello().await {
            Ok(missing) => missing,
            Err(err) => {
                // Nothing of it is worth keeping.
                inner.keeper = None;
                return Err(err);
            }
        };
        inner.deposit().await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How long the steps of making instances have taken so far.
    #[must_use]
    pub fn step_times(&self) -> StepTimes {
        self.inner.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inner {
    async fn hello(&self) -> Result<Vec<String>, RuntimeError> {
        let read = |socket: &OwnedFd| receive::<Hello>(socket.as_fd(), &mut vec![0; 16 * 1024]);
        let hello =
            tokio::time::timeout(HELLO_LIMIT, self.socket.async_io(Interest::READABLE, read)).await;
        let unavailable = |reason: String| RuntimeError::Unavailable { runtime: "netns", reason };
        match hello {
            Ok(Ok(Some((Hello { unavailable: None, missing }, _)))) => Ok(missing),
            Ok(Ok(Some((Hello { unavailable: Some(reason), .. }, _)))) => Err(unavailable(reason)),
            Ok(Ok(None)) => Err(unavailable("the spawner ended at once".to_owned())),
            Ok(Err(err)) => Err(host("hear from the spawner", err)),
            Err(_) => Err(unavailable("the spawner did not answer".to_owned())),
        }
    }

    /// Has the keeper hold the spawner as well.
    async fn deposit(&self) -> Result<(), RuntimeError> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let note = rmp_serde::to_vec_named(&self.missing)
            .map_err(|err| host("describe the spawner", io::Error::other(err)))?;
        let descriptors = vec![self.socket.get_ref().as_fd()];
        let name = DEPOSIT.to_owned();
        keeper.deposit(Deposit { name, note, descriptors, container: None }).await;
        Ok(())
    }

    /// Has the spawner make an instance or a NAT. Returns its channel.
    async fn spawn(&self, request: &Request) -> Result<OwnedFd, RuntimeError> {
        let bytes = rmp_serde::to_vec_named(request)
            .map_err(|err| host("describe the instance", io::Error::other(err)))?;
        let too_large = || {
            let size = bytes.len();
            RuntimeError::Plan(format!(
                "environment and hosts of an instance take {size} bytes, more than can be passed on"
            ))
        };
        if bytes.len() > MAX_MESSAGE {
            return Err(too_large());
        }
        let (ours, theirs) = socket_pair().map_err(|err| host("make a socket", err))?;
        let write = |socket: &OwnedFd| send_bytes(socket.as_fd(), &bytes, &[theirs.as_raw_fd()]);
        let sent = self.socket.async_io(Interest::WRITABLE, write).await;
        sent.map_err(|err| match err.raw_os_error() {
            Some(nix::libc::EMSGSIZE) => too_large(),
            _ => host("reach the spawner", err),
        })?;
        Ok(ours)
    }

    fn count(&self, steps: Vec<(String, u32)>) {
        let mut times = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        for (step, took) in steps {
            let (count, total) = times.entry(step).or_default();
            *count += 1;
            *total += u64::from(took);
        }
    }

    fn init_spec(&self, spec: &InstanceSpec) -> Result<InitSpec, RuntimeError> {
        let labels = &spec.labels;
        let mut env = spec.env.clone();
        let mut command = spec.image.command.clone();
        let mut workdir = spec.image.workdir.clone();
        let directory = self.images.directory(&spec.image)?;
        let image = match spec.image.kind {
            ImageKind::Bundle => {
                workdir = Path::new("/plan").join(workdir).display().to_string();
                Image::Bundle(directory)
            }
            ImageKind::Docker => {
                let config = self.images.config(&spec.image)?;
                for (name, value) in config.env() {
                    env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
                }
                if command.is_empty() {
                    command = config.command();
                }
                if workdir.is_empty() {
                    workdir.clone_from(&config.working_dir);
                }
                workdir = Path::new("/").join(workdir).display().to_string();
                Image::Root { directory, user: config.user }
            }
        };
        Ok(InitSpec {
            name: leaf_name(labels),
            hostname: spec.hostname.clone(),
            image,
            command,
            workdir: workdir.into(),
            env,
            outputs: spec.outputs.clone(),
            temp: spec.temp.clone(),
            datasets: spec.datasets.clone(),
            hosts: spec.hosts.clone(),
            resources: spec.resources.clone(),
            ulimits: spec.ulimits.clone(),
            wire: spec.wire,
            member: spec.behind.is_some(),
            read_only: spec.read_only_root,
            again: spec.again,
        })
    }
}

#[async_trait]
impl Runtime for NetnsRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Netns
    }

    fn missing(&self) -> Vec<String> {
        self.inner.missing.clone()
    }

    async fn fetch(&self, image: &ImageRef, blob: &Path) -> Result<(), RuntimeError> {
        let (images, image, blob) = (self.inner.images.clone(), image.clone(), blob.to_owned());
        let unpacked = tokio::task::spawn_blocking(move || images.unpack(&image, &blob)).await;
        unpacked.map_err(|err| host("unpack the image", io::Error::other(err)))?
    }

    async fn has(&self, image: &ImageRef) -> bool {
        self.inner.images.directory(image).is_ok_and(|directory| directory.exists())
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Created, RuntimeError> {
        let inner = &self.inner;
        let init_spec = inner.init_spec(&spec)?;
        let leaf = inner.cgroups.leaf(&init_spec.name);
        let permit = inner.permits.acquire().await;
        let socket = inner.spawn(&Request::Instance(Box::new(init_spec))).await?;
        let channel = Channel::new(socket).map_err(|err| host("watch the instance", err))?;
        let channel = Arc::new(channel);
        let instance = NetnsInstance::new(Arc::clone(&channel), leaf, false, Arc::clone(inner));
        let first = channel.receive().await.map_err(|err| host("hear from the instance", err))?;
        drop(permit);
        let gone = || host("prepare the instance", io::Error::other("its first process ended"));
        let (message, fds) = first.ok_or_else(gone)?;
        let (steps, notes) = match message {
            FromInit::Ready { steps, notes } => (steps, notes),
            FromInit::Failed(failure) | FromInit::Done(Err(failure)) => {
                inner.followers.spawn(channel.follow());
                // What failed is told; that its cgroup is left would be second.
                let _second = Instance::remove(&instance).await;
                return Err(failure.into());
            }
            FromInit::Done(Ok(())) | FromInit::Exited(_) | FromInit::Attached { .. } => {
                return Err(gone());
            }
        };
        inner.followers.spawn(channel.follow());
        inner.count(steps);
        for note in notes {
            warn!(run = %spec.labels.run, instance = %spec.labels.instance, note, "instance differs from what was asked");
        }
        let Ok([network, sync, influx, udp, tcp, control, stdout, stderr]) =
            <[OwnedFd; 8]>::try_from(fds)
        else {
            return Err(host(
                "prepare the instance",
                io::Error::other("too few descriptors can be open"),
            ));
        };
        let device = match spec.behind {
            None => Some(network),
            Some(Behind { nat, member }) => {
                if let Err(err) = nat.join(member, network).await {
                    // What failed is told; that its cgroup is left would be second.
                    let _second = Instance::remove(&instance).await;
                    return Err(err);
                }
                None
            }
        };
        let names = NameSockets { udp, tcp };
        let wired = Wired { device, sync, influx, names, control };
        Ok(Created { instance: Box::new(instance), wired, stdout, stderr })
    }

    async fn make_nat(&self, spec: TreeSpec) -> Result<(Arc<dyn Nat>, OwnedFd), RuntimeError> {
        let permit = self.inner.permits.acquire().await;
        let socket = self.inner.spawn(&Request::Nat(spec)).await?;
        let (kept, device) = Kept::made(socket).await?;
        drop(permit);
        Ok((Arc::new(kept), device))
    }

    async fn adopt(
        &self,
        labels: &InstanceLabels,
        note: &[u8],
        tie: OwnedFd,
        control: BorrowedFd<'_>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        // Its init process has what there is to know.
        let _ = (note, control);
        let inner = &self.inner;
        let channel = Channel::new(tie).map_err(|err| host("watch the instance", err))?;
        let channel = Arc::new(channel);
        let started = channel.attach().await?;
        inner.followers.spawn(Arc::clone(&channel).follow());
        let leaf = inner.cgroups.leaf(&leaf_name(labels));
        Ok(Box::new(NetnsInstance::new(channel, leaf, started, Arc::clone(inner))))
    }

    async fn reap_but(&self, worker: &WorkerId, kept: &[ShareKey]) -> Vec<RuntimeError> {
        let cgroups = Cgroups::detect(worker);
        let kept: Vec<String> =
            kept.iter().map(|(run, attempt)| format!("{run}-{attempt}-")).collect();
        let reaped = tokio::task::spawn_blocking(move || cgroups.reap_but(&kept)).await;
        let mut failures = self.inner.images.sweep();
        match reaped {
            Ok(left) => failures.extend(left.into_iter().map(|err| host("remove a cgroup", err))),
            Err(err) => failures.push(host("remove cgroups", io::Error::other(err))),
        }
        failures
    }

    async fn traces(&self, worker: &WorkerId) -> Result<Vec<Trace>, RuntimeError> {
        let leaves = Cgroups::detect(worker).leaves().into_iter();
        let trace = |name: String| {
            let (run, attempt) = attempt_of(&name)?;
            Some(Trace { run, attempt, place: Place::ControlGroup(name) })
        };
        Ok(leaves.filter_map(trace).collect())
    }

    async fn remove_trace(&self, trace: &Trace) -> Result<(), RuntimeError> {
        let Place::ControlGroup(name) = trace.place.clone() else { return Ok(()) };
        let cgroups = self.inner.cgroups.clone();
        let removed = tokio::task::spawn_blocking(move || cgroups.remove_leaf(&name)).await;
        let failed = |err| host("remove a cgroup", err);
        let left = removed.map_err(|err| failed(io::Error::other(err)))?;
        left.into_iter().next().map_or(Ok(()), |err| Err(failed(err)))
    }

    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        Ok(self.inner.images.list())
    }

    async fn forget(&self, digest: &str) -> Result<(), RuntimeError> {
        let (images, digest) = (self.inner.images.clone(), digest.to_owned());
        let forgotten = tokio::task::spawn_blocking(move || images.forget(&digest)).await;
        let forgotten = forgotten.map_err(io::Error::other).flatten();
        forgotten.map_err(|err| host("remove an image", err))
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        if failure.plan {
            return Self::Plan(failure.doing);
        }
        host(&failure.doing, io::Error::other(failure.source))
    }
}

fn leaf_name(labels: &InstanceLabels) -> String {
    format!("{}-{}-{}", labels.run, labels.attempt, labels.instance)
}

fn at_once() -> usize {
    AT_ONCE_PER_CPU * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Our end, non-blocking, and the other's.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

fn host(doing: &str, source: io::Error) -> RuntimeError {
    RuntimeError::Host { doing: doing.to_owned(), source: Box::new(source) }
}
