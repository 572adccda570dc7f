//! Names that point to something else each time their owner says so: signed
//! records in the DHT.

use groundswell_bitswap::Cid;
use groundswell_p2p::{Identity, PeerId};
use groundswell_sdk::Result;
use libp2p_identity::{Keypair, PublicKey};
use serde::{Deserialize, Serialize};

/// What a name points to, signed by its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    value: String,
    pub(crate) sequence: u64,
    key: Vec<u8>,
    signature: Vec<u8>,
}

impl Record {
    /// A record of this owner.
    pub(crate) fn sign(owner: &Identity, value: Cid, sequence: u64) -> Result<Self> {
        let pair = Keypair::ed25519_from_bytes(owner.secret())?;
        let value = value.to_string();
        let signature = pair.sign(&signed(&value, sequence))?;
        Ok(Self { value, sequence, key: pair.public().encode_protobuf(), signature })
    }

    /// What it points to, if it is of this owner.
    pub(crate) fn open(&self, owner: &PeerId) -> Result<Cid> {
        let key = PublicKey::try_decode_protobuf(&self.key)?;
        if key.to_peer_id() != *owner {
            return Err("the record is signed by somebody else".into());
        }
        if !key.verify(&signed(&self.value, self.sequence), &self.signature) {
            return Err("the record's signature is wrong".into());
        }
        Ok(self.value.parse()?)
    }
}

fn signed(value: &str, sequence: u64) -> Vec<u8> {
    format!("groundswell-name:{value}:{sequence}").into_bytes()
}

/// Where an owner's record is in the DHT.
pub(crate) fn key_of(owner: &PeerId) -> Vec<u8> {
    let mut key = b"/name/".to_vec();
    key.extend(owner.to_bytes());
    key
}

/// Of all valid records the latest.
pub(crate) fn latest(owner: &PeerId, values: &[Vec<u8>]) -> Option<(Cid, u64)> {
    let records = values.iter().filter_map(|value| serde_json::from_slice::<Record>(value).ok());
    let valid = records.filter_map(|record| Some((record.open(owner).ok()?, record.sequence)));
    valid.max_by_key(|(_, sequence)| *sequence)
}

#[cfg(test)]
mod tests {
    use groundswell_bitswap::RAW;

    use super::*;

    #[test]
    fn the_latest_valid_record_counts() {
        let (owner, thief) = (Identity::derive(1, 0, 0), Identity::derive(1, 1, 0));
        let (old, new) = (Cid::of(RAW, b"old"), Cid::of(RAW, b"new"));
        let text = |record: Record| serde_json::to_vec(&record).unwrap();
        let first = Record::sign(&owner, old, 1).unwrap();
        let second = Record::sign(&owner, new, 2).unwrap();
        let stolen = Record::sign(&thief, old, 9).unwrap();
        let forged = Record { sequence: 9, ..first.clone() };
        let values = [second, stolen, forged, first].map(text);
        assert_eq!(latest(&owner.peer(), &values), Some((new, 2)));
        assert_eq!(latest(&owner.peer(), &[b"nonsense".to_vec()]), None);
    }
}
