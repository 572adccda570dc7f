//! The parameters, under their historic names.

use std::time::Duration;

use groundswell_bitswap::{Config, Fetch, Order, Policy};
use groundswell_sdk::{Bytes, Ctx, Percent, Result, ensure};
use serde::Deserialize;

/// What every case knows.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Params {
    pub(crate) seed: u64,
    pub(crate) run_count: u32,
    pub(crate) run_timeout: Duration,
    pub(crate) leech_count: u32,
    pub(crate) passive_count: u32,
    pub(crate) seeder_pct: Percent,
    pub(crate) file_size: Vec<Bytes>,
    pub(crate) block_size: Bytes,
    pub(crate) bstore_delay_ms: u64,
    pub(crate) request_stagger: Duration,
    pub(crate) latency_ms: Vec<u64>,
    pub(crate) jitter_pct: f64,
    pub(crate) bandwidth_mbit: Vec<u64>,
    pub(crate) max_connection_rate: Percent,
    pub(crate) window: usize,
    pub(crate) policy: String,
    pub(crate) bitswap_version: String,
    /// A dataset with a file that takes the place of generated ones.
    pub(crate) input_data: String,
    pub(crate) settle: Duration,
}

impl Params {
    /// Reads them and refuses what cannot be.
    pub(crate) fn read(cx: &Ctx) -> Result<Self> {
        let params: Self = cx.params()?;
        ensure!(params.block_size.0 > 0, "`block_size` is 0; take 256KiB");
        ensure!(params.block_size.0 <= 2 << 20, "`block_size` is more than 2MiB, Bitswap's limit");
        ensure!(!params.file_size.is_empty(), "`file_size` is empty; take [\"4MiB\"]");
        ensure!(!params.latency_ms.is_empty(), "`latency_ms` is empty; take [0]");
        ensure!(!params.bandwidth_mbit.is_empty(), "`bandwidth_mbit` is empty; take [0]");
        let (policy, version) = (&params.policy, &params.bitswap_version);
        ensure!(
            ["session", "broadcast"].contains(&policy.as_str()),
            "`policy` is `{policy}`; there are `session` and `broadcast`"
        );
        ensure!(
            ["1.1.0", "1.2.0"].contains(&version.as_str()),
            "`bitswap_version` is `{version}`; there are `1.1.0` and `1.2.0`"
        );
        Ok(params)
    }

    /// Whether this instance speaks the old protocol only.
    pub(crate) fn legacy(&self) -> bool {
        self.bitswap_version == "1.1.0"
    }

    pub(crate) fn config(&self, index: u32) -> Config {
        Config {
            legacy: self.legacy(),
            store_delay: Duration::from_millis(self.bstore_delay_ms),
            seed: self.seed.wrapping_add(u64::from(index)),
            ..Config::default()
        }
    }

    pub(crate) fn fetch(&self) -> Fetch {
        let policy = if self.policy == "broadcast" { Policy::Broadcast } else { Policy::Session };
        Fetch {
            policy,
            order: Order::Rarest,
            window: self.window,
            timeout: self.run_timeout,
            ..Fetch::default()
        }
    }

    pub(crate) fn block_bytes(&self) -> usize {
        usize::try_from(self.block_size.0).unwrap_or(usize::MAX)
    }

    /// Every combination of latency, bandwidth, file size and run.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for latency_ms in &self.latency_ms {
            for bandwidth_mbit in &self.bandwidth_mbit {
                for size in &self.file_size {
                    for run in 0..self.run_count {
                        settings.push(Setting {
                            number: settings.len(),
                            latency_ms: *latency_ms,
                            bandwidth_mbit: *bandwidth_mbit,
                            size: *size,
                            run,
                        });
                    }
                }
            }
        }
        settings
    }
}

/// What a round is done under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its place among all. Groups may have links of their own, so that this
    /// is what instances have in common.
    number: usize,
    pub(crate) latency_ms: u64,
    /// 0 for no limit.
    pub(crate) bandwidth_mbit: u64,
    pub(crate) size: Bytes,
    pub(crate) run: u32,
}

impl Setting {
    /// A name for barriers and topics.
    pub(crate) fn name(&self) -> String {
        self.number.to_string()
    }

    /// What one file takes on one link at its full rate.
    pub(crate) fn file_time(&self) -> Option<Duration> {
        let bits = self.size.0 as f64 * 8.0;
        let rate = self.bandwidth_mbit as f64 * 1e6;
        (self.bandwidth_mbit > 0).then(|| Duration::from_secs_f64(bits / rate))
    }
}

/// A size as in parameters.
pub(crate) fn size_name(Bytes(size): Bytes) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, scale)| size > 0 && size.is_multiple_of(*scale));
    unit.map_or_else(|| format!("{size}B"), |(name, scale)| format!("{}{name}", size / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_in_their_largest_whole_unit() {
        let names = [4 << 20, 1 << 30, 1536 << 10, 49_000, 0].map(|size| size_name(Bytes(size)));
        assert_eq!(names, ["4MiB", "1GiB", "1536KiB", "49000B", "0B"]);
    }

    #[test]
    fn a_file_takes_its_bits_at_the_rate() {
        let size = Bytes(12_500_000);
        let setting = Setting { number: 3, latency_ms: 5, bandwidth_mbit: 100, size, run: 0 };
        assert_eq!(setting.file_time(), Some(Duration::from_secs(1)));
        assert_eq!(Setting { bandwidth_mbit: 0, ..setting }.file_time(), None);
        assert_eq!(setting.name(), "3");
    }
}
