//! Compares what was configured with what was achieved, and says in one word how far to trust it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::interval::{joint_z, wilson};
use super::{Busy, Histogram, LaneReport, NetworkReport, ProbeReport, Stall};
use crate::ids::WorkerId;
use crate::link::LinkShape;

/// What a grade allows. These two are all thresholds there are.
struct Threshold {
    /// Lateness that 99 of 100 packets do not exceed.
    late_p99: Duration,
    /// How often the data plane may stand still; absent is any number.
    stalls: Option<u64>,
    /// Deviation of the rate beyond one packet and the lateness at both ends of each busy time.
    rate: f64,
    /// Share of packets that the rig dropped on its own account.
    dropped: f64,
    /// What 99 of 100 round trips between instances exceed what was configured by.
    probe_p99: Duration,
}

/// p99 is the acceptance target of the switch, and so is the rate.
const EXACT: Threshold = Threshold {
    late_p99: Duration::from_micros(300),
    stalls: Some(0),
    rate: 0.001,
    dropped: 0.0,
    // Two ways, and twice the time in which a kernel wakes who waits for a packet.
    probe_p99: Duration::from_millis(1),
};
/// Differences of this size are lost in what a test of a distributed system measures.
const GOOD: Threshold = Threshold {
    late_p99: Duration::from_millis(2),
    stalls: None,
    rate: 0.01,
    dropped: 0.001,
    probe_p99: Duration::from_millis(5),
};

/// A rate is only told when less than this share of the time is explained by one packet and lateness.
const TELLING: f64 = 0.1;
/// One packet more or less is no deviation of a rate.
const PACKET: f64 = 1_500.0;

/// How true a run's data network was to its configuration. Later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// No packet was sent, so none was treated other than configured.
    Idle,
    /// As configured, as far as this kind of machine allows.
    Exact,
    /// Deviations are smaller than what most tests look at.
    Good,
    /// No deviation was seen, and the data network cannot see all there may be.
    Unproven,
    /// Look at the reasons before you trust what the run has measured.
    Degraded,
}

impl Grade {
    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Exact => "exact",
            Self::Good => "good",
            Self::Unproven => "unproven",
            Self::Degraded => "degraded",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Percentiles of the lateness of packets, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Late {
    /// Half of them were not later.
    pub p50_ns: u64,
    /// Nine of ten were not later.
    pub p90_ns: u64,
    /// Ninety-nine of a hundred were not later.
    pub p99_ns: u64,
    /// None was later.
    pub max_ns: u64,
}

impl Late {
    fn of(histogram: &Histogram) -> Self {
        Self {
            p50_ns: histogram.quantile(0.5),
            p90_ns: histogram.quantile(0.9),
            p99_ns: histogram.quantile(0.99),
            max_ns: histogram.max(),
        }
    }
}

/// A share that was configured, and what came of it. All are shares of one, not percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ShareFidelity {
    /// What was configured.
    pub configured: f64,
    /// What was counted.
    pub achieved: f64,
    /// Between these lies the true share, for all shares of the report together with 99 %.
    pub interval: (f64, f64),
    /// Whether the configured one lies between them.
    pub holds: bool,
}

/// A rate that was configured, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateFidelity {
    /// What was configured, in bits per second.
    pub configured_bps: u64,
    /// What was achieved while more was to be sent than that; absent when that was never so for long enough.
    pub achieved_bps: Option<f64>,
    /// The deviation from what was configured, beyond what one packet and the lateness at both ends of each
    /// busy time explain; a share of one.
    pub off: f64,
}

/// What was configured and what was achieved for one shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneFidelity {
    /// The shape in words.
    pub what: String,
    /// The shape; absent for the sum of all beyond the first few hundred.
    pub shape: Option<LinkShape>,
    /// Packets that came.
    pub packets: u64,
    /// Packets a filter dropped or rejected.
    pub filtered: u64,
    /// Packets that would have waited too long for their turn at the rate.
    pub overrun: u64,
    /// How late packets were written: the error of the delay.
    pub late: Late,
    /// Loss.
    pub loss: Option<ShareFidelity>,
    /// Duplication.
    pub duplication: Option<ShareFidelity>,
    /// Corruption.
    pub corruption: Option<ShareFidelity>,
    /// Rate; absent when none was configured.
    pub rate: Option<RateFidelity>,
}

/// How true the data network of a run was to its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// In one word.
    pub grade: Grade,
    /// Why it is not `exact`, each a sentence.
    pub reasons: Vec<String>,
    /// Packets that instances have sent to each other.
    pub packets: u64,
    /// How late packets were written.
    pub late: Late,
    /// Each shape.
    pub lanes: Vec<LaneFidelity>,
    /// Packets by what became of them.
    pub fates: BTreeMap<String, u64>,
    /// Packets dropped because too many were waiting for their time.
    pub no_memory: u64,
    /// Packets the instances' interfaces dropped; absent when that was not measured.
    pub interface_drops: Option<u64>,
    /// The first times in which the data plane did not keep up, and where.
    pub stalls: Vec<(WorkerId, Stall)>,
    /// How many such times there were in all.
    pub stalls_total: u64,
    /// What small packets between instances measured; absent when there were none.
    pub probes: Option<ProbeFidelity>,
    /// Workers that did not report.
    pub unmeasured: Vec<WorkerId>,
    /// What this kind of data network cannot measure, lateness among it; each a sentence.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unseen: BTreeSet<String>,
}

/// What was configured between instances, and what probes between them found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeFidelity {
    /// Pairs of instances that probed.
    pub pairs: u64,
    /// Probes sent.
    pub sent: u64,
    /// How much longer the round trips took than configured; absent when every path varies on purpose.
    pub late: Option<Late>,
    /// How much shorter than configured the shortest was, in nanoseconds.
    pub earliest_ns: u64,
    /// Probes and answers lost or damaged; absent when none was and none was to be.
    pub loss: Option<ShareFidelity>,
}

impl Fidelity {
    /// In one line: `exact · 12,345 packets · late p50 20 µs p99 81 µs max 1.2 ms`.
    #[must_use]
    pub fn line(&self) -> String {
        let late = &self.late;
        if !self.unseen.is_empty() {
            let packets = grouped(self.packets);
            return format!("{} · {packets} packets · lateness not measured", self.grade);
        }
        format!(
            "{} · {} packets · late p50 {} p99 {} max {}",
            self.grade,
            grouped(self.packets),
            time(late.p50_ns),
            time(late.p99_ns),
            time(late.max_ns)
        )
    }
}

/// What the reports of a run's workers say together; absent when no worker has reported.
#[must_use]
pub fn judge(parts: &[(WorkerId, Option<&NetworkReport>)]) -> Option<Fidelity> {
    let measured = || parts.iter().filter_map(|(worker, report)| Some((worker, (*report)?)));
    let mut all = NetworkReport { interface_drops: Some(0), ..NetworkReport::default() };
    measured().next()?;
    measured().for_each(|(_, report)| all.merge(report.clone()));
    let mut late = Histogram::default();
    all.lanes.iter().for_each(|lane| late.merge(&lane.late));
    let shares = all.lanes.iter().filter(|lane| lane.shape.is_some_and(by_chance)).count() * 3;
    let lanes: Vec<_> = all.lanes.iter().map(|lane| compare(lane, joint_z(shares))).collect();
    let stalls = measured()
        .flat_map(|(worker, report)| report.stalls.listed.iter().map(|one| (worker.clone(), *one)))
        .take(super::STALLS_LISTED)
        .collect();
    let unmeasured = parts.iter().filter(|(_, report)| report.is_none());
    let mut fidelity = Fidelity {
        grade: Grade::Idle,
        reasons: Vec::new(),
        packets: all.lanes.iter().map(|lane| lane.packets).sum(),
        late: Late::of(&late),
        lanes,
        fates: all.fates,
        no_memory: all.lanes.iter().map(|lane| lane.no_memory).sum(),
        interface_drops: all.interface_drops,
        stalls,
        stalls_total: all.stalls.count(),
        probes: probed(&all.probes, joint_z(shares + 1)),
        unmeasured: unmeasured.map(|(worker, _)| worker.clone()).collect(),
        unseen: all.unseen,
    };
    grade(&mut fidelity, all.stalls.longest);
    Some(fidelity)
}

/// Why a run whose network was to be at least `required` does not meet that; absent when it does.
///
/// A run that sent nothing meets it: no packet was treated other than configured.
#[must_use]
pub fn unmet(fidelity: Option<&Fidelity>, required: Grade) -> Option<String> {
    let Some(fidelity) = fidelity else {
        return Some(format!("the network was to be {required}, and it was not measured"));
    };
    if !fidelity.unmeasured.is_empty() {
        let workers = names(&fidelity.unmeasured);
        return Some(format!(
            "the network was to be {required}, and it was not measured on {workers}"
        ));
    }
    (fidelity.grade > required).then(|| {
        let (grade, why) = (fidelity.grade, fidelity.reasons.join("; "));
        format!("the network was to be {required} and was {grade}: {why}")
    })
}

#[expect(clippy::cast_precision_loss, reason = "there are far fewer probes than 2^53")]
fn probed(probes: &ProbeReport, z: f64) -> Option<ProbeFidelity> {
    let configured = probes.loss_expected / probes.sent as f64;
    let interval = wilson(probes.lost, probes.sent, 0.0, z);
    (probes.sent > 0).then(|| ProbeFidelity {
        pairs: probes.pairs,
        sent: probes.sent,
        late: (probes.late.count() > 0).then(|| Late::of(&probes.late)),
        earliest_ns: probes.earliest_ns,
        loss: (probes.lost > 0 || configured > 0.0).then(|| ShareFidelity {
            configured,
            achieved: probes.lost as f64 / probes.sent as f64,
            interval,
            holds: interval.0 <= configured && configured <= interval.1,
        }),
    })
}

fn by_chance(shape: LinkShape) -> bool {
    shape.loss_pct > 0.0 || shape.duplicate_pct > 0.0 || shape.corrupt_pct > 0.0
}

fn compare(lane: &LaneReport, z: f64) -> LaneFidelity {
    let decided = lane.packets - (lane.filtered + lane.overrun).min(lane.packets);
    let passed = decided - lane.lost.min(decided);
    let share = |hits, count, pct: fn(&LinkShape) -> (f32, f32)| {
        let shape = lane.shape.as_ref().filter(|_| !lane.uncounted);
        shape.and_then(|shape| share(hits, count, pct(shape), z))
    };
    LaneFidelity {
        what: lane.shape.as_ref().map_or_else(|| "all other shapes".to_owned(), describe),
        shape: lane.shape,
        packets: lane.packets,
        filtered: lane.filtered,
        overrun: lane.overrun,
        late: Late::of(&lane.late),
        loss: share(lane.lost, decided, |shape| (shape.loss_pct, 0.0)),
        duplication: share(lane.duplicated, passed, |shape| {
            (shape.duplicate_pct, shape.duplicate_corr_pct)
        }),
        corruption: share(lane.corrupted, passed, |shape| {
            (shape.corrupt_pct, shape.corrupt_corr_pct)
        }),
        rate: lane.shape.filter(|shape| shape.bandwidth_bps > 0).map(|shape| {
            rate(shape.bandwidth_bps, &lane.busy, Duration::from_nanos(lane.late.quantile(0.99)))
        }),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of more than 2^53 packets is exact enough")]
fn share(hits: u64, count: u64, pct: (f32, f32), z: f64) -> Option<ShareFidelity> {
    let (configured, correlation) = (f64::from(pct.0) / 100.0, f64::from(pct.1) / 100.0);
    if count == 0 || (configured <= 0.0 && hits == 0) {
        return None;
    }
    let interval = wilson(hits, count, correlation, z);
    Some(ShareFidelity {
        configured,
        achieved: hits as f64 / count as f64,
        interval,
        holds: interval.0 <= configured && configured <= interval.1,
    })
}

#[expect(clippy::cast_precision_loss, reason = "2^53 bytes are enough to tell a rate")]
fn rate(configured_bps: u64, busy: &Busy, late: Duration) -> RateFidelity {
    if busy.bytes == 0 || busy.time.is_zero() {
        return RateFidelity { configured_bps, achieved_bps: None, off: 0.0 };
    }
    let (bytes, time, periods) = (busy.bytes as f64, busy.time.as_secs_f64(), busy.periods as f64);
    let wanted = bytes * 8.0 / configured_bps as f64;
    let explained = periods * (PACKET * 8.0 / configured_bps as f64 + late.as_secs_f64());
    let off = ((time - wanted).abs() - explained).max(0.0) / wanted;
    let achieved_bps = (explained < TELLING * wanted || off > 0.0).then_some(bytes * 8.0 / time);
    RateFidelity { configured_bps, achieved_bps, off }
}

/// Gives the grade and its reasons.
fn grade(fidelity: &mut Fidelity, longest_stall: Duration) {
    let mut found: Vec<(Grade, String)> = Vec::new();
    if !fidelity.unmeasured.is_empty() {
        let text = format!("the network was not measured on {}", names(&fidelity.unmeasured));
        found.push((Grade::Degraded, text));
    }
    if fidelity.packets > 0 {
        found.push((Grade::Exact, String::new()));
        found.extend(fidelity.unseen.iter().map(|text| (Grade::Unproven, text.clone())));
        found.extend(lateness(fidelity, longest_stall));
        found.extend(dropped(fidelity));
        fidelity.lanes.iter().for_each(|lane| found.extend(deviations(lane)));
        fidelity.probes.iter().for_each(|probes| found.extend(probe_deviations(probes)));
    }
    found.sort_by_key(|(grade, _)| std::cmp::Reverse(*grade));
    fidelity.grade = found.first().map_or(Grade::Idle, |(grade, _)| *grade);
    let reasons = found.into_iter().filter(|(grade, _)| *grade > Grade::Exact);
    fidelity.reasons = reasons.map(|(_, text)| text).collect();
}

fn lateness(fidelity: &Fidelity, longest_stall: Duration) -> Vec<(Grade, String)> {
    let mut found = Vec::new();
    let p99 = Duration::from_nanos(fidelity.late.p99_ns);
    let of_p99 = level(p99 <= EXACT.late_p99, p99 <= GOOD.late_p99);
    let late = time(fidelity.late.p99_ns);
    found.push((of_p99, format!("one packet in a hundred was more than {late} late")));
    let stalls = fidelity.stalls_total;
    let longest = time(nanoseconds(longest_stall));
    let times = if stalls == 1 { "once".to_owned() } else { format!("{stalls} times") };
    let text = format!("the data plane stood still {times} for more than 1 ms, {longest} at most");
    let within = |most: Option<u64>| most.is_none_or(|most| stalls <= most);
    found.push((level(within(EXACT.stalls), within(GOOD.stalls)), text));
    found
}

#[expect(clippy::cast_precision_loss, reason = "a share of more than 2^53 packets is exact enough")]
fn dropped(fidelity: &Fidelity) -> Vec<(Grade, String)> {
    let drops = [
        (fidelity.no_memory, "packets were dropped because too many waited for their time"),
        (
            fidelity.interface_drops.unwrap_or(0),
            "packets were dropped by instances' own interfaces: more came at once than they take",
        ),
    ];
    let all = (fidelity.packets + drops[1].0) as f64;
    let graded = drops.into_iter().map(|(count, text)| {
        let share = count as f64 / all;
        let grade = level(share <= EXACT.dropped, share <= GOOD.dropped);
        (grade, format!("{} {text}", grouped(count)))
    });
    graded.collect()
}

fn deviations(lane: &LaneFidelity) -> Vec<(Grade, String)> {
    let shares =
        [(lane.loss, "lost"), (lane.duplication, "doubled"), (lane.corruption, "corrupted")];
    let mut found: Vec<_> = shares
        .into_iter()
        .filter_map(|(share, word)| Some((share.filter(|share| !share.holds)?, word)))
        .map(|(share, word)| {
            let (wanted, got) = (percent(share.configured), percent(share.achieved));
            let text = format!("{got} of the packets with {} were {word}, not {wanted}", lane.what);
            (Grade::Degraded, text)
        })
        .collect();
    if let Some((rate, achieved)) = lane.rate.and_then(|rate| Some((rate, rate.achieved_bps?))) {
        let (wanted, got) = (bits(rate.configured_bps), bits_of(achieved));
        let text = format!("packets with {} left at {got}, not at {wanted}", lane.what);
        found.push((level(rate.off <= EXACT.rate, rate.off <= GOOD.rate), text));
    }
    found
}

fn probe_deviations(probes: &ProbeFidelity) -> Vec<(Grade, String)> {
    let mut found = Vec::new();
    if let Some(late) = &probes.late {
        let p99 = Duration::from_nanos(late.p99_ns);
        let text = format!(
            "one round trip in a hundred between instances took more than {} longer than configured",
            time(late.p99_ns)
        );
        found.push((level(p99 <= EXACT.probe_p99, p99 <= GOOD.probe_p99), text));
    }
    if probes.earliest_ns > nanoseconds(EXACT.probe_p99) {
        let text = format!(
            "a round trip between instances took {} less than configured",
            time(probes.earliest_ns)
        );
        found.push((Grade::Degraded, text));
    }
    if let Some(loss) = probes.loss.filter(|loss| !loss.holds) {
        let (wanted, got) = (percent(loss.configured), percent(loss.achieved));
        let text = format!("{got} of the probes between instances were lost, not {wanted}");
        found.push((Grade::Degraded, text));
    }
    found
}

fn level(exact: bool, good: bool) -> Grade {
    match (exact, good) {
        (true, _) => Grade::Exact,
        (false, true) => Grade::Good,
        (false, false) => Grade::Degraded,
    }
}

fn names(workers: &[WorkerId]) -> String {
    let names: Vec<String> = workers.iter().map(|worker| format!("worker {worker}")).collect();
    names.join(", ")
}

/// A shape in words: `100 ms ± 5 ms, 1 Mbit/s, 5 % loss`.
#[must_use]
pub fn describe(shape: &LinkShape) -> String {
    let mut parts = Vec::new();
    if !shape.latency.is_zero() {
        let jitter = match shape.jitter.is_zero() {
            true => String::new(),
            false => format!(" ± {}", time(nanoseconds(shape.jitter))),
        };
        parts.push(format!("{}{jitter}", time(nanoseconds(shape.latency))));
    }
    if shape.bandwidth_bps > 0 {
        parts.push(bits(shape.bandwidth_bps));
    }
    for (pct, word) in [
        (shape.loss_pct, "loss"),
        (shape.duplicate_pct, "duplication"),
        (shape.corrupt_pct, "corruption"),
        (shape.reorder_pct, "reordering"),
    ] {
        if pct > 0.0 {
            parts.push(format!("{} {word}", percent(f64::from(pct) / 100.0)));
        }
    }
    if parts.is_empty() { "no shape".to_owned() } else { parts.join(", ") }
}

/// Nanoseconds with two or three figures and a unit.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "it is cut to three figures")]
pub fn time(nanoseconds: u64) -> String {
    let ns = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => figures(ns / 1e3, "µs"),
        1_000_000..1_000_000_000 => figures(ns / 1e6, "ms"),
        _ => figures(ns / 1e9, "s"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is cut to three figures")]
fn bits(per_second: u64) -> String {
    bits_of(per_second as f64)
}

fn bits_of(per_second: f64) -> String {
    match per_second {
        ..1e3 => figures(per_second, "bit/s"),
        ..1e6 => figures(per_second / 1e3, "kbit/s"),
        ..1e9 => figures(per_second / 1e6, "Mbit/s"),
        _ => figures(per_second / 1e9, "Gbit/s"),
    }
}

/// A share as percent.
#[must_use]
pub fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn figures(value: f64, unit: &str) -> String {
    let text = if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A number as people read it: `12,345`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
