//! The root file system of instances.
//!
//! The spawner builds one template in its own mount namespace: an empty file system with the host's programs
//! and little else, read-only. Nothing of it can be seen on the host, so nothing of it can be left there.
//! Every instance starts from a private copy of that namespace and adds what is its own.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root};

use super::channel::{Doing, Failure, Image, InitSpec};
use super::datasets;
use super::sys::restrict_mount;
use crate::network::wire::RESOLV_CONF;

/// What instances see of the host besides `/etc`: its programs. Home directories, `/run`, `/var`, `/srv` stay hidden.
const PROGRAMS: [&str; 10] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu"];
/// Files of `/etc` programs look for. None is a secret.
const ETC_FILES: [&str; 14] = [
    "passwd",
    "group",
    "nsswitch.conf",
    "ld.so.cache",
    "ld.so.conf",
    "host.conf",
    "gai.conf",
    "protocols",
    "services",
    "localtime",
    "timezone",
    "mime.types",
    "os-release",
    "shells",
];
/// Directories of `/etc` programs look for.
const ETC_DIRECTORIES: [&str; 6] =
    ["alternatives", "ca-certificates", "ld.so.conf.d", "pki", "terminfo", "ssl/certs"];
/// Where something is mounted, or what programs expect to be there.
const DIRECTORIES: [&str; 15] = [
    "data", "datasets", "dev", "etc", "home", "mnt", "outputs", "plan", "proc", "root", "run",
    "srv", "temp", "tmp", "var",
];
/// Device, major and minor number.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// An instance's own `/tmp`.
const TMP_OPTIONS: &str = "size=64m,mode=1777";
/// What an instance may write of a Docker image's files.
const UPPER_OPTIONS: &str = "size=512m,mode=755";

pub(super) const NO_DEVICES: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
pub(super) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;

/// Where the spawner mounts things; both are empty directories on the host.
#[derive(Debug, Clone)]
pub(super) struct Template {
    root: PathBuf,
    scratch: PathBuf,
}

impl Template {
    /// Builds the template. The calling process must have a mount namespace of its own.
    pub(super) fn build(state_dir: &Path) -> Result<Self, Failure> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .doing("make mounts private")?;
        let template = Self { root: state_dir.join("root"), scratch: state_dir.join("scratch") };
        let root = &template.root;
        for dir in [root, &template.scratch] {
            fs::create_dir_all(dir).doing(format_args!("create `{}`", dir.display()))?;
        }
        tmpfs(root, "size=4m,mode=755")?;
        for name in DIRECTORIES {
            fs::create_dir(root.join(name)).doing(format_args!("create `/{name}`"))?;
        }
        symlink("/tmp", root.join("var/tmp")).doing("link `/var/tmp`")?;
        for name in PROGRAMS {
            let from = Path::new("/").join(name);
            if !state_dir.starts_with(&from) {
                share(&from, &root.join(name)).doing(format_args!("share `/{name}`"))?;
            }
        }
        fill_etc(&root.join("etc")).doing("fill `/etc`")?;
        fill_dev(&root.join("dev")).doing("fill `/dev`")?;
        restrict_mount(root, READ_ONLY, true).doing("make the template read-only")?;
        Ok(template)
    }

    /// Mounts an instance's root and moves into it. The calling process must have a copy of the namespace.
    pub(super) fn enter(&self, spec: &InitSpec) -> Result<(), Failure> {
        let root = match &spec.image {
            Image::Bundle(plan) => {
                bind(plan, &self.root.join("plan"), READ_ONLY | NO_DEVICES)?;
                self.root.clone()
            }
            Image::Root { directory, .. } => self.over(directory, spec.read_only)?,
        };
        tmpfs(&root.join("tmp"), TMP_OPTIONS)?;
        write_hosts(&root, spec)?;
        if matches!(spec.image, Image::Root { .. }) {
            bind_resolver(&self.root.join("etc/resolv.conf"), &root)?;
        }
        bind(&spec.outputs, &root.join("outputs"), NO_DEVICES)?;
        bind(&spec.temp, &root.join("temp"), NO_DEVICES)?;
        datasets::show(&spec.datasets, &root)?;
        // Read-only, so that no instance changes the kernel's settings, which belong to all.
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), &root.join("proc"), Some("proc"), flags, None::<&str>)
            .doing("mount `/proc`")?;
        chdir(&root).doing("enter the root")?;
        pivot_root(".", ".").doing("change the root")?;
        umount2(".", MntFlags::MNT_DETACH).doing("leave the host's root")?;
        chdir("/").doing("enter `/`")
    }

    /// The files of a Docker image, with a layer of memory over them that takes what the instance writes.
    /// With `read_only` it takes nothing.
    fn over(&self, image: &Path, read_only: bool) -> Result<PathBuf, Failure> {
        tmpfs(&self.scratch, UPPER_OPTIONS)?;
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| self.scratch.join(name));
        for dir in [&upper, &work, &merged] {
            fs::create_dir(dir).doing("create the image's layers")?;
        }
        let mode = fs::metadata(image).doing("read the image's root")?.permissions();
        fs::set_permissions(&upper, mode).doing("set the root's mode")?;
        let text = [image, &upper, &work].map(|path| path.display().to_string());
        let options = format!("lowerdir={},upperdir={},workdir={}", text[0], text[1], text[2]);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let layer =
            || mount(Some("overlay"), &merged, Some("overlay"), flags, Some(options.as_str()));
        if read_only || layer().is_err() {
            // Also with a kernel without overlay, or one that forbids it to users.
            bind(image, &merged, READ_ONLY | NO_DEVICES)?;
        }
        let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(
            Some(&self.root.join("dev")),
            &merged.join("dev"),
            None::<&str>,
            recursive,
            None::<&str>,
        )
        .doing("mount `/dev`")?;
        Ok(merged)
    }
}

/// Makes the places where instances' own things are mounted exist in the files of a Docker image.
pub(super) fn prepare_image(root: &Path) -> io::Result<()> {
    for name in ["datasets", "dev", "etc", "outputs", "proc", "temp", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    settle_file(&root.join("etc/hosts"))?;
    settle_file(&root.join("etc/resolv.conf"))
}

pub(super) fn tmpfs(at: &Path, options: &str) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID
        | if at.ends_with("root") { MsFlags::empty() } else { MsFlags::MS_NODEV };
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
        .doing(format_args!("mount a tmpfs at `{}`", at.display()))
}

pub(super) fn bind(from: &Path, to: &Path, attributes: u64) -> Result<(), Failure> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(format_args!("mount `{}`", from.display()))?;
    restrict_mount(to, attributes, false).doing(format_args!("restrict `{}`", to.display()))
}

/// Shows a directory of the host, or repeats a symbolic link. What the host does not have is left out.
fn share(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(from) else { return Ok(()) };
    if meta.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !meta.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

fn fill_etc(etc: &Path) -> io::Result<()> {
    for name in ETC_FILES {
        // What the host does not have, or does not show to this user, an instance does without.
        if let Ok(content) = fs::read(Path::new("/etc").join(name)) {
            fs::write(etc.join(name), content)?;
        }
    }
    for name in ETC_DIRECTORIES {
        share(&Path::new("/etc").join(name), &etc.join(name))?;
    }
    fs::write(etc.join("resolv.conf"), RESOLV_CONF)?;
    fs::write(etc.join("hosts"), "")
}

fn fill_dev(dev: &Path) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        let node = dev.join(name);
        let mode = Mode::from_bits_truncate(0o666);
        if mknod(&node, SFlag::S_IFCHR, mode, makedev(major, minor)).is_ok() {
            fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
            continue;
        }
        // In a user namespace nobody may make a device; the host's is shown.
        fs::write(&node, "")?;
        let from = Path::new("/dev").join(name);
        mount(Some(&from), &node, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    symlink("/proc/self/fd", dev.join("fd"))?;
    for (number, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
        symlink(format!("/proc/self/fd/{number}"), dev.join(name))?;
    }
    // Shared memory lies in the instance's own `/tmp`, which spares a mount per instance.
    symlink("/tmp", dev.join("shm"))
}

/// Shows the resolver of the template in the files of a Docker image.
fn bind_resolver(from: &Path, root: &Path) -> Result<(), Failure> {
    let to = root.join("etc/resolv.conf");
    // An image that was unpacked by an older version has none, and one that cannot be written to keeps its own.
    let _own = settle_file(&to);
    if to.is_file() { bind(from, &to, READ_ONLY | NO_DEVICES) } else { Ok(()) }
}

/// Makes a path an ordinary file.
fn settle_file(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        fs::remove_file(path)?;
    }
    fs::OpenOptions::new().append(true).create(true).open(path).map(drop)
}

fn write_hosts(root: &Path, spec: &InitSpec) -> Result<(), Failure> {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    let own = (&spec.hostname, &spec.wire.address);
    for (name, address) in std::iter::once(own).chain(&spec.hosts) {
        writeln!(text, "{address}\t{name}").expect("a String takes all text");
    }
    // The file lives in the instance's own memory, without a name once it is mounted.
    let file = root.join("tmp/.hosts");
    fs::write(&file, text).doing("write the hosts file")?;
    bind(&file, &root.join("etc/hosts"), READ_ONLY | NO_DEVICES)?;
    fs::remove_file(&file).doing("hide the hosts file")
}
