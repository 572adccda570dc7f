//! Datasets: files in the object store that instances read at a path of theirs.
//!
//! ```text
//! datasets/names/<name>.json      which manifest has this name
//! datasets/manifests/<hex>.json   a manifest: its files with their sizes and digests
//! datasets/files/<hex>            their contents
//! ```
//!
//! A name may get another manifest; a manifest, whose key is its digest, never changes. A run uses the manifest its
//! datasets had when it was submitted, on every worker.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

/// Where a dataset is when nobody says otherwise: below this, by its name.
pub const DIRECTORY: &str = "/datasets";

/// The directories of an instance in which datasets may be.
pub const PLACES: [&str; 4] = [DIRECTORY, "/data", "/mnt", "/srv"];

/// A file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatasetFile {
    /// Its path in the dataset.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of its content, `sha256:<hex>`.
    pub digest: String,
    /// Where its content is.
    pub key: String,
}

/// The files of a dataset, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatasetManifest {
    /// The files.
    pub files: Vec<DatasetFile>,
}

impl DatasetManifest {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// How many files.
    pub files: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// When it was put there, Unix milliseconds.
    pub put_ms: u64,
}

/// A dataset that a group wants, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetWish {
    /// Its name.
    pub name: String,
    /// Where instances are to see it.
    pub path: String,
}

/// A dataset of a group, as workers need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetMount {
    /// Its name.
    pub name: String,
    /// Where instances see it.
    pub path: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// Key of what a name stands for.
#[must_use]
pub fn name_key(name: &str) -> String {
    format!("datasets/names/{name}.json")
}

/// Key of a manifest.
#[must_use]
pub fn manifest_key(digest: &str) -> String {
    format!("datasets/manifests/{}.json", digest.trim_start_matches("sha256:"))
}

/// Key of a file's content.
#[must_use]
pub fn file_key(digest: &str) -> String {
    format!("datasets/files/{}", digest.trim_start_matches("sha256:"))
}

/// Whether a text can be a dataset's name: it is part of keys and paths.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= 64 && !text.starts_with('.') && text.bytes().all(fits)
}

/// Whether instances can see a dataset at a path.
#[must_use]
pub fn is_place(path: &str) -> bool {
    let inside = PLACES.iter().any(|place| Path::new(path).starts_with(place) && path != *place);
    inside && path.strip_prefix('/').is_some_and(|rest| is_plain(Path::new(rest)))
}

/// Whether a path of a file stays in its dataset.
#[must_use]
pub fn is_plain(path: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    // A trailing slash or a doubled one names the same file another way.
    let same = path.components().collect::<std::path::PathBuf>().as_os_str() == path.as_os_str();
    plain && same && !path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_cannot_reach_elsewhere() {
        for name in ["corpus", "a.b-c_1"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".x", "a/b", "a b", "ü"] {
            assert!(!is_name(name), "{name}");
        }
        for path in ["/datasets/a", "/data/a/b", "/srv/x"] {
            assert!(is_place(path), "{path}");
        }
        for path in [
            "/datasets",
            "/datasets/",
            "/datasets/../etc",
            "/etc/x",
            "datasets/a",
            "/data//x",
            "/databases/x",
        ] {
            assert!(!is_place(path), "{path}");
        }
    }
}
