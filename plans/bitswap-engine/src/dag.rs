//! A file's root: the names of its blocks, in UnixFS so that other
//! implementations can read it.

use bytes::Bytes;

use crate::wire::{Fields, Value, put_bytes, put_number};
use crate::{Cid, DAG_PB};

const UNIXFS_FILE: u64 = 2;

/// The root of a file whose blocks all hang on it directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// The blocks with their sizes, in the file's order.
    pub blocks: Vec<(Cid, u64)>,
}

/// A block that is no file's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the block is not the root of a file: {0}")]
pub struct NotAFile(&'static str);

impl FileNode {
    /// The file's size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blocks.iter().map(|(_, size)| size).sum()
    }

    /// The root as a block.
    #[must_use]
    pub fn encode(&self) -> (Cid, Bytes) {
        let mut node = Vec::with_capacity(64 * self.blocks.len());
        for (cid, size) in &self.blocks {
            let mut link = Vec::with_capacity(48);
            put_bytes(&mut link, 1, &cid.to_bytes());
            put_bytes(&mut link, 2, b"");
            put_number(&mut link, 3, *size);
            put_bytes(&mut node, 2, &link);
        }
        let mut unixfs = Vec::with_capacity(8 * self.blocks.len());
        put_number(&mut unixfs, 1, UNIXFS_FILE);
        put_number(&mut unixfs, 3, self.size());
        for (_, size) in &self.blocks {
            put_number(&mut unixfs, 4, *size);
        }
        put_bytes(&mut node, 1, &unixfs);
        (Cid::of(DAG_PB, &node), node.into())
    }

    /// Reads a root.
    pub fn decode(data: &Bytes) -> Result<Self, NotAFile> {
        let mut blocks = Vec::new();
        for field in Fields(data.clone()) {
            if let (2, Value::Bytes(link)) = field.map_err(|_| NotAFile("no node"))? {
                blocks.push(decode_link(link)?);
            }
        }
        if blocks.is_empty() {
            return Err(NotAFile("it has no links"));
        }
        Ok(Self { blocks })
    }
}

fn decode_link(link: Bytes) -> Result<(Cid, u64), NotAFile> {
    let (mut cid, mut size) = (None, 0);
    for field in Fields(link) {
        match field.map_err(|_| NotAFile("a broken link"))? {
            (1, Value::Bytes(hash)) => cid = Cid::from_bytes(&hash).ok(),
            (3, Value::Number(number)) => size = number,
            _ => {}
        }
    }
    Ok((cid.ok_or(NotAFile("a link without a name"))?, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RAW;

    #[test]
    fn a_root_names_its_blocks_in_order() {
        let blocks = vec![(Cid::of(RAW, b"one"), 3), (Cid::of(RAW, b"three"), 5)];
        let node = FileNode { blocks };
        let (cid, data) = node.encode();
        assert_eq!((cid.codec(), node.size()), (DAG_PB, 8));
        assert_eq!(FileNode::decode(&data), Ok(node));
    }

    #[test]
    fn other_blocks_are_no_roots() {
        let err = FileNode::decode(&Bytes::from_static(b"\x08\x01")).unwrap_err();
        assert_eq!(err, NotAFile("it has no links"));
        assert!(FileNode::decode(&Bytes::from_static(b"\xff\xff")).is_err());
    }
}
