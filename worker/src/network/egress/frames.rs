//! The packets by which egress answers an instance. Pure.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};

use crate::network::offload::{add, fold};
use crate::network::packet::{self, Header, Version};

const HOP_LIMIT: u8 = 64;
/// Numbers of protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_HEADER: usize = 8;
const ECHO_REQUEST: u8 = 8;

/// What an instance has sent, as far as it can be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cargo {
    /// A segment; whether it opens a connection.
    Tcp { from: SocketAddrV4, to: SocketAddrV4, opens: bool },
    /// A datagram, and where its payload lies in the packet.
    Udp { from: SocketAddrV4, to: SocketAddrV4, payload: (usize, usize) },
    /// A ping; the port of `from` is its identifier. Where the ICMP message lies in the packet.
    Ping { from: SocketAddrV4, to: Ipv4Addr, message: (usize, usize) },
}

impl Cargo {
    /// The host it is for.
    pub(super) fn to(&self) -> Ipv4Addr {
        match self {
            Self::Tcp { to, .. } | Self::Udp { to, .. } => *to.ip(),
            Self::Ping { to, .. } => *to,
        }
    }
}

/// Looks what a packet carries. `None` is what egress does not: other protocols, fragments, packets cut short, and
/// what is for no single host.
pub(super) fn cargo(bytes: &[u8]) -> Option<Cargo> {
    let header = packet::parse(bytes).filter(|header| header.version == Version::V4)?;
    let more_fragments = bytes[6] & 0x20 != 0;
    if header.later_fragment || more_fragments {
        return None;
    }
    if header.group || header.destination.is_unspecified() {
        return None;
    }
    let body = &bytes[header.header_length..header.total_length];
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let ends = |from, to| {
        (SocketAddrV4::new(header.source, from), SocketAddrV4::new(header.destination, to))
    };
    match header.protocol {
        TCP => {
            let segment = TcpPacket::new_checked(body).ok()?;
            let (from, to) = ends(segment.src_port(), segment.dst_port());
            let opens = segment.syn() && !segment.ack();
            (from.port() != 0 && to.port() != 0).then_some(Cargo::Tcp { from, to, opens })
        }
        UDP if body.len() >= UDP_HEADER_LEN => {
            let (from, to) = ends(port(0), port(2));
            let length = usize::from(port(4)).clamp(UDP_HEADER_LEN, body.len());
            let start = header.header_length;
            let payload = (start + UDP_HEADER_LEN, start + length);
            (to.port() != 0).then_some(Cargo::Udp { from, to, payload })
        }
        ICMP if body.len() >= ICMP_HEADER && body[0] == ECHO_REQUEST => {
            let (from, _) = ends(port(4), 0);
            let message = (header.header_length, header.total_length);
            Some(Cargo::Ping { from, to: header.destination, message })
        }
        _ => None,
    }
}

/// Whether a packet that is [`cargo`] has come here as it was sent: all its checksums are right. What goes on from
/// here gets new ones, which would hide the damage from the host it is for.
pub(super) fn is_sound(bytes: &[u8]) -> bool {
    let Some(Header { header_length, total_length, protocol, .. }) = packet::parse(bytes) else {
        return false;
    };
    let (header, body) = bytes[..total_length].split_at(header_length);
    let right = |bytes: &[u8], sum: u64| fold(add(bytes, sum)) == u16::MAX;
    let with_addresses = |covered: &[u8]| {
        let length = covered.len() as u64;
        right(covered, add(&header[12..20], u64::from(protocol) + length))
    };
    let body_is_right = match protocol {
        TCP => with_addresses(body),
        UDP => {
            let word = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
            let covered = word(4).and_then(|length| body.get(..usize::from(length)));
            let has_sum = word(6) != Some(0);
            covered.is_some_and(|covered| !has_sum || with_addresses(covered))
        }
        _ => right(body, 0),
    };
    body_is_right && right(header, 0)
}

/// A datagram from outside for an instance; `None` when it is too long for a packet.
pub(super) fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let body = UDP_HEADER_LEN + payload.len();
    let (mut bytes, header) = packet_of(*from.ip(), *to.ip(), IpProtocol::Udp, body)?;
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[header..]),
        &(*from.ip()).into(),
        &(*to.ip()).into(),
        payload.len(),
        |place| place.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    Some(bytes)
}

/// An answer to a ping: the ICMP message of a ping socket, with the instance's own identifier.
pub(super) fn ping_reply(from: Ipv4Addr, to: SocketAddrV4, message: &[u8]) -> Option<Vec<u8>> {
    if message.len() < ICMP_HEADER || message[0] != 0 {
        return None;
    }
    let (mut bytes, header) = packet_of(from, *to.ip(), IpProtocol::Icmp, message.len())?;
    let body = &mut bytes[header..];
    body.copy_from_slice(message);
    body[4..6].copy_from_slice(&to.port().to_be_bytes());
    body[2..4].fill(0);
    let sum = !smoltcp::wire::checksum::data(body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(bytes)
}

/// An IPv4 packet with room for `length` bytes, and where they begin.
fn packet_of(
    from: Ipv4Addr,
    to: Ipv4Addr,
    next_header: IpProtocol,
    length: usize,
) -> Option<(Vec<u8>, usize)> {
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header,
        payload_len: length,
        hop_limit: HOP_LIMIT,
    };
    let room = header.buffer_len();
    u16::try_from(room + length).ok()?;
    let mut bytes = vec![0; room + length];
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    Some((bytes, room))
}

/// The ICMP error for a packet whose destination an instance may not or cannot reach.
pub(super) fn refusal(packet: &[u8], why: Refusal) -> Option<Vec<u8>> {
    let Header { destination, .. } = packet::parse(packet)?;
    let mut error = packet::prohibited(packet, destination)?;
    if why == Refusal::Unreachable {
        // The code of an ICMP error, and its checksum: the codes differ by a number that the sum has to make up.
        const CODE: usize = 21;
        const HOST_UNREACHABLE: u8 = 1;
        error[CODE] = HOST_UNREACHABLE;
        error[CODE + 1..CODE + 3].fill(0);
        let sum = !smoltcp::wire::checksum::data(&error[CODE - 1..]);
        error[CODE + 1..CODE + 3].copy_from_slice(&sum.to_be_bytes());
    }
    Some(error)
}

/// Why a destination is not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The instance may not.
    Prohibited,
    /// This host has no way there.
    Unreachable,
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::Icmpv4Packet;

    use super::*;

    const INSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(16, 0, 0, 2), 4000);
    const OUTSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 53);

    #[test]
    fn a_datagram_is_understood_again() {
        let bytes = datagram(OUTSIDE, INSIDE, b"hello").expect("it is short");
        let udp = UdpPacket::new_checked(&bytes[20..]).expect("a datagram");
        assert!(udp.verify_checksum(&(*OUTSIDE.ip()).into(), &(*INSIDE.ip()).into()));
        let Some(Cargo::Udp { from, to, payload }) = cargo(&bytes) else {
            panic!("not understood")
        };
        assert_eq!((from, to, &bytes[payload.0..payload.1]), (OUTSIDE, INSIDE, &b"hello"[..]));
        assert_eq!(datagram(OUTSIDE, INSIDE, &[0; 65_530]), None);
    }

    #[test]
    fn a_ping_is_answered_with_the_identifier_of_whoever_asked() {
        let reply =
            ping_reply(*OUTSIDE.ip(), INSIDE, &[0, 0, 9, 9, 7, 7, 0, 1, b'x']).expect("fits");
        let icmp = Icmpv4Packet::new_checked(&reply[20..]).expect("a message");
        assert!(icmp.verify_checksum());
        assert_eq!(icmp.echo_ident(), INSIDE.port());
        assert_eq!(ping_reply(*OUTSIDE.ip(), INSIDE, &[3, 0, 9, 9, 7, 7, 0, 1]), None);
    }

    #[test]
    fn a_refusal_says_why() {
        let bytes = datagram(INSIDE, OUTSIDE, b"hello").expect("it is short");
        for (why, code) in [(Refusal::Prohibited, 10), (Refusal::Unreachable, 1)] {
            let error = refusal(&bytes, why).expect("a datagram may be refused");
            let icmp = Icmpv4Packet::new_checked(&error[20..]).expect("a message");
            assert!(icmp.verify_checksum());
            assert_eq!(icmp.msg_code(), code);
        }
    }

    /// A segment of an instance for port 80 of a host, without data.
    pub(in crate::network::egress) fn segment(to: Ipv4Addr, flags: u8, sequence: u32) -> Vec<u8> {
        let (mut bytes, header) =
            packet_of(*INSIDE.ip(), to, IpProtocol::Tcp, 20).expect("it is short");
        let (head, body) = bytes.split_at_mut(header);
        body[..4].copy_from_slice(&[9, 9, 0, 80]);
        body[4..8].copy_from_slice(&sequence.to_be_bytes());
        (body[12], body[13]) = (0x50, flags);
        let sum = !fold(add(body, add(&head[12..20], u64::from(TCP) + 20)));
        body[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(in crate::network::egress) const SYN: u8 = 0x02;
    pub(in crate::network::egress) const RST: u8 = 0x04;
    pub(in crate::network::egress) const ACK: u8 = 0x10;

    fn ping(to: Ipv4Addr) -> Vec<u8> {
        let (mut bytes, header) =
            packet_of(*INSIDE.ip(), to, IpProtocol::Icmp, ICMP_HEADER).expect("it is short");
        bytes[header..].copy_from_slice(&[ECHO_REQUEST, 0, 0xf7, 0xfe, 0, 0, 0, 1]);
        bytes
    }

    #[test]
    fn a_single_wrong_bit_is_found_wherever_it_is() {
        let to = *OUTSIDE.ip();
        let udp = datagram(INSIDE, OUTSIDE, b"a word").expect("it is short");
        for bytes in [udp, segment(to, SYN, 7), ping(to)] {
            assert!(cargo(&bytes).is_some() && is_sound(&bytes), "{bytes:?}");
            for bit in 0..bytes.len() * 8 {
                let mut wrong = bytes.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(cargo(&wrong).is_none() || !is_sound(&wrong), "bit {bit} of {bytes:?}");
            }
        }
        // A datagram may have no checksum.
        let mut bare = datagram(INSIDE, OUTSIDE, b"a word").expect("it is short");
        bare[26..28].fill(0);
        assert!(is_sound(&bare));
    }

    #[test]
    fn what_is_for_no_single_host_is_not_carried() {
        for to in [Ipv4Addr::new(224, 0, 0, 9), Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED] {
            for bytes in [segment(to, SYN, 7), ping(to)] {
                assert_eq!((cargo(&bytes), is_sound(&bytes)), (None, true), "{to}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_come_out_of_a_device(mut bytes in prop::collection::vec(any::<u8>(), 20..90), protocol in 0_u8..20) {
            bytes[0] = 0x45;
            let length = u16::try_from(bytes.len()).expect("short");
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[9] = protocol;
            let _ = (cargo(&bytes), is_sound(&bytes), refusal(&bytes, Refusal::Unreachable));
        }
    }
}
