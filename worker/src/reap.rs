//! The worker's directory, and what an earlier life of the worker has left in it and on the host.
//!
//! ```text
//! <state_dir>/lock                               one worker at a time
//! <state_dir>/blobs/sha256/<hex>                 images
//! <state_dir>/spool/<run>/<attempt>/<group>/<i>  outputs and logs on their way
//! <state_dir>/started/<run>.<attempt>            instances of this attempt may have run here
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, RunId, WorkerId};
use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use crate::parts::Parts;

/// Holds the worker's directory; no other worker can use it meanwhile.
#[derive(Debug)]
pub(crate) struct StateDir {
    _lock: Flock<File>,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    /// It cannot be made or written.
    #[error("failed to use the state directory `{path}`: give another one with --state-dir")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another worker has it.
    #[error(
        "another worker uses the state directory `{path}`: give each worker its own with --state-dir"
    )]
    Taken {
        /// Which.
        path: PathBuf,
    },
}

impl StateDir {
    /// Takes the directory.
    pub(crate) fn take(path: &Path) -> Result<Self, StateDirError> {
        make_directories(path)?;
        let unusable = |source| StateDirError::Unusable { path: path.to_owned(), source };
        let file = File::create(path.join("lock")).map_err(unusable)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StateDirError::Taken { path: path.to_owned() })?;
        Ok(Self { _lock: lock })
    }
}

/// Makes the directories the worker keeps things in.
pub(crate) fn make_directories(path: &Path) -> Result<(), StateDirError> {
    let unusable = |source| StateDirError::Unusable { path: path.to_owned(), source };
    for name in ["blobs", "spool", "started"] {
        std::fs::create_dir_all(path.join(name)).map_err(unusable)?;
    }
    Ok(())
}

/// Removes what an earlier life has left. Goes on after each failure; what stays is told as a warning.
pub(crate) async fn reap(parts: &Parts, worker: &WorkerId, state_dir: &Path) {
    for runtime in &parts.runtimes {
        for err in runtime.reap(worker).await {
            warn!(error = %Chain(&err), runtime = runtime.kind().as_str(), "leftovers stay");
        }
    }
    let spool = state_dir.join("spool");
    let left = std::fs::read_dir(&spool).map(Iterator::count).unwrap_or(0);
    if left > 0 {
        info!(runs = left, "removing the spool of an earlier life");
        let _ = std::fs::remove_dir_all(&spool);
        let _ = std::fs::create_dir_all(&spool);
    }
}

/// The spool of one attempt of a run.
pub(crate) fn spool(state_dir: &Path, run: &RunId, attempt: Attempt) -> PathBuf {
    state_dir.join("spool").join(run.as_str()).join(attempt.to_string())
}

/// A group's name as a file name: itself where that is safe, else its number and what is left of it.
pub(crate) fn file_name(index: u16, group: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let safe = (1..=64).contains(&group.len()) && group.chars().all(fits);
    if safe && !group.starts_with('.') && group != "events.jsonl" {
        return group.to_owned();
    }
    let rest: String = group.chars().filter(|c| c.is_ascii_alphanumeric()).take(32).collect();
    format!(".{index}-{rest}")
}

fn marker(state_dir: &Path, run: &RunId, attempt: Attempt) -> PathBuf {
    state_dir.join("started").join(format!("{run}.{attempt}"))
}

/// Writes down, on the disk itself, that instances of this attempt may run from here on.
pub(crate) fn mark(state_dir: &Path, run: &RunId, attempt: Attempt) -> io::Result<()> {
    File::create(marker(state_dir, run, attempt))?.sync_all()?;
    File::open(state_dir.join("started"))?.sync_all()
}

/// Whether instances of this attempt may have run here.
pub(crate) fn was_started(state_dir: &Path, run: &RunId, attempt: Attempt) -> bool {
    marker(state_dir, run, attempt).exists()
}

/// Forgets an attempt of which nothing is left.
pub(crate) fn unmark(state_dir: &Path, run: &RunId, attempt: Attempt) {
    let _ = std::fs::remove_file(marker(state_dir, run, attempt));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_worker_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateDir::take(dir.path()).unwrap();
        assert!(matches!(StateDir::take(dir.path()), Err(StateDirError::Taken { .. })));
        drop(held);
        StateDir::take(dir.path()).unwrap();
    }

    #[test]
    fn a_groups_name_never_leaves_the_spool() {
        assert_eq!(file_name(0, "providers"), "providers");
        assert_eq!(file_name(1, "../etc"), ".1-etc");
        assert_eq!(file_name(2, "a/b"), ".2-ab");
        assert_eq!(file_name(3, ""), ".3-");
    }
}
