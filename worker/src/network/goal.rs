//! Where a packet goes: to an interface here, or to another worker.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::counters::Fate;
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
}

/// Where the packets of an ordered pair go.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    /// To an interface of this worker.
    Here(Arc<Port>),
    /// To another worker.
    Away(Arc<Stream>),
}

/// The pairs of one sender whose destination is on another worker.
pub(super) type Streams = HashMap<u32, Arc<Stream>>;

impl Goal {
    /// The way to whoever has `address`, and that one's number.
    pub(super) fn find(
        holders: &HashMap<Ipv4Addr, Holder>,
        streams: &mut Streams,
        source: &Port,
        address: Ipv4Addr,
    ) -> Option<(Self, u32)> {
        let holder = holders.get(&address)?;
        let number = holder.instance();
        let goal = match holder {
            Holder::Here(port) => Self::Here(Arc::clone(port)),
            Holder::Away(away) => {
                let stream = || Arc::new(Stream::new(source.instance.0, Arc::clone(away)));
                Self::Away(Arc::clone(streams.entry(number).or_insert_with(stream)))
            }
        };
        Some((goal, number))
    }

    /// When a packet must be handed over that is due at `due` and left at `departure`.
    pub(super) fn hand_over_at(&self, due: Duration, departure: Duration) -> Duration {
        match self {
            Self::Here(_) => due,
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
        }
    }
}
