//! What a run's log has built: states that are signalled, and topics that grow.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use groundswell_common::ids::InstanceId;

use super::log::Waiters;
use super::protocol::escape_into;

/// How many of the missing are named.
const NAMED: usize = 10;

/// A named counter, who has raised it, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct State {
    count: u64,
    by: Signallers,
    /// The ordinals of those who signal at most once.
    once: BTreeMap<u32, u64>,
    pub(crate) waiters: Waiters,
}

impl State {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Adds one and returns the count.
    pub(crate) fn signal(&mut self, instance: InstanceId) -> u64 {
        self.count += 1;
        self.by.add(instance.0);
        self.count
    }

    /// Takes out one waiter whose target is reached.
    pub(crate) fn next_passed(&mut self) -> Option<u64> {
        let Reverse((target, _)) = self.waiters.peek()?;
        if *target > self.count {
            return None;
        }
        self.waiters.pop().map(|Reverse((_, waiter))| waiter)
    }

    /// The ordinal of an instance that has signalled the state once and for all.
    pub(crate) fn signalled_once(&self, instance: InstanceId) -> Option<u64> {
        self.once.get(&instance.0).copied()
    }

    pub(crate) fn remember_once(&mut self, instance: InstanceId, ordinal: u64) {
        self.once.entry(instance.0).or_insert(ordinal);
    }

    /// The first of those who have signalled this state and not `other`, and how many there are.
    pub(crate) fn without(&self, other: Option<&Self>) -> (Vec<InstanceId>, u64) {
        let mut here = self.by.list();
        let there = other.map(|other| other.by.list()).unwrap_or_default();
        here.retain(|instance| there.binary_search(instance).is_err());
        let named = here.iter().take(NAMED).map(|id| InstanceId(*id)).collect();
        (named, here.len() as u64)
    }

    pub(crate) fn missing(&self, total: u32) -> (Vec<InstanceId>, u64) {
        let mut there = vec![false; usize::try_from(total).unwrap_or(0)];
        self.by.each(|instance| {
            if let Some(known) = there.get_mut(instance) {
                *known = true;
            }
        });
        let missing = (0..total).zip(&there).filter(|(_, known)| !**known);
        let named = missing.clone().take(NAMED).map(|(id, _)| InstanceId(id)).collect();
        (named, missing.count() as u64)
    }
}

/// A set of instances that is small for a state few enter, and one bit an instance for a state all enter.
#[derive(Debug)]
enum Signallers {
    Few(Vec<u32>),
    Many(Vec<u64>),
}

impl Default for Signallers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Signallers {
    const FEW: usize = 16;

    fn add(&mut self, instance: u32) {
        match self {
            Self::Few(list) if list.contains(&instance) => {}
            Self::Few(list) if list.len() < Self::FEW => list.push(instance),
            Self::Few(list) => {
                let mut bits = Vec::new();
                list.iter().for_each(|known| set_bit(&mut bits, *known));
                set_bit(&mut bits, instance);
                *self = Self::Many(bits);
            }
            Self::Many(bits) => set_bit(bits, instance),
        }
    }

    /// All of them, in order.
    fn list(&self) -> Vec<u32> {
        let mut all = Vec::new();
        self.each(|instance| all.extend(u32::try_from(instance)));
        all.sort_unstable();
        all
    }

    fn each(&self, mut tell: impl FnMut(usize)) {
        match self {
            Self::Few(list) => list.iter().for_each(|id| tell(usize::try_from(*id).unwrap_or(0))),
            Self::Many(bits) => {
                for (at, word) in bits.iter().enumerate() {
                    (0..64).filter(|bit| word >> bit & 1 == 1).for_each(|bit| tell(at * 64 + bit));
                }
            }
        }
    }
}

fn set_bit(bits: &mut Vec<u64>, instance: u32) {
    let at = usize::try_from(instance / 64).unwrap_or(0);
    if bits.len() <= at {
        bits.resize(at + 1, 0);
    }
    bits[at] |= 1 << (instance % 64);
}

/// A list of messages. Each is kept as the JSON string that subscribers get, encoded once for all of them.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    text: Vec<u8>,
    ends: Vec<usize>,
    by: Vec<InstanceId>,
}

impl Topic {
    /// Appends a message and returns its position, from 1.
    pub(crate) fn append(&mut self, instance: InstanceId, payload: &str) -> u64 {
        escape_into(payload, &mut self.text);
        self.ends.push(self.text.len());
        self.by.push(instance);
        self.ends.len() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The message after the first `at`, as a JSON string with its quotes.
    pub(crate) fn item(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[at]]
    }

    /// Who published the message after the first `at`.
    pub(crate) fn publisher(&self, at: usize) -> InstanceId {
        self.by[at]
    }

    /// The message after the first `at`, as it was published.
    pub(crate) fn payload(&self, at: usize) -> String {
        serde_json::from_slice(self.item(at)).expect("what was escaped is a JSON string")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_are_counted_whether_few_or_many_have_signalled() {
        let mut state = State::default();
        assert_eq!(state.missing(3), ((0..3).map(InstanceId).collect(), 3));
        for id in (0..100).filter(|id| id % 10 != 3) {
            state.signal(InstanceId(id));
            state.signal(InstanceId(id));
        }
        let (named, total) = state.missing(100);
        assert_eq!(total, 10);
        assert_eq!(named[0], InstanceId(3));
        assert_eq!(named[9], InstanceId(93));
    }

    #[test]
    fn the_absent_are_those_who_came_and_have_not_signalled() {
        let (mut came, mut ready) = (State::default(), State::default());
        for id in [9, 3, 40, 7] {
            came.signal(InstanceId(id));
        }
        assert_eq!(came.without(None).1, 4);
        ready.signal(InstanceId(3));
        ready.signal(InstanceId(8));
        assert_eq!(came.without(Some(&ready)), ([7, 9, 40].map(InstanceId).to_vec(), 3));
    }

    #[test]
    fn a_message_is_kept_as_the_string_its_subscribers_get() {
        let mut topic = Topic::default();
        topic.append(InstanceId(1), r#"{"a":"b"}"#);
        topic.append(InstanceId(2), "7");
        assert_eq!(topic.item(0), br#""{\"a\":\"b\"}""#);
        assert_eq!(topic.item(1), br#""7""#);
        assert_eq!(topic.payload(0), r#"{"a":"b"}"#);
        assert_eq!(topic.publisher(1), InstanceId(2));
    }
}
