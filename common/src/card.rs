//! The calibration card of a worker: what `worker bench` has measured on its host.
//!
//! It is kept as `card.json` in the worker's state directory and goes with the worker's registration. A figure that
//! is absent could not be measured there; `missing` says why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the card's form.
pub const CARD_VERSION: u32 = 1;
/// Its file in a worker's state directory.
pub const CARD_FILE: &str = "card.json";

/// What was measured, where and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The version of this form, [`CARD_VERSION`].
    pub v: u32,
    /// Groundswell's version that measured it.
    pub version: String,
    /// When, Unix milliseconds.
    pub measured_ms: u64,
    /// Where.
    pub host: HostFacts,
    /// What.
    pub figures: Figures,
    /// For each figure that is absent, why.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// What the figures depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// The processor's name.
    pub cpu_model: String,
    /// Processors that may be used.
    pub cores: u32,
    /// Memory that may be used, in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The version of control groups, `1` or `2`.
    pub cgroup_version: u32,
}

/// What was measured. Every field names its unit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Instances made ready and let go in a second, for each runtime.
    pub starts_per_second: BTreeMap<String, f64>,
    /// Packets of 64 bytes that the switch forwards in a second of one processor.
    pub packets_per_core_second: Option<f64>,
    /// Bits in a second of one TCP flow between two instances.
    pub flow_bps: Option<f64>,
    /// How much later than asked a sleeping thread wakes up, in microseconds: half of the times.
    pub wakeup_p50_us: Option<f64>,
    /// In 99 of 100 times.
    pub wakeup_p99_us: Option<f64>,
    /// Bytes in a second written to the state directory and forced to the disk.
    pub disk_write_bytes_per_second: Option<f64>,
    /// One small write forced to the disk, in microseconds: half of the times.
    pub fsync_p50_us: Option<f64>,
    /// In 99 of 100 times.
    pub fsync_p99_us: Option<f64>,
    /// Memory that nothing used when it was measured, in bytes.
    pub free_memory_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_of_a_later_version_is_read_as_far_as_it_is_known() {
        let text = r#"{"v":2,"version":"9","measured_ms":5,"host":{"cores":4,"gpu":"x"},
            "figures":{"flow_bps":1e9,"quanta":3},"weather":"fine"}"#;
        let card: Card = serde_json::from_str(text).expect("readable");
        assert_eq!((card.host.cores, card.figures.flow_bps), (4, Some(1e9)));
        assert!(card.figures.starts_per_second.is_empty());
    }
}
