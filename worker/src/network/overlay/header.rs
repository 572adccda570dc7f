//! The bytes before a packet on its way between two switches. Pure.
//!
//! ```text
//!  0  magic "gs"      12  attempt                 24  sequence of the pair
//!  2  version         16  destination instance    32  send time, ns of the sender's clock
//!  3  kind            20  source instance         40  the packet
//!  4  run's key
//! ```
//!
//! All numbers are big-endian.

/// Bytes of a header.
pub(super) const LENGTH: usize = 40;
pub(super) const MAGIC: [u8; 2] = *b"gs";
const VERSION: u8 = 1;

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A packet of an instance.
    Packet,
    /// Nothing; the other end is to answer.
    Probe,
    /// Nothing; the answer to a probe, with the probe's sequence and time.
    Echo,
}

/// What a switch tells another with each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) attempt: u32,
    /// Names the run.
    pub(super) run: u64,
    /// The instance that sends. A probe is sent by no instance and has 0 here.
    pub(super) source: u32,
    /// The instance that is to receive, with the mark of [`crate::network::probe`] when only probes go this way.
    pub(super) destination: u32,
    /// Counts the packets of the ordered pair from 1.
    pub(super) sequence: u64,
    /// When it was sent, in nanoseconds of the sender's own clock.
    pub(super) sent_ns: u64,
}

/// The run a datagram belongs to, whether it is sealed or not. `None` when it is none of ours.
pub(super) fn run_of(datagram: &[u8]) -> Option<u64> {
    let bytes = datagram.first_chunk::<LENGTH>()?;
    (bytes[..2] == MAGIC).then(|| u64::from_be_bytes(part(bytes, 4)))
}

impl Header {
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = match self.kind {
            Kind::Packet => 0,
            Kind::Probe => 1,
            Kind::Echo => 2,
        };
        bytes[4..12].copy_from_slice(&self.run.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.attempt.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.destination.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.source.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[32..].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }

    /// Reads a datagram: its header, and the packet behind it. `None` when it is none of ours or is damaged.
    pub(super) fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (bytes, packet) = datagram.split_first_chunk::<LENGTH>()?;
        if bytes[..2] != MAGIC || bytes[2] != VERSION {
            return None;
        }
        let kind = match bytes[3] {
            0 => Kind::Packet,
            1 => Kind::Probe,
            2 => Kind::Echo,
            _ => return None,
        };
        if packet.is_empty() == (kind == Kind::Packet) {
            return None;
        }
        let header = Self {
            kind,
            attempt: u32::from_be_bytes(part(bytes, 12)),
            destination: u32::from_be_bytes(part(bytes, 16)),
            run: u64::from_be_bytes(part(bytes, 4)),
            source: u32::from_be_bytes(part(bytes, 20)),
            sequence: u64::from_be_bytes(part(bytes, 24)),
            sent_ns: u64::from_be_bytes(part(bytes, 32)),
        };
        Some((header, packet))
    }
}

fn part<const N: usize>(bytes: &[u8; LENGTH], from: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[from + index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let kind = prop_oneof![Just(Kind::Packet), Just(Kind::Probe), Just(Kind::Echo)];
        (kind, any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>())
            .prop_map(|(kind, attempt, run, source, destination, sequence, sent_ns)| Header {
                kind,
                attempt,
                run,
                source,
                destination,
                sequence,
                sent_ns,
            })
    }

    fn datagram(header: &Header, packet: &[u8]) -> Vec<u8> {
        let packet = if header.kind == Kind::Packet { packet } else { &[] };
        [header.encode().as_slice(), packet].concat()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            header in header(), packet in prop::collection::vec(any::<u8>(), 1..2000),
        ) {
            let bytes = datagram(&header, &packet);
            let read = Header::parse(&bytes);
            prop_assert_eq!(read.map(|(header, _)| header), Some(header));
            prop_assert_eq!(read.map(|(_, packet)| packet), Some(&bytes[LENGTH..]));
        }

        #[test]
        fn noise_is_never_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::parse(&noise);
            let _ = Header::parse(&[b"gs\x01".as_slice(), &noise].concat());
        }

        #[test]
        fn what_is_cut_short_or_of_another_version_is_refused(header in header(), cut in 0..LENGTH) {
            let bytes = datagram(&header, b"x");
            prop_assert_eq!(Header::parse(&bytes[..cut]), None);
            for (at, value) in [(0, b'G'), (2, 2), (3, 3)] {
                let mut other = bytes.clone();
                other[at] = value;
                prop_assert_eq!(Header::parse(&other), None);
            }
        }
    }

    #[test]
    fn a_packet_is_not_empty_and_a_probe_is() {
        let packet = Header {
            kind: Kind::Packet,
            attempt: 1,
            run: 2,
            source: 3,
            destination: 4,
            sequence: 5,
            sent_ns: 6,
        };
        assert_eq!(Header::parse(&packet.encode()), None);
        let probe = Header { kind: Kind::Probe, ..packet }.encode();
        assert_eq!(Header::parse(&[probe.as_slice(), b"x"].concat()), None);
        assert!(Header::parse(&probe).is_some());
    }
}
