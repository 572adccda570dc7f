//! Makes what goes between two switches unreadable and unforgeable, with AES-256 in Galois/counter mode.
//!
//! ```text
//!  0  magic "gs"      4   run's key      16  counter
//!  2  version         12  sender         24  header and packet, sealed
//!  3  0                                   ..  tag, 16 bytes
//! ```
//!
//! What is before the sealed bytes is authenticated with them. A key serves one run, and each worker has
//! nonces of its own in each attempt: the attempt, its number and a counter. The counter begins at a random number,
//! whatever the clock says, so that a worker that begins anew within the attempt uses no nonce twice: that two times
//! of 2^31 packets, two hours each at 300,000 a second, have a number in common has a chance of one in 2^32, which is
//! what NIST SP 800-38D allows.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;

use super::SealSpec;
use super::header::MAGIC;

/// Bytes before what is sealed.
const CLEAR: usize = 24;
/// Bytes behind it.
const TAG: usize = 16;
/// Bytes that sealing adds to a datagram.
pub(super) const OVERHEAD: usize = CLEAR + TAG;
const VERSION: u8 = 2;

/// Seals what this worker sends in one attempt of a run, and opens what the others send.
pub(in crate::network) struct Seal {
    key: LessSafeKey,
    run: u64,
    /// This worker among the run's workers.
    sender: u32,
    counter: AtomicU64,
}

impl Seal {
    pub(super) fn new(spec: &SealSpec, run: u64) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, spec.secret.bytes());
        let key = LessSafeKey::new(key.expect("a secret is as long as a key"));
        let mut begin = [0; 8];
        rand::fill(&mut begin).expect("the system gives random bytes");
        let counter = AtomicU64::new(u64::from_be_bytes(begin));
        Self { key, run, sender: spec.sender, counter }
    }

    /// Seals a header and the packet behind it.
    pub(super) fn seal(&self, header: &[u8], packet: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(header.len() + packet.len() + OVERHEAD);
        datagram.extend_from_slice(&MAGIC);
        datagram.extend_from_slice(&[VERSION, 0]);
        datagram.extend_from_slice(&self.run.to_be_bytes());
        datagram.extend_from_slice(&self.sender.to_be_bytes());
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        datagram.extend_from_slice(&counter.to_be_bytes());
        datagram.extend_from_slice(header);
        datagram.extend_from_slice(packet);
        let (clear, secret) = datagram.split_at_mut(CLEAR);
        let (nonce, associated) = (nonce_of(clear), Aad::from(&*clear));
        let tag = self.key.seal_in_place_separate_tag(nonce, associated, secret);
        datagram.extend_from_slice(tag.expect("a datagram is short").as_ref());
        datagram
    }

    /// Opens a datagram in its place: the header and the packet behind it. `None` when somebody else made it.
    pub(super) fn open<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        let (clear, sealed) = datagram.split_at_mut_checked(CLEAR)?;
        if clear[..2] != MAGIC || clear[2] != VERSION {
            return None;
        }
        let (nonce, associated) = (nonce_of(clear), Aad::from(&*clear));
        self.key.open_in_place(nonce, associated, sealed).ok().map(|plain| &*plain)
    }
}

/// Sender and counter, which no two datagrams share.
fn nonce_of(clear: &[u8]) -> Nonce {
    let bytes: [u8; NONCE_LEN] = clear[CLEAR - NONCE_LEN..CLEAR].try_into().expect("its length");
    Nonce::assume_unique_for_key(bytes)
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("sender", &self.sender).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use groundswell_common::network::OverlaySecret;
    use proptest::prelude::*;

    use super::*;

    fn seal(secret: u8, sender: u32) -> Seal {
        Seal::new(&SealSpec { secret: OverlaySecret::new([secret; 32]), sender }, 7)
    }

    proptest! {
        #[test]
        fn only_who_knows_the_secret_reads_it_and_nobody_changes_it(
            header in prop::collection::vec(any::<u8>(), 40),
            packet in prop::collection::vec(any::<u8>(), 0..200),
            flipped in any::<prop::sample::Index>(),
        ) {
            let (one, two) = (seal(1, 0), seal(1, 1));
            let plain = [header.as_slice(), &packet].concat();
            let sealed = one.seal(&header, &packet);
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            let opened = |by: &Seal, mut datagram: Vec<u8>| by.open(&mut datagram).map(<[u8]>::to_vec);
            prop_assert_eq!(opened(&two, sealed.clone()), Some(plain));
            prop_assert_eq!(opened(&seal(2, 1), sealed.clone()), None);
            let mut forged = sealed.clone();
            let bit = flipped.index(forged.len() * 8);
            // The byte without a meaning is authenticated as well.
            forged[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(opened(&two, forged), None);
            let cut = flipped.index(sealed.len());
            prop_assert_eq!(opened(&two, sealed[..cut].to_vec()), None);
        }
    }

    #[test]
    fn a_worker_that_begins_anew_counts_from_elsewhere() {
        let counter = |seal: &Seal| {
            let sealed = seal.seal(b"header", b"packet");
            u64::from_be_bytes(sealed[16..CLEAR].try_into().expect("eight bytes"))
        };
        let (before, after) = (seal(1, 0), seal(1, 0));
        let first = counter(&before);
        assert_eq!(counter(&before), first.wrapping_add(1));
        // Further apart than any worker sends, whatever the clock says.
        assert!(counter(&after).abs_diff(first) > 1 << 36);
    }

    #[test]
    fn the_same_words_never_look_the_same() {
        let one = seal(1, 0);
        assert_ne!(one.seal(b"header", b"packet"), one.seal(b"header", b"packet"));
        assert_ne!(one.seal(b"header", b"packet"), seal(1, 1).seal(b"header", b"packet"));
    }
}
