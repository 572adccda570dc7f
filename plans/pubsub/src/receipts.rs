//! What a node received, and what it should have received.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::message::{Message, WARM};

/// What one publisher sent: when, in nanoseconds since 1970, by number.
pub(crate) type Sent = Vec<u64>;

/// The messages that a node received.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    delays: BTreeMap<(u32, u32), (Duration, u32)>,
    /// Bytes of all messages, those of the warm-up too.
    pub(crate) useful_bytes: u64,
    /// Messages that are none of this plan.
    pub(crate) foreign: u64,
}

impl Receipts {
    /// Notes a message's data that came at `now_ns`.
    pub(crate) fn note(&mut self, data: &[u8], now_ns: u64) {
        let Some(message) = Message::decode(data) else {
            self.foreign += 1;
            return;
        };
        self.useful_bytes += u64::from(message.bytes);
        if message.number < WARM {
            let delay = Duration::from_nanos(now_ns.saturating_sub(message.sent_ns));
            let key = (message.publisher, message.number);
            self.delays.entry(key).or_insert((delay, message.bytes));
        }
    }

    /// Each delay with the size of its message.
    pub(crate) fn delays(&self) -> impl Iterator<Item = (Duration, u32)> {
        self.delays.values().copied()
    }

    /// Compares with what others sent, as far as this node was there.
    pub(crate) fn tally(
        &self,
        sent: &BTreeMap<u32, Sent>,
        present: &Presence,
        deadline: Duration,
    ) -> Tally {
        let mut tally = Tally::default();
        for (publisher, times) in sent {
            for (number, at) in (0..WARM).zip(times) {
                if !present.covers(*at) {
                    continue;
                }
                tally.expected += 1;
                match self.delays.get(&(*publisher, number)) {
                    Some((delay, _)) if *delay <= deadline => tally.in_time += 1,
                    Some(_) => tally.late += 1,
                    None => {}
                }
            }
        }
        tally
    }
}

/// How many messages came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Messages that should have come.
    pub(crate) expected: u64,
    /// Those that came by the deadline.
    pub(crate) in_time: u64,
    /// Those that came later.
    pub(crate) late: u64,
}

impl Tally {
    /// Messages that came late or not at all.
    pub(crate) fn missed(self) -> u64 {
        self.expected - self.in_time
    }

    /// The share that came at all; nothing if none should have.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is a float")]
    pub(crate) fn ratio(self) -> Option<f64> {
        (self.expected > 0).then(|| (self.in_time + self.late) as f64 / self.expected as f64)
    }
}

/// When a node was in the network, in nanoseconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    left: Vec<(u64, u64)>,
}

impl Presence {
    /// Notes that the node was away. What was sent shortly before it left, or
    /// before it had found its place again, is not expected of it.
    pub(crate) fn away(&mut self, from_ns: u64, to_ns: u64) {
        self.left.push((from_ns, to_ns));
    }

    fn covers(&self, at: u64) -> bool {
        !self.left.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(publisher: u32, number: u32, sent_ns: u64) -> Vec<u8> {
        Message { publisher, number, sent_ns, bytes: 100 }.encode()
    }

    #[test]
    fn what_is_late_or_lost_misses_the_deadline() {
        let mut receipts = Receipts::default();
        receipts.note(&message(1, 0, 100), 150);
        receipts.note(&message(1, 1, 200), 900);
        receipts.note(&message(1, WARM, 0), 1);
        receipts.note(b"something else", 1);
        let sent = BTreeMap::from([(1, vec![100, 200, 300]), (2, vec![])]);
        let tally = receipts.tally(&sent, &Presence::default(), Duration::from_nanos(100));
        assert_eq!(tally, Tally { expected: 3, in_time: 1, late: 1 });
        assert_eq!(tally.missed(), 2);
        assert_eq!(tally.ratio(), Some(2.0 / 3.0));
        assert_eq!((receipts.foreign, receipts.useful_bytes), (1, 300));
        assert_eq!(Tally::default().ratio(), None);
    }

    #[test]
    fn nothing_is_expected_of_a_node_that_is_away() {
        let mut present = Presence::default();
        present.away(150, 250);
        let sent = BTreeMap::from([(1, vec![100, 200, 300])]);
        let tally = Receipts::default().tally(&sent, &present, Duration::from_secs(1));
        assert_eq!(tally.expected, 2);
    }
}
