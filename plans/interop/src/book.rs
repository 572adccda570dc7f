//! What instances tell each other, in whatever language they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The implementation with its version; also the agent it must claim to be.
    pub(crate) implementation: String,
    /// Its peer id for each stack that it listens with.
    pub(crate) peers: BTreeMap<String, String>,
    /// Its addresses for each stack that it listens with, peer ids at their ends.
    pub(crate) addresses: BTreeMap<String, Vec<String>>,
}

/// What came of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// With which stack, or through which relay.
    pub(crate) variant: String,
    /// The instance that was dialled.
    pub(crate) listener: u32,
    /// Why it failed, if it did.
    pub(crate) error: Option<String>,
    /// What was measured, by the KPI's name, in seconds.
    pub(crate) measures: BTreeMap<String, f64>,
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
    }
}
