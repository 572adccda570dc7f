//! How true the data network was to its configuration: what each worker measured, and what that adds up to.
//!
//! A worker counts in a [`NetworkReport`]; [`grade::judge`] compares the reports of a run with what was
//! configured and gives the [`Fidelity`] that people and programs see. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::link::LinkShape;

pub mod grade;
pub mod histogram;
pub mod interval;
pub mod probe;

pub use grade::{Fidelity, Grade, LaneFidelity, judge, unmet};
pub use histogram::Histogram;
pub use probe::ProbeReport;

/// How many stalls are listed; the others are counted.
pub const STALLS_LISTED: usize = 20;
/// How many different shapes are counted apart; packets of all others are counted together.
pub const LANES_COUNTED: usize = 256;

/// What one worker measured of a run's data network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkReport {
    /// What happened to the packets of each shape.
    pub lanes: Vec<LaneReport>,
    /// Packets by what became of them, in the words of the data plane.
    pub fates: BTreeMap<String, u64>,
    /// When the data plane did not keep up.
    pub stalls: Stalls,
    /// Packets the instances' interfaces dropped because the data plane did not take them in time; absent
    /// when that could not be read.
    pub interface_drops: Option<u64>,
    /// What probes between instances measured.
    pub probes: ProbeReport,
    /// What this kind of data network cannot measure, each a sentence.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unseen: BTreeSet<String>,
}

/// What happened to the packets that were treated by one shape, of all senders of a worker together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneReport {
    /// How they were to be treated; absent for all shapes beyond [`LANES_COUNTED`] together.
    pub shape: Option<LinkShape>,
    /// Packets that came.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that a filter dropped or rejected.
    pub filtered: u64,
    /// Packets that would have waited too long for their turn at the configured rate.
    pub overrun: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets that were doubled.
    pub duplicated: u64,
    /// Packets of which a bit was flipped.
    pub corrupted: u64,
    /// Packets dropped because too many were waiting for their time: not configured, but the rig's limit.
    pub no_memory: u64,
    /// How late each packet was written: when it was written, less when it was due.
    pub late: Histogram,
    /// The times in which senders had more to send than the rate allows.
    pub busy: Busy,
    /// Whether what became of packets by chance is not known in numbers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub uncounted: bool,
}

/// The times in which packets waited for their turn at a rate: only then it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Busy {
    /// Bytes that left in these times.
    pub bytes: u64,
    /// How long they were together, measured between the writing of packets.
    pub time: Duration,
    /// How many such times there were.
    pub periods: u64,
}

/// Times longer than a millisecond in which a thread of the data plane did nothing although it had to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stalls {
    /// The first of them.
    pub listed: Vec<Stall>,
    /// How many there were beyond those.
    pub more: u64,
    /// The longest of all.
    pub longest: Duration,
}

/// One such time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stall {
    /// When it began, counted from when the worker opened the run's network.
    pub at: Duration,
    /// How long it was.
    pub length: Duration,
}

impl NetworkReport {
    /// Adds what another thread or worker has measured.
    pub fn merge(&mut self, other: Self) {
        for lane in other.lanes {
            self.merge_lane(lane);
        }
        for (fate, count) in other.fates {
            *self.fates.entry(fate).or_default() += count;
        }
        self.stalls.merge(other.stalls);
        self.probes.merge(&other.probes);
        self.unseen.extend(other.unseen);
        self.interface_drops =
            self.interface_drops.zip(other.interface_drops).map(|(one, two)| one + two);
    }

    fn merge_lane(&mut self, lane: LaneReport) {
        let room = self.lanes.len() < LANES_COUNTED;
        let same = |known: &&mut LaneReport| known.shape == lane.shape;
        if let Some(known) = self.lanes.iter_mut().find(same) {
            known.merge(&lane);
        } else if room {
            self.lanes.push(lane);
        } else {
            self.merge_lane_with_others(lane);
        }
    }

    fn merge_lane_with_others(&mut self, lane: LaneReport) {
        match self.lanes.iter_mut().find(|known| known.shape.is_none()) {
            Some(others) => others.merge(&lane),
            None => self.lanes.push(LaneReport { shape: None, ..lane }),
        }
    }
}

impl LaneReport {
    /// Adds what was counted for the same shape elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.filtered += other.filtered;
        self.overrun += other.overrun;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.no_memory += other.no_memory;
        self.late.merge(&other.late);
        self.busy.bytes += other.busy.bytes;
        self.busy.time += other.busy.time;
        self.busy.periods += other.busy.periods;
        self.uncounted |= other.uncounted;
    }
}

impl Stalls {
    /// Notes one.
    pub fn push(&mut self, stall: Stall) {
        self.longest = self.longest.max(stall.length);
        if self.listed.len() < STALLS_LISTED {
            self.listed.push(stall);
        } else {
            self.more += 1;
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.listed.len() as u64 + self.more
    }

    /// Adds those of another thread or worker.
    pub fn merge(&mut self, other: Self) {
        self.longest = self.longest.max(other.longest);
        self.more += other.more;
        self.listed.extend(other.listed);
        self.listed.sort();
        self.more += self.listed.len().saturating_sub(STALLS_LISTED) as u64;
        self.listed.truncate(STALLS_LISTED);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(latency_ms: u64, packets: u64) -> LaneReport {
        let mut late = Histogram::default();
        (0..packets).for_each(|packet| late.record(packet * 1_000));
        let latency = Duration::from_millis(latency_ms);
        let shape = Some(LinkShape { latency, ..LinkShape::default() });
        LaneReport { shape, packets, late, ..LaneReport::default() }
    }

    fn report() -> impl Strategy<Value = NetworkReport> {
        let lanes = prop::collection::vec((0..5_u64, 0..20_u64), 0..6);
        let stalls = prop::collection::vec(1..100_u64, 0..30);
        (lanes, stalls, any::<Option<u16>>()).prop_map(|(lanes, stalls, drops)| {
            let mut report = NetworkReport { interface_drops: Some(0), ..NetworkReport::default() };
            for (latency_ms, packets) in lanes {
                report.merge_lane(lane(latency_ms, packets));
                *report.fates.entry("delivered".to_owned()).or_default() += packets;
            }
            for ms in stalls {
                let length = Duration::from_millis(ms);
                report.stalls.push(Stall { at: length * 3, length });
            }
            report.interface_drops = drops.map(u64::from);
            report
        })
    }

    /// What must not depend on the order of merging.
    fn essence(report: &NetworkReport) -> (u64, u64, u64, Duration, Option<u64>) {
        let packets = report.lanes.iter().map(|lane| lane.packets).sum();
        let late = report.lanes.iter().map(|lane| lane.late.count()).sum();
        (packets, late, report.stalls.count(), report.stalls.longest, report.interface_drops)
    }

    proptest! {
        #[test]
        fn merging_loses_nothing_in_any_order(reports in prop::collection::vec(report(), 1..5)) {
            let merged = |reports: &[NetworkReport]| {
                let mut all = NetworkReport { interface_drops: Some(0), ..NetworkReport::default() };
                reports.iter().cloned().for_each(|report| all.merge(report));
                all
            };
            let forward = merged(&reports);
            let backward = merged(&reports.iter().rev().cloned().collect::<Vec<_>>());
            prop_assert_eq!(essence(&forward), essence(&backward));
            let packets: u64 = reports.iter().flat_map(|r| &r.lanes).map(|l| l.packets).sum();
            prop_assert_eq!(essence(&forward).0, packets);
            prop_assert!(forward.stalls.listed.len() <= STALLS_LISTED);
        }
    }

    #[test]
    fn too_many_shapes_are_counted_together() {
        let mut report = NetworkReport::default();
        (0..LANES_COUNTED as u64 + 10).for_each(|ms| report.merge_lane(lane(ms, 2)));
        assert_eq!(report.lanes.len(), LANES_COUNTED + 1);
        let others = report.lanes.iter().find(|lane| lane.shape.is_none()).expect("counted");
        assert_eq!(others.packets, 20);
    }

    #[test]
    fn what_was_not_measured_is_not_zero() {
        let mut report = NetworkReport { interface_drops: Some(3), ..NetworkReport::default() };
        report.merge(NetworkReport::default());
        assert_eq!(report.interface_drops, None);
    }
}
