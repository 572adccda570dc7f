//! The first process of a container: holds the plan back until it is let go, and ends with the worker.
//!
//! Docker cannot start a container and hold it before its first instruction, so this program takes the
//! place of the image's entry point. It is one static file that is bind-mounted into the container,
//! therefore it also works in an image that holds nothing but one binary. `build.rs` compiles it with the
//! standard library alone.
//!
//! ```text
//! /.groundswell/control   a socket the worker listens on; it accepts once
//! /.groundswell/stdout    a pipe whose other end the worker reads; so is /.groundswell/stderr
//!
//! to the worker     ready | failed <why> | started | exited <code> | signaled <number>   (lines)
//! from the worker   g: go   t: SIGTERM for the plan   k: kill everything   x: end        (bytes)
//!                   p: everything stands still   c: and goes on   r: start the plan again, which has ended
//!                   s: say it again (the worker's next life asks): state | started | exited … | signaled …
//! ```
//!
//! When the socket closes, the worker is gone, and so is its keeper, which has the socket open too. This process
//! then ends, and as it is the first of its process namespace, the kernel kills every other one with it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;

const CONTROL: &str = "/.groundswell/control";
const STDOUT: &str = "/.groundswell/stdout";
const STDERR: &str = "/.groundswell/stderr";

/// What it says of itself before the plan is let go, and while it runs.
const HELD: &str = "state";
const STARTED: &str = "started";

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// Says which of its lives the plan is in, from 0.
const INCARNATION: &str = "GROUNDSWELL_INCARNATION";
const PR_SET_DUMPABLE: i32 = 4;
/// What a shell says of a command that cannot be run.
const CANNOT_RUN: u8 = 127;

/// The plan's first process; 0 before it runs and after it has ended.
static PLAN: AtomicI32 = AtomicI32::new(0);
/// Whether everything has ended and only the worker's word is awaited.
static ENDED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    // `kill(-1)` below is meant for a container. Anywhere else it would end the whole machine.
    if std::process::id() != 1 {
        return ExitCode::from(CANNOT_RUN);
    }
    hide();
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(CANNOT_RUN),
    }
}

/// Keeps the plan, which may be the same user, from looking into this process or steering it.
fn hide() {
    // SAFETY: takes no memory. What is executed later is not hidden.
    unsafe {
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
}

fn run() -> io::Result<u8> {
    let mut control = UnixStream::connect(CONTROL)?;
    let stdout = OpenOptions::new().write(true).open(STDOUT)?;
    let stderr = OpenOptions::new().write(true).open(STDERR)?;
    let command: Vec<OsString> = env::args_os().skip(1).collect();
    if let Err(why) = runnable(&command) {
        return give_up(&mut control, &why);
    }
    say(&mut control, "ready")?;
    match held(&mut control)? {
        Some(b'g') => {}
        Some(b't') => return end(&mut control, Status::Signal(SIGTERM)),
        Some(_) => return end(&mut control, Status::Signal(SIGKILL)),
        None => return Ok(code_of(Status::Signal(SIGKILL))),
    }
    let mut spawned = spawn(&command, &stdout, &stderr, None);
    let (ask, asked) = mpsc::channel();
    let mut orders = Some((control.try_clone()?, ask));
    for incarnation in 1_u32.. {
        let plan = match spawned {
            Ok(plan) => plan,
            Err(error) => {
                return give_up(&mut control, &format!("cannot run {:?}: {error}", command[0]));
            }
        };
        ENDED.store(false, Ordering::SeqCst);
        say(&mut control, STARTED)?;
        if let Some((mut orders, ask)) = orders.take() {
            thread::spawn(move || obey(&mut orders, &ask));
        }
        let status = reap(plan);
        remember(status);
        ENDED.store(true, Ordering::SeqCst);
        say(&mut control, &status_line(status))?;
        // The other thread hears the worker and ends the process, unless the plan gets another life.
        if asked.recv().is_err() {
            break;
        }
        spawned = spawn(&command, &stdout, &stderr, Some(incarnation));
    }
    Ok(code())
}

/// The order that ends the wait.
fn held(control: &mut UnixStream) -> io::Result<Option<u8>> {
    loop {
        match order(control)? {
            Some(b's') => say(control, HELD)?,
            order => return Ok(order),
        }
    }
}

/// Carries out orders until everything has ended for good.
fn obey(orders: &mut UnixStream, again: &mpsc::Sender<()>) {
    loop {
        match order(orders) {
            Ok(Some(b't')) => {
                let plan = PLAN.load(Ordering::SeqCst);
                if plan > 0 {
                    kill(plan, SIGTERM);
                }
            }
            Ok(Some(b'k')) => kill(-1, SIGKILL),
            Ok(Some(b'p')) => kill(-1, SIGSTOP),
            Ok(Some(b'c')) => kill(-1, SIGCONT),
            Ok(Some(b'r')) => drop(again.send(())),
            Ok(Some(b's')) => {
                let ended = ENDED.load(Ordering::SeqCst);
                let state = if ended { status_line(status()) } else { STARTED.to_owned() };
                // A worker that is gone again is noticed by the next read.
                let _gone = say(orders, &state);
            }
            Ok(Some(_)) if !ENDED.load(Ordering::SeqCst) => {}
            // The worker has heard how it ended, or is gone.
            Ok(Some(_) | None) | Err(_) => std::process::exit(i32::from(code())),
        }
    }
}

/// The code to end with, as far as it is known.
fn code() -> u8 {
    code_of(status())
}

/// How the plan has ended: a code, or a signal below zero.
static STATUS: AtomicI32 = AtomicI32::new(-SIGKILL);

fn status() -> Status {
    match STATUS.load(Ordering::SeqCst) {
        signal if signal < 0 => Status::Signal(-signal),
        code => Status::Code(code),
    }
}

fn remember(status: Status) {
    let number = match status {
        Status::Code(code) => code,
        Status::Signal(signal) => -signal,
    };
    STATUS.store(number, Ordering::SeqCst);
}

fn status_line(status: Status) -> String {
    match status {
        Status::Code(code) => format!("exited {code}"),
        Status::Signal(signal) => format!("signaled {signal}"),
    }
}

fn spawn(
    command: &[OsString],
    stdout: &File,
    stderr: &File,
    incarnation: Option<u32>,
) -> io::Result<i32> {
    let child = Command::new(&command[0])
        .args(&command[1..])
        .envs(incarnation.map(|number| (INCARNATION, number.to_string())))
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()?;
    let plan = i32::try_from(child.id()).map_err(io::Error::other)?;
    PLAN.store(plan, Ordering::SeqCst);
    Ok(plan)
}

/// Waits for every process of the container; those that outlive the plan's first one are killed.
fn reap(plan: i32) -> Status {
    let mut of_plan = Status::Code(0);
    while let Some((pid, status)) = wait_any() {
        if pid == plan {
            PLAN.store(0, Ordering::SeqCst);
            of_plan = status;
            kill(-1, SIGKILL);
        }
    }
    of_plan
}

/// Tells the worker how it ended before it began, and leaves once it has taken note: it reads the cgroup's counters
/// first, and they are gone with this process.
fn end(control: &mut UnixStream, status: Status) -> io::Result<u8> {
    remember(status);
    say(control, &status_line(status))?;
    let _ = order(control);
    Ok(code_of(status))
}

fn give_up(control: &mut UnixStream, why: &str) -> io::Result<u8> {
    say(control, &format!("failed {}", why.replace('\n', " ")))?;
    let _ = order(control);
    Ok(CANNOT_RUN)
}

/// Finds out before the start of the run whether the command is there at all.
fn runnable(command: &[OsString]) -> Result<(), String> {
    let Some(program) = command.first() else {
        return Err("the image names no command".to_owned());
    };
    let found = if program.as_encoded_bytes().contains(&b'/') {
        executable(Path::new(program))
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|directory| executable(&directory.join(program)))
    };
    if found { Ok(()) } else { Err(missing(program)) }
}

fn missing(program: &OsStr) -> String {
    let directory = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    format!(
        "there is no executable `{}` in the image (directory `{}`, PATH `{}`)",
        program.to_string_lossy(),
        directory.display(),
        env::var("PATH").unwrap_or_default()
    )
}

fn executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn say(control: &mut UnixStream, line: &str) -> io::Result<()> {
    control.write_all(format!("{line}\n").as_bytes())
}

fn order(control: &mut UnixStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match control.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy)]
enum Status {
    Code(i32),
    Signal(i32),
}

fn code_of(status: Status) -> u8 {
    let code = match status {
        Status::Code(code) => code,
        Status::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(CANNOT_RUN)
}

/// Waits for any child; `None` when there is none left.
fn wait_any() -> Option<(i32, Status)> {
    loop {
        let mut raw = 0;
        // SAFETY: `raw` is valid for the call, and waiting for any child is this process's duty.
        let pid = unsafe { waitpid(-1, &raw mut raw, 0) };
        if pid > 0 {
            let signal = raw & 0x7f;
            let status =
                if signal == 0 { Status::Code((raw >> 8) & 0xff) } else { Status::Signal(signal) };
            return Some((pid, status));
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: takes no memory. `main` has made sure that this is the first process of a container, so
    // that -1 means the container's other processes.
    unsafe {
        c_kill(pid, signal);
    }
}

unsafe extern "C" {
    fn prctl(option: i32, value: usize, third: usize, fourth: usize, fifth: usize) -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    #[link_name = "kill"]
    fn c_kill(pid: i32, signal: i32) -> i32;
}
