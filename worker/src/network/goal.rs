//! Where a packet goes: to an interface here, or to another worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::counters::Fate;
use super::download::Turn;
use super::overlay::peer::{Away, Stream};
use super::plane::Port;

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

    /// The way of a packet from `source` to it.
    pub(super) fn goal(&self, streams: &mut Streams, source: &Port) -> Goal {
        match self {
            Self::Here(port) => Goal::Here(Arc::clone(port)),
            Self::Away(away) => {
                let stream = || Arc::new(Stream::new(source.instance.0, Arc::clone(away)));
                Goal::Away(Arc::clone(streams.entry(away.instance).or_insert_with(stream)))
            }
        }
    }
}

/// Where the packets of an ordered pair go.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    /// To an interface of this worker.
    Here(Arc<Port>),
    /// To another worker.
    Away(Arc<Stream>),
    /// From this interface to a host outside the data network.
    Outside(Arc<Port>),
}

/// The pairs of one sender whose destination is on another worker.
pub(super) type Streams = HashMap<u32, Arc<Stream>>;

impl Goal {
    /// The turn of a packet at the receiving side of its destination's access link. On another worker it takes
    /// it there.
    pub(super) fn turn(&self, now: Duration, length: usize) -> Turn {
        match self {
            Self::Here(port) => port.download.turn(now, length),
            Self::Away(_) | Self::Outside(_) => Turn::Now,
        }
    }

    /// When a packet must be handed over that is due at `due` and left at `departure`.
    pub(super) fn hand_over_at(&self, due: Duration, departure: Duration) -> Duration {
        match self {
            Self::Here(_) | Self::Outside(_) => due,
            Self::Away(stream) => stream.send_at(due, departure),
        }
    }

    /// Hands a packet over that is due.
    pub(super) fn deliver(&self, bytes: &[u8]) -> Fate {
        match self {
            Self::Here(port) if !port.is_present() => Fate::Absent,
            Self::Here(port) => match nix::unistd::write(&port.device, bytes) {
                Ok(_) => Fate::Delivered,
                Err(_) => Fate::NotTaken,
            },
            Self::Away(stream) if stream.send(bytes) => Fate::Sent,
            Self::Away(_) => Fate::NotTaken,
            Self::Outside(port) => port.gate.leave(port, bytes),
        }
    }
}
