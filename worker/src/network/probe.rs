//! Small packets between instances that say how long the way really takes. They are sent and answered by the
//! worker, from inside the instances' network namespaces, so they meet all that an instance's packets meet.
//!
//! A probe carries a mark in its IP header by which the data plane finds it, gives it a pair of its own and does not
//! count it among the instance's packets. It is the mark, the ports and the words that make a probe: nothing else that
//! an instance sends is treated as one. Times are those of the kernel where it has them, so that a
//! worker which is woken late measures no more than what happened.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, bind, recvmsg, sendto, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::shape::mix;

/// The port, in every instance: beyond those that a kernel gives out by itself.
pub const PROBE_PORT: u16 = 61_999;
/// The mark: a differentiated services code point that is set aside for local use (RFC 2474 section 6).
pub(super) const PROBE_TOS: u8 = 0xfc;
/// Added to an instance's number in a pair for what only probes; no instance has such a number.
pub(super) const PROBES: u32 = 1 << 31;
/// Bytes of a message.
const LENGTH: usize = 40;
const MAGIC: [u8; 3] = *b"gsp";

/// What goes between two probing ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Whether it is the answer.
    pub answer: bool,
    /// Counts what one end asks.
    pub number: u32,
    /// The instance that asks.
    pub from: u32,
    /// The instance that answers.
    pub to: u32,
    /// When it was asked, by the asker's clock.
    pub asked: Duration,
    /// How long the answering end took.
    pub held: Duration,
    /// What is configured for the way back; absent when that varies on purpose or is not known.
    pub back: Option<Duration>,
}

impl Message {
    /// The bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; LENGTH];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = u8::from(self.answer);
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.from.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.to.to_be_bytes());
        bytes[16..24].copy_from_slice(&nanoseconds(self.asked).to_be_bytes());
        bytes[24..32].copy_from_slice(&nanoseconds(self.held).to_be_bytes());
        bytes[32..].copy_from_slice(&self.back.map_or(u64::MAX, nanoseconds).to_be_bytes());
        bytes
    }

    /// Reads it; `None` when it is something else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        if bytes[..3] != MAGIC || bytes[3] > 1 {
            return None;
        }
        let word = |at| u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
        let number = |at| u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
        let time = |at| Duration::from_nanos(number(at));
        Some(Self {
            answer: bytes[3] == 1,
            number: word(4),
            from: word(8),
            to: word(12),
            asked: time(16),
            held: time(24),
            back: (number(32) != u64::MAX).then(|| time(32)),
        })
    }
}

/// The end of an instance.
#[derive(Debug)]
pub struct ProbeSocket(std::net::UdpSocket);

impl ProbeSocket {
    /// Makes one of a datagram socket of the instance's namespace, which stays what it is for its other owners.
    ///
    /// # Errors
    /// When the kernel refuses: the port is taken.
    pub fn new(control: BorrowedFd<'_>) -> io::Result<Self> {
        let socket = control.try_clone_to_owned()?;
        let tos = i32::from(PROBE_TOS);
        setsockopt(&socket, sockopt::Ipv4Tos, &tos)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PROBE_PORT);
        bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
        Ok(Self(socket.into()))
    }

    /// Makes it one that tasks can wait for.
    ///
    /// # Errors
    /// When there is no runtime here, or the kernel watches no more descriptors.
    pub fn register(self) -> io::Result<ProbeEnd> {
        Ok(ProbeEnd(UdpSocket::from_std(self.0)?))
    }
}

/// A probing end that tasks can wait for.
#[derive(Debug)]
pub struct ProbeEnd(UdpSocket);

impl ProbeEnd {
    /// Sends a message. One that the kernel does not take is lost.
    pub fn send(&self, message: &Message, to: Ipv4Addr) {
        let to = SockaddrIn::from(SocketAddrV4::new(to, PROBE_PORT));
        let _lost = sendto(self.0.as_raw_fd(), &message.encode(), &to, MsgFlags::empty());
    }

    /// Waits for a message, and tells who sent it and when it arrived. `None` for something else, and for an
    /// error of an earlier packet: it was rejected.
    pub async fn receive(&self) -> Option<(Message, Ipv4Addr, Duration)> {
        self.0.async_io(Interest::READABLE, || self.take()).await.ok().flatten()
    }

    fn take(&self) -> io::Result<Option<(Message, Ipv4Addr, Duration)>> {
        let mut bytes = [0; 128];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!(TimeSpec);
        let socket = self.0.as_raw_fd();
        let got = recvmsg::<SockaddrIn>(socket, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let stamp = got.cmsgs()?.find_map(|message| {
            let ControlMessageOwned::ScmTimestampns(stamp) = message else { return None };
            Some(Duration::from(stamp))
        });
        let (length, from) = (got.bytes, got.address.map(|from| from.ip()));
        let message = Message::parse(&bytes[..length.min(128)]);
        Ok(message.zip(from).map(|(message, from)| (message, from, stamp.unwrap_or_else(now))))
    }
}

/// The clock by which the kernel stamps what arrives.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// As many instances are probed at most.
const PROBED: usize = 16;

/// The pairs of instances that probe each other: the same on all workers of a run.
#[must_use]
pub fn pairs(seed: u64, total: u32) -> Vec<(u32, u32)> {
    let mut chosen: Vec<u32> = Vec::new();
    let wanted = PROBED.min(usize::try_from(total).unwrap_or(PROBED)) / 2 * 2;
    let mut state = seed;
    while chosen.len() < wanted {
        state = mix(state);
        let instance = u32::try_from(state % u64::from(total)).expect("below a u32");
        if !chosen.contains(&instance) {
            chosen.push(instance);
        }
    }
    chosen.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            answer: bool, number: u32, from: u32, to: u32, asked: u64, held: u64, back in prop::option::of(0..u64::MAX),
        ) {
            let time = Duration::from_nanos;
            let (asked, held, back) = (time(asked), time(held), back.map(time));
            let message = Message { answer, number, from, to, asked, held, back };
            prop_assert_eq!(Message::parse(&message.encode()), Some(message));
        }

        #[test]
        fn noise_is_no_message(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let magic = noise.starts_with(&MAGIC);
            prop_assert!(Message::parse(&noise).is_none() || magic);
        }

        #[test]
        fn pairs_have_ends_of_their_own(seed: u64, total in 0..200_u32) {
            let pairs = pairs(seed, total);
            let ends: BTreeSet<u32> = pairs.iter().flat_map(|(one, two)| [*one, *two]).collect();
            prop_assert_eq!(pairs.len(), usize::try_from(total.min(16) / 2).expect("small"));
            prop_assert_eq!(ends.len(), pairs.len() * 2);
            prop_assert!(ends.iter().all(|end| *end < total));
        }
    }
}
