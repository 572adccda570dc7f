//! The first process of an instance: prepares it, starts the plan, reaps what ends, and ends with it.
//!
//! It is a fork of the spawner and the PID 1 of its namespace, so the kernel ends everything else in the
//! instance with it. It ends when its channel does: no instance outlives its worker and the worker's keeper. When
//! the plan has ended it stays and says how to whoever asks, until it is told to leave: the worker that it told may
//! be killed before anyone else has heard. It is not in the
//! instance's cgroup itself; the plan's limits are the plan's, and an instance out of memory cannot lose it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use groundswell_common::outcome::Exit;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, sethostname};
use tokio::time::Instant;

use super::channel::{Doing, Failure, FromInit, InitSpec, ToInit, receive, send};
use super::process::Program;
use super::root::Template;
use super::sys::close_all_but;
use crate::network::wire::{Wired, set_link, stream_socket, wire, wire_member};
use crate::runtime::LinkState;
use crate::runtime::cgroup::{Cgroups, Entrance};

/// How much sooner than others the kernel ends an instance when the host has no memory left.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// What the spawner has made ready for every instance.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) template: Template,
    pub(super) cgroups: Cgroups,
    pub(super) rootless: bool,
}

/// Lives an instance's life.
pub(super) fn live(channel: &OwnedFd, spec: &InitSpec, ground: &Ground) -> Result<(), Failure> {
    // Both ways to be orphaned end it: the spawner's death by signal, the worker's by the channel's end.
    set_pdeathsig(Signal::SIGKILL).doing("tie init to the spawner")?;
    close_all_but(channel.as_fd()).doing("close the spawner's descriptors")?;
    let prepared = match prepare(spec, ground) {
        Ok(prepared) => prepared,
        Err(failure) => {
            return send(channel.as_fd(), &FromInit::Failed(failure), &[])
                .doing("report a failure");
        }
    };
    let Prepared { program, entrance, wired, network, output, steps, notes } = prepared;
    let control = wired.control.try_clone().doing("keep the control socket")?;
    let Wired { device: _, sync, influx, names, control: socket } = &wired;
    let given = [&network, sync, influx, &names.udp, &names.tcp, socket, &output[0], &output[1]];
    let ready = FromInit::Ready { steps: steps.list, notes };
    send(channel.as_fd(), &ready, &given.map(AsRawFd::as_raw_fd)).doing("report readiness")?;
    drop((wired, network, output));
    let signals = SignalFd::with_flags(
        &SigSet::from(Signal::SIGCHLD),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .doing("listen for ended processes")?;
    let init = Init {
        channel: channel.as_fd(),
        control,
        entrance,
        program: Some(program),
        again: spec.again,
        plan: None,
        exit: None,
        leaves: false,
    };
    init.serve(&signals)
}

struct Prepared {
    program: Program,
    entrance: Entrance,
    wired: Wired,
    /// The data interface's device, or the network namespace that a NAT makes one in.
    network: OwnedFd,
    output: [OwnedFd; 2],
    steps: Steps,
    notes: Vec<String>,
}

fn prepare(spec: &InitSpec, ground: &Ground) -> Result<Prepared, Failure> {
    let mut steps = Steps { list: Vec::new(), last: Instant::now() };
    end_before_the_worker();
    let entrance =
        ground.cgroups.leaf(&spec.name).create(&spec.resources).doing("make the cgroup")?;
    steps.done("cgroup");
    unshare(CloneFlags::CLONE_NEWNET).doing("make a network namespace")?;
    steps.done("network namespace");
    let wired = if spec.member { wire_member() } else { wire(&spec.wire) };
    let mut wired = wired.doing("wire the network namespace")?;
    allow_pings();
    let network = match wired.device.take() {
        Some(device) => device,
        None => File::open("/proc/self/ns/net").doing("open the network namespace")?.into(),
    };
    steps.done("link, address, listeners");
    let others = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(others).doing("make the uts and ipc namespaces")?;
    sethostname(&spec.hostname).doing("set the host name")?;
    steps.done("uts and ipc namespaces");
    unshare(CloneFlags::CLONE_NEWNS).doing("make a mount namespace")?;
    steps.done("mount namespace");
    ground.template.enter(spec)?;
    steps.done("root file system");
    let (stdout, plan_stdout) = pipe2(OFlag::O_CLOEXEC).doing("make a pipe")?;
    let (stderr, plan_stderr) = pipe2(OFlag::O_CLOEXEC).doing("make a pipe")?;
    for end in [&stdout, &stderr] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing("make a pipe non-blocking")?;
    }
    let (program, notes) = Program::prepare(spec, ground.rootless, [plan_stdout, plan_stderr])?;
    steps.done("program");
    Ok(Prepared { program, entrance, wired, network, output: [stdout, stderr], steps, notes })
}

/// A host that runs out of memory takes it from plans before it takes it from the worker. Everyone may raise it.
fn end_before_the_worker() {
    let _as_high = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
}

/// Lets the plan open the datagram sockets with which an unprivileged `ping` works, as containers may.
fn allow_pings() {
    // In a user namespace there is one group only.
    let everyone = ["0 2147483647", "0 0"];
    let path = "/proc/sys/net/ipv4/ping_group_range";
    let _allowed = everyone.iter().any(|groups| fs::write(path, groups).is_ok());
}

/// How long each step took, in microseconds.
struct Steps {
    list: Vec<(String, u32)>,
    last: Instant,
}

impl Steps {
    fn done(&mut self, step: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.last).as_micros();
        self.list.push((step.to_owned(), u32::try_from(took).unwrap_or(u32::MAX)));
        self.last = now;
    }
}

struct Init<'a> {
    channel: BorrowedFd<'a>,
    control: OwnedFd,
    entrance: Entrance,
    /// Until it is started for the last time.
    program: Option<Program>,
    /// Whether it may be started again.
    again: bool,
    plan: Option<Pid>,
    /// How the plan ended, if it has.
    exit: Option<Exit>,
    /// Whether nobody will ask how it ended.
    leaves: bool,
}

impl Init<'_> {
    fn serve(mut self, signals: &SignalFd) -> Result<(), Failure> {
        let mut buffer = vec![0; 4096];
        while self.exit.is_none() || !self.leaves {
            let mut ready = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.channel, PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                done => done.doing("wait for work")?,
            };
            let [ended, asked] = ready.map(|fd| fd.any().unwrap_or(false));
            if ended {
                while matches!(signals.read_signal(), Ok(Some(_))) {}
                if let Some(exit) = self.reap() {
                    self.end(exit)?;
                }
            }
            if asked {
                let Some((request, _)) =
                    receive(self.channel, &mut buffer).doing("hear from the worker")?
                else {
                    return Ok(());
                };
                if let Some(exit) = self.answer(&request)?
                    && self.exit.is_none()
                {
                    self.end(exit)?;
                }
            }
        }
        Ok(())
    }

    /// Does what the worker asks. Returns how the instance ended, when it did.
    fn answer(&mut self, request: &ToInit) -> Result<Option<Exit>, Failure> {
        match request {
            ToInit::Start => {
                let started = self.start();
                self.plan = self.plan.or(started.as_ref().ok().copied());
                self.reply(started.map(drop))?;
                let failed = self.plan.is_none();
                return Ok(failed.then(|| Exit { code: Some(127), ..Exit::default() }));
            }
            ToInit::Again { incarnation } => {
                let started = self.start_again(*incarnation);
                self.reply(started)?;
            }
            ToInit::Terminate => match self.plan {
                // It may have ended, which SIGCHLD tells.
                Some(plan) => drop(kill(plan, Signal::SIGTERM)),
                None => return Ok(Some(by_signal(Signal::SIGTERM as i32))),
            },
            ToInit::Kill => {
                kill_everything();
                return Ok(self.plan.is_none().then(|| by_signal(Signal::SIGKILL as i32)));
            }
            // There may be nothing but this process.
            ToInit::Pause => drop(kill(Pid::from_raw(-1), Signal::SIGSTOP)),
            ToInit::Resume => drop(kill(Pid::from_raw(-1), Signal::SIGCONT)),
            ToInit::Part => {
                self.again = false;
                // Its output ends with the last process that has it open, and this one must not be that.
                self.program = self.program.take().filter(|_| self.plan.is_none());
            }
            ToInit::Attach => {
                let attached =
                    FromInit::Attached { started: self.plan.is_some(), exit: self.exit.clone() };
                send(self.channel, &attached, &[]).doing("answer the worker")?;
            }
            ToInit::Leave => self.leaves = true,
            ToInit::SetLink { up, address, prefix } => {
                let link = LinkState { up: *up, address: *address, prefix: *prefix };
                self.reply(set_link(self.control.as_fd(), link).doing("set the data interface"))?;
            }
            ToInit::Socket => match stream_socket().doing("make a socket") {
                Ok(socket) => {
                    send(self.channel, &FromInit::Done(Ok(())), &[socket.as_raw_fd()])
                        .doing("answer the worker")?;
                }
                Err(failure) => self.reply(Err(failure))?,
            },
        }
        Ok(None)
    }

    /// Starts the program for the first time.
    fn start(&mut self) -> Result<Pid, Failure> {
        let fresh = self.plan.is_none() && self.exit.is_none();
        match self.program.take().filter(|_| fresh) {
            Some(program) => {
                let started = program.start(&self.entrance);
                self.program = Some(program).filter(|_| self.again && started.is_ok());
                started
            }
            None => Err(Failure::plan("the instance has been started before".to_owned())),
        }
    }

    /// Starts the program once more, after it has ended.
    fn start_again(&mut self, incarnation: u32) -> Result<(), Failure> {
        let program = match &mut self.program {
            Some(program) if self.exit.is_some() && self.plan.is_some() => program,
            _ => return Err(Failure::plan("the instance cannot be started again".to_owned())),
        };
        program.set_incarnation(incarnation)?;
        self.plan = Some(program.start(&self.entrance)?);
        self.exit = None;
        Ok(())
    }

    /// Takes leave of processes that have ended. Returns how the plan's did.
    fn reap(&self) -> Option<Exit> {
        let mut exit = None;
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    (pid, Exit { code: Some(code), ..Exit::default() })
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, by_signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return exit,
                Ok(_) => continue,
            };
            if Some(pid) == self.plan {
                exit = Some(how);
            }
        }
    }

    /// Ends all that is left of the instance, then says how it ended.
    fn end(&mut self, exit: Exit) -> Result<(), Failure> {
        kill_everything();
        while waitpid(None, None).is_ok() {}
        let exit = Exit { oom_killed: self.entrance.oom_killed(), ..exit };
        self.exit = Some(exit.clone());
        send(self.channel, &FromInit::Exited(exit), &[]).doing("report the end")
    }

    fn reply(&self, done: Result<(), Failure>) -> Result<(), Failure> {
        send(self.channel, &FromInit::Done(done), &[]).doing("answer the worker")
    }
}

fn by_signal(signal: i32) -> Exit {
    Exit { signal: Some(signal), ..Exit::default() }
}

/// Kills all processes of the instance but this one.
fn kill_everything() {
    // There may be none.
    let _none = kill(Pid::from_raw(-1), Signal::SIGKILL);
}
