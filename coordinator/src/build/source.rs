//! A plan's source: packed on the client, unpacked by the coordinator.
//!
//! The blob is a zstd-compressed tar with `plan/`, for each extra source directory `extra/<name>/`, and what lies
//! around the plan (see `layout`). The same files give the same bytes, whoever packs them: entries are sorted,
//! times and owners are zero.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use groundswell_common::objects::{Objects, ObjectsError, blob_key, digest};
use ignore::{DirEntry, WalkBuilder};
use serde::{Deserialize, Serialize};

use super::cargo::around::Around;
use super::layout;
use super::tree::{self, Content, Files};

/// File in a plan that says, in gitignore syntax, what is not uploaded.
pub const IGNORE_FILE: &str = ".testgroundignore";

const COMPRESSION: i32 = 3;

/// Why a plan's source cannot be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file of it.
    #[error("failed to {verb} the source of the plan in `{path}`")]
    File {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.display().to_string();
    move |source| SourceError::File { verb, path, source }
}

/// What a plan is built from, as the user has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The plan's directory.
    pub plan: PathBuf,
    /// Extra source directories, with the names they get.
    pub extra: Vec<(String, PathBuf)>,
    /// What its crates need from outside of it.
    pub around: Option<Around>,
}

impl Sources {
    /// All files, by their path in the archive.
    fn files(&self) -> io::Result<Files> {
        let mut files = Files::new();
        add_uploaded(&mut files, Path::new("plan"), &self.plan)?;
        for (name, directory) in &self.extra {
            add_uploaded(&mut files, &Path::new("extra").join(name), directory)?;
        }
        if let Some(around) = &self.around {
            tree::add_directory(&mut files, Path::new("around"));
            for (path, content) in &around.files {
                files.insert(Path::new("around").join(path), content.clone());
            }
            let layout = serde_json::to_string(&around.layout)?;
            files.insert(layout::FILE.into(), Content::Text(layout));
        }
        Ok(files)
    }
}

fn add_uploaded(files: &mut Files, prefix: &Path, root: &Path) -> io::Result<()> {
    tree::add_directory(files, prefix);
    for entry in uploaded(root) {
        let entry = entry.map_err(io::Error::other)?;
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        if !relative.as_os_str().is_empty() {
            files.insert(prefix.join(relative), Content::Copy(entry.path().to_owned()));
        }
    }
    Ok(())
}

/// Stores a plan's source and returns the digest of its blob. A plan that has not changed since the last
/// time is not packed again; `cache_dir` remembers.
///
/// # Errors
/// When a file cannot be read or the store refuses it.
pub async fn store(
    sources: &Sources,
    objects: &Objects,
    cache_dir: &Path,
) -> Result<String, SourceError> {
    let plan_dir = &sources.plan;
    let name = digest(plan_dir.as_os_str().as_encoded_bytes());
    let note = cache_dir.join("sources").join(format!("{}.json", &name[7..39]));
    let owned = sources.clone();
    let (files, stamp) = run(plan_dir, "read", move || {
        let files = owned.files()?;
        let stamp = stamp(&files)?;
        Ok((files, stamp))
    })
    .await?;
    let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    if let Some(known) = known
        && known.stamp == stamp
        && objects.contains(&blob_key(&known.digest)).await?
    {
        return Ok(known.digest);
    }
    let blob = run(plan_dir, "pack", move || {
        let blob = tempfile::NamedTempFile::new()?;
        pack(&files, blob.path())?;
        Ok(blob)
    })
    .await?;
    let digest = objects.put_blob(blob.path()).await?;
    // The note only saves time; a cache that cannot be written costs some.
    let text = serde_json::to_vec(&Note { stamp, digest: digest.clone() }).unwrap_or_default();
    let _ = fs::create_dir_all(cache_dir.join("sources")).and_then(|()| fs::write(&note, text));
    Ok(digest)
}

/// Fetches the source with this digest and unpacks it into `directory`.
///
/// # Errors
/// When it is not there, damaged, or reaches out of its directory.
pub async fn fetch(digest: &str, objects: &Objects, directory: &Path) -> Result<(), SourceError> {
    let scratch = tempfile::tempdir().map_err(failed("unpack", directory))?;
    let blob = scratch.path().join("source");
    objects.get_blob(digest, &blob).await?;
    let to = directory.to_owned();
    run(directory, "unpack", move || unpack(&blob, &to)).await
}

async fn run<T: Send + 'static>(
    path: &Path,
    verb: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).flatten().map_err(failed(verb, path))
}

/// What is remembered of a packed plan.
#[derive(Serialize, Deserialize)]
struct Note {
    stamp: String,
    digest: String,
}

fn pack(files: &Files, to: &Path) -> io::Result<()> {
    let mut archive = archive(to)?;
    append(&mut archive, files)?;
    archive.into_inner()?.finish()?.flush()
}

/// Unpacks a source.
///
/// # Errors
/// When the archive is damaged or one of its entries reaches out of `directory`.
pub fn unpack(blob: &Path, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(blob)?)?);
    archive.set_preserve_permissions(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        let ordinary = kind.is_file() || kind.is_dir() || kind.is_symlink();
        if !ordinary || !entry.unpack_in(directory)? {
            let path = entry.path()?.display().to_string();
            return Err(io::Error::other(format!("`{path}` may not be in a plan's source")));
        }
    }
    Ok(())
}

/// Packs a directory as a bundle, everything in it.
pub(super) fn pack_bundle(directory: &Path, to: &Path) -> io::Result<()> {
    let mut files = Files::new();
    tree::gather(&mut files, Path::new(""), directory, |_| false)?;
    pack(&files, to)
}

type Archive = tar::Builder<zstd::Encoder<'static, File>>;

fn archive(to: &Path) -> io::Result<Archive> {
    Ok(tar::Builder::new(zstd::Encoder::new(File::create(to)?, COMPRESSION)?))
}

/// The entries of a directory that are uploaded, the directory itself first. Nothing is left out for being
/// hidden or for `.gitignore`: `node_modules` has to come along where no registry can be reached.
pub(super) fn uploaded(root: &Path) -> impl Iterator<Item = Result<DirEntry, ignore::Error>> {
    WalkBuilder::new(root)
        .standard_filters(false)
        .parents(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .filter_entry(|entry| !is_made_again(entry))
        .build()
}

/// Git's own directory, and Cargo's output.
fn is_made_again(entry: &DirEntry) -> bool {
    if entry.depth() == 0 || !entry.file_type().is_some_and(|kind| kind.is_dir()) {
        return false;
    }
    let beside = |name: &str| entry.path().with_file_name(name).exists();
    match entry.file_name().as_encoded_bytes() {
        b".git" => true,
        b"target" => beside("Cargo.toml") || entry.path().join("CACHEDIR.TAG").exists(),
        _ => false,
    }
}

/// Appends files to a tar. What is neither file, directory nor symbolic link is left out.
pub(super) fn append<W: Write>(archive: &mut tar::Builder<W>, files: &Files) -> io::Result<()> {
    for (name, content) in files {
        match content {
            Content::Directory => append_directory(archive, name)?,
            Content::Copy(from) => append_copy(archive, name, from)?,
            Content::Text(text) => {
                let mut header = header(tree::PLAIN);
                header.set_size(text.len() as u64);
                archive.append_data(&mut header, name, text.as_bytes())?;
            }
        }
    }
    Ok(())
}

fn append_directory<W: Write>(archive: &mut tar::Builder<W>, name: &Path) -> io::Result<()> {
    let mut header = header(tree::EXECUTABLE);
    header.set_entry_type(tar::EntryType::Directory);
    archive.append_data(&mut header, name.join(""), io::empty())
}

fn append_copy<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &Path,
    from: &Path,
) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    let mut header = header(tree::mode(&meta));
    if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        return archive.append_link(&mut header, name, fs::read_link(from)?);
    }
    if meta.is_dir() {
        return append_directory(archive, name);
    }
    if !meta.is_file() {
        return Ok(());
    }
    header.set_size(meta.len());
    // A file that shrinks meanwhile would leave a damaged archive behind.
    let content = File::open(from)?.take(meta.len()).chain(io::repeat(0)).take(meta.len());
    archive.append_data(&mut header, name, content)
}

fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mode(mode);
    header
}

/// A digest of what a change would change: names, sizes, times.
fn stamp(files: &Files) -> io::Result<String> {
    let mut stamp = String::new();
    for (path, content) in files {
        stamp.push_str(&match content {
            Content::Directory => format!("{path:?}\n"),
            Content::Text(text) => format!("{path:?} {text:?}\n"),
            Content::Copy(from) => {
                let meta = fs::symlink_metadata(from)?;
                let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
                format!("{path:?} {} {} {times:?}\n", meta.len(), meta.mode())
            }
        });
    }
    Ok(digest(stamp.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn names(root: &Path) -> Vec<String> {
        let all = tree::all(root).expect("listed");
        let files = all.iter().filter(|path| !path.is_dir());
        files.map(|path| path.strip_prefix(root).expect("below").display().to_string()).collect()
    }

    #[test]
    fn a_plan_is_packed_without_what_it_ignores_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let plan = dir.path().join("plan-as-the-user-has-it");
        for path in
            ["src/main.rs", "target/debug/x", "Cargo.toml", "a.log", "deep/b.log", ".git/HEAD"]
        {
            write(&plan, path, path);
        }
        write(&plan, "node_modules/m/target/index.js", "kept");
        write(&plan, ".testgroundignore", "*.log\n!deep/b.log\n");
        write(&plan, ".gitignore", "node_modules\n");
        fs::set_permissions(plan.join("src/main.rs"), fs::Permissions::from_mode(0o700))
            .expect("set");
        let common = dir.path().join("common");
        write(&common, "lib.rs", "common");
        let extra = vec![("common".to_owned(), common)];
        let sources = Sources { plan: plan.clone(), extra, around: None };
        let packed = |to: &Path| pack(&sources.files().expect("listed"), to).expect("packed");
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        packed(&one);
        File::open(plan.join("Cargo.toml"))
            .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
            .expect("touched");
        packed(&two);
        assert_eq!(fs::read(&one).expect("read"), fs::read(&two).expect("read"));

        let back = dir.path().join("back");
        unpack(&one, &back).expect("unpacked");
        let expected = [
            "extra/common/lib.rs",
            "plan/.gitignore",
            "plan/.testgroundignore",
            "plan/Cargo.toml",
            "plan/deep/b.log",
            "plan/node_modules/m/target/index.js",
            "plan/src/main.rs",
        ];
        assert_eq!(names(&back), expected);
        let mode = fs::metadata(back.join("plan/src/main.rs")).expect("there").mode();
        assert_eq!(mode & 0o777, tree::EXECUTABLE);
    }

    #[test]
    fn a_source_that_reaches_out_of_its_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let blob = dir.path().join("blob");
        let mut archive = archive(&blob).expect("made");
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.as_gnu_mut().expect("gnu").name[..7].copy_from_slice(b"../evil");
        header.set_cksum();
        archive.append(&header, io::empty()).expect("added");
        archive.into_inner().expect("written").finish().expect("finished");
        let refused = unpack(&blob, &dir.path().join("to")).expect_err("refused");
        assert!(refused.to_string().contains("../evil"), "{refused}");
        assert!(!dir.path().join("evil").exists());
    }

    #[tokio::test]
    async fn an_unchanged_plan_is_stored_once() {
        use groundswell_common::objects::ObjectsConfig;
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}", dir.path().join("store").display());
        let objects = Objects::open(&ObjectsConfig { url, ..Default::default() }).expect("opened");
        let plan = dir.path().join("plan");
        write(&plan, "run.sh", "echo");
        let cache = dir.path().join("cache");
        let sources = Sources { plan: plan.clone(), extra: Vec::new(), around: None };
        let first = store(&sources, &objects, &cache).await.expect("stored");
        assert_eq!(store(&sources, &objects, &cache).await.expect("stored"), first);
        write(&plan, "run.sh", "echo 2");
        let second = store(&sources, &objects, &cache).await.expect("stored");
        assert_ne!(first, second);
        let back = dir.path().join("back");
        fetch(&second, &objects, &back).await.expect("fetched");
        assert_eq!(fs::read_to_string(back.join("plan/run.sh")).expect("read"), "echo 2");
    }
}
