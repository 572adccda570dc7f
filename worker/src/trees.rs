//! Directories that instances have filled: measured and removed without trusting what is in them.
//!
//! A plan may nest directories as deep as it likes, so nothing here calls itself or opens one directory in another;
//! and it may swap a directory for a link at any moment, so every path is opened below the tree's root by the kernel.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat};

/// Where directories wait for their turn to be removed, within the tree that goes.
const ASIDE: &str = ".removing";
/// Blocks are counted in units of so many bytes.
const BLOCK: u64 = 512;

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// Files, directories and whatever else has a name.
    pub(crate) files: u64,
    /// Bytes its files claim to have.
    pub(crate) apparent: u64,
    /// Bytes they take on the disk.
    pub(crate) blocks: u64,
    /// Directories that are nested too deep to be looked at.
    pub(crate) hidden: u64,
}

impl Held {
    /// The larger of what its files claim and take: a sparse file is small on this disk and large in every copy.
    pub(crate) fn bytes(&self) -> u64 {
        self.apparent.max(self.blocks)
    }
}

/// How much a directory may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Most {
    /// Whatever has a name.
    pub(crate) files: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl Most {
    /// For a directory that is only measured.
    pub(crate) const ANY: Self = Self { files: u64::MAX, bytes: u64::MAX };
}

/// Measures a directory. Stops looking a little above `most`. What goes away meanwhile does not count.
pub(crate) fn measure(directory: &Path, most: Most) -> Held {
    let mut held = Held::default();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(root) = open(directory, flags, Mode::empty()) else { return held };
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        if held.files > most.files || held.blocks > most.bytes {
            break;
        }
        match open_below(&root, &path).and_then(Dir::from_fd) {
            Ok(listing) => look_into(listing, &path, most, &mut held, &mut waiting),
            Err(Errno::ENAMETOOLONG) => held.hidden += 1,
            // It is gone, became a link, or is shut to this user.
            Err(_) => {}
        }
    }
    held
}

fn open_below(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(root.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Counts what is in one directory; the directories in it wait for their turn.
fn look_into(
    mut listing: Dir,
    path: &Path,
    most: Most,
    held: &mut Held,
    waiting: &mut Vec<PathBuf>,
) {
    let mut names = Vec::new();
    for entry in listing.iter().flatten() {
        let name = entry.file_name().to_owned();
        if [c".", c".."].contains(&name.as_c_str()) {
            continue;
        }
        names.push(name);
        if held.files + names.len() as u64 > most.files {
            break;
        }
    }
    for name in names {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let Ok(stat) = fstatat(listing.as_fd(), name.as_c_str(), flags) else { continue };
        held.files += 1;
        held.blocks += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            waiting.push(path.join(OsStr::from_bytes(name.to_bytes())));
        } else if kind == SFlag::S_IFREG {
            held.apparent = held.apparent.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }
}

/// Removes a directory with everything in it. Goes on where an earlier call was interrupted.
///
/// # Errors
/// When something in it cannot be removed.
pub(crate) fn remove(tree: &Path) -> io::Result<()> {
    let aside = tree.join(ASIDE);
    match fs::create_dir(&aside) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        done => done?,
    }
    let mut number = 0_u64;
    empty(tree, &aside, &mut number)?;
    loop {
        let mut found = false;
        for entry in fs::read_dir(&aside)? {
            found = true;
            let path = entry?.path();
            empty(&path, &aside, &mut number)?;
            fs::remove_dir(path)?;
        }
        if !found {
            break;
        }
    }
    fs::remove_dir(&aside)?;
    fs::remove_dir(tree)
}

/// Removes the files of a directory and sets its directories aside.
fn empty(directory: &Path, aside: &Path, number: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            fs::remove_file(path)?;
        } else if path != aside && fs::remove_dir(&path).is_err() {
            set_aside(&path, aside, number)?;
        }
    }
    Ok(())
}

fn set_aside(path: &Path, aside: &Path, number: &mut u64) -> io::Result<()> {
    loop {
        *number += 1;
        match fs::rename(path, aside.join(number.to_string())) {
            // Left there by a call that was interrupted.
            Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;

    /// Directories in directories, deeper than any path can say.
    fn nest(root: &Path, depth: usize) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut at = open(root, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&at, "deep", Mode::S_IRWXU).unwrap();
            at = nix::fcntl::openat(&at, "deep", flags, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn what_is_nested_too_deep_for_any_path_is_noticed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        nest(&tree, 20_000);
        assert_eq!(measure(&tree, Most::ANY).hidden, 1);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_removal_that_was_interrupted_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join(".removing/1/left")).unwrap();
        fs::create_dir_all(tree.join("1/2")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_sparse_file_counts_by_what_it_claims_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/full"), vec![1; 1 << 20]).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let held = measure(dir.path(), Most::ANY);
        assert_eq!((held.files, held.bytes()), (4, (1 << 40) + (1 << 20)));
        assert!(((1 << 20)..(4 << 20)).contains(&held.blocks), "{held:?}");
    }

    #[test]
    fn looking_ends_soon_after_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..50 {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let most = Most { files: 10, bytes: 1 << 30 };
        assert_eq!(measure(dir.path(), most).files, 11);
    }
}
