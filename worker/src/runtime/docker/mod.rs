//! Instances as containers of the Docker engine.
//!
//! ```text
//! mod        the runtime: connects, creates, reaps
//! body       what the engine is told to create (pure)
//! images     makes images and bundles ready on this host
//! held       the directory through which a container's init process is held and let go
//! instance   one container after it was created; a task per instance listens to its init process
//! nat        routers between containers and the data network
//! oom        reads the cgroup's own counter of out-of-memory kills
//! ```
//!
//! A container is created and started at once, with an init process of ours in place of the image's entry
//! point (`worker/init`). It waits on a socket until the worker has wired its network namespace and lets the
//! plan go, so letting ten thousand instances go is ten thousand bytes and not ten thousand calls to the
//! engine. The socket is a dead-man switch as well: when the worker dies, and its keeper lets go, its containers end.
//!
//! Stdout and stderr are named pipes between plan and worker. Nothing passes through the engine, so nothing
//! is lost when it restarts, and `docker logs` shows nothing.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error as Engine;
use bollard::models::{ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{CreateContainerOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt as _;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, Epoch, RunId, WorkerId};
use groundswell_common::messages::{ImageRef, RuntimeKind};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::container::Container;
use self::held::{Control, Directory, Held, Here};
use self::images::Images;
use self::instance::DockerInstance;
use crate::network::nat::TreeSpec;
use crate::network::wire::{self, TUN_ADVICE, WireSpec, Wired};
use crate::runtime::{
    Behind, Created, Instance, InstanceLabels, InstanceSpec, Nat, Place, Runtime, RuntimeError,
    ShareKey, StoredImage, Trace, attempt_of,
};

mod body;
mod container;
mod held;
mod images;
mod instance;
mod nat;
mod oom;

/// How many containers the engine is asked to create at the same time; more only makes each one slower.
const CREATING_AT_ONCE: usize = 16;
/// How many are removed at the same time.
const REMOVING_AT_ONCE: usize = 16;
/// How long one call to the engine may take, on a host that is starting hundreds of containers.
const CALL_TIMEOUT_SECONDS: u64 = 120;
/// How long a started container may take until its init process reports.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);
/// The engine of Docker 20.10, the oldest one that is tested.
const OLDEST_API: (usize, usize) = (1, 41);

/// The embedded init process.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/groundswell-init"));

/// What the runtime needs to know.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// This worker.
    pub worker: WorkerId,
    /// A directory of this worker's own, on a disk the engine can mount from.
    pub state_dir: PathBuf,
    /// The engine's socket; absent is `DOCKER_HOST` when that is a `unix://` address, else
    /// `/var/run/docker.sock`.
    pub socket: Option<PathBuf>,
}

/// Makes instances as containers.
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

/// What tasks of single instances share with the runtime.
struct Inner {
    docker: Docker,
    config: DockerConfig,
    images: Images,
    here: Here,
    creating: Semaphore,
    tasks: TaskTracker,
    host: HostLimits,
}

/// What the engine says of its host.
#[derive(Debug, Clone, Default)]
struct HostLimits {
    cpus: f64,
    missing: Vec<String>,
}

impl DockerRuntime {
    /// Connects to the engine and finds out what it can do.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] with what to do when there is no engine, it may not be used, or it is
    /// too old; [`RuntimeError::Host`] when the state directory cannot be used.
    pub async fn connect(config: DockerConfig) -> Result<Self, RuntimeError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(unavailable(
                "the worker has to be root to wire the containers' network namespaces; \
                 start it with sudo, or use the `netns` runtime"
                    .to_owned(),
            ));
        }
        let socket = config.socket.clone().unwrap_or_else(default_socket);
        let docker = open(&socket).await?;
        let host = limits(&docker).await?;
        let state = config.state_dir.clone();
        let here = Here::prepare(&state, INIT)
            .map_err(|source| host_error(format!("prepare `{}`", state.display()), source))?;
        let images = Images::new(docker.clone(), &config.state_dir);
        let inner = Inner {
            docker,
            config,
            images,
            here,
            creating: Semaphore::new(CREATING_AT_ONCE),
            tasks: TaskTracker::new(),
            host,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    fn missing(&self) -> Vec<String> {
        self.inner.host.missing.clone()
    }

    async fn fetch(&self, image: &ImageRef, blob: &Path) -> Result<(), RuntimeError> {
        self.inner.images.fetch(image, blob).await
    }

    async fn has(&self, image: &ImageRef) -> bool {
        self.inner.images.has(image).await
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Created, RuntimeError> {
        let _permit = self.inner.creating.acquire().await.expect("the semaphore is never closed");
        self.inner.create(spec).await
    }

    async fn make_nat(&self, spec: TreeSpec) -> Result<(Arc<dyn Nat>, OwnedFd), RuntimeError> {
        nat::make(spec).await
    }

    async fn adopt(
        &self,
        labels: &InstanceLabels,
        note: &[u8],
        tie: OwnedFd,
        control: BorrowedFd<'_>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        self.inner.adopt(labels, note, tie, control).await
    }

    async fn reap_but(&self, worker: &WorkerId, kept: &[ShareKey]) -> Vec<RuntimeError> {
        self.inner.reap(worker, kept).await
    }

    async fn traces(&self, worker: &WorkerId) -> Result<Vec<Trace>, RuntimeError> {
        self.inner.traces(worker).await
    }

    async fn remove_trace(&self, trace: &Trace) -> Result<(), RuntimeError> {
        match &trace.place {
            Place::Container(name) => container::remove(&self.inner.docker, name).await,
            // A directory is removed by whoever found it, which needs no engine.
            Place::Directory(_) | Place::ControlGroup(_) | Place::File(_) => Ok(()),
        }
    }

    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        self.inner.images.list().await
    }

    async fn forget(&self, digest: &str) -> Result<(), RuntimeError> {
        self.inner.images.forget(digest).await
    }

    async fn directories(&self) -> Vec<PathBuf> {
        let info = self.inner.docker.info().await.ok();
        info.and_then(|info| info.docker_root_dir).map(PathBuf::from).into_iter().collect()
    }

    async fn written(&self, worker: &WorkerId) -> BTreeMap<(RunId, Attempt), u64> {
        let found = self.inner.containers_of(worker, true).await.unwrap_or_default();
        let mut written = BTreeMap::new();
        for container in found {
            let bytes = container.size_rw.and_then(|bytes| u64::try_from(bytes).ok());
            let (Some((_, attempt)), Some(bytes)) = (named(&container), bytes) else { continue };
            *written.entry(attempt).or_default() += bytes;
        }
        written
    }
}

impl Inner {
    async fn create(&self, spec: InstanceSpec) -> Result<Created, RuntimeError> {
        let ready = self.images.ready(&spec.image).await?;
        let name = body::name(&spec.labels);
        let no_hold = |source| host_error(format!("hold container `{name}`"), source);
        let directory = self.here.directory(&name).map_err(no_hold)?;
        let mut held = Held::new(&directory.0).map_err(no_hold)?;
        let mounts = self.here.mounts(&directory.0);
        let body = body::body(&spec, &ready, &mounts, self.host.cpus)?;
        self.make_room_and_create(&name, spec.labels.epoch, body).await?;
        // From here on the container is removed when anything fails, and also when the caller gives up.
        let (docker, tasks) = (self.docker.clone(), self.tasks.clone());
        let container = Container::new(docker, name, directory, spec.keep, tasks);
        match self.start_held(container.name(), &mut held, &spec).await {
            Ok((control, wired, link)) => {
                let (stdout, stderr) = held.into_pipes();
                let instance = Box::new(self.watch(container, control, link, spec.again));
                Ok(Created { instance, wired, stdout, stderr })
            }
            Err(error) => {
                if let Err(left) = container.discard().await {
                    warn!(error = %Chain(&left), "a container that could not be prepared is left");
                }
                Err(error)
            }
        }
    }

    fn watch(
        &self,
        container: Container,
        control: Control,
        link: OwnedFd,
        again: bool,
    ) -> DockerInstance {
        let engine = self.config.socket.clone().unwrap_or_else(default_socket);
        DockerInstance::watch(container, control, (link, engine), again)
    }

    /// Goes on with a container of an earlier life of this worker.
    async fn adopt(
        &self,
        labels: &InstanceLabels,
        note: &[u8],
        tie: OwnedFd,
        control: BorrowedFd<'_>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        let name = body::name(labels);
        let doing = format!("go on with container `{name}`");
        let note: instance::Note =
            rmp_serde::from_slice(note).map_err(|err| host_error(doing.clone(), err))?;
        let (docker, tasks) = (self.docker.clone(), self.tasks.clone());
        let directory = Directory(note.directory);
        let container = Container::new(docker, name, directory, note.keep, tasks);
        let link = control.try_clone_to_owned().map_err(|err| host_error(doing.clone(), err))?;
        let control = Control::again(tie).map_err(|err| host_error(doing, err))?;
        let instance = self.watch(container, control, link, false);
        instance.heard().await;
        Ok(Box::new(instance))
    }

    /// Starts a container up to its init process and wires its network.
    async fn start_held(
        &self,
        name: &str,
        held: &mut Held,
        spec: &InstanceSpec,
    ) -> Result<(Control, Wired, OwnedFd), RuntimeError> {
        self.docker.start_container(name, None).await.map_err(told("start", name))?;
        let control = tokio::time::timeout(INIT_TIMEOUT, held.rendezvous())
            .await
            .map_err(|_| silent(name, io::ErrorKind::TimedOut.into()))?
            .map_err(|source| silent(name, source))?
            .map_err(RuntimeError::Plan)?;
        let no_wire = |source| host_error(format!("wire the network of `{name}`"), source);
        let netns = OwnedFd::from(
            std::fs::File::open(format!("/proc/{}/ns/net", control.pid)).map_err(no_wire)?,
        );
        let of_member = spec.behind.is_some();
        let theirs = netns.try_clone().map_err(no_wire)?;
        let wired = wire(theirs, spec.wire, of_member).await.map_err(|err| {
            let text = format!("no network interface can be made ({err}); {TUN_ADVICE}");
            no_wire(io::Error::other(text))
        })?;
        if let Some(Behind { nat, member }) = &spec.behind {
            nat.join(*member, netns).await?;
        }
        let link = wired.control.try_clone().map_err(no_wire)?;
        Ok((control, wired, link))
    }

    /// Creates a container. What an earlier life of this worker has left under its name makes room.
    async fn make_room_and_create(
        &self,
        name: &str,
        epoch: Epoch,
        body: ContainerCreateBody,
    ) -> Result<(), RuntimeError> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let first = self.docker.create_container(Some(options.clone()), body.clone()).await;
        let Err(Engine::DockerResponseServerError { status_code: 409, .. }) = &first else {
            return first.map(drop).map_err(refused(name));
        };
        let found =
            self.docker.inspect_container(name, None).await.map_err(told("inspect", name))?;
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if !is_ours_and_older(&labels, &self.config.worker, epoch) {
            return Err(first.expect_err("it is a conflict")).map_err(told("create", name));
        }
        container::remove(&self.docker, name).await?;
        self.docker.create_container(Some(options), body).await.map(drop).map_err(refused(name))
    }

    async fn reap(&self, worker: &WorkerId, kept: &[ShareKey]) -> Vec<RuntimeError> {
        let kept: Vec<String> = kept.iter().map(body::begin_of_names).collect();
        let stays = |found: &ContainerSummary| {
            let names = found.names.iter().flatten();
            names
                .map(|name| name.trim_start_matches('/'))
                .any(|name| kept.iter().any(|begin| name.starts_with(begin.as_str())))
        };
        let found = match self.containers_of(worker, false).await {
            Ok(found) => found,
            Err(error) => return vec![error],
        };
        let gone = found.into_iter().filter(|found| !is_kept(found) && !stays(found));
        let names: Vec<String> = gone.filter_map(|found| found.id).collect();
        let errors: Vec<RuntimeError> = futures::stream::iter(names)
            .map(|name| async move { container::remove(&self.docker, &name).await.err() })
            .buffer_unordered(REMOVING_AT_ONCE)
            .filter_map(|error| async { error })
            .collect()
            .await;
        if *worker == self.config.worker && errors.is_empty() {
            return self.here.clear(&kept).err().map_or_else(Vec::new, |source| {
                vec![host_error("remove what containers have left".to_owned(), source)]
            });
        }
        errors
    }

    /// What is there of a worker; the directories that containers are held through belong to this worker alone.
    async fn traces(&self, worker: &WorkerId) -> Result<Vec<Trace>, RuntimeError> {
        let found = self.containers_of(worker, false).await?;
        let containers = found.iter().filter(|found| !is_kept(found)).filter_map(named);
        let trace = |(name, (run, attempt))| Trace { run, attempt, place: Place::Container(name) };
        let mut traces: Vec<Trace> = containers.map(trace).collect();
        if *worker == self.config.worker {
            traces.extend(self.here.held().into_iter().filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_prefix(body::NAME_PREFIX)?;
                let (run, attempt) = attempt_of(name)?;
                Some(Trace { run, attempt, place: Place::Directory(path) })
            }));
        }
        Ok(traces)
    }

    async fn containers_of(
        &self,
        worker: &WorkerId,
        size: bool,
    ) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let filter = format!("{}={worker}", body::WORKER_LABEL);
        let options = ListContainersOptions {
            all: true,
            size,
            filters: Some(HashMap::from([("label".to_owned(), vec![filter])])),
            ..Default::default()
        };
        self.docker
            .list_containers(Some(options))
            .await
            .map_err(|source| host_error("list containers".to_owned(), source))
    }
}

/// Wires the network namespace of a container.
async fn wire(netns: OwnedFd, spec: WireSpec, member: bool) -> io::Result<Wired> {
    let wired = move || match member {
        true => wire::wire_member_in(netns.as_fd()),
        false => wire::wire_in(netns.as_fd(), &spec),
    };
    tokio::task::spawn_blocking(wired).await.map_err(io::Error::other).flatten()
}

/// The name of a container and the attempt it is of.
fn named(container: &ContainerSummary) -> Option<(String, (RunId, Attempt))> {
    let name = container.names.as_ref()?.first()?.trim_start_matches('/').to_owned();
    let attempt = attempt_of(name.strip_prefix(body::NAME_PREFIX)?)?;
    Some((name, attempt))
}

fn is_kept(container: &ContainerSummary) -> bool {
    let kept = container.labels.as_ref().is_some_and(|all| all.contains_key(body::KEEP_LABEL));
    kept && container.state == Some(ContainerSummaryStateEnum::EXITED)
}

fn is_ours_and_older(labels: &HashMap<String, String>, worker: &WorkerId, epoch: Epoch) -> bool {
    let of_worker = labels.get(body::WORKER_LABEL).is_some_and(|label| label == worker.as_str());
    let its_epoch = labels.get(body::EPOCH_LABEL).and_then(|label| label.parse::<u64>().ok());
    of_worker && its_epoch.is_some_and(|its_epoch| its_epoch < epoch.0)
}

fn default_socket() -> PathBuf {
    std::env::var("DOCKER_HOST")
        .ok()
        .and_then(|host| host.strip_prefix("unix://").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("/var/run/docker.sock"))
}

async fn open(socket: &Path) -> Result<Docker, RuntimeError> {
    let shown = socket.display();
    let path = socket.to_str().ok_or_else(|| unavailable(format!("`{shown}` is not UTF-8")))?;
    let docker = Docker::connect_with_unix(path, CALL_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
        .map_err(|_| {
            unavailable(format!(
                "there is no socket `{shown}`; install and start Docker \
                 (Debian: `apt-get install docker.io`), or use the `netns` runtime"
            ))
        })?;
    let docker = docker.negotiate_version().await.map_err(|error| {
        unavailable(format!(
            "the engine does not answer on `{shown}` ({}); is it running, and may this user use it?",
            Chain(&error)
        ))
    })?;
    let version = docker.client_version();
    let api = (version.major_version, version.minor_version);
    if api < OLDEST_API {
        return Err(unavailable(format!(
            "the engine speaks API {}.{}, at least {}.{} is needed; install Docker 20.10 or newer",
            api.0, api.1, OLDEST_API.0, OLDEST_API.1
        )));
    }
    Ok(docker)
}

async fn limits(docker: &Docker) -> Result<HostLimits, RuntimeError> {
    let info = docker
        .info()
        .await
        .map_err(|source| host_error("ask the engine about its host".to_owned(), source))?;
    let claims = [
        (info.memory_limit, "memory limits are not enforced: the kernel lacks the memory cgroup"),
        (info.swap_limit, "memory limits do not cover swap: boot with `swapaccount=1`"),
        (info.pids_limit, "process limits are not enforced: the kernel lacks the pids cgroup"),
        (info.cpu_cfs_quota, "cpu limits are not enforced: the kernel lacks CFS quotas"),
    ];
    let missing =
        claims.iter().filter(|claim| claim.0 == Some(false)).map(|claim| claim.1.to_owned());
    let cpus = info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1);
    Ok(HostLimits { cpus: f64::from(cpus), missing: missing.collect() })
}

fn unavailable(reason: String) -> RuntimeError {
    RuntimeError::Unavailable { runtime: RuntimeKind::Docker.as_str(), reason }
}

fn host_error(
    doing: String,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RuntimeError {
    RuntimeError::Host { doing, source: source.into() }
}

fn told(verb: &'static str, name: &str) -> impl FnOnce(Engine) -> RuntimeError {
    let doing = format!("{verb} container `{name}`");
    move |source| host_error(doing, source)
}

/// A request the engine calls bad asks for something that cannot be: a limit below the least one, an
/// unknown resource.
fn refused(name: &str) -> impl FnOnce(Engine) -> RuntimeError {
    let name = name.to_owned();
    move |error| {
        if let Engine::DockerResponseServerError { status_code: 400, message } = error {
            let text = format!("the engine refuses container `{name}`: {message}");
            return RuntimeError::Plan(text);
        }
        told("create", &name)(error)
    }
}

fn silent(name: &str, source: io::Error) -> RuntimeError {
    host_error(format!("reach the init process of container `{name}`"), source)
}

/// An ordered copy of the engine's unordered maps, for reading.
type Labels = BTreeMap<&'static str, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_earlier_epoch_of_the_same_worker_left_makes_room() {
        let worker = WorkerId::from_lossy("w1");
        let labels = |worker: &str, epoch: &str| {
            HashMap::from([
                (body::WORKER_LABEL.to_owned(), worker.to_owned()),
                (body::EPOCH_LABEL.to_owned(), epoch.to_owned()),
            ])
        };
        assert!(is_ours_and_older(&labels("w1", "4"), &worker, Epoch(5)));
        assert!(!is_ours_and_older(&labels("w1", "5"), &worker, Epoch(5)));
        assert!(!is_ours_and_older(&labels("w2", "4"), &worker, Epoch(5)));
        assert!(!is_ours_and_older(&HashMap::new(), &worker, Epoch(5)));
    }

    #[tokio::test]
    async fn a_host_without_an_engine_is_told_what_to_do() {
        let refused = open(Path::new("/nonexistent/docker.sock")).await.map(drop);
        let text = refused.expect_err("no engine").to_string();
        assert!(text.contains("install and start Docker"), "{text}");
    }
}
