//! The process that makes instances, and the NATs they are behind: small and with one thread, so that copying it is cheap and safe.
//!
//! It is the worker's executable again, started with a first argument of its own. In: requests, each with
//! the channel of what is to be made. Out: one [`Hello`]. When its socket ends, because the worker and its keeper have,
//! even by `kill -9`, it ends all instances, removes their cgroups and ends itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use groundswell_common::ids::WorkerId;
use groundswell_common::network::DataPath;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, getegid, geteuid, setsid};

use super::channel::{Doing, Failure, FromInit, Hello, MAX_MESSAGE, Request, receive, send};
use super::init::{Ground, live};
use super::nat;
use super::root::Template;
use super::sys::{exit_now, fork};
use crate::keeper;
use crate::network::wire::{TUN_ADVICE, WireSpec, wire};
use crate::runtime::cgroup::Cgroups;

/// The first argument that makes the executable a spawner.
pub(super) const ARGUMENT: &str = "__groundswell-spawner";

/// How long the spawner of the worker's earlier life may take to clean up, in steps of 10 ms.
const LOCK_PATIENCE: u32 = 1_000;

/// Is the spawner, or the worker's keeper, when this process has been started as one. Must be the first thing in
/// `main`: before there is a second thread.
#[must_use]
pub fn spawner_main_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next()?;
    if asked == keeper::ARGUMENT {
        return Some(keeper::process_main(&PathBuf::from(arguments.next().unwrap_or_default())));
    }
    if asked != ARGUMENT {
        return None;
    }
    let (worker, state_dir) = (arguments.next(), arguments.next());
    let done = run(worker.unwrap_or_default(), &PathBuf::from(state_dir.unwrap_or_default()));
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(worker: OsString, state_dir: &Path) -> Result<(), Failure> {
    let worker = WorkerId::from_lossy(&worker.to_string_lossy());
    // A terminal's Ctrl-C is the worker's to handle.
    let _is_leader = setsid();
    let socket = io::stdin().as_fd().try_clone_to_owned().doing("take the socket")?;
    dup2_stdin(File::open("/dev/null").doing("open `/dev/null`")?).doing("set stdin")?;
    let set_up = lock(state_dir, &worker).and_then(|lock| Ok((lock, prepare(state_dir, &worker)?)));
    let (_lock, (ground, missing)) = match set_up {
        Ok(set_up) => set_up,
        Err(failure) => {
            let hello = Hello { missing: Vec::new(), unavailable: Some(failure.to_string()) };
            return send(socket.as_fd(), &hello, &[]).doing("say hello");
        }
    };
    send(socket.as_fd(), &Hello { missing, unavailable: None }, &[]).doing("say hello")?;
    let mut spawner = Spawner { socket, ground, children: BTreeMap::new(), left: Vec::new() };
    let done = spawner.serve();
    spawner.finish();
    done
}

/// Waits for the spawner of an earlier life of this worker to be gone. The lock goes with this process.
fn lock(state_dir: &Path, worker: &WorkerId) -> Result<Flock<File>, Failure> {
    let path = lock_path(state_dir, worker);
    let mut file = File::create(&path).doing(format_args!("create `{}`", path.display()))?;
    for _ in 0..LOCK_PATIENCE {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) => file,
        };
        let _timed_out = poll(&mut [], 10_u8);
    }
    Err(Failure::plan(format!("another worker `{worker}` uses `{}`", state_dir.display())))
}

/// The file that the spawner of a worker has locked while it lives.
pub(super) fn lock_path(state_dir: &Path, worker: &WorkerId) -> PathBuf {
    state_dir.join(format!("spawner-{worker}.lock"))
}

/// Waits until the spawner that has locked a file is gone.
pub(super) fn wait_for_end(lock: &Path) {
    let Ok(mut file) = File::open(lock) else { return };
    for _ in 0..LOCK_PATIENCE {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_gone) => return,
            Err((file, _)) => file,
        };
        let _timed_out = poll(&mut [], 10_u8);
    }
}

fn prepare(state_dir: &Path, worker: &WorkerId) -> Result<(Ground, Vec<String>), Failure> {
    let rootless = !geteuid().is_root();
    let mut cgroups = Cgroups::detect(worker);
    let mut missing = cgroups.missing();
    if let Err(err) = cgroups.prepare() {
        missing = vec![format!("No limit on cpu, memory or processes is enforced: {err}.")];
        cgroups = Cgroups::none(worker);
    }
    if rootless {
        become_root_of_a_user_namespace()?;
    }
    SigSet::from(Signal::SIGCHLD).thread_block().doing("block a signal")?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|err| not_permitted(err, "mount namespaces"))?;
    let template = Template::build(state_dir)?;
    try_network()?;
    Ok((Ground { template, cgroups, rootless }, missing))
}

/// Without root the kernel lets a user be root of a namespace, if the host's settings do.
fn become_root_of_a_user_namespace() -> Result<(), Failure> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|err| not_permitted(err, "user namespaces"))?;
    fs::write("/proc/self/setgroups", "deny").doing("give up supplementary groups")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).doing("map the group")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).doing("map the user")
}

fn not_permitted(err: Errno, what: &str) -> Failure {
    let settings = [
        ("user.max_user_namespaces", "0", "a number above 0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    let bad = settings.iter().find(|(name, bad, _)| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::read_to_string(path).is_ok_and(|value| value.trim() == *bad)
    });
    let advice = match bad {
        Some((name, _, good)) => format!("set sysctl {name} to {good}, or run as root"),
        None => "run as root, in a container with the capability SYS_ADMIN".to_owned(),
    };
    Failure::plan(format!("the kernel refuses {what} ({}); {advice}", err.desc()))
}

/// Wires a network namespace once, in a process that ends at once, so that what is missing shows here.
fn try_network() -> Result<(), Failure> {
    let Some(child) = fork(libc::CLONE_NEWNET, None).doing("make a network namespace")? else {
        let address = std::net::Ipv4Addr::new(16, 0, 0, 2);
        let tried = wire(&WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch });
        exit_now(tried.err().map_or(0, |err| err.raw_os_error().unwrap_or(libc::EIO)));
    };
    let ended = waitpid(child, None).doing("wait for a process")?;
    let WaitStatus::Exited(_, code) = ended else {
        return Err(Failure::plan(format!("the trial of the network ended with {ended:?}")));
    };
    if code == 0 {
        return Ok(());
    }
    let reason = Errno::from_raw(code).desc();
    Err(Failure::plan(format!("no network interface can be made ({reason}); {TUN_ADVICE}")))
}

/// When a cgroup that could not be removed is tried again, in milliseconds.
const AGAIN: u8 = 50;

struct Spawner {
    socket: OwnedFd,
    ground: Ground,
    /// Init process to name of its cgroup; a process with NATs has none.
    children: BTreeMap<Pid, Option<String>>,
    /// Cgroups whose instances have ended and which the kernel has not let go of yet.
    left: Vec<String>,
}

impl Spawner {
    /// Makes instances until the worker is gone.
    fn serve(&mut self) -> Result<(), Failure> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)
            .doing("listen for ended processes")?;
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let mut ready = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            let patience = if self.left.is_empty() { PollTimeout::NONE } else { AGAIN.into() };
            match poll(&mut ready, patience) {
                Err(Errno::EINTR) => continue,
                done => done.doing("wait for work")?,
            };
            let [ended, asked] = ready.map(|fd| fd.any().unwrap_or(false));
            self.remove_left();
            if ended {
                while matches!(signals.read_signal(), Ok(Some(_))) {}
                while self.reap(Some(WaitPidFlag::WNOHANG)) {}
            }
            if asked {
                let request =
                    receive(self.socket.as_fd(), &mut buffer).doing("hear from the worker")?;
                let Some((request, channel)) = request else { return Ok(()) };
                for channel in channel {
                    self.spawn(&request, &channel);
                }
            }
        }
    }

    fn spawn(&mut self, request: &Request, channel: &OwnedFd) {
        let (namespaces, name) = match request {
            Request::Instance(spec) => (libc::CLONE_NEWPID, Some(spec.name.clone())),
            Request::Nat(_) => (0, None),
        };
        match fork(namespaces, None) {
            Ok(None) => {
                let lived = catch_unwind(AssertUnwindSafe(|| match request {
                    Request::Instance(spec) => live(channel, spec, &self.ground),
                    Request::Nat(spec) => nat::keep(channel, spec),
                }));
                exit_now(if matches!(lived, Ok(Ok(()))) { 0 } else { 1 });
            }
            Ok(Some(pid)) => {
                self.children.insert(pid, name);
            }
            Err(err) => {
                let failed = Err::<(), _>(err).doing("start a process");
                // The worker may be gone, which the socket tells.
                let _gone = match request {
                    Request::Instance(_) => {
                        failed.map_err(|f| send(channel.as_fd(), &FromInit::Failed(f), &[])).err()
                    }
                    Request::Nat(_) => Some(send(channel.as_fd(), &failed, &[])),
                };
            }
        }
    }

    /// Takes leave of one instance that has ended. Returns whether there was one.
    fn reap(&mut self, options: Option<WaitPidFlag>) -> bool {
        let pid = match waitpid(None, options) {
            Err(Errno::EINTR) => return true,
            Ok(status) => status.pid(),
            Err(_) => None,
        };
        let Some(pid) = pid else { return false };
        if let Some(Some(name)) = self.children.remove(&pid) {
            self.left.push(name);
            self.remove_left();
        }
        true
    }

    /// Removes cgroups. The worker does too, and whoever comes second finds it done; when the worker is gone,
    /// nobody else does.
    fn remove_left(&mut self) {
        let cgroups = &self.ground.cgroups;
        let is_busy = |err: io::Error| err.kind() == io::ErrorKind::ResourceBusy;
        self.left.retain(|name| cgroups.leaf(name).remove().is_err_and(is_busy));
    }

    fn finish(&mut self) {
        for pid in self.children.keys() {
            let _gone = kill(*pid, Signal::SIGKILL);
        }
        while self.reap(None) {}
        for name in &self.left {
            // What stays is found by the next life's reaping.
            let _stays = self.ground.cgroups.remove_leaf(name);
        }
        self.ground.cgroups.remove_parent();
    }
}
