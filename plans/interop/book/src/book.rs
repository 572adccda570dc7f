//! What instances tell each other, in whatever language they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The implementation with its version; also the agent it must claim to be.
    pub implementation: String,
    /// Whether it only relays for others: nobody dials it for its own sake, and it dials nobody.
    #[serde(default)]
    pub relay: bool,
    /// Its peer id for each stack that it listens with.
    pub peers: BTreeMap<String, String>,
    /// Its addresses for each stack that it listens with, peer ids at their ends. In `bitswap-many` they are those
    /// of several nodes.
    pub addresses: BTreeMap<String, Vec<String>>,
}

/// What came of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// With which stack, or through which relay.
    pub variant: String,
    /// The instance that was dialled.
    pub listener: u32,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What was measured, by the KPI's name. Names that end with `_s` are in seconds, all others are ratios.
    pub measures: BTreeMap<String, f64>,
}

/// An implementation without its version: `js-libp2p` of `js-libp2p-3.3`.
#[must_use]
pub fn kind(implementation: &str) -> &str {
    let version = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    let mut ends = implementation.match_indices('-').map(|(at, _)| at);
    let end = ends.find(|at| version(&implementation[at + 1..]));
    &implementation[..end.unwrap_or(implementation.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_languages_write_what_is_read_here() {
        let text = r#"{"variant":"tcp/noise/yamux","listener":1,"error":null,"measures":{"ping_rtt_s":0.01}}"#;
        let outcome: Outcome = serde_json::from_str(text).unwrap();
        assert_eq!((outcome.listener, outcome.measures["ping_rtt_s"]), (1, 0.01));
        assert_eq!(outcome.error, None);
        let entry: Entry =
            serde_json::from_str(r#"{"implementation":"js-1","peers":{},"addresses":{}}"#).unwrap();
        assert!(!entry.relay);
    }

    #[test]
    fn a_kind_has_no_version() {
        let kinds =
            ["js-libp2p-3.3", "beetswap-0.5", "groundswell-bitswap-on-libp2p-0.57", "x", "a-b"];
        let expected = ["js-libp2p", "beetswap", "groundswell-bitswap-on-libp2p", "x", "a-b"];
        assert_eq!(kinds.map(kind), expected);
    }
}
