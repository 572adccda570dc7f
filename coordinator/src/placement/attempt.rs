//! One way of placing a run: its kinds one after the other, each as far as workers can take it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use groundswell_common::placement::{Require, satisfies};

use super::fill::{Row, level, level_zones, pack, settle};
use super::room::{Capacity, Need, Room};
use super::{Distribution, Party};

/// Groups that ask for the same, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    /// Indexes of the groups.
    pub(super) parties: Vec<usize>,
    pub(super) rows: Vec<Row>,
    pub(super) instances: u32,
    pub(super) need: Need,
    pub(super) require: Require,
    pub(super) per_worker: Option<u32>,
    /// Indexes of the kinds it shares no worker with.
    pub(super) apart: BTreeSet<usize>,
}

/// The groups of a run by what they ask for, in the order of their first groups.
pub(super) fn kinds(parties: &[Party]) -> Vec<Kind> {
    let enemies: Vec<BTreeSet<usize>> = (0..parties.len())
        .map(|one| (0..parties.len()).filter(|other| keep_apart(parties, one, *other)).collect())
        .collect();
    let alike = |one: usize, other: usize| {
        let (a, b) = (&parties[one], &parties[other]);
        // A limit per worker counts the instances of one group.
        let limited = a.wish.per_worker.is_some() || b.wish.per_worker.is_some();
        a.need == b.need
            && a.wish.require == b.wish.require
            && enemies[one] == enemies[other]
            && !limited
    };
    let mut kinds: Vec<Kind> = Vec::new();
    for (index, party) in parties.iter().enumerate() {
        let row = Row { instances: party.instances, together: party.together };
        if let Some(kind) = kinds.iter_mut().find(|kind| alike(kind.parties[0], index)) {
            kind.parties.push(index);
            kind.rows.push(row);
            kind.instances = kind.instances.saturating_add(party.instances);
            continue;
        }
        kinds.push(Kind {
            parties: vec![index],
            rows: vec![row],
            instances: party.instances,
            need: party.need,
            require: party.wish.require.clone(),
            per_worker: party.wish.per_worker,
            apart: BTreeSet::new(),
        });
    }
    let apart: Vec<BTreeSet<usize>> = kinds
        .iter()
        .map(|kind| {
            let of_kind = |other: &Kind| enemies[kind.parties[0]].contains(&other.parties[0]);
            (0..kinds.len()).filter(|other| of_kind(&kinds[*other])).collect()
        })
        .collect();
    kinds.iter_mut().zip(apart).for_each(|(kind, apart)| kind.apart = apart);
    kinds
}

/// Whether one of two groups wants to keep apart from the other.
fn keep_apart(parties: &[Party], one: usize, other: usize) -> bool {
    let asks = |one: &Party, other: &Party| one.wish.apart_from.contains(&other.name);
    one != other && (asks(&parties[one], &parties[other]) || asks(&parties[other], &parties[one]))
}

/// What one worker can give to the run, and what it has given.
#[derive(Debug, Clone)]
pub(super) struct Seat<'a> {
    pub(super) room: &'a Room,
    pub(super) left: Capacity,
    /// Instances of the run it may still get.
    pub(super) most: u32,
    /// Instances of the run it has.
    load: u32,
    /// Which of the values of the label that the run is spread over it has.
    zone: usize,
    /// The kinds it has instances of.
    has: BTreeSet<usize>,
}

impl<'a> Seat<'a> {
    pub(super) fn new(room: &'a Room, most: u32, zone: usize) -> Self {
        Self { room, left: room.free, most, load: 0, zone, has: BTreeSet::new() }
    }

    /// How many instances of a kind it could take.
    pub(super) fn cap(&self, kind: &Kind) -> u32 {
        if !satisfies(&self.room.labels, &kind.require) || !self.has.is_disjoint(&kind.apart) {
            return 0;
        }
        self.left.fits(kind.need).min(self.most).min(kind.per_worker.unwrap_or(u32::MAX))
    }

    fn take(&mut self, index: usize, kind: &Kind, count: u32) {
        if count > 0 {
            self.left = self.left.without(kind.need.times(count));
            self.most -= count;
            self.load += count;
            self.has.insert(index);
        }
    }
}

/// In which order kinds are placed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tactic {
    /// Those with the least choice first, distributed as asked.
    PickiestFirst,
    /// Those with the least choice first, packed where the others can do least with it.
    Thrifty,
    /// Those whose instances are the largest first, packed.
    LargestFirst,
}

/// How many instances of each kind each worker gets; none when some find no place.
pub(super) fn attempt(
    kinds: &[Kind],
    mut seats: Vec<Seat<'_>>,
    tactic: Tactic,
    asked: Distribution,
    zones: bool,
) -> Option<Vec<Vec<u32>>> {
    let mut counts = vec![Vec::new(); kinds.len()];
    let order = order(kinds, &seats, tactic);
    for (turn, &index) in order.iter().enumerate() {
        let kind = &kinds[index];
        let later: Vec<&Kind> = order[turn + 1..].iter().map(|index| &kinds[*index]).collect();
        let given = match tactic {
            Tactic::PickiestFirst => as_asked(index, kind, &later, &seats, asked, zones),
            Tactic::Thrifty | Tactic::LargestFirst => packed(kind, &later, &seats),
        };
        let given = given?;
        seats.iter_mut().zip(&given).for_each(|(seat, count)| seat.take(index, kind, *count));
        counts[index] = given;
    }
    Some(counts)
}

fn order(kinds: &[Kind], seats: &[Seat<'_>], tactic: Tactic) -> Vec<usize> {
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    let choice = |kind: &Kind| {
        let caps: u64 = seats.iter().map(|seat| u64::from(seat.cap(kind))).sum();
        i128::from(caps) - i128::from(kind.instances)
    };
    match tactic {
        Tactic::PickiestFirst | Tactic::Thrifty => order.sort_by_key(|index| {
            let kind = &kinds[*index];
            (kind.apart.is_empty(), choice(kind), Reverse(kind.need))
        }),
        Tactic::LargestFirst => order.sort_by_key(|index| Reverse(kinds[*index].need)),
    }
    order
}

fn as_asked(
    index: usize,
    kind: &Kind,
    later: &[&Kind],
    seats: &[Seat<'_>],
    asked: Distribution,
    zones: bool,
) -> Option<Vec<u32>> {
    let caps: Vec<u32> = seats.iter().map(|seat| seat.cap(kind)).collect();
    let loads: Vec<u32> = seats.iter().map(|seat| seat.load).collect();
    let at: Vec<usize> = seats.iter().map(|seat| seat.zone).collect();
    let spread = |caps: &[u32]| {
        let counts = if zones {
            level_zones(kind.instances, caps, &loads, &at)
        } else {
            level(kind.instances, caps, &loads)
        };
        settle(&kind.rows, counts?, caps)
    };
    if asked == Distribution::Fill {
        return packed(kind, &[], seats);
    }
    // Whoever keeps apart from groups that are still to come leaves workers to them.
    let others = later.iter().filter(|other| other.apart.contains(&index));
    let others: u64 = others.map(|other| u64::from(other.instances)).sum();
    if others > 0 {
        let part = part_of(&caps, u64::from(kind.instances), others);
        return spread(&part).or_else(|| packed(kind, later, seats));
    }
    spread(&caps)
}

/// Of the workers that can take something, as large a part as `own` is of `own` and `others`, the roomiest.
fn part_of(caps: &[u32], own: u64, others: u64) -> Vec<u32> {
    let mut order: Vec<usize> = (0..caps.len()).filter(|index| caps[*index] > 0).collect();
    order.sort_by_key(|index| Reverse(caps[*index]));
    let count = u64::try_from(order.len()).unwrap_or(u64::MAX);
    let part = (count.saturating_mul(own) / own.saturating_add(others)).max(1);
    let mut kept = vec![0; caps.len()];
    for index in order.into_iter().take(usize::try_from(part).unwrap_or(usize::MAX)) {
        kept[index] = caps[index];
    }
    kept
}

/// As few workers as possible, and those first that the fewest of the `later` kinds could use.
fn packed(kind: &Kind, later: &[&Kind], seats: &[Seat<'_>]) -> Option<Vec<u32>> {
    let caps: Vec<u32> = seats.iter().map(|seat| seat.cap(kind)).collect();
    let mut order: Vec<usize> = (0..caps.len()).collect();
    order.sort_by_cached_key(|index| {
        let wanted = later.iter().filter(|other| seats[*index].cap(other) > 0).count();
        (wanted, Reverse(caps[*index]))
    });
    let counts = pack(kind.instances, &caps, &order)?;
    settle(&kind.rows, counts, &caps)
}
