use proptest::prelude::*;

use super::*;

fn room(number: usize, slots: u32, free: u32) -> Room {
    let worker = WorkerId::from_lossy(&format!("w{number}"));
    let mut room = Room::empty(worker, Capacity::of_slots(slots), vec![RuntimeKind::Netns]);
    if free < slots {
        room.hold(Capacity::of_slots(slots - free), false);
        room.free = Capacity::of_slots(free);
    }
    room
}

fn labelled(number: usize, slots: u32, labels: &[(&str, &str)]) -> Room {
    let labels = labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect();
    Room { labels, ..room(number, slots, slots) }
}

fn party(name: &str, instances: u32) -> Party {
    Party { name: name.to_owned(), instances, together: 1, ..Party::default() }
}

fn gang(parties: Vec<Party>) -> Gang {
    Gang {
        parties,
        runtime: RuntimeKind::Netns,
        wish: RunPlacement::default(),
        distribution: Distribution::Spread,
    }
}

fn alone(groups: &[u32]) -> Gang {
    gang(groups.iter().enumerate().map(|(n, count)| party(&format!("g{n}"), *count)).collect())
}

fn require(pairs: &[(&str, &str)]) -> groundswell_common::placement::Require {
    pairs.iter().map(|(label, value)| ((*label).into(), vec![(*value).into()])).collect()
}

fn sizes(shares: &[Share]) -> Vec<u32> {
    shares.iter().map(|(_, ranges)| ranges.iter().map(|r| r.count).sum()).collect()
}

/// How many instances of a group each worker has that has some.
fn of_group(shares: &[Share], group: u16) -> Vec<(&str, u32)> {
    let count = |ranges: &[InstanceRange]| {
        ranges.iter().filter(|range| range.group == group).map(|range| range.count).sum::<u32>()
    };
    let counts = shares.iter().map(|(worker, ranges)| (worker.as_str(), count(ranges)));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn refused(gang: &Gang, rooms: &[Room]) -> String {
    place(gang, rooms).expect_err("no room").to_string()
}

#[test]
fn a_run_for_one_worker_takes_the_one_with_room_or_says_so() {
    let mut all = alone(&[3, 4]);
    all.wish.one_worker = true;
    let shares = place(&all, &[room(1, 10, 6), room(2, 9, 9), room(3, 20, 8)]).expect("fits");
    assert_eq!((shares[0].0.as_str(), sizes(&shares)), ("w2", vec![7]));
    let busy = [room(1, 10, 6), room(2, 9, 5)];
    let no_room = place(&all, &busy).expect_err("no worker has room");
    assert!(no_room.is_temporary());
    let said =
        "7 instances have to be on one worker; the largest has 10 slots, and the emptiest 6 free";
    assert_eq!(no_room.to_string(), said);
    let never = place(&all, &[room(1, 6, 6), room(2, 5, 5)]).expect_err("no worker has room");
    assert!(!never.is_temporary(), "{never}");
}

#[test]
fn instances_are_spread_evenly_and_in_order() {
    let rooms = [room(2, 10, 10), room(1, 10, 10), room(3, 10, 1)];
    let shares = place(&alone(&[3, 4]), &rooms).expect("fits");
    assert_eq!(sizes(&shares), [3, 3, 1]);
    assert_eq!(shares[0].0.as_str(), "w1");
    let first_of_second = shares[1].1[0].clone();
    assert_eq!((first_of_second.first, first_of_second.group), (InstanceId(3), 1));
}

#[test]
fn packing_takes_as_few_workers_as_possible() {
    let rooms = [room(1, 4, 4), room(2, 9, 9)];
    let mut asked = alone(&[9]);
    asked.wish.pack = Some(true);
    let shares = place(&asked, &rooms).expect("fits");
    assert_eq!((sizes(&shares), shares[0].0.as_str()), (vec![9], "w2"));
    let by_default = Gang { distribution: Distribution::Fill, ..alone(&[9]) };
    assert_eq!(place(&by_default, &rooms), Ok(shares));
}

#[test]
fn instances_behind_one_nat_are_on_one_worker() {
    let groups =
        gang(vec![Party { together: 3, ..party("home", 7) }, Party { ..party("open", 2) }]);
    let place = |rooms: &[Room]| place(&groups, rooms);
    let shares = place(&[room(1, 9, 9), room(2, 9, 9)]).expect("fits");
    assert_eq!(sizes(&shares), [6, 3], "not 5 and 4");
    let busy = place(&[room(1, 9, 2), room(2, 9, 2), room(3, 9, 2), room(4, 9, 3)]);
    let busy = busy.expect_err("the first three find no place");
    assert!(busy.is_temporary(), "{busy}");
    let never = place(&[room(1, 2, 2), room(2, 2, 2), room(3, 2, 2), room(4, 3, 3)]);
    let never = never.expect_err("the first three find no place");
    assert!(!never.is_temporary());
    assert!(
        never.to_string().starts_with("3 instances behind one NAT have to be on one worker"),
        "{never}"
    );
}

#[test]
fn a_refusal_says_what_is_needed_and_what_there_is() {
    let rooms = [room(1, 32, 32), room(2, 32, 10)];
    assert_eq!(refused(&alone(&[12_000]), &rooms), "needs 12,000 slots, the cluster has 64");
    let busy = place(&alone(&[50]), &rooms).expect_err("no room");
    assert_eq!(busy.to_string(), "needs 50 slots, 42 of the cluster's 64 are free");
    assert!(busy.is_temporary());
    let docker = Gang { runtime: RuntimeKind::Docker, ..alone(&[1]) };
    assert_eq!(refused(&docker, &rooms), "no worker offers the runtime `docker`");
    assert_eq!(refused(&alone(&[1]), &[]), "no worker is registered");
    assert_eq!(thousands(1_234_567), "1,234,567");
    assert_eq!(thousands(999), "999");
}

#[test]
fn cpu_and_memory_are_taken_as_slots_are() {
    let total = Capacity { slots: 100, cpu_milli: 4_000, memory_bytes: 8 << 30 };
    let rooms: Vec<Room> = (1..=2)
        .map(|n| {
            let worker = WorkerId::from_lossy(&format!("w{n}"));
            Room::empty(worker, total, vec![RuntimeKind::Netns])
        })
        .collect();
    let with = |count, cpu_milli, gib: u64| {
        let need = Need { cpu_milli, memory_bytes: gib << 30 };
        gang(vec![Party { need, ..party("g", count) }])
    };
    assert_eq!(sizes(&place(&with(8, 1_000, 0), &rooms).expect("fits")), [4, 4]);
    assert_eq!(refused(&with(9, 1_500, 1), &rooms), "needs 13.5 cpu cores, the cluster has 8");
    assert_eq!(refused(&with(9, 0, 2), &rooms), "needs 18 GiB of memory, the cluster has 16 GiB");
    assert_eq!(
        refused(&with(3, 2_500, 0), &rooms),
        "group `g` needs room for 3 instances, each with 2.5 cpu cores, there is for 2"
    );
    let mut half = rooms.clone();
    half[0].hold(with(2, 2_000, 0).held(&[whole(2)]), false);
    let busy = place(&with(4, 2_000, 0), &half).expect_err("no room");
    assert_eq!(busy.to_string(), "needs 8 cpu cores, 4 of the cluster's 8 are free");
    assert!(busy.is_temporary());
}

fn whole(count: u32) -> InstanceRange {
    InstanceRange { group: 0, first: InstanceId(0), first_in_group: 0, count }
}

#[test]
fn labels_decide_who_may_take_what() {
    let rooms = [
        labelled(1, 4, &[("zone", "a"), ("kind", "metal")]),
        labelled(2, 4, &[("zone", "b"), ("kind", "ec2")]),
        labelled(3, 4, &[]),
    ];
    let mut picky = party("picky", 4);
    picky.wish.require = require(&[("zone", "a")]);
    let shares = place(&gang(vec![party("any", 8), picky.clone()]), &rooms).expect("fits");
    assert_eq!(of_group(&shares, 1), [("w1", 4)], "who has no choice goes first");
    assert_eq!(of_group(&shares, 0), [("w2", 4), ("w3", 4)]);

    let refused_with = |pairs: &[(&str, &str)]| {
        let mut party = picky.clone();
        party.wish.require = require(pairs);
        refused(&gang(vec![party]), &rooms)
    };
    assert_eq!(
        refused_with(&[("zone", "c")]),
        "no worker has `zone` = `c`, which group `picky` requires; there is `zone` = `a`, `b`"
    );
    assert_eq!(
        refused_with(&[("rack", "1")]),
        "no worker has `rack` = `1`, which group `picky` requires; there are the labels `kind`, `zone`"
    );
    assert_eq!(
        refused_with(&[("zone", "a"), ("kind", "ec2")]),
        "no worker has `kind` = `ec2` and `zone` = `a`, which group `picky` requires; \
         there is `kind` = `ec2`, `metal` and `zone` = `a`, `b`"
    );
    picky.instances = 5;
    assert_eq!(
        refused(&gang(vec![picky]), &rooms),
        "group `picky` needs 5 slots, workers with `zone` = `a` have 4"
    );
    let mut of_run = alone(&[1]);
    of_run.wish.require = require(&[("zone", "c")]);
    assert_eq!(refused(&of_run, &rooms), "no worker has `zone` = `c`; there is `zone` = `a`, `b`");
    of_run.wish.require = require(&[("zone", "b")]);
    assert_eq!(of_group(&place(&of_run, &rooms).expect("fits"), 0), [("w2", 1)]);
}

#[test]
fn a_run_is_spread_over_zones_before_it_is_spread_over_workers() {
    let rooms = [
        labelled(1, 9, &[("zone", "a")]),
        labelled(2, 9, &[("zone", "a")]),
        labelled(3, 9, &[("zone", "b")]),
        labelled(4, 9, &[]),
    ];
    let mut asked = alone(&[8]);
    asked.wish.spread = Some("zone".to_owned());
    let shares = place(&asked, &rooms).expect("fits");
    assert_eq!(of_group(&shares, 0), [("w1", 2), ("w2", 2), ("w3", 4)]);
    asked.wish.spread = Some("rack".to_owned());
    assert_eq!(
        refused(&asked, &rooms),
        "no worker has the label `rack`; there are the labels `zone`"
    );
}

#[test]
fn groups_that_keep_apart_share_no_worker() {
    let mut attackers = party("attackers", 6);
    attackers.wish.apart_from = vec!["victims".to_owned()];
    let asked = gang(vec![attackers, party("victims", 6), party("others", 2)]);
    let rooms: Vec<Room> = (1..=4).map(|n| room(n, 4, 4)).collect();
    let shares = place(&asked, &rooms).expect("fits");
    assert_eq!(of_group(&shares, 0).len(), 2);
    assert_eq!(of_group(&shares, 1).len(), 2);
    for (_, ranges) in &shares {
        let groups: Vec<u16> = ranges.iter().map(|range| range.group).collect();
        assert!(!(groups.contains(&0) && groups.contains(&1)), "{shares:?}");
    }
    assert_eq!(
        refused(&asked, &[room(1, 99, 99)]),
        "group `attackers` and group `victims` and group `others` do not all find room on workers apart"
    );
}

#[test]
fn a_worker_gets_no_more_than_it_may() {
    let rooms = [room(1, 9, 9), room(2, 9, 9)];
    let mut asked = alone(&[4, 2]);
    asked.parties[1].wish.per_worker = Some(1);
    let shares = place(&asked, &rooms).expect("fits");
    assert_eq!(of_group(&shares, 1), [("w1", 1), ("w2", 1)]);
    asked.parties[1].instances = 3;
    assert_eq!(
        refused(&asked, &rooms),
        "group `g1` needs room for 3 instances, at most 1 on a worker, there is for 2"
    );
    let mut of_run = alone(&[7]);
    of_run.wish.per_worker = Some(3);
    assert_eq!(
        refused(&of_run, &rooms),
        "group `g0` needs room for 7 instances, at most 3 on a worker, there is for 6"
    );
    let small = rooms.clone().map(|room| Room { slots_per_run: 2, ..room });
    assert_eq!(
        refused(&alone(&[5]), &small),
        "group `g0` needs room for 5 instances, of which a worker takes 2 of one run, there is for 4"
    );
}

#[test]
fn an_exclusive_run_shares_no_worker() {
    let mut asked = alone(&[5]);
    asked.wish.exclusive = true;
    let mut rooms = [room(1, 9, 9), room(2, 9, 8)];
    let shares = place(&asked, &rooms).expect("fits");
    assert_eq!(of_group(&shares, 0), [("w1", 5)]);
    rooms[0].hold(Capacity::of_slots(5), true);
    let busy = place(&asked, &rooms).expect_err("none is free");
    assert_eq!(busy.to_string(), "needs workers of its own, and 2 of 2 run something else");
    assert!(busy.is_temporary());
    let other = place(&alone(&[9]), &rooms).expect_err("the first is held whole");
    assert_eq!(other.to_string(), "needs 9 slots, 8 of the cluster's 18 are free");
}

/// A gang with every wish there is, and rooms with labels.
fn anything() -> impl Strategy<Value = (Gang, Vec<Room>)> {
    let group = (0_u32..12, 1_u32..4, 0_u64..4, 0_u8..4, 0_u32..4, 0_usize..6);
    let groups = prop::collection::vec(group, 1..5);
    let rooms = prop::collection::vec((0_u32..20, 0_u32..6, 0_u64..20, 0_u8..3), 0..7);
    let wish = (any::<bool>(), any::<bool>(), 0_u32..8, any::<bool>());
    (groups, rooms, wish).prop_map(|(groups, rooms, (zones, pack, most, exclusive))| {
        let zone = |number: u8| ["a", "b"].get(usize::from(number)).copied();
        let count = groups.len();
        let party = |(n, (instances, together, cpu, label, per_worker, enemy)): (usize, _)| {
            let mut one = Party { together, ..party(&format!("g{n}"), instances) };
            one.need.cpu_milli = cpu;
            one.wish.require = zone(label).map(|z| require(&[("zone", z)])).unwrap_or_default();
            // A limit of one group cannot hold where several have to be together.
            one.wish.per_worker = Some(per_worker).filter(|most| *most > 0 && together == 1);
            if enemy < count && enemy != n {
                one.wish.apart_from = vec![format!("g{enemy}")];
            }
            one
        };
        let mut gang = gang(groups.into_iter().enumerate().map(party).collect());
        gang.wish.spread = zones.then(|| "zone".to_owned());
        gang.wish.pack = (pack && !zones).then_some(true);
        gang.wish.per_worker = Some(most).filter(|most| *most > 0);
        gang.wish.exclusive = exclusive;
        let room = |(n, (free, busy, cpu, label)): (usize, (u32, u32, u64, u8))| {
            let mut room = room(n, free + busy, free);
            room.total.cpu_milli = cpu;
            room.free.cpu_milli = cpu;
            if let Some(zone) = zone(label) {
                room.labels.insert("zone".to_owned(), zone.to_owned());
            }
            room
        };
        (gang, rooms.into_iter().enumerate().map(room).collect())
    })
}

fn check_share(gang: &Gang, room: &Room, ranges: &[InstanceRange]) -> Result<(), TestCaseError> {
    let held = gang.held(ranges);
    prop_assert!(held.slots <= room.free.slots && held.cpu_milli <= room.free.cpu_milli);
    prop_assert!(held.slots <= gang.wish.per_worker.unwrap_or(u32::MAX));
    prop_assert!(!(gang.wish.exclusive && room.occupied));
    prop_assert!(gang.wish.spread.is_none() || room.labels.contains_key("zone"));
    for range in ranges {
        let party = &gang.parties[usize::from(range.group)];
        prop_assert!(satisfies(&room.labels, &party.wish.require));
        prop_assert!(range.count <= party.wish.per_worker.unwrap_or(u32::MAX));
        let here = |range: &InstanceRange| &gang.parties[usize::from(range.group)].name;
        prop_assert!(!ranges.iter().any(|other| party.wish.apart_from.contains(here(other))));
        let end = range.first_in_group + range.count;
        prop_assert!(end == party.instances || end.is_multiple_of(party.together), "parted");
    }
    Ok(())
}

/// Every instance of every group is somewhere exactly once.
fn check_whole(gang: &Gang, shares: &[Share]) -> Result<(), TestCaseError> {
    let mut ranges: Vec<&InstanceRange> = shares.iter().flat_map(|(_, ranges)| ranges).collect();
    ranges.sort_by_key(|range| range.first);
    let mut next = 0;
    for range in ranges {
        prop_assert_eq!(range.first.0, next);
        let group = usize::from(range.group);
        let before: u32 = gang.parties[..group].iter().map(|one| one.instances).sum();
        prop_assert_eq!(range.first_in_group, range.first.0 - before);
        next += range.count;
        prop_assert!(next <= before + gang.parties[group].instances);
    }
    prop_assert_eq!(next, gang.instances());
    Ok(())
}

proptest! {
    #[test]
    fn every_wish_is_kept_or_the_run_is_refused((gang, rooms) in anything()) {
        let placed = place(&gang, &rooms);
        let mut reversed = rooms.clone();
        reversed.reverse();
        prop_assert_eq!(&placed, &place(&gang, &reversed));
        let Ok(shares) = placed else { return Ok(()) };
        check_whole(&gang, &shares)?;
        for (worker, ranges) in &shares {
            let room = rooms.iter().find(|room| &room.worker == worker).expect("known");
            check_share(&gang, room, ranges)?;
        }
    }

    #[test]
    fn a_run_without_wishes_is_placed_exactly_when_there_is_room(
        groups in prop::collection::vec(0_u32..40, 1..6),
        frees in prop::collection::vec((0_u32..40, 0_u32..10, 0_u64..60), 0..6),
        cpu_milli in 0_u64..4,
        fill in any::<bool>(),
    ) {
        let rooms: Vec<Room> = frees
            .iter()
            .enumerate()
            .map(|(number, (free, busy, cpu))| {
                let mut room = room(number, free + busy, *free);
                (room.total.cpu_milli, room.free.cpu_milli) = (*cpu, *cpu);
                room
            })
            .collect();
        let mut gang = alone(&groups);
        gang.parties.iter_mut().for_each(|party| party.need.cpu_milli = cpu_milli);
        gang.wish.pack = Some(fill);
        let need = Need { cpu_milli, memory_bytes: 0 };
        let free: u32 = rooms.iter().map(|room| room.free.fits(need)).sum();
        let placed = place(&gang, &rooms);
        prop_assert_eq!(placed.is_ok(), !rooms.is_empty() && gang.instances() <= free);
        if let Err(refused) = placed {
            let whole: u32 = rooms.iter().map(|room| room.total.fits(need)).sum();
            prop_assert_eq!(refused.is_temporary(), gang.instances() <= whole && !rooms.is_empty());
        }
    }

    #[test]
    fn spreading_is_even_where_there_is_room(wanted in 1_u32..200, workers in 1_usize..9) {
        let rooms: Vec<Room> = (0..workers).map(|n| room(n, 200, 200)).collect();
        let shares = place(&alone(&[wanted]), &rooms).expect("fits");
        let sizes = sizes(&shares);
        let most = sizes.iter().max().copied().unwrap_or(0);
        let least = if shares.len() < workers { 0 } else { sizes.iter().min().copied().unwrap_or(0) };
        prop_assert!(most - least <= 1);
    }
}
