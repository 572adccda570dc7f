//! The plan's process: from a fork of init to the plan's first instruction.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{
    Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, pipe2, setgid, setgroups,
    setsid, setuid,
};

use super::channel::{Doing, Failure, Image, InitSpec};
use super::seccomp;
use super::sys::{
    close_on_exec_from_3, default_signals, drop_capabilities, exit_now, filter_calls, fork,
};
use crate::runtime::INCARNATION;
use crate::runtime::cgroup::Entrance;

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that is ready to be executed.
#[derive(Debug)]
pub(super) struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    workdir: PathBuf,
    user: Option<(Uid, Gid)>,
    limits: Vec<(Resource, u64, u64)>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Program {
    /// Resolves everything in the instance's root, so that a mistake shows before the start. The notes say
    /// which limits had to be lowered.
    pub(super) fn prepare(
        spec: &InitSpec,
        rootless: bool,
        [stdout, stderr]: [OwnedFd; 2],
    ) -> Result<(Self, Vec<String>), Failure> {
        let search = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let mut environment = Vec::new();
        for (name, value) in &spec.env {
            environment.push(text(&format!("{name}={value}"))?);
        }
        if !spec.env.contains_key("PATH") {
            environment.push(text(&format!("PATH={DEFAULT_PATH}"))?);
        }
        let Some(word) = spec.command.first() else {
            return Err(Failure::plan("the image has no command".to_owned()));
        };
        let path = find(word, &spec.workdir, search, matches!(spec.image, Image::Bundle(_)))?;
        let (limits, mut notes) = rlimits(&spec.ulimits)?;
        let mut user = match &spec.image {
            Image::Root { user, .. } => find_user(user)?,
            Image::Bundle(_) => None,
        };
        if rootless && user.take().is_some() {
            notes.push(
                "the image's user is not used: without root there is one user only".to_owned(),
            );
        }
        let path = text(&path.display().to_string())?;
        let arguments = spec.command.iter().map(|word| text(word)).collect::<Result<_, _>>()?;
        let workdir = spec.workdir.clone();
        Ok((Self { path, arguments, environment, workdir, user, limits, stdout, stderr }, notes))
    }

    /// Tells the program which of its lives begins.
    pub(super) fn set_incarnation(&mut self, incarnation: u32) -> Result<(), Failure> {
        let begin = format!("{INCARNATION}=");
        self.environment.retain(|one| !one.as_bytes().starts_with(begin.as_bytes()));
        self.environment.push(text(&format!("{begin}{incarnation}"))?);
        Ok(())
    }

    /// Starts it, in its cgroup. Returns when the kernel has accepted the program.
    pub(super) fn start(&self, entrance: &Entrance) -> Result<Pid, Failure> {
        let (mut told, tell) =
            pipe2(OFlag::O_CLOEXEC).map(|(r, w)| (File::from(r), w)).doing("make a pipe")?;
        let Some(pid) = fork(0, entrance.directory()).doing("start a process")? else {
            drop(told);
            let Err(failure) = self.become_it(entrance);
            let _parent_is_gone =
                File::from(tell).write_all(&rmp_serde::to_vec(&failure).unwrap_or_default());
            exit_now(127);
        };
        drop(tell);
        let mut bytes = Vec::new();
        told.read_to_end(&mut bytes).doing("hear from the process")?;
        if bytes.is_empty() {
            return Ok(pid);
        }
        Err(rmp_serde::from_slice(&bytes)
            .unwrap_or_else(|_| Failure::plan("the process did not start".to_owned())))
    }

    fn become_it(&self, entrance: &Entrance) -> Result<std::convert::Infallible, Failure> {
        entrance.enter().doing("enter the cgroup")?;
        set_pdeathsig(Signal::SIGKILL).doing("tie the process to init")?;
        setsid().doing("make a session")?;
        dup2_stdin(File::open("/dev/null").doing("open `/dev/null`")?).doing("set stdin")?;
        dup2_stdout(&self.stdout).doing("set stdout")?;
        dup2_stderr(&self.stderr).doing("set stderr")?;
        close_on_exec_from_3().doing("close descriptors")?;
        for (resource, soft, hard) in &self.limits {
            setrlimit(*resource, *soft, *hard).doing(format_args!("set the limit {resource:?}"))?;
        }
        drop_capabilities().doing("drop capabilities")?;
        if let Some((uid, gid)) = self.user {
            setgroups(&[gid]).doing("set the groups")?;
            setgid(gid).doing("set the group")?;
            setuid(uid).doing("set the user")?;
            // Changing the user has reset it.
            set_pdeathsig(Signal::SIGKILL).doing("tie the process to init")?;
        }
        chdir(&self.workdir).map_err(|err| {
            Failure::plan(format!(
                "cannot enter the directory `{}`: {}",
                self.workdir.display(),
                err.desc()
            ))
        })?;
        set_no_new_privs().doing("forbid new privileges")?;
        default_signals().doing("reset signals")?;
        filter_calls(&mut seccomp::program()).doing("forbid system calls")?;
        let err = match execve(&self.path, &self.arguments, &self.environment) {
            Err(err) => err,
            Ok(never) => return Ok(never),
        };
        Err(Failure::plan(format!("cannot run `{}`: {}", self.path.to_string_lossy(), reason(err))))
    }
}

fn reason(err: Errno) -> &'static str {
    if err == Errno::ENOENT {
        return "it, or the interpreter it names, does not exist in the instance";
    }
    if err == Errno::ENOEXEC {
        return "it is neither a program for this machine nor a script with a `#!` line";
    }
    err.desc()
}

fn text(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::plan(format!("{text:?} contains a zero byte")))
}

fn find(word: &str, workdir: &Path, search: &str, bundle: bool) -> Result<PathBuf, Failure> {
    let mut candidates = Vec::new();
    if bundle {
        candidates.push(Path::new("/plan").join(word));
    } else if word.contains('/') {
        candidates.push(workdir.join(word));
    }
    if !word.contains('/') {
        candidates.extend(
            search.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(word)),
        );
    }
    let runs = |path: &&PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if let Some(path) = candidates.iter().find(runs) {
        return Ok(path.clone());
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(Failure::plan(format!(
        "no executable `{word}` in the instance (looked at {})",
        tried.join(", ")
    )))
}

/// Reads `USER[:GROUP]` of an image, numbers or names of its own `/etc`.
fn find_user(user: &str) -> Result<Option<(Uid, Gid)>, Failure> {
    if matches!(user, "" | "0" | "root" | "0:0" | "root:root") {
        return Ok(None);
    }
    let (user, group) =
        user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() > 3 && (fields[0] == user || fields[2] == user));
    let unknown =
        |what: &str| Failure::plan(format!("the image's user `{what}` does not exist in it"));
    let uid = entry.as_ref().map_or(user, |fields| fields[2]).parse().map_err(|_| unknown(user))?;
    let gid = match group {
        None => {
            entry.as_ref().map_or("0", |fields| fields[3]).parse().map_err(|_| unknown(user))?
        }
        Some(group) => find_group(group).ok_or_else(|| unknown(group))?,
    };
    Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
}

fn find_group(group: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let named = named.into_iter().find(|fields| fields.len() > 2 && fields[0] == group);
    named.map_or(group, |fields| fields[2]).to_owned().parse().ok()
}

type Rlimits = (Vec<(Resource, u64, u64)>, Vec<String>);

/// Reads Docker's form, `nofile=1024:2048`. What is more than this process may give is lowered, and noted.
fn rlimits(ulimits: &[String]) -> Result<Rlimits, Failure> {
    let mut limits = vec![(Resource::RLIMIT_CORE, 0, 0)];
    let mut notes = Vec::new();
    for ulimit in ulimits {
        let wrong = || Failure::plan(format!("`{ulimit}` is not a limit like `nofile=1024:2048`"));
        let (name, values) = ulimit.split_once('=').ok_or_else(wrong)?;
        let resource = resource(name.trim()).ok_or_else(wrong)?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (amount(soft).ok_or_else(wrong)?, amount(hard).ok_or_else(wrong)?);
        if soft > hard {
            return Err(wrong());
        }
        let (_, highest) = getrlimit(resource).doing("read a limit")?;
        if hard > highest && setrlimit(resource, highest, hard).is_err() {
            notes.push(format!(
                "`{ulimit}` is lowered to {highest}, the most this host allows here"
            ));
            limits.push((resource, soft.min(highest), highest));
            continue;
        }
        limits.push((resource, soft, hard));
    }
    Ok((limits, notes))
}

fn amount(text: &str) -> Option<u64> {
    if matches!(text.trim(), "-1" | "unlimited") {
        return Some(libc::RLIM_INFINITY);
    }
    text.trim().parse().ok()
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        _ => return None,
    })
}
