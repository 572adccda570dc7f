//! What one instance may use of things that it shares with others and that no control group counts.

use serde::{Deserialize, Serialize};

/// What an instance may leave in its outputs and use of the sync. One that uses more has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// Bytes of its outputs.
    pub outputs_bytes: u64,
    /// Files, directories and whatever else has a name in its outputs.
    pub outputs_files: u64,
    /// Bytes on the disk of its temporary directory.
    pub temp_bytes: u64,
    /// Operations on the sync in a second. One that asks for more is slowed down.
    pub sync_ops_per_second: u32,
    /// Bytes of the run's sync log that are its doing.
    pub sync_bytes: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            outputs_bytes: 1 << 30,
            outputs_files: 10_000,
            temp_bytes: 10 << 30,
            sync_ops_per_second: 10_000,
            sync_bytes: 64 << 20,
        }
    }
}
