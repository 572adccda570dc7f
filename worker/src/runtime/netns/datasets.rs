//! Datasets in the root file system of an instance.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::channel::{Doing, Failure};
use super::root::{NO_DEVICES, READ_ONLY, bind, tmpfs};
use super::sys::restrict_mount;
use crate::runtime::DatasetBind;

/// Directories for datasets, and nothing else.
const PLACES: &str = "size=64k,mode=755";

/// Mounts datasets. Where the root cannot be written to, a small file system of the instance's own is put over the
/// directory that they are in, so that they have a place.
pub(super) fn show(datasets: &[DatasetBind], root: &Path) -> Result<(), Failure> {
    let mut covered: Vec<PathBuf> = Vec::new();
    for dataset in datasets {
        let inside = dataset.to.strip_prefix("/").unwrap_or(&dataset.to);
        if make_place(root, inside)?.is_none() {
            let top =
                inside.components().next().map_or(Path::new(""), |top| top.as_os_str().as_ref());
            let over = root.join(top);
            if !over.is_dir() {
                return Err(Failure::plan(format!(
                    "the image has no directory `/{}` for a dataset, and cannot be written to: \
                     use a `path` below `/datasets`, or make the directory in the image",
                    top.display()
                )));
            }
            tmpfs(&over, PLACES)?;
            covered.push(over);
            make_place(root, inside)?;
        }
        bind(&dataset.from, &root.join(inside), READ_ONLY | NO_DEVICES)?;
    }
    for over in covered {
        restrict_mount(&over, READ_ONLY | NO_DEVICES, false)
            .doing(format_args!("restrict `{}`", over.display()))?;
    }
    Ok(())
}

/// Makes a directory below the root and those it is in. Nothing is returned when the root cannot be written to.
fn make_place(root: &Path, inside: &Path) -> Result<Option<()>, Failure> {
    let mut path = root.to_owned();
    for part in inside.components().filter(|part| matches!(part, Component::Normal(_))) {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            // What a link of the image names would be looked for on the host.
            Ok(_) => {
                return Err(Failure::plan(format!(
                    "the image has `/{}`, which is no directory, where a dataset is to be",
                    path.strip_prefix(root).unwrap_or(&path).display()
                )));
            }
            Err(_) => match fs::create_dir(&path) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(None),
                Err(err) => return Err(err).doing("make a place for a dataset"),
            },
        }
    }
    Ok(Some(()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_place_is_made_in_the_image_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("data")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink(&outside, root.join("srv")).unwrap();
        assert_eq!(make_place(&root, Path::new("data/a/b")), Ok(Some(())));
        assert!(root.join("data/a/b").is_dir());
        let refused = make_place(&root, Path::new("srv/a")).unwrap_err().to_string();
        assert!(refused.contains("`/srv`"), "{refused}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
