//! Unpacked images, one directory per digest, made in one step so that a half one is never seen.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};

use groundswell_common::messages::{ImageKind, ImageRef};
use serde::Deserialize;
use tar::{Archive, EntryType};

use super::host;
use super::root::prepare_image;
use crate::keep::disk::remove_at_once;
use crate::runtime::{RuntimeError, StoredImage, StoredSize};

/// Marks a file of a lower layer as removed.
const WHITEOUT: &str = ".wh.";
/// Marks a directory of a lower layer as emptied.
const OPAQUE: &str = ".wh..wh..opq";
/// Symbolic links followed in one path before it counts as a loop, as the kernel does.
const MAX_LINKS: u32 = 40;
/// Begins the name of a directory that is being unpacked.
const UNFINISHED: &str = ".unfinished-";

/// Begins the name of a directory with an image of a kind.
const KINDS: [&str; 2] = ["bundle", "docker"];

/// The images of this host.
#[derive(Debug, Clone)]
pub(super) struct Images {
    directory: PathBuf,
}

/// What a Docker image says about its process.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    pub(super) working_dir: String,
    pub(super) user: String,
}

impl Config {
    pub(super) fn env(&self) -> BTreeMap<&str, &str> {
        self.env.iter().flatten().filter_map(|entry| entry.split_once('=')).collect()
    }

    pub(super) fn command(self: &Config) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).flatten().cloned().collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct SavedConfig {
    #[serde(default)]
    config: Config,
}

impl Images {
    pub(super) fn open(state_dir: &Path) -> Result<Self, RuntimeError> {
        let directory = state_dir.join("images");
        fs::create_dir_all(&directory)
            .map_err(|err| host(&format!("create `{}`", directory.display()), err))?;
        Ok(Self { directory })
    }

    /// Where the files of an image are, or will be.
    pub(super) fn directory(&self, image: &ImageRef) -> Result<PathBuf, RuntimeError> {
        Ok(self.home(image)?.join("root"))
    }

    /// What a Docker image says about its process.
    pub(super) fn config(&self, image: &ImageRef) -> Result<Config, RuntimeError> {
        let path = self.home(image)?.join("config.json");
        let bytes =
            fs::read(&path).map_err(|err| host(&format!("read `{}`", path.display()), err))?;
        let saved: SavedConfig = serde_json::from_slice(&bytes).map_err(|err| {
            RuntimeError::Plan(format!("the image's configuration is unreadable: {err}"))
        })?;
        Ok(saved.config)
    }

    /// Unpacks an image, once.
    pub(super) fn unpack(&self, image: &ImageRef, blob: &Path) -> Result<(), RuntimeError> {
        let home = self.home(image)?;
        if home.exists() {
            return Ok(());
        }
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.directory)
            .map_err(|err| host("make a directory for the image", err))?;
        let unpacked = match image.kind {
            ImageKind::Bundle => unpack_bundle(blob, &unfinished.path().join("root")),
            ImageKind::Docker => unpack_docker(blob, unfinished.path()),
        };
        unpacked.map_err(|err| {
            use io::ErrorKind::{PermissionDenied, StorageFull};
            if matches!(err.kind(), StorageFull | PermissionDenied) {
                return host("unpack the image", err);
            }
            RuntimeError::Plan(format!("the image `{}` cannot be unpacked: {err}", image.digest))
        })?;
        open_to_all(unfinished.path()).map_err(|err| host("open the image to its users", err))?;
        match fs::rename(unfinished.path(), &home) {
            // Another has been faster, with the same content.
            Err(_) if home.exists() => Ok(()),
            renamed => renamed.map_err(|err| host("put the image in its place", err)),
        }
    }

    /// Removes what an earlier life was unpacking when it ended.
    pub(super) fn sweep(&self) -> Vec<RuntimeError> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let unfinished =
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
        unfinished
            .filter_map(|entry| fs::remove_dir_all(entry.path()).err())
            .map(|err| host("remove a half unpacked image", err))
            .collect()
    }

    /// The images that are here, whole.
    pub(super) fn list(&self) -> Vec<StoredImage> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let hex =
                    KINDS.iter().find_map(|kind| name.strip_prefix(kind)?.strip_prefix('-'))?;
                let size = StoredSize::Directory(entry.path());
                Some(StoredImage { digest: format!("sha256:{hex}"), size })
            })
            .collect()
    }

    /// Removes an image.
    pub(super) fn forget(&self, digest: &str) -> io::Result<()> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        KINDS.iter().try_for_each(|kind| {
            let name = format!("{kind}-{hex}");
            let aside = self.directory.join(format!("{UNFINISHED}{name}"));
            remove_at_once(&self.directory.join(name), &aside)
        })
    }

    fn home(&self, image: &ImageRef) -> Result<PathBuf, RuntimeError> {
        let hex = image.digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(RuntimeError::Plan(format!(
                "`{}` is not the digest of an image",
                image.digest
            )));
        }
        let kind = match image.kind {
            ImageKind::Bundle => KINDS[0],
            ImageKind::Docker => KINDS[1],
        };
        Ok(self.directory.join(format!("{kind}-{hex}")))
    }
}

fn unpack_bundle(blob: &Path, root: &Path) -> io::Result<()> {
    fs::create_dir(root)?;
    let mut archive = Archive::new(zstd::Decoder::new(File::open(blob)?)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        // `unpack_in` skips names that climb and refuses those that reach outside through a link.
        if !entry.unpack_in(root)? {
            return Err(outside(&path));
        }
    }
    open_to_all(root)
}

fn unpack_docker(blob: &Path, home: &Path) -> io::Result<()> {
    let saved = home.join("saved");
    unpack_bundle(blob, &saved)?;
    let images: Vec<SavedImage> = serde_json::from_slice(&fs::read(saved.join("manifest.json"))?)?;
    let [image] = images.as_slice() else {
        return Err(io::Error::other(format!("it holds {} images and not one", images.len())));
    };
    fs::copy(within(&saved, Path::new(&image.config))?, home.join("config.json"))?;
    let root = home.join("root");
    fs::create_dir(&root)?;
    for layer in &image.layers {
        apply_layer(&within(&saved, Path::new(layer))?, &root)?;
    }
    prepare_image(&root)?;
    fs::remove_dir_all(saved)
}

fn apply_layer(layer: &Path, root: &Path) -> io::Result<()> {
    let mut file = File::open(layer)?;
    let mut magic = [0; 2];
    let read = file.read(&mut magic)?;
    file.rewind()?;
    let bytes: Box<dyn Read> = match magic[..read] {
        [0x1f, 0x8b] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(io::BufReader::new(file)),
    };
    let mut archive = Archive::new(bytes);
    let is_root = nix::unistd::geteuid().is_root();
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(is_root);
    for entry in archive.entries()? {
        apply_entry(&mut entry?, root)?;
    }
    Ok(())
}

fn apply_entry(entry: &mut tar::Entry<'_, impl Read>, root: &Path) -> io::Result<()> {
    let path = entry.path()?.into_owned();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    let parent = within(root, path.parent().unwrap_or(Path::new("")))?;
    fs::create_dir_all(&parent)?;
    if name == OPAQUE {
        return fs::read_dir(&parent)?.try_for_each(|entry| remove_any(&entry?.path()));
    }
    if let Some(removed) = name.strip_prefix(WHITEOUT) {
        if matches!(removed, "" | "." | "..") {
            return Err(outside(&path));
        }
        return remove_any(&parent.join(removed));
    }
    let target = parent.join(name);
    let kind = entry.header().entry_type();
    if kind != EntryType::Directory
        || !fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_dir())
    {
        remove_any(&target)?;
    }
    if kind == EntryType::Link {
        let link = entry.link_name()?.unwrap_or_default().into_owned();
        return fs::hard_link(within(root, &link)?, target);
    }
    if matches!(kind, EntryType::Char | EntryType::Block) {
        // Devices are not for instances, which have a `/dev` of their own.
        return Ok(());
    }
    entry.unpack(&target).map(drop)
}

/// Resolves a path in a root as a process whose root it is would, except that the last part may be a link.
fn within(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    let mut left: Vec<_> =
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut links = 0;
    while let Some(part) = left.pop() {
        let part = PathBuf::from(part);
        match part.components().next() {
            None | Some(Component::CurDir) => continue,
            Some(Component::RootDir | Component::Prefix(_)) => {
                resolved = PathBuf::new();
                continue;
            }
            // The parent of the root is the root.
            Some(Component::ParentDir) => {
                resolved.pop();
                continue;
            }
            Some(Component::Normal(name)) => resolved.push(name),
        }
        let Ok(target) = fs::read_link(root.join(&resolved)) else { continue };
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::other(format!("`{}` is a loop of links", path.display())));
        }
        resolved.pop();
        left.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
    }
    Ok(root.join(resolved))
}

/// Lets every user enter a directory, whatever the mask of this process.
fn open_to_all(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

fn remove_any(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn outside(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("`{}` is outside of the image", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(kind: ImageKind, digit: &str) -> ImageRef {
        ImageRef {
            kind,
            digest: format!("sha256:{}", digit.repeat(64)),
            size: 0,
            command: Vec::new(),
            workdir: String::new(),
            env: BTreeMap::new(),
        }
    }

    struct Entry(&'static str, EntryType, &'static str);

    /// A tar with names as they are given, however wrong.
    fn archive(entries: &[Entry]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for Entry(name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            let linked = matches!(kind, EntryType::Link | EntryType::Symlink);
            if linked {
                header.set_link_name(content).unwrap();
            }
            let content = if linked { "" } else { content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn store(dir: &Path, tar: &[u8]) -> PathBuf {
        let path = dir.join("blob");
        fs::write(&path, zstd::encode_all(tar, 1).unwrap()).unwrap();
        path
    }

    #[test]
    fn a_bundle_is_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        let bundle = image(ImageKind::Bundle, "a");
        let blob = store(dir.path(), &archive(&[Entry("bin/plan", EntryType::Regular, "x")]));
        images.unpack(&bundle, &blob).unwrap();
        assert!(images.directory(&bundle).unwrap().join("bin/plan").exists());
        fs::remove_file(&blob).unwrap();
        images.unpack(&bundle, &blob).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 1);
        assert_eq!(
            images.list().iter().map(|one| &one.digest).collect::<Vec<_>>(),
            [&bundle.digest]
        );
        images.forget(&bundle.digest).unwrap();
        images.forget(&bundle.digest).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_leaves_the_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("state")).unwrap();
        let bundle = image(ImageKind::Bundle, "a");
        let climbing = [Entry("../../../escaped", EntryType::Regular, "x")];
        let linked = [
            Entry("out", EntryType::Symlink, "/tmp"),
            Entry("out/groundswell-escaped", EntryType::Regular, "x"),
        ];
        for entries in [&climbing[..], &linked[..]] {
            let refused = images.unpack(&bundle, &store(dir.path(), &archive(entries)));
            assert!(matches!(refused, Err(RuntimeError::Plan(_))), "{refused:?}");
        }
        assert!(!dir.path().join("escaped").exists());
        assert!(!Path::new("/tmp/groundswell-escaped").exists());
        assert_eq!(fs::read_dir(dir.path().join("state/images")).unwrap().count(), 0);
    }

    #[test]
    fn a_digest_is_never_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        let mut bundle = image(ImageKind::Bundle, "a");
        bundle.digest = "sha256:../../etc".to_owned();
        assert!(matches!(images.directory(&bundle), Err(RuntimeError::Plan(_))));
    }

    #[test]
    fn the_layers_of_a_docker_image_are_laid_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        let lower = archive(&[
            Entry("run", EntryType::Directory, ""),
            Entry("var/run", EntryType::Symlink, "/run"),
            Entry("a", EntryType::Regular, "lower"),
            Entry("b/one", EntryType::Regular, "1"),
            Entry("c/one", EntryType::Regular, "1"),
        ]);
        let upper = archive(&[
            Entry(".wh.a", EntryType::Regular, ""),
            Entry("b/.wh..wh..opq", EntryType::Regular, ""),
            Entry("b/two", EntryType::Regular, "2"),
            Entry("hard", EntryType::Link, "c/one"),
            Entry("var/run/file", EntryType::Regular, "through the link"),
        ]);
        let config =
            r#"{"config":{"Entrypoint":["/a"],"Cmd":["b"],"Env":["X=1"],"WorkingDir":"/b"}}"#;
        let manifest = r#"[{"Config":"config","Layers":["lower","upper"]}]"#;
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        write("lower", &lower);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &upper).unwrap();
        write("upper", &gzip.finish().unwrap());
        write("config", config.as_bytes());
        write("manifest.json", manifest.as_bytes());
        let mut saved = tar::Builder::new(Vec::new());
        for name in ["lower", "upper", "config", "manifest.json"] {
            saved.append_path_with_name(dir.path().join(name), name).unwrap();
        }
        let docker = image(ImageKind::Docker, "d");
        images.unpack(&docker, &store(dir.path(), &saved.into_inner().unwrap())).unwrap();
        let root = images.directory(&docker).unwrap();
        assert!(!root.join("a").exists() && !root.join("b/one").exists());
        assert!(root.join("b/two").exists() && root.join("hard").exists());
        assert_eq!(fs::read_to_string(root.join("run/file")).unwrap(), "through the link");
        assert!(root.join("etc/hosts").exists() && root.join("outputs").is_dir());
        let config = images.config(&docker).unwrap();
        assert_eq!(config.command(), ["/a", "b"]);
        assert_eq!(config.env()["X"], "1");
    }
}
