//! What each measurement does to the grade.

use proptest::prelude::*;

use super::super::Stalls;
use super::*;

fn worker(name: &str) -> WorkerId {
    WorkerId::from_lossy(name)
}

/// `packets` packets, each `late_us` late, through this shape.
fn lane(shape: LinkShape, packets: u64, late_us: u64) -> LaneReport {
    let mut late = Histogram::default();
    (0..packets).for_each(|_| late.record(late_us * 1_000));
    LaneReport { shape: Some(shape), packets, late, ..LaneReport::default() }
}

fn report(lanes: Vec<LaneReport>) -> NetworkReport {
    NetworkReport { lanes, interface_drops: Some(0), ..NetworkReport::default() }
}

fn judged(report: &NetworkReport) -> Fidelity {
    judge(&[(worker("w1"), Some(report))]).expect("a worker reported")
}

fn plain(packets: u64, late_us: u64) -> NetworkReport {
    report(vec![lane(LinkShape::default(), packets, late_us)])
}

#[test]
fn nothing_sent_is_idle_and_meets_everything() {
    let idle = judged(&report(Vec::new()));
    assert_eq!((idle.grade, idle.packets), (Grade::Idle, 0));
    assert_eq!(unmet(Some(&idle), Grade::Exact), None);
}

#[test]
fn lateness_decides() {
    let grade = |late_us| judged(&plain(1_000, late_us)).grade;
    assert_eq!(grade(20), Grade::Exact);
    assert_eq!(grade(300), Grade::Exact);
    assert_eq!(grade(400), Grade::Good);
    assert_eq!(grade(1_900), Grade::Good);
    assert_eq!(grade(2_500), Grade::Degraded);
}

#[test]
fn a_stall_is_never_exact() {
    let mut stalled = plain(1_000, 20);
    let length = Duration::from_millis(4);
    stalled.stalls = Stalls { listed: Vec::new(), more: 0, longest: Duration::ZERO };
    stalled.stalls.push(Stall { at: Duration::ZERO, length });
    let fidelity = judged(&stalled);
    assert_eq!(fidelity.grade, Grade::Good);
    assert_eq!(
        fidelity.reasons,
        ["the data plane stood still once for more than 1 ms, 4 ms at most"]
    );
    assert_eq!(
        unmet(Some(&fidelity), Grade::Exact).expect("it is not"),
        "the network was to be exact and was good: the data plane stood still once for more than 1 ms, 4 ms at most"
    );
    assert_eq!(unmet(Some(&fidelity), Grade::Good), None);
}

#[test]
fn loss_has_to_be_what_was_configured() {
    let shape = LinkShape { loss_pct: 5.0, ..LinkShape::default() };
    let grade = |lost| judged(&report(vec![LaneReport { lost, ..lane(shape, 10_000, 20) }]));
    assert_eq!(grade(500).grade, Grade::Exact);
    assert_eq!(grade(550).grade, Grade::Exact);
    let wrong = grade(700);
    assert_eq!(wrong.grade, Grade::Degraded);
    assert_eq!(wrong.reasons, ["7 % of the packets with 5 % loss were lost, not 5 %"]);
}

#[test]
fn packets_a_filter_or_the_rate_took_do_not_count_towards_loss() {
    let shape = LinkShape { loss_pct: 50.0, ..LinkShape::default() };
    let counted = LaneReport { filtered: 400, overrun: 400, lost: 100, ..lane(shape, 1_000, 20) };
    let loss = judged(&report(vec![counted])).lanes[0].loss.expect("configured");
    assert!((loss.achieved - 0.5).abs() < 1e-9 && loss.holds);
}

#[test]
fn what_nobody_asked_for_does_not_hold() {
    let fidelity =
        judged(&report(vec![LaneReport { lost: 200, ..lane(LinkShape::default(), 1_000, 20) }]));
    assert_eq!(fidelity.grade, Grade::Degraded);
    assert_eq!(fidelity.reasons, ["20 % of the packets with no shape were lost, not 0 %"]);
}

fn limited(bytes: u64, time_ms: u64, periods: u64) -> Fidelity {
    let shape = LinkShape { bandwidth_bps: 10_000_000, ..LinkShape::default() };
    let busy = Busy { bytes, time: Duration::from_millis(time_ms), periods };
    judged(&report(vec![LaneReport { busy, ..lane(shape, 10_000, 20) }]))
}

#[test]
fn a_rate_has_to_be_what_was_configured() {
    // Ten seconds at 10 Mbit/s are 12,500,000 bytes.
    assert_eq!(limited(12_500_000, 10_005, 1).grade, Grade::Exact);
    assert_eq!(limited(12_500_000, 10_050, 1).grade, Grade::Good);
    let slow = limited(12_500_000, 11_000, 1);
    assert_eq!(slow.grade, Grade::Degraded);
    assert_eq!(slow.reasons, ["packets with 10 Mbit/s left at 9.1 Mbit/s, not at 10 Mbit/s"]);
}

#[test]
fn a_short_burst_says_little_about_a_rate() {
    // One packet at 10 Mbit/s takes 1.2 ms: a burst of three may be that far off.
    assert_eq!(limited(4_500, 4, 1).grade, Grade::Exact);
    assert_eq!(limited(4_500, 4, 1).lanes[0].rate.expect("configured").achieved_bps, None);
    assert_eq!(limited(0, 0, 0).lanes[0].rate.expect("configured").achieved_bps, None);
}

#[test]
fn what_the_rig_dropped_counts() {
    let dropped = |count| {
        let counted = NetworkReport { interface_drops: Some(count), ..plain(100_000, 20) };
        judged(&counted).grade
    };
    assert_eq!(dropped(0), Grade::Exact);
    assert_eq!(dropped(50), Grade::Good);
    assert_eq!(dropped(5_000), Grade::Degraded);
    let unknown = NetworkReport { interface_drops: None, ..plain(1_000, 20) };
    assert_eq!(judged(&unknown).interface_drops, None);
}

#[test]
fn a_worker_that_says_nothing_is_named() {
    let measured = plain(1_000, 20);
    let parts = [(worker("w1"), Some(&measured)), (worker("w2"), None)];
    let fidelity = judge(&parts).expect("one reported");
    assert_eq!(fidelity.grade, Grade::Degraded);
    assert_eq!(
        unmet(Some(&fidelity), Grade::Good).expect("it is not"),
        "the network was to be good, and it was not measured on worker w2"
    );
    assert_eq!(judge(&[(worker("w1"), None)]), None);
    assert_eq!(
        unmet(None, Grade::Exact).expect("it is not"),
        "the network was to be exact, and it was not measured"
    );
}

#[test]
fn the_line_is_short() {
    let mut late = Histogram::default();
    (0..12_000).for_each(|_| late.record(20_000));
    (0..345).for_each(|_| late.record(81_000));
    late.record(1_200_000);
    let counted = LaneReport { late, ..lane(LinkShape::default(), 12_345, 0) };
    assert_eq!(
        judged(&report(vec![counted])).line(),
        "exact · 12,345 packets · late p50 20 µs p99 82 µs max 1.2 ms"
    );
}

#[test]
fn shapes_in_words() {
    let shape = LinkShape {
        latency: Duration::from_millis(100),
        jitter: Duration::from_micros(1_500),
        bandwidth_bps: 1_500_000,
        loss_pct: 0.5,
        ..LinkShape::default()
    };
    assert_eq!(describe(&shape), "100 ms ± 1.5 ms, 1.5 Mbit/s, 0.5 % loss");
    assert_eq!(describe(&LinkShape::default()), "no shape");
    assert_eq!([0, 999, 20_480, 2_000_000_000].map(time), ["0 ns", "999 ns", "20 µs", "2 s"]);
}

proptest! {
    #[test]
    fn more_trouble_is_never_a_better_grade(late_us in 1..5_000_u64, more in 0..5_000_u64, stall: bool) {
        let before = judged(&plain(200, late_us));
        let mut worse = plain(200, late_us + more);
        if stall {
            worse.stalls.push(Stall { at: Duration::ZERO, length: Duration::from_millis(2) });
        }
        let after = judged(&worse);
        prop_assert!(after.grade >= before.grade);
        prop_assert_eq!(after.grade == Grade::Exact, after.reasons.is_empty());
    }

    #[test]
    fn any_report_can_be_judged(
        counts in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u16>(), 0.0..=100.0_f32), 0..5),
        unmeasured: bool,
    ) {
        let lanes = counts.into_iter().map(|(packets, lost, filtered, pct)| LaneReport {
            lost: u64::from(lost),
            filtered: u64::from(filtered),
            duplicated: u64::from(lost),
            busy: Busy { bytes: u64::from(packets), time: Duration::from_nanos(u64::from(lost)), periods: 1 },
            ..lane(LinkShape { loss_pct: pct, bandwidth_bps: u64::from(packets), ..LinkShape::default() }, u64::from(packets), 1)
        });
        let counted = report(lanes.collect());
        let fidelity = judge(&[(worker("w"), (!unmeasured).then_some(&counted))]);
        prop_assert_eq!(fidelity.is_none(), unmeasured);
    }
}

#[test]
fn probes_are_a_second_opinion() {
    let with = |probes: ProbeReport| judged(&NetworkReport { probes, ..plain(1_000, 20) });
    let late = |us: u64| {
        let mut late = Histogram::default();
        (0..100).for_each(|_| late.record(us * 1_000));
        ProbeReport { pairs: 2, sent: 100, late, ..ProbeReport::default() }
    };
    assert_eq!(with(ProbeReport::default()).probes, None);
    assert_eq!(with(late(200)).grade, Grade::Exact);
    assert_eq!(with(late(3_000)).grade, Grade::Good);
    let slow = with(late(9_000));
    assert_eq!(slow.grade, Grade::Degraded);
    assert!(slow.reasons[0].contains("longer than configured"), "{:?}", slow.reasons);
    let early = with(ProbeReport { earliest_ns: 2_000_000, ..late(10) });
    assert_eq!(early.reasons, ["a round trip between instances took 2 ms less than configured"]);
}

#[test]
fn probes_are_lost_as_often_as_configured() {
    let with = |lost, loss_expected| {
        let probes =
            ProbeReport { pairs: 1, sent: 1_000, lost, loss_expected, ..ProbeReport::default() };
        judged(&NetworkReport { probes, ..plain(1_000, 20) })
    };
    assert_eq!(with(0, 0.0).grade, Grade::Exact);
    assert_eq!(with(97, 100.0).grade, Grade::Exact);
    assert_eq!(with(0, 100.0).grade, Grade::Degraded);
    let lost = with(12, 0.0);
    assert_eq!(lost.reasons, ["1.2 % of the probes between instances were lost, not 0 %"]);
}

#[test]
fn what_cannot_be_seen_is_never_good() {
    let unseen = ["nobody looks".to_owned()].into();
    let seen = judged(&NetworkReport { unseen, ..plain(1_000, 20) });
    assert_eq!(seen.grade, Grade::Unproven);
    assert_eq!(seen.reasons, ["nobody looks"]);
    assert_eq!(seen.line(), "unproven · 1,000 packets · lateness not measured");
    assert!(unmet(Some(&seen), Grade::Good).is_some_and(|why| why.contains("nobody looks")));
    let shape = LinkShape { duplicate_pct: 5.0, ..LinkShape::default() };
    let blind = LaneReport { uncounted: true, ..lane(shape, 1_000, 20) };
    assert_eq!(judged(&report(vec![blind])).grade, Grade::Exact, "nothing counted is no deviation");
}
