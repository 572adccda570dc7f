//! Control groups: limits, and the kernel's own count of processes it killed for want of memory.
//!
//! Both versions are spoken. Version 2 needs the controllers at its root; version 1, or a hybrid, has each
//! controller mounted by itself. Every instance gets a leaf `groundswell-<worker>/<name>`, with only the
//! controllers its limits need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use groundswell_common::ids::WorkerId;
use groundswell_common::messages::Resources;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};

/// Number of processes and threads of an instance for which nobody asked for another.
pub const DEFAULT_PIDS: u64 = 4096;

/// One scheduling period of the cpu controller, in microseconds.
const CPU_PERIOD_US: u32 = 100_000;
/// The kernel refuses a smaller cpu quota.
const MIN_CPU_QUOTA_US: f64 = 1_000.0;

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The control groups of one worker on this host.
#[derive(Debug, Clone)]
pub struct Cgroups {
    parent: String,
    version: Version,
}

#[derive(Debug, Clone)]
enum Version {
    /// Where the hierarchy is mounted, and the controllers it offers.
    V2 { root: PathBuf, controllers: Vec<&'static str> },
    /// Controller to where it is mounted. Empty where none can be used.
    V1(BTreeMap<&'static str, PathBuf>),
}

/// An instance's control group.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Controller to directory. Version 2 has one directory, under the empty name.
    dirs: BTreeMap<&'static str, PathBuf>,
    v2: bool,
}

/// What a process needs to enter a [`Leaf`], also from a mount namespace that does not show it.
#[derive(Debug, Default)]
pub struct Entrance {
    tasks: Vec<File>,
    directory: Option<File>,
    oom_count: Option<File>,
}

impl Cgroups {
    /// Finds out what this process may use.
    #[must_use]
    pub fn detect(worker: &WorkerId) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self { parent: format!("groundswell-{worker}"), version: find(&mounts, &writable) }
    }

    /// Uses none, so that no limit is enforced.
    #[must_use]
    pub fn none(worker: &WorkerId) -> Self {
        Self { parent: format!("groundswell-{worker}"), version: Version::V1(BTreeMap::new()) }
    }

    /// The limits that cannot be enforced here, each a sentence.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let sentence = |controller: &&str| {
            let what = match *controller {
                "cpu" => "The cpu limit",
                "memory" => "The memory limit",
                _ => "The limit on processes",
            };
            format!(
                "{what} is not enforced: the cgroup controller `{controller}` cannot be used by this user."
            )
        };
        CONTROLLERS.iter().filter(|name| !self.offers(name)).map(sentence).collect()
    }

    /// Names the leaf of an instance. Creates nothing.
    #[must_use]
    pub fn leaf(&self, name: &str) -> Leaf {
        let below = |root: &PathBuf| root.join(&self.parent).join(name);
        match &self.version {
            Version::V2 { root, controllers } if !controllers.is_empty() => {
                Leaf { dirs: BTreeMap::from([("", below(root))]), v2: true }
            }
            Version::V2 { .. } => Leaf { dirs: BTreeMap::new(), v2: true },
            Version::V1(roots) => {
                let dirs = roots.iter().map(|(name, root)| (*name, below(root))).collect();
                Leaf { dirs, v2: false }
            }
        }
    }

    /// Makes what all leaves share.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, with the path in the message.
    pub fn prepare(&self) -> io::Result<()> {
        for root in self.roots() {
            fs::create_dir_all(root.join(&self.parent))?;
        }
        if let Version::V2 { root, controllers } = &self.version {
            for controller in controllers {
                let enable = format!("+{controller}");
                put(&root.join("cgroup.subtree_control"), &enable)?;
                put(&root.join(&self.parent).join("cgroup.subtree_control"), &enable)?;
            }
        }
        Ok(())
    }

    /// Kills what still runs in this worker's groups and removes them. Goes on after a failure.
    #[must_use]
    pub fn reap(&self) -> Vec<io::Error> {
        self.reap_but(&[])
    }

    /// As [`Cgroups::reap`], but leaves groups alone whose names begin so.
    #[must_use]
    pub fn reap_but(&self, kept: &[String]) -> Vec<io::Error> {
        let is_kept = |leaf: &PathBuf| {
            let name = leaf.file_name().unwrap_or_default().to_string_lossy();
            kept.iter().any(|begin| name.starts_with(begin.as_str()))
        };
        let mut failures = Vec::new();
        for root in self.roots() {
            let parent = root.join(&self.parent);
            let (stay, go): (Vec<_>, Vec<_>) =
                subdirectories(&parent).into_iter().partition(is_kept);
            for leaf in go {
                kill_all(&leaf);
                failures.extend(remove(&leaf).err());
            }
            if stay.is_empty() && kept.is_empty() {
                failures.extend(remove(&parent).err());
            }
        }
        failures
    }

    /// The names of the leaves that exist.
    #[must_use]
    pub fn leaves(&self) -> BTreeSet<String> {
        let parents = self.roots().into_iter().map(|root| root.join(&self.parent));
        let leaves = parents.flat_map(|parent| subdirectories(&parent));
        leaves.filter_map(|leaf| Some(leaf.file_name()?.to_str()?.to_owned())).collect()
    }

    /// Kills what still runs in one leaf and removes it. Goes on after a failure.
    #[must_use]
    pub fn remove_leaf(&self, name: &str) -> Vec<io::Error> {
        let leaves = self.roots().into_iter().map(|root| root.join(&self.parent).join(name));
        let there = leaves.filter(|leaf| leaf.exists());
        there
            .filter_map(|leaf| {
                kill_all(&leaf);
                remove(&leaf).err()
            })
            .collect()
    }

    /// Removes what all leaves share, when no leaf is left.
    pub fn remove_parent(&self) {
        for root in self.roots() {
            // Another runtime of this worker may still have leaves in it.
            let _in_use = fs::remove_dir(root.join(&self.parent));
        }
    }

    fn offers(&self, controller: &str) -> bool {
        match &self.version {
            Version::V2 { controllers, .. } => controllers.contains(&controller),
            Version::V1(roots) => roots.contains_key(controller),
        }
    }

    fn roots(&self) -> Vec<&Path> {
        match &self.version {
            Version::V2 { controllers, .. } if controllers.is_empty() => Vec::new(),
            Version::V2 { root, .. } => vec![root],
            Version::V1(roots) => roots.values().map(PathBuf::as_path).collect(),
        }
    }
}

impl Leaf {
    /// Creates the group with its limits.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the group or a limit.
    pub fn create(&self, limits: &Resources) -> io::Result<Entrance> {
        let pids = limits.pids.unwrap_or(DEFAULT_PIDS).to_string();
        let mut entrance = Entrance::default();
        if self.v2 {
            let Some(dir) = self.dirs.get("") else { return Ok(entrance) };
            fs::create_dir_all(dir)?;
            put(&dir.join("pids.max"), &pids)?;
            if let Some(cores) = limits.cpu_cores {
                put(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD_US}", quota_us(cores)))?;
            }
            if let Some(bytes) = limits.memory_bytes {
                put(&dir.join("memory.max"), &bytes.to_string())?;
                put_if_there(&dir.join("memory.swap.max"), "0")?;
                entrance.oom_count = Some(File::open(dir.join("memory.events"))?);
            }
            entrance.directory = Some(File::open(dir)?);
            return Ok(entrance);
        }
        if let Some(dir) = self.dirs.get("pids") {
            entrance.open_v1(dir, &[("pids.max", pids)])?;
        }
        if let (Some(dir), Some(cores)) = (self.dirs.get("cpu"), limits.cpu_cores) {
            let period = ("cpu.cfs_period_us", CPU_PERIOD_US.to_string());
            entrance.open_v1(dir, &[period, ("cpu.cfs_quota_us", quota_us(cores).to_string())])?;
        }
        if let (Some(dir), Some(bytes)) = (self.dirs.get("memory"), limits.memory_bytes) {
            entrance.open_v1(dir, &[("memory.limit_in_bytes", bytes.to_string())])?;
            put_if_there(&dir.join("memory.memsw.limit_in_bytes"), &bytes.to_string())?;
            entrance.oom_count = Some(File::open(dir.join("memory.oom_control"))?);
        }
        Ok(entrance)
    }

    /// Removes the group. Done when it does not exist.
    ///
    /// # Errors
    ///
    /// When a process is still in it.
    pub fn remove(&self) -> io::Result<()> {
        self.dirs.values().try_for_each(|dir| remove_empty(dir))
    }
}

impl Entrance {
    fn open_v1(&mut self, dir: &Path, limits: &[(&str, String)]) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for (file, value) in limits {
            put(&dir.join(file), value)?;
        }
        self.tasks.push(OpenOptions::new().write(true).open(dir.join("tasks"))?);
        Ok(())
    }

    /// Version 2: the group to clone the process into.
    #[must_use]
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// Version 1: moves the calling thread, which must be its process's only one.
    ///
    /// A thread that moves itself spares the kernel its global lock, and with it most of the time.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        self.tasks.iter().try_for_each(|mut tasks| tasks.write_all(b"0"))
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        let Some(mut file) = self.oom_count.as_ref() else { return false };
        let mut text = String::new();
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
        read.is_ok()
            && text
                .lines()
                .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }
}

fn quota_us(cores: f64) -> u32 {
    let quota = (cores * f64::from(CPU_PERIOD_US)).max(MIN_CPU_QUOTA_US);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and is positive"
    )]
    let quota = quota.min(f64::from(u32::MAX)) as u32;
    quota
}

fn writable(directory: &Path) -> bool {
    access(directory, AccessFlags::W_OK).is_ok()
}

/// Finds the controllers in the text of `mountinfo`.
fn find(mounts: &str, usable: &dyn Fn(&Path) -> bool) -> Version {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in mounts.lines() {
        let Some((mount, super_block)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut words = super_block.split(' ');
        let kind = words.next();
        let options = words.nth(1).unwrap_or_default();
        if kind == Some("cgroup2") && usable(&point) {
            v2 = Some(point);
        } else if kind == Some("cgroup") && usable(&point) {
            for controller in CONTROLLERS {
                if options.split(',').any(|option| option == controller) {
                    v1.insert(controller, point.clone());
                }
            }
        }
    }
    match v2 {
        Some(root) if v1.is_empty() => {
            let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            let offers = |name: &&str| offered.split_whitespace().any(|other| other == *name);
            Version::V2 {
                controllers: CONTROLLERS.into_iter().filter(|name| offers(name)).collect(),
                root,
            }
        }
        _ => Version::V1(v1),
    }
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    let write = || OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes());
    write().map_err(|err| {
        io::Error::new(err.kind(), format!("write `{value}` to `{}`: {err}", path.display()))
    })
}

fn put_if_there(path: &Path, value: &str) -> io::Result<()> {
    if path.exists() { put(path, value) } else { Ok(()) }
}

fn subdirectories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn kill_all(leaf: &Path) {
    let processes = fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        // It may have ended by itself.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes a group whose processes are about to end.
fn remove(dir: &Path) -> io::Result<()> {
    let mut result = remove_empty(dir);
    for _ in 0..500 {
        if !matches!(&result, Err(err) if err.kind() == io::ErrorKind::ResourceBusy) {
            break;
        }
        kill_all(dir);
        // The kernel has no event for version 1 that a group has become empty.
        let _timed_out = nix::poll::poll(&mut [], 10_u8);
        result = remove_empty(dir);
    }
    result
}

fn remove_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn everything(_: &Path) -> bool {
        true
    }

    #[test]
    fn a_hybrid_host_uses_version_1_and_says_which_controller_is_missing() {
        let cgroups =
            Cgroups { parent: "groundswell-a".to_owned(), version: find(V1, &everything) };
        let missing = cgroups.missing();
        assert_eq!(missing.len(), 1);
        assert!(missing[0].contains("`pids`"), "{missing:?}");
        let leaf = cgroups.leaf("x");
        assert_eq!(leaf.dirs["cpu"], Path::new("/sys/fs/cgroup/cpu/groundswell-a/x"));
    }

    #[test]
    fn a_user_who_may_write_nothing_lacks_every_limit() {
        let version = find(V1, &|_| false);
        let cgroups = Cgroups { parent: "groundswell-a".to_owned(), version };
        assert_eq!(cgroups.missing().len(), 3);
        assert!(cgroups.leaf("x").create(&Resources::default()).is_ok());
    }

    #[test]
    fn a_quota_is_cores_times_the_period_and_never_below_what_the_kernel_takes() {
        assert_eq!(quota_us(1.5), 150_000);
        assert_eq!(quota_us(0.0), 1_000);
    }

    #[test]
    fn the_oom_counter_is_read_in_both_formats() {
        let dir = tempfile::tempdir().unwrap();
        for (text, killed) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", true),
            ("low 0\noom 3\noom_kill 0\n", false),
        ] {
            let path = dir.path().join("count");
            fs::write(&path, text).unwrap();
            let entrance =
                Entrance { oom_count: Some(File::open(&path).unwrap()), ..Entrance::default() };
            assert_eq!(entrance.oom_killed(), killed);
        }
    }
}
