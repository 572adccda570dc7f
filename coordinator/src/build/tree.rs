//! Files of a build: gathered from several directories, mirrored into one, and what tells two of them apart.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use groundswell_common::objects::{digest, file_digest};

/// The mode of a file that can be executed, and of a directory.
pub(super) const EXECUTABLE: u32 = 0o755;
/// The mode of any other file.
pub(super) const PLAIN: u32 = 0o644;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A directory.
    Directory,
    /// A copy of what is at another path.
    Copy(PathBuf),
    /// A file with this text.
    Text(String),
}

/// Relative paths and what is there. Parents come before what they hold.
pub(super) type Files = BTreeMap<PathBuf, Content>;

/// Adds everything in `directory` below `prefix`, without the paths that `skip` is true for.
pub(super) fn gather(
    files: &mut Files,
    prefix: &Path,
    directory: &Path,
    skip: impl Fn(&Path) -> bool,
) -> io::Result<()> {
    add_directory(files, prefix);
    for path in all(directory)? {
        let relative = path.strip_prefix(directory).unwrap_or(&path);
        if !skip(relative) {
            files.insert(prefix.join(relative), Content::Copy(path.clone()));
        }
    }
    Ok(())
}

/// Adds a directory and those it is in, where there is none yet.
pub(super) fn add_directory(files: &mut Files, path: &Path) {
    let named = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    for path in named {
        files.entry(path.to_owned()).or_insert(Content::Directory);
    }
}

/// Every path below a directory, sorted, parents first.
pub(super) fn all(directory: &Path) -> io::Result<Vec<PathBuf>> {
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

/// The mode a file has in archives and builds: nobody's umask shall change a digest.
pub(super) fn mode(meta: &Metadata) -> u32 {
    if meta.is_dir() || meta.mode() & 0o111 != 0 { EXECUTABLE } else { PLAIN }
}

/// Makes `to` hold exactly these files. A file that is equal already keeps its time, so that build tools see
/// what has changed.
pub(super) fn mirror(files: &Files, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    // Deepest first, so that a directory is empty by the time it has to go.
    for path in all(to)?.iter().rev() {
        let wanted = files.get(path.strip_prefix(to).unwrap_or(path));
        if wanted.and_then(kind_of) != kind(path) {
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir(path)
            } else {
                fs::remove_file(path)
            }?;
        }
    }
    for (relative, content) in files {
        write(content, &to.join(relative))?;
    }
    Ok(())
}

/// Makes `to` equal to the directory `from`, without the paths that `skip` is true for.
pub(super) fn mirror_directory(
    from: &Path,
    to: &Path,
    skip: impl Fn(&Path) -> bool,
) -> io::Result<()> {
    let mut files = Files::new();
    gather(&mut files, Path::new(""), from, skip)?;
    mirror(&files, to)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
}

fn kind_of(content: &Content) -> Option<Kind> {
    match content {
        Content::Directory => Some(Kind::Directory),
        Content::Copy(path) => kind(path),
        Content::Text(_) => Some(Kind::File),
    }
}

fn kind(path: &Path) -> Option<Kind> {
    let meta = fs::symlink_metadata(path).ok()?;
    match (meta.is_symlink(), meta.is_dir(), meta.is_file()) {
        (true, _, _) => Some(Kind::Link),
        (false, true, _) => Some(Kind::Directory),
        (false, false, true) => Some(Kind::File),
        (false, false, false) => None,
    }
}

fn write(content: &Content, to: &Path) -> io::Result<()> {
    let from = match content {
        Content::Directory => return fs::create_dir_all(to),
        Content::Text(text) => return write_text(text, to),
        Content::Copy(from) => from,
    };
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

fn write_text(text: &str, to: &Path) -> io::Result<()> {
    if fs::read(to).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    fs::write(to, text)?;
    fs::set_permissions(to, fs::Permissions::from_mode(PLAIN))
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let size = |path: &Path| fs::metadata(path).map(|meta| meta.len()).ok();
    if size(one) != size(other) {
        return Ok(false);
    }
    Ok(file_digest(one)? == file_digest(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, content: &str) {
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
    fn the_digest_of_a_tree_ignores_compositions_and_times() {
        let dir = tempfile::tempdir().expect("a directory");
        put(dir.path(), "plan/main.c", "1");
        let before = tree_digest(dir.path()).expect("read");
        put(dir.path(), "plan/_compositions/a.toml", "x");
        put(dir.path(), "plan/main.c", "1");
        assert_eq!(tree_digest(dir.path()).expect("read"), before);
        put(dir.path(), "plan/main.c", "2");
        assert_ne!(tree_digest(dir.path()).expect("read"), before);
    }

    #[test]
    fn a_mirror_touches_only_what_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for path in ["same", "changed", "gone/x", "kind/y"] {
            put(&from, path, "1");
        }
        let mirrored = |text: &str| {
            let mut files = Files::new();
            let skip = |path: &Path| path == Path::new("skipped");
            gather(&mut files, Path::new("a/b"), &from, skip).expect("listed");
            files.insert("a/text".into(), Content::Text(text.to_owned()));
            mirror(&files, &to).expect("mirrored");
        };
        mirrored("1");
        let old = std::time::SystemTime::UNIX_EPOCH;
        for name in ["a/b/same", "a/b/changed", "a/text"] {
            File::open(to.join(name)).and_then(|file| file.set_modified(old)).expect("set");
        }
        fs::remove_dir_all(from.join("gone")).expect("removed");
        fs::remove_dir_all(from.join("kind")).expect("removed");
        for path in ["changed", "skipped", "kind"] {
            put(&from, path, "2");
        }
        mirrored("1");
        assert_eq!(names(&to), ["a/b/changed", "a/b/kind", "a/b/same", "a/text"]);
        let time = |name| fs::metadata(to.join(name)).and_then(|meta| meta.modified());
        assert_eq!(time("a/b/same").expect("there"), old);
        assert_eq!(time("a/text").expect("there"), old);
        assert_ne!(time("a/b/changed").expect("there"), old);
        mirrored("2");
        assert_eq!(fs::read_to_string(to.join("a/text")).expect("there"), "2");
    }
}
