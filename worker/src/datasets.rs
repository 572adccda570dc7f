//! Datasets on this host: fetched once, shown to any number of instances, and given up when there is no room for all
//! of them, the one that was used longest ago first.
//!
//! ```text
//! <state_dir>/datasets/<hex>/files/…   the files, as instances see them
//! <state_dir>/datasets/<hex>/stamps    what each file looked like when it was checked
//! <state_dir>/datasets/<hex>/used      an empty file; when it was written is when it was last used
//! ```
//!
//! `<hex>` is the digest of the manifest. A file that looks as it did when it was checked is not read again; one that
//! looks different is, and fetched again when its content is another one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use groundswell_common::datasets::{
    DatasetFile, DatasetManifest, DatasetMount, is_plain, manifest_key,
};
use groundswell_common::objects::{Objects, ObjectsError, digest, file_digest};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::keep::disk::{size, taken_by};

/// Instances read and do not write, whatever their mount says.
const READ_ONLY: u32 = 0o444;

/// Why a dataset is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetError {
    /// The store does not give it.
    #[error("failed to fetch dataset `{name}`")]
    Fetch {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: ObjectsError,
    },
    /// It is not in the store.
    #[error("dataset `{name}` is not in the object store any more: `{key}` is missing")]
    Missing {
        /// Which.
        name: String,
        /// What of it.
        key: String,
    },
    /// The store has something that is no manifest of it.
    #[error("the manifest of dataset `{name}` is damaged: {reason}")]
    Manifest {
        /// Which.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no room for it.
    #[error("dataset `{name}` takes {}, and {reason}", size(*.bytes))]
    Room {
        /// Which.
        name: String,
        /// Bytes of it.
        bytes: u64,
        /// What there is, and how to get more.
        reason: String,
    },
    /// A file of this host.
    #[error("failed to keep dataset `{name}` in `{path}`")]
    File {
        /// Which.
        name: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DatasetError {
    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Fetch { .. })
    }
}

/// The cache of datasets, by the digest of their manifest.
pub(crate) struct Datasets {
    directory: PathBuf,
    objects: Objects,
    /// How much all of them may take; absent is as much as there is.
    limit: Option<u64>,
    /// One turn per manifest, so that shares that need the same dataset fetch it once.
    turns: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// What is being fetched, and how much it will take.
    coming: Mutex<BTreeMap<String, u64>>,
    /// How many hold each dataset.
    held: Arc<Mutex<BTreeMap<String, u32>>>,
}

/// Keeps a dataset on this host for as long as it lives.
#[derive(Debug)]
pub(crate) struct Held {
    manifest: String,
    held: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let left = held.get(&self.manifest).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            held.remove(&self.manifest);
        } else {
            held.insert(self.manifest.clone(), left);
        }
    }
}

impl Datasets {
    /// The cache in a worker's directory.
    pub(crate) fn new(state_dir: &Path, objects: Objects, limit: Option<u64>) -> Self {
        Self {
            directory: state_dir.join("datasets"),
            objects,
            limit,
            turns: Mutex::default(),
            coming: Mutex::default(),
            held: Arc::default(),
        }
    }

    /// Where the files of a dataset are on this host.
    pub(crate) fn files(&self, dataset: &DatasetMount) -> PathBuf {
        self.home(&dataset.manifest).join("files")
    }

    /// Makes a dataset ready. It is not given up as long as what is returned lives.
    pub(crate) async fn ensure(&self, dataset: &DatasetMount) -> Result<Held, DatasetError> {
        // Before its turn, so that whoever makes room meanwhile leaves it alone.
        let held = self.hold(&dataset.manifest);
        let turn = self.turn(&dataset.manifest);
        let _turn = turn.acquire().await.expect("turns are never closed");
        let home = self.home(&dataset.manifest);
        let kept =
            |source| DatasetError::File { name: dataset.name.clone(), path: home.clone(), source };
        fs::create_dir_all(home.join("files")).map_err(kept)?;
        fs::write(home.join("used"), "").map_err(kept)?;
        let manifest = self.manifest(dataset).await?;
        let look = (home.clone(), manifest.clone());
        let wanting = tokio::task::spawn_blocking(move || wanting(&look.0, &look.1)).await;
        let wanting = wanting.map_err(io::Error::other).flatten().map_err(kept)?;
        let bytes = wanting.iter().map(|file| file.size).sum();
        if bytes > 0 {
            self.make_room(dataset, bytes).await?;
            info!(dataset = dataset.name, files = wanting.len(), bytes, "fetching a dataset");
        }
        let mut fetched = Ok(());
        for file in &wanting {
            fetched = self.fetch(dataset, file, &home).await;
            if fetched.is_err() {
                break;
            }
        }
        self.coming.lock().unwrap_or_else(PoisonError::into_inner).remove(&dataset.manifest);
        fetched?;
        let check = (home.clone(), manifest);
        let settled = tokio::task::spawn_blocking(move || settle(&check.0, &check.1)).await;
        settled.map_err(io::Error::other).flatten().map_err(kept)?;
        Ok(held)
    }

    fn hold(&self, manifest: &str) -> Held {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held.entry(manifest.to_owned()).or_default() += 1;
        Held { manifest: manifest.to_owned(), held: Arc::clone(&self.held) }
    }

    fn is_held(&self, manifest: &str) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(manifest)
    }

    async fn manifest(&self, dataset: &DatasetMount) -> Result<DatasetManifest, DatasetError> {
        let name = || dataset.name.clone();
        let key = manifest_key(&dataset.manifest);
        let read = self.objects.get(&key).await;
        let text = read.map_err(|source| DatasetError::Fetch { name: name(), source })?;
        let text = text.ok_or_else(|| DatasetError::Missing { name: name(), key })?;
        let damaged = |reason: String| DatasetError::Manifest { name: name(), reason };
        let found = digest(&text);
        if found != dataset.manifest {
            return Err(damaged(format!("it has the digest {found}")));
        }
        let manifest: DatasetManifest =
            serde_json::from_slice(&text).map_err(|err| damaged(err.to_string()))?;
        match manifest.files.iter().find(|file| !is_plain(Path::new(&file.path))) {
            Some(file) => Err(damaged(format!("`{}` is no path in it", file.path))),
            None => Ok(manifest),
        }
    }

    async fn fetch(
        &self,
        dataset: &DatasetMount,
        file: &DatasetFile,
        home: &Path,
    ) -> Result<(), DatasetError> {
        let to = home.join("files").join(&file.path);
        let kept =
            |source| DatasetError::File { name: dataset.name.clone(), path: to.clone(), source };
        // Beside the files: instances may look at them while one is fetched again.
        let coming = home.join("coming").join(file.digest.trim_start_matches("sha256:"));
        for directory in [to.parent(), coming.parent()].into_iter().flatten() {
            fs::create_dir_all(directory).map_err(kept)?;
        }
        let fetched = self.objects.get_checked(&file.key, &file.digest, &coming).await;
        fetched.map_err(|source| DatasetError::Fetch { name: dataset.name.clone(), source })?;
        fs::set_permissions(&coming, fs::Permissions::from_mode(READ_ONLY)).map_err(kept)?;
        fs::rename(&coming, &to).map_err(kept)
    }

    /// Gives up datasets that nobody holds until there is room for `bytes` more.
    async fn make_room(&self, dataset: &DatasetMount, bytes: u64) -> Result<(), DatasetError> {
        let no_room =
            |reason: String| DatasetError::Room { name: dataset.name.clone(), bytes, reason };
        if let Some(limit) = self.limit {
            let coming = self.coming(&dataset.manifest);
            let wanted = bytes.saturating_add(coming);
            let kept = self.kept().await;
            let taken: u64 = kept.iter().map(|one| one.bytes).sum();
            let excess = taken.saturating_add(wanted).saturating_sub(limit);
            let given_up = self.give_up_of(kept, excess).await;
            if given_up < excess {
                let held = size(taken - given_up + coming);
                let limit = size(limit);
                return Err(no_room(format!(
                    "the worker keeps {limit} of them (`keep` in `[datasets]`), of which runs use {held}"
                )));
            }
        }
        let stat = statvfs(&self.directory).ok();
        let left = stat.map_or(u64::MAX, |stat| stat.blocks_available() * stat.fragment_size());
        if left < bytes {
            let path = self.directory.display();
            return Err(no_room(format!("the disk of `{path}` has {} left", size(left))));
        }
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming.insert(dataset.manifest.clone(), bytes);
        Ok(())
    }

    /// What others fetch at this moment.
    fn coming(&self, but: &str) -> u64 {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming.iter().filter(|(manifest, _)| *manifest != but).map(|(_, bytes)| bytes).sum()
    }

    /// Gives datasets up that nobody holds until those that are left keep to the limit, and at least `excess` bytes
    /// are freed.
    pub(crate) async fn give_up(&self, excess: u64) {
        let kept = self.kept().await;
        let taken: u64 = kept.iter().map(|one| one.bytes).sum();
        let over = self.limit.map_or(0, |limit| taken.saturating_sub(limit));
        self.give_up_of(kept, excess.max(over)).await;
    }

    /// Returns how many bytes were freed.
    async fn give_up_of(&self, mut kept: Vec<Kept>, excess: u64) -> u64 {
        kept.sort_by(|a, b| (a.used, &a.manifest).cmp(&(b.used, &b.manifest)));
        let mut freed = 0_u64;
        for one in kept {
            if freed >= excess {
                break;
            }
            let turn = self.turn(&one.manifest);
            // One that is being made ready is about to be used.
            let Ok(_turn) = turn.try_acquire() else { continue };
            if self.is_held(&one.manifest) {
                continue;
            }
            info!(manifest = one.manifest, takes = size(one.bytes), "giving up a dataset");
            let home = self.home(&one.manifest);
            match tokio::task::spawn_blocking(move || fs::remove_dir_all(home)).await {
                Ok(Ok(())) => freed = freed.saturating_add(one.bytes),
                Ok(Err(err)) => warn!(manifest = one.manifest, error = %err, "a dataset stays"),
                Err(err) => warn!(manifest = one.manifest, error = %err, "a dataset stays"),
            }
        }
        freed
    }

    async fn kept(&self) -> Vec<Kept> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || kept_in(&directory)).await.unwrap_or_default()
    }

    fn home(&self, manifest: &str) -> PathBuf {
        self.directory.join(manifest.trim_start_matches("sha256:"))
    }

    fn turn(&self, manifest: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(1));
        Arc::clone(turns.entry(manifest.to_owned()).or_insert_with(new))
    }
}

/// A dataset on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    manifest: String,
    bytes: u64,
    used: SystemTime,
}

fn kept_in(directory: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let used = fs::metadata(entry.path().join("used")).and_then(|meta| meta.modified());
            Some(Kept {
                manifest: format!("sha256:{name}"),
                bytes: taken_by(&entry.path()),
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
            })
        })
        .collect()
}

/// What a file looks like from outside. Whatever changes its content changes this, short of a broken disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(Stamp {
        size: meta.len(),
        inode: meta.ino(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// The files that have to be fetched.
fn wanting(home: &Path, manifest: &DatasetManifest) -> io::Result<Vec<DatasetFile>> {
    let stamps: BTreeMap<String, Stamp> = fs::read(home.join("stamps"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let mut wanting = Vec::new();
    for file in &manifest.files {
        let path = home.join("files").join(&file.path);
        let looks = stamp(&path);
        if looks.is_some() && looks.as_ref() == stamps.get(&file.path) {
            continue;
        }
        let right_size = looks.is_some_and(|looks| looks.size == file.size);
        if right_size && file_digest(&path)? == file.digest {
            continue;
        }
        wanting.push(file.clone());
    }
    Ok(wanting)
}

/// Writes down what the files look like, all of them checked, and removes what is no file of the dataset.
fn settle(home: &Path, manifest: &DatasetManifest) -> io::Result<()> {
    let files = home.join("files");
    let known: BTreeMap<PathBuf, &DatasetFile> =
        manifest.files.iter().map(|file| (files.join(&file.path), file)).collect();
    let mut open = vec![files];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if !known.contains_key(&entry.path()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    let stamps: BTreeMap<&str, Stamp> =
        known.iter().filter_map(|(path, file)| Some((file.path.as_str(), stamp(path)?))).collect();
    match fs::remove_dir_all(home.join("coming")) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        Ok(()) | Err(_) => {}
    }
    fs::write(home.join("stamps"), serde_json::to_vec(&stamps)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use groundswell_common::datasets::file_key;
    use groundswell_common::objects::ObjectsConfig;

    use super::*;

    struct Stage {
        dir: tempfile::TempDir,
        objects: Objects,
    }

    impl Stage {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let url = format!("file://{}", dir.path().join("store").display());
            let objects = Objects::open(&ObjectsConfig { url, ..Default::default() }).unwrap();
            Self { dir, objects }
        }

        fn cache(&self, limit: Option<u64>) -> Datasets {
            Datasets::new(&self.dir.path().join("worker"), self.objects.clone(), limit)
        }

        /// Stores a dataset of these files.
        async fn put(&self, name: &str, files: &[(&str, &str)]) -> DatasetMount {
            let mut manifest = DatasetManifest::default();
            for (path, content) in files {
                let digest = digest(content.as_bytes());
                let key = file_key(&digest);
                self.objects.put(&key, (*content).to_owned()).await.unwrap();
                let size = content.len() as u64;
                manifest.files.push(DatasetFile { path: (*path).to_owned(), size, digest, key });
            }
            let text = serde_json::to_vec(&manifest).unwrap();
            let digest = digest(&text);
            self.objects.put(&manifest_key(&digest), text).await.unwrap();
            let path = format!("/datasets/{name}");
            DatasetMount { name: name.to_owned(), path, manifest: digest, bytes: manifest.bytes() }
        }
    }

    fn read(cache: &Datasets, dataset: &DatasetMount, path: &str) -> String {
        fs::read_to_string(cache.files(dataset).join(path)).unwrap()
    }

    #[tokio::test]
    async fn a_dataset_is_fetched_once_and_repaired_when_it_is_damaged() {
        let stage = Stage::new();
        let cache = stage.cache(None);
        let dataset = stage.put("corpus", &[("a", "first"), ("deep/b", "second")]).await;
        cache.ensure(&dataset).await.unwrap();
        assert_eq!(read(&cache, &dataset, "deep/b"), "second");
        let path = cache.files(&dataset).join("a");
        let before = stamp(&path);
        cache.ensure(&dataset).await.unwrap();
        assert_eq!(stamp(&path), before);

        // Of the same length, and with the old time: only the content tells.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "FIRST").unwrap();
        fs::File::open(&path).unwrap().set_modified(modified).unwrap();
        fs::remove_file(cache.files(&dataset).join("deep/b")).unwrap();
        fs::write(cache.files(&dataset).join("deep/stray"), "").unwrap();
        cache.ensure(&dataset).await.unwrap();
        assert_eq!(read(&cache, &dataset, "a"), "first");
        assert_eq!(read(&cache, &dataset, "deep/b"), "second");
        assert!(!cache.files(&dataset).join("deep/stray").exists());
    }

    #[tokio::test]
    async fn what_the_store_lacks_or_has_damaged_is_named() {
        let stage = Stage::new();
        let cache = stage.cache(None);
        let dataset = stage.put("corpus", &[("a", "first")]).await;
        stage.objects.put(&file_key(&digest(b"first")), "other").await.unwrap();
        let damaged = cache.ensure(&dataset).await.unwrap_err();
        let text = groundswell_common::chain::Chain(&damaged).to_string();
        assert!(damaged.may_pass() && text.contains("`corpus`"), "{text}");
        assert!(text.contains("is damaged"), "{text}");
        assert!(!cache.files(&dataset).join("a").exists());

        stage.objects.put(&manifest_key(&dataset.manifest), "{}").await.unwrap();
        let damaged = cache.ensure(&dataset).await.unwrap_err();
        assert!(damaged.to_string().contains("the manifest of dataset `corpus`"), "{damaged}");
        stage.objects.delete(&manifest_key(&dataset.manifest)).await.unwrap();
        let missing = cache.ensure(&dataset).await.unwrap_err();
        assert!(!missing.may_pass() && missing.to_string().contains("any more"), "{missing}");

        let outside = stage.put("evil", &[("../evil", "x")]).await;
        let refused = cache.ensure(&outside).await.unwrap_err();
        assert!(refused.to_string().contains("`../evil` is no path"), "{refused}");
    }

    #[tokio::test]
    async fn the_dataset_used_longest_ago_goes_when_there_is_no_room() {
        let stage = Stage::new();
        // What the directory itself takes is counted too.
        let content = "x".repeat(1 << 20);
        let cache = stage.cache(Some(5 << 19));
        let (mut datasets, mut held) = (Vec::new(), Vec::new());
        for (name, ago) in [("old", 30), ("new", 10)] {
            let dataset = stage.put(name, &[(name, &content)]).await;
            held.push(cache.ensure(&dataset).await.unwrap());
            let used = fs::File::open(cache.home(&dataset.manifest).join("used")).unwrap();
            used.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
            datasets.push(dataset);
        }
        let third = stage.put("third", &[("third", &content)]).await;
        let refused = cache.ensure(&third).await.unwrap_err();
        assert!(refused.to_string().contains("`[datasets]`"), "{refused}");
        held.clear();
        let third_held = cache.ensure(&third).await.unwrap();
        let there = |dataset: &DatasetMount| cache.files(dataset).join(&dataset.name).exists();
        assert_eq!((there(&datasets[0]), there(&datasets[1]), there(&third)), (false, true, true));
        cache.give_up(1 << 30).await;
        assert_eq!((there(&datasets[1]), there(&third)), (false, true));
        drop(third_held);
        cache.give_up(1).await;
        assert!(!there(&third));
    }
}
