//! The system calls that have no safe wrapper.
#![expect(unsafe_code, reason = "raw system calls, each with its argument")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

/// Capabilities an instance keeps, within its own namespaces: what its own files, users and low ports need.
const KEPT_CAPABILITIES: [u32; 8] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    10, // CAP_NET_BIND_SERVICE
];
/// The kernel knows no capability above it.
const LAST_CAPABILITY: u32 = 63;

/// Copies this process, the child in new namespaces and perhaps another cgroup. `None` in the child.
///
/// Must only be called by a process with one thread: then ordinary code may run in the child.
pub(super) fn fork(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Pid>> {
    let mut flags = u64::from(namespaces.cast_unsigned());
    let mut into = 0;
    if let Some(cgroup) = cgroup {
        flags |= CLONE_INTO_CGROUP;
        into = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    let args = libc::clone_args {
        flags,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: into,
    };
    // SAFETY: without CLONE_VM the child gets a copy of the address space and goes on with the same stack;
    // the only thread is this one, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's signals, and the size of a set of them in bytes.
const LAST_SIGNAL: i32 = 64;
const SIGNAL_SET: usize = 8;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Has the async runtime watch a descriptor, which must be non-blocking.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is valid for as long as it lives, and nothing closes or replaces it in there.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Ends this process without running anything of its parent's that it inherited.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Adds attributes (`MOUNT_ATTR_*`) to a mount, and to all below it.
pub(super) fn restrict_mount(path: &Path, attributes: u64, recursive: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes outlive the call, and the size is theirs.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes every capability that an instance does not need out of the reach of what is executed later.
pub(super) fn drop_capabilities() -> io::Result<()> {
    for capability in (0..=LAST_CAPABILITY).filter(|c| !KEPT_CAPABILITIES.contains(c)) {
        // SAFETY: takes its arguments by value.
        let done =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if done < 0 {
            let err = io::Error::last_os_error();
            if err.raw_os_error() == Some(libc::EINVAL) {
                break; // The kernel's last capability came before.
            }
            return Err(err);
        }
    }
    Ok(())
}

/// Has the kernel ask a filter about every system call from here on. Needs that new privileges are forbidden.
pub(super) fn filter_calls(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it, and the length is its own.
    let done = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has every descriptor above standard error closed by the next exec.
pub(super) fn close_on_exec_from_3() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes its arguments by value; no descriptor is closed here.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor above standard error but one.
pub(super) fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = kept.as_raw_fd().cast_unsigned();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, u32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: this runs in a fork, which only ever uses the descriptor that is kept and those it opens
        // itself; the owners of the others are its parent's, and are never dropped here.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives every signal its default action again, and unblocks all: what a program expects when it begins.
pub(super) fn default_signals() -> io::Result<()> {
    /// Handler, flags, restorer and mask of the kernel's own structure: no flags, `SIG_DFL`.
    const DEFAULT_ACTION: [u64; 4] = [0; 4];
    for signal in 1..=LAST_SIGNAL {
        // The C library keeps two signals to itself, and refuses to reset them; so it is not asked.
        // SAFETY: the action outlives the call and installs no handler. The kernel refuses SIGKILL and
        // SIGSTOP, which always are at their default.
        let _refused = unsafe {
            let action = DEFAULT_ACTION.as_ptr();
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                action,
                std::ptr::null::<u64>(),
                SIGNAL_SET,
            )
        };
    }
    Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?)
}
