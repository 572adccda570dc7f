//! Random numbers that are the same in every run with the same seed, on every machine and in every version.

use std::time::Duration;

/// A generator (xoshiro256++), seeded by a number and a name.
///
/// It is not fit for secrets. To seed another crate's generator, take [`Rng::seed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The generator of a stream of a run.
    #[must_use]
    pub fn new(seed: u64, stream: &str) -> Self {
        let mut state = stream.bytes().fold(seed, |state, byte| mix(state ^ u64::from(byte)));
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        }))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A position in a list of `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// A number from 0 up to 1.
    pub fn ratio(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
        let numerator = (self.next_u64() >> 11) as f64;
        numerator / (1_u64 << 53) as f64
    }

    /// A duration below `end`.
    pub fn duration(&mut self, end: Duration) -> Duration {
        end.mul_f64(self.ratio())
    }

    /// True with this chance from 0 to 1.
    pub fn chance(&mut self, ratio: f64) -> bool {
        self.ratio() < ratio
    }

    /// One of the items; none of an empty list.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }

    /// Puts a list into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    /// A seed for another generator, or for a key pair.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        seed
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The last step of splitmix64.
pub(crate) fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_for_ever_and_others_differ() {
        let mut rng = Rng::new(42, "3/peers");
        let first = rng.next_u64();
        // Written down once: results of old runs can be repeated only while this holds.
        assert_eq!(first, Rng::new(42, "3/peers").next_u64());
        assert_eq!(Rng::new(42, "golden").next_u64(), 9_344_004_821_672_356_108);
        for (seed, stream) in [(42, "3/peer"), (42, "4/peers"), (43, "3/peers")] {
            assert_ne!(first, Rng::new(seed, stream).next_u64());
        }
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_all_of_it() {
        let mut rng = Rng::new(1, "range");
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[rng.index(5)] = true;
            assert!((0.0..1.0).contains(&rng.ratio()));
            assert!(rng.duration(Duration::from_secs(2)) < Duration::from_secs(2));
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.pick::<u8>(&[]), None);
    }

    #[test]
    fn shuffling_keeps_everything() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(1, "shuffle").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
