//! Where a packet goes: to an interface here, to another worker, or outside.

use std::sync::Arc;
use std::time::Duration;

use super::counters::Fate;
use super::download::Turn;
use super::offload;
use super::overlay::peer::{Away, Stream};
use super::port::Port;

/// Who has an address.
#[derive(Debug, Clone)]
pub(super) enum Holder {
    /// An instance of this worker.
    Here(Arc<Port>),
    /// An instance of another one.
    Away(Arc<Away>),
}

impl Holder {
    pub(super) fn instance(&self) -> u32 {
        match self {
            Self::Here(port) => port.instance.0,
            Self::Away(away) => away.instance,
        }
    }

    /// The way of packets from `source` to it. `number` is its own in their pair.
    fn goal(&self, source: &Port, number: u32) -> Goal {
        match self {
            Self::Here(port) => Goal::Here(Arc::clone(port)),
            Self::Away(away) => {
                Goal::Away(Stream::new(source.instance.0, number, Arc::clone(away)))
            }
        }
    }

    fn is(&self, goal: &Goal) -> bool {
        match (self, goal) {
            (Self::Here(one), Goal::Here(other)) => Arc::ptr_eq(one, other),
            (Self::Away(one), Goal::Away(stream)) => stream.leads_to(one),
            (Self::Here(_) | Self::Away(_), _) => false,
        }
    }
}

/// Where the packets of an ordered pair go.
#[derive(Debug)]
enum Goal {
    /// To an interface of this worker.
    Here(Arc<Port>),
    /// To another worker.
    Away(Stream),
    /// To a host outside the data network.
    Outside,
}

/// The way of an ordered pair's packets. It belongs to one thread, so packets that wait share it at the cost
/// of a plain number.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) run: u64,
    pub(super) from: Arc<Port>,
    to: Goal,
}

impl Route {
    /// `number` is the holder's in the pair.
    pub(super) fn new(run: u64, from: &Arc<Port>, to: &Holder, number: u32) -> Self {
        Self { run, from: Arc::clone(from), to: to.goal(from, number) }
    }

    /// The way to hosts outside the data network.
    pub(super) fn outside(run: u64, from: &Arc<Port>) -> Self {
        Self { run, from: Arc::clone(from), to: Goal::Outside }
    }

    /// Whether it leads to this holder of an address.
    pub(super) fn leads_to(&self, holder: &Holder) -> bool {
        holder.is(&self.to)
    }

    /// Whether packets may arrive there as a train, each being known to be due.
    pub(super) fn takes_trains(&self) -> bool {
        match &self.to {
            Goal::Here(port) => port.has_header && !port.download.is_limited(),
            Goal::Away(_) | Goal::Outside => false,
        }
    }

    /// The turn of a packet at the receiving side of its destination's access link. On another worker it takes
    /// it there.
    pub(super) fn turn(&self, now: Duration, length: usize) -> Turn {
        match &self.to {
            Goal::Here(port) => port.download.turn(now, length),
            Goal::Away(_) | Goal::Outside => Turn::Now,
        }
    }

    /// The limit on what its destination receives, in bits per second; 0 where there is none, or it is not here.
    pub(super) fn download_bps(&self) -> u64 {
        match &self.to {
            Goal::Here(port) => port.download.bps(),
            Goal::Away(_) | Goal::Outside => 0,
        }
    }

    /// When a packet must be handed over that is due at `due` and left at `departure`.
    pub(super) fn hand_over_at(&self, due: Duration, departure: Duration) -> Duration {
        match &self.to {
            Goal::Here(_) | Goal::Outside => due,
            Goal::Away(stream) => stream.send_at(due, departure),
        }
    }

    /// Hands a frame over that is due.
    pub(super) fn deliver(&self, frame: &mut [u8]) -> Fate {
        match &self.to {
            Goal::Here(port) if !port.is_present() => Fate::Absent,
            Goal::Here(port) if port.write(frame) => Fate::Delivered,
            Goal::Here(_) => Fate::NotTaken,
            Goal::Away(stream) => {
                offload::finish(frame);
                if stream.send(offload::packet(frame)) { Fate::Sent } else { Fate::NotTaken }
            }
            Goal::Outside => {
                offload::finish(frame);
                self.from.gate.leave(&self.from, offload::packet(frame))
            }
        }
    }
}
