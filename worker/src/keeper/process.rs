//! The keeper itself: one thread, no state but descriptors and deadlines.
//!
//! In: the worker's connection, at first its standard input, later one from its socket in the state directory, which
//! only the same user reaches. It ends when the worker says so, or when it has nothing left to keep and no worker.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect as connect_to,
    getsockopt, listen, socket, sockopt,
};
use nix::unistd::{dup2_stdin, geteuid, setsid};
use tokio::time::Instant;

use super::message::{Container, FromKeeper, MAX_NOTE, PROTOCOL, ToKeeper};
use super::{encode, socket_path};
use crate::runtime::netns::channel::{make_room, receive, send_bytes};

/// Workers that may wait for the keeper to notice that the one before is gone.
const WAITING: i32 = 4;
/// How long the engine may take to remove one container.
const ENGINE: Duration = Duration::from_secs(60);
/// How many containers are removed at the same time.
const REMOVING_AT_ONCE: usize = 8;

/// Connects to the keeper of a state directory. The connection does not block.
pub(super) fn connect(state_dir: &Path) -> io::Result<OwnedFd> {
    let stream = seqpacket()?;
    let directory = File::open(state_dir)?;
    connect_to(stream.as_raw_fd(), &short_address(&directory)?)?;
    nix::fcntl::fcntl(&stream, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(stream)
}

/// Is the keeper of a state directory.
pub(crate) fn main(state_dir: &Path) -> ExitCode {
    match run(state_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(state_dir: &Path) -> io::Result<()> {
    // A terminal's Ctrl-C is the worker's to handle.
    let _is_leader = setsid();
    let worker = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // With fewer it keeps fewer.
    let _lower = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    let listener = listener(state_dir)?;
    let mut process = Process {
        listener,
        worker: None,
        deposits: BTreeMap::new(),
        lease: None,
        left: Instant::now(),
    };
    process.welcome(worker);
    process.serve();
    Ok(())
}

fn listener(state_dir: &Path) -> io::Result<OwnedFd> {
    let listener = seqpacket()?;
    let directory = File::open(state_dir)?;
    match fs::remove_file(socket_path(state_dir)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    bind(listener.as_raw_fd(), &short_address(&directory)?)?;
    listen(&listener, Backlog::new(WAITING)?)?;
    Ok(listener)
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Through the directory's descriptor: a socket's path is limited to 107 bytes, a state directory's is not.
fn short_address(directory: &File) -> io::Result<UnixAddr> {
    let below = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(UnixAddr::new(&socket_path(Path::new(&below)))?)
}

struct Deposit {
    note: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    container: Option<Container>,
    /// When it is given up, unless a worker takes it.
    until: Option<Instant>,
}

struct Process {
    listener: OwnedFd,
    worker: Option<OwnedFd>,
    deposits: BTreeMap<String, Deposit>,
    /// Until when everything may go on without a worker. Without a word about it: not at all.
    lease: Option<Instant>,
    /// When the last worker left.
    left: Instant,
}

impl Process {
    fn serve(&mut self) {
        let mut buffer = vec![0; 2 * MAX_NOTE];
        loop {
            self.give_up_late();
            if self.worker.is_none() && self.deposits.is_empty() {
                return;
            }
            let watched = self.worker.as_ref().unwrap_or(&self.listener).as_fd();
            let mut ready = [PollFd::new(watched, PollFlags::POLLIN)];
            match poll(&mut ready, self.patience()) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                // Without it nothing can be promised.
                Err(_) => return,
            }
            match &self.worker {
                None => self.accept(),
                Some(worker) => match receive::<ToKeeper>(worker.as_fd(), &mut buffer) {
                    Ok(Some((ToKeeper::End, _))) => return self.end(),
                    Ok(Some((message, descriptors))) => self.take(message, descriptors),
                    Ok(None) => self.left(),
                    // Too few descriptors can be open, or it is none of ours.
                    Err(_) => self.left(),
                },
            }
        }
    }

    fn patience(&self) -> PollTimeout {
        let Some(first) = self.deposits.values().filter_map(|one| one.until).min() else {
            return PollTimeout::NONE;
        };
        let wait = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    fn accept(&mut self) {
        let Ok(raw) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        let stream = own(raw);
        let peer = getsockopt(&stream, sockopt::PeerCredentials);
        if peer.is_ok_and(|peer| peer.uid() == geteuid().as_raw()) {
            self.welcome(stream);
        }
    }

    /// Tells a worker what is here. One that is gone again is noticed by its socket.
    fn welcome(&mut self, worker: OwnedFd) {
        make_room(&worker);
        let away = self.left.elapsed().as_millis();
        let hello = FromKeeper::Hello {
            protocol: PROTOCOL,
            away_ms: u64::try_from(away).unwrap_or(u64::MAX),
            deposits: self.deposits.len(),
        };
        let told = self.deposits.iter().map(|(name, deposit)| FromKeeper::Deposited {
            name: name.clone(),
            note: deposit.note.clone(),
        });
        for message in std::iter::once(hello).chain(told) {
            say(&worker, &message, &[]);
        }
        self.worker = Some(worker);
    }

    fn take(&mut self, message: ToKeeper, descriptors: Vec<OwnedFd>) {
        match message {
            ToKeeper::Deposit { name, note, container } => {
                let deposit = Deposit { note, descriptors, container, until: None };
                self.deposits.insert(name, deposit);
            }
            ToKeeper::Take { name } => {
                let mut raw: Vec<RawFd> = Vec::new();
                if let Some(deposit) = self.deposits.get_mut(&name) {
                    deposit.until = None;
                    raw.extend(deposit.descriptors.iter().map(|one| one.as_raw_fd()));
                }
                if let Some(worker) = &self.worker {
                    say(worker, &FromKeeper::Given, &raw);
                }
            }
            ToKeeper::Forget { name } => drop(self.deposits.remove(&name)),
            ToKeeper::GiveUp { name } => {
                self.deposits.remove(&name).into_iter().for_each(|one| remove_all(vec![one]));
            }
            ToKeeper::Lease { millis } => {
                self.lease = Instant::now().checked_add(Duration::from_millis(millis));
            }
            ToKeeper::End => {}
        }
    }

    /// The worker is gone without a word. What nobody has taken since the last time keeps its deadline.
    fn left(&mut self) {
        self.worker = None;
        self.left = Instant::now();
        let until = self.lease.unwrap_or(self.left);
        for deposit in self.deposits.values_mut() {
            deposit.until.get_or_insert(until);
        }
    }

    fn give_up_late(&mut self) {
        let now = Instant::now();
        let late = self.deposits.extract_if(.., |_, one| one.until.is_some_and(|at| at <= now));
        remove_all(late.map(|(_, deposit)| deposit).collect());
    }

    /// The worker removes its containers itself.
    fn end(&mut self) {
        self.deposits.clear();
    }
}

/// Lets instances end, all of them first, and then removes what the kernel does not.
fn remove_all(deposits: Vec<Deposit>) {
    let containers: Vec<Container> =
        deposits.into_iter().filter_map(|deposit| deposit.container).collect();
    for some in containers.chunks(REMOVING_AT_ONCE) {
        std::thread::scope(|scope| {
            for container in some {
                scope.spawn(|| remove(container));
            }
        });
    }
}

/// What is left stays until the worker's next life.
fn remove(container: &Container) {
    let _left = ask_engine(container);
    let _left = fs::remove_dir_all(&container.directory);
}

fn ask_engine(container: &Container) -> io::Result<()> {
    let mut engine = UnixStream::connect(&container.engine)?;
    engine.set_read_timeout(Some(ENGINE))?;
    let name = &container.name;
    write!(
        engine,
        "DELETE /containers/{name}?force=true&v=true HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
    )?;
    engine.read_to_end(&mut Vec::new()).map(drop)
}

fn say(worker: &OwnedFd, message: &FromKeeper, descriptors: &[RawFd]) {
    let Ok(bytes) = encode(message) else { return };
    // A worker that is gone is noticed by its socket.
    let _gone = send_bytes(worker.as_fd(), &bytes, descriptors);
}

#[expect(unsafe_code, reason = "an accepted connection is a bare number")]
fn own(raw: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
