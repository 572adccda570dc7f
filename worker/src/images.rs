//! Images on this host: fetched once by content, then handed to the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use groundswell_common::messages::ImageRef;
use groundswell_common::objects::{Objects, ObjectsError};
use tokio::sync::Semaphore;
use tracing::info;

use crate::runtime::{Runtime, RuntimeError};

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
    objects: Objects,
    /// One turn per digest, so that shares that need the same image fetch it once.
    turns: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Images {
    /// The cache in `directory`.
    pub(crate) fn new(directory: PathBuf, objects: Objects) -> Self {
        Self { directory, objects, turns: Mutex::default() }
    }

    /// Makes `image` ready for `runtime`.
    pub(crate) async fn ensure(
        &self,
        image: &ImageRef,
        runtime: &dyn Runtime,
    ) -> Result<(), ImageError> {
        let turn = self.turn(&image.digest);
        let _turn = turn.acquire().await.expect("turns are never closed");
        if runtime.has(image).await {
            return Ok(());
        }
        let blob = self.blob(image).await?;
        runtime
            .fetch(image, &blob)
            .await
            .map_err(|source| ImageError::Unpack { digest: image.digest.clone(), source })
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
