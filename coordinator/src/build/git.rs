//! Software in git: how a composition names it, which commit that is, and its files.
//!
//! A branch or a tag becomes a commit before anything is built, so that a build's input says what was built.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use groundswell_common::objects::digest;
use tokio::process::Command;

/// Why there is no commit or no files of it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// A name of a commit that is none.
    #[error(
        "`{text}` names no commit: write `branch=NAME`, `tag=NAME` or `rev=COMMIT`, \
         a commit with all its 40 digits"
    )]
    Asked {
        /// What was written.
        text: String,
    },
    /// A URL that is none.
    #[error(
        "`{text}` is no plan in git: write `git+https://host/repository?branch=main#directory`"
    )]
    Url {
        /// What was written.
        text: String,
    },
    /// The repository has nothing of this name.
    #[error("`{url}` has no {asked}")]
    Missing {
        /// The repository.
        url: String,
        /// What was asked for.
        asked: Asked,
    },
    /// Git cannot do it.
    #[error("git failed to {doing}: {said}")]
    Failed {
        /// What was tried.
        doing: String,
        /// What it printed.
        said: String,
    },
    /// Git cannot be run, or its files cannot be written.
    #[error("failed to {doing}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What of a repository is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// What a clone checks out.
    Head,
    /// The last commit of a branch.
    Branch(String),
    /// The commit of a tag.
    Tag(String),
    /// A branch or a tag.
    Name(String),
    /// A commit.
    Commit(String),
}

impl Asked {
    /// Reads `branch=…`, `tag=…`, `rev=…`, a commit, or the name of a branch or tag; empty is the repository's head.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self, GitError> {
        let wrong = || GitError::Asked { text: text.to_owned() };
        let (kind, name) = text.split_once('=').unwrap_or(("", text));
        let clean = |character: char| !character.is_whitespace() && !character.is_control();
        if !name.chars().all(clean) || name.starts_with('-') {
            return Err(wrong());
        }
        match (kind, name) {
            ("", "") => Ok(Self::Head),
            (_, "") => Err(wrong()),
            ("branch", name) => Ok(Self::Branch(name.to_owned())),
            ("tag", name) => Ok(Self::Tag(name.to_owned())),
            ("rev" | "", name) if is_commit(name) => Ok(Self::Commit(name.to_owned())),
            ("", name) => Ok(Self::Name(name.to_owned())),
            (_, _) => Err(wrong()),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("HEAD"),
            Self::Branch(name) => write!(f, "branch={name}"),
            Self::Tag(name) => write!(f, "tag={name}"),
            Self::Name(name) => f.write_str(name),
            Self::Commit(commit) => write!(f, "rev={commit}"),
        }
    }
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The repository's URL, when a text names a repository and not a directory or a module.
#[must_use]
pub fn repository(text: &str) -> Option<&str> {
    const SCHEMES: [&str; 5] = ["https://", "http://", "ssh://", "git://", "file://"];
    let (bare, told) = text.strip_prefix("git+").map_or((text, false), |bare| (bare, true));
    let is_url = SCHEMES.iter().any(|scheme| bare.starts_with(scheme));
    let is_ssh = bare.starts_with("git@") && bare.contains(':');
    (is_url || is_ssh || told).then_some(bare)
}

/// A plan in a repository: `git+URL?branch=NAME#directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSource {
    /// The repository.
    pub url: String,
    /// What of it.
    pub asked: Asked,
    /// The plan's directory in it; empty is all of it.
    pub directory: String,
}

impl PlanSource {
    /// Reads a plan's source; nothing for what does not begin with `git+`.
    ///
    /// # Errors
    /// When it begins so and is none.
    pub fn parse(text: &str) -> Result<Option<Self>, GitError> {
        let Some(rest) = text.strip_prefix("git+") else { return Ok(None) };
        let wrong = || GitError::Url { text: text.to_owned() };
        let (rest, directory) = rest.split_once('#').unwrap_or((rest, ""));
        let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
        let up = Path::new(directory).components().any(|part| {
            !matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir)
        });
        if repository(url).is_none() || up {
            return Err(wrong());
        }
        let asked = Asked::parse(query)?;
        Ok(Some(Self { url: url.to_owned(), asked, directory: directory.to_owned() }))
    }
}

/// The commit that is asked for.
///
/// # Errors
/// When the repository does not answer or has no such commit.
pub async fn resolve(url: &str, asked: &Asked) -> Result<String, GitError> {
    let wanted = match asked {
        Asked::Commit(commit) => return Ok(commit.clone()),
        Asked::Head => vec!["HEAD".to_owned()],
        Asked::Branch(name) => vec![format!("refs/heads/{name}")],
        Asked::Tag(name) => tag(name),
        Asked::Name(name) => [vec![format!("refs/heads/{name}")], tag(name)].concat(),
    };
    let mut command = git();
    command.args(["ls-remote", "--", url]).args(&wanted);
    let listed = run(command, &format!("list what `{url}` has")).await?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let found = |name: &String| {
        let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(_, there)| there == name).map(|(commit, _)| commit.to_owned())
    };
    let missing = || GitError::Missing { url: url.to_owned(), asked: asked.clone() };
    wanted.iter().find_map(found).ok_or_else(missing)
}

/// An annotated tag has a second line that names the commit.
fn tag(name: &str) -> Vec<String> {
    vec![format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")]
}

/// The files of a commit, in a directory below `cache_dir` that nobody changes afterwards. Submodules are left out.
///
/// # Errors
/// When the repository does not answer, has no such commit, or the files cannot be written.
pub async fn checkout(url: &str, commit: &str, cache_dir: &Path) -> Result<PathBuf, GitError> {
    let root = cache_dir.join("git");
    let name = &digest(url.as_bytes())[7..23];
    let files = root.join(format!("{name}-{commit}"));
    if files.is_dir() {
        return Ok(files);
    }
    let doing = format!("write the files of `{url}`");
    let host = |source| GitError::Host { doing: doing.clone(), source };
    std::fs::create_dir_all(&root).map_err(host)?;
    let scratch = tempfile::tempdir_in(&root).map_err(host)?;
    let (bare, tree) = (scratch.path().join("bare"), scratch.path().join("tree"));
    std::fs::create_dir_all(&tree).map_err(host)?;
    let mut init = git();
    init.args(["init", "--quiet", "--bare"]).arg(&bare);
    run(init, "make a repository").await?;
    fetch(url, commit, &bare).await?;
    let mut checkout = git();
    checkout.arg("--git-dir").arg(&bare).arg("--work-tree").arg(&tree);
    checkout.args(["checkout", "--quiet", "--force", commit, "--", "."]);
    run(checkout, &format!("check out {commit} of `{url}`")).await?;
    match std::fs::rename(&tree, &files) {
        Ok(()) => Ok(files),
        // Somebody else was quicker, with the same files.
        Err(_) if files.is_dir() => Ok(files),
        Err(source) => Err(host(source)),
    }
}

/// Fetches one commit, or everything from a server that gives out branches and tags only.
async fn fetch(url: &str, commit: &str, bare: &Path) -> Result<(), GitError> {
    let fetching = |references: &[&str]| {
        let mut command = git();
        command.arg("--git-dir").arg(bare).args(["fetch", "--quiet", "--no-tags"]);
        command.args(references);
        command
    };
    let one = fetching(&["--depth=1", "--", url, commit]);
    if run(one, "fetch").await.is_ok() {
        return Ok(());
    }
    let all = fetching(&["--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
    run(all, &format!("fetch `{url}`")).await.map(drop)
}

/// A git that asks nobody for a password.
fn git() -> Command {
    let mut command = Command::new("git");
    command.env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null()).kill_on_drop(true);
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(inherited);
    }
    command
}

async fn run(mut command: Command, doing: &str) -> Result<Output, GitError> {
    let output = command.output().await.map_err(|source| GitError::Host {
        doing: "run `git`; install it on the coordinator's host and where runs are submitted"
            .into(),
        source,
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(GitError::Failed { doing: doing.to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_written() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, shown) in [
            ("", "HEAD"),
            ("branch=release/1.x", "branch=release/1.x"),
            ("tag=v1.2", "tag=v1.2"),
            ("main", "main"),
            (commit, &format!("rev={commit}")),
        ] {
            assert_eq!(Asked::parse(text).expect("read").to_string(), shown);
        }
        for text in ["rev=0123abc", "branch=", "commit=1", "--upload-pack=x", "a b"] {
            let refused = Asked::parse(text).expect_err("refused").to_string();
            assert!(refused.contains(&format!("`{text}`")), "{refused}");
        }
    }

    #[test]
    fn a_repository_is_told_from_a_module_and_a_directory() {
        assert_eq!(repository("git+file:///a"), Some("file:///a"));
        assert_eq!(repository("https://host/x"), Some("https://host/x"));
        assert_eq!(repository("git@host:x/y.git"), Some("git@host:x/y.git"));
        for text in ["../x", "./x", "github.com/a/b", ""] {
            assert_eq!(repository(text), None, "{text}");
        }
    }

    #[test]
    fn a_plan_in_git_has_a_repository_a_commit_and_a_directory() {
        let plan = |text| PlanSource::parse(text);
        assert_eq!(plan("plans/mesh").expect("a path"), None);
        let source = plan("git+https://host/x?branch=main#plans/mesh").expect("read");
        let source = source.expect("in git");
        assert_eq!((&*source.url, &*source.directory), ("https://host/x", "plans/mesh"));
        assert_eq!(source.asked, Asked::Branch("main".into()));
        for text in ["git+x", "git+https://host/x#../y"] {
            let refused = plan(text).expect_err("refused").to_string();
            assert!(refused.contains(text), "{refused}");
        }
        assert!(plan("git+https://host/x?rev=12").is_err());
    }
}
