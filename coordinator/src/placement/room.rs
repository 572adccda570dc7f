//! What workers have, and what instances take of it.

use std::collections::BTreeMap;

use groundswell_common::ids::WorkerId;
use groundswell_common::messages::{Resources, RuntimeKind};

/// An amount of everything that a worker has a limited amount of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Room for instances.
    pub slots: u32,
    /// Cpu, in thousandths of a core.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

impl Capacity {
    /// So many slots, and cpu and memory without end.
    #[must_use]
    pub fn of_slots(slots: u32) -> Self {
        Self { slots, cpu_milli: u64::MAX, memory_bytes: u64::MAX }
    }

    /// How many instances fit in.
    #[must_use]
    pub fn fits(&self, need: Need) -> u32 {
        let times = |have: u64, each: u64| match have.checked_div(each) {
            Some(times) => u32::try_from(times).unwrap_or(u32::MAX),
            None => u32::MAX,
        };
        self.slots
            .min(times(self.cpu_milli, need.cpu_milli))
            .min(times(self.memory_bytes, need.memory_bytes))
    }

    /// What is left when `other` is taken away; less than nothing is nothing.
    #[must_use]
    pub fn without(&self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_sub(other.slots),
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }

    /// Both together.
    #[must_use]
    pub fn with(&self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_add(other.slots),
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// What one instance takes besides its slot. What is not limited takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Need {
    /// Cpu, in thousandths of a core.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

impl Need {
    /// What an instance with these limits takes.
    #[must_use]
    pub fn of(resources: &Resources) -> Self {
        // A part of a thousandth is a thousandth, so that nobody gets cpu for nothing.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a limit is finite and not negative, and the cast saturates"
        )]
        let cpu_milli = resources.cpu_cores.map_or(0, |cores| (cores * 1e3).ceil() as u64);
        Self { cpu_milli, memory_bytes: resources.memory_bytes.unwrap_or(0) }
    }

    /// What so many instances take.
    #[must_use]
    pub fn times(self, count: u32) -> Capacity {
        let count = u64::from(count);
        Capacity {
            slots: u32::try_from(count).unwrap_or(u32::MAX),
            cpu_milli: self.cpu_milli.saturating_mul(count),
            memory_bytes: self.memory_bytes.saturating_mul(count),
        }
    }
}

/// What a worker has to offer at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The worker.
    pub worker: WorkerId,
    /// What it has.
    pub total: Capacity,
    /// What no live run holds.
    pub free: Capacity,
    /// Whether a live run holds something of it.
    pub occupied: bool,
    /// The most instances of one run it takes.
    pub slots_per_run: u32,
    /// Runtimes that work there.
    pub runtimes: Vec<RuntimeKind>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Room {
    /// A worker that runs nothing.
    #[must_use]
    pub fn empty(worker: WorkerId, total: Capacity, runtimes: Vec<RuntimeKind>) -> Self {
        let labels = BTreeMap::new();
        let (free, slots_per_run) = (total, total.slots);
        Self { worker, total, free, occupied: false, slots_per_run, runtimes, labels }
    }

    /// Takes away what a run holds there, and everything else when it shares its workers with nobody.
    pub fn hold(&mut self, held: Capacity, exclusive: bool) {
        self.occupied = true;
        self.free = if exclusive { Capacity::default() } else { self.free.without(held) };
    }

    /// The same worker as if it ran nothing.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { free: self.total, occupied: false, ..self.clone() }
    }
}
