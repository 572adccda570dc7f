//! The worker's directory, and what an earlier life of the worker has left in it and on the host.
//!
//! ```text
//! <state_dir>/lock                               one worker at a time
//! <state_dir>/blobs/sha256/<hex>                 images
//! <state_dir>/spool/<run>/<attempt>/<group>/<i>  outputs and logs on their way
//! <state_dir>/started/<run>.<attempt>            instances of this attempt may have run here, and since when
//! <state_dir>/keeper                             where the worker's keeper listens
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, RunId, WorkerId};
use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use crate::keeper::Keeper;
use crate::parts::Parts;
use crate::runtime::ShareKey;

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

/// Removes what an earlier life has left, but for shares whose instances may have run: what becomes of those is
/// decided when the coordinator has said what it wants. Returns these. Goes on after each failure; what stays is
/// told as a warning.
pub(crate) async fn reap(parts: &Parts, worker: &WorkerId, state_dir: &Path) -> Vec<ShareKey> {
    let found = parts.keeper.as_ref().map(Keeper::found).unwrap_or_default();
    let started = started(state_dir);
    let is_kept = |(run, attempt): &&ShareKey| {
        let begin = deposits_of(run, *attempt);
        found.keys().any(|name| name.starts_with(&begin))
    };
    let kept: Vec<ShareKey> = started.iter().filter(is_kept).cloned().collect();
    give_up_others(parts, found.keys(), &kept).await;
    for runtime in &parts.runtimes {
        for err in runtime.reap_but(worker, &kept).await {
            warn!(error = %Chain(&err), runtime = runtime.kind().as_str(), "leftovers stay");
        }
    }
    let spools: Vec<PathBuf> =
        kept.iter().map(|(run, attempt)| spool(state_dir, run, *attempt)).collect();
    for run in subdirectories(&state_dir.join("spool")) {
        for attempt in subdirectories(&run).into_iter().filter(|one| !spools.contains(one)) {
            info!(path = %attempt.display(), "removing the spool of an earlier life");
            let _ = crate::trees::remove(&attempt);
        }
        // Only when it is empty.
        let _ = std::fs::remove_dir(run);
    }
    started
}

/// Ends instances that were made in an earlier life and not let go: they are made again.
async fn give_up_others(parts: &Parts, names: impl Iterator<Item = &String>, kept: &[ShareKey]) {
    let Some(keeper) = &parts.keeper else { return };
    let kept: Vec<String> = kept.iter().map(|(run, attempt)| deposits_of(run, *attempt)).collect();
    for name in names.filter(|name| name.starts_with(DEPOSITS)) {
        if !kept.iter().any(|begin| name.starts_with(begin.as_str())) {
            keeper.give_up(name).await;
        }
    }
}

/// Removes what is left of a share that nobody wants any more.
pub(crate) async fn discard(parts: &Parts, state_dir: &Path, (run, attempt): &ShareKey) {
    info!(run = %run, attempt = %attempt, "nobody wants a share of an earlier life any more");
    if let Some(keeper) = &parts.keeper {
        keeper.give_up(&deposits_of(run, *attempt)).await;
    }
    unmark(state_dir, run, *attempt);
    let _ = crate::trees::remove(&spool(state_dir, run, *attempt));
}

const DEPOSITS: &str = "share/";

/// With what the names begin under which the keeper has the instances of a share.
pub(crate) fn deposits_of(run: &RunId, attempt: Attempt) -> String {
    format!("{DEPOSITS}{run}/{attempt}/")
}

fn subdirectories(of: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
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

/// Shares of which instances may have run here.
fn started(state_dir: &Path) -> Vec<ShareKey> {
    let names = subdirectories(&state_dir.join("started")).into_iter();
    let parsed = names.filter_map(|path| {
        let (run, attempt) = path.file_name()?.to_str()?.rsplit_once('.')?;
        Some((run.parse().ok()?, Attempt(attempt.parse().ok()?)))
    });
    parsed.collect()
}

/// Writes down when the instances of an attempt were let go, by a clock that goes on when the worker does not. What
/// cannot be written is missed only by a next life.
pub(crate) fn note_start(state_dir: &Path, run: &RunId, attempt: Attempt) {
    if let Some(now) = uptime() {
        let _ = std::fs::write(marker(state_dir, run, attempt), now.as_secs_f64().to_string());
    }
}

/// How long ago the instances of an attempt were let go, if they were.
pub(crate) fn since_start(state_dir: &Path, run: &RunId, attempt: Attempt) -> Option<Duration> {
    let noted = std::fs::read_to_string(marker(state_dir, run, attempt)).ok()?;
    let started = Duration::try_from_secs_f64(noted.trim().parse().ok()?).ok()?;
    uptime()?.checked_sub(started)
}

/// Since when this host is up.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
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
    fn a_share_that_was_started_is_found_again_with_its_start() {
        let dir = tempfile::tempdir().unwrap();
        make_directories(dir.path()).unwrap();
        let key = (RunId::new(1_700_000_000), Attempt::FIRST);
        mark(dir.path(), &key.0, key.1).unwrap();
        assert_eq!(since_start(dir.path(), &key.0, key.1), None, "nothing has run yet");
        note_start(dir.path(), &key.0, key.1);
        let since = since_start(dir.path(), &key.0, key.1).unwrap();
        assert!(since < Duration::from_secs(60), "{since:?}");
        assert_eq!(started(dir.path()), [key]);
    }

    #[test]
    fn a_groups_name_never_leaves_the_spool() {
        assert_eq!(file_name(0, "providers"), "providers");
        assert_eq!(file_name(1, "../etc"), ".1-etc");
        assert_eq!(file_name(2, "a/b"), ".2-ab");
        assert_eq!(file_name(3, ""), ".3-");
    }
}
