//! Keeps what instances need to live on while their worker is away: a small process beside the worker.
//!
//! ```text
//! worker ──socket──► keeper        deposits: the worker's descriptors of each instance, and notes about them
//!    ✗                  │          the worker is killed: everything goes on, until the lease is over
//! worker ──socket──► keeper        the next life of the worker takes the deposits and goes on with the instances
//! ```
//!
//! An instance ends when nobody has the other end of its channel any more, so a deposit is a life line with a
//! deadline: the keeper lets go of everything when the worker has been away for the rest of its lease, or at once
//! when the worker leaves in good order. If the keeper is killed, the worker's own descriptors keep the instances
//! alive; if both are, the kernel closes the last of them, and everything ends.
//!
//! ```text
//! message    what the two say
//! process    the keeper itself
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use groundswell_common::chain::Chain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::runtime::netns::channel::{make_room, receive, send_bytes};
use crate::runtime::netns::socket_pair;
use crate::runtime::netns::sys::watch;
use message::{Container, FromKeeper, MAX_NOTE, PROTOCOL, ToKeeper};
pub(crate) use process::main as process_main;

pub mod message;
mod process;

/// The first argument that makes the executable a keeper.
pub(crate) const ARGUMENT: &str = "__groundswell-keeper";
/// How long the keeper may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why deposits cannot be kept. Instances then end with their worker.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing}")]
pub struct KeeperError {
    doing: &'static str,
    #[source]
    source: io::Error,
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> KeeperError {
    move |source| KeeperError { doing, source }
}

/// The worker's end of its keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: AsyncFd<OwnedFd>,
    /// One question at a time.
    asking: tokio::sync::Mutex<()>,
    /// What an earlier life of the worker has deposited and nobody has taken or given up: name to note.
    found: Mutex<BTreeMap<String, Vec<u8>>>,
    /// How long the worker was away before this life.
    away: Duration,
    /// Whether it has been told that the worker leaves.
    ended: AtomicBool,
    broken: AtomicBool,
    child: Mutex<Option<Child>>,
}

/// What is deposited.
#[derive(Debug)]
pub(crate) struct Deposit<'a> {
    /// By which it is asked for.
    pub(crate) name: String,
    /// What the next life needs to know.
    pub(crate) note: Vec<u8>,
    /// The descriptors; at least one.
    pub(crate) descriptors: Vec<BorrowedFd<'a>>,
    /// What the keeper removes when it gives the deposit up.
    pub(crate) container: Option<Container>,
}

impl Keeper {
    /// Finds the keeper that an earlier life of the worker in this directory has left, or starts one. `executable`
    /// is a program that begins with [`crate::spawner_main_if_asked`].
    ///
    /// # Errors
    /// When there is none and none can be started.
    pub async fn attach(state_dir: &Path, executable: &Path) -> Result<Self, KeeperError> {
        if let Ok(socket) = process::connect(state_dir) {
            match Self::greet(socket, None).await {
                Ok(keeper) => return Ok(keeper),
                Err(err) => info!(error = %Chain(&err), "the keeper that was here is not used"),
            }
        }
        let (ours, theirs) = socket_pair().map_err(failed("make a socket"))?;
        let state_dir = state_dir.canonicalize().map_err(failed("find the state directory"))?;
        let child = Command::new(executable)
            .arg(ARGUMENT)
            .arg(&state_dir)
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("run the keeper"))?;
        Self::greet(ours, Some(child)).await
    }

    async fn greet(socket: OwnedFd, child: Option<Child>) -> Result<Self, KeeperError> {
        make_room(&socket);
        let socket = watch(socket).map_err(failed("watch the keeper"))?;
        let silent = || failed("hear from the keeper")(io::ErrorKind::TimedOut.into());
        let greeting = timeout(PATIENCE, hello(&socket)).await.map_err(|_| silent())?;
        let (found, away) = greeting.map_err(failed("hear from the keeper"))?;
        let inner = Inner {
            socket,
            asking: tokio::sync::Mutex::default(),
            found: Mutex::new(found),
            away,
            ended: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            child: Mutex::new(child),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Names and notes of what an earlier life has deposited, as far as nobody has taken it.
    pub(crate) fn found(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().clone()
    }

    /// How long the worker was away before this life.
    pub(crate) fn away(&self) -> Duration {
        self.inner.away
    }

    /// Whether the worker leaves in good order, and everything ends with it.
    pub(crate) fn has_ended(&self) -> bool {
        self.inner.ended.load(Ordering::Relaxed)
    }

    /// Deposits. A deposit of the same name is replaced. One that does not arrive is told in the log once; then
    /// instances end with this process.
    pub(crate) async fn deposit(&self, deposit: Deposit<'_>) {
        let Deposit { name, note, descriptors, container } = deposit;
        self.tell(&ToKeeper::Deposit { name, note, container }, &descriptors).await;
    }

    /// Takes a deposit of an earlier life: its descriptors. It stays deposited.
    pub(crate) async fn take(&self, name: &str) -> io::Result<Vec<OwnedFd>> {
        let _turn = self.inner.asking.lock().await;
        self.lock().remove(name);
        self.send(&ToKeeper::Take { name: name.to_owned() }, &[]).await?;
        let answer = timeout(PATIENCE, hear::<FromKeeper>(&self.inner.socket));
        match answer.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            Some((FromKeeper::Given, descriptors)) if !descriptors.is_empty() => Ok(descriptors),
            Some(_) => Err(io::Error::other("its time was over")),
            None => Err(io::Error::other("the keeper has ended")),
        }
    }

    /// Lets go of a deposit whose instance was removed.
    pub(crate) async fn forget(&self, name: &str) {
        self.lock().remove(name);
        self.tell(&ToKeeper::Forget { name: name.to_owned() }, &[]).await;
    }

    /// Ends what was deposited under names that begin so and that nobody has taken.
    pub(crate) async fn give_up(&self, prefix: &str) {
        let names: Vec<String> = {
            let mut found = self.lock();
            let given_up = found.extract_if(.., |name, _| name.starts_with(prefix));
            given_up.map(|(name, _)| name).collect()
        };
        for name in names {
            self.tell(&ToKeeper::GiveUp { name }, &[]).await;
        }
    }

    /// Says how long everything may go on without this process, from now.
    pub(crate) async fn may_go_on_for(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.tell(&ToKeeper::Lease { millis }, &[]).await;
    }

    /// The worker leaves: everything that is deposited ends at once, and the keeper too.
    pub(crate) async fn end(&self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        self.tell(&ToKeeper::End, &[]).await;
        let gone =
            async { while let Ok(Some(_)) = hear::<FromKeeper>(&self.inner.socket).await {} };
        if timeout(PATIENCE, gone).await.is_err() {
            warn!("the keeper is still there");
        }
        let child = self.inner.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // Its socket has ended, so it has, but for the last step.
            let _reaped = tokio::task::spawn_blocking(move || child.wait()).await;
        }
    }

    async fn tell(&self, message: &ToKeeper, descriptors: &[BorrowedFd<'_>]) {
        if let Err(err) = self.send(message, descriptors).await
            && !self.inner.broken.swap(true, Ordering::Relaxed)
        {
            warn!(error = %err, "the keeper is gone: instances end with this worker");
        }
    }

    async fn send(&self, message: &ToKeeper, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message)?;
        let raw: Vec<_> = descriptors.iter().map(|one| one.as_raw_fd()).collect();
        let write = |socket: &OwnedFd| send_bytes(socket.as_fd(), &bytes, &raw);
        self.inner.socket.async_io(Interest::WRITABLE, write).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.inner.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the keeper says first: everything it has.
async fn hello(socket: &AsyncFd<OwnedFd>) -> io::Result<(BTreeMap<String, Vec<u8>>, Duration)> {
    let ended = || io::Error::other("it has ended");
    let first = hear::<FromKeeper>(socket).await?.ok_or_else(ended)?;
    let (FromKeeper::Hello { protocol, away_ms, deposits }, _) = first else {
        return Err(io::Error::other("it does not say hello"));
    };
    if protocol != PROTOCOL {
        // What another version keeps cannot be gone on with.
        let end = encode(&ToKeeper::End)?;
        send_bytes(socket.get_ref().as_fd(), &end, &[])?;
        return Err(io::Error::other(format!("it speaks version {protocol}, not {PROTOCOL}")));
    }
    let mut found = BTreeMap::new();
    for _ in 0..deposits {
        match hear::<FromKeeper>(socket).await?.ok_or_else(ended)? {
            (FromKeeper::Deposited { name, note }, _) => drop(found.insert(name, note)),
            _ => return Err(io::Error::other("it does not say what it has")),
        }
    }
    Ok((found, Duration::from_millis(away_ms)))
}

async fn hear<T: DeserializeOwned>(
    socket: &AsyncFd<OwnedFd>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let read = |socket: &OwnedFd| receive(socket.as_fd(), &mut vec![0; 2 * MAX_NOTE]);
    socket.async_io(Interest::READABLE, read).await
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(message).map_err(io::Error::other)
}

/// Where the keeper of a state directory listens.
fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("keeper")
}
