//! What is due later, in order. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Things with a time each. What is due at the same time comes out in the order it went in.
///
/// The heap holds times and places only, because it moves what it holds at every step.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry>>,
    things: Vec<Option<T>>,
    free: Vec<usize>,
    pushed: u64,
}

/// Compared by its first two fields; no two have both in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// In nanoseconds.
    due: u64,
    number: u64,
    place: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), things: Vec::new(), free: Vec::new(), pushed: 0 }
    }

    pub(super) fn push(&mut self, due: Duration, what: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.things.push(None);
            self.things.len() - 1
        });
        self.things[place] = Some(what);
        self.pushed += 1;
        let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        self.heap.push(Reverse(Entry { due, number: self.pushed, place }));
    }

    /// When the first is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| Duration::from_nanos(entry.due))
    }

    /// Takes the first out if it is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.free.push(entry.place);
        self.things[entry.place].take()
    }

    /// Keeps only what `keep` says.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let (things, free) = (&mut self.things, &mut self.free);
        self.heap.retain(|Reverse(entry)| {
            let kept = things[entry.place].as_ref().is_some_and(&mut keep);
            if !kept {
                things[entry.place] = None;
                free.push(entry.place);
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_due_comes_first_and_equals_keep_their_order() {
        let at = Duration::from_millis;
        let mut queue = Queue::new();
        for (due, what) in [(5, "late"), (1, "first"), (1, "second"), (3, "gone")] {
            queue.push(at(due), what);
        }
        queue.retain(|what| *what != "gone");
        assert_eq!(queue.next_due(), Some(at(1)));
        assert_eq!(queue.pop_due(at(0)), None);
        assert_eq!(queue.pop_due(at(4)), Some("first"));
        assert_eq!(queue.pop_due(at(4)), Some("second"));
        assert_eq!(queue.pop_due(at(4)), None);
        assert_eq!(queue.pop_due(at(5)), Some("late"));
    }
}
