//! `docker:generic` and `docker:image`: images of the Docker engine on the coordinator's host.
//!
//! | option of `docker:generic` | meaning | default |
//! |---|---|---|
//! | `path` | directory of the Dockerfile in the plan | the plan |
//! | `build_args` | build arguments; `PLAN_PATH` is added, and `SELECTORS` and `DEPENDENCIES` when there are any | none |
//!
//! The root of the build context holds `plan/`, `extra/<name>/` and, for each extra source directory, `<name>/`;
//! `sdk/` is always there. The build uses the host's network.
//!
//! `docker:image` has one option, `image`: an image that the engine has.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as Engine;
use bollard::query_parameters::{BuildImageOptions, TagImageOptions};
use bollard::{API_DEFAULT_VERSION, Docker, body_try_stream};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use groundswell_common::messages::{ImageKind, ImageRef};
use tokio_util::io::ReaderStream;

use super::process::LastLines;
use super::settings::Settings;
use super::tree::{self, Files};
use super::{BuildError, BuildRequest, Builders, Made, Watch, base, blocking, host, source};

/// How long one answer of the engine may take; a step of a build can be silent for long.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);
const COMPRESSION: i32 = 3;
/// How many parts of an image are read ahead of their compression.
const PARTS_AHEAD: usize = 16;
/// Label of every image that is built here, with the plan's name; `docker image prune --filter` finds them by it.
const LABEL: &str = "dev.groundswell.plan";
/// Repository of the images that are built here.
const REPOSITORY: &str = "groundswell-build";

/// What an engine is to build.
pub(super) struct Recipe {
    /// The build's context.
    pub(super) files: Files,
    /// The Dockerfile in it.
    pub(super) dockerfile: PathBuf,
    /// Build arguments.
    pub(super) arguments: BTreeMap<String, String>,
    /// The network of the build.
    pub(super) network: String,
    /// The last stage that is built; empty is all.
    pub(super) stage: String,
}

/// Builds the plan's Dockerfile.
pub(super) async fn generic(
    builders: &Builders,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<Made, BuildError> {
    let settings = Settings(request);
    let path = settings.path("path")?;
    let dockerfile = Path::new("plan").join(&path).join("Dockerfile");
    let Ok(text) = std::fs::read_to_string(request.source.join(&dockerfile)) else {
        let shown = dockerfile.strip_prefix("plan").unwrap_or(&dockerfile).display().to_string();
        return Err(settings.wrong("path", format!("there is no `{shown}` in the plan")));
    };
    let mut arguments = settings.table("build_args")?;
    arguments
        .entry("PLAN_PATH".to_owned())
        .or_insert_with(|| settings.text("path").ok().flatten().unwrap_or_else(|| "./".to_owned()));
    arguments.extend(settings.choices());
    let names = base::named_in(&text, &arguments);
    let source = request.source.clone();
    let files = blocking("read the plan's source", move || context(&source)).await?;
    let recipe =
        Recipe { files, dockerfile, arguments, network: "host".to_owned(), stage: String::new() };
    let docker = connect().await?;
    let id = build_image(&docker, request, recipe, watch).await?;
    let image = save_built(builders, &docker, &id, watch).await?;
    Ok(Made { image, base_images: base::look_up(&docker, names).await })
}

/// Builds an image and returns its id.
pub(super) async fn build_image(
    docker: &Docker,
    request: &BuildRequest,
    recipe: Recipe,
    watch: &Watch,
) -> Result<String, BuildError> {
    let options = BuildImageOptions {
        dockerfile: recipe.dockerfile.display().to_string(),
        buildargs: Some(recipe.arguments.into_iter().collect()),
        labels: Some(HashMap::from([(LABEL.to_owned(), request.plan.clone())])),
        networkmode: Some(recipe.network),
        nocache: request.no_cache,
        target: recipe.stage,
        rm: true,
        forcerm: true,
        ..Default::default()
    };
    tokio::select! {
        id = build(docker, options, recipe.files, request, watch) => id,
        // The engine ends a build whose client is gone.
        () = watch.cancel.cancelled() => Err(BuildError::Canceled),
    }
}

/// Names a built image and stores it.
pub(super) async fn save_built(
    builders: &Builders,
    docker: &Docker,
    id: &str,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let short = id.trim_start_matches("sha256:").get(..12).unwrap_or(id);
    tag(docker, id, REPOSITORY, short).await?;
    save(builders, docker, id, watch).await
}

/// Stores an image that the engine has.
pub(super) async fn image(
    builders: &Builders,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let settings = Settings(request);
    let name = settings
        .text("image")?
        .ok_or_else(|| settings.wrong("image", "it names an image of the engine".to_owned()))?;
    watch.say(format!("docker:image: saving `{name}`")).await;
    save_named(builders, &name).await
}

/// Stores an image of the engine by its name.
pub(super) async fn save_named(builders: &Builders, name: &str) -> Result<ImageRef, BuildError> {
    let missing = |reason: String| BuildError::Artifact { artifact: name.to_owned(), reason };
    let docker = connect().await.map_err(|error| {
        let cause = groundswell_common::chain::Chain(&error).to_string();
        missing(format!("no image in the object store has this digest, and {cause}"))
    })?;
    let found = docker.inspect_image(name).await.map_err(|_| {
        missing(
            "no image in the object store has this digest, and the local Docker engine has no \
             such image"
                .to_owned(),
        )
    })?;
    let id = found.id.ok_or_else(|| missing("the engine tells no id of it".to_owned()))?;
    let (progress, _) = tokio::sync::mpsc::channel(1);
    let quiet = Watch { progress, cancel: tokio_util::sync::CancellationToken::new(), log: None };
    // The same image gives the same archive, so its id is a key.
    let key = id.replace(':', "-");
    if let Some(image) = super::cache::find(&builders.objects, &key).await? {
        return Ok(image);
    }
    let image = save(builders, &docker, &id, &quiet).await?;
    super::cache::remember(&builders.objects, &key, &image).await?;
    Ok(image)
}

/// Connects to the engine of this host.
pub(super) async fn connect() -> Result<Docker, BuildError> {
    let socket = std::env::var("DOCKER_HOST")
        .ok()
        .and_then(|host| host.strip_prefix("unix://").map(str::to_owned))
        .unwrap_or_else(|| "/var/run/docker.sock".to_owned());
    let doing = format!(
        "reach the Docker engine on `{socket}`, which this builder needs; \
         install and start Docker on the coordinator's host"
    );
    let docker = Docker::connect_with_unix(&socket, TIMEOUT.as_secs(), API_DEFAULT_VERSION)
        .map_err(host(&doing))?;
    docker.negotiate_version().await.map_err(host(&doing))
}

/// Builds and returns the image's id.
async fn build(
    docker: &Docker,
    options: BuildImageOptions,
    files: Files,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<String, BuildError> {
    let context = blocking("pack the build context", move || packed(&files)).await?;
    let context = tokio::fs::File::from_std(context);
    let body = body_try_stream(ReaderStream::with_capacity(context, 1 << 18));
    let mut steps = docker.build_image(options, None, Some(body));
    let (mut last, mut id) = (LastLines::default(), None);
    while let Some(step) = steps.next().await {
        let step = match step {
            Ok(step) => step,
            Err(error) => return Err(not_built(request, error, last)),
        };
        id = step.aux.and_then(|aux| aux.id).or(id);
        for line in step.stream.iter().flat_map(|text| text.lines()) {
            if !line.trim().is_empty() {
                last.push(line);
                watch.say(line).await;
            }
        }
    }
    id.ok_or_else(|| BuildError::Failed {
        builder: request.builder.clone(),
        reason: "the engine has built no image".to_owned(),
        last_lines: last.into_vec(),
    })
}

/// A failed step and a wrong Dockerfile are the plan's fault; an engine that does not answer is not.
fn not_built(request: &BuildRequest, error: Engine, last: LastLines) -> BuildError {
    let reason = if let Engine::DockerStreamError { error } = error {
        error
    } else if let Engine::DockerResponseServerError { status_code: 400, message } = error {
        message
    } else {
        return host("build an image with the Docker engine")(error);
    };
    let builder = request.builder.clone();
    BuildError::Failed { builder, reason, last_lines: last.into_vec() }
}

/// The build context of plans that bring their Dockerfile, and of `docker:go` and `docker:node`: Testground's.
pub(super) fn context(source: &Path) -> std::io::Result<Files> {
    let mut files = Files::new();
    let extra = source.join("extra");
    if extra.is_dir() {
        tree::gather(&mut files, Path::new("extra"), &extra, |_| false)?;
        for entry in std::fs::read_dir(&extra)? {
            let name = PathBuf::from(entry?.file_name());
            tree::gather(&mut files, &name, &extra.join(&name), |_| false)?;
        }
    }
    tree::add_directory(&mut files, Path::new("sdk"));
    tree::gather(&mut files, Path::new("plan"), &source.join("plan"), tree::left_out)?;
    Ok(files)
}

/// Packs the build context into a file without a name.
fn packed(files: &Files) -> std::io::Result<std::fs::File> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    source::append(&mut archive, files)?;
    let mut file = archive.into_inner()?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Gives an image a name, so that the engine keeps it and with it the cache of the next build.
pub(super) async fn tag(
    docker: &Docker,
    id: &str,
    repository: &str,
    tag: &str,
) -> Result<(), BuildError> {
    let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
    docker.tag_image(id, Some(options)).await.map_err(host("name the built image"))
}

/// Saves an image by its id, so that the archive names nothing that loading it would overwrite.
async fn save(
    builders: &Builders,
    docker: &Docker,
    id: &str,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let blob = tempfile::NamedTempFile::new().map_err(host("create a file for the image"))?;
    tokio::select! {
        written = compress(docker.export_image(id), blob.path()) => written?,
        () = watch.cancel.cancelled() => return Err(BuildError::Canceled),
    }
    builders.store(ImageKind::Docker, blob.path()).await
}

async fn compress(
    parts: impl Stream<Item = Result<Bytes, Engine>>,
    to: &Path,
) -> Result<(), BuildError> {
    const DOING: &str = "save the built image";
    let file = std::fs::File::create(to).map_err(host(DOING))?;
    let (sender, mut received) = tokio::sync::mpsc::channel::<Bytes>(PARTS_AHEAD);
    let compressing = blocking(DOING, move || {
        let mut encoder = zstd::Encoder::new(file, COMPRESSION)?;
        while let Some(part) = received.blocking_recv() {
            encoder.write_all(&part)?;
        }
        encoder.finish()?.flush()
    });
    let reading = async {
        let mut parts = std::pin::pin!(parts);
        while let Some(part) = parts.next().await {
            // The other side stops early only with an error of its own, which is told below.
            if sender.send(part.map_err(host(DOING))?).await.is_err() {
                break;
            }
        }
        drop(sender);
        Ok::<(), BuildError>(())
    };
    let (read, compressed) = tokio::join!(reading, compressing);
    read.and(compressed)
}
