//! Files, cut into blocks.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundswell_p2p::Rng;
use sha2::{Digest, Sha256};

use crate::store::Block;
use crate::{Bitswap, BitswapError, Cid, Fetch, FetchReport, FileNode, NotAFile, RAW, Store};

/// A file's content, from a seed or from a disk.
#[derive(Debug)]
pub struct File {
    source: Source,
    size: u64,
    block_size: usize,
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    Disk(Arc<fs::File>),
}

/// A file whose blocks are in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The block that names all others.
    pub root: Cid,
    /// All others.
    pub node: FileNode,
    /// The SHA-256 of the whole content.
    pub sha256: [u8; 32],
}

impl File {
    /// `size` bytes that follow from a seed and that nothing compresses.
    #[must_use]
    pub fn generate(seed: u64, size: u64, block_size: usize) -> Self {
        Self { source: Source::Seed(seed), size, block_size: block_size.max(1) }
    }

    /// A file on disk. Its blocks are read when they are asked for.
    pub fn open(path: &Path, block_size: usize) -> io::Result<Self> {
        let file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { source: Source::Disk(Arc::new(file)), size, block_size: block_size.max(1) })
    }

    /// Cuts the file into blocks, names them, and puts them into a store.
    ///
    /// # Panics
    /// If the file has become shorter since it was opened.
    #[must_use]
    pub fn add_to(&self, store: &Store) -> Added {
        let mut whole = Sha256::new();
        let mut blocks = Vec::new();
        let mut offset = 0;
        // An empty file is one empty block.
        while offset < self.size || blocks.is_empty() {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let len = self.block_size.min(left);
            let (data, block) = self.block(offset, len);
            whole.update(&data);
            let cid = Cid::of(RAW, &data);
            store.put(cid, block);
            blocks.push((cid, len as u64));
            offset += len as u64;
        }
        let node = FileNode { blocks };
        let (root, data) = node.encode();
        store.put(root, Block::Memory(data));
        Added { root, node, sha256: whole.finalize().into() }
    }

    fn block(&self, offset: u64, len: usize) -> (Bytes, Block) {
        match &self.source {
            Source::Seed(seed) => {
                let mut data = vec![0; len];
                Rng::new(*seed, &format!("content at {offset}")).fill(&mut data);
                let data = Bytes::from(data);
                (data.clone(), Block::Memory(data))
            }
            Source::Disk(file) => {
                let mut data = vec![0; len];
                file.read_exact_at(&mut data, offset).expect("the file keeps its size");
                (data.into(), Block::Part { file: Arc::clone(file), offset, len })
            }
        }
    }

    /// The SHA-256 of a file's content, put together from a store, or the
    /// names of the blocks that are missing there.
    pub fn check(node: &FileNode, store: &Store) -> Result<[u8; 32], Vec<Cid>> {
        let mut whole = Sha256::new();
        let mut missing = Vec::new();
        for (cid, _) in &node.blocks {
            match store.get(cid).and_then(|block| block.read().ok()) {
                Some(data) => whole.update(&data),
                None => missing.push(*cid),
            }
        }
        if missing.is_empty() { Ok(whole.finalize().into()) } else { Err(missing) }
    }
}

/// Why a file was not fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    /// Bitswap has ended.
    #[error(transparent)]
    Bitswap(#[from] BitswapError),
    /// The root is no root.
    #[error(transparent)]
    NotAFile(#[from] NotAFile),
    /// Blocks did not come in time.
    #[error("{missing} of {blocks} blocks did not come within {} s", .took.as_secs_f64())]
    Missing {
        /// How many of them.
        missing: usize,
        /// How many were waited for at the end.
        blocks: usize,
        /// How long.
        took: Duration,
    },
}

/// A file that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its root.
    pub node: FileNode,
    /// How it went, the root included.
    pub report: FetchReport,
}

impl Bitswap {
    /// Fetches a file's root, and then the blocks that it names.
    pub async fn fetch_file(&self, root: Cid, how: Fetch) -> Result<Fetched, FileError> {
        let mut report = self.fetch(vec![root], how).await?;
        complete(&report, 1)?;
        let Some(Ok(data)) = self.store().get(&root).map(|block| block.read()) else {
            return Err(FileError::Missing { missing: 1, blocks: 1, took: report.took });
        };
        let node = FileNode::decode(&data)?;
        let names: Vec<_> = node.blocks.iter().map(|(cid, _)| *cid).collect();
        let count = names.len();
        let left = how.timeout.saturating_sub(report.took);
        let rest = self.fetch(names, Fetch { timeout: left, ..how }).await?;
        report.first_block =
            report.first_block.or(rest.first_block.map(|first| first + report.took));
        report.took += rest.took;
        report.blocks += rest.blocks;
        report.bytes += rest.bytes;
        for (peer, blocks) in &rest.from {
            *report.from.entry(*peer).or_default() += blocks;
        }
        report.missing = rest.missing;
        complete(&report, count)?;
        Ok(Fetched { node, report })
    }
}

fn complete(report: &FetchReport, blocks: usize) -> Result<(), FileError> {
    if report.missing.is_empty() {
        return Ok(());
    }
    Err(FileError::Missing { missing: report.missing.len(), blocks, took: report.took })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_blocks_in_order() {
        let store = Store::default();
        let added = File::generate(7, 1000, 300).add_to(&store);
        let sizes: Vec<_> = added.node.blocks.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, [300, 300, 300, 100]);
        assert_eq!(File::check(&added.node, &store), Ok(added.sha256));
        assert_eq!(File::generate(7, 1000, 300).add_to(&Store::default()), added);
        assert_ne!(File::generate(8, 1000, 300).add_to(&Store::default()).root, added.root);

        let gone = added.node.blocks[2].0;
        store.remove(&gone);
        assert_eq!(File::check(&added.node, &store), Err(vec![gone]));
    }

    #[test]
    fn a_file_on_disk_has_the_blocks_of_its_content() {
        let generated = File::generate(9, 700, 256);
        let store = Store::default();
        let added = generated.add_to(&store);
        let content: Vec<u8> = added
            .node
            .blocks
            .iter()
            .flat_map(|(cid, _)| store.get(cid).unwrap().read().unwrap())
            .collect();
        let path = std::env::temp_dir().join(format!("groundswell-file-{}", std::process::id()));
        fs::write(&path, content).unwrap();
        let disk = File::open(&path, 256).unwrap();
        fs::remove_file(path).unwrap();
        let from_disk = Store::default();
        assert_eq!(disk.add_to(&from_disk), added);
        assert_eq!(File::check(&added.node, &from_disk), Ok(added.sha256));
    }

    #[test]
    fn an_empty_file_has_one_block() {
        let added = File::generate(1, 0, 256).add_to(&Store::default());
        assert_eq!(added.node.blocks.len(), 1);
    }
}
