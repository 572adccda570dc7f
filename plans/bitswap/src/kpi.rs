//! What a round is measured by.

use std::time::Duration;

use groundswell_bitswap::{FetchReport, Stats};
use groundswell_sdk::{Ctx, Result};

use crate::params::{Setting, size_name};
use crate::rig::Rig;

/// A counter's name, its unit, and where it is.
type Counter = (&'static str, &'static str, fn(&Stats) -> u64);

/// The historic counters, and what is beside them.
const COUNTERS: [Counter; 16] = [
    ("blks_sent", "count", |stats| stats.blks_sent),
    ("blks_rcvd", "count", |stats| stats.blks_rcvd),
    ("dup_blks_rcvd", "count", |stats| stats.dup_blks_rcvd),
    ("data_sent", "B", |stats| stats.data_sent),
    ("data_rcvd", "B", |stats| stats.data_rcvd),
    ("dup_data_rcvd", "B", |stats| stats.dup_data_rcvd),
    ("msgs_sent", "count", |stats| stats.msgs_sent),
    ("msgs_rcvd", "count", |stats| stats.msgs_rcvd),
    ("stream_data_sent", "B", |stats| stats.stream_data_sent),
    ("stream_data_rcvd", "B", |stats| stats.stream_data_rcvd),
    ("wants_rcvd", "count", |stats| stats.wants_rcvd),
    ("want_haves_rcvd", "count", |stats| stats.want_haves_rcvd),
    ("want_blocks_rcvd", "count", |stats| stats.want_blocks_rcvd),
    ("dont_haves_rcvd", "count", |stats| stats.dont_haves_rcvd),
    ("want_timeouts", "count", |stats| stats.timeouts),
    ("streams_lost", "count", |stats| stats.streams_lost),
];

/// Tags of everything that is recorded in a round.
#[derive(Debug, Clone)]
pub(crate) struct Tags(Vec<(&'static str, String)>);

impl Tags {
    pub(crate) fn of(setting: &Setting) -> Self {
        Self(vec![
            ("latency_ms", setting.latency_ms.to_string()),
            ("bandwidth_mbit", setting.bandwidth_mbit.to_string()),
            ("file_size", size_name(setting.size)),
        ])
    }

    pub(crate) fn and(&self, key: &'static str, value: impl ToString) -> Self {
        let mut tags = self.clone();
        tags.0.push((key, value.to_string()));
        tags
    }

    /// Records a number.
    pub(crate) fn point(&self, cx: &Ctx, name: &str, unit: &str, value: f64) {
        let point = cx.point(name, value).unit(unit);
        self.0.iter().fold(point, |point, (key, value)| point.tag(key, value)).record();
    }

    /// Records a time.
    pub(crate) fn time(&self, cx: &Ctx, name: &str, took: Duration) {
        self.point(cx, name, "s", took.as_secs_f64());
    }
}

/// Counters at the beginning of a round.
#[derive(Debug)]
pub(crate) struct Snapshot {
    stats: Stats,
    bytes_in: u64,
}

/// What was counted since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) data_sent: u64,
    pub(crate) blks_sent: u64,
}

impl Snapshot {
    pub(crate) async fn take(rig: &Rig) -> Result<Self> {
        let bytes_in = rig.node.stats().await?.bytes_in;
        Ok(Self { stats: rig.bitswap.stats().await?, bytes_in })
    }

    /// Records the counters since then.
    pub(crate) async fn record(&self, rig: &Rig, tags: &Tags) -> Result<Counted> {
        let now = rig.bitswap.stats().await?;
        for (name, unit, of) in COUNTERS {
            tags.point(&rig.cx, name, unit, (of(&now) - of(&self.stats)) as f64);
        }
        Ok(Counted {
            data_sent: now.data_sent - self.stats.data_sent,
            blks_sent: now.blks_sent - self.stats.blks_sent,
        })
    }

    /// Records how a fetch went; `size` bytes were useful.
    pub(crate) async fn record_fetch(
        &self,
        rig: &Rig,
        report: &FetchReport,
        size: u64,
        tags: &Tags,
    ) -> Result {
        let cx = &rig.cx;
        tags.time(cx, "time_to_fetch", report.took);
        if let Some(first) = report.first_block {
            tags.time(cx, "time_to_first_block", first);
        }
        let now = rig.bitswap.stats().await?;
        let blocks = (now.blks_rcvd - self.stats.blks_rcvd).max(1) as f64;
        let doubles = (now.dup_blks_rcvd - self.stats.dup_blks_rcvd) as f64;
        tags.point(cx, "dup_ratio", "ratio", doubles / blocks);
        let wire = (rig.node.stats().await?.bytes_in - self.bytes_in) as f64;
        tags.point(cx, "overhead_ratio", "ratio", wire / size.max(1) as f64);
        tags.point(cx, "goodput", "B/s", size as f64 / report.took.as_secs_f64().max(1e-9));
        Ok(())
    }
}

/// Gini's coefficient: 0 when all send the same, towards 1 when one sends everything.
pub(crate) fn gini(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    let (count, sum) = (values.len() as f64, values.iter().sum::<u64>() as f64);
    if sum <= 0.0 {
        return 0.0;
    }
    let ranked: f64 = values.iter().zip(1_u64..).map(|(v, rank)| *v as f64 * rank as f64).sum();
    2.0 * ranked / (count * sum) - (count + 1.0) / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_fair_and_one_sender_is_not() {
        assert!(gini(vec![5, 5, 5, 5]).abs() < 1e-9);
        assert!((gini(vec![0, 0, 0, 8]) - 0.75).abs() < 1e-9);
        assert!(gini(vec![0, 0]).abs() < 1e-9);
        assert!((gini(vec![1, 3]) - 0.25).abs() < 1e-9);
    }
}
