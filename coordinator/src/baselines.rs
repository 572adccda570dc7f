//! Baselines in the object store: runs under a name, with which others are compared.

use groundswell_common::datasets::is_name;
use groundswell_common::ids::RunId;
use groundswell_common::objects::{Objects, ObjectsError};
use serde::{Deserialize, Serialize};

/// Version of the format.
const VERSION: u32 = 1;

/// Runs under a name, stored as `baselines/<name>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Version of this format.
    pub v: u32,
    /// Its name.
    pub name: String,
    /// The plan of its runs.
    pub plan: String,
    /// The case of its runs.
    pub case: String,
    /// Its runs, in the order in which they were given.
    pub runs: Vec<RunId>,
    /// Those of them that count although they cannot be trusted: somebody has forced it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<RunId>,
    /// Who has set it.
    pub user: String,
    /// When, Unix milliseconds.
    pub set_ms: u64,
}

impl Baseline {
    /// A baseline of these runs, none of which is forced.
    #[must_use]
    pub fn new(name: &str, plan: &str, case: &str, runs: Vec<RunId>) -> Self {
        Self {
            v: VERSION,
            name: name.to_owned(),
            plan: plan.to_owned(),
            case: case.to_owned(),
            runs,
            forced: Vec::new(),
            user: String::new(),
            set_ms: 0,
        }
    }
}

/// Why something could not be done with a baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The name is none.
    #[error("`{name}` cannot name a baseline: use letters, digits, `.`, `-` and `_`")]
    Name {
        /// What was given.
        name: String,
    },
    /// There is no such baseline.
    #[error("there is no baseline `{name}`; {}", listed(.known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Which there are.
        known: Vec<String>,
    },
    /// What is stored under the name cannot be read.
    #[error("what is stored of baseline `{name}` cannot be read: set it again")]
    Damaged {
        /// Which.
        name: String,
    },
    /// The store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "there are none: `coordinator baseline set NAME RUN...` makes one".to_owned();
    }
    format!("there are: {}", names.join(", "))
}

fn key(name: &str) -> String {
    format!("baselines/{name}.json")
}

/// Stores a baseline; one of the same name is replaced.
///
/// # Errors
/// When its name is none, or the store refuses it.
pub async fn set(objects: &Objects, baseline: &Baseline) -> Result<(), BaselineError> {
    if !is_name(&baseline.name) {
        return Err(BaselineError::Name { name: baseline.name.clone() });
    }
    let json = serde_json::to_vec_pretty(baseline).unwrap_or_default();
    Ok(objects.put(&key(&baseline.name), json).await?)
}

/// The baseline of a name.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn find(objects: &Objects, name: &str) -> Result<Baseline, BaselineError> {
    // A name that cannot be one is no key of the store either.
    let stored = if is_name(name) { objects.get(&key(name)).await? } else { None };
    let Some(json) = stored else {
        let known = names(objects).await?;
        return Err(BaselineError::Unknown { name: name.to_owned(), known });
    };
    serde_json::from_slice(&json).map_err(|_| BaselineError::Damaged { name: name.to_owned() })
}

/// All baselines that can be read, by name.
///
/// # Errors
/// When the store does not answer.
pub async fn all(objects: &Objects) -> Result<Vec<Baseline>, BaselineError> {
    let mut all = Vec::new();
    for name in names(objects).await? {
        match find(objects, &name).await {
            Ok(baseline) => all.push(baseline),
            // Another one may have removed it since; one that is damaged must not hide the others.
            Err(BaselineError::Unknown { .. } | BaselineError::Damaged { .. }) => {}
            Err(err @ (BaselineError::Name { .. } | BaselineError::Objects(_))) => return Err(err),
        }
    }
    Ok(all)
}

/// Forgets a baseline; its runs stay.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn remove(objects: &Objects, name: &str) -> Result<(), BaselineError> {
    let known = names(objects).await?;
    if !known.iter().any(|one| one == name) {
        return Err(BaselineError::Unknown { name: name.to_owned(), known });
    }
    Ok(objects.delete(&key(name)).await?)
}

async fn names(objects: &Objects) -> Result<Vec<String>, BaselineError> {
    let keys = objects.list("baselines").await?;
    let name = |key: &String| key.rsplit('/').next()?.strip_suffix(".json").map(str::to_owned);
    let mut names: Vec<String> = keys.iter().filter_map(name).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use groundswell_common::objects::ObjectsConfig;

    use super::*;

    fn store(dir: &tempfile::TempDir) -> Objects {
        let url = format!("file://{}", dir.path().display());
        Objects::open(&ObjectsConfig { url, endpoint: None, region: None }).expect("a store")
    }

    fn baseline(name: &str) -> Baseline {
        let run = "c8k3vmlrirtj2p8lcec0".parse().expect("an id");
        Baseline::new(name, "gossip", "spread", vec![run])
    }

    #[tokio::test]
    async fn a_baseline_is_found_replaced_listed_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = store(&dir);
        set(&objects, &baseline("main")).await.expect("set");
        let again = Baseline { user: "me".to_owned(), ..baseline("main") };
        set(&objects, &again).await.expect("set again");
        set(&objects, &baseline("dev")).await.expect("set");
        assert_eq!(find(&objects, "main").await.expect("there"), again);
        let names: Vec<String> =
            all(&objects).await.expect("listed").into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["dev", "main"]);
        remove(&objects, "main").await.expect("removed");
        let gone = find(&objects, "main").await.expect_err("gone").to_string();
        assert_eq!(gone, "there is no baseline `main`; there are: dev");
        assert!(matches!(remove(&objects, "main").await, Err(BaselineError::Unknown { .. })));
    }

    #[tokio::test]
    async fn what_is_no_name_or_cannot_be_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = store(&dir);
        for name in ["", "a/b", "../runs", ".hidden", "a b"] {
            let refused = set(&objects, &baseline(name)).await;
            assert!(matches!(refused, Err(BaselineError::Name { .. })), "{name}");
            assert!(matches!(find(&objects, name).await, Err(BaselineError::Unknown { .. })));
        }
        objects.put("baselines/torn.json", "{\"v\":1").await.expect("put");
        assert!(matches!(find(&objects, "torn").await, Err(BaselineError::Damaged { .. })));
        assert_eq!(all(&objects).await.expect("listed"), []);
    }
}
