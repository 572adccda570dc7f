//! `NAME.lock.toml` beside `NAME.toml`: what the groups of a composition were built from.
//!
//! Where there is one, its commits and base images are taken, as Cargo takes the versions of a `Cargo.lock`. It is
//! written when asked for, with `--update-lock`; `--locked` refuses whatever differs from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use groundswell_common::builds::{BuildLock, BuildReport, LockWish, PinnedSource, builds_key};
use groundswell_common::ids::RunId;
use groundswell_common::objects::Objects;

use super::args::Submit;
use super::exit::Exit;
use super::{Session, Trouble};

/// The lock file of a submit.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    /// What is in it; absent when it is not there or not to be taken.
    lock: Option<BuildLock>,
    exact: bool,
    update: bool,
}

impl LockFile {
    /// The lock file of what is submitted. A composition that is no file has none.
    pub(crate) fn of(args: &Submit) -> Result<Option<Self>, Trouble> {
        let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
        let Some(file) = file else {
            let flags = [(args.locked, "--locked"), (args.update_lock, "--update-lock")];
            return match flags.iter().find(|(given, _)| *given) {
                None => Ok(None),
                Some((_, flag)) => Err(Trouble::new(
                    Exit::Usage,
                    format!("{flag} needs a composition file: the lock file lies beside it"),
                    "",
                )),
            };
        };
        let path = file.with_extension("lock.toml");
        let lock = if args.update_lock { None } else { read(&path)? };
        if args.locked && lock.is_none() {
            return Err(Trouble::new(
                Exit::Invalid,
                format!("there is no lock file `{}`", path.display()),
                "write it with `coordinator submit --update-lock`",
            ));
        }
        Ok(Some(Self { path, lock, exact: args.locked, update: args.update_lock }))
    }

    /// What is taken from it.
    pub(crate) fn lock(&self) -> Option<&BuildLock> {
        self.lock.as_ref()
    }

    /// What is asked of the coordinator.
    pub(crate) fn wish(&self) -> Option<LockWish> {
        self.lock.clone().map(|lock| LockWish { lock, exact: self.exact })
    }

    /// Refuses a plan that is not the one of the lock, when nothing may differ.
    pub(crate) fn check_plan(&self, plan: Option<&PinnedSource>) -> Result<(), Trouble> {
        let Some(lock) = self.lock.as_ref().filter(|_| self.exact) else { return Ok(()) };
        if lock.plan.as_ref() == plan {
            return Ok(());
        }
        let shown = |plan: Option<&PinnedSource>| match plan {
            Some(plan) => format!("{} at {}", plan.url, plan.commit),
            None => "a directory".to_owned(),
        };
        Err(Trouble::new(
            Exit::Invalid,
            format!(
                "the plan is {}, and `{}` says {}",
                shown(plan),
                self.path.display(),
                shown(lock.plan.as_ref())
            ),
            "write what is built with `coordinator submit --update-lock`",
        ))
    }

    /// Writes the lock file when that was asked for, and otherwise tells what differs from it.
    pub(crate) async fn conclude(
        &self,
        session: &Session,
        objects: &Objects,
        runs: &[RunId],
        plan: Option<&PinnedSource>,
    ) -> Result<(), Trouble> {
        let mut groups = BTreeMap::new();
        for run in runs {
            for report in
                reports(objects, run).await?.into_iter().filter(|one| one.error.is_empty())
            {
                for group in &report.groups {
                    groups.insert(group.clone(), report.pins.clone());
                }
            }
        }
        if groups.is_empty() {
            return Ok(());
        }
        let built = BuildLock { version: BuildLock::VERSION, plan: plan.cloned(), groups };
        if self.update {
            write(&self.path, &built)?;
            session.out.note(format_args!("wrote {}", self.path.display()));
        } else if let Some(lock) = &self.lock {
            for group in differing(lock, &built) {
                let file = self.path.display();
                session
                    .out
                    .note(format_args!("group {group} is not what {file} says it was built from"));
            }
        }
        Ok(())
    }
}

/// What was built for a run.
pub(crate) async fn reports(objects: &Objects, run: &RunId) -> Result<Vec<BuildReport>, Trouble> {
    let text = objects.get(&builds_key(run)).await;
    let text = text.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_slice(&text).map_err(|err| {
        Trouble::new(Exit::Infra, format!("failed to read what was built for {run}: {err}"), "")
    })
}

fn read(path: &Path) -> Result<Option<BuildLock>, Trouble> {
    let failed = |reason: String| {
        Trouble::new(
            Exit::Invalid,
            format!("failed to read `{}`: {reason}", path.display()),
            "write it anew with `coordinator submit --update-lock`",
        )
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err.to_string())),
    };
    let lock: BuildLock = toml::from_str(&text).map_err(|err| failed(err.to_string()))?;
    if lock.version != BuildLock::VERSION {
        return Err(failed(format!("it has version {}, and this is 1", lock.version)));
    }
    Ok(Some(lock))
}

fn write(path: &Path, lock: &BuildLock) -> Result<(), Trouble> {
    let failed = |reason: String| {
        Trouble::new(Exit::Internal, format!("failed to write `{}`: {reason}", path.display()), "")
    };
    let text = toml::to_string(lock).map_err(|err| failed(err.to_string()))?;
    let head =
        "# Written by `coordinator submit --update-lock`: what the groups were built from.\n";
    std::fs::write(path, format!("{head}{text}")).map_err(|err| failed(err.to_string()))
}

fn differing<'a>(lock: &BuildLock, built: &'a BuildLock) -> Vec<&'a str> {
    let differs = |(group, pins): &(&String, _)| lock.groups.get(*group) != Some(*pins);
    built.groups.iter().filter(differs).map(|(group, _)| group.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use groundswell_common::builds::Pins;

    use super::*;

    fn lock() -> BuildLock {
        let source = |module: &str| PinnedSource {
            module: module.into(),
            url: "https://host/m".into(),
            asked: "branch=main".into(),
            commit: "c".into(),
        };
        let pins = Pins {
            builder: "exec:cargo".into(),
            input: "sha256:i".into(),
            image: "sha256:o".into(),
            sources: vec![source("m")],
            base_images: Vec::new(),
        };
        let groups = BTreeMap::from([("all".to_owned(), pins)]);
        BuildLock { version: BuildLock::VERSION, plan: Some(source("")), groups }
    }

    #[test]
    fn a_lock_file_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.lock.toml");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &lock()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(lock()));
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
        # Written by `coordinator submit --update-lock`: what the groups were built from.
        version = 1

        [plan]
        url = "https://host/m"
        asked = "branch=main"
        commit = "c"

        [groups.all]
        builder = "exec:cargo"
        input = "sha256:i"
        image = "sha256:o"

        [[groups.all.sources]]
        module = "m"
        url = "https://host/m"
        asked = "branch=main"
        commit = "c"
        "#);
    }

    #[test]
    fn a_lock_file_that_is_none_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.lock.toml");
        for (text, says) in [("version = 2", "version 2"), ("version = 1\nx = 1", "unknown field")]
        {
            std::fs::write(&path, text).unwrap();
            let refused = read(&path).unwrap_err();
            assert!(refused.message.contains("mesh.lock.toml"), "{}", refused.message);
            assert!(refused.message.contains(says), "{}", refused.message);
        }
    }

    #[test]
    fn only_groups_that_differ_are_told() {
        let mut built = lock();
        assert!(differing(&lock(), &built).is_empty());
        built.groups.get_mut("all").unwrap().sources[0].commit = "d".into();
        assert_eq!(differing(&lock(), &built), ["all"]);
    }
}
