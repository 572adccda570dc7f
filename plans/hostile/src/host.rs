//! Tries to get at the host: its network, its kernel, its files.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::Duration;

use crate::Result;

const PATIENCE: Duration = Duration::from_secs(2);
/// Where an instance of a machine in the cloud learns its secrets.
const METADATA: &str = "169.254.169.254:80";
const SOCKETS: [&str; 4] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/systemd/private",
];
/// Capabilities that software which changes its user or listens on a low port needs; no other may be had.
const HARMLESS: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10;

/// Connects to what it must not reach.
pub fn connect(targets: &str) -> Result<()> {
    let mut reached = Vec::new();
    for target in targets.split(',').filter(|target| !target.is_empty()).chain([METADATA]) {
        let addresses = target.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        for address in addresses.unwrap_or_default() {
            if TcpStream::connect_timeout(&address, PATIENCE).is_ok() {
                reached.push(target.to_owned());
            }
        }
    }
    for path in SOCKETS {
        if UnixStream::connect(path).is_ok() {
            reached.push(path.to_owned());
        }
    }
    nothing("reached", reached)
}

/// Makes calls that reach beyond an instance. What succeeds is told.
pub fn escape() -> Result<()> {
    let mut done: Vec<String> = calls().into_iter().map(str::to_owned).collect();
    for setting in
        ["kernel/hostname", "kernel/core_pattern", "net/ipv4/ip_forward", "vm/drop_caches"]
    {
        let path = format!("/proc/sys/{setting}");
        if OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"1"))
            .is_ok()
        {
            done.push(format!("write {path}"));
        }
    }
    if fs::write("/proc/sysrq-trigger", "h").is_ok() {
        done.push("sysrq".to_owned());
    }
    if fs::read_dir("/proc/1/root").is_ok() || File::open("/proc/1/mem").is_ok() {
        done.push("look into process 1".to_owned());
    }
    done.extend(status()?);
    nothing("could", done)
}

/// System calls that have succeeded.
fn calls() -> Vec<&'static str> {
    let none = ptr::null::<libc::c_char>();
    let (tmpfs, tmp) =
        (CString::new("tmpfs").expect("no zero"), CString::new("/tmp").expect("no zero"));
    let device = CString::new("/tmp/device").expect("no zero");
    let namespace = File::open("/proc/1/ns/net").or_else(|_| File::open("/proc/self/ns/net"));
    let namespace = namespace.map_or(-1, |file| {
        let fd = file.as_raw_fd();
        std::mem::forget(file);
        fd
    });
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: every pointer outlives its call, and what is asked for changes nothing here when it is refused,
    // which is what this is about.
    let tried = unsafe {
        [
            ("unshare users", libc::unshare(libc::CLONE_NEWUSER).into()),
            ("unshare mounts", libc::unshare(libc::CLONE_NEWNS).into()),
            ("unshare the network", libc::unshare(libc::CLONE_NEWNET).into()),
            ("setns", libc::setns(namespace, 0).into()),
            (
                "mount",
                libc::mount(tmpfs.as_ptr(), tmp.as_ptr(), tmpfs.as_ptr(), 0, ptr::null()).into(),
            ),
            ("unmount", libc::umount2(tmp.as_ptr(), libc::MNT_DETACH).into()),
            ("open_tree", libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, tmp.as_ptr(), 1)),
            ("ptrace process 1", libc::ptrace(libc::PTRACE_ATTACH, 1, 0, 0)),
            ("reboot", libc::reboot(libc::RB_DISABLE_CAD).into()),
            (
                "mknod",
                libc::mknod(device.as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(254, 0)).into(),
            ),
            ("a packet socket", libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).into()),
            ("a raw socket", libc::socket(libc::AF_INET, libc::SOCK_RAW, 1).into()),
            ("bpf", libc::syscall(libc::SYS_bpf, 0, none, 0)),
            ("perf", libc::syscall(libc::SYS_perf_event_open, none, 0, -1, -1, 0)),
            ("keyctl", libc::syscall(libc::SYS_keyctl, 0, -3, 1)),
            ("set the clock", set_clock(&mut now).into()),
            ("set the host's name", libc::sethostname(tmp.as_ptr(), 4).into()),
            ("chroot", libc::chroot(tmp.as_ptr()).into()),
            ("be nicer than others", libc::setpriority(libc::PRIO_PROCESS, 0, -10).into()),
        ]
    };
    tried.into_iter().filter(|(_, result): &(_, i64)| *result >= 0).map(|(what, _)| what).collect()
}

/// Sets the clock to what it shows.
unsafe fn set_clock(now: &mut libc::timespec) -> i32 {
    libc::clock_gettime(libc::CLOCK_REALTIME, now);
    libc::clock_settime(libc::CLOCK_REALTIME, now)
}

/// What of this process's own state would let it do more.
fn status() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    let mut wrong = Vec::new();
    for (name, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapAmb", "0000000000000000")] {
        if field(name) != wanted {
            wrong.push(format!("have {name} {}", field(name)));
        }
    }
    for name in ["CapBnd", "CapPrm", "CapEff", "CapInh"] {
        if u64::from_str_radix(&field(name), 16)? & !HARMLESS != 0 {
            wrong.push(format!("have {name} {}", field(name)));
        }
    }
    Ok(wrong)
}

/// Writes where it must not, and where it may.
pub fn write() -> Result<()> {
    let shut = ["/written", "/usr/written", "/etc/written", "/plan/written"];
    let written = shut.iter().filter(|path| fs::write(path, "x").is_ok());
    let written = written.map(|path| (*path).to_owned()).collect();
    for directory in ["/outputs", "/temp", "/tmp"] {
        fs::write(format!("{directory}/written"), "x")?;
    }
    nothing("wrote", written)
}

fn nothing(verb: &str, what: Vec<String>) -> Result<()> {
    if what.is_empty() {
        return Ok(());
    }
    Err(format!("it {verb}: {}", what.join(", ")).into())
}
