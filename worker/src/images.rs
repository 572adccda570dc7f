//! Images on this host: fetched once by content, then handed to the runtime, and given up when there is no room
//! for all of them, the one that was used longest ago first.
//!
//! ```text
//! <state_dir>/blobs/sha256/<hex>   what the object store had
//! <state_dir>/used/<hex>           an empty file; when it was written is when the image was last used
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use groundswell_common::chain::Chain;
use groundswell_common::messages::ImageRef;
use groundswell_common::objects::{Objects, ObjectsError};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::keep::disk::{size, taken_by};
use crate::runtime::{Runtime, RuntimeError, StoredSize};

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The cache's directory cannot be made.
    #[error("failed to create `{path}`")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store does not give it.
    #[error("failed to fetch image {digest}")]
    Fetch {
        /// Which.
        digest: String,
        /// Why.
        #[source]
        source: ObjectsError,
    },
    /// The runtime cannot use it.
    #[error("failed to unpack image {digest}")]
    Unpack {
        /// Which.
        digest: String,
        /// Why.
        #[source]
        source: RuntimeError,
    },
}

impl ImageError {
    /// Whether the plan or its image is the cause, and not this host or the store.
    pub(crate) fn is_fault_of_plan(&self) -> bool {
        matches!(self, Self::Unpack { source: RuntimeError::Plan(_), .. })
    }
}

/// The cache of image blobs, by digest.
pub(crate) struct Images {
    directory: PathBuf,
    used: PathBuf,
    objects: Objects,
    /// What directories with images take: images never change.
    sizes: Mutex<BTreeMap<PathBuf, u64>>,
    /// One turn per digest, so that shares that need the same image fetch it once.
    turns: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Images {
    /// The cache in a worker's directory.
    pub(crate) fn new(state_dir: &Path, objects: Objects) -> Self {
        Self {
            directory: state_dir.join("blobs"),
            used: state_dir.join("used"),
            objects,
            sizes: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// Makes `image` ready for `runtime`.
    pub(crate) async fn ensure(
        &self,
        image: &ImageRef,
        runtime: &dyn Runtime,
    ) -> Result<(), ImageError> {
        let turn = self.turn(&image.digest);
        let _turn = turn.acquire().await.expect("turns are never closed");
        self.note_use(&image.digest);
        if runtime.has(image).await {
            return Ok(());
        }
        let blob = self.blob(image).await?;
        runtime
            .fetch(image, &blob)
            .await
            .map_err(|source| ImageError::Unpack { digest: image.digest.clone(), source })
    }

    /// Gives images up until those that are left take no more than `keep`, and at least `excess` bytes are freed.
    /// One that a share uses stays, whatever there is to free.
    pub(crate) async fn give_up(
        &self,
        runtimes: &[Arc<dyn Runtime>],
        uses: impl Fn(&str) -> bool,
        keep: Option<u64>,
        excess: u64,
    ) {
        let kept = self.kept(runtimes).await;
        for image in superfluous(kept, &uses, keep, excess) {
            let turn = self.turn(&image.digest);
            let _turn = turn.acquire().await.expect("turns are never closed");
            // A share that has begun meanwhile is known by now, and waits for this turn.
            if !uses(&image.digest) {
                self.forget(runtimes, &image).await;
            }
        }
    }

    async fn forget(&self, runtimes: &[Arc<dyn Runtime>], image: &Kept) {
        info!(digest = image.digest, takes = size(image.bytes), "giving up an image");
        for runtime in runtimes {
            if let Err(err) = runtime.forget(&image.digest).await {
                // An engine refuses when a container of another worker uses it.
                let name = runtime.kind().as_str();
                warn!(digest = image.digest, runtime = name, error = %Chain(&err), "an image stays");
            }
        }
        let hex = image.digest.trim_start_matches("sha256:");
        let _gone = fs::remove_file(self.directory.join("sha256").join(hex));
        let _gone = fs::remove_file(self.used.join(hex));
    }

    /// Every image on this host that this worker has brought here.
    async fn kept(&self, runtimes: &[Arc<dyn Runtime>]) -> Vec<Kept> {
        let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
        for (digest, size) in blobs(&self.directory.join("sha256")) {
            *bytes.entry(digest).or_default() += size;
        }
        for runtime in runtimes {
            let stored = match runtime.images().await {
                Ok(stored) => stored,
                Err(err) => {
                    warn!(runtime = runtime.kind().as_str(), error = %Chain(&err), "images are not listed");
                    continue;
                }
            };
            for image in stored {
                let size = match image.size {
                    StoredSize::Directory(directory) => self.taken_by(directory).await,
                    // Another worker may have brought it.
                    StoredSize::Shared(_) if self.last_use(&image.digest).is_none() => continue,
                    StoredSize::Shared(size) => size,
                };
                *bytes.entry(image.digest).or_default() += size;
            }
        }
        bytes
            .into_iter()
            .map(|(digest, bytes)| {
                let used = self.last_use(&digest).unwrap_or(SystemTime::UNIX_EPOCH);
                Kept { digest, bytes, used }
            })
            .collect()
    }

    async fn taken_by(&self, directory: PathBuf) -> u64 {
        let known = |sizes: &Mutex<BTreeMap<PathBuf, u64>>| {
            sizes.lock().unwrap_or_else(PoisonError::into_inner).get(&directory).copied()
        };
        if let Some(size) = known(&self.sizes) {
            return size;
        }
        let look = directory.clone();
        let size = tokio::task::spawn_blocking(move || taken_by(&look)).await.unwrap_or(0);
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(directory, size);
        size
    }

    fn note_use(&self, digest: &str) {
        let file = self.used.join(digest.trim_start_matches("sha256:"));
        let noted = fs::create_dir_all(&self.used).and_then(|()| fs::write(file, ""));
        if let Err(err) = noted {
            warn!(error = %err, digest, "it is not noted that an image is used");
        }
    }

    fn last_use(&self, digest: &str) -> Option<SystemTime> {
        let file = self.used.join(digest.trim_start_matches("sha256:"));
        fs::metadata(file).and_then(|meta| meta.modified()).ok()
    }

    fn turn(&self, digest: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(digest.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }

    async fn blob(&self, image: &ImageRef) -> Result<PathBuf, ImageError> {
        let blob = self.directory.join(image.digest.replace(':', "/"));
        let there = tokio::fs::metadata(&blob).await;
        // Content was checked when it was fetched; a size that differs is a disk that lost something.
        if there.is_ok_and(|meta| meta.len() == image.size) {
            return Ok(blob);
        }
        let parent = blob.parent().unwrap_or(&self.directory).to_owned();
        tokio::fs::create_dir_all(&parent)
            .await
            .map_err(|source| ImageError::Directory { path: parent, source })?;
        info!(digest = image.digest, bytes = image.size, "fetching image");
        self.objects
            .get_blob(&image.digest, &blob)
            .await
            .map_err(|source| ImageError::Fetch { digest: image.digest.clone(), source })?;
        Ok(blob)
    }
}

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    digest: String,
    /// What it takes, as a blob and in every runtime.
    bytes: u64,
    used: SystemTime,
}

/// The images to give up, the one that was used longest ago first.
fn superfluous(
    mut kept: Vec<Kept>,
    uses: impl Fn(&str) -> bool,
    keep: Option<u64>,
    excess: u64,
) -> Vec<Kept> {
    let total: u64 = kept.iter().map(|image| image.bytes).sum();
    let mut left = excess.max(keep.map_or(0, |keep| total.saturating_sub(keep)));
    kept.retain(|image| !uses(&image.digest));
    kept.sort_by(|a, b| (a.used, &a.digest).cmp(&(b.used, &b.digest)));
    kept.into_iter()
        .take_while(|image| {
            let needed = left > 0;
            left = left.saturating_sub(image.bytes);
            needed
        })
        .collect()
}

/// The blobs in a directory: digest and size.
fn blobs(directory: &Path) -> BTreeSet<(String, u64)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // Others are still being fetched.
            let whole = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = entry.metadata().ok().filter(|_| whole)?.len();
            Some((format!("sha256:{name}"), size))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use groundswell_common::objects::ObjectsConfig;

    use super::*;

    fn kept(name: &str, bytes: u64, used: u64) -> Kept {
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        Kept { digest: name.to_owned(), bytes, used }
    }

    #[test]
    fn the_image_that_was_used_longest_ago_goes_first_and_one_in_use_never() {
        let all = || {
            vec![kept("new", 10, 9), kept("busy", 10, 1), kept("old", 10, 3), kept("mid", 10, 5)]
        };
        let names = |keep, excess| -> Vec<String> {
            let gone = superfluous(all(), |digest| digest == "busy", keep, excess);
            gone.into_iter().map(|image| image.digest).collect()
        };
        assert!(names(Some(40), 0).is_empty());
        assert_eq!(names(Some(39), 0), ["old"]);
        assert_eq!(names(Some(20), 0), ["old", "mid"]);
        assert_eq!(names(None, 11), ["old", "mid"]);
        assert_eq!(names(Some(0), 1000), ["old", "mid", "new"]);
        assert!(names(None, 0).is_empty());
    }

    #[tokio::test]
    async fn blobs_are_given_up_by_their_last_use() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().join("objects").display());
        let objects = Objects::open(&ObjectsConfig { url, ..Default::default() }).unwrap();
        let images = Images::new(dir.path(), objects);
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        for name in [&a, &b, &c, &"part-1".to_owned()] {
            fs::write(blobs.join(name), vec![0; 100]).unwrap();
        }
        // Nobody knows when `c` was used, so that was long ago.
        for (name, ago) in [(&a, 10), (&b, 20)] {
            images.note_use(&format!("sha256:{name}"));
            let file = fs::File::open(dir.path().join("used").join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
        }
        images.give_up(&[], |_| false, Some(100), 0).await;
        let mut left: Vec<_> =
            fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [a.as_str(), "part-1"]);
    }
}
