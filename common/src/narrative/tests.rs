use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::nat::{NatKind, NatLayer, NatSpec};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A tenth of class 0 is killed every 30 s, and comes back after 5 s.
fn kills() -> Entry {
    Entry {
        text: "kill".to_owned(),
        deed: Deed::Kill { down: Some(seconds(5)) },
        classes: vec![0],
        choice: Choice::Share(0.1),
        same: false,
        each: false,
        at: seconds(10),
        every: Some(Every::Fixed(seconds(30))),
        times: None,
        until: seconds(120),
    }
}

fn drawn(entries: &[Entry], seed: u64, sizes: &[u32]) -> Vec<Strike> {
    let narrative = Narrative { entries: entries.to_vec() };
    narrative.draw(seed, sizes, &[]).expect("not too many")
}

fn shown(strikes: &[Strike]) -> String {
    let mut out = String::new();
    for strike in strikes {
        let ids: Vec<_> = strike.instances.iter().map(ToString::to_string).collect();
        let (at, entry, ids) = (strike.at.as_secs_f64(), strike.entry, ids.join(" "));
        writeln!(out, "{at:.3} #{entry} {ids}").expect("a string takes any text");
    }
    out
}

#[test]
fn a_seed_always_draws_the_same_firings() {
    let entries = [
        Entry { times: Some(3), ..kills() },
        Entry {
            every: Some(Every::Exponential { mean: seconds(20) }),
            choice: Choice::Count(2),
            classes: vec![1],
            ..kills()
        },
        Entry {
            deed: Deed::Pause { lasts: seconds(1) },
            every: Some(Every::Weibull { shape: 0.6, scale: seconds(40) }),
            each: true,
            choice: Choice::Count(3),
            ..kills()
        },
        Entry { deed: Deed::Readdress, choice: Choice::All, classes: vec![1], ..kills() },
    ];
    insta::with_settings!({ snapshot_path => "../../tests/golden/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("narrative_drawn", shown(&drawn(&entries, 7, &[30, 4])));
    });
}

#[test]
fn a_tenth_is_a_tenth_of_all_and_at_least_one() {
    assert_eq!([0, 1, 4, 15, 100].map(|all| Choice::Share(0.1).of(all)), [0, 1, 1, 2, 10]);
    let strikes = drawn(&[kills()], 1, &[100]);
    assert_eq!(strikes.iter().map(|one| one.at.as_secs()).collect::<Vec<_>>(), [10, 40, 70, 100]);
    assert!(strikes.iter().all(|one| one.instances.len() == 10), "{strikes:?}");
    assert_ne!(strikes[0].instances, strikes[1].instances);
}

#[test]
fn those_who_are_down_for_good_are_not_struck_again() {
    let entry = Entry {
        deed: Deed::Kill { down: None },
        choice: Choice::Share(0.4),
        every: Some(Every::Fixed(seconds(1))),
        ..kills()
    };
    let strikes = drawn(&[entry], 1, &[10]);
    let counts: Vec<usize> = strikes.iter().map(|one| one.instances.len()).collect();
    assert_eq!(counts, [4, 4, 2], "and then nobody is left");
    let struck: BTreeSet<_> = strikes.iter().flat_map(|one| &one.instances).collect();
    assert_eq!(struck.len(), 10);
}

#[test]
fn the_same_ones_are_struck_each_time_when_that_is_asked_for() {
    let strikes = drawn(&[Entry { same: true, ..kills() }], 3, &[50]);
    assert!(strikes.windows(2).all(|pair| pair[0].instances == pair[1].instances));
    assert_eq!((strikes.len(), strikes[0].instances.len()), (4, 5));
}

#[test]
fn each_instance_has_times_of_its_own() {
    let every = Every::Fixed(seconds(30));
    let entry = Entry { each: true, every: Some(every), choice: Choice::All, ..kills() };
    let strikes = drawn(&[entry], 3, &[20]);
    let mut times: BTreeMap<InstanceId, Vec<Duration>> = BTreeMap::new();
    for strike in &strikes {
        assert_eq!(strike.instances.len(), 1);
        times.entry(strike.instances[0]).or_default().push(strike.at);
    }
    assert_eq!(times.len(), 20);
    for own in times.values() {
        assert!((seconds(10)..=seconds(40)).contains(&own[0]), "{own:?}");
        assert!(own.windows(2).all(|pair| pair[1] - pair[0] == seconds(30)), "{own:?}");
    }
    let first: BTreeSet<_> = times.values().map(|own| own[0]).collect();
    assert!(first.len() > 15, "they do not happen together");
}

#[test]
fn drawn_times_have_the_mean_they_should_have() {
    let times = |every| {
        let (until, deed) = (seconds(100_000), Deed::Pause { lasts: Duration::from_millis(1) });
        let entry = Entry {
            at: Duration::ZERO,
            every: Some(every),
            until,
            deed,
            choice: Choice::All,
            ..kills()
        };
        u32::try_from(drawn(&[entry], 11, &[1]).len()).expect("a few")
    };
    let exponential = times(Every::Exponential { mean: seconds(20) });
    assert!((4750..5250).contains(&exponential), "{exponential}");
    // Gamma(1 + 1/2) is 0.886.
    let weibull = times(Every::Weibull { shape: 2.0, scale: seconds(20) });
    assert!((5400..5900).contains(&weibull), "{weibull}");
}

#[test]
fn what_is_behind_one_router_has_one_address() {
    let lan = "192.168.1.0/24".parse().expect("a network");
    let layer = NatLayer { spec: NatSpec::new(NatKind::FullCone, lan), members: 3 };
    let nats = [Some(NatPlan { layers: vec![layer] }), None];
    let of = |deed| {
        let entry =
            Entry { deed, choice: Choice::All, classes: vec![0, 1], times: Some(1), ..kills() };
        let narrative = Narrative { entries: vec![entry] };
        narrative.draw(1, &[7, 2], &nats).expect("a few")[0].instances.clone()
    };
    let ids = |ids: &[u32]| ids.iter().map(|id| InstanceId(*id)).collect::<Vec<_>>();
    assert_eq!(of(Deed::Readdress), ids(&[0, 3, 6, 7, 8]));
    assert_eq!(of(Deed::Rebind), ids(&[0, 3, 6]));
}

#[test]
fn a_narrative_without_end_is_refused_by_the_name_of_its_event() {
    let entry = Entry {
        every: Some(Every::Fixed(Duration::from_millis(1))),
        until: seconds(100_000),
        text: "kill `storm`".to_owned(),
        ..kills()
    };
    let refused = Narrative { entries: vec![kills(), entry] }.draw(1, &[10], &[]);
    let refused = refused.expect_err("too many");
    assert_eq!((refused.entry, refused.to_string().ends_with("by kill `storm`")), (1, true));
}

#[test]
fn a_stop_is_a_request_a_kill_and_a_start() {
    let (grace, down) = (seconds(2), Some(seconds(5)));
    let entry = Entry { deed: Deed::Stop { grace, down }, times: Some(1), ..kills() };
    let strikes = drawn(&[entry], 1, &[1]);
    let steps = steps_of(&strikes, InstanceId(0));
    let shown: Vec<_> = steps.iter().map(|step| (step.at.as_secs(), step.act)).collect();
    let for_good = false;
    let wanted =
        [(10, Act::Terminate { for_good }), (12, Act::KillLeft { for_good }), (15, Act::Start)];
    assert_eq!(shown, wanted);
    assert_eq!(steps_of(&strikes, InstanceId(1)), []);
}

fn every() -> impl Strategy<Value = Every> {
    prop_oneof![
        (1..60_u64).prop_map(|every| Every::Fixed(seconds(every))),
        (1..60_u64).prop_map(|mean| Every::Exponential { mean: seconds(mean) }),
        (1..60_u64, 0.4..3.0_f64)
            .prop_map(|(scale, shape)| Every::Weibull { shape, scale: seconds(scale) }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let deed = prop_oneof![
        prop::option::of(1..20_u64).prop_map(|down| Deed::Kill { down: down.map(seconds) }),
        (1..20_u64).prop_map(|lasts| Deed::Pause { lasts: seconds(lasts) }),
        Just(Deed::Readdress),
    ];
    let choice = prop_oneof![
        Just(Choice::All),
        (0..6_u32).prop_map(Choice::Count),
        (0.0..1.0_f64).prop_map(Choice::Share)
    ];
    (deed, choice, any::<bool>(), any::<bool>(), every()).prop_map(
        |(deed, choice, same, each, every)| Entry {
            deed,
            choice,
            same,
            each,
            every: Some(every),
            classes: vec![0, 1],
            ..kills()
        },
    )
}

proptest! {
    #[test]
    fn times_rise_and_nobody_is_struck_who_is_down(
        entries in prop::collection::vec(entry(), 1..4), seed: u64,
    ) {
        let strikes = drawn(&entries, seed, &[7, 5]);
        prop_assert!(strikes.is_sorted_by_key(|strike| strike.at));
        let mut busy: BTreeMap<InstanceId, Duration> = BTreeMap::new();
        for strike in &strikes {
            prop_assert!(strike.at < seconds(120) && strike.instances.is_sorted());
            for one in &strike.instances {
                prop_assert!(one.0 < 12);
                let until = busy.get(one).copied().unwrap_or_default();
                prop_assert!(until <= strike.at, "{} is down", one);
                if strike.deed.busy() > Duration::ZERO {
                    busy.insert(*one, strike.at.saturating_add(strike.deed.busy()));
                }
            }
        }
        prop_assert_eq!(&drawn(&entries, seed, &[7, 5]), &strikes);
    }

    /// Each worker looks at its own instances only. Whatever the split, together they see the same steps.
    #[test]
    fn however_instances_are_placed_the_same_happens_to_each(
        entries in prop::collection::vec(entry(), 1..4), seed: u64, split in 0..13_u32,
    ) {
        let narrative = Narrative { entries };
        let on_worker = |ids: std::ops::Range<u32>| {
            let strikes = narrative.draw(seed, &[7, 5], &[]).expect("a few");
            ids.map(|id| steps_of(&strikes, InstanceId(id))).collect::<Vec<_>>()
        };
        let mut two = on_worker(0..split.min(12));
        two.extend(on_worker(split.min(12)..12));
        prop_assert_eq!(two, on_worker(0..12));
    }
}
