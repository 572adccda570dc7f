//! Reads IP headers and writes the few ICMP packets the network itself sends. Pure.
//!
//! An instance has one address, written in two ways: IPv4, and its counterpart in IPv6 (see
//! [`groundswell_common::addresses::counterpart`]). What is read here names addresses by IPv4, so that
//! everything that is decided by address holds for both.

use std::net::{Ipv4Addr, Ipv6Addr};

use groundswell_common::addresses::{counterpart, of_counterpart};

use super::offload::{add, fold};

use super::probe::{Message, PROBE_PORT, PROBE_TOS};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
/// In IPv6, what comes before the reports of group membership.
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const HEADER: usize = 20;
const HEADER_V6: usize = 40;
/// As much of a packet as an ICMPv6 error may quote: the whole error fits the smallest MTU there is.
const QUOTED_V6: usize = 1280 - HEADER_V6 - 8;

/// The numbers of ICMP messages, which the two versions do not share.
struct Messages {
    echo_request: u8,
    echo_reply: u8,
    /// Type and code of "administratively prohibited": `EHOSTUNREACH` for the sender, `EACCES` in IPv6.
    prohibited: [u8; 2],
}

const V4: Messages = Messages { echo_request: 8, echo_reply: 0, prohibited: [3, 10] };
const V6: Messages = Messages { echo_request: 128, echo_reply: 129, prohibited: [1, 1] };

/// The version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the network needs to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which header it has.
    pub version: Version,
    /// Where it comes from. 0.0.0.0 stands for what is nobody's counterpart.
    pub source: Ipv4Addr,
    /// Where it goes, in the same way.
    pub destination: Ipv4Addr,
    /// Whether it goes to many: multicast, or broadcast in every subnet.
    pub group: bool,
    /// Whether it is what a kernel says by itself of its interface: who else is there, which groups it is in.
    pub upkeep: bool,
    /// Bytes of the header with its options.
    pub header_length: usize,
    /// Bytes of the whole packet.
    pub total_length: usize,
    /// What it carries.
    pub protocol: u8,
    /// Whether it is a fragment other than the first.
    pub later_fragment: bool,
    /// Whether it is what [`super::probe`] sends.
    pub probes: bool,
}

/// Reads the header of a packet; `None` when it is not one or is cut short.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<Header> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Header> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_length < HEADER || total_length < header_length || total_length > packet.len() {
        return None;
    }
    let address = |at: usize| Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|k| header[at + k]));
    let destination = address(16);
    Some(Header {
        version: Version::V4,
        source: address(12),
        destination,
        group: destination.is_multicast() || destination.is_broadcast(),
        upkeep: header[9] == IGMP,
        header_length,
        total_length,
        protocol: header[9],
        later_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
        probes: header[1] == PROBE_TOS
            && header[9] == UDP
            && u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0
            && probes(&packet[header_length..total_length]),
    })
}

/// Whether a datagram is what [`super::probe`] sends. The mark alone is anybody's: it would give an instance more
/// than its own link.
fn probes(datagram: &[u8]) -> bool {
    let port = PROBE_PORT.to_be_bytes();
    datagram.split_first_chunk::<8>().is_some_and(|(header, words)| {
        header[..2] == port && header[2..4] == port && Message::parse(words).is_some()
    })
}

fn parse_v6(packet: &[u8]) -> Option<Header> {
    let header: &[u8; HEADER_V6] = packet.first_chunk()?;
    let total_length = HEADER_V6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if total_length > packet.len() {
        return None;
    }
    let address = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|k| header[at + k]));
    let (source, destination, protocol) = (address(8), address(24), header[6]);
    let named = |address| of_counterpart(address).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let group = destination.is_multicast();
    // Fragments have a header of their own; their offset is in its third and fourth byte.
    let fragment = packet.get(HEADER_V6..HEADER_V6 + 4).filter(|_| protocol == FRAGMENT);
    Some(Header {
        version: Version::V6,
        source: named(source),
        destination: named(destination),
        group,
        upkeep: group && (protocol == ICMPV6 || protocol == HOP_BY_HOP),
        header_length: HEADER_V6,
        total_length,
        protocol,
        later_fragment: fragment
            .is_some_and(|fragment| u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0),
        probes: false,
    })
}

impl Header {
    fn messages(&self) -> Option<&'static Messages> {
        match (self.version, self.protocol) {
            (Version::V4, ICMP) => Some(&V4),
            (Version::V6, ICMPV6) => Some(&V6),
            (Version::V4 | Version::V6, _) => None,
        }
    }
}

/// The ICMP error that tells the sender of `packet` that its destination is prohibited.
///
/// There is none for an ICMP error or a later fragment, as RFC 1122 and RFC 4443 demand.
#[must_use]
pub fn prohibited(packet: &[u8], gateway: Ipv4Addr) -> Option<Vec<u8>> {
    let header = parse(packet)?;
    let of_icmp = header.messages();
    let asks =
        of_icmp.is_some_and(|icmp| packet.get(header.header_length) == Some(&icmp.echo_request));
    if header.later_fragment || header.group || (of_icmp.is_some() && !asks) {
        return None;
    }
    let (icmp, quoted) = match header.version {
        Version::V4 => (&V4, header.header_length + 8),
        Version::V6 => (&V6, QUOTED_V6),
    };
    let [kind, code] = icmp.prohibited;
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&packet[..header.total_length.min(quoted)]);
    message(header.version, gateway, header.source, body)
}

/// The answer to `packet` if it is a ping.
#[must_use]
pub fn echo_reply(packet: &[u8]) -> Option<Vec<u8>> {
    let header = parse(packet)?;
    let icmp = header.messages()?;
    let body = &packet[header.header_length..header.total_length];
    if header.later_fragment || body.len() < 8 || body[0] != icmp.echo_request {
        return None;
    }
    let mut body = body.to_vec();
    body[0] = icmp.echo_reply;
    message(header.version, header.destination, header.source, body)
}

fn message(
    version: Version,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    mut body: Vec<u8>,
) -> Option<Vec<u8>> {
    body[2..4].fill(0);
    let length = u16::try_from(body.len()).ok()?;
    let mut packet = match version {
        Version::V4 => header_v4(source, destination, length)?,
        Version::V6 => header_v6(source, destination, length),
    };
    let pseudo = match version {
        Version::V4 => 0,
        Version::V6 => add(&packet[8..], u64::from(length) + u64::from(ICMPV6)),
    };
    let sum = !fold(add(&body, pseudo));
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&body);
    Some(packet)
}

fn header_v4(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> Option<Vec<u8>> {
    let total = length.checked_add(20)?;
    let mut header = vec![0_u8; HEADER];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[8] = 64;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum = !fold(add(&header, 0));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(header)
}

fn header_v6(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> Vec<u8> {
    let mut header = vec![0_u8; HEADER_V6];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = ICMPV6;
    header[7] = 64;
    header[8..24].copy_from_slice(&counterpart(source).octets());
    header[24..40].copy_from_slice(&counterpart(destination).octets());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 1);

    fn ping(version: Version) -> Vec<u8> {
        let kind = if version == Version::V4 { V4.echo_request } else { V6.echo_request };
        let body = vec![kind, 0, 0, 0, 1, 2, 3, 4, 5];
        message(version, ONE, GATEWAY, body).expect("it is short")
    }

    /// Whether the checksum of an ICMP message is right.
    fn is_sound(packet: &[u8]) -> bool {
        match packet[0] >> 4 {
            4 => fold(add(&packet[..20], 0)) == 0xffff && fold(add(&packet[20..], 0)) == 0xffff,
            _ => fold(add(&packet[8..], 58 + (packet.len() - 40) as u64)) == 0xffff,
        }
    }

    #[test]
    fn a_ping_is_answered_with_its_own_words() {
        for version in [Version::V4, Version::V6] {
            let reply = echo_reply(&ping(version)).expect("it is a ping");
            let header = parse(&reply).expect("it is a packet");
            assert_eq!((header.source, header.destination), (GATEWAY, ONE));
            assert_eq!(&reply[header.header_length + 4..], &[1, 2, 3, 4, 5]);
            assert!(is_sound(&reply));
            assert_eq!(echo_reply(&reply), None);
        }
    }

    #[test]
    fn an_error_is_never_answered_with_an_error() {
        for (version, icmp) in [(Version::V4, &V4), (Version::V6, &V6)] {
            let error = prohibited(&ping(version), GATEWAY).expect("a ping may be rejected");
            let header = parse(&error).expect("it is a packet");
            assert_eq!(error[header.header_length..][..2], icmp.prohibited);
            assert!(is_sound(&error));
            assert_eq!(prohibited(&error, ONE), None);
        }
    }

    #[test]
    fn what_a_kernel_says_by_itself_is_known_and_strangers_are_nobody() {
        let mut solicitation = header_v6(ONE, GATEWAY, 0);
        solicitation[24..40].copy_from_slice(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).octets());
        let header = parse(&solicitation).expect("it is a packet");
        assert!(header.group && header.upkeep);
        solicitation[8] = 0x20;
        assert_eq!(parse(&solicitation).expect("a packet").source, Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn the_mark_alone_makes_no_probe() {
        let time = std::time::Duration::ZERO;
        let message = Message {
            answer: false,
            number: 1,
            from: 0,
            to: 1,
            asked: time,
            held: time,
            back: None,
        };
        let [high, low] = PROBE_PORT.to_be_bytes();
        let datagram = [&[high, low, high, low, 0, 48, 0, 0], message.encode().as_slice()].concat();
        let mut probe = header_v4(ONE, GATEWAY, 48).expect("short");
        (probe[1], probe[9]) = (PROBE_TOS, UDP);
        probe.extend(datagram);
        let probes = |packet: &[u8]| parse(packet).is_some_and(|header| header.probes);
        assert!(probes(&probe));
        // The mark, the protocol, a first fragment, both ports, the words.
        for (at, value) in [(1, 0), (9, 6), (6, 0x20), (21, 1), (23, 1), (28, b'x')] {
            let mut other = probe.clone();
            other[at] = value;
            assert!(!probes(&other), "byte {at}");
        }
        let mut longer = [probe.as_slice(), b"x"].concat();
        longer[3] += 1;
        assert!(!probes(&longer));
    }

    proptest! {
        #[test]
        fn any_bytes_may_come_out_of_a_device(bytes in prop::collection::vec(any::<u8>(), 0..80), first in 0..3_usize) {
            let mut bytes = bytes;
            if let (Some(version), Some(first)) = ([0x45, 0x60].get(first), bytes.first_mut()) {
                *first = *version;
            }
            let _ = (parse(&bytes), echo_reply(&bytes), prohibited(&bytes, GATEWAY));
        }
    }
}
