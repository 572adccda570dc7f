//! Decides which worker runs which instances: all of them or none.
//!
//! ```text
//! gang: groups of a run ──► kinds: groups with the same wishes, the pickiest first
//!                             │ for each kind: how many more could each worker take (capacity, labels, limits)?
//!                             ▼
//!                           counts per worker: level, level over zones, or packed; nobody parted who is together
//!                             ▼
//!                           shares: ranges of instances in order
//! ```
//!
//! A run whose groups are all of one kind is placed if and only if there is room. With several kinds the kinds are
//! placed one after the other, in a few orders; what none of them solves is told to wait. The same arguments give
//! the same answer, whatever the order of the rooms.

mod amount;
mod attempt;
mod fill;
mod refusal;
mod room;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use groundswell_common::ids::{InstanceId, WorkerId};
use groundswell_common::messages::{InstanceRange, RuntimeKind};
use groundswell_common::placement::{GroupPlacement, RunPlacement, satisfies};

pub use amount::{Amount, thousands};
use attempt::{Kind, Seat, Tactic, attempt, kinds};
pub use refusal::NoRoom;
pub use room::{Capacity, Need, Room};

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

/// A group that is to be placed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Party {
    /// Its name in the run.
    pub name: String,
    /// Its instances.
    pub instances: u32,
    /// So many of them, one after the other, have to be on one worker; at least 1.
    pub together: u32,
    /// What each instance takes besides its slot.
    pub need: Need,
    /// Which workers it asks for.
    pub wish: GroupPlacement,
}

/// All instances of a run, which are placed together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gang {
    /// The groups in the order of the composition.
    pub parties: Vec<Party>,
    /// How instances are run.
    pub runtime: RuntimeKind,
    /// Which workers the run asks for.
    pub wish: RunPlacement,
    /// How instances are distributed when the run does not say.
    pub distribution: Distribution,
}

impl Gang {
    /// Instances in all.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.parties.iter().fold(0, |sum, party| sum.saturating_add(party.instances))
    }

    /// What some of its instances hold of their worker.
    #[must_use]
    pub fn held(&self, ranges: &[InstanceRange]) -> Capacity {
        ranges.iter().fold(Capacity::default(), |sum, range| {
            let need = self.parties.get(usize::from(range.group)).map(|party| party.need);
            sum.with(need.unwrap_or_default().times(range.count))
        })
    }

    fn distribution(&self) -> Distribution {
        match self.wish.pack {
            Some(true) => Distribution::Fill,
            Some(false) => Distribution::Spread,
            None => self.distribution,
        }
    }
}

/// Gives each instance of `gang` a worker.
///
/// # Errors
/// When not every instance finds a place; no part of the run is placed then.
pub fn place(gang: &Gang, rooms: &[Room]) -> Result<Vec<Share>, NoRoom> {
    let usable = usable(gang, rooms)?;
    if gang.wish.one_worker && usable.len() > 1 {
        return on_one(gang, usable);
    }
    let kinds = kinds(&gang.parties);
    let seats = seats(gang, &usable);
    let Some(counts) = solve(gang, &kinds, &seats) else {
        let emptied: Vec<Room> = usable.iter().map(|room| room.emptied()).collect();
        let emptied: Vec<&Room> = emptied.iter().collect();
        let whole = self::seats(gang, &emptied);
        let temporary = solve(gang, &kinds, &whole).is_some();
        return Err(refusal::explain(gang, &kinds, &seats, &whole, temporary));
    };
    Ok(shares(gang, &kinds, &usable, &counts))
}

/// Gives all instances to one worker: that with the most free slots, or the fewest when workers are filled.
fn on_one(gang: &Gang, mut usable: Vec<&Room>) -> Result<Vec<Share>, NoRoom> {
    let free = |room: &&Room| (room.free.slots, std::cmp::Reverse(room.worker.clone()));
    usable.sort_by_key(|room| std::cmp::Reverse(free(room)));
    if gang.distribution() == Distribution::Fill {
        usable.reverse();
    }
    let alone = |room: &&Room| place(gang, std::slice::from_ref(*room)).ok();
    if let Some(shares) = usable.iter().find_map(alone) {
        return Ok(shares);
    }
    let emptied = |room: &&Room| place(gang, &[room.emptied()]).is_ok();
    Err(NoRoom::OneWorker {
        wanted: gang.instances(),
        most: usable.iter().map(|room| room.total.slots).max().unwrap_or(0),
        free: usable.iter().map(|room| room.free.slots).max().unwrap_or(0),
        temporary: usable.iter().any(emptied),
    })
}

/// The workers that the run as a whole can use, in the order of their names.
fn usable<'a>(gang: &Gang, rooms: &'a [Room]) -> Result<Vec<&'a Room>, NoRoom> {
    if rooms.is_empty() {
        return Err(NoRoom::NoWorkers);
    }
    let runtime = gang.runtime;
    let mut usable: Vec<&Room> =
        rooms.iter().filter(|room| room.runtimes.contains(&runtime)).collect();
    if usable.is_empty() {
        return Err(NoRoom::NoRuntime { runtime });
    }
    let there = usable.clone();
    usable.retain(|room| {
        let zone = gang.wish.spread.as_ref();
        satisfies(&room.labels, &gang.wish.require)
            && zone.is_none_or(|label| room.labels.contains_key(label))
    });
    if usable.is_empty() {
        return Err(refusal::no_label("", &gang.wish.require, gang.wish.spread.as_ref(), &there));
    }
    usable.sort_by(|a, b| a.worker.cmp(&b.worker));
    Ok(usable)
}

/// What each worker can give to this run.
fn seats<'a>(gang: &Gang, usable: &[&'a Room]) -> Vec<Seat<'a>> {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    usable
        .iter()
        .map(|room| {
            let label = gang.wish.spread.as_ref().and_then(|label| room.labels.get(label));
            let next = zones.len();
            let zone = *zones.entry(label.map_or("", String::as_str)).or_insert(next);
            let most = gang.wish.per_worker.unwrap_or(u32::MAX).min(room.slots_per_run);
            let barred = gang.wish.exclusive && room.occupied;
            Seat::new(room, if barred { 0 } else { most }, zone)
        })
        .collect()
}

/// How many instances of each kind each worker gets, by the first tactic that finds room for all.
fn solve(gang: &Gang, kinds: &[Kind], seats: &[Seat<'_>]) -> Option<Vec<Vec<u32>>> {
    let asked = gang.distribution();
    let zones = gang.wish.spread.is_some();
    let tactics: &[Tactic] = if kinds.len() == 1 {
        &[Tactic::PickiestFirst]
    } else {
        &[Tactic::PickiestFirst, Tactic::Thrifty, Tactic::LargestFirst]
    };
    tactics.iter().find_map(|tactic| attempt(kinds, seats.to_vec(), *tactic, asked, zones))
}

/// Cuts the instances of each kind into ranges, worker by worker.
fn shares(gang: &Gang, kinds: &[Kind], usable: &[&Room], counts: &[Vec<u32>]) -> Vec<Share> {
    let mut shares: Vec<Vec<InstanceRange>> = vec![Vec::new(); usable.len()];
    for (kind, counts) in kinds.iter().zip(counts) {
        let mut cut = Cut { gang, parties: &kind.parties, at: 0, in_group: 0 };
        for (share, count) in shares.iter_mut().zip(counts) {
            share.extend(cut.next(*count));
        }
    }
    usable
        .iter()
        .zip(shares)
        .filter(|(_, ranges)| !ranges.is_empty())
        .map(|(room, mut ranges)| {
            ranges.sort_by_key(|range| range.first);
            (room.worker.clone(), ranges)
        })
        .collect()
}

/// Walks through the instances of some groups in order and cuts off ranges.
struct Cut<'a> {
    gang: &'a Gang,
    parties: &'a [usize],
    /// The group it has come to, as an index into `parties`.
    at: usize,
    in_group: u32,
}

impl Cut<'_> {
    fn next(&mut self, count: u32) -> Vec<InstanceRange> {
        let mut ranges = Vec::new();
        let mut left = count;
        while left > 0 && self.at < self.parties.len() {
            let group = self.parties[self.at];
            let instances = self.gang.parties[group].instances;
            let here = (instances - self.in_group).min(left);
            if here > 0 {
                let before: u32 = self.gang.parties[..group].iter().map(|one| one.instances).sum();
                ranges.push(InstanceRange {
                    group: u16::try_from(group).unwrap_or(u16::MAX),
                    first: InstanceId(before + self.in_group),
                    first_in_group: self.in_group,
                    count: here,
                });
            }
            left -= here;
            self.in_group += here;
            if self.in_group == instances {
                self.at += 1;
                self.in_group = 0;
            }
        }
        ranges
    }
}
