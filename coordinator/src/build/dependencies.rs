//! What a group replaces: software under test at a commit, in a directory, or in another version.
//!
//! | `target` | `version` | what is built in |
//! |---|---|---|
//! | a repository's URL | `branch=…`, `tag=…`, a commit | the commit; a branch or a tag is looked up before the build |
//! | `./…` or `../…` | | a directory, relative to the plan |
//! | none | a version | the same module in this version |
//! | Go: a module | a version | another module; npm: `npm:package` |

use std::path::{Path, PathBuf};

use groundswell_common::builds::{BuildLock, PinnedSource};
use groundswell_common::chain::Chain;

use super::git::{self, Asked, GitError};
use super::layout::{LaidOut, normal};
use super::tree::{self, Files};
use super::{BuildError, BuildRequest, Dependency, host};

/// What is built in for a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    /// A commit.
    Git { url: String, commit: String },
    /// A directory, relative to the plan.
    Directory(PathBuf),
    /// The same module in another version.
    Version(String),
    /// Another module.
    Module { name: String, version: String },
}

/// A module and what is built in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) module: String,
    pub(super) by: By,
}

/// Looks up the commits of a request's dependencies. What `lock` knows is not looked up.
pub(super) async fn pin(
    request: &BuildRequest,
    lock: Option<&BuildLock>,
) -> Result<(Vec<Dependency>, Vec<PinnedSource>), BuildError> {
    let (mut pinned, mut sources) = (Vec::new(), Vec::new());
    for dependency in &request.dependencies {
        let Some(url) = git::repository(&dependency.target) else {
            pinned.push(dependency.clone());
            continue;
        };
        let wrong = |err: GitError| wrong(request, &dependency.module, Chain(&err).to_string());
        let asked = Asked::parse(&dependency.version).map_err(wrong)?;
        let locked = lock.and_then(|lock| lock.commit(url, &asked.to_string()));
        let commit = match locked {
            Some(commit) => commit.to_owned(),
            None => git::resolve(url, &asked).await.map_err(wrong)?,
        };
        let target = url.to_owned();
        pinned.push(Dependency { target, version: commit.clone(), ..dependency.clone() });
        sources.push(PinnedSource {
            module: dependency.module.clone(),
            url: url.to_owned(),
            asked: asked.to_string(),
            commit,
        });
    }
    Ok((pinned, sources))
}

/// What a request replaces, its commits looked up.
pub(super) fn read(request: &BuildRequest) -> Result<Vec<Replaced>, BuildError> {
    let by = |one: &Dependency| -> Result<By, BuildError> {
        let (target, version) = (one.target.as_str(), one.version.clone());
        let wrong = |reason: String| Err(wrong(request, &one.module, reason));
        if let Some(url) = git::repository(target) {
            return Ok(By::Git { url: url.to_owned(), commit: version });
        }
        if is_directory(target) {
            return Ok(By::Directory(PathBuf::from(target)));
        }
        if target.is_empty() && version.is_empty() {
            return wrong("it has neither `target` nor `version`".to_owned());
        }
        let other_modules = match request.builder.rsplit(':').next() {
            Some("go") => true,
            Some("node") => target.starts_with("npm:"),
            _ => false,
        };
        match target {
            "" => Ok(By::Version(version)),
            name if other_modules => Ok(By::Module { name: name.to_owned(), version }),
            other => wrong(format!(
                "`{other}` is neither a repository's URL nor a directory: write `https://…`, \
                 or a path from the plan that begins with `./` or `../`"
            )),
        }
    };
    let replaced = |one: &Dependency| Ok(Replaced { module: one.module.clone(), by: by(one)? });
    request.dependencies.iter().map(replaced).collect()
}

/// Whether a target is a directory.
#[must_use]
pub fn is_directory(target: &str) -> bool {
    ["./", "../"].iter().any(|start| target.starts_with(start)) || matches!(target, "." | "..")
}

/// Where what is built in for the dependency of this number lies, for builders that have no place of their own.
pub(super) fn brought(number: usize) -> PathBuf {
    PathBuf::from(format!("replaced/{number}"))
}

/// Adds a directory that came along to the files of a build, where [`brought`] says.
pub(super) fn bring(
    request: &BuildRequest,
    files: &mut Files,
    module: &str,
    directory: &Path,
    number: usize,
) -> Result<(), BuildError> {
    let laid_out = LaidOut::read(&request.source).map_err(host("read the plan's source"))?;
    let from = place(&laid_out.plan, directory);
    let to = brought(number);
    let found = laid_out.files.into_iter().filter_map(|(path, content)| {
        let relative = path.strip_prefix(&from).ok().filter(|path| !path.as_os_str().is_empty())?;
        Some((to.join(relative), content))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        let shown = directory.display();
        return Err(wrong(
            request,
            module,
            format!("there is no directory `{shown}`, seen from the plan"),
        ));
    }
    tree::add_directory(files, &to);
    files.extend(found);
    Ok(())
}

/// Where a directory of the composition lies, when it came along.
pub(super) fn place(plan: &Path, directory: &Path) -> PathBuf {
    normal(&plan.join(directory))
}

/// An error about a dependency.
pub(super) fn wrong(request: &BuildRequest, module: &str, reason: String) -> BuildError {
    BuildError::Dependency { builder: request.builder.clone(), module: module.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn request(builder: &str, target: &str, version: &str) -> BuildRequest {
        let module = "m".to_owned();
        BuildRequest {
            builder: builder.into(),
            config: Map::new(),
            selectors: Vec::new(),
            dependencies: vec![Dependency {
                module,
                target: target.into(),
                version: version.into(),
            }],
            source: PathBuf::new(),
            plan: "mesh".into(),
            runtime: groundswell_common::messages::RuntimeKind::Netns,
            no_cache: false,
        }
    }

    fn by(builder: &str, target: &str, version: &str) -> Result<By, String> {
        let read = read(&request(builder, target, version)).map_err(|error| error.to_string())?;
        Ok(read[0].by.clone())
    }

    #[test]
    fn each_kind_of_replacement_is_told_apart() {
        let git = By::Git { url: "https://h/m".into(), commit: "c".into() };
        assert_eq!(by("exec:cargo", "git+https://h/m", "c"), Ok(git));
        assert_eq!(by("exec:cargo", "../m", ""), Ok(By::Directory("../m".into())));
        assert_eq!(by("exec:cargo", "", "1.2.3"), Ok(By::Version("1.2.3".into())));
        let module = By::Module { name: "github.com/a/m".into(), version: "v1".into() };
        assert_eq!(by("docker:go", "github.com/a/m", "v1"), Ok(module));
        let package = By::Module { name: "npm:fork".into(), version: "1".into() };
        assert_eq!(by("docker:node", "npm:fork", "1"), Ok(package));
    }

    #[test]
    fn what_is_none_is_named() {
        for (builder, target) in
            [("exec:cargo", "/abs"), ("exec:cargo", "github.com/a/m"), ("docker:node", "fork")]
        {
            let refused = by(builder, target, "1").expect_err("refused");
            assert!(refused.contains("dependency `m`") && refused.contains(target), "{refused}");
        }
        assert!(by("exec:cargo", "", "").expect_err("refused").contains("neither"));
    }

    #[tokio::test]
    async fn a_locked_commit_is_not_looked_up() {
        let url = "file:///there/is/no/such/repository";
        let request = request("exec:cargo", url, "branch=main");
        let refused = pin(&request, None).await.expect_err("nobody answers").to_string();
        assert!(refused.contains("dependency `m`") && refused.contains(url), "{refused}");
        let source = PinnedSource {
            module: "m".into(),
            url: url.into(),
            asked: "branch=main".into(),
            commit: "c".into(),
        };
        let lock = BuildLock { plan: Some(source.clone()), ..BuildLock::default() };
        let (dependencies, sources) = pin(&request, Some(&lock)).await.expect("it is locked");
        assert_eq!((dependencies[0].version.as_str(), sources), ("c", vec![source]));
    }
}
