//! Blocks that everybody can make and nobody has to be sent.

use sha2::{Digest, Sha256};

/// The blocks of a run. All listeners have all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// What their bytes follow from.
    pub seed: u64,
    /// How many there are.
    pub count: u32,
    /// Bytes in each.
    pub size: usize,
}

impl Blocks {
    /// The bytes of all blocks, in order.
    pub fn iter(self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.count).map(move |number| self.block(number))
    }

    /// The bytes of all blocks together.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.count) * self.size as u64
    }

    /// The bytes of one block: the SHA-256 of `groundswell interop SEED NUMBER 0`, then of the same text with 1 and
    /// so on, one after the other, cut where the block is full. The numbers are decimal.
    #[must_use]
    pub fn block(self, number: u32) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.size + 32);
        let mut part = 0_u32;
        while data.len() < self.size {
            let text = format!("groundswell interop {} {number} {part}", self.seed);
            data.extend_from_slice(&Sha256::digest(text));
            part += 1;
        }
        data.truncate(self.size);
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_from_the_seed_and_their_number() {
        let blocks = Blocks { seed: 42, count: 3, size: 70 };
        let all: Vec<_> = blocks.iter().collect();
        assert_eq!((all.len(), blocks.bytes()), (3, 210));
        assert!(all.iter().all(|block| block.len() == 70));
        assert_ne!(all[0], all[1]);
        assert_ne!(all[0], Blocks { seed: 43, ..blocks }.block(0));
        assert_eq!(all[2], blocks.block(2));
    }

    #[test]
    fn other_languages_make_the_same_blocks() {
        let block = Blocks { seed: 42, count: 1, size: 36 }.block(0);
        assert_eq!(block[..4], Sha256::digest("groundswell interop 42 0 0")[..4]);
        assert_eq!(block[32..], Sha256::digest("groundswell interop 42 0 1")[..4]);
    }
}
