//! What was built for a run, and the lock file that pins it.
//!
//! The builds of a run are stored beside its record as `runs/<run>/builds.json`, each build's log and what else is
//! known of it under the digest of its input:
//!
//! ```text
//! runs/<run>/builds.json       which builds a run has used, also those that failed
//! builds/<input>.log           what the build printed
//! builds/<input>.made.json     the commits and base images that went in
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::RunId;

/// Key of what was built for a run.
#[must_use]
pub fn builds_key(run: &RunId) -> String {
    format!("runs/{run}/builds.json")
}

/// A place in a git repository, and the commit that it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedSource {
    /// What was replaced by it; empty is the plan itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub module: String,
    /// The repository.
    pub url: String,
    /// What was asked for: `branch=main`, `tag=v1`, a commit.
    pub asked: String,
    /// The commit.
    pub commit: String,
}

/// An image that another one is built on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseImage {
    /// Its name, as the build names it.
    pub name: String,
    /// What the engine had under that name: a repository's digest, or the id of an image that comes from none.
    pub digest: String,
}

/// What went into one build and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// The builder.
    pub builder: String,
    /// Digest of everything the image depends on.
    pub input: String,
    /// Digest of the image.
    pub image: String,
    /// Software from git.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<PinnedSource>,
    /// Images it is built on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_images: Vec<BaseImage>,
}

/// A lock file: what each group of a composition was built from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildLock {
    /// Version of the format.
    pub version: u32,
    /// The plan, when it comes from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PinnedSource>,
    /// The groups that are built, by id.
    #[serde(default)]
    pub groups: BTreeMap<String, Pins>,
}

impl BuildLock {
    /// The only version there is.
    pub const VERSION: u32 = 1;

    /// The commit that is locked for what is asked of a repository.
    #[must_use]
    pub fn commit(&self, url: &str, asked: &str) -> Option<&str> {
        let sources = self.groups.values().flat_map(|pins| &pins.sources);
        let mut all = self.plan.iter().chain(sources);
        all.find(|source| source.url == url && source.asked == asked)
            .map(|source| source.commit.as_str())
    }

    /// The digest that is locked for a base image.
    #[must_use]
    pub fn base_image(&self, name: &str) -> Option<&str> {
        let mut all = self.groups.values().flat_map(|pins| &pins.base_images);
        all.find(|image| image.name == name).map(|image| image.digest.as_str())
    }
}

/// What a submit wants of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWish {
    /// The lock.
    pub lock: BuildLock,
    /// Refuse what differs from it. Otherwise only its commits and base images are taken.
    pub exact: bool,
}

/// One build of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// The groups that use it.
    pub groups: Vec<String>,
    /// What went in and what came of it; the image is empty when there is none.
    pub pins: Pins,
    /// The image was there already.
    pub cached: bool,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Key of what it printed; absent when nothing is kept of it.
    #[serde(default)]
    pub log: Option<String>,
    /// Why it failed; empty when it did not.
    #[serde(default)]
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_finds_what_it_pins() {
        let source = PinnedSource {
            module: "m".into(),
            url: "https://host/m".into(),
            asked: "branch=main".into(),
            commit: "c".into(),
        };
        let base = BaseImage { name: "rust:1".into(), digest: "rust@sha256:d".into() };
        let pins = Pins {
            builder: "exec:cargo".into(),
            input: "sha256:i".into(),
            image: "sha256:o".into(),
            sources: vec![source.clone()],
            base_images: vec![base],
        };
        let plan = PinnedSource { url: "https://host/plan".into(), ..source };
        let groups = BTreeMap::from([("all".to_owned(), pins)]);
        let lock = BuildLock { version: BuildLock::VERSION, plan: Some(plan), groups };
        assert_eq!(lock.commit("https://host/m", "branch=main"), Some("c"));
        assert_eq!(lock.commit("https://host/plan", "branch=main"), Some("c"));
        assert_eq!(lock.commit("https://host/m", "branch=next"), None);
        assert_eq!(lock.base_image("rust:1"), Some("rust@sha256:d"));
        assert_eq!(lock.base_image("rust:2"), None);
    }
}
