//! The parameters.

use std::time::Duration;

use groundswell_bitswap::{Fetch, Order};
use groundswell_sdk::{Bytes, Ctx, Rate, Result, ensure};
use serde::Deserialize;

/// What every case knows.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Params {
    pub(crate) seed: u64,
    pub(crate) file_size: Bytes,
    pub(crate) block_size: Bytes,
    pub(crate) latency: Duration,
    pub(crate) jitter_pct: f64,
    pub(crate) bandwidth: Option<Rate>,
    pub(crate) window: usize,
    pub(crate) replication: usize,
    pub(crate) find_timeout: Duration,
    pub(crate) fetch_timeout: Duration,
    pub(crate) stagger: Duration,
    pub(crate) settle: Duration,
}

impl Params {
    pub(crate) fn read(cx: &Ctx) -> Result<Self> {
        let params: Self = cx.params()?;
        let block = params.block_size.0;
        ensure!(
            (1..=2 << 20).contains(&block),
            "`block_size` is {block}B; a block has between 1B and 2MiB, take 256KiB"
        );
        ensure!(
            params.replication > 0,
            "`replication` is 0, so that nobody keeps a record; take 20"
        );
        Ok(params)
    }

    pub(crate) fn fetch(&self) -> Fetch {
        // In order: this is about somebody who reads while it comes.
        Fetch {
            order: Order::Given,
            window: self.window,
            timeout: self.fetch_timeout,
            ..Fetch::default()
        }
    }
}
