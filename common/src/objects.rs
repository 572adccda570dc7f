//! The object store: a local directory by default, S3-compatible storage in a cluster.
//!
//! ```text
//! blobs/sha256/<hex>                     sources and images, by content
//! datasets/…                             what instances read, see `datasets`
//! builds/<key>.json                      which image a build input gave
//! runs/<run>/record.json                 everything decided about a run, and how it ended
//! runs/<run>/events.jsonl                its event log
//! runs/<run>/<attempt>/<worker>/pack-N   outputs and logs of a worker's instances
//! runs/<run>/<attempt>/<worker>/index.json
//! ```

use std::io::{self, ErrorKind};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _,
    PutPayload, RetryConfig, WriteMultipart,
};
use sha2::{Digest as _, Sha256};

/// Why an object cannot be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The URL is not one of a store.
    #[error("`{url}` is not an object store: use file:///path or s3://bucket/prefix")]
    Url {
        /// What was given.
        url: String,
    },
    /// The local directory cannot be made.
    #[error("failed to create the object store's directory `{path}`")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store refuses or does not answer.
    #[error("failed to {verb} `{key}` in the object store")]
    Store {
        /// What was tried.
        verb: &'static str,
        /// On which object.
        key: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// A local file cannot be read or written.
    #[error("failed to {verb} `{path}`")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stored content is not what its name says.
    #[error("`{key}` is damaged: its content has the digest {found}")]
    Damaged {
        /// Which object.
        key: String,
        /// What it has.
        found: String,
    },
}

impl ObjectsError {
    /// Whether a disk of this host has no room left, so that trying again changes nothing.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(err) = cause {
            let kind = err.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
                return true;
            }
            cause = err.source();
        }
        false
    }
}

/// Where objects are kept.
#[derive(Debug, Clone, Default)]
pub struct ObjectsConfig {
    /// `file:///directory` or `s3://bucket/prefix`.
    pub url: String,
    /// Endpoint of an S3-compatible server; absent is AWS.
    pub endpoint: Option<String>,
    /// Region; absent is `us-east-1`.
    pub region: Option<String>,
}

/// A store and the prefix all its objects share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    config: ObjectsConfig,
}

impl Objects {
    /// Opens the store. S3 keys come from the environment (`AWS_ACCESS_KEY_ID`, …) or the instance's role.
    ///
    /// # Errors
    /// When the URL is not one of a store, or a local directory cannot be made.
    pub fn open(config: &ObjectsConfig) -> Result<Self, ObjectsError> {
        let bad_url = || ObjectsError::Url { url: config.url.clone() };
        if let Some(path) = config.url.strip_prefix("file://") {
            std::fs::create_dir_all(path)
                .map_err(|source| ObjectsError::Directory { path: path.to_owned(), source })?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(|_| bad_url())?;
            return Ok(Self {
                store: Arc::new(store),
                prefix: Path::default(),
                config: config.clone(),
            });
        }
        let rest = config.url.strip_prefix("s3://").ok_or_else(bad_url)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad_url());
        }
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_region(config.region.as_deref().unwrap_or("us-east-1"))
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retries())
            .with_client_options(
                ClientOptions::new()
                    .with_timeout(Duration::from_secs(60))
                    .with_connect_timeout(Duration::from_secs(3)),
            );
        if let Some(endpoint) = &config.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"))
                .with_virtual_hosted_style_request(false);
        }
        let store = builder.build().map_err(|_| bad_url())?;
        let prefix = Path::parse(prefix).map_err(|_| bad_url())?;
        Ok(Self { store: Arc::new(store), prefix, config: config.clone() })
    }

    /// The URL it was opened with.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// What it was opened with, for whoever has to open it again.
    #[must_use]
    pub fn config(&self) -> &ObjectsConfig {
        &self.config
    }

    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }

    /// Stores a small object.
    ///
    /// # Errors
    /// When the store refuses it.
    pub async fn put(&self, key: &str, content: impl Into<Bytes>) -> Result<(), ObjectsError> {
        let payload = PutPayload::from_bytes(content.into());
        self.store.put(&self.path(key), payload).await.map_err(failed("store", key))?;
        Ok(())
    }

    /// Stores a file of any size, in parts.
    ///
    /// # Errors
    /// When the file cannot be read or the store refuses it.
    pub async fn put_file(&self, key: &str, file: &FsPath) -> Result<(), ObjectsError> {
        let read_error =
            |source| ObjectsError::File { verb: "read", path: file.display().to_string(), source };
        let mut reader = tokio::fs::File::open(file).await.map_err(read_error)?;
        let upload =
            self.store.put_multipart(&self.path(key)).await.map_err(failed("store", key))?;
        let mut writer = WriteMultipart::new(upload);
        let mut buffer = vec![0_u8; 1 << 20];
        loop {
            let read = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer)
                .await
                .map_err(read_error)?;
            if read == 0 {
                break;
            }
            writer.wait_for_capacity(4).await.map_err(failed("store", key))?;
            writer.write(&buffer[..read]);
        }
        writer.finish().await.map_err(failed("store", key))?;
        Ok(())
    }

    /// Reads a whole object; absent is `None`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, ObjectsError> {
        match self.store.get(&self.path(key)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed("read", key))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed("read", key)(source)),
        }
    }

    /// Reads a part of an object.
    ///
    /// # Errors
    /// When there is no such part or the store does not answer.
    pub async fn get_range(
        &self,
        key: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, ObjectsError> {
        self.store.get_range(&self.path(key), range).await.map_err(failed("read", key))
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn contains(&self, key: &str) -> Result<bool, ObjectsError> {
        match self.store.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(failed("read", key)(source)),
        }
    }

    /// The keys below `prefix`, in order.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectsError> {
        let root = self.prefix.as_ref().len();
        let mut keys: Vec<String> = self
            .store
            .list(Some(&self.path(prefix)))
            .map_ok(|meta| meta.location.as_ref()[root..].trim_start_matches('/').to_owned())
            .try_collect()
            .await
            .map_err(failed("list", prefix))?;
        keys.sort();
        Ok(keys)
    }

    /// The names directly below `prefix`, as of directories, in order.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, ObjectsError> {
        let listed = self
            .store
            .list_with_delimiter(Some(&self.path(prefix)))
            .await
            .map_err(failed("list", prefix))?;
        let mut names: Vec<String> = listed
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes an object; it is no error when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delete(&self, key: &str) -> Result<(), ObjectsError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("delete", key)(source)),
        }
    }

    /// Stores a file under the digest of its content and returns the digest, `sha256:<hex>`.
    /// What is there already is not sent again.
    ///
    /// # Errors
    /// When the file cannot be read or the store refuses it.
    pub async fn put_blob(&self, file: &FsPath) -> Result<String, ObjectsError> {
        let owned = file.to_owned();
        let digest = tokio::task::spawn_blocking(move || file_digest(&owned))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| ObjectsError::File {
                verb: "read",
                path: file.display().to_string(),
                source,
            })?;
        let key = blob_key(&digest);
        if !self.contains(&key).await? {
            self.put_file(&key, file).await?;
        }
        Ok(digest)
    }

    /// Writes the blob of `digest` to `file` and checks it on the way. Nothing is left there on failure.
    ///
    /// # Errors
    /// When there is no such blob, it is damaged, or the file cannot be written.
    pub async fn get_blob(&self, digest: &str, file: &FsPath) -> Result<(), ObjectsError> {
        let key = blob_key(digest);
        let write_error =
            |source| ObjectsError::File { verb: "write", path: file.display().to_string(), source };
        let part = file.with_extension(format!("part{}", std::process::id()));
        let mut writer = tokio::fs::File::create(&part).await.map_err(write_error)?;
        let mut hasher = Sha256::new();
        let found = self.store.get(&self.path(&key)).await.map_err(failed("read", &key))?;
        let mut stream = found.into_stream();
        while let Some(chunk) = stream.try_next().await.map_err(failed("read", &key))? {
            hasher.update(&chunk);
            tokio::io::AsyncWriteExt::write_all(&mut writer, &chunk).await.map_err(write_error)?;
        }
        tokio::io::AsyncWriteExt::flush(&mut writer).await.map_err(write_error)?;
        let found = hex_digest(hasher);
        if found != digest {
            let _ = tokio::fs::remove_file(&part).await;
            return Err(ObjectsError::Damaged { key, found });
        }
        tokio::fs::rename(&part, file).await.map_err(write_error)
    }

    /// Writes an object to `file` and checks that its content has `digest`. What an earlier call has written before it
    /// failed is not fetched again. Nothing is at `file` on failure.
    ///
    /// # Errors
    /// When there is no such object, its content is another one, or the file cannot be written.
    pub async fn get_checked(
        &self,
        key: &str,
        digest: &str,
        file: &FsPath,
    ) -> Result<(), ObjectsError> {
        let write_error =
            |source| ObjectsError::File { verb: "write", path: file.display().to_string(), source };
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = file.with_file_name(name);
        let (mut hasher, begun) = hash_of(&part).await.map_err(write_error)?;
        let mut writer = tokio::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&part)
            .await
            .map_err(write_error)?;
        let path = self.path(key);
        let size = self.store.head(&path).await.map_err(failed("read", key))?.size;
        if begun < size {
            let range = (begun > 0).then_some(GetRange::Offset(begun));
            let options = GetOptions { range, ..GetOptions::default() };
            let found = self.store.get_opts(&path, options).await.map_err(failed("read", key))?;
            let mut stream = found.into_stream();
            while let Some(chunk) = stream.try_next().await.map_err(failed("read", key))? {
                hasher.update(&chunk);
                let written = tokio::io::AsyncWriteExt::write_all(&mut writer, &chunk).await;
                written.map_err(write_error)?;
            }
        }
        tokio::io::AsyncWriteExt::flush(&mut writer).await.map_err(write_error)?;
        let found = hex_digest(hasher);
        if found != digest {
            let _ = tokio::fs::remove_file(&part).await;
            return Err(ObjectsError::Damaged { key: key.to_owned(), found });
        }
        tokio::fs::rename(&part, file).await.map_err(write_error)
    }

    /// The digest of an object's content and its size; absent is `None`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn digest_of(&self, key: &str) -> Result<Option<(String, u64)>, ObjectsError> {
        let found = match self.store.get(&self.path(key)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed("read", key)(source)),
        };
        let (mut hasher, mut size) = (Sha256::new(), 0);
        let mut stream = found.into_stream();
        while let Some(chunk) = stream.try_next().await.map_err(failed("read", key))? {
            hasher.update(&chunk);
            size += chunk.len() as u64;
        }
        Ok(Some((hex_digest(hasher), size)))
    }

    /// Writes, reads and removes a small object, to find out whether the store can be used at all.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn probe(&self, who: &str) -> Result<(), ObjectsError> {
        let key = format!("probe/{who}");
        self.put(&key, Bytes::from_static(b"groundswell")).await?;
        self.get(&key).await?;
        self.delete(&key).await
    }
}

/// The key of a blob.
#[must_use]
pub fn blob_key(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// The digest of a file's content, `sha256:<hex>`.
///
/// # Errors
/// When the file cannot be read.
pub fn file_digest(file: &FsPath) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut reader = std::fs::File::open(file)?;
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let read = io::Read::read(&mut reader, &mut buffer)?;
        if read == 0 {
            return Ok(hex_digest(hasher));
        }
        hasher.update(&buffer[..read]);
    }
}

/// The state of a hash over what is in a file, and how much that is. No file is an empty one.
async fn hash_of(file: &FsPath) -> io::Result<(Sha256, u64)> {
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut reader = match tokio::fs::File::open(file).await {
        Ok(reader) => reader,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok((hasher, size)),
        Err(err) => return Err(err),
    };
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let read = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await?;
        if read == 0 {
            return Ok((hasher, size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

/// The digest of some bytes, `sha256:<hex>`.
#[must_use]
pub fn digest(content: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(content);
    hex_digest(hasher)
}

fn hex_digest(hasher: Sha256) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&hasher.finalize()))
}

fn failed(verb: &'static str, key: &str) -> impl FnOnce(object_store::Error) -> ObjectsError {
    let key = key.to_owned();
    move |source| ObjectsError::Store { verb, key, source }
}

/// The crate's own defaults wait three minutes on a server that hangs; four tries within 20 s leave the
/// long wait to the caller, who says what it is waiting for.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 4,
        retry_timeout: Duration::from_secs(20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(directory: &FsPath) -> Objects {
        let url = format!("file://{}", directory.display());
        Objects::open(&ObjectsConfig { url, ..ObjectsConfig::default() }).expect("a directory")
    }

    #[tokio::test]
    async fn a_blob_comes_back_as_it_was_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = local(&dir.path().join("store"));
        let file = dir.path().join("in");
        std::fs::write(&file, b"content").expect("written");
        let digest = objects.put_blob(&file).await.expect("stored");
        let back = dir.path().join("out");
        objects.get_blob(&digest, &back).await.expect("read");
        assert_eq!(std::fs::read(&back).expect("there"), b"content");

        objects.put(&blob_key(&digest), "other").await.expect("overwritten");
        let refused = objects.get_blob(&digest, &dir.path().join("bad")).await;
        assert!(matches!(refused, Err(ObjectsError::Damaged { .. })));
        assert!(!dir.path().join("bad").exists());
    }

    #[tokio::test]
    async fn what_was_fetched_before_is_not_fetched_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = local(&dir.path().join("store"));
        objects.put("a", "content").await.expect("stored");
        let (digest, size) = objects.digest_of("a").await.expect("read").expect("there");
        assert_eq!((size, digest.as_str()), (7, &*self::digest(b"content")));
        let (file, part) = (dir.path().join("x.txt"), dir.path().join("x.txt.part"));
        for begun in ["", "con", "content"] {
            std::fs::write(&part, begun).expect("written");
            objects.get_checked("a", &digest, &file).await.expect("fetched");
            assert_eq!(std::fs::read(&file).expect("there"), b"content");
            assert!(!part.exists());
        }
        for wrong in ["CON", "content and more"] {
            std::fs::write(&part, wrong).expect("written");
            let refused = objects.get_checked("a", &digest, &file).await;
            assert!(matches!(refused, Err(ObjectsError::Damaged { .. })), "{refused:?}");
            // The next try begins anew.
            assert!(!part.exists());
        }
        assert!(objects.get_checked("none", &digest, &file).await.is_err());
        assert_eq!(objects.digest_of("none").await.expect("answered"), None);
    }

    #[tokio::test]
    async fn keys_are_listed_in_order_without_the_prefix() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = local(dir.path());
        for key in ["runs/b/x", "runs/a/y", "other"] {
            objects.put(key, "1").await.expect("stored");
        }
        assert_eq!(objects.list("runs").await.expect("listed"), ["runs/a/y", "runs/b/x"]);
        assert_eq!(objects.list_directories("runs").await.expect("listed"), ["a", "b"]);
        assert_eq!(objects.get("absent").await.expect("answered"), None);
    }

    #[test]
    fn a_url_that_is_not_a_store_is_refused_by_name() {
        let refused = Objects::open(&ObjectsConfig { url: "ftp://x".into(), ..Default::default() });
        assert!(refused.expect_err("refused").to_string().contains("`ftp://x`"));
    }
}
