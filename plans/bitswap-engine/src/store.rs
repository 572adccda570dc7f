//! Where blocks are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use groundswell_p2p::Rng;

use crate::Cid;

/// A block's place.
#[derive(Debug, Clone)]
pub enum Block {
    /// In memory.
    Memory(Bytes),
    /// A part of a file, read whenever it is asked for.
    Part {
        /// The file.
        file: Arc<File>,
        /// Where the block begins.
        offset: u64,
        /// How long it is.
        len: usize,
    },
}

impl Block {
    /// The block's size.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Memory(data) => data.len(),
            Self::Part { len, .. } => *len,
        }
    }

    /// The block's bytes.
    pub fn read(&self) -> io::Result<Bytes> {
        match self {
            Self::Memory(data) => Ok(data.clone()),
            Self::Part { file, offset, len } => {
                let mut data = vec![0; *len];
                file.read_exact_at(&mut data, *offset)?;
                Ok(data.into())
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    blocks: BTreeMap<Cid, Block>,
    pins: BTreeSet<Cid>,
}

/// The blocks of a node. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Store(Arc<Mutex<Inner>>);

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a block.
    pub fn put(&self, cid: Cid, block: Block) {
        self.lock().blocks.insert(cid, block);
    }

    /// A block, if it is here.
    #[must_use]
    pub fn get(&self, cid: &Cid) -> Option<Block> {
        self.lock().blocks.get(cid).cloned()
    }

    /// The size of a block, if it is here.
    #[must_use]
    pub fn size_of(&self, cid: &Cid) -> Option<usize> {
        self.lock().blocks.get(cid).map(Block::size)
    }

    /// Whether a block is here.
    #[must_use]
    pub fn has(&self, cid: &Cid) -> bool {
        self.lock().blocks.contains_key(cid)
    }

    /// How many blocks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().blocks.len()
    }

    /// Whether there is no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets a block.
    pub fn remove(&self, cid: &Cid) {
        self.lock().blocks.remove(cid);
    }

    /// Protects blocks from [`Self::collect_garbage`], also such that are not
    /// here yet.
    pub fn pin(&self, cids: impl IntoIterator<Item = Cid>) {
        self.lock().pins.extend(cids);
    }

    /// Pinned blocks that are not here.
    #[must_use]
    pub fn lost_pins(&self) -> Vec<Cid> {
        let inner = self.lock();
        inner.pins.iter().filter(|cid| !inner.blocks.contains_key(cid)).copied().collect()
    }

    /// Forgets a share of the blocks that are not pinned, and says which.
    pub fn collect_garbage(&self, share: f64, rng: &mut Rng) -> Vec<Cid> {
        let mut inner = self.lock();
        let Inner { blocks, pins } = &mut *inner;
        let loose = blocks.keys().filter(|cid| !pins.contains(cid));
        let gone: Vec<_> = loose.filter(|_| rng.ratio() < share).copied().collect();
        for cid in &gone {
            blocks.remove(cid);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::RAW;

    #[test]
    fn garbage_is_what_is_not_pinned() {
        let store = Store::default();
        let cids: Vec<_> = (0..40_u8).map(|index| Cid::of(RAW, &[index])).collect();
        for cid in &cids {
            store.put(*cid, Block::Memory(Bytes::from_static(b"x")));
        }
        store.pin(cids[..10].iter().copied());
        assert!(store.collect_garbage(0.0, &mut Rng::new(1, "test")).is_empty());
        let gone = store.collect_garbage(0.5, &mut Rng::new(1, "test")).len();
        assert!((5..25).contains(&gone), "{gone} of 30");
        store.collect_garbage(1.0, &mut Rng::new(1, "test"));
        assert_eq!((store.len(), store.lost_pins()), (10, vec![]));
        store.remove(&cids[3]);
        assert_eq!(store.lost_pins(), [cids[3]]);
    }

    #[test]
    fn a_part_of_a_file_is_read_from_there() {
        let mut file = tempfile();
        file.write_all(b"abcdefgh").unwrap();
        let part = Block::Part { file: Arc::new(file), offset: 2, len: 3 };
        assert_eq!((part.size(), &part.read().unwrap()[..]), (3, &b"cde"[..]));
    }

    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("groundswell-part-{}", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
