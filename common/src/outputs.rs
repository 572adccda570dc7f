//! Outputs of a run as they lie in the object store: packs of many files, and an index per worker.
//!
//! A pack is a row of zstd frames, one per file, so that any single file is one range of one object.
//!
//! ```text
//! runs/<run>/<attempt>/<worker>/pack-0       frames
//! runs/<run>/<attempt>/<worker>/index.json   which file is where
//! ```

use std::io::{self, Read as _};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, InstanceId, RunId, WorkerId};
use crate::objects::{self, Objects, ObjectsError};

/// The version of the index this code writes.
pub const INDEX_VERSION: u32 = 1;

/// The files one worker has stored for one attempt of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Version of this format.
    pub v: u32,
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub attempt: Attempt,
    /// The worker.
    pub worker: WorkerId,
    /// The files, by instance and path.
    pub files: Vec<IndexEntry>,
    /// What was left out, each a sentence for people.
    #[serde(default)]
    pub skipped: Vec<String>,
}

/// One stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The instance's group.
    pub group: String,
    /// The instance's number within the group.
    pub in_group: u32,
    /// The instance's number within the run.
    pub instance: InstanceId,
    /// Path below the instance's directory, with `/` between its parts.
    pub path: String,
    /// Key of the pack it is in.
    pub pack: String,
    /// Where its frame starts there.
    pub offset: u64,
    /// Length of its frame.
    pub stored: u64,
    /// Its own length.
    pub size: u64,
    /// Digest of its content, `sha256:<hex>`.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
}

/// Why stored outputs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OutputsError {
    /// The store does not give it.
    #[error("failed to read stored outputs")]
    Store(#[from] ObjectsError),
    /// There is no such index.
    #[error("there is no index `{key}` in the object store")]
    Absent {
        /// Which.
        key: String,
    },
    /// The index is not one.
    #[error("the index `{key}` is not readable")]
    Index {
        /// Which.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A frame cannot be unpacked.
    #[error("`{path}` in `{pack}` cannot be unpacked")]
    Frame {
        /// Which file.
        path: String,
        /// In which pack.
        pack: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content is not what was stored.
    #[error("`{path}` in `{pack}` is damaged")]
    Damaged {
        /// Which file.
        path: String,
        /// In which pack.
        pack: String,
    },
}

/// The key prefix, without its final slash, of everything `worker` stores for one attempt.
#[must_use]
pub fn prefix(run: &RunId, attempt: Attempt, worker: &WorkerId) -> String {
    format!("runs/{run}/{attempt}/{worker}")
}

/// The key of the index of `worker`.
#[must_use]
pub fn index_key(run: &RunId, attempt: Attempt, worker: &WorkerId) -> String {
    format!("{}/index.json", prefix(run, attempt, worker))
}

/// Reads an index.
///
/// # Errors
/// When there is none, it is unreadable, or the store does not answer.
pub async fn read_index(objects: &Objects, key: &str) -> Result<Index, OutputsError> {
    let absent = || OutputsError::Absent { key: key.to_owned() };
    let content = objects.get(key).await?.ok_or_else(absent)?;
    serde_json::from_slice(&content)
        .map_err(|source| OutputsError::Index { key: key.to_owned(), source })
}

/// Reads one file and checks it.
///
/// # Errors
/// When the store does not answer, or what it gives is damaged.
pub async fn read_file(objects: &Objects, entry: &IndexEntry) -> Result<Bytes, OutputsError> {
    let range = entry.offset..entry.offset + entry.stored;
    let frame = objects.get_range(&entry.pack, range).await?;
    unpack(&frame, entry)
}

/// Unpacks the frame of `entry` and checks its content. For readers that fetch a whole pack at once.
///
/// # Errors
/// When the frame is damaged.
pub fn unpack(frame: &[u8], entry: &IndexEntry) -> Result<Bytes, OutputsError> {
    let mut content = Vec::new();
    zstd::Decoder::new(frame)
        // One byte more than promised is enough to know that a frame lies.
        .and_then(|decoder| decoder.take(entry.size + 1).read_to_end(&mut content))
        .map_err(|source| OutputsError::Frame {
            path: entry.path.clone(),
            pack: entry.pack.clone(),
            source,
        })?;
    if objects::digest(&content) != entry.sha256 {
        return Err(OutputsError::Damaged { path: entry.path.clone(), pack: entry.pack.clone() });
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ObjectsConfig;

    #[tokio::test]
    async fn a_file_comes_out_of_the_middle_of_a_pack_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}", dir.path().display());
        let objects = Objects::open(&ObjectsConfig { url, ..ObjectsConfig::default() }).unwrap();
        let frames: Vec<Vec<u8>> = [b"first".as_slice(), b"second", b"third"]
            .iter()
            .map(|content| zstd::encode_all(*content, 3).unwrap())
            .collect();
        objects.put("pack-0", frames.concat()).await.unwrap();
        let mut entry = IndexEntry {
            group: "all".to_owned(),
            in_group: 0,
            instance: InstanceId(0),
            path: "run.out".to_owned(),
            pack: "pack-0".to_owned(),
            offset: frames[0].len() as u64,
            stored: frames[1].len() as u64,
            size: 6,
            sha256: objects::digest(b"second"),
            mode: 0o644,
        };
        assert_eq!(read_file(&objects, &entry).await.unwrap().as_ref(), b"second");
        entry.sha256 = objects::digest(b"other");
        let refused = read_file(&objects, &entry).await;
        assert!(matches!(refused, Err(OutputsError::Damaged { .. })));
    }
}
