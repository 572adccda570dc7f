//! Which waiting run starts next. Pure: what waits, what holds room, and the time come in.
//!
//! ```text
//! waiting ──► order: class, less one for each `aging` waited ─► team with the least ─► its user with the least ─► age
//!               │
//!               ├─ over a quota of its team: waits, and holds nobody up
//!               ├─ fits: starts
//!               ├─ the first that does not fit: the head. Its room is reserved for when enough runs have ended
//!               └─ behind the head: starts only if it fits and is over by then
//! ```
//!
//! Nothing starves: a run that has waited long enough is of a more urgent class than any run that may still come,
//! so that it becomes the head, and nothing that starts from then on is in its way later than its reservation.
//!
//! A run holds its room at most for its time limit and [`ALLOWANCE`]; on that rests what is promised to the head.

pub mod admit;
mod order;
pub mod policy;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::queue::Priority;

use crate::placement::{Capacity, Gang, NoRoom, Room, Share, place, thousands};
use order::order;
pub use policy::Policy;
pub use usage::Usage;

/// How long preparing and cleaning up are taken to last beside a run's time limit.
pub const ALLOWANCE: Duration = Duration::from_secs(60);
/// How many runs behind the head are tried in one decision.
const TRIED: u32 = 100;

/// Who has a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Owner {
    /// On whose account.
    pub team: String,
    /// Who submitted it.
    pub user: String,
}

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The run.
    pub run: RunId,
    /// Who has it.
    pub owner: Owner,
    /// How urgent it is.
    pub priority: Priority,
    /// When it was submitted, Unix milliseconds.
    pub since_ms: u64,
    /// How long it holds its room at most.
    pub hold: Duration,
    /// What it needs.
    pub gang: Gang,
}

/// A run that holds room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The run.
    pub run: RunId,
    /// Who has it.
    pub owner: Owner,
    /// Its instances.
    pub instances: u32,
    /// When it lets go of its room at the latest, Unix milliseconds.
    pub until_ms: u64,
    /// What it holds.
    pub held: Vec<(WorkerId, Capacity)>,
    /// Whether its workers are its own.
    pub exclusive: bool,
}

/// Everything a decision goes by.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Runs that wait.
    pub waiting: &'a [Waiting],
    /// Runs that hold room.
    pub holding: &'a [Holding],
    /// The workers as if they ran nothing.
    pub rooms: &'a [Room],
    /// What everybody has had.
    pub usage: &'a Usage,
    /// What the queue goes by.
    pub policy: &'a Policy,
    /// The time, Unix milliseconds.
    pub now_ms: u64,
}

/// What becomes of a waiting run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It starts, on these workers.
    Start(Vec<Share>),
    /// It waits.
    Wait(Why),
}

/// Why a run waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There is no room for it.
    NoRoom(NoRoom),
    /// Its team has all the instances it may have.
    Instances {
        /// Which team.
        team: String,
        /// How many it has.
        has: u32,
        /// How many it may have.
        quota: u32,
        /// How many the run needs.
        wanted: u32,
    },
    /// Its team has all the runs it may have.
    Runs {
        /// Which team.
        team: String,
        /// How many it may have.
        quota: u32,
    },
    /// It could be in the way of the one that is first.
    Behind {
        /// The one that is first.
        head: RunId,
        /// How long until that one has its room, at the latest.
        within: Duration,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: &u32| thousands((*count).into());
        match self {
            Self::NoRoom(no_room) => no_room.fmt(f),
            Self::Instances { team, has, quota, wanted } => write!(
                f,
                "team `{team}` has {} of its {} instances, and this run needs {}",
                number(has),
                number(quota),
                number(wanted)
            ),
            Self::Runs { team, quota } => {
                write!(f, "team `{team}` has {} runs under way, its quota", number(quota))
            }
            Self::Behind { head, within } => {
                // To the minute: it is an upper bound, and nobody wants to watch it tick.
                let minutes = within.as_secs().div_ceil(60).max(1);
                let within = humantime::format_duration(Duration::from_secs(minutes * 60));
                write!(
                    f,
                    "{} goes first, within {within}, and this run may take longer than that",
                    head.name()
                )
            }
        }
    }
}

/// What is decided about every waiting run, in the order of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The decisions.
    pub decisions: Vec<(RunId, Decision)>,
    /// The head of the queue, if it waits for room, and when it has it at the latest.
    pub reserved: Option<(RunId, u64)>,
}

/// Decides about every run that waits.
#[must_use]
pub fn decide(view: &View<'_>) -> Plan {
    let mut hall = Hall::new(view);
    let mut plan = Plan::default();
    let mut tries = 0;
    for waiting in order(view) {
        let decision = if let Some(why) = hall.over_quota(waiting) {
            Decision::Wait(why)
        } else if let Some((head, at_ms)) = &plan.reserved {
            let over_by = view.now_ms.saturating_add(millis(waiting.hold));
            if over_by <= *at_ms && tries < TRIED {
                tries += 1;
                hall.try_start(waiting)
            } else {
                let within = Duration::from_millis(at_ms.saturating_sub(view.now_ms));
                Decision::Wait(Why::Behind { head: head.clone(), within })
            }
        } else {
            let decision = hall.try_start(waiting);
            if waits_for_others(&decision) {
                plan.reserved = hall.reserve(&waiting.gang).map(|at| (waiting.run.clone(), at));
            }
            decision
        };
        plan.decisions.push((waiting.run.clone(), decision));
    }
    plan
}

fn waits_for_others(decision: &Decision) -> bool {
    matches!(decision, Decision::Wait(Why::NoRoom(no_room)) if no_room.is_temporary())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The cluster while a decision is made: what is decided already holds room.
struct Hall<'a> {
    view: &'a View<'a>,
    /// The workers as if they ran nothing, in the order of their names.
    empty: Vec<Room>,
    rooms: Vec<Room>,
    holding: Vec<Holding>,
    /// Instances and runs of each team.
    teams: BTreeMap<String, (u32, u32)>,
}

impl<'a> Hall<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut empty = view.rooms.to_vec();
        empty.sort_by(|a, b| a.worker.cmp(&b.worker));
        let rooms = empty.clone();
        let mut hall = Self { view, empty, rooms, holding: Vec::new(), teams: BTreeMap::new() };
        view.holding.iter().for_each(|holding| hall.hold(holding.clone()));
        hall
    }

    fn hold(&mut self, holding: Holding) {
        let (instances, runs) = self.teams.entry(holding.owner.team.clone()).or_default();
        *instances = instances.saturating_add(holding.instances);
        *runs += 1;
        occupy(&mut self.rooms, &holding);
        self.holding.push(holding);
    }

    fn over_quota(&self, waiting: &Waiting) -> Option<Why> {
        let team = waiting.owner.team.clone();
        let quota = &self.view.policy.team(&team).quota;
        let (has, runs) = self.teams.get(&team).copied().unwrap_or_default();
        let wanted = waiting.gang.instances();
        if let Some(quota) = quota.instances.filter(|most| has.saturating_add(wanted) > *most) {
            return Some(Why::Instances { team, has, quota, wanted });
        }
        let quota = quota.runs.filter(|most| runs >= *most)?;
        Some(Why::Runs { team, quota })
    }

    fn try_start(&mut self, waiting: &Waiting) -> Decision {
        match place(&waiting.gang, &self.rooms) {
            Ok(shares) => self.start(waiting, shares),
            Err(refused) => Decision::Wait(Why::NoRoom(refused)),
        }
    }

    fn start(&mut self, waiting: &Waiting, shares: Vec<Share>) -> Decision {
        let held =
            shares.iter().map(|(worker, ranges)| (worker.clone(), waiting.gang.held(ranges)));
        let holding = Holding {
            run: waiting.run.clone(),
            owner: waiting.owner.clone(),
            instances: waiting.gang.instances(),
            until_ms: self.view.now_ms.saturating_add(millis(waiting.hold)),
            held: held.collect(),
            exclusive: waiting.gang.wish.exclusive,
        };
        self.hold(holding);
        Decision::Start(shares)
    }

    /// When there is room for `gang` if no other run starts: the first end of a run after which it fits.
    fn reserve(&self, gang: &Gang) -> Option<u64> {
        let mut ends: Vec<&Holding> = self.holding.iter().collect();
        ends.sort_by_key(|holding| (holding.until_ms, &holding.run));
        let fits = |ended: usize| {
            let mut rooms = self.empty.clone();
            ends[ended..].iter().for_each(|holding| occupy(&mut rooms, holding));
            place(gang, &rooms).is_ok()
        };
        let (mut low, mut high) = (1, ends.len());
        while low < high {
            let middle = low.midpoint(high);
            if fits(middle) { high = middle } else { low = middle + 1 }
        }
        let last = ends.get(low.checked_sub(1)?)?;
        // A run that is over its time may end at any moment, but not in the past.
        fits(low).then_some(last.until_ms.max(self.view.now_ms))
    }
}

/// Takes away what a run holds; `rooms` are in the order of their names.
fn occupy(rooms: &mut [Room], holding: &Holding) {
    for (worker, held) in &holding.held {
        if let Ok(index) = rooms.binary_search_by(|room| room.worker.cmp(worker)) {
            rooms[index].hold(*held, holding.exclusive);
        }
    }
}
