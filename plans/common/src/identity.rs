//! Who a node is, worked out from the run's seed.
//!
//! Every instance can tell the peer id of every other without asking, so that
//! what a query should have found is computed and not sampled.

use libp2p_identity::{Keypair, PeerId};
use sha2::{Digest, Sha256};

/// The secret that a node's key pair is made of.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    secret: [u8; 32],
    peer: PeerId,
}

impl Identity {
    /// The identity of node `index` of the instance with the sequence number
    /// `instance` in a run with this `seed`.
    #[must_use]
    pub fn derive(seed: u64, instance: u64, index: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"groundswell node identity");
        for number in [seed, instance, index] {
            hash.update(number.to_be_bytes());
        }
        Self::from_secret(hash.finalize().into())
    }

    /// The identity with this ed25519 secret.
    #[must_use]
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let pair = Keypair::ed25519_from_bytes(secret).expect("any 32 bytes are an ed25519 secret");
        Self { secret, peer: pair.public().to_peer_id() }
    }

    /// The peer id.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The bytes of the secret.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.secret
    }
}

// The secret stays out of logs, though a test has nothing to hide.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_follows_from_seed_instance_and_index_alone() {
        let peer = |seed, instance, index| Identity::derive(seed, instance, index).peer();
        assert_eq!(peer(42, 7, 1), peer(42, 7, 1));
        assert_ne!(peer(42, 7, 1), peer(42, 7, 2));
        assert_ne!(peer(42, 7, 1), peer(42, 8, 1));
        assert_ne!(peer(42, 7, 1), peer(43, 7, 1));
    }

    #[test]
    fn identities_stay_the_same_over_releases() {
        let peer = Identity::derive(42, 0, 0).peer().to_base58();
        assert_eq!(peer.len(), 52);
        assert!(peer.starts_with("12D3KooW"), "{peer}");
    }
}
