//! What a Kademlia query should return, computed from everybody's identity.

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

/// Where something lies in Kademlia's key space: the hash of its bytes.
#[must_use]
pub fn position(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The `k` peers closest to a key, closest first.
#[must_use]
pub fn closest(key: &[u8], k: usize, peers: impl IntoIterator<Item = PeerId>) -> Vec<PeerId> {
    let target = position(key);
    let mut ranked: Vec<_> = peers
        .into_iter()
        .map(|peer| (distance(&target, &position(&peer.to_bytes())), peer))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.truncate(k);
    ranked.into_iter().map(|(_, peer)| peer).collect()
}

/// The share of the true closest peers that an answer has.
#[must_use]
pub fn accuracy(truth: &[PeerId], answer: &[PeerId]) -> f64 {
    if truth.is_empty() {
        return 1.0;
    }
    let hits = truth.iter().filter(|peer| answer.contains(peer)).count();
    hits as f64 / truth.len() as f64
}

fn distance(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|index| a[index] ^ b[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn peers(count: u64) -> Vec<PeerId> {
        (0..count).map(|instance| Identity::derive(1, instance, 0).peer()).collect()
    }

    #[test]
    fn a_peer_is_the_closest_to_itself() {
        let all = peers(50);
        let found = closest(&all[17].to_bytes(), 3, all.iter().copied());
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], all[17]);
    }

    #[test]
    fn the_order_does_not_depend_on_the_order_of_the_peers() {
        let all = peers(50);
        let forward = closest(b"key", 20, all.iter().copied());
        let backward = closest(b"key", 20, all.iter().rev().copied());
        assert_eq!(forward, backward);
        let target = position(b"key");
        let distances: Vec<_> =
            forward.iter().map(|peer| distance(&target, &position(&peer.to_bytes()))).collect();
        assert!(distances.is_sorted());
    }

    #[test]
    fn accuracy_counts_what_was_missed() {
        let all = peers(4);
        assert!((accuracy(&all, &all[..3]) - 0.75).abs() < 1e-9);
        assert!((accuracy(&[], &all) - 1.0).abs() < 1e-9);
    }
}
