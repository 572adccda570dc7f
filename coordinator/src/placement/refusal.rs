//! Why a run cannot be placed: what it needs, what there is, and which of its wishes is in the way.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_common::messages::RuntimeKind;
use groundswell_common::placement::{Require, required, satisfies};

use super::Gang;
use super::amount::{Amount, Total, thousands};
use super::attempt::{Kind, Seat};
use super::room::Room;

/// How many values of a label are listed.
const LISTED: usize = 8;

/// Why a run cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Other runs hold what it needs.
    #[error("{who}needs {wanted}, {} of {whose} {} are free", free.bare(), total.bare())]
    Busy {
        /// Empty for the run, `` group `a`  `` for one group.
        who: String,
        /// `the cluster's`, or of which workers.
        whose: String,
        /// How much.
        wanted: Amount,
        /// How much is free.
        free: Amount,
        /// How much there is.
        total: Amount,
    },
    /// It does not fit even when nothing else runs.
    #[error("{who}needs {wanted}, {there} {}", total.bare())]
    TooLarge {
        /// Empty for the run, `` group `a`  `` for one group.
        who: String,
        /// `the cluster has`, or which workers have.
        there: String,
        /// How much.
        wanted: Amount,
        /// How much there is.
        total: Amount,
    },
    /// There is enough in all, but not where a whole instance fits.
    #[error("{who} needs room for {}{each}, {}", many(*wanted), found(*fit, *temporary))]
    Crowded {
        /// `` group `a` ``.
        who: String,
        /// What each instance takes, or how many may be on a worker.
        each: String,
        /// Its instances.
        wanted: u32,
        /// How many of them find room.
        fit: u64,
        /// Whether all would if no other run held something.
        temporary: bool,
    },
    /// The workers it could have to itself are not free.
    #[error("needs workers of its own, and {busy} of {there} run something else")]
    Shared {
        /// How many run something.
        busy: usize,
        /// How many there are.
        there: usize,
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
    /// All of it has to be on one worker, and fits on none.
    #[error(
        "{} {} to be on one worker; the largest has {} slots, and the emptiest {} free",
        many(*wanted), if *wanted == 1 { "has" } else { "have" },
        thousands((*most).into()), thousands((*free).into())
    )]
    OneWorker {
        /// Its instances.
        wanted: u32,
        /// Slots of the largest worker.
        most: u32,
        /// Free slots of the worker with the most of them.
        free: u32,
        /// Whether one would do if no other run held something.
        temporary: bool,
    },
    /// Each group fits by itself, but not beside the others.
    #[error("{groups} do not all find room {}", if *apart { "on workers apart" } else { "beside each other" })]
    Crossed {
        /// The groups.
        groups: String,
        /// Whether some of them keep apart.
        apart: bool,
        /// Whether they would if no other run held something.
        temporary: bool,
    },
    /// No worker has the labels.
    #[error("no worker has {wanted}{whom}; {there}")]
    NoLabel {
        /// What is asked for.
        wanted: String,
        /// Empty for the run, `` , which group `a` requires `` for one group.
        whom: String,
        /// Which labels there are.
        there: String,
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
        match self {
            Self::Busy { .. } | Self::Shared { .. } => true,
            Self::Crowded { temporary, .. }
            | Self::OneWorker { temporary, .. }
            | Self::Apart { temporary, .. }
            | Self::Crossed { temporary, .. } => *temporary,
            Self::TooLarge { .. }
            | Self::NoLabel { .. }
            | Self::NoRuntime { .. }
            | Self::NoWorkers => false,
        }
    }
}

fn many(count: u32) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{} instances", thousands(count.into())),
    }
}

fn found(fit: u64, temporary: bool) -> String {
    let fit = thousands(fit);
    if temporary {
        format!("at this moment there is for {fit}")
    } else {
        format!("there is for {fit}")
    }
}

/// Finds out what is in the way. `now` is what workers can give at this moment, `whole` what they could if nothing
/// else ran; `temporary` says that the run would fit then.
pub(super) fn explain(
    gang: &Gang,
    kinds: &[Kind],
    now: &[Seat<'_>],
    whole: &[Seat<'_>],
    temporary: bool,
) -> NoRoom {
    let seats = if temporary { now } else { whole };
    let kinds: Vec<&Kind> = kinds.iter().filter(|kind| kind.instances > 0).collect();
    missing_label(gang, &kinds, whole)
        .or_else(|| shared(gang, now, temporary))
        .or_else(|| short(gang, "", &Require::new(), &kinds, seats, temporary))
        .or_else(|| {
            kinds.iter().find_map(|kind| {
                let who = format!("{} ", names(gang, kind));
                short(gang, &who, &kind.require, &[*kind], seats, temporary)
            })
        })
        .or_else(|| kinds.iter().find_map(|kind| crowded(gang, kind, seats, temporary)))
        .or_else(|| parted(&kinds, whole, temporary))
        .unwrap_or_else(|| crossed(gang, &kinds, temporary))
}

fn missing_label(gang: &Gang, kinds: &[&Kind], seats: &[Seat<'_>]) -> Option<NoRoom> {
    let has = |kind: &Kind| seats.iter().any(|seat| satisfies(&seat.room.labels, &kind.require));
    let kind = kinds.iter().find(|kind| !has(kind))?;
    let rooms: Vec<&Room> = seats.iter().map(|seat| seat.room).collect();
    let whom = format!(", which {} requires", names(gang, kind));
    Some(no_label(&whom, &kind.require, None, &rooms))
}

/// No worker has what is required; says which labels there are.
pub(super) fn no_label(
    whom: &str,
    require: &Require,
    zone: Option<&String>,
    rooms: &[&Room],
) -> NoRoom {
    let has = |require: &Require| rooms.iter().any(|room| satisfies(&room.labels, require));
    let lone =
        |(label, values): (&String, &Vec<String>)| Require::from([(label.clone(), values.clone())]);
    // One label that nobody has says more than all of them.
    let missing = require.iter().map(lone).find(|one| !has(one));
    let wanted = match (&missing, zone) {
        (Some(missing), _) => required(missing),
        (None, Some(zone)) if has(require) => format!("the label `{zone}`"),
        (None, _) => required(require),
    };
    let asked: BTreeSet<&String> = match &missing {
        Some(missing) => missing.keys().collect(),
        None => require.keys().chain(zone).collect(),
    };
    NoRoom::NoLabel { wanted, whom: whom.to_owned(), there: listed(&asked, rooms) }
}

/// The values there are of some labels, or else the labels there are.
fn listed(asked: &BTreeSet<&String>, rooms: &[&Room]) -> String {
    let mut there: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (label, value) in rooms.iter().flat_map(|room| &room.labels) {
        there.entry(label).or_default().insert(value);
    }
    let values = |label: &String| {
        let values = there.get(label)?;
        let mut shown: Vec<String> =
            values.iter().take(LISTED).map(|value| format!("`{value}`")).collect();
        if values.len() > LISTED {
            shown.push(format!("{} more", values.len() - LISTED));
        }
        Some(format!("`{label}` = {}", shown.join(", ")))
    };
    let known: Vec<String> = asked.iter().filter_map(|label| values(label)).collect();
    if !known.is_empty() {
        return format!("there is {}", known.join(" and "));
    }
    let labels: Vec<String> = there.keys().take(LISTED).map(|label| format!("`{label}`")).collect();
    if labels.is_empty() {
        return "workers have no labels".to_owned();
    }
    format!("there are the labels {}", labels.join(", "))
}

fn shared(gang: &Gang, now: &[Seat<'_>], temporary: bool) -> Option<NoRoom> {
    let busy = now.iter().filter(|seat| seat.room.occupied).count();
    let is_so = gang.wish.exclusive && temporary && busy > 0;
    is_so.then_some(NoRoom::Shared { busy, there: now.len() })
}

/// Whether there is less of something than `kinds` need in all, among the workers that have what is required.
fn short(
    gang: &Gang,
    who: &str,
    require: &Require,
    kinds: &[&Kind],
    seats: &[Seat<'_>],
    temporary: bool,
) -> Option<NoRoom> {
    let fitting = || seats.iter().filter(|seat| satisfies(&seat.room.labels, require));
    let wanted = Total::of(kinds.iter().map(|kind| kind.need.times(kind.instances)));
    let free = Total::of(fitting().map(|seat| seat.left));
    let total = Total::of(fitting().map(|seat| seat.room.total));
    let amounts = Amount::of(&wanted).into_iter().zip(Amount::of(&free)).zip(Amount::of(&total));
    let ((wanted, free), total) =
        amounts.into_iter().find(|((wanted, free), _)| wanted.number() > free.number())?;
    let all = merged(&gang.wish.require, require);
    let who = who.to_owned();
    Some(if temporary {
        let whose = if all.is_empty() {
            "the cluster's".to_owned()
        } else {
            format!("the workers' with {}", required(&all))
        };
        NoRoom::Busy { who, whose, wanted, free, total }
    } else {
        let there = if all.is_empty() {
            "the cluster has".to_owned()
        } else {
            format!("workers with {} have", required(&all))
        };
        NoRoom::TooLarge { who, there, wanted, total }
    })
}

fn merged(run: &Require, group: &Require) -> Require {
    run.iter().chain(group).map(|(label, values)| (label.clone(), values.clone())).collect()
}

/// Whether instances of a kind find no worker although there is enough in all.
fn crowded(gang: &Gang, kind: &Kind, seats: &[Seat<'_>], temporary: bool) -> Option<NoRoom> {
    let fit: u64 = seats.iter().map(|seat| u64::from(seat.cap(kind))).sum();
    if fit >= u64::from(kind.instances) {
        return None;
    }
    let limits = [kind.per_worker, gang.wish.per_worker].into_iter().flatten().min();
    let limits = limits.map(|most| format!("at most {} on a worker", thousands(most.into())));
    let cpu = Some(kind.need.cpu_milli).filter(|cpu| *cpu > 0).map(Amount::CpuMilli);
    let memory = Some(kind.need.memory_bytes).filter(|bytes| *bytes > 0).map(Amount::MemoryBytes);
    let needs = cpu.into_iter().chain(memory).map(|amount| format!("each with {amount}"));
    let per_run =
        seats.iter().map(|seat| seat.room).filter(|room| room.slots_per_run < room.total.slots);
    let per_run = per_run.map(|room| u64::from(room.slots_per_run)).max();
    let per_run =
        per_run.map(|most| format!("of which a worker takes {} of one run", thousands(most)));
    let each: Vec<String> = needs.chain(limits).chain(per_run).collect();
    let each = if each.is_empty() { String::new() } else { format!(", {}", each.join(", ")) };
    let (who, wanted) = (names(gang, kind), kind.instances);
    Some(NoRoom::Crowded { who, each, wanted, fit, temporary })
}

/// Whether the trouble is with instances that have to be on one worker.
fn parted(kinds: &[&Kind], whole: &[Seat<'_>], temporary: bool) -> Option<NoRoom> {
    let rows = kinds.iter().flat_map(|kind| &kind.rows);
    let together = rows.map(|row| row.together.min(row.instances)).max().unwrap_or(0);
    let most = whole.iter().map(|seat| seat.room.total.slots).max().unwrap_or(0);
    (together > 1).then_some(NoRoom::Apart { together, most, temporary })
}

fn crossed(gang: &Gang, kinds: &[&Kind], temporary: bool) -> NoRoom {
    let apart = kinds.iter().any(|kind| !kind.apart.is_empty());
    let groups: Vec<String> = kinds.iter().map(|kind| names(gang, kind)).collect();
    NoRoom::Crossed { groups: groups.join(" and "), apart, temporary }
}

/// The groups of a kind for people.
fn names(gang: &Gang, kind: &Kind) -> String {
    let names: Vec<String> =
        kind.parties.iter().map(|index| format!("`{}`", gang.parties[*index].name)).collect();
    let word = if names.len() == 1 { "group" } else { "groups" };
    format!("{word} {}", names.join(", "))
}
