//! Makes instances. One trait, two ways: containers of the Docker engine, or namespaces of our own.
//!
//! An instance is made in two steps, so that a run starts as one: [`Runtime::create`] prepares it down to
//! the last mount and holds it before its first instruction; [`Instance::start`] lets it go.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{ImageRef, Resources, RuntimeKind};
use groundswell_common::nat::NatKind;
use groundswell_common::outcome::Exit;
use serde::{Deserialize, Serialize};

use crate::keeper::message::Container;
use crate::network::nat::{NatError, TreeSpec};
use crate::network::wire::{WireSpec, Wired};

pub mod cgroup;
pub mod docker;
pub mod fake;
pub mod netns;

/// The variable that says which of its lives an instance is in, from 0.
pub(crate) const INCARNATION: &str = "GROUNDSWELL_INCARNATION";

/// What a runtime could not do.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime does not work on this host.
    #[error("runtime `{runtime}` does not work here: {reason}")]
    Unavailable {
        /// Which.
        runtime: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// The plan or its image is the cause: no such command, an unreadable image.
    #[error("{0}")]
    Plan(String),
    /// This host is the cause.
    #[error("failed to {doing}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<NatError> for RuntimeError {
    fn from(err: NatError) -> Self {
        match err {
            NatError::Refused(why) => Self::Plan(why.to_string()),
            NatError::NoProgram
            | NatError::Ruleset { .. }
            | NatError::Empty
            | NatError::Host { .. } => {
                Self::Host { doing: "put instances behind a NAT".to_owned(), source: err.into() }
            }
        }
    }
}

/// Whose an instance is; every name and label derives from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceLabels {
    /// The run.
    pub run: RunId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// The instance.
    pub instance: InstanceId,
    /// The worker it is on.
    pub worker: WorkerId,
    /// The worker's epoch.
    pub epoch: Epoch,
    /// `TEST_PLAN`.
    pub plan: String,
    /// `TEST_CASE`.
    pub case: String,
    /// Its group.
    pub group: String,
    /// Its number within the group.
    pub in_group: u32,
}

/// An instance to be made.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Whose it is.
    pub labels: InstanceLabels,
    /// What it is made from; [`Runtime::fetch`] has made it ready on this host.
    pub image: ImageRef,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Its host name.
    pub hostname: String,
    /// Directory on the host that it sees as `/outputs`, writable by any user.
    pub outputs: PathBuf,
    /// Directory on the host that it sees as `/temp`, writable by any user.
    pub temp: PathBuf,
    /// Files it reads.
    pub datasets: Vec<DatasetBind>,
    /// Names it resolves besides its own: host name to address.
    pub hosts: BTreeMap<String, Ipv4Addr>,
    /// What it may use.
    pub resources: Resources,
    /// Resource limits as Docker writes them, `nofile=1048576:1048576`.
    pub ulimits: Vec<String>,
    /// What is wired into its network namespace.
    pub wire: WireSpec,
    /// The NAT that makes its data interface, when it is behind one.
    pub behind: Option<Behind>,
    /// Leave the container there after the run (Docker only).
    pub keep: bool,
    /// Let it write nowhere but to `/outputs`, `/temp` and `/tmp`.
    pub read_only_root: bool,
    /// Keep it after its end, so that [`Instance::again`] can start it again, until [`Instance::part`].
    pub again: bool,
}

/// A directory of the host that an instance sees and cannot write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetBind {
    /// The directory on the host.
    pub from: PathBuf,
    /// Where the instance sees it: an absolute path without `..`, in one of [`groundswell_common::datasets::PLACES`].
    pub to: PathBuf,
}

/// An instance's place behind a NAT.
#[derive(Clone)]
pub struct Behind {
    /// The NAT.
    pub nat: Arc<dyn Nat>,
    /// The instance's number in its group.
    pub member: u32,
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behind").field("member", &self.member).finish_non_exhaustive()
    }
}

/// The routers behind one address of a run's network. They are gone once this and the device that came with
/// it are dropped.
#[async_trait]
pub trait Nat: Send + Sync {
    /// Gives an instance its data interface.
    async fn join(&self, member: u32, namespace: OwnedFd) -> Result<(), RuntimeError>;

    /// Forgets all mappings.
    async fn rebind(&self) -> Result<(), RuntimeError>;

    /// Becomes a NAT of another kind, or of its own again.
    async fn become_kind(&self, kind: Option<NatKind>) -> Result<(), RuntimeError>;

    /// Takes another address in the run's network.
    async fn readdress(&self, address: Ipv4Addr) -> Result<(), RuntimeError>;

    /// Lets the routers go, and waits for that.
    async fn close(&self);
}

/// An instance that is prepared and has not run an instruction of the plan.
pub struct Created {
    /// The instance.
    pub instance: Box<dyn Instance>,
    /// What was wired into its network namespace.
    pub wired: Wired,
    /// The reading end of its stdout. Non-blocking.
    pub stdout: OwnedFd,
    /// The reading end of its stderr. Non-blocking.
    pub stderr: OwnedFd,
}

/// Makes instances on this host.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> RuntimeKind;

    /// Limits and isolation it cannot give on this host, each a sentence for people. Empty at best.
    fn missing(&self) -> Vec<String>;

    /// Makes an image ready on this host, once. `blob` is the image's stored blob, checked.
    async fn fetch(&self, image: &ImageRef, blob: &Path) -> Result<(), RuntimeError>;

    /// Whether [`Runtime::fetch`] has been done for an image, so that its blob need not be here.
    async fn has(&self, image: &ImageRef) -> bool;

    /// Makes an instance and holds it before its first instruction.
    async fn create(&self, spec: InstanceSpec) -> Result<Created, RuntimeError>;

    /// Makes routers. Returns also their end of the run's network.
    async fn make_nat(&self, spec: TreeSpec) -> Result<(Arc<dyn Nat>, OwnedFd), RuntimeError> {
        let _ = spec;
        Err(RuntimeError::Plan(format!(
            "runtime `{}` cannot put instances behind NATs",
            self.kind().as_str()
        )))
    }

    /// Goes on with an instance that an earlier life of this worker has made. `note` and `tie` are those of its
    /// [`Instance::tie`], and `control` its [`Wired::control`].
    async fn adopt(
        &self,
        labels: &InstanceLabels,
        note: &[u8],
        tie: OwnedFd,
        control: BorrowedFd<'_>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        let _ = (labels, note, tie, control);
        Err(RuntimeError::Plan(format!(
            "runtime `{}` cannot go on with instances",
            self.kind().as_str()
        )))
    }

    /// Removes everything this runtime has left on the host for `worker`, but for these shares: after a crash of
    /// the process, or at the end. Goes on after a failure and returns them all.
    async fn reap_but(&self, worker: &WorkerId, kept: &[ShareKey]) -> Vec<RuntimeError>;

    /// As [`Runtime::reap_but`], without exception.
    async fn reap(&self, worker: &WorkerId) -> Vec<RuntimeError> {
        self.reap_but(worker, &[]).await
    }

    /// What is there of `worker` on this host, of any run. What a run has asked to keep is not listed.
    async fn traces(&self, worker: &WorkerId) -> Result<Vec<Trace>, RuntimeError> {
        let _ = worker;
        Ok(Vec::new())
    }

    /// Removes something that [`Runtime::traces`] has listed. Done when it is not there.
    async fn remove_trace(&self, trace: &Trace) -> Result<(), RuntimeError> {
        let _ = trace;
        Ok(())
    }

    /// The images it keeps on this host.
    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        Ok(Vec::new())
    }

    /// Gives an image up that no instance is made from. Done when it is not there.
    async fn forget(&self, digest: &str) -> Result<(), RuntimeError> {
        let _ = digest;
        Ok(())
    }

    /// Directories whose file systems fill up because of it, besides the worker's own.
    async fn directories(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Bytes that each attempt of a run has written outside of its outputs.
    async fn written(&self, worker: &WorkerId) -> BTreeMap<(RunId, Attempt), u64> {
        let _ = worker;
        BTreeMap::new()
    }
}

/// Something on this host that belongs to an attempt of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// The run.
    pub run: RunId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// What and where it is.
    pub place: Place,
}

/// Where something of a run is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A container, by its name.
    Container(String),
    /// A control group and the processes in it, by the name of its leaf.
    ControlGroup(String),
    /// A directory.
    Directory(PathBuf),
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container `{name}`"),
            Self::ControlGroup(name) => write!(f, "control group `{name}`"),
            Self::Directory(path) => write!(f, "directory `{}`", path.display()),
            Self::File(path) => write!(f, "file `{}`", path.display()),
        }
    }
}

/// The attempt an instance's name is of: `<run>-<attempt>-<instance>`, and whatever comes after that.
pub(crate) fn attempt_of(name: &str) -> Option<(RunId, Attempt)> {
    let mut words = name.split('-');
    let run = words.next()?.parse().ok()?;
    Some((run, Attempt(words.next()?.parse().ok()?)))
}

/// An image that is kept on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// What it takes.
    pub size: StoredSize,
}

/// What an image takes on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredSize {
    /// As much as this directory, which belongs to the worker alone.
    Directory(PathBuf),
    /// So many bytes of an engine that others use as well.
    Shared(u64),
}

/// A share: an attempt of a run.
pub type ShareKey = (RunId, Attempt);

/// By what an instance hangs on its worker.
#[derive(Debug)]
pub struct Tie<'a> {
    /// The instance lives for as long as anybody has this open.
    pub descriptor: BorrowedFd<'a>,
    /// What else [`Runtime::adopt`] needs to know.
    pub note: Vec<u8>,
    /// The container it is, if it is one.
    pub container: Option<Container>,
}

/// One instance. Dropping it without [`Instance::remove`] kills it as well.
#[async_trait]
pub trait Instance: Send + Sync {
    /// Lets it go. One that an earlier life of the worker has let go runs already.
    async fn start(&self) -> Result<(), RuntimeError>;

    /// Waits until its first process has ended and all others are gone. May be called again.
    async fn wait(&self) -> Exit;

    /// Asks its first process to end (SIGTERM).
    async fn terminate(&self);

    /// Ends all its processes at once.
    async fn kill(&self);

    /// Starts it again after its end: a new process with the same files, network and output. `incarnation` counts
    /// its lives from 0 and reaches it as an environment variable. [`Instance::wait`] is about this life from then on.
    async fn again(&self, incarnation: u32) -> Result<(), RuntimeError> {
        let _ = incarnation;
        Err(RuntimeError::Plan("instances of this runtime cannot be started again".to_owned()))
    }

    /// Makes all its processes stand still (SIGSTOP).
    async fn pause(&self) {}

    /// Makes them go on (SIGCONT).
    async fn resume(&self) {}

    /// Says that it will not be started again: its output ends with its processes.
    async fn part(&self) {}

    /// Sets the address of its data interface, or takes the interface down.
    async fn set_link(&self, link: LinkState) -> Result<(), RuntimeError>;

    /// A new TCP socket of its network namespace, which does not block and is connected to nothing.
    async fn socket(&self) -> Result<OwnedFd, RuntimeError> {
        Err(RuntimeError::Plan("instances of this runtime have no ports to expose".to_owned()))
    }

    /// By what it hangs on this process, so that somebody else can hold it too.
    fn tie(&self) -> Option<Tie<'_>> {
        None
    }

    /// Removes what is left of it: container, cgroup, mounts. Its outputs stay.
    async fn remove(&self) -> Result<(), RuntimeError>;
}

/// The state of an instance's data interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it is up.
    pub up: bool,
    /// Its address.
    pub address: Ipv4Addr,
    /// The prefix length of the run's subnet.
    pub prefix: u8,
}
