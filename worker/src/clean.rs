//! Removes what the worker of a state directory has left on this host, or only looks whether there is something.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use groundswell_common::chain::Chain;
use groundswell_common::ids::WorkerId;
use tracing::warn;

use crate::config::{WorkerFile, host_name, state_dir};
use crate::keep::sweep;
use crate::reap::{StateDir, StateDirError};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::docker::{DockerConfig, DockerRuntime};
use crate::runtime::{Place, Runtime, RuntimeError, StoredSize, Trace, attempt_of};

/// The file in a state directory that names the worker it is of.
const NAME_FILE: &str = "worker";

/// Flags of `worker clean`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CleanFlags {
    /// Configuration file.
    #[arg(long, env = "GROUNDSWELL_WORKER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The worker's name; without it, the one that used the state directory last.
    #[arg(long, env = "GROUNDSWELL_WORKER_NAME")]
    pub name: Option<String>,
    /// The worker's directory.
    #[arg(long, env = "GROUNDSWELL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Remove nothing, and exit with 1 when something is left.
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Remove nothing, only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// Images as well, for a host that is to be no worker any more.
    #[arg(long)]
    pub images: bool,
}

/// What was found, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// Everything that was found, a line each.
    pub found: Vec<String>,
    /// What could not be looked at or removed, and why.
    pub failed: Vec<String>,
}

/// Notes in a worker's directory whose it is. A full disk is no reason not to run: the name can be given.
pub(crate) fn sign(state_dir: &Path, worker: &WorkerId) {
    if let Err(err) = fs::write(state_dir.join(NAME_FILE), worker.as_str()) {
        warn!(error = %err, "the state directory does not say whose it is");
    }
}

/// Finds what is left, and removes it unless the flags say otherwise. Goes on after a failure.
///
/// # Errors
/// When there is no such directory, or a worker runs there.
pub async fn clean(flags: &CleanFlags) -> anyhow::Result<Cleaned> {
    let file = flags.config.as_deref().map(WorkerFile::read).transpose()?.unwrap_or_default();
    let state_dir = state_dir(flags.state_dir.clone(), file.state_dir);
    if !state_dir.is_dir() {
        bail!(
            "there is no directory `{}`: name the worker's with --state-dir",
            state_dir.display()
        );
    }
    let signed = fs::read_to_string(state_dir.join(NAME_FILE)).ok();
    let worker = match flags.name.clone().or(signed).or(file.name) {
        Some(name) => name.trim().parse().context("the worker's name is not one")?,
        None => host_name(),
    };
    let state = match StateDir::take(&state_dir) {
        Ok(state) => state,
        Err(err @ StateDirError::Taken { .. }) => match holder(&state_dir.join("lock")) {
            Some(pid) => {
                bail!("the worker of `{}` runs, with process id {pid}", state_dir.display())
            }
            None => return Err(err.into()),
        },
        Err(err) => return Err(err.into()),
    };
    let cleaned = Cleaning::new(worker, state_dir).await.run(flags).await;
    drop(state);
    Ok(cleaned)
}

struct Cleaning {
    worker: WorkerId,
    state_dir: PathBuf,
    cgroups: Cgroups,
    docker: Option<Arc<dyn Runtime>>,
    cleaned: Cleaned,
}

impl Cleaning {
    async fn new(worker: WorkerId, state_dir: PathBuf) -> Self {
        let mut cleaned = Cleaned::default();
        let config = DockerConfig {
            worker: worker.clone(),
            state_dir: state_dir.join("docker"),
            socket: None,
        };
        // A worker that never had an engine has left nothing in it.
        let used = config.state_dir.is_dir();
        let docker: Option<Arc<dyn Runtime>> = match DockerRuntime::connect(config).await {
            Ok(docker) => Some(Arc::new(docker)),
            Err(RuntimeError::Unavailable { .. }) if !used => None,
            Err(err) => {
                cleaned.failed.push(format!("containers are not looked at: {}", Chain(&err)));
                None
            }
        };
        let cgroups = Cgroups::detect(&worker);
        Self { worker, state_dir, cgroups, docker, cleaned }
    }

    async fn run(mut self, flags: &CleanFlags) -> Cleaned {
        let only_look = flags.verify || flags.dry_run;
        for trace in self.traces().await {
            self.cleaned.found.push(format!("{} of run {}", trace.place, trace.run));
            if !only_look && let Err(err) = self.remove(&trace).await {
                self.cleaned.failed.push(format!("{} stays: {err}", trace.place));
            }
        }
        if flags.images {
            self.images(only_look).await;
        }
        if !only_look {
            self.cgroups.remove_parent();
        }
        self.cleaned
    }

    async fn traces(&mut self) -> Vec<Trace> {
        let mut traces = sweep::traces_in(&self.state_dir);
        traces.extend(self.cgroups.leaves().into_iter().filter_map(|name| {
            let (run, attempt) = attempt_of(&name)?;
            Some(Trace { run, attempt, place: Place::ControlGroup(name) })
        }));
        if let Some(docker) = &self.docker {
            match docker.traces(&self.worker).await {
                Ok(found) => traces.extend(found),
                Err(err) => {
                    self.cleaned
                        .failed
                        .push(format!("containers are not looked at: {}", Chain(&err)));
                }
            }
        }
        traces
    }

    async fn remove(&self, trace: &Trace) -> Result<(), String> {
        if let Place::ControlGroup(name) = &trace.place {
            let left = self.cgroups.remove_leaf(name).into_iter().next();
            return left.map_or(Ok(()), |err| Err(err.to_string()));
        }
        let docker: Vec<_> = self.docker.iter().cloned().collect();
        crate::keep::remove(&docker, trace).await
    }

    /// What was fetched and unpacked for runs.
    async fn images(&mut self, only_look: bool) {
        if let Some(docker) = self.docker.clone() {
            for image in docker.images().await.unwrap_or_default() {
                let hex = image.digest.trim_start_matches("sha256:");
                let ours = matches!(image.size, StoredSize::Directory(_))
                    || self.state_dir.join("used").join(hex).exists();
                if !ours {
                    continue;
                }
                self.cleaned.found.push(format!("image {} of the engine", image.digest));
                if !only_look && let Err(err) = docker.forget(&image.digest).await {
                    self.cleaned.failed.push(format!("image stays: {}", Chain(&err)));
                }
            }
        }
        for name in ["blobs", "used", "netns/images"] {
            let path = self.state_dir.join(name);
            if fs::read_dir(&path).into_iter().flatten().next().is_none() {
                continue;
            }
            self.cleaned.found.push(format!("directory `{}`", path.display()));
            if !only_look && let Err(err) = fs::remove_dir_all(&path) {
                self.cleaned.failed.push(format!("directory `{}` stays: {err}", path.display()));
            }
        }
    }
}

/// The process that holds a file locked, as the kernel lists it.
pub(crate) fn holder(file: &Path) -> Option<u32> {
    let inode = fs::metadata(file).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, inode)
}

/// `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF`, where the third of the numbers with colons is the inode.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK").skip(3);
        let pid = words.next()?.parse().ok()?;
        let of: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
        (of == inode).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use groundswell_common::ids::RunId;

    use super::*;

    #[test]
    fn the_kernel_says_who_holds_a_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:131 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 4712 fe:00:131 0 EOF\n";
        assert_eq!(holder_in(locks, 131), Some(4711));
        assert_eq!(holder_in(locks, 13), None);
    }

    #[tokio::test]
    async fn what_is_left_is_found_first_and_then_removed() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::new(1_700_000_000);
        let spool = dir.path().join(format!("spool/{run}/1/all/0"));
        fs::create_dir_all(&spool).unwrap();
        fs::create_dir_all(dir.path().join("started")).unwrap();
        fs::write(dir.path().join(format!("started/{run}.1")), "").unwrap();
        sign(dir.path(), &"w-clean-test".parse().unwrap());
        let flags = |verify| CleanFlags {
            state_dir: Some(dir.path().to_owned()),
            verify,
            ..CleanFlags::default()
        };
        let found = clean(&flags(true)).await.unwrap();
        assert_eq!(found.found.len(), 2, "{found:?}");
        assert!(spool.exists());
        assert_eq!(clean(&flags(false)).await.unwrap().found.len(), 2);
        assert!(!spool.exists());
        assert!(clean(&flags(true)).await.unwrap().found.is_empty());

        let held = StateDir::take(dir.path()).unwrap();
        let refused = clean(&flags(true)).await.unwrap_err().to_string();
        assert!(refused.ends_with(&format!("process id {}", std::process::id())), "{refused}");
        drop(held);
    }
}
