//! Content identifiers: what a block is called.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::wire::{put_varint, take_varint};

/// The codec of bytes without structure.
pub const RAW: u64 = 0x55;
/// The codec of UnixFS nodes.
pub const DAG_PB: u64 = 0x70;
const SHA2_256: u64 = 0x12;
const DIGEST_LEN: u64 = 32;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of a block: its codec and the SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    digest: [u8; 32],
    codec: u64,
    version: u64,
}

/// Bytes or a text that is no content identifier this crate knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no content identifier of version 0 or 1 with a SHA-256")]
pub struct CidError(String);

impl Cid {
    /// The name of these bytes.
    #[must_use]
    pub fn of(codec: u64, data: &[u8]) -> Self {
        Self { digest: Sha256::digest(data).into(), codec, version: 1 }
    }

    /// The codec.
    #[must_use]
    pub fn codec(&self) -> u64 {
        self.codec
    }

    /// The SHA-256.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The hash with its kind: the key under which providers are looked for.
    #[must_use]
    pub fn multihash(&self) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend_from_slice(&self.digest);
        bytes
    }

    /// The name in bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40);
        if self.version > 0 {
            put_varint(&mut bytes, self.version);
            put_varint(&mut bytes, self.codec);
        }
        bytes.extend_from_slice(&self.multihash());
        bytes
    }

    /// Reads a name in bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let wrong = || CidError(format!("{bytes:02x?}"));
        let (version, codec, hash) = match bytes {
            [0x12, 0x20, ..] => (0, DAG_PB, bytes),
            _ => {
                let mut rest = bytes;
                let version = take_varint(&mut rest).filter(|version| *version == 1);
                let codec = take_varint(&mut rest);
                (version.ok_or_else(wrong)?, codec.ok_or_else(wrong)?, rest)
            }
        };
        let digest = hash.strip_prefix(&[0x12, 0x20]).and_then(|digest| digest.try_into().ok());
        Ok(Self { digest: digest.ok_or_else(wrong)?, codec, version })
    }

    /// Everything but the hash, as it stands beside a block in a message.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(6);
        for number in [self.version, self.codec, SHA2_256, DIGEST_LEN] {
            put_varint(&mut bytes, number);
        }
        bytes
    }

    /// The name of bytes that came with this prefix, unless the prefix asks
    /// for another hash.
    pub(crate) fn of_prefixed(mut prefix: &[u8], data: &[u8]) -> Option<Self> {
        let version = take_varint(&mut prefix)?;
        let codec = take_varint(&mut prefix)?;
        let known = take_varint(&mut prefix)? == SHA2_256
            && take_varint(&mut prefix)? == DIGEST_LEN
            && version <= 1;
        known.then(|| Self { version, ..Self::of(codec, data) })
    }
}

impl fmt::Display for Cid {
    /// Version 1 in base 32; a name of version 0 is shown as its equal of version 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = Self { version: 1, ..*self }.to_bytes();
        let mut text = String::from("b");
        for chunk in bytes.chunks(5) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let bits = u64::from_be_bytes(word);
            for digit in 0..(chunk.len() * 8).div_ceil(5) {
                let index = (bits >> (59 - 5 * digit)) & 31;
                text.push(char::from(BASE32[index as usize & 31]));
            }
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        let wrong = || CidError(format!("`{text}`"));
        let digits = text.strip_prefix('b').ok_or_else(wrong)?;
        let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::with_capacity(40));
        for digit in digits.bytes() {
            let value = BASE32.iter().position(|known| *known == digit).ok_or_else(wrong)?;
            bits = (bits << 5) | u32::try_from(value).map_err(|_| wrong())?;
            held += 5;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held).to_be_bytes()[3]);
                bits &= (1 << held) - 1;
            }
        }
        Self::from_bytes(&bytes).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_other_implementations() {
        let hello = Cid::of(RAW, b"hello world");
        // Version 1, raw, SHA-256, in base 32.
        let text = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        assert_eq!(hello.to_string(), text);
        assert_eq!(text.parse::<Cid>().unwrap(), hello);
    }

    #[test]
    fn bytes_come_back_as_the_same_name() {
        let cid = Cid::of(DAG_PB, b"node");
        assert_eq!(Cid::from_bytes(&cid.to_bytes()).unwrap(), cid);
        assert_eq!(Cid::of_prefixed(&cid.prefix(), b"node"), Some(cid));
        let old = Cid::from_bytes(&cid.multihash()).unwrap();
        assert_eq!(old.to_bytes(), cid.multihash());
        assert_eq!(Cid::of_prefixed(&old.prefix(), b"node"), Some(old));
        assert_eq!(old.to_string(), cid.to_string());
    }

    #[test]
    fn what_is_no_name_is_told() {
        for text in ["", "bafk", "Qm", "b1"] {
            let err = text.parse::<Cid>().unwrap_err().to_string();
            assert!(err.contains(&format!("`{text}`")), "{err}");
        }
        let cid = Cid::of(RAW, b"x");
        assert!(Cid::from_bytes(&cid.to_bytes()[..20]).is_err());
        assert!(Cid::of_prefixed(&[1, 0x55, 0x13, 32], b"x").is_none());
    }
}
