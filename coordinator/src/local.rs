//! Local mode: everything a run needs, in one process and one nats-server child, gone afterwards.
//!
//! ```text
//! <home>/store/              the object store; it stays
//! <home>/up.json             which stack `coordinator up` keeps
//! <home>/cache/              what builds keep
//! <home>/stacks/<n>/lock     held as long as the stack lives: the kernel frees it, also after kill -9
//! <home>/stacks/<n>/endpoint.json, children.json, nats/, worker*/
//! ```
//!
//! The number of a stack is part of its workers' names. A dead stack's number is taken first, so that the
//! worker of the next stack has the dead one's name and reaps what it left on the host.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use groundswell_common::bus::{Bus, BusConfig, BusError};
use groundswell_common::metrics::{
    Limits, MetricsConfig, MetricsError, MetricsSection, Shipper, Shipping,
};
use groundswell_common::nats_server::{self, NatsServer, NatsServerError};
use groundswell_common::objects::{Objects, ObjectsConfig, ObjectsError, digest};
use groundswell_common::timing::Lease;
use groundswell_coordinator::queue::Policy;
use groundswell_coordinator::service::Gauges;
use groundswell_coordinator::workers::Overcommit;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cli::parts;

/// How long a worker may take to end its instances and clean up.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a run that does not fit waits: the workers of a stack register within moments.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many stacks one home can hold at a time.
const MOST_STACKS: u32 = 64;

/// What a stack is made of.
#[derive(Debug, Clone)]
pub(crate) struct LocalOptions {
    /// Where stacks and the store are.
    pub(crate) home: PathBuf,
    /// Object store to use; absent is the home's own.
    pub(crate) objects: Option<String>,
    /// Endpoint of an S3-compatible server.
    pub(crate) s3_endpoint: Option<String>,
    /// How many workers: the first in this process, the others in their own.
    pub(crate) workers: u16,
    /// Whether it is kept for other commands to submit to.
    pub(crate) kept: bool,
}

/// Why there is no stack.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    /// A file or directory of the stack.
    #[error("failed to {doing} `{path}`")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// There are too many.
    #[error("{MOST_STACKS} local stacks are running in `{home}`")]
    TooMany { home: PathBuf },
    /// Its nats-server.
    #[error(transparent)]
    Nats(#[from] NatsServerError),
    /// The connection to it.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Its object store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// Where metrics are to go.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Its service.
    #[error("failed to start the coordinator's service: {0:#}")]
    Service(anyhow::Error),
    /// This build cannot.
    #[error("this build has no worker in it (feature `local`); name a cluster with --nats URL")]
    NoWorker,
    /// A worker beside this process.
    #[error("failed to start `{path}` for a further worker")]
    Worker {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How others find a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Its NATS.
    pub(crate) url: String,
    /// Its object store.
    pub(crate) objects: String,
    /// The process it lives in.
    pub(crate) pid: u32,
    /// Whether it takes submits of others.
    pub(crate) kept: bool,
}

/// A process of a stack, and when it started, so that a number used again is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ChildRecord {
    pid: u32,
    start_ticks: u64,
}

/// A running stack. [`Stack::stop`] ends it in good order; dropping it ends it all the same, without waiting.
pub(crate) struct Stack {
    /// The connection to its NATS.
    pub(crate) bus: Bus,
    /// Its object store.
    pub(crate) objects: Objects,
    /// Its NATS.
    pub(crate) url: String,
    workers: Vec<Child>,
    tasks: JoinSet<anyhow::Result<()>>,
    service: JoinSet<anyhow::Result<()>>,
    shipping: Shipping,
    drain: CancellationToken,
    shutdown: CancellationToken,
    nats: NatsServer,
    // The directory goes last: it must outlive everything that writes into it.
    dir: StackDir,
}

/// Starts a stack and waits until it can take a run. Call it on the process's main thread.
pub(crate) async fn start(options: &LocalOptions) -> Result<Stack, LocalError> {
    if !cfg!(feature = "local") {
        return Err(LocalError::NoWorker);
    }
    // The environment says it all: a stack has no configuration file.
    let metrics = MetricsSection::default().resolve()?;
    nats_server::find().await?;
    let dir = StackDir::take(&options.home)?;
    let nats = NatsServer::start(&dir.path.join("nats")).await?;
    dir.record(nats.pid().into_iter());
    let url = nats.url();
    let bus = Bus::connect(&BusConfig::open(&url, "coordinator local")).await?;
    let objects_url = options.objects.clone().unwrap_or_else(|| store_url(&options.home));
    let objects = Objects::open(&ObjectsConfig {
        url: objects_url.clone(),
        endpoint: options.s3_endpoint.clone(),
        region: std::env::var("AWS_REGION").ok(),
    })?;
    let (drain, shutdown) = (CancellationToken::new(), CancellationToken::new());
    let shipping = Shipping::start(metrics.as_ref(), Limits::default())?;
    let shipper = shipping.shipper();
    let service = start_service(&options.home, &bus, &objects, (shipper, &shutdown)).await?;
    let mut stack = Stack {
        bus,
        objects,
        url,
        workers: Vec::new(),
        tasks: JoinSet::new(),
        service,
        shipping,
        drain,
        shutdown,
        nats,
        dir,
    };
    stack.start_workers(options, metrics)?;
    let endpoint = Endpoint {
        url: stack.url.clone(),
        objects: objects_url,
        pid: std::process::id(),
        kept: options.kept,
    };
    stack.dir.announce(&endpoint, options)?;
    Ok(stack)
}

async fn start_service(
    home: &Path,
    bus: &Bus,
    objects: &Objects,
    (shipper, shutdown): (Shipper, &CancellationToken),
) -> Result<JoinSet<anyhow::Result<()>>, LocalError> {
    let parts = parts::ServiceParts {
        bus: bus.clone(),
        objects: objects.clone(),
        lease: Lease::DEFAULT,
        cache_dir: home.join("cache"),
        patience: PATIENCE,
        policy: Policy::default(),
        overcommit: Overcommit::LOCAL,
        parallel_builds: groundswell_coordinator::build::PARALLEL,
        first_token: None,
        generation: None,
        shipper,
        gauges: Gauges::default(),
        name: format!("local-{}", std::process::id()),
        standby: None,
    };
    let ended = parts::start_service(parts, shutdown.clone()).await.map_err(LocalError::Service)?;
    let mut service = JoinSet::new();
    service.spawn(ended);
    Ok(service)
}

impl Stack {
    #[cfg(feature = "local")]
    fn start_workers(
        &mut self,
        options: &LocalOptions,
        metrics: Option<MetricsConfig>,
    ) -> Result<(), LocalError> {
        let worker = parts::WorkerParts {
            url: self.url.clone(),
            objects: self.objects.config().clone(),
            name: self.dir.worker_name(1),
            state_dir: self.dir.path.join("worker-1"),
            metrics,
        };
        self.tasks.spawn(parts::run_worker(worker, self.drain.clone()));
        for number in 2..=options.workers {
            self.start_worker_process(number)?;
        }
        let pids = self.nats.pid().into_iter().chain(self.workers.iter().filter_map(Child::id));
        self.dir.record(pids);
        Ok(())
    }

    #[cfg(not(feature = "local"))]
    fn start_workers(
        &mut self,
        _: &LocalOptions,
        _: Option<MetricsConfig>,
    ) -> Result<(), LocalError> {
        Err(LocalError::NoWorker)
    }

    #[cfg(feature = "local")]
    fn start_worker_process(&mut self, number: u16) -> Result<(), LocalError> {
        let path = worker_binary();
        let state_dir = self.dir.path.join(format!("worker-{number}"));
        let name = self.dir.worker_name(number);
        let arguments =
            parts::worker_arguments(&self.url, self.objects.config(), &name, &state_dir);
        let log = self.dir.path.join(format!("worker-{number}.log"));
        let log = File::create(&log).map_err(file_error("create", &log))?;
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A process group of its own: Ctrl-C is for this process, which then tells the workers.
        command.process_group(0).kill_on_drop(true);
        nats_server::die_with_parent(&mut command);
        let child = command.spawn().map_err(|source| LocalError::Worker { path, source })?;
        self.workers.push(child);
        Ok(())
    }

    /// Waits until something of the stack ends that should not, and says what. Never returns otherwise.
    pub(crate) async fn broken(&mut self) -> String {
        let (who, ended) = tokio::select! {
            Some(ended) = self.tasks.join_next() => ("the worker", ended),
            Some(ended) = self.service.join_next() => ("the coordinator's service", ended),
            else => std::future::pending().await,
        };
        match ended {
            Ok(Ok(())) => format!("{who} has ended"),
            Ok(Err(err)) => format!("{who} has failed: {err:#}"),
            Err(err) => format!("{who} has crashed: {err}"),
        }
    }

    /// Ends the stack: workers first, for they report and store outputs, then service and nats-server.
    pub(crate) async fn stop(mut self) {
        self.drain.cancel();
        for child in &self.workers {
            terminate(child);
        }
        if timeout(DRAIN, join_all(&mut self.tasks)).await.is_err() {
            warn!("the worker did not end in time");
        }
        for child in &mut self.workers {
            if timeout(DRAIN, child.wait()).await.is_err() {
                warn!("a worker process did not end in time and is killed");
                let _ = child.kill().await;
            }
        }
        self.shutdown.cancel();
        if timeout(Duration::from_secs(10), join_all(&mut self.service)).await.is_err() {
            warn!("the coordinator's service did not end in time");
        }
        self.shipping.stop().await;
        if let Err(err) = self.nats.stop().await {
            warn!(error = %err, "nats-server did not end in good order");
        }
        self.dir.remove();
    }
}

async fn join_all(tasks: &mut JoinSet<anyhow::Result<()>>) {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(err)) => warn!(error = format!("{err:#}"), "part of the local stack failed"),
            Err(err) => warn!(error = %err, "part of the local stack crashed"),
        }
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = child.id() {
        signal(pid, nix::sys::signal::Signal::SIGTERM);
    }
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

#[cfg(feature = "local")]
fn worker_binary() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("worker")));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("worker"))
}

/// The home's own object store.
pub(crate) fn store_url(home: &Path) -> String {
    format!("file://{}", home.join("store").display())
}

/// The stack that `coordinator up` keeps in this home, when it is alive.
pub(crate) fn kept(home: &Path) -> Option<Endpoint> {
    let up: Up = read_json(&home.join("up.json"))?;
    let dir = stacks(home).join(up.stack.to_string());
    living(&dir).filter(|endpoint| endpoint.kept)
}

/// All stacks that are alive in this home.
pub(crate) fn living_stacks(home: &Path) -> Vec<Endpoint> {
    numbers(home).iter().filter_map(|n| living(&stacks(home).join(n.to_string()))).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct Up {
    stack: u32,
}

/// A stack's directory and the lock on it. Dropping it removes the directory.
struct StackDir {
    home: PathBuf,
    path: PathBuf,
    number: u32,
    kept: std::cell::Cell<bool>,
    _lock: Flock<File>,
}

impl StackDir {
    /// Takes a number: one that a dead stack left behind, so that its leftovers are swept, or a free one.
    /// Sweeps what every other dead stack left as well.
    fn take(home: &Path) -> Result<Self, LocalError> {
        let stacks = stacks(home);
        fs::create_dir_all(&stacks).map_err(file_error("create", &stacks))?;
        let mut dead: Vec<Self> = numbers(home)
            .into_iter()
            .filter_map(|number| Self::lock(home, number).transpose())
            .collect::<Result<_, _>>()?;
        for dir in &dead {
            dir.sweep();
        }
        if !dead.is_empty() {
            // The rest keep their directories until a worker of their name has reaped what they left.
            let taken = dead.remove(0);
            dead.into_iter().for_each(Self::leave);
            return Ok(taken);
        }
        for number in 0..MOST_STACKS {
            if let Some(dir) = Self::lock(home, number)? {
                return Ok(dir);
            }
        }
        Err(LocalError::TooMany { home: home.to_owned() })
    }

    /// Locks a stack's directory; `None` when it is alive.
    fn lock(home: &Path, number: u32) -> Result<Option<Self>, LocalError> {
        let path = stacks(home).join(number.to_string());
        fs::create_dir_all(&path).map_err(file_error("create", &path))?;
        // nats-server listens on loopback without a password; its files are at least nobody else's.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let _ = fs::set_permissions(&path, private);
        let lock = path.join("lock");
        let file = match OpenOptions::new().create(true).truncate(false).write(true).open(&lock) {
            Ok(file) => file,
            // Its owner is removing it at this moment.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(file_error("open", &lock)(err)),
        };
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        // Whoever removed the directory between opening and locking has freed a lock on nothing.
        if !path.join("lock").exists() {
            return Ok(None);
        }
        let kept = std::cell::Cell::new(false);
        Ok(Some(Self { home: home.to_owned(), path, number, kept, _lock: lock }))
    }

    /// Ends what is left of the dead stack that had this directory.
    fn sweep(&self) {
        let children: Vec<ChildRecord> =
            read_json(&self.path.join("children.json")).unwrap_or_default();
        for child in children {
            if start_ticks(child.pid) == Some(child.start_ticks) {
                debug!(pid = child.pid, "killing a process that a dead stack left behind");
                signal(child.pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_name() != "lock") {
            let path = entry.path();
            // A worker's directory stays: its successor of the same name reads there what to reap.
            let is_worker = entry.file_name().to_string_lossy().starts_with("worker-");
            if path.is_dir() && !is_worker {
                let _ = fs::remove_dir_all(&path);
            } else if path.is_file() {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// Lets go of the directory without removing it.
    fn leave(self) {
        self.kept.set(true);
    }

    /// The name of one of the stack's workers; no two homes on a machine share one.
    fn worker_name(&self, number: u16) -> String {
        let home = digest(self.home.as_os_str().as_encoded_bytes());
        format!("local-{}-{}-{number}", &home[7..13], self.number)
    }

    /// Notes the stack's processes for whoever has to sweep them.
    fn record(&self, pids: impl Iterator<Item = u32>) {
        let children: Vec<ChildRecord> = pids
            .filter_map(|pid| Some(ChildRecord { pid, start_ticks: start_ticks(pid)? }))
            .collect();
        if let Err(err) = write_json(&self.path.join("children.json"), &children) {
            warn!(error = %err, "the stack's processes are not recorded");
        }
    }

    /// Tells others where the stack is.
    fn announce(&self, endpoint: &Endpoint, options: &LocalOptions) -> Result<(), LocalError> {
        let path = self.path.join("endpoint.json");
        write_json(&path, endpoint).map_err(file_error("write", &path))?;
        if options.kept {
            let path = self.home.join("up.json");
            write_json(&path, &Up { stack: self.number }).map_err(file_error("write", &path))?;
        }
        Ok(())
    }

    fn remove(self) {
        drop(self);
    }
}

impl Drop for StackDir {
    fn drop(&mut self) {
        if self.kept.get() {
            return;
        }
        let up = self.home.join("up.json");
        if read_json::<Up>(&up).is_some_and(|up| up.stack == self.number) {
            let _ = fs::remove_file(up);
        }
        if let Err(err) = fs::remove_dir_all(&self.path) {
            warn!(error = %err, "the stack's directory is not removed");
        }
    }
}

fn stacks(home: &Path) -> PathBuf {
    home.join("stacks")
}

/// The numbers of the stacks that have a directory, in order.
fn numbers(home: &Path) -> Vec<u32> {
    let entries = fs::read_dir(stacks(home)).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// The endpoint of the stack in `dir`, when its lock is held.
fn living(dir: &Path) -> Option<Endpoint> {
    let file = OpenOptions::new().read(true).write(true).open(dir.join("lock")).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_free) => None,
        Err(_) => read_json(&dir.join("endpoint.json")),
    }
}

/// When a process started, in ticks since boot: field 22 of its `stat`, counted after the command's name.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a file that is never seen half written.
fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, serde_json::to_vec(value)?)?;
    fs::rename(&part, path)
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(kept: bool) -> Endpoint {
        Endpoint { url: "nats://x".into(), objects: "file:///x".into(), pid: 1, kept }
    }

    #[test]
    fn two_stacks_have_different_numbers_and_leave_nothing() {
        let home = tempfile::tempdir().unwrap();
        let first = StackDir::take(home.path()).unwrap();
        let second = StackDir::take(home.path()).unwrap();
        assert_ne!(first.number, second.number);
        assert_ne!(first.worker_name(1), second.worker_name(1));
        first.announce(&endpoint(false), &options(home.path(), false)).unwrap();
        assert_eq!(living_stacks(home.path()), [endpoint(false)]);
        drop((first, second));
        assert!(numbers(home.path()).is_empty());
    }

    #[test]
    fn what_up_keeps_is_found_as_long_as_it_lives() {
        let home = tempfile::tempdir().unwrap();
        let dir = StackDir::take(home.path()).unwrap();
        dir.announce(&endpoint(true), &options(home.path(), true)).unwrap();
        assert_eq!(kept(home.path()), Some(endpoint(true)));
        drop(dir);
        assert_eq!(kept(home.path()), None);
        assert!(!home.path().join("up.json").exists());
    }

    #[test]
    fn a_dead_stack_is_swept_and_its_number_taken() {
        let home = tempfile::tempdir().unwrap();
        let mut orphan = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let dead = StackDir::take(home.path()).unwrap();
        dead.record([orphan.id(), std::process::id()].into_iter());
        // As after kill -9: the lock is free, the files are there. A number that is used again is spared.
        let children = dead.path.join("children.json");
        let mut recorded: Vec<ChildRecord> = read_json(&children).unwrap();
        recorded[1].start_ticks += 1;
        write_json(&children, &recorded).unwrap();
        fs::create_dir(dead.path.join("nats")).unwrap();
        let (number, path) = (dead.number, dead.path.clone());
        dead.leave();

        let next = StackDir::take(home.path()).unwrap();
        assert_eq!(next.number, number);
        assert!(!path.join("nats").exists());
        assert!(!orphan.wait().unwrap().success());
    }

    fn options(home: &Path, kept: bool) -> LocalOptions {
        LocalOptions { home: home.to_owned(), objects: None, s3_endpoint: None, workers: 1, kept }
    }
}
