//! From a plan's source to an image in the object store.
//!
//! ```text
//! source     packs a plan directory on the client, unpacks it here
//! cache      what a build's input is, and which image it gave (content-addressed)
//! settings   reads a builder's options
//! process    runs a build command and passes its lines on
//! cargo, command, docker    the builders
//! ```
//!
//! A distinct input is built once, also when two runs ask at the same moment: the second one waits for the
//! first and finds its image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use groundswell_common::messages::{ImageKind, ImageRef, RuntimeKind};
use groundswell_common::objects::{Objects, ObjectsError};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

mod cache;
mod cargo;
mod command;
mod docker;
mod process;
mod settings;
pub mod source;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no such builder.
    #[error("there is no builder `{builder}`; there are: {known}")]
    Unknown {
        /// What was asked for.
        builder: String,
        /// Which there are.
        known: String,
    },
    /// A builder of Testground that does not exist here.
    #[error("builder `{builder}` is not supported: {instead}")]
    Unsupported {
        /// What was asked for.
        builder: String,
        /// What to do.
        instead: &'static str,
    },
    /// An option of the builder is wrong.
    #[error("option `{key}` of builder `{builder}`: {reason}")]
    Option {
        /// Whose option.
        builder: String,
        /// Which.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The plan does not build.
    #[error("builder `{builder}` failed: {reason}{}", shown(.last_lines))]
    Failed {
        /// Which builder.
        builder: String,
        /// What went wrong.
        reason: String,
        /// The last lines it printed.
        last_lines: Vec<String>,
    },
    /// A ready artifact that is not there.
    #[error("there is no artifact `{artifact}`: {reason}")]
    Artifact {
        /// What the composition names.
        artifact: String,
        /// Where it was looked for.
        reason: String,
    },
    /// It was canceled.
    #[error("the build was canceled")]
    Canceled,
    /// The object store is the cause.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// This host is the cause.
    #[error("failed to {doing}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BuildError {
    /// Whether the plan or its composition is the cause, and not this host.
    #[must_use]
    pub fn fault_of_plan(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::Unsupported { .. }
            | Self::Option { .. }
            | Self::Failed { .. }
            | Self::Artifact { .. } => true,
            Self::Canceled | Self::Objects(_) | Self::Host { .. } => false,
        }
    }
}

fn shown(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// A dependency that a group replaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Dependency {
    /// What is replaced.
    pub module: String,
    /// By what; empty is the module itself.
    pub target: String,
    /// In which version.
    pub version: String,
}

/// One image to be built.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The builder's id, `exec:cargo`.
    pub builder: String,
    /// Its options, all defaults of manifest and composition applied.
    pub config: Map<String, Value>,
    /// Build selectors.
    pub selectors: Vec<String>,
    /// Replaced dependencies.
    pub dependencies: Vec<Dependency>,
    /// A directory with `plan/` and, for each extra source directory, `extra/<name>/`. It is only read.
    pub source: PathBuf,
    /// The plan's name.
    pub plan: String,
    /// Where the image will run.
    pub runtime: RuntimeKind,
    /// Build again even when the cache has the image.
    pub no_cache: bool,
}

impl BuildRequest {
    fn plan_dir(&self) -> PathBuf {
        self.source.join("plan")
    }
}

/// A way to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Builder {
    Generic,
    Image,
    Cargo,
    Command,
    /// One of Testground's; the text says what to do.
    Missing(&'static str),
}

const BUILDERS: [(&str, Builder); 7] = [
    ("docker:generic", Builder::Generic),
    ("docker:image", Builder::Image),
    ("exec:cargo", Builder::Cargo),
    ("exec:command", Builder::Command),
    (
        "docker:go",
        Builder::Missing(
            "write a Dockerfile and use `docker:generic`, or use `exec:command` with `go build`",
        ),
    ),
    ("exec:go", Builder::Missing("use `exec:command` with `go build` as its command")),
    (
        "docker:node",
        Builder::Missing(
            "write a Dockerfile and use `docker:generic`, or use `exec:command` with `npm ci`",
        ),
    ),
];

/// Where a build's lines go, and what ends it early.
#[derive(Clone)]
struct Watch {
    progress: mpsc::Sender<String>,
    cancel: CancellationToken,
}

impl Watch {
    /// Passes a line on. A build that prints faster than somebody reads waits; nobody reading is fine.
    async fn say(&self, line: impl Into<String>) {
        let _ = self.progress.send(line.into()).await;
    }
}

/// Builds images and remembers them.
#[derive(Clone)]
pub struct Builders {
    objects: Objects,
    cache_dir: PathBuf,
    underway: Arc<Mutex<BTreeMap<String, Weak<Semaphore>>>>,
}

impl Builders {
    /// `cache_dir` is a directory of the coordinator's own; what is in it may be removed at any time.
    #[must_use]
    pub fn new(objects: Objects, cache_dir: &Path) -> Self {
        let cache_dir = cache_dir.to_owned();
        Self { objects, cache_dir, underway: Arc::default() }
    }

    /// Builds an image, or finds the one that the same input has given before. Lines of the build go to
    /// `progress`.
    ///
    /// # Errors
    /// When there is no image; [`BuildError::fault_of_plan`] says whose fault it is.
    pub async fn build(
        &self,
        request: &BuildRequest,
        progress: mpsc::Sender<String>,
        cancel: CancellationToken,
    ) -> Result<ImageRef, BuildError> {
        let watch = Watch { progress, cancel };
        let builder = find(&request.builder)?;
        let extra = match builder {
            Builder::Cargo => cargo::toolchain(request).await?,
            Builder::Image => return docker::image(self, request, &watch).await,
            Builder::Generic | Builder::Command | Builder::Missing(_) => String::new(),
        };
        let key = cache::key(request, &extra).await?;
        let turn = self.turn(&key);
        let _turn = tokio::select! {
            turn = turn.acquire() => turn.expect("the semaphore is never closed"),
            () = watch.cancel.cancelled() => return Err(BuildError::Canceled),
        };
        if !request.no_cache
            && let Some(image) = cache::find(&self.objects, &key).await?
        {
            watch.say(format!("{}: the image is in the cache", request.builder)).await;
            return Ok(image);
        }
        let image = match builder {
            Builder::Generic => docker::generic(self, request, &watch).await?,
            Builder::Cargo => cargo::build(self, request, &watch).await?,
            Builder::Command => command::build(self, request, &watch).await?,
            Builder::Image | Builder::Missing(_) => unreachable!("answered above"),
        };
        cache::remember(&self.objects, &key, &image).await?;
        Ok(image)
    }

    /// The image of a ready artifact: the digest of an image that was built before, `sha256:…`, or the name
    /// of an image of the local Docker engine.
    ///
    /// # Errors
    /// When there is no such artifact.
    pub async fn artifact(&self, artifact: &str) -> Result<ImageRef, BuildError> {
        if let Some(image) = cache::by_digest(&self.objects, artifact).await? {
            return Ok(image);
        }
        docker::save_named(self, artifact).await
    }

    /// One build at a time for each `key`.
    fn turn(&self, key: &str) -> Arc<Semaphore> {
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        underway.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = underway.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Semaphore::new(1));
        underway.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Packs a directory as a bundle and stores it.
    async fn store_bundle(&self, directory: &Path) -> Result<ImageRef, BuildError> {
        let directory = directory.to_owned();
        let blob = blocking("pack the bundle", move || {
            let blob = tempfile::NamedTempFile::new()?;
            source::pack_bundle(&directory, blob.path())?;
            Ok(blob)
        })
        .await?;
        self.store(ImageKind::Bundle, blob.path()).await
    }

    async fn store(&self, kind: ImageKind, blob: &Path) -> Result<ImageRef, BuildError> {
        let digest = self.objects.put_blob(blob).await?;
        let size = std::fs::metadata(blob).map_err(host("read the built image"))?.len();
        let (command, workdir) = (Vec::new(), String::new());
        let image = ImageRef { kind, digest, size, command, workdir, env: BTreeMap::new() };
        Ok(image)
    }
}

fn find(builder: &str) -> Result<Builder, BuildError> {
    match BUILDERS.iter().find(|known| known.0 == builder) {
        Some((_, Builder::Missing(instead))) => {
            Err(BuildError::Unsupported { builder: builder.to_owned(), instead })
        }
        Some((_, found)) => Ok(*found),
        None => {
            let known = BUILDERS.iter().filter(|known| !matches!(known.1, Builder::Missing(_)));
            let known: Vec<_> = known.map(|known| format!("`{}`", known.0)).collect();
            Err(BuildError::Unknown { builder: builder.to_owned(), known: known.join(", ") })
        }
    }
}

/// Runs file work on a thread of its own.
async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(host(doing))
}

fn host<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    doing: &str,
) -> impl FnOnce(E) -> BuildError {
    let doing = doing.to_owned();
    move |source| BuildError::Host { doing, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_of_testground_that_is_missing_names_the_alternative() {
        let refused = find("docker:go").expect_err("unsupported");
        assert!(refused.to_string().contains("`docker:generic`"), "{refused}");
        assert!(refused.fault_of_plan());
        let refused = find("exec:rust").expect_err("unknown");
        assert!(refused.to_string().contains("`exec:cargo`"), "{refused}");
        assert!(!refused.to_string().contains("docker:go"), "{refused}");
    }
}
