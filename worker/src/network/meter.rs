//! Measures the rate at which the packets of a lane really leave. Pure.
//!
//! A rate only shows while packets wait for each other: from the writing of one to that of the next the bytes of the
//! next have left, and those of packets in between of which nothing is written.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use groundswell_common::link::LinkShape;

use super::shape::Verdict;

/// What a lane remembers of its measurements.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    /// Where its packets are counted.
    pub(super) lane: usize,
    /// When its last packet was written; absent without a rate.
    written: Option<Arc<AtomicU64>>,
    /// Whether a packet of the present busy time will say when that time began.
    anchored: bool,
    /// Whether the present busy time is counted.
    counted: bool,
    /// Bytes that took their turn since then and are lost.
    lost_bytes: u64,
}

/// A packet's turn at a rate.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) written: Arc<AtomicU64>,
    /// Bytes that have left since the packet before; 0 when the link was idle before.
    pub(super) bytes: u64,
    /// Whether it is the first for which the rate shows.
    pub(super) first: bool,
}

impl Meter {
    pub(super) fn new(lane: usize, shape: &LinkShape) -> Self {
        Self {
            lane,
            written: (shape.bandwidth_bps > 0).then(Arc::default),
            anchored: false,
            counted: false,
            lost_bytes: 0,
        }
    }

    /// A busy time begins with a packet that does not have to wait.
    fn begin(&mut self, busy: bool) {
        if !busy {
            (self.anchored, self.counted, self.lost_bytes) = (false, false, 0);
        }
    }

    /// A packet has taken its turn of which nothing else is measured here. To those behind it, it is as one that
    /// was lost.
    pub(super) fn skip(&mut self, busy: bool, length: usize) {
        self.begin(busy);
        self.lost_bytes += length as u64;
    }

    /// The turn of a packet. `busy` is whether it has to wait for one before it.
    pub(super) fn turn(&mut self, busy: bool, verdict: Verdict, length: usize) -> Option<Turn> {
        self.begin(busy);
        let written = self.written.as_ref()?;
        match verdict {
            Verdict::Overrun => None,
            Verdict::Lost => {
                self.lost_bytes += length as u64;
                None
            }
            Verdict::Deliver { .. } => {
                let lost_bytes = std::mem::take(&mut self.lost_bytes);
                let bytes = if self.anchored { lost_bytes + length as u64 } else { 0 };
                let first = self.anchored && !self.counted;
                self.counted |= self.anchored;
                self.anchored = true;
                Some(Turn { written: Arc::clone(written), bytes, first })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_bytes_of_lost_packets_have_taken_their_turn() {
        let shape = LinkShape { bandwidth_bps: 1_000, ..LinkShape::default() };
        let mut meter = Meter::new(0, &shape);
        let arrives = Verdict::Deliver { at: Duration::ZERO, again: None, corrupt_bit: None };
        let mut bytes =
            |busy, verdict| meter.turn(busy, verdict, 100).map(|turn| (turn.bytes, turn.first));
        assert_eq!(bytes(false, arrives), Some((0, false)));
        assert_eq!(bytes(true, arrives), Some((100, true)));
        assert_eq!(bytes(true, Verdict::Lost), None);
        assert_eq!(bytes(true, Verdict::Overrun), None);
        assert_eq!(bytes(true, arrives), Some((200, false)));
        // The one that would say when the next busy time begins is lost: the one after it does.
        assert_eq!(bytes(false, Verdict::Lost), None);
        assert_eq!(bytes(true, arrives), Some((0, false)));
        assert_eq!(bytes(true, arrives), Some((100, true)));
    }
}
