//! What is said about a run's data network in words. Pure.

use groundswell_common::fidelity::grade::{
    Late, ProbeFidelity, RateFidelity, ShareFidelity, grouped, percent, time,
};
use groundswell_common::fidelity::{Fidelity, Grade, LaneFidelity};

use super::out::{Out, Paint};

/// How many reasons the summary shows.
const REASONS: usize = 3;
/// How many shapes the details show.
const LANES: usize = 20;
/// How many stalls the details show.
const STALLS: usize = 5;

/// For the summary of a run; nothing when no packet was sent.
pub(crate) fn lines(out: &Out, network: &Fidelity) -> Vec<String> {
    if network.packets == 0 && network.unmeasured.is_empty() {
        return Vec::new();
    }
    let word = network.grade.as_str();
    let line = network.line();
    let rest = line.strip_prefix(word).unwrap_or(&line);
    let mut lines =
        vec![format!("  network    {}{rest}", out.paint(paint_of(network.grade), word))];
    let reasons = network.reasons.iter().take(REASONS);
    lines.extend(reasons.map(|reason| format!("             {reason}")));
    if network.reasons.len() > REASONS {
        let more = network.reasons.len() - REASONS;
        lines.push(format!("             and {more} more: coordinator status --json"));
    }
    lines
}

/// Everything worth a line, for people who ask about one run.
pub(crate) fn details(network: &Fidelity) -> Vec<String> {
    if network.packets == 0 {
        return Vec::new();
    }
    let mut lines = vec!["network".to_owned()];
    for lane in network.lanes.iter().take(LANES) {
        lines.push(format!("  {}: {} packets", lane.what, grouped(lane.packets)));
        lines.extend(
            lane_details(lane, network.unseen.is_empty())
                .into_iter()
                .map(|line| format!("    {line}")),
        );
    }
    if network.lanes.len() > LANES {
        let more = network.lanes.len() - LANES;
        lines.push(format!("  and {more} more shapes: coordinator status --json"));
    }
    let fates = network.fates.iter();
    let fates: Vec<_> =
        fates.map(|(fate, n)| format!("{} {}", grouped(*n), fate.replace('_', " "))).collect();
    lines.push(format!("  packets            {}", fates.join(", ")));
    lines.push(format!("  interface drops    {}", measured(network.interface_drops)));
    lines.push(format!("  stalls over 1 ms   {}", stalls(network)));
    lines.extend(probes(network.probes.as_ref()).into_iter().map(|line| format!("  {line}")));
    lines
}

fn probes(probes: Option<&ProbeFidelity>) -> Vec<String> {
    let Some(probes) = probes else { return vec!["probes             none".to_owned()] };
    let (sent, pairs) = (grouped(probes.sent), grouped(probes.pairs));
    let word = if probes.pairs == 1 { "pair" } else { "pairs" };
    let mut lines = vec![format!("probes             {sent} round trips, {pairs} {word}")];
    lines.extend(probes.late.as_ref().map(|beyond| format!("  longer           {}", late(beyond))));
    lines.extend(probes.loss.map(|loss| format!("  loss             {}", of_share(&loss))));
    lines
}

fn lane_details(lane: &LaneFidelity, lateness: bool) -> Vec<String> {
    let late = if lateness { late(&lane.late) } else { "not measured".to_owned() };
    let mut lines = vec![format!("late           {late}")];
    let shares =
        [("loss", lane.loss), ("duplication", lane.duplication), ("corruption", lane.corruption)];
    for (word, share) in shares {
        lines.extend(share.map(|share| format!("{word:<14} {}", of_share(&share))));
    }
    lines.extend(lane.rate.map(|rate| format!("rate           {}", of_rate(&rate))));
    if lane.overrun > 0 {
        lines.push(format!("queue full     {} packets", grouped(lane.overrun)));
    }
    if lane.filtered > 0 {
        lines.push(format!("filtered       {} packets", grouped(lane.filtered)));
    }
    lines
}

fn late(late: &Late) -> String {
    let [p50, p90, p99, max] = [late.p50_ns, late.p90_ns, late.p99_ns, late.max_ns].map(time);
    format!("p50 {p50} p90 {p90} p99 {p99} max {max}")
}

fn of_share(share: &ShareFidelity) -> String {
    let (low, high) = share.interval;
    format!(
        "{} configured, {} achieved (99 %: {} to {}){}",
        percent(share.configured),
        percent(share.achieved),
        percent(low),
        percent(high),
        if share.holds { "" } else { ": does not hold" }
    )
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with a few figures")]
fn of_rate(rate: &RateFidelity) -> String {
    let mbit = |bps: f64| format!("{:.3} Mbit/s", bps / 1e6);
    let configured = mbit(rate.configured_bps as f64);
    match rate.achieved_bps {
        None => format!("{configured} configured, too little was sent to tell"),
        Some(achieved) => format!("{configured} configured, {} achieved", mbit(achieved)),
    }
}

fn stalls(network: &Fidelity) -> String {
    let listed = network.stalls.iter().take(STALLS).map(|(worker, stall)| {
        let nanoseconds =
            |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (length, at) = (time(nanoseconds(stall.length)), time(nanoseconds(stall.at)));
        format!("{length} at {at} on {worker}")
    });
    match network.stalls_total {
        0 if !network.unseen.is_empty() => "not measured".to_owned(),
        0 => "none".to_owned(),
        total => format!("{total}: {}", listed.collect::<Vec<_>>().join(", ")),
    }
}

/// What was not measured is not zero.
fn measured(count: Option<u64>) -> String {
    count.map_or_else(|| "not measured".to_owned(), grouped)
}

fn paint_of(grade: Grade) -> Paint {
    match grade {
        Grade::Idle | Grade::Unproven => Paint::Dim,
        Grade::Exact | Grade::Good => Paint::Good,
        Grade::Degraded => Paint::Warning,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use groundswell_common::fidelity::{Histogram, LaneReport, NetworkReport, Stall, judge};
    use groundswell_common::ids::WorkerId;
    use groundswell_common::link::LinkShape;

    use super::*;

    const PLAIN: Out = Out { json: false, color: false, quiet: false, verbose: false };

    fn network() -> Fidelity {
        let shape = LinkShape {
            latency: Duration::from_millis(100),
            bandwidth_bps: 1_000_000,
            loss_pct: 5.0,
            ..LinkShape::default()
        };
        let mut late = Histogram::default();
        (0..9_500).for_each(|_| late.record(20_000));
        let lane = LaneReport {
            shape: Some(shape),
            packets: 10_000,
            lost: 500,
            late,
            ..LaneReport::default()
        };
        let mut report = NetworkReport { lanes: vec![lane], ..NetworkReport::default() };
        report.fates.insert("delivered".to_owned(), 9_500);
        report.fates.insert("lost".to_owned(), 500);
        let (at, length) = (Duration::from_secs(2), Duration::from_millis(3));
        report.stalls.push(Stall { at, length });
        judge(&[(WorkerId::from_lossy("w1"), Some(&report))]).expect("a report")
    }

    #[test]
    fn the_summary_has_a_line_and_the_reasons() {
        assert_eq!(
            lines(&PLAIN, &network()),
            [
                "  network    good · 10,000 packets · late p50 20 µs p99 20 µs max 20 µs",
                "             the data plane stood still once for more than 1 ms, 3 ms at most",
            ]
        );
    }

    #[test]
    fn the_details_have_everything() {
        assert_eq!(
            details(&network()),
            [
                "network",
                "  100 ms, 1 Mbit/s, 5 % loss: 10,000 packets",
                "    late           p50 20 µs p90 20 µs p99 20 µs max 20 µs",
                "    loss           5 % configured, 5 % achieved (99 %: 4.314 % to 5.789 %)",
                "    rate           1.000 Mbit/s configured, too little was sent to tell",
                "  packets            9,500 delivered, 500 lost",
                "  interface drops    not measured",
                "  stalls over 1 ms   1: 3 ms at 2 s on w1",
                "  probes             none",
            ]
        );
    }

    #[test]
    fn a_network_without_packets_has_nothing_to_say() {
        let report = NetworkReport::default();
        let idle = judge(&[(WorkerId::from_lossy("w1"), Some(&report))]).expect("a report");
        assert_eq!((lines(&PLAIN, &idle).len(), details(&idle).len()), (0, 0));
    }
}
