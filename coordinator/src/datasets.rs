//! Datasets in the object store: put there, listed, removed, and found for runs.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use groundswell_common::datasets::{
    Dataset, DatasetFile, DatasetManifest, DatasetMount, DatasetWish, file_key, is_name,
    manifest_key, name_key,
};
use groundswell_common::objects::{Objects, ObjectsError, digest, file_digest};

/// Why something could not be done with a dataset.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The name is none.
    #[error("`{name}` cannot name a dataset: use letters, digits, `.`, `-` and `_`")]
    Name {
        /// What was given.
        name: String,
    },
    /// There is no such dataset.
    #[error("there is no dataset `{name}`; {}", listed(.known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Which there are.
        known: Vec<String>,
    },
    /// There is nothing to put.
    #[error("there are no files in `{from}`")]
    Empty {
        /// Where from.
        from: String,
    },
    /// A URL of another store.
    #[error(
        "`{url}` is not in the object store, which is `{store}`: copy it there first, or put a directory"
    )]
    Elsewhere {
        /// What was given.
        url: String,
        /// Where the store is.
        store: String,
    },
    /// A file that is none, or cannot be read.
    #[error("failed to read `{path}`")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is stored under the name cannot be read.
    #[error("what is stored of dataset `{name}` cannot be read: put it there again")]
    Damaged {
        /// Which.
        name: String,
    },
    /// The store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "there are none: `coordinator dataset put DIR --name NAME` makes one".to_owned();
    }
    format!("there are: {}", names.join(", "))
}

/// Stores the files of a directory, or those below a URL of the same object store, under a name. What is in the
/// store already is not sent again.
///
/// # Errors
/// When there are none, one cannot be read, or the store refuses it.
pub async fn put(
    objects: &Objects,
    from: &str,
    name: &str,
    now_ms: u64,
) -> Result<Dataset, DatasetError> {
    if !is_name(name) {
        return Err(DatasetError::Name { name: name.to_owned() });
    }
    let files = if from.contains("://") {
        of_prefix(objects, from).await?
    } else {
        of_directory(objects, Path::new(from)).await?
    };
    if files.is_empty() {
        return Err(DatasetError::Empty { from: from.to_owned() });
    }
    let manifest = DatasetManifest { files };
    let text = serde_json::to_vec(&manifest).unwrap_or_default();
    let dataset = Dataset {
        name: name.to_owned(),
        manifest: digest(&text),
        files: manifest.files.len() as u64,
        bytes: manifest.bytes(),
        put_ms: now_ms,
    };
    objects.put(&manifest_key(&dataset.manifest), text).await?;
    let entry = serde_json::to_vec(&dataset).unwrap_or_default();
    objects.put(&name_key(name), entry).await?;
    Ok(dataset)
}

async fn of_directory(
    objects: &Objects,
    directory: &Path,
) -> Result<Vec<DatasetFile>, DatasetError> {
    let mut paths = Vec::new();
    list(directory, &mut paths)
        .map_err(|source| DatasetError::File { path: directory.to_owned(), source })?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let unread = |source| DatasetError::File { path: path.clone(), source };
        let size = std::fs::metadata(&path).map_err(unread)?.len();
        let read = path.clone();
        let hashed = tokio::task::spawn_blocking(move || file_digest(&read)).await;
        let digest = hashed.map_err(io::Error::other).flatten().map_err(unread)?;
        let key = file_key(&digest);
        if !objects.contains(&key).await? {
            objects.put_file(&key, &path).await?;
        }
        let relative = path.strip_prefix(directory).unwrap_or(&path);
        let relative =
            relative.to_str().ok_or_else(|| unread(io::ErrorKind::InvalidData.into()))?;
        files.push(DatasetFile { path: relative.to_owned(), size, digest, key });
    }
    Ok(files)
}

/// Every file below a directory. Symbolic links are followed.
fn list(directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if std::fs::metadata(&path)?.is_dir() {
            list(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

/// What lies below a prefix of the store stays where it is; it is read once, for its digests.
async fn of_prefix(objects: &Objects, url: &str) -> Result<Vec<DatasetFile>, DatasetError> {
    let store = objects.url().trim_end_matches('/');
    let below = url.strip_prefix(store).and_then(|rest| rest.strip_prefix('/'));
    let prefix = below
        .map(|prefix| prefix.trim_end_matches('/'))
        .ok_or_else(|| DatasetError::Elsewhere { url: url.to_owned(), store: store.to_owned() })?;
    let mut files = Vec::new();
    for key in objects.list(prefix).await? {
        let Some((digest, size)) = objects.digest_of(&key).await? else { continue };
        let path = key.strip_prefix(prefix).unwrap_or(&key).trim_start_matches('/').to_owned();
        files.push(DatasetFile { path, size, digest, key });
    }
    files.sort();
    Ok(files)
}

/// All datasets, by name.
///
/// # Errors
/// When the store does not answer.
pub async fn all(objects: &Objects) -> Result<Vec<Dataset>, DatasetError> {
    let mut datasets = Vec::new();
    for name in names(objects).await? {
        datasets.push(find(objects, &name).await?);
    }
    Ok(datasets)
}

async fn names(objects: &Objects) -> Result<Vec<String>, DatasetError> {
    let keys = objects.list("datasets/names").await?;
    let name = |key: &String| key.rsplit('/').next()?.strip_suffix(".json").map(str::to_owned);
    Ok(keys.iter().filter_map(name).collect())
}

/// The dataset of a name.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn find(objects: &Objects, name: &str) -> Result<Dataset, DatasetError> {
    let Some(text) = objects.get(&name_key(name)).await? else {
        let known = names(objects).await?;
        return Err(DatasetError::Unknown { name: name.to_owned(), known });
    };
    serde_json::from_slice(&text).map_err(|_| DatasetError::Damaged { name: name.to_owned() })
}

/// Removes a dataset, and what of it no other dataset has. Runs that use it fail unless their workers have it.
/// Returns how many bytes were freed.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn remove(objects: &Objects, name: &str) -> Result<u64, DatasetError> {
    let dataset = find(objects, name).await?;
    let own = manifest(objects, &dataset).await?;
    objects.delete(&name_key(name)).await?;
    let (mut kept, mut same) = (BTreeSet::new(), false);
    for other in all(objects).await? {
        same |= other.manifest == dataset.manifest;
        kept.extend(manifest(objects, &other).await?.files.into_iter().map(|file| file.key));
    }
    if same {
        return Ok(0);
    }
    let mut freed = 0;
    // What lies below a prefix of the store's owner is not the dataset's to remove.
    let gone = own.files.iter().filter(|file| file.key == file_key(&file.digest));
    for file in gone.filter(|file| !kept.contains(&file.key)) {
        objects.delete(&file.key).await?;
        freed += file.size;
    }
    objects.delete(&manifest_key(&dataset.manifest)).await?;
    Ok(freed)
}

async fn manifest(objects: &Objects, dataset: &Dataset) -> Result<DatasetManifest, DatasetError> {
    let text = objects.get(&manifest_key(&dataset.manifest)).await?;
    let damaged = || DatasetError::Damaged { name: dataset.name.clone() };
    let text = text.ok_or_else(damaged)?;
    serde_json::from_slice(&text).map_err(|_| damaged())
}

/// The datasets of a group, as workers need to know them.
///
/// # Errors
/// When there is none of a name, or the store does not answer.
pub async fn resolve(
    objects: &Objects,
    wishes: &[DatasetWish],
) -> Result<Vec<DatasetMount>, DatasetError> {
    let mut mounts = Vec::new();
    for wish in wishes {
        let Dataset { name, manifest, bytes, .. } = find(objects, &wish.name).await?;
        mounts.push(DatasetMount { name, path: wish.path.clone(), manifest, bytes });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use groundswell_common::objects::ObjectsConfig;

    use super::*;

    struct Stage {
        dir: tempfile::TempDir,
        objects: Objects,
    }

    impl Stage {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let url = format!("file://{}", dir.path().join("store").display());
            let objects = Objects::open(&ObjectsConfig { url, ..Default::default() });
            Self { dir, objects: objects.expect("a store") }
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, content).expect("written");
        }

        async fn put(&self, from: &str, name: &str) -> Result<Dataset, String> {
            let from = if from.contains("://") {
                from.to_owned()
            } else {
                self.dir.path().join(from).display().to_string()
            };
            put(&self.objects, &from, name, 7).await.map_err(|err| err.to_string())
        }
    }

    #[tokio::test]
    async fn what_is_put_is_found_listed_and_removed() {
        let stage = Stage::new();
        for (path, content) in [("one/a", "same"), ("one/deep/b", "b"), ("two/c", "same")] {
            stage.write(path, content);
        }
        let one = stage.put("one", "one").await.expect("put");
        assert_eq!((one.files, one.bytes, one.put_ms), (2, 5, 7));
        assert_eq!(stage.put("one", "one").await.expect("put").manifest, one.manifest);
        stage.put("two", "two").await.expect("put");
        let wish = DatasetWish { name: "one".into(), path: "/data/one".into() };
        let mounts = resolve(&stage.objects, &[wish]).await.expect("resolved");
        assert_eq!((mounts[0].manifest.as_str(), mounts[0].bytes), (one.manifest.as_str(), 5));
        let names = all(&stage.objects).await.expect("listed");
        assert_eq!(names.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);

        assert_eq!(remove(&stage.objects, "one").await.expect("removed"), 1);
        let shared = file_key(&digest(b"same"));
        assert!(stage.objects.contains(&shared).await.expect("answered"));
        assert_eq!(remove(&stage.objects, "two").await.expect("removed"), 4);
        assert!(stage.objects.list("datasets").await.expect("listed").is_empty());
    }

    #[tokio::test]
    async fn what_lies_in_the_store_already_stays_where_it_is() {
        let stage = Stage::new();
        stage.objects.put("corpora/en/a", "text").await.expect("stored");
        let url = format!("{}/corpora/en/", stage.objects.url());
        let dataset = stage.put(&url, "en").await.expect("put");
        let found = manifest(&stage.objects, &dataset).await.expect("read");
        assert_eq!(
            (found.files[0].path.as_str(), found.files[0].key.as_str()),
            ("a", "corpora/en/a")
        );
        assert_eq!(remove(&stage.objects, "en").await.expect("removed"), 0);
        assert!(stage.objects.contains("corpora/en/a").await.expect("answered"));
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let stage = Stage::new();
        std::fs::create_dir(stage.dir.path().join("empty")).expect("made");
        let says = async |from: &str, name: &str| stage.put(from, name).await.expect_err("wrong");
        assert!(says("empty", "x").await.contains("no files in"));
        assert!(says("empty", "a/b").await.contains("`a/b` cannot name"));
        assert!(says("nowhere", "x").await.contains("nowhere"));
        assert!(says("s3://other/x", "x").await.contains("is not in the object store"));
        let unknown = find(&stage.objects, "x").await.expect_err("unknown").to_string();
        assert!(unknown.contains("`x`; there are none: `coordinator dataset put"), "{unknown}");
    }
}
