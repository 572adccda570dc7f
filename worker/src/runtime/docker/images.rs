//! Makes images ready on this host.
//!
//! A Docker image is loaded into the engine under a name that holds its digest. A bundle is unpacked once and
//! mounted read-only at `/plan`, as the `netns` runtime does. As it brings no file system of its own, it runs in
//! an image with nothing but empty directories, into which the host's programs and libraries are mounted
//! read-only: an `exec:cargo` binary finds the C library it was linked with, a script finds its interpreter.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as Engine;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateImageOptions, ImportImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions,
};
use bollard::{Docker, body_full, body_try_stream};
use futures::{StreamExt as _, TryStreamExt as _};
use groundswell_common::messages::{ImageKind, ImageRef};
use tokio::sync::Semaphore;
use tokio_util::io::{ReaderStream, SyncIoBridge};

use super::body::Ready;
use super::host_error;
use crate::keep::disk::remove_at_once;
use crate::runtime::{RuntimeError, StoredImage, StoredSize};

/// Directories of the host a bundle sees, when the host has them.
const HOST_DIRECTORIES: [&str; 14] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr",
    "/opt",
    "/etc/alternatives",
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
];
/// The image bundles run in, and the directories it holds with their modes.
const BARE_IMAGE: &str = "groundswell/bare";
const BARE_TAG: &str = "1";
const BARE_DIRECTORIES: [(&str, u32); 6] = [
    ("etc/", 0o755),
    ("outputs/", 0o777),
    ("plan/", 0o755),
    ("root/", 0o700),
    ("temp/", 0o777),
    ("tmp/", 0o1777),
];
/// How long loading a large image may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Size of the buffer between decompression and engine.
const LOAD_BUFFER: usize = 1 << 20;

/// The images of this host.
pub(super) struct Images {
    docker: Docker,
    bundles: PathBuf,
    /// One fetch at a time, so that two runs that want the same image load it once.
    fetching: Semaphore,
}

impl Images {
    pub(super) fn new(docker: Docker, state: &Path) -> Self {
        Self { docker, bundles: state.join("bundles"), fetching: Semaphore::new(1) }
    }

    /// Loads or unpacks an image, once.
    pub(super) async fn fetch(&self, image: &ImageRef, blob: &Path) -> Result<(), RuntimeError> {
        let _permit = self.fetching.acquire().await.expect("the semaphore is never closed");
        if self.has(image).await {
            return Ok(());
        }
        match image.kind {
            ImageKind::Docker => self.load(image, blob).await,
            ImageKind::Bundle => {
                self.make_bare_image().await?;
                let (blob, directory) = (blob.to_owned(), self.bundle(image));
                tokio::task::spawn_blocking(move || unpack(&blob, &directory))
                    .await
                    .map_err(io::Error::other)
                    .flatten()
                    .map_err(|error| unreadable(image, &error))
            }
        }
    }

    /// Whether it has been fetched.
    pub(super) async fn has(&self, image: &ImageRef) -> bool {
        match image.kind {
            ImageKind::Docker => self.docker.inspect_image(&reference(image)).await.is_ok(),
            ImageKind::Bundle => {
                self.bundle(image).is_dir()
                    && self.docker.inspect_image(&bare_reference()).await.is_ok()
            }
        }
    }

    /// What a container of it is made from.
    pub(super) async fn ready(&self, image: &ImageRef) -> Result<Ready, RuntimeError> {
        match image.kind {
            ImageKind::Docker => {
                let reference = reference(image);
                let found =
                    self.docker.inspect_image(&reference).await.map_err(|source| {
                        host_error(format!("inspect image `{reference}`"), source)
                    })?;
                let command = match image.command.as_slice() {
                    [] => own_command(found),
                    command => command.to_vec(),
                };
                let workdir = image.workdir.clone();
                Ok(Ready { reference, command, workdir, binds: Vec::new(), bare: false })
            }
            ImageKind::Bundle => self.ready_bundle(image),
        }
    }

    fn ready_bundle(&self, image: &ImageRef) -> Result<Ready, RuntimeError> {
        let bundle = fs::canonicalize(self.bundle(image))
            .map_err(|source| host_error(format!("use bundle `{}`", image.digest), source))?;
        let mut binds = vec![format!("{}:/plan:ro", bundle.display())];
        let there = HOST_DIRECTORIES.iter().filter(|directory| Path::new(directory).exists());
        binds.extend(there.map(|directory| format!("{directory}:{directory}:ro")));
        let workdir = match image.workdir.as_str() {
            "" => "/plan",
            workdir => workdir,
        };
        Ok(Ready {
            reference: bare_reference(),
            command: under_plan(&image.command),
            workdir: workdir.to_owned(),
            binds,
            bare: true,
        })
    }

    /// The bundles that are unpacked here, and the images in the engine that bear this runtime's names.
    pub(super) async fn list(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        let entries = fs::read_dir(&self.bundles).into_iter().flatten().flatten();
        let mut images: Vec<StoredImage> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let hex = name.strip_prefix("sha256-")?;
                let size = StoredSize::Directory(entry.path());
                Some(StoredImage { digest: format!("sha256:{hex}"), size })
            })
            .collect();
        let ours = HashMap::from([("reference".to_owned(), vec!["groundswell/*".to_owned()])]);
        let options = ListImagesOptions { filters: Some(ours), ..Default::default() };
        let found = self.docker.list_images(Some(options)).await;
        let found = found.map_err(|source| host_error("list images".to_owned(), source))?;
        for image in found {
            let digests = image.repo_tags.iter().filter_map(|tag| digest_of(tag));
            let size = StoredSize::Shared(u64::try_from(image.size).unwrap_or(0));
            images.extend(digests.map(|digest| StoredImage { digest, size: size.clone() }));
        }
        Ok(images)
    }

    /// Removes a bundle, or takes an image's name away in the engine, which removes it unless it has another one.
    pub(super) async fn forget(&self, digest: &str) -> Result<(), RuntimeError> {
        let bundle = self.bundle_of(digest);
        let aside = self.bundles.join(format!("part-{}", digest.replace(':', "-")));
        let removed = tokio::task::spawn_blocking(move || remove_at_once(&bundle, &aside)).await;
        removed
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| host_error(format!("remove bundle `{digest}`"), source))?;
        let reference = reference_of(digest);
        match self.docker.remove_image(&reference, None::<RemoveImageOptions>, None).await {
            Ok(_) | Err(Engine::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(source) => Err(host_error(format!("remove image `{reference}`"), source)),
        }
    }

    fn bundle(&self, image: &ImageRef) -> PathBuf {
        self.bundle_of(&image.digest)
    }

    fn bundle_of(&self, digest: &str) -> PathBuf {
        self.bundles.join(digest.replace(':', "-"))
    }

    async fn load(&self, image: &ImageRef, blob: &Path) -> Result<(), RuntimeError> {
        let file = File::open(blob)
            .map_err(|source| host_error(format!("read `{}`", blob.display()), source))?;
        let (writer, reader) = tokio::io::duplex(LOAD_BUFFER);
        let mut writer = SyncIoBridge::new(writer);
        let decompressing =
            tokio::task::spawn_blocking(move || zstd::stream::copy_decode(file, &mut writer));
        let body = body_try_stream(ReaderStream::with_capacity(reader, LOAD_BUFFER));
        let options = ImportImageOptions { quiet: true, ..Default::default() };
        let docker = self.docker.clone().with_timeout(LOAD_TIMEOUT);
        let said: Result<Vec<_>, Engine> =
            docker.import_image(options, body, None).try_collect().await;
        // A damaged archive ends the engine's reading early too, so what is wrong with it is told first.
        let decompressed = decompressing.await.map_err(io::Error::other).flatten();
        let said = match (said, decompressed) {
            (Ok(said), Ok(())) => said,
            (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(unreadable(image, &error));
            }
            (Err(error), _) => return Err(unreadable(image, &error)),
            (Ok(said), Err(_)) => said,
        };
        let lines: String = said.into_iter().filter_map(|info| info.stream).collect();
        let loaded = loaded(&lines).ok_or_else(|| {
            RuntimeError::Plan(format!("image `{}` holds nothing to load: {lines}", image.digest))
        })?;
        self.tag(&loaded, image).await
    }

    async fn tag(&self, loaded: &str, image: &ImageRef) -> Result<(), RuntimeError> {
        let (repo, tag) = name(&image.digest);
        let options = TagImageOptions { repo: Some(repo), tag: Some(tag) };
        self.docker
            .tag_image(loaded, Some(options))
            .await
            .map_err(|source| host_error(format!("tag image `{loaded}`"), source))
    }

    async fn make_bare_image(&self) -> Result<(), RuntimeError> {
        if self.docker.inspect_image(&bare_reference()).await.is_ok() {
            return Ok(());
        }
        let doing = || format!("create image `{BARE_IMAGE}`");
        let archive = bare_archive().map_err(|source| host_error(doing(), source))?;
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(BARE_IMAGE.to_owned()),
            tag: Some(BARE_TAG.to_owned()),
            ..Default::default()
        };
        let mut steps =
            self.docker.create_image(Some(options), Some(body_full(archive.into())), None);
        while let Some(step) = steps.next().await {
            step.map_err(|source| host_error(doing(), source))?;
        }
        Ok(())
    }
}

/// Repository and tag of a fetched image. The tag is the whole digest, the repository is for reading.
fn name(digest: &str) -> (String, String) {
    let hex = digest.trim_start_matches("sha256:");
    (format!("groundswell/{}", hex.get(..12).unwrap_or(hex)), hex.to_owned())
}

fn reference(image: &ImageRef) -> String {
    reference_of(&image.digest)
}

fn reference_of(digest: &str) -> String {
    let (repo, tag) = name(digest);
    format!("{repo}:{tag}")
}

/// The digest of an image whose name in the engine this runtime has given.
fn digest_of(tag: &str) -> Option<String> {
    let digest = format!("sha256:{}", tag.rsplit_once(':')?.1);
    (reference_of(&digest) == tag && digest.len() == "sha256:".len() + 64).then_some(digest)
}

fn bare_reference() -> String {
    format!("{BARE_IMAGE}:{BARE_TAG}")
}

fn own_command(image: ImageInspect) -> Vec<String> {
    let config = image.config.unwrap_or_default();
    let mut command = config.entrypoint.unwrap_or_default();
    command.extend(config.cmd.unwrap_or_default());
    command
}

/// A bundle's relative first word is a path under `/plan`.
fn under_plan(command: &[String]) -> Vec<String> {
    let mut command = command.to_vec();
    if let Some(first) = command.first_mut()
        && !first.starts_with('/')
    {
        *first = format!("/plan/{first}");
    }
    command
}

/// What the engine calls the image it has loaded.
fn loaded(lines: &str) -> Option<String> {
    lines.lines().find_map(|line| {
        let name = line
            .strip_prefix("Loaded image ID: ")
            .or_else(|| line.strip_prefix("Loaded image: "))?;
        Some(name.trim().to_owned())
    })
}

/// Unpacks a bundle beside its place and moves it there when it is complete.
fn unpack(blob: &Path, directory: &Path) -> io::Result<()> {
    let bundles = directory.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(bundles)?;
    let part = tempfile::Builder::new().prefix("part-").tempdir_in(bundles)?;
    let root = part.path().join("plan");
    fs::create_dir(&root)?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(blob)?)?);
    archive.set_preserve_permissions(true);
    archive.unpack(&root)?;
    fs::rename(&root, directory)
}

fn bare_archive() -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in BARE_DIRECTORIES {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        archive.append_data(&mut header, path, io::empty())?;
    }
    archive.into_inner()
}

fn unreadable(image: &ImageRef, error: &dyn std::error::Error) -> RuntimeError {
    let cause = groundswell_common::chain::Chain(error);
    RuntimeError::Plan(format!("image `{}` cannot be read: {cause}", image.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_names_what_it_has_loaded_in_either_way() {
        assert_eq!(loaded("Loaded image ID: sha256:ab\n").as_deref(), Some("sha256:ab"));
        assert_eq!(loaded("Loaded image: a:latest\n").as_deref(), Some("a:latest"));
        assert_eq!(loaded(""), None);
    }

    #[test]
    fn only_a_name_that_was_given_here_is_a_digest() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(digest_of(&reference_of(&digest)), Some(digest));
        for other in ["groundswell/bare:1", "groundswell/abc:latest", "groundswell/ab:ab", "a"] {
            assert_eq!(digest_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_first_word_of_a_bundle_is_looked_up_under_plan() {
        let command =
            |words: &[&str]| under_plan(&words.iter().map(|&w| w.into()).collect::<Vec<_>>());
        assert_eq!(command(&["run.sh", "arg"]), ["/plan/run.sh", "arg"]);
        assert_eq!(command(&["/bin/sh", "run.sh"]), ["/bin/sh", "run.sh"]);
    }
}
