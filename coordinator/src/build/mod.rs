//! From a plan's source to an image in the object store.
//!
//! ```text
//! source     packs a plan directory on the client, unpacks it here
//! layout     how a plan and what it needs lie to each other while they are built
//! tree       gathers files and mirrors them
//! cache      what a build's input is, and which image it gave (content-addressed)
//! settings   reads a builder's options
//! dependencies   what a group replaces, its commits looked up
//! git        commits and their files
//! base       images that others are built on
//! process    runs a build command and passes its lines on
//! log        what a build prints, kept
//! error      why there is no image, and whose fault that is
//! cargo, go, command, docker, generated    the builders
//! ```
//!
//! A distinct input is built once, also when two runs ask at the same moment: the second one waits for the
//! first and finds its image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use groundswell_common::builds::{BaseImage, BuildReport, LockWish, Pins};
use groundswell_common::chain::Chain;
use groundswell_common::messages::{ImageKind, ImageRef, RuntimeKind};
use groundswell_common::objects::{Objects, digest};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod base;
mod cache;
pub mod cargo;
mod command;
pub mod dependencies;
mod docker;
mod error;
mod generated;
pub mod git;
mod go;
mod go_mod;
mod layout;
mod log;
mod process;
mod settings;
pub mod source;
mod tree;

pub use error::BuildError;
use log::BuildLog;

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
    /// The plan's Dockerfile.
    Generic,
    /// A ready image.
    Image,
    /// A Dockerfile made here.
    Generated,
    Cargo,
    Go,
    Command,
}

const BUILDERS: [(&str, Builder); 8] = [
    ("docker:cargo", Builder::Generated),
    ("docker:generic", Builder::Generic),
    ("docker:go", Builder::Generated),
    ("docker:image", Builder::Image),
    ("docker:node", Builder::Generated),
    ("exec:cargo", Builder::Cargo),
    ("exec:command", Builder::Command),
    ("exec:go", Builder::Go),
];

/// What a build gave.
struct Made {
    image: ImageRef,
    /// What it was built on, where that is known only afterwards.
    base_images: Vec<BaseImage>,
}

impl From<ImageRef> for Made {
    fn from(image: ImageRef) -> Self {
        Self { image, base_images: Vec::new() }
    }
}

/// What a build came to, and what is to be remembered of it.
#[derive(Debug)]
pub struct Told {
    /// What went in and what came of it.
    pub report: BuildReport,
    /// The image.
    pub image: Result<ImageRef, BuildError>,
}

/// Where a build's lines go, and what ends it early.
#[derive(Clone)]
struct Watch {
    progress: mpsc::Sender<String>,
    cancel: CancellationToken,
    log: Option<Arc<BuildLog>>,
}

impl Watch {
    /// Passes a line on. A build that prints faster than somebody reads waits; nobody reading is fine.
    async fn say(&self, line: impl Into<String>) {
        let line = line.into();
        if let Some(log) = &self.log {
            log.add(&line);
        }
        let _ = self.progress.send(line).await;
    }
}

/// How many builds go on at the same time when nobody says otherwise.
pub const PARALLEL: usize = 4;

/// Builds images and remembers them.
#[derive(Clone)]
pub struct Builders {
    objects: Objects,
    cache_dir: PathBuf,
    underway: Arc<Mutex<BTreeMap<String, Weak<Semaphore>>>>,
    /// Room for builds that go on.
    room: Arc<Semaphore>,
}

impl Builders {
    /// `cache_dir` is a directory of the coordinator's own; what is in it may be removed at any time.
    #[must_use]
    pub fn new(objects: Objects, cache_dir: &Path) -> Self {
        let cache_dir = cache_dir.to_owned();
        let room = Arc::new(Semaphore::new(PARALLEL));
        Self { objects, cache_dir, underway: Arc::default(), room }
    }

    /// Lets so many builds go on at the same time.
    #[must_use]
    pub fn with_parallel(self, builds: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(builds.max(1))), ..self }
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
        self.build_and_tell(request, &[], None, progress, cancel).await.image
    }

    /// Builds an image for some groups as [`Builders::build`] does, by a lock if there is one, and tells what went
    /// into it. What it prints is kept.
    pub async fn build_and_tell(
        &self,
        request: &BuildRequest,
        groups: &[String],
        wish: Option<&LockWish>,
        progress: mpsc::Sender<String>,
        cancel: CancellationToken,
    ) -> Told {
        let begin = Instant::now();
        let log = BuildLog::new().ok().map(Arc::new);
        let watch = Watch { progress, cancel, log: log.clone() };
        let mut report = report_of(request, groups);
        let image = self.image(request, wish, &watch, &mut report).await;
        let took = begin.elapsed().as_millis();
        report.took_ms = u64::try_from(took).unwrap_or(u64::MAX);
        match &image {
            Ok(image) => report.pins.image.clone_from(&image.digest),
            Err(error) => report.error = Chain(error).to_string(),
        }
        if let Some(log) = log.filter(|_| !report.cached && !report.pins.input.is_empty()) {
            let key = cache::log_key(&report.pins.input);
            // A log that is not kept costs nobody an image.
            if self.objects.put_file(&key, &log.path()).await.is_ok() {
                report.log = Some(key);
            }
        }
        Told { report, image }
    }

    async fn image(
        &self,
        request: &BuildRequest,
        wish: Option<&LockWish>,
        watch: &Watch,
        report: &mut BuildReport,
    ) -> Result<ImageRef, BuildError> {
        let builder = find(&request.builder)?;
        let lock = wish.map(|wish| &wish.lock);
        let (dependencies, sources) = dependencies::pin(request, lock).await?;
        let request = BuildRequest { dependencies, ..request.clone() };
        report.pins.sources = sources;
        let extra = match builder {
            Builder::Cargo => cargo::toolchain(&request).await?,
            Builder::Go => go::toolchain().await?,
            Builder::Generated => {
                report.pins.base_images = base::resolve(&request, lock, watch).await?;
                let digests = report.pins.base_images.iter().map(|image| image.digest.as_str());
                digests.collect::<Vec<_>>().join("\n")
            }
            Builder::Image => return self.ready_image(&request, wish, watch, report).await,
            Builder::Generic | Builder::Command => String::new(),
        };
        let key = cache::key(&request, &extra).await?;
        report.pins.input = format!("sha256:{key}");
        let locked = wish.filter(|wish| wish.exact).map(|wish| locked_pins(wish, &report.groups));
        let locked = locked.transpose()?.flatten();
        if let Some(locked) = &locked {
            same("the digest of the input", &report.pins.input, &locked.input)?;
        }
        let image = self.find_or_make(builder, &request, &key, watch, report).await?;
        if let Some(locked) = &locked {
            same("the digest of the image", &image.digest, &locked.image)?;
            let shown = |images: &[BaseImage]| format!("{images:?}");
            let found = &report.pins.base_images;
            same("what it is built on", &shown(found), &shown(&locked.base_images))?;
        }
        Ok(image)
    }

    async fn ready_image(
        &self,
        request: &BuildRequest,
        wish: Option<&LockWish>,
        watch: &Watch,
        report: &mut BuildReport,
    ) -> Result<ImageRef, BuildError> {
        let image = docker::image(self, request, watch).await?;
        report.pins.input.clone_from(&image.digest);
        if let Some(wish) = wish.filter(|wish| wish.exact)
            && let Some(locked) = locked_pins(wish, &report.groups)?
        {
            same("the digest of the image", &image.digest, &locked.image)?;
        }
        Ok(image)
    }

    /// The image in the cache, or a new one when it is this build's turn.
    async fn find_or_make(
        &self,
        builder: Builder,
        request: &BuildRequest,
        key: &str,
        watch: &Watch,
        report: &mut BuildReport,
    ) -> Result<ImageRef, BuildError> {
        let turn = self.turn(key);
        let _turn = until_canceled(turn.acquire(), watch).await?;
        if !request.no_cache
            && let Some(image) = cache::find(&self.objects, key).await?
        {
            watch.say(format!("{}: the image is in the cache", request.builder)).await;
            let known = cache::known(&self.objects, key).await?;
            report.cached = true;
            report.log = known.logged.then(|| cache::log_key(&report.pins.input));
            if report.pins.base_images.is_empty() {
                report.pins.base_images = known.base_images;
            }
            return Ok(image);
        }
        let _room = until_canceled(self.room.acquire(), watch).await?;
        let made = match builder {
            Builder::Generic => docker::generic(self, request, watch).await?,
            Builder::Generated => {
                let images = &report.pins.base_images;
                generated::build(self, request, images, watch).await?.into()
            }
            Builder::Cargo => cargo::build(self, request, watch).await?.into(),
            Builder::Go => go::build(self, request, watch).await?.into(),
            Builder::Command => command::build(self, request, watch).await?.into(),
            Builder::Image => unreachable!("answered above"),
        };
        if report.pins.base_images.is_empty() {
            report.pins.base_images = made.base_images;
        }
        cache::remember(&self.objects, key, &made.image).await?;
        let logged = watch.log.is_some();
        let known = cache::Known { base_images: report.pins.base_images.clone(), logged };
        cache::remember_more(&self.objects, key, &known).await?;
        Ok(made.image)
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

fn report_of(request: &BuildRequest, groups: &[String]) -> BuildReport {
    BuildReport {
        groups: groups.to_vec(),
        pins: Pins {
            builder: request.builder.clone(),
            input: String::new(),
            image: String::new(),
            sources: Vec::new(),
            base_images: Vec::new(),
        },
        cached: false,
        took_ms: 0,
        log: None,
        error: String::new(),
    }
}

/// What a lock says of a build; nothing when the build is for no group.
fn locked_pins<'a>(wish: &'a LockWish, groups: &[String]) -> Result<Option<&'a Pins>, BuildError> {
    let Some(group) = groups.first() else { return Ok(None) };
    wish.lock.groups.get(group).map(Some).ok_or_else(|| BuildError::Locked {
        what: "the composition",
        found: format!("one with a group `{group}`"),
        locked: "nothing about it".to_owned(),
    })
}

fn same(what: &'static str, found: &str, locked: &str) -> Result<(), BuildError> {
    if found == locked {
        return Ok(());
    }
    Err(BuildError::Locked { what, found: found.to_owned(), locked: locked.to_owned() })
}

/// Waits for a turn, or until the build is canceled.
async fn until_canceled<'a>(
    acquiring: impl Future<Output = Result<SemaphorePermit<'a>, AcquireError>>,
    watch: &Watch,
) -> Result<SemaphorePermit<'a>, BuildError> {
    tokio::select! {
        turn = acquiring => Ok(turn.expect("the semaphore is never closed")),
        () = watch.cancel.cancelled() => Err(BuildError::Canceled),
    }
}

/// One directory for each crate or module of each plan.
fn home_name(request: &BuildRequest, path: &Path) -> String {
    let name = digest(format!("{}\0{}", request.plan, path.display()).as_bytes());
    name[7..23].to_owned()
}

fn find(builder: &str) -> Result<Builder, BuildError> {
    let found = BUILDERS.iter().find(|known| known.0 == builder).map(|known| known.1);
    found.ok_or_else(|| {
        let known: Vec<_> = BUILDERS.iter().map(|known| format!("`{}`", known.0)).collect();
        BuildError::Unknown { builder: builder.to_owned(), known: known.join(", ") }
    })
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
    fn an_unknown_builder_is_told_with_those_there_are() {
        let refused = find("exec:rust").expect_err("unknown");
        assert!(
            refused.fault_of_plan() && refused.to_string().contains("`exec:cargo`"),
            "{refused}"
        );
        for (known, _) in BUILDERS {
            find(known).expect("it is known");
        }
    }
}
