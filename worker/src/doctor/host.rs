//! What the kernel and its settings have to be for so many instances, and the steps that make them so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{Finding, Level};

/// Where settings are written down that are to survive a restart of the host.
const KEPT_IN: &str = "etc/sysctl.d/60-groundswell.conf";
/// The device of all TUN interfaces.
const TUN: &str = "dev/net/tun";
const TUN_NUMBERS: (u64, u64) = (10, 200);

/// A step that repairs something, or that somebody should take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set a kernel setting, now and after the next start of the host.
    Sysctl {
        /// Its name with dots.
        name: String,
        /// Its value.
        value: u64,
    },
    /// Load a kernel module.
    LoadModule(&'static str),
    /// Make `/dev/net/tun`.
    MakeTun,
    /// Make a directory.
    MakeDirectory(PathBuf),
    /// Nothing this program does by itself.
    Suggest(String),
}

impl Step {
    /// The same as commands for a shell.
    #[must_use]
    pub fn command(&self) -> String {
        match self {
            Self::Sysctl { name, value } => {
                format!("sysctl -w {name}={value} && echo '{name} = {value}' >> /{KEPT_IN}")
            }
            Self::LoadModule(name) => format!("modprobe {name}"),
            Self::MakeTun => {
                "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 666 /dev/net/tun"
                    .to_owned()
            }
            Self::MakeDirectory(path) => format!("mkdir -p '{}'", path.display()),
            Self::Suggest(text) => text.clone(),
        }
    }

    /// Whether [`Step::take`] does something.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        !matches!(self, Self::Suggest(_))
    }

    /// Takes the step on the host whose root directory is `root`. One that was taken before changes nothing.
    ///
    /// # Errors
    /// When this process may not, or the kernel refuses.
    pub fn take(&self, root: &Path) -> io::Result<()> {
        match self {
            Self::Sysctl { name, value } => {
                fs::write(setting(root, name), value.to_string())?;
                keep(&root.join(KEPT_IN), name, *value)
            }
            Self::LoadModule(name) => {
                let output = Command::new("modprobe").arg(name).output()?;
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
            }
            Self::MakeTun => make_tun(&root.join(TUN)),
            Self::MakeDirectory(path) => fs::create_dir_all(path),
            Self::Suggest(_) => Ok(()),
        }
    }
}

fn setting(root: &Path, name: &str) -> PathBuf {
    root.join("proc/sys").join(name.replace('.', "/"))
}

/// Writes a setting down, in place of an earlier value of it.
fn keep(file: &Path, name: &str, value: u64) -> io::Result<()> {
    let before = fs::read_to_string(file).unwrap_or_default();
    let other = |line: &&str| line.split('=').next().is_none_or(|key| key.trim() != name);
    let mut text: String = before.lines().filter(other).map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("{name} = {value}\n"));
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, text)
}

fn make_tun(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if path.exists() {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let all = Mode::from_bits_truncate(0o666);
    mknod(path, SFlag::S_IFCHR, all, makedev(TUN_NUMBERS.0, TUN_NUMBERS.1))?;
    // The process's mask has taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

/// A setting of the kernel, and the least it has to be.
struct Least {
    name: &'static str,
    least: u64,
    /// What it is set to where it is less.
    set_to: u64,
    what: &'static str,
}

/// What so many instances take: a network namespace each and some for NATs, an init process and a plan with
/// threads.
fn least(slots: u64) -> [Least; 7] {
    let spaces = slots + 1_000;
    let each = |name, what| Least { name, least: spaces, set_to: spaces, what };
    let threads = 8 * slots + 20_000;
    [
        Least {
            name: "kernel.pid_max",
            least: 4 * slots + 10_000,
            set_to: 4_194_304,
            what: "process ids",
        },
        Least { name: "kernel.threads-max", least: threads, set_to: threads, what: "threads" },
        Least {
            name: "user.max_net_namespaces",
            least: 2 * spaces,
            set_to: 2 * spaces,
            what: "network namespaces",
        },
        each("user.max_pid_namespaces", "process namespaces"),
        each("user.max_mnt_namespaces", "mount namespaces"),
        each("user.max_ipc_namespaces", "IPC namespaces"),
        each("user.max_uts_namespaces", "host name namespaces"),
    ]
}

/// Settings that keep a user who is not root from having namespaces: name, the value that does, and what it has to be.
const WITHOUT_ROOT: [(&str, u64, u64); 3] = [
    ("user.max_user_namespaces", 0, 10_000),
    ("kernel.unprivileged_userns_clone", 0, 1),
    ("kernel.apparmor_restrict_unprivileged_userns", 1, 0),
];

/// What is missing on the host whose root directory is `root`, for `slots` instances of a worker that is root or not.
pub(super) fn examine(root: &Path, slots: u32, is_root: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !root.join(TUN).exists() {
        findings.push(Finding {
            level: Level::Trouble,
            text: "there is no `/dev/net/tun`, so no instance gets a network".to_owned(),
            fix: vec![Step::LoadModule("tun"), Step::MakeTun],
        });
    }
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(setting(root, name)).ok()?.trim().parse().ok()
    };
    for Least { name, least, set_to, what } in least(slots.into()) {
        // A kernel without the setting has no such limit.
        let Some(value) = read(name).filter(|value| *value < least) else { continue };
        findings.push(Finding {
            level: Level::Note,
            text: format!("`{name}` allows {value} {what}, {slots} instances may need {least}"),
            fix: vec![Step::Sysctl { name: name.to_owned(), value: set_to }],
        });
    }
    for (name, wrong, right) in WITHOUT_ROOT.into_iter().filter(|_| !is_root) {
        if read(name) == Some(wrong) {
            findings.push(Finding {
                level: Level::Trouble,
                text: format!("`{name}` is {wrong}: users who are not root have no namespaces"),
                fix: vec![Step::Sysctl { name: name.to_owned(), value: right }],
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(settings: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            let path = setting(root.path(), name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        fs::create_dir_all(root.path().join("dev/net")).unwrap();
        fs::write(root.path().join(TUN), "").unwrap();
        root
    }

    #[test]
    fn what_is_found_is_repaired_and_then_not_found() {
        let root = host(&[("kernel.pid_max", "32768\n"), ("user.max_net_namespaces", "5\n")]);
        fs::create_dir_all(root.path().join("etc/sysctl.d")).unwrap();
        let kept = root.path().join(KEPT_IN);
        fs::write(&kept, "# by hand\nkernel.pid_max = 7\nvm.swappiness = 1\n").unwrap();
        let findings = examine(root.path(), 10_000, true);
        let texts: Vec<&str> = findings.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "`kernel.pid_max` allows 32768 process ids, 10000 instances may need 50000",
                "`user.max_net_namespaces` allows 5 network namespaces, 10000 instances may need 22000",
            ]
        );
        findings.iter().flat_map(|one| &one.fix).for_each(|step| step.take(root.path()).unwrap());
        assert!(examine(root.path(), 10_000, true).is_empty());
        let text = fs::read_to_string(kept).unwrap();
        let wanted = "# by hand\nvm.swappiness = 1\nkernel.pid_max = 4194304\n\
            user.max_net_namespaces = 22000\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn settings_against_users_matter_to_users_only() {
        let root = host(&[("kernel.unprivileged_userns_clone", "0")]);
        assert!(examine(root.path(), 10, true).is_empty());
        let findings = examine(root.path(), 10, false);
        assert_eq!(findings.len(), 1);
        let command = findings[0].fix[0].command();
        assert!(command.starts_with("sysctl -w kernel.unprivileged_userns_clone=1"), "{command}");
    }

    #[test]
    fn a_tun_device_is_made_where_there_is_none() {
        let root = host(&[]);
        fs::remove_file(root.path().join(TUN)).unwrap();
        let findings = examine(root.path(), 10, true);
        assert_eq!(findings[0].fix, [Step::LoadModule("tun"), Step::MakeTun]);
        Step::MakeTun.take(root.path()).unwrap();
        Step::MakeTun.take(root.path()).unwrap();
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
        let made = fs::metadata(root.path().join(TUN)).unwrap();
        assert!(made.file_type().is_char_device());
        assert_eq!(made.rdev(), makedev(10, 200));
    }
}
