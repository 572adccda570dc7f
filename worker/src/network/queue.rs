//! What is due later, in order. Pure.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Things with a time each. What is due at the same time comes out in the order it went in.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Duration,
    number: u64,
    what: T,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), pushed: 0 }
    }

    pub(super) fn push(&mut self, due: Duration, what: T) {
        self.pushed += 1;
        self.heap.push(Entry { due, number: self.pushed, what });
    }

    /// When the first is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|entry| entry.due)
    }

    /// Takes the first out if it is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|entry| entry.what)
    }

    /// Keeps only what `keep` says.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.heap.retain(|entry| keep(&entry.what));
    }
}

impl<T> Ord for Entry<T> {
    /// The heap gives out the greatest, so the first due is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

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
