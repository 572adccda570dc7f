//! Identifiers. Each is parsed once and then is a valid NATS subject token and file name.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// An identifier that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {kind}: {rule}")]
pub struct InvalidId {
    /// Which identifier was expected: `run id`, `worker id`.
    pub kind: &'static str,
    /// The offending text.
    pub value: String,
    /// What a valid one looks like.
    pub rule: &'static str,
}

/// Identifies a run: an xid of 20 characters out of `0-9a-v`, ordered by time of creation.
///
/// Testground's scripts check the length. The layout is that of <https://github.com/rs/xid>: four
/// bytes of Unix seconds, then eight bytes that are here two of the second's fraction and six random ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// Makes a new identifier for a run created at the beginning of `unix_seconds`.
    #[must_use]
    pub fn new(unix_seconds: u32) -> Self {
        Self::at(u64::from(unix_seconds) * 1000)
    }

    /// Makes a new identifier for a run created at `unix_ms`, in milliseconds: one of a later millisecond comes later.
    #[must_use]
    pub fn at(unix_ms: u64) -> Self {
        // In units of 2^-16 seconds; the seconds are those that fit into four bytes, until 2106.
        let ticks = unix_ms.saturating_mul(1 << 16) / 1000;
        let mut bytes = [0_u8; 12];
        bytes[..6].copy_from_slice(&ticks.to_be_bytes()[2..]);
        rand::rng().fill_bytes(&mut bytes[6..]);
        Self(base32hex().encode(&bytes))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The two-word name people use for the run; it follows from the identifier.
    #[must_use]
    pub fn name(&self) -> String {
        let mix = self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let pick = |words: &[&'static str], bits: u64| {
            let index = usize::try_from(bits % words.len() as u64).unwrap_or(0);
            words[index]
        };
        format!("{}-{}", pick(ADJECTIVES, mix >> 40), pick(ANIMALS, mix >> 8))
    }
}

fn base32hex() -> Encoding {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
    spec.encoding().expect("32 distinct symbols make an encoding")
}

impl FromStr for RunId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid = text.len() == 20
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'v').contains(&b));
        if valid {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidId {
            kind: "run id",
            value: text.to_owned(),
            rule: "20 characters out of 0-9 and a-v",
        })
    }
}

/// Identifies a worker: the name it was given, or the host's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes an identifier out of any text, a host name for example, by replacing what may not be in one.
    #[must_use]
    pub fn from_lossy(text: &str) -> Self {
        let clean: String = text
            .chars()
            .take(64)
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
            .collect();
        Self(if clean.is_empty() { "worker".to_owned() } else { clean })
    }
}

impl FromStr for WorkerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if valid {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidId {
            kind: "worker id",
            value: text.to_owned(),
            rule: "1 to 64 letters, digits, `-` and `_`",
        })
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

text_id!(RunId);
text_id!(WorkerId);

/// An instance's number within its run, counted from 0 over all groups in the order of the composition.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct InstanceId(pub u32);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a run has been given out to workers, from 1. A message of an older attempt changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first attempt of a run.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which life of a worker wrote something: the revision of its registration. A later one fences an earlier one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const ADJECTIVES: &[&str] = &[
    "able", "amber", "ample", "arctic", "azure", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "cheery", "clear", "clever", "coral", "cosmic", "crisp", "daring", "deep",
    "eager", "early", "easy", "fair", "fast", "fine", "firm", "fleet", "fond", "fresh", "gentle",
    "glad", "golden", "grand", "green", "happy", "hardy", "honest", "humble", "jolly", "keen",
    "kind", "lively", "loyal", "lucky", "lunar", "mellow", "merry", "mild", "misty", "modest",
    "neat", "nimble", "noble", "open", "pale", "patient", "plain", "polite", "prime", "proud",
    "quick", "quiet", "rapid", "ready", "rosy", "royal", "rustic", "sandy", "serene", "sharp",
    "shiny", "silent", "silver", "simple", "sleek", "smart", "smooth", "snowy", "solar", "solid",
    "spry", "steady", "stout", "sunny", "swift", "tidal", "tidy", "tranquil", "true", "vast",
    "vivid", "warm", "wild", "windy", "wise", "witty", "young", "zesty",
];

const ANIMALS: &[&str] = &[
    "ant", "badger", "bat", "bear", "beaver", "bee", "bison", "bobcat", "camel", "carp", "cat",
    "cobra", "condor", "coyote", "crab", "crane", "crow", "deer", "dingo", "dolphin", "dove",
    "duck", "eagle", "eel", "egret", "elk", "falcon", "ferret", "finch", "fox", "frog", "gecko",
    "goat", "goose", "gull", "hare", "hawk", "hedgehog", "heron", "horse", "ibex", "ibis",
    "jackal", "jaguar", "jay", "kestrel", "kiwi", "koala", "lark", "lemur", "lion", "lizard",
    "llama", "lobster", "lynx", "magpie", "marten", "mink", "mole", "moose", "moth", "mouse",
    "newt", "ocelot", "okapi", "orca", "otter", "owl", "ox", "panda", "parrot", "pelican",
    "penguin", "pigeon", "puffin", "puma", "quail", "rabbit", "raven", "robin", "salmon", "seal",
    "shark", "shrew", "snail", "sparrow", "squid", "stork", "swan", "tapir", "tern", "tiger",
    "toad", "trout", "turtle", "viper", "walrus", "whale", "wolf", "wren", "yak", "zebra",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_id_is_an_xid_that_sorts_by_time() {
        let early = RunId::new(1_700_000_000);
        let late = RunId::new(1_700_000_001);
        assert_eq!(early.as_str().len(), 20);
        assert_eq!(early.as_str().parse::<RunId>(), Ok(early.clone()));
        assert!(early < late);
        for ms in 1_700_000_000_000..1_700_000_002_000 {
            assert!(RunId::at(ms) < RunId::at(ms + 1), "{ms}");
        }
        assert!(RunId::at(1_700_000_000_999) < late);
    }

    #[test]
    fn a_name_follows_from_the_id() {
        let id: RunId = "c8k3vmlrirtj2p8lcec0".parse().expect("a valid id");
        assert_eq!(id.name(), id.clone().name());
        assert_eq!(id.name().split('-').count(), 2);
    }

    #[test]
    fn a_worker_id_can_never_be_more_than_one_subject_token() {
        assert!("a.b".parse::<WorkerId>().is_err());
        assert!("".parse::<WorkerId>().is_err());
        assert_eq!(WorkerId::from_lossy("host.example.org").as_str(), "host-example-org");
    }
}
