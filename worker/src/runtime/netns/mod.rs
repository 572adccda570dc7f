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
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
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
use super::{Behind, Created, InstanceSpec, Nat, Runtime, RuntimeError};
use crate::network::nat::TreeSpec;
use crate::network::wire::{NameSockets, Wired};
use channel::{
    Failure, FromInit, Hello, Image, InitSpec, MAX_MESSAGE, Request, make_room, receive, send_bytes,
};
use images::Images;
use instance::{Channel, NetnsInstance};
use nat::Kept;
pub use spawner::spawner_main_if_asked;

mod channel;
mod images;
mod init;
mod instance;
mod nat;
mod process;
mod root;
mod spawner;
mod sys;

/// How long the spawner may take to be ready; most of it is for the one before to clean up.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
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
    spawner: Mutex<Child>,
    permits: Semaphore,
    followers: TaskTracker,
    steps: Mutex<StepTimes>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The spawner ends all instances and itself when its socket ends.
        let _ended = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let spawner = self.spawner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _status = spawner.wait();
    }
}

impl NetnsRuntime {
    /// Starts the spawner.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] when the kernel or the host's settings do not allow instances here.
    pub async fn new(config: NetnsConfig) -> Result<Self, RuntimeError> {
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
            .spawn()
            .map_err(|err| host(&format!("run the spawner `{}`", config.spawner.display()), err))?;
        let socket = sys::watch(socket).map_err(|err| host("watch the spawner", err))?;
        let mut inner = Inner {
            images,
            cgroups: Cgroups::detect(&config.worker),
            missing: Vec::new(),
            socket,
            spawner: Mutex::new(child),
            permits: Semaphore::new(at_once()),
            followers: TaskTracker::new(),
            steps: Mutex::default(),
        };
        inner.missing = inner.hello().await?;
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
            name: format!("{}-{}-{}", labels.run, labels.attempt, labels.instance),
            hostname: spec.hostname.clone(),
            image,
            command,
            workdir: workdir.into(),
            env,
            outputs: spec.outputs.clone(),
            temp: spec.temp.clone(),
            hosts: spec.hosts.clone(),
            resources: spec.resources.clone(),
            ulimits: spec.ulimits.clone(),
            wire: spec.wire,
            member: spec.behind.is_some(),
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
        let instance =
            NetnsInstance { channel: Arc::clone(&channel), leaf, _runtime: Arc::clone(inner) };
        let first = channel.receive().await.map_err(|err| host("hear from the instance", err))?;
        drop(permit);
        let gone = || host("prepare the instance", io::Error::other("its first process ended"));
        let (message, fds) = first.ok_or_else(gone)?;
        let (steps, notes) = match message {
            FromInit::Ready { steps, notes } => (steps, notes),
            FromInit::Failed(failure) | FromInit::Done(Err(failure)) => {
                inner.followers.spawn(channel.follow());
                // What failed is told; that its cgroup is left would be second.
                let _second = super::Instance::remove(&instance).await;
                return Err(failure.into());
            }
            FromInit::Done(Ok(())) | FromInit::Exited(_) => return Err(gone()),
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
                    let _second = super::Instance::remove(&instance).await;
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

    async fn reap(&self, worker: &WorkerId) -> Vec<RuntimeError> {
        let cgroups = Cgroups::detect(worker);
        let reaped = tokio::task::spawn_blocking(move || cgroups.reap()).await;
        let mut failures = self.inner.images.sweep();
        match reaped {
            Ok(left) => failures.extend(left.into_iter().map(|err| host("remove a cgroup", err))),
            Err(err) => failures.push(host("remove cgroups", io::Error::other(err))),
        }
        failures
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

fn at_once() -> usize {
    AT_ONCE_PER_CPU * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Our end, non-blocking, and the other's.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

fn host(doing: &str, source: io::Error) -> RuntimeError {
    RuntimeError::Host { doing: doing.to_owned(), source: Box::new(source) }
}
