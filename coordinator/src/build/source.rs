//! A plan's source: packed on the client, unpacked by the coordinator.
//!
//! The blob is a zstd-compressed tar with `plan/` and, for each extra source directory, `extra/<name>/`. The
//! same files give the same bytes, whoever packs them: entries are sorted, times and owners are zero.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use groundswell_common::objects::{Objects, ObjectsError, blob_key, digest, file_digest};
use ignore::{DirEntry, WalkBuilder};
use serde::{Deserialize, Serialize};

/// File in a plan that says, in gitignore syntax, what is not uploaded.
pub const IGNORE_FILE: &str = ".testgroundignore";

const COMPRESSION: i32 = 3;
const EXECUTABLE: u32 = 0o755;
const PLAIN: u32 = 0o644;

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

/// Stores a plan's source and returns the digest of its blob. A plan that has not changed since the last
/// time is not packed again; `cache_dir` remembers.
///
/// # Errors
/// When a file cannot be read or the store refuses it.
pub async fn store(
    plan_dir: &Path,
    extra: &[(String, PathBuf)],
    objects: &Objects,
    cache_dir: &Path,
) -> Result<String, SourceError> {
    let name = digest(plan_dir.as_os_str().as_encoded_bytes());
    let note = cache_dir.join("sources").join(format!("{}.json", &name[7..39]));
    let sources = (plan_dir.to_owned(), extra.to_vec());
    let (plan, others) = sources.clone();
    let stamp = run(plan_dir, "read", move || stamp(&plan, &others)).await?;
    let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    if let Some(known) = known
        && known.stamp == stamp
        && objects.contains(&blob_key(&known.digest)).await?
    {
        return Ok(known.digest);
    }
    let blob = run(plan_dir, "pack", move || {
        let blob = tempfile::NamedTempFile::new()?;
        pack(&sources.0, &sources.1, blob.path())?;
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

/// Packs a plan directory and its extra source directories into the file `to`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn pack(plan_dir: &Path, extra: &[(String, PathBuf)], to: &Path) -> io::Result<()> {
    let mut archive = archive(to)?;
    for (prefix, root) in roots(plan_dir, extra) {
        for entry in uploaded(&root) {
            let entry = entry.map_err(io::Error::other)?;
            append(&mut archive, &prefix, &root, entry.path())?;
        }
    }
    archive.into_inner()?.finish()?.flush()
}

/// Unpacks what [`pack`] has packed.
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
    let mut archive = archive(to)?;
    for path in all(directory)? {
        append(&mut archive, Path::new(""), directory, &path)?;
    }
    archive.into_inner()?.finish()?.flush()
}

/// Appends a directory to a tar under `prefix`, without the paths that `skip` is true for.
pub(super) fn append_tree<W: Write>(
    archive: &mut tar::Builder<W>,
    prefix: &Path,
    directory: &Path,
    skip: impl Fn(&Path) -> bool,
) -> io::Result<()> {
    for path in all(directory)? {
        if !skip(path.strip_prefix(directory).unwrap_or(&path)) {
            append(archive, prefix, directory, &path)?;
        }
    }
    Ok(())
}

/// A digest of what is built: paths, contents and whether they can be executed. Compositions and what else
/// Testground leaves out of builds does not count, see [`left_out`].
pub(super) fn tree_digest(root: &Path) -> io::Result<String> {
    let mut listed = Vec::new();
    for path in all(root)? {
        let relative = path.strip_prefix(root).unwrap_or(&path);
        if relative.strip_prefix("plan").is_ok_and(left_out) {
            continue;
        }
        let meta = fs::symlink_metadata(&path)?;
        let content = if meta.is_symlink() {
            format!("link {}", fs::read_link(&path)?.display())
        } else if meta.is_file() {
            format!("{:o} {}", mode(&meta), file_digest(&path)?)
        } else {
            "directory".to_owned()
        };
        for part in [relative.as_os_str().as_encoded_bytes(), content.as_bytes()] {
            listed.extend_from_slice(part);
            listed.push(0);
        }
    }
    Ok(digest(&listed))
}

/// What every builder leaves out of a build: Testground's plans keep their compositions in `_compositions`.
pub(super) fn left_out(in_plan: &Path) -> bool {
    let first = in_plan.components().next();
    first.is_some_and(|first| {
        let name = first.as_os_str().as_encoded_bytes();
        name.starts_with(b"_") || name == b"plan.zip"
    })
}

/// Makes `to` equal to `from` without the paths that `skip` is true for. A file that is equal already keeps
/// its time, so that build tools see what has changed.
pub(super) fn mirror(from: &Path, to: &Path, skip: impl Fn(&Path) -> bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut wanted = BTreeMap::new();
    for path in all(from)? {
        let relative = path.strip_prefix(from).unwrap_or(&path).to_owned();
        if !skip(&relative) {
            wanted.insert(relative, path);
        }
    }
    // Deepest first, so that a directory is empty by the time it has to go.
    for path in all(to)?.iter().rev() {
        let relative = path.strip_prefix(to).unwrap_or(path);
        let same_kind = wanted.get(relative).is_some_and(|wanted| kind(wanted) == kind(path));
        if !same_kind {
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir(path)
            } else {
                fs::remove_file(path)
            }?;
        }
    }
    for (relative, path) in &wanted {
        copy_one(path, &to.join(relative))?;
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
}

fn kind(path: &Path) -> Option<Kind> {
    let meta = fs::symlink_metadata(path).ok()?;
    match (meta.is_symlink(), meta.is_dir()) {
        (true, _) => Some(Kind::Link),
        (false, true) => Some(Kind::Directory),
        (false, false) => Some(Kind::File),
    }
}

fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    match kind(from) {
        Some(Kind::Directory) => fs::create_dir_all(to),
        Some(Kind::Link) => {
            let target = fs::read_link(from)?;
            if fs::read_link(to).is_ok_and(|there| there == target) {
                return Ok(());
            }
            let _ = fs::remove_file(to);
            symlink(target, to)
        }
        Some(Kind::File) => {
            let mode = mode(&fs::metadata(from)?);
            if same_content(from, to)? {
                return fs::set_permissions(to, fs::Permissions::from_mode(mode));
            }
            let _ = fs::remove_file(to);
            let mut file = File::create(to)?;
            io::copy(&mut File::open(from)?, &mut file)?;
            fs::set_permissions(to, fs::Permissions::from_mode(mode))
        }
        None => Ok(()),
    }
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let size = |path: &Path| fs::metadata(path).map(|meta| meta.len()).ok();
    if size(one) != size(other) {
        return Ok(false);
    }
    Ok(file_digest(one)? == file_digest(other)?)
}

type Archive = tar::Builder<zstd::Encoder<'static, File>>;

fn archive(to: &Path) -> io::Result<Archive> {
    Ok(tar::Builder::new(zstd::Encoder::new(File::create(to)?, COMPRESSION)?))
}

fn roots(plan_dir: &Path, extra: &[(String, PathBuf)]) -> Vec<(PathBuf, PathBuf)> {
    let mut roots = vec![(PathBuf::from("plan"), plan_dir.to_owned())];
    let mut extra: Vec<_> = extra.to_vec();
    extra.sort();
    roots.extend(extra.into_iter().map(|(name, dir)| (Path::new("extra").join(name), dir)));
    roots
}

/// The entries of a directory that are uploaded, the directory itself first. Nothing is left out for being
/// hidden or for `.gitignore`: `node_modules` has to come along where no registry can be reached.
fn uploaded(root: &Path) -> impl Iterator<Item = Result<DirEntry, ignore::Error>> {
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

/// Every path below a directory, sorted, parents first.
fn all(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Appends one path. What is neither file, directory nor symbolic link is left out.
fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    prefix: &Path,
    root: &Path,
    path: &Path,
) -> io::Result<()> {
    let name = prefix.join(path.strip_prefix(root).unwrap_or(path));
    if name.as_os_str().is_empty() {
        return Ok(());
    }
    let meta = fs::symlink_metadata(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mode(mode(&meta));
    if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        return archive.append_link(&mut header, name, fs::read_link(path)?);
    }
    if meta.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        return archive.append_data(&mut header, name.join(""), io::empty());
    }
    if !meta.is_file() {
        return Ok(());
    }
    header.set_size(meta.len());
    // A file that shrinks meanwhile would leave a damaged archive behind.
    let content = File::open(path)?.take(meta.len()).chain(io::repeat(0)).take(meta.len());
    archive.append_data(&mut header, name, content)
}

fn mode(meta: &Metadata) -> u32 {
    if meta.is_dir() || meta.mode() & 0o111 != 0 { EXECUTABLE } else { PLAIN }
}

/// A digest of what a change would change: names, sizes, times.
fn stamp(plan_dir: &Path, extra: &[(String, PathBuf)]) -> io::Result<String> {
    let mut text = String::new();
    for (prefix, root) in roots(plan_dir, extra) {
        for entry in uploaded(&root) {
            let entry = entry.map_err(io::Error::other)?;
            let meta = fs::symlink_metadata(entry.path())?;
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
            let path = prefix.join(entry.path().strip_prefix(&root).unwrap_or(entry.path()));
            text.push_str(&format!("{path:?} {} {} {times:?}\n", meta.len(), meta.mode()));
        }
    }
    Ok(digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn names(root: &Path) -> Vec<String> {
        let all = all(root).expect("listed");
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
        let extra = [("common".to_owned(), common)];
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        pack(&plan, &extra, &one).expect("packed");
        File::open(plan.join("Cargo.toml"))
            .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
            .expect("touched");
        pack(&plan, &extra, &two).expect("packed");
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
        assert_eq!(mode & 0o777, EXECUTABLE);
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

    #[test]
    fn the_digest_of_a_tree_ignores_compositions_and_times() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), "plan/main.c", "1");
        let before = tree_digest(dir.path()).expect("read");
        write(dir.path(), "plan/_compositions/a.toml", "x");
        write(dir.path(), "plan/main.c", "1");
        assert_eq!(tree_digest(dir.path()).expect("read"), before[..].to_owned());
        write(dir.path(), "plan/main.c", "2");
        assert_ne!(tree_digest(dir.path()).expect("read"), before);
    }

    #[test]
    fn a_mirror_touches_only_what_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        write(&from, "same", "1");
        write(&from, "changed", "1");
        write(&from, "gone/x", "1");
        mirror(&from, &to, |_| false).expect("mirrored");
        let old = std::time::SystemTime::UNIX_EPOCH;
        for name in ["same", "changed"] {
            File::open(to.join(name)).and_then(|f| f.set_modified(old)).expect("set");
        }
        fs::remove_dir_all(from.join("gone")).expect("removed");
        write(&from, "changed", "2");
        write(&from, "skipped", "2");
        mirror(&from, &to, |path| path == Path::new("skipped")).expect("mirrored");
        assert_eq!(names(&to), ["changed", "same"]);
        let time = |name| fs::metadata(to.join(name)).and_then(|m| m.modified()).expect("there");
        assert_eq!(time("same"), old);
        assert_ne!(time("changed"), old);
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
        let first = store(&plan, &[], &objects, &cache).await.expect("stored");
        assert_eq!(store(&plan, &[], &objects, &cache).await.expect("stored"), first);
        write(&plan, "run.sh", "echo 2");
        let second = store(&plan, &[], &objects, &cache).await.expect("stored");
        assert_ne!(first, second);
        let back = dir.path().join("back");
        fetch(&second, &objects, &back).await.expect("fetched");
        assert_eq!(fs::read_to_string(back.join("plan/run.sh")).expect("read"), "echo 2");
    }
}
