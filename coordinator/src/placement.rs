//! Decides which worker runs which instances: all of them or none.

use groundswell_common::ids::{InstanceId, WorkerId};
use groundswell_common::messages::{InstanceRange, RuntimeKind};

/// What a worker has to offer at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The worker.
    pub worker: WorkerId,
    /// Slots it has.
    pub slots: u32,
    /// Slots that no live run holds.
    pub free: u32,
    /// Runtimes that work there.
    pub runtimes: Vec<RuntimeKind>,
}

/// How instances are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// As evenly as the free slots allow: no host becomes the bottleneck before the others.
    #[default]
    Spread,
    /// As few workers as possible: less traffic between hosts.
    Fill,
}

/// The instances of one worker.
pub type Share = (WorkerId, Vec<InstanceRange>);

/// Why a run cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Other runs hold the slots.
    #[error(
        "needs {wanted} {}, {free} of the cluster's {slots} slots are free",
        instances(*wanted)
    )]
    Busy {
        /// Instances of the run.
        wanted: u32,
        /// Slots that are free.
        free: u32,
        /// Slots there are.
        slots: u32,
    },
    /// It does not fit even when nothing else runs.
    #[error("needs {wanted} {}, the cluster has room for {slots}", instances(*wanted))]
    TooLarge {
        /// Instances of the run.
        wanted: u32,
        /// Slots there are.
        slots: u32,
    },
    /// There are slots enough, but not for instances that have to be on one worker.
    #[error(
        "{together} instances behind one NAT have to be on one worker, and they do not all find one; \
         the largest worker has {most} slots"
    )]
    Apart {
        /// The most instances that have to be together.
        together: u32,
        /// Slots of the largest worker.
        most: u32,
        /// Whether they would if no other run held slots.
        temporary: bool,
    },
    /// There are workers, and the runtime works on none of them.
    #[error("no worker offers the runtime `{}`", runtime.as_str())]
    NoRuntime {
        /// Which.
        runtime: RuntimeKind,
    },
    /// There are no workers.
    #[error("no worker is registered")]
    NoWorkers,
}

impl NoRoom {
    /// Whether waiting for other runs would help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Apart { temporary: true, .. })
    }
}

fn instances(count: u32) -> &'static str {
    if count == 1 { "instance" } else { "instances" }
}

/// A group that is to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Its instances.
    pub instances: u32,
    /// So many of them, one after the other, have to be on one worker; at least 1.
    pub together: u32,
}

/// Gives each instance of `groups`, in order, a worker.
///
/// The same arguments give the same answer; the order of `rooms` does not matter.
///
/// # Errors
/// When not every instance finds a slot; no part of the run is placed then.
pub fn place(
    groups: &[Party],
    runtime: RuntimeKind,
    rooms: &[Room],
    distribution: Distribution,
) -> Result<Vec<Share>, NoRoom> {
    if rooms.is_empty() {
        return Err(NoRoom::NoWorkers);
    }
    let mut usable: Vec<&Room> =
        rooms.iter().filter(|room| room.runtimes.contains(&runtime)).collect();
    if usable.is_empty() {
        return Err(NoRoom::NoRuntime { runtime });
    }
    usable.sort_by(|a, b| a.worker.cmp(&b.worker));
    let wanted = groups.iter().fold(0_u32, |sum, group| sum.saturating_add(group.instances));
    let slots = usable.iter().fold(0_u32, |sum, room| sum.saturating_add(room.slots));
    let free = usable.iter().fold(0_u32, |sum, room| sum.saturating_add(room.free));
    if wanted > slots {
        return Err(NoRoom::TooLarge { wanted, slots });
    }
    if wanted > free {
        return Err(NoRoom::Busy { wanted, free, slots });
    }
    let frees: Vec<u32> = usable.iter().map(|room| room.free).collect();
    let counts = match distribution {
        Distribution::Spread => spread(wanted, &frees),
        Distribution::Fill => fill(wanted, &frees),
    };
    let Some(counts) = settle(groups, &counts, &frees) else {
        let most: Vec<u32> = usable.iter().map(|room| room.slots).collect();
        return Err(NoRoom::Apart {
            together: groups.iter().map(|one| one.together.min(one.instances)).max().unwrap_or(0),
            most: most.iter().copied().max().unwrap_or(0),
            temporary: settle(groups, &spread(wanted, &most), &most).is_some(),
        });
    };
    let mut cut = Cut { groups, group: 0, in_group: 0, instance: 0 };
    let shares = usable
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(room, count)| (room.worker.clone(), cut.next(count)))
        .collect();
    Ok(shares)
}

/// How many each gets, in turns of equal parts until everything is given out.
fn spread(wanted: u32, free: &[u32]) -> Vec<u32> {
    let mut counts = vec![0_u32; free.len()];
    let mut left = wanted;
    while left > 0 {
        let open: Vec<usize> = (0..free.len()).filter(|&i| counts[i] < free[i]).collect();
        let part = (left / u32::try_from(open.len()).unwrap_or(u32::MAX)).max(1);
        for index in open {
            let more = part.min(free[index] - counts[index]).min(left);
            counts[index] += more;
            left -= more;
        }
    }
    counts
}

/// How many each gets when the roomiest worker is filled first.
fn fill(wanted: u32, free: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..free.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(free[index]));
    let mut counts = vec![0_u32; free.len()];
    let mut left = wanted;
    for index in order {
        counts[index] = free[index].min(left);
        left -= counts[index];
    }
    counts
}

/// Moves the borders between workers to where they part nobody who has to be together: to the nearest such
/// place, or, where that does not do, as far as each worker has room.
fn settle(groups: &[Party], counts: &[u32], free: &[u32]) -> Option<Vec<u32>> {
    let mut ends = Vec::with_capacity(counts.len());
    for count in counts {
        ends.push(ends.last().copied().unwrap_or(0) + u64::from(*count));
    }
    let whole = vec![u64::MAX; counts.len()];
    take_turns(groups, &ends, free).or_else(|| take_turns(groups, &whole, free))
}

/// Each worker takes those whose middle lies before its end, as far as it has room.
fn take_turns(groups: &[Party], ends: &[u64], free: &[u32]) -> Option<Vec<u32>> {
    let mut blocks = groups.iter().flat_map(|group| blocks(*group)).peekable();
    let mut placed = 0_u64;
    let mut counts = Vec::with_capacity(free.len());
    for (end, free) in ends.iter().zip(free) {
        let mut count = 0_u32;
        while let Some(block) = blocks.next_if(|block| {
            count.saturating_add(*block) <= *free && placed + u64::from(*block) / 2 < *end
        }) {
            count += block;
            placed += u64::from(block);
        }
        counts.push(count);
    }
    blocks.next().is_none().then_some(counts)
}

/// The sizes of what has to be together in a group.
fn blocks(group: Party) -> impl Iterator<Item = u32> {
    let together = group.together.clamp(1, group.instances.max(1));
    let rest = group.instances % together;
    let whole = usize::try_from(group.instances / together).unwrap_or(usize::MAX);
    std::iter::repeat_n(together, whole).chain((rest > 0).then_some(rest))
}

/// Walks through all instances in order and cuts off ranges.
struct Cut<'a> {
    groups: &'a [Party],
    group: usize,
    in_group: u32,
    instance: u32,
}

impl Cut<'_> {
    fn next(&mut self, count: u32) -> Vec<InstanceRange> {
        let mut ranges = Vec::new();
        let mut left = count;
        while left > 0 && self.group < self.groups.len() {
            let here = (self.groups[self.group].instances - self.in_group).min(left);
            if here > 0 {
                ranges.push(InstanceRange {
                    group: u16::try_from(self.group).unwrap_or(u16::MAX),
                    first: InstanceId(self.instance),
                    first_in_group: self.in_group,
                    count: here,
                });
            }
            left -= here;
            self.instance += here;
            self.in_group += here;
            if self.in_group == self.groups[self.group].instances {
                self.group += 1;
                self.in_group = 0;
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(number: usize, slots: u32, free: u32) -> Room {
        Room {
            worker: WorkerId::from_lossy(&format!("w{number}")),
            slots,
            free,
            runtimes: vec![RuntimeKind::Netns],
        }
    }

    fn alone(groups: &[u32]) -> Vec<Party> {
        groups.iter().map(|instances| Party { instances: *instances, together: 1 }).collect()
    }

    fn sizes(shares: &[Share]) -> Vec<u32> {
        shares.iter().map(|(_, ranges)| ranges.iter().map(|r| r.count).sum()).collect()
    }

    #[test]
    fn instances_are_spread_evenly_and_in_order() {
        let rooms = [room(2, 10, 10), room(1, 10, 10), room(3, 10, 1)];
        let shares =
            place(&alone(&[3, 4]), RuntimeKind::Netns, &rooms, Distribution::Spread).expect("fits");
        assert_eq!(sizes(&shares), [3, 3, 1]);
        assert_eq!(shares[0].0.as_str(), "w1");
        let first_of_second = shares[1].1[0].clone();
        assert_eq!((first_of_second.first, first_of_second.group), (InstanceId(3), 1));
    }

    #[test]
    fn filling_takes_as_few_workers_as_possible() {
        let rooms = [room(1, 4, 4), room(2, 9, 9)];
        let shares =
            place(&alone(&[9]), RuntimeKind::Netns, &rooms, Distribution::Fill).expect("fits");
        assert_eq!(sizes(&shares), [9]);
        assert_eq!(shares[0].0.as_str(), "w2");
    }

    #[test]
    fn instances_behind_one_nat_are_on_one_worker() {
        let groups = [Party { instances: 7, together: 3 }, Party { instances: 2, together: 1 }];
        let place =
            |rooms: &[Room]| place(&groups, RuntimeKind::Netns, rooms, Distribution::Spread);
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
        let text = |groups: &[u32], rooms: &[Room], runtime| {
            place(&alone(groups), runtime, rooms, Distribution::Spread)
                .expect_err("no room")
                .to_string()
        };
        let rooms = [room(1, 32, 32), room(2, 32, 10)];
        assert_eq!(
            text(&[120], &rooms, RuntimeKind::Netns),
            "needs 120 instances, the cluster has room for 64"
        );
        assert_eq!(
            text(&[50], &rooms, RuntimeKind::Netns),
            "needs 50 instances, 42 of the cluster's 64 slots are free"
        );
        assert_eq!(
            text(&[1], &rooms, RuntimeKind::Docker),
            "no worker offers the runtime `docker`"
        );
        assert_eq!(text(&[1], &[], RuntimeKind::Netns), "no worker is registered");
    }

    proptest! {
        #[test]
        fn every_instance_is_placed_once_within_the_free_slots_or_none_is(
            groups in prop::collection::vec(0_u32..40, 1..6),
            frees in prop::collection::vec((0_u32..40, 0_u32..10), 0..6),
            fill in any::<bool>(),
        ) {
            let rooms: Vec<Room> = frees
                .iter()
                .enumerate()
                .map(|(number, (free, busy))| room(number, free + busy, *free))
                .collect();
            let distribution = if fill { Distribution::Fill } else { Distribution::Spread };
            let wanted: u32 = groups.iter().sum();
            let parties = alone(&groups);
            let placed = place(&parties, RuntimeKind::Netns, &rooms, distribution);
            let mut reversed = rooms.clone();
            reversed.reverse();
            prop_assert_eq!(&placed, &place(&parties, RuntimeKind::Netns, &reversed, distribution));
            let free: u32 = rooms.iter().map(|room| room.free).sum();
            prop_assert_eq!(placed.is_ok(), !rooms.is_empty() && wanted <= free);
            let Ok(shares) = placed else { return Ok(()) };

            let mut next = 0;
            for (worker, ranges) in &shares {
                let room = rooms.iter().find(|room| &room.worker == worker).expect("known");
                prop_assert!(ranges.iter().map(|r| r.count).sum::<u32>() <= room.free);
                for range in ranges {
                    prop_assert_eq!(range.first.0, next);
                    let before: u32 = groups[..usize::from(range.group)].iter().sum();
                    prop_assert_eq!(range.first_in_group, range.first.0 - before);
                    next += range.count;
                    prop_assert!(next <= before + groups[usize::from(range.group)]);
                }
            }
            prop_assert_eq!(next, wanted);
        }

        #[test]
        fn those_who_have_to_be_together_are_or_it_says_so(
            groups in prop::collection::vec((0_u32..30, 1_u32..9), 1..5),
            frees in prop::collection::vec(0_u32..40, 1..5),
            fill in any::<bool>(),
        ) {
            let parties: Vec<Party> =
                groups.iter().map(|(instances, together)| Party { instances: *instances, together: *together }).collect();
            let rooms: Vec<Room> =
                frees.iter().enumerate().map(|(number, free)| room(number, *free, *free)).collect();
            let distribution = if fill { Distribution::Fill } else { Distribution::Spread };
            let Ok(shares) = place(&parties, RuntimeKind::Netns, &rooms, distribution) else {
                return Ok(());
            };
            let mut placed = 0;
            for range in shares.iter().flat_map(|(_, ranges)| ranges) {
                let Party { instances, together } = parties[usize::from(range.group)];
                let end = range.first_in_group + range.count;
                prop_assert!(end == instances || end % together == 0, "parted at {} of {}", end, together);
                placed += range.count;
            }
            prop_assert_eq!(placed, parties.iter().map(|one| one.instances).sum::<u32>());
        }

        #[test]
        fn spreading_is_even_where_there_is_room(wanted in 1_u32..200, workers in 1_usize..9) {
            let rooms: Vec<Room> = (0..workers).map(|n| room(n, 200, 200)).collect();
            let shares = place(&alone(&[wanted]), RuntimeKind::Netns, &rooms, Distribution::Spread).expect("fits");
            let sizes = sizes(&shares);
            let most = sizes.iter().max().copied().unwrap_or(0);
            let least = if shares.len() < workers { 0 } else { sizes.iter().min().copied().unwrap_or(0) };
            prop_assert!(most - least <= 1);
        }
    }
}
