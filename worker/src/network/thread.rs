//! The threads of the data network, seen from outside: each is told changes, woken for them, and answers.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::NetworkError;
use super::plane::{Change, Command, Plane, WAKE};

/// Changes that may wait for a thread. Each caller waits for its own, so this is a bound on callers.
const COMMANDS: usize = 1024;

/// A thread that carries packets.
#[derive(Debug)]
pub(super) struct Thread {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    pub(super) handle: Option<JoinHandle<()>>,
}

/// What every such thread is woken by and told through.
pub(super) struct ThreadParts {
    pub(super) epoll: Epoll,
    pub(super) wake: Arc<EventFd>,
    pub(super) inbox: Receiver<Command>,
}

/// Says whether more wants to run on this host than there are cores.
pub(super) struct Crowd {
    loads: File,
    cores: usize,
}

impl Crowd {
    /// Absent where the kernel does not say it.
    pub(super) fn open() -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Some(Self { loads: File::open("/proc/loadavg").ok()?, cores })
    }

    pub(super) fn is_there(&self) -> bool {
        let running = || {
            let mut line = [0; 128];
            let length = self.loads.read_at(&mut line, 0).ok()?;
            let line = std::str::from_utf8(&line[..length]).ok()?;
            // Three averages, then those that run and all there are: 2/345.
            line.split(' ').nth(3)?.split('/').next()?.parse::<usize>().ok()
        };
        running().is_some_and(|running| running > self.cores)
    }
}

/// Lets the calling thread go before all ordinary ones, or no longer. Only root may have that; others are less
/// punctual on a busy host.
#[expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]
pub(super) fn go_first(first: bool) {
    let policy = if first { libc::SCHED_FIFO } else { libc::SCHED_OTHER };
    let parameters = libc::sched_param { sched_priority: i32::from(first) };
    // SAFETY: 0 means the calling thread, and the call reads the parameters, which outlive it.
    let _refused = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}

/// What the threads will say about a change.
pub(super) type Answers = Vec<oneshot::Receiver<Result<(), Errno>>>;

impl Thread {
    /// Starts a thread of the data plane.
    pub(super) fn start(number: usize, spin: Duration, start: Instant) -> std::io::Result<Self> {
        let body = move |parts: ThreadParts| {
            Plane::new(parts.epoll, parts.wake, parts.inbox, spin, start).run();
        };
        Self::with(format!("gs-net-{number}"), ThreadParts::new()?, body)
    }

    pub(super) fn with(
        name: String,
        (parts, commands): (ThreadParts, SyncSender<Command>),
        body: impl FnOnce(ThreadParts) + Send + 'static,
    ) -> std::io::Result<Self> {
        let wake = Arc::clone(&parts.wake);
        let handle = std::thread::Builder::new().name(name).spawn(move || body(parts))?;
        Ok(Self { commands, wake, handle: Some(handle) })
    }

    pub(super) fn tell(
        &self,
        change: Change,
    ) -> Result<oneshot::Receiver<Result<(), Errno>>, NetworkError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command { change, done }).map_err(|_| dead())?;
        // It fails when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
        Ok(answer)
    }
}

impl ThreadParts {
    /// The epoll watches the eventfd under the token [`WAKE`].
    pub(super) fn new() -> std::io::Result<(Self, SyncSender<Command>)> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (commands, inbox) = sync_channel(COMMANDS);
        Ok((Self { epoll, wake: Arc::new(wake), inbox }, commands))
    }
}

/// Waits until every thread has done it.
pub(super) async fn done(answers: Answers) -> Result<(), NetworkError> {
    for answer in answers {
        answer
            .await
            .map_err(|_| dead())?
            .map_err(|errno| host("watch the interface")(errno.into()))?;
    }
    Ok(())
}

/// What this host could not do.
pub(super) fn host(doing: &str) -> impl Fn(std::io::Error) -> NetworkError {
    move |source| NetworkError::Host { doing: doing.to_owned(), source }
}

fn dead() -> NetworkError {
    host("reach the data plane")(std::io::Error::other("its thread has ended"))
}
