//! How long the network between two workers takes, and how that is taken off the configured delay. Pure.

use std::time::Duration;

/// How many round trips are remembered.
const REMEMBERED: usize = 32;
/// How many must be known before the shortest is believed: on a machine that stands still for moments the first few
/// may all be too long, and what is taken off would make packets arrive early.
const ENOUGH: usize = 16;

/// The latest round trips to another worker.
///
/// The shortest of them counts: what is longer was held up by a busy machine at either end, and a delay
/// that is taken off must be one that each packet has.
#[derive(Debug)]
pub(super) struct RoundTrips {
    latest: [Duration; REMEMBERED],
    taken: usize,
}

impl RoundTrips {
    pub(super) fn new() -> Self {
        Self { latest: [Duration::MAX; REMEMBERED], taken: 0 }
    }

    /// Takes one in, and gives the delay of one way: none until enough of them are known.
    pub(super) fn take(&mut self, trip: Duration) -> Duration {
        self.latest[self.taken % REMEMBERED] = trip;
        self.taken += 1;
        if self.taken < ENOUGH {
            return Duration::ZERO;
        }
        self.latest.iter().min().copied().unwrap_or_default() / 2
    }
}

/// Takes the underlay's delay off the times of one pair's packets, and keeps their order.
#[derive(Debug, Default)]
pub(super) struct Lead {
    last_due: Duration,
    last_sent: Duration,
}

impl Lead {
    /// When a packet must be sent that is due at `due` and left its sender's clock at `departure`.
    ///
    /// Never before it left, so nothing but the configured delay is taken from. A packet that was not due
    /// before its predecessor is not sent before it either, though the measured delay has grown since.
    pub(super) fn send_at(
        &mut self,
        due: Duration,
        departure: Duration,
        underlay: Duration,
    ) -> Duration {
        let sent = due.saturating_sub(underlay).max(departure.min(due));
        if due < self.last_due {
            // It overtakes on purpose.
            return sent;
        }
        self.last_due = due;
        self.last_sent = self.last_sent.max(sent);
        self.last_sent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn half_of_the_shortest_round_trip_counts_and_an_old_one_is_forgotten() {
        let mut trips = RoundTrips::new();
        for _ in 1..ENOUGH {
            assert_eq!(trips.take(MS * 10), Duration::ZERO, "too few are known");
        }
        assert_eq!(trips.take(MS * 10), MS * 5);
        assert_eq!(trips.take(MS * 4), MS * 2);
        assert_eq!(trips.take(MS * 90), MS * 2);
        for _ in 0..REMEMBERED {
            trips.take(MS * 8);
        }
        assert_eq!(trips.take(MS * 8), MS * 4);
    }

    #[test]
    fn only_the_configured_delay_is_taken_from() {
        let mut lead = Lead::default();
        assert_eq!(lead.send_at(MS * 20, MS * 10, MS * 3), MS * 17);
        assert_eq!(lead.send_at(MS * 21, MS * 20, MS * 3), MS * 20, "not before it left");
        assert_eq!(lead.send_at(MS * 30, MS * 30, MS * 3), MS * 30, "there is no delay");
    }

    #[test]
    fn a_packet_that_overtakes_on_purpose_still_does() {
        let mut lead = Lead::default();
        assert_eq!(lead.send_at(MS * 100, MS, MS), MS * 99);
        assert_eq!(lead.send_at(MS * 2, MS * 2, MS), MS * 2);
        assert_eq!(lead.send_at(MS * 101, MS * 3, MS), MS * 100);
    }

    proptest! {
        #[test]
        fn what_is_due_in_order_is_sent_in_order(
            packets in prop::collection::vec((0..50_u64, 0..100_u64, 0..80_u64), 1..50),
        ) {
            let mut lead = Lead::default();
            let (mut due, mut last) = (Duration::ZERO, Duration::ZERO);
            for (step, delay, underlay) in packets {
                due += MS * u32::try_from(step).expect("small");
                let departure = due.saturating_sub(Duration::from_millis(delay));
                let sent = lead.send_at(due, departure, Duration::from_millis(underlay));
                prop_assert!(sent >= last && sent <= due && sent >= departure);
                last = sent;
            }
        }
    }
}
