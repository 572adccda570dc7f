//! Finds what no share explains: what was seen twice, some time apart, and explained neither time, is a leftover.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use groundswell_common::ids::{Attempt, RunId};

use crate::runtime::{Place, Trace};
use crate::trees;

/// What was seen without an explanation, and when first.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    suspects: BTreeMap<Trace, Instant>,
}

impl Sweep {
    /// Takes in what is found at `now`, and returns what is to be removed. What is explained, or not found any
    /// more, begins anew.
    pub(crate) fn look(
        &mut self,
        found: Vec<Trace>,
        explained: impl Fn(&RunId, Attempt) -> bool,
        now: Instant,
        apart: Duration,
    ) -> Vec<Trace> {
        let found: BTreeSet<Trace> =
            found.into_iter().filter(|trace| !explained(&trace.run, trace.attempt)).collect();
        self.suspects.retain(|trace, _| found.contains(trace));
        let mut leftovers = Vec::new();
        for trace in found {
            let first = *self.suspects.entry(trace.clone()).or_insert(now);
            if now.saturating_duration_since(first) >= apart {
                leftovers.push(trace);
            }
        }
        leftovers
    }
}

/// The spools and the marks of started attempts in a worker's directory.
pub(crate) fn traces_in(state_dir: &Path) -> Vec<Trace> {
    let mut traces = Vec::new();
    for (run, path) in named(&state_dir.join("spool")) {
        let Ok(run) = run.parse::<RunId>() else { continue };
        let attempts = named(&path);
        traces.extend(attempts.into_iter().filter_map(|(attempt, path)| {
            let attempt = Attempt(attempt.parse().ok()?);
            Some(Trace { run: run.clone(), attempt, place: Place::Directory(path) })
        }));
    }
    for (name, path) in named(&state_dir.join("started")) {
        let Some((run, attempt)) = name.split_once('.') else { continue };
        let (Ok(run), Ok(attempt)) = (run.parse(), attempt.parse()) else { continue };
        traces.push(Trace { run, attempt: Attempt(attempt), place: Place::File(path) });
    }
    traces
}

fn named(directory: &Path) -> Vec<(String, std::path::PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// Removes a file or a directory of a run, and the run's directory once it is empty.
pub(crate) fn remove(place: &Place) -> std::io::Result<()> {
    match place {
        Place::Directory(path) => {
            trees::remove(path)?;
            // Another attempt may be in it.
            let _in_use = path.parent().map(fs::remove_dir);
            Ok(())
        }
        Place::File(path) => fs::remove_file(path),
        Place::Container(_) | Place::ControlGroup(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: Duration = Duration::from_secs(30);

    fn trace(run: &RunId, attempt: u32, name: &str) -> Trace {
        let place = Place::Container(name.to_owned());
        Trace { run: run.clone(), attempt: Attempt(attempt), place }
    }

    #[test]
    fn a_leftover_is_seen_twice_with_time_between() {
        let (mut sweep, start) = (Sweep::default(), tokio::time::Instant::now().into_std());
        let run = RunId::new(1_700_000_000);
        let (ours, left) = (trace(&run, 2, "a"), trace(&run, 1, "b"));
        let found = || vec![ours.clone(), left.clone()];
        let explained = |_: &RunId, attempt| attempt == Attempt(2);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(sweep.look(found(), explained, after(0), APART).is_empty());
        assert!(sweep.look(found(), explained, after(29), APART).is_empty());
        assert_eq!(sweep.look(found(), explained, after(30), APART), std::slice::from_ref(&left));
        // It could not be removed: it is tried again.
        assert_eq!(sweep.look(found(), explained, after(31), APART), [left]);
    }

    #[test]
    fn what_was_gone_or_explained_in_between_begins_anew() {
        let (mut sweep, start) = (Sweep::default(), tokio::time::Instant::now().into_std());
        let run = RunId::new(1_700_000_000);
        let found = || vec![trace(&run, 1, "a")];
        let nobody = |_: &RunId, _| false;
        let after = |seconds| start + Duration::from_secs(seconds);
        sweep.look(found(), nobody, after(0), APART);
        sweep.look(found(), |_, _| true, after(60), APART);
        assert!(sweep.look(found(), nobody, after(120), APART).is_empty());
        sweep.look(Vec::new(), nobody, after(130), APART);
        assert!(sweep.look(found(), nobody, after(200), APART).is_empty());
    }

    #[test]
    fn spools_and_marks_are_found_and_nothing_that_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::new(1_700_000_000);
        for path in [format!("spool/{run}/3/all/0"), "spool/notes".to_owned()] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::create_dir(dir.path().join("started")).unwrap();
        fs::write(dir.path().join("started").join(format!("{run}.2")), "").unwrap();
        let found = traces_in(dir.path());
        let of: Vec<_> = found.iter().map(|trace| (&trace.run, trace.attempt.0)).collect();
        assert_eq!(of, [(&run, 3), (&run, 2)]);
        found.iter().for_each(|trace| remove(&trace.place).unwrap());
        assert!(traces_in(dir.path()).is_empty());
        assert!(!dir.path().join("spool").join(run.as_str()).exists());
        assert!(dir.path().join("spool/notes").exists());
    }
}
