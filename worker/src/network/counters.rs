//! Counts what became of the packets an instance has sent.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It arrived. Each copy of a doubled packet counts.
    Delivered,
    /// A rule dropped it.
    Filtered,
    /// A rule rejected it.
    Rejected,
    /// It was lost by chance.
    Lost,
    /// The queue of its rate, or the memory for waiting packets, was full.
    Overrun,
    /// Nobody has its destination.
    NoSuchAddress,
    /// Its sender or its destination is not on the network at this moment.
    Absent,
    /// Its source is not its sender's address.
    ForeignSource,
    /// It was sent to many, and this run has no broadcast and multicast.
    Group,
    /// It is neither IPv4 nor IPv6, or cannot be read.
    NotIp,
    /// The destination's interface did not take it.
    NotTaken,
    /// A second copy of it was made. Not an end: the copies count as well.
    Duplicated,
    /// One of its bits was flipped. Not an end: it counts as well.
    Corrupted,
    /// It was sent to the worker of its destination. Each copy of a doubled packet counts.
    Sent,
    /// It went to a host outside the data network, or to where it waits for its turn there.
    Outside,
    /// Its destination is outside the data network, where its sender may not go.
    Denied,
    /// It is for a host outside, and of a kind that is not carried there: no TCP, UDP or ping, or a fragment.
    Uncarried,
    /// It came from a host outside for the instance. Not one that the instance has sent.
    Returned,
    /// It is for a host outside, and one of its checksums is wrong: no host would take it.
    Damaged,
}

const FATES: usize = Fate::Damaged as usize + 1;

/// The word for each fate in reports, in the order of the fates.
const WORDS: [&str; FATES] = [
    "delivered",
    "filtered",
    "rejected",
    "lost",
    "overrun",
    "no_such_address",
    "absent",
    "foreign_source",
    "group",
    "not_ip",
    "not_taken",
    "duplicated",
    "corrupted",
    "handed_over",
    "outside",
    "denied",
    "uncarried",
    "from_outside",
    "damaged",
];

/// Counts of packets by fate, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; FATES]);

impl Counts {
    /// How many packets met `fate`.
    #[must_use]
    pub fn of(&self, fate: Fate) -> u64 {
        self.0[fate as usize]
    }

    /// The fates that any packet has met, by their words.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WORDS.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Adds the counts of another instance.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// Counts as they grow.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; FATES]);

impl Counters {
    pub(super) fn count(&self, fate: Fate, packets: u64) {
        self.0[fate as usize].fetch_add(packets, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        Counts(std::array::from_fn(|fate| self.0[fate].load(Ordering::Relaxed)))
    }
}
