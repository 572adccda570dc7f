//! Reads IPv4 headers and writes the few ICMP packets the network itself sends. Pure.

use std::net::Ipv4Addr;

use super::probe::PROBE_TOS;

const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
/// "Communication with destination host administratively prohibited": `EHOSTUNREACH` for the sender.
const HOST_PROHIBITED: u8 = 10;
const HEADER: usize = 20;

/// What the network needs to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Where it comes from.
    pub source: Ipv4Addr,
    /// Where it goes.
    pub destination: Ipv4Addr,
    /// Bytes of the header with its options.
    pub header_length: usize,
    /// Bytes of the whole packet.
    pub total_length: usize,
    /// What it carries.
    pub protocol: u8,
    /// Whether it is a fragment other than the first.
    pub later_fragment: bool,
    /// Whether it carries the mark of [`super::probe`].
    pub probes: bool,
}

/// Reads the header of an IPv4 packet; `None` when it is not one or is cut short.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<Ipv4Header> {
    if packet.len() < HEADER || packet[0] >> 4 != 4 {
        return None;
    }
    let header_length = usize::from(packet[0] & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if header_length < HEADER || total_length < header_length || total_length > packet.len() {
        return None;
    }
    Some(Ipv4Header {
        source: address(packet, 12),
        destination: address(packet, 16),
        header_length,
        total_length,
        protocol: packet[9],
        later_fragment: u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0,
        probes: packet[1] == PROBE_TOS,
    })
}

fn address(packet: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3])
}

/// The ICMP error that tells the sender of `packet` that its destination is prohibited.
///
/// There is none for an ICMP error or a later fragment, as RFC 1122 demands.
#[must_use]
pub fn prohibited(packet: &[u8], gateway: Ipv4Addr) -> Option<Vec<u8>> {
    let header = parse(packet)?;
    let asks = packet.get(header.header_length) == Some(&ECHO_REQUEST);
    if header.later_fragment || (header.protocol == ICMP && !asks) {
        return None;
    }
    let quoted = &packet[..header.total_length.min(header.header_length + 8)];
    let mut body = vec![UNREACHABLE, HOST_PROHIBITED, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(quoted);
    icmp(gateway, header.source, body)
}

/// The answer to `packet` if it is a ping.
#[must_use]
pub fn echo_reply(packet: &[u8]) -> Option<Vec<u8>> {
    let header = parse(packet)?;
    let body = &packet[header.header_length..header.total_length];
    let whole = header.protocol == ICMP && !header.later_fragment && body.len() >= 8;
    if !whole || body[0] != ECHO_REQUEST {
        return None;
    }
    let mut body = body.to_vec();
    body[0] = ECHO_REPLY;
    icmp(header.destination, header.source, body)
}

fn icmp(source: Ipv4Addr, destination: Ipv4Addr, mut body: Vec<u8>) -> Option<Vec<u8>> {
    body[2..4].fill(0);
    let sum = checksum(&body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let total = u16::try_from(HEADER + body.len()).ok()?;
    let mut packet = vec![0_u8; HEADER];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = ICMP;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&body);
    Some(packet)
}

/// The Internet checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 1);

    fn ping() -> Vec<u8> {
        icmp(ONE, GATEWAY, vec![ECHO_REQUEST, 0, 0, 0, 1, 2, 3, 4, 5]).expect("it is short")
    }

    #[test]
    fn a_ping_is_answered_with_its_own_words() {
        let reply = echo_reply(&ping()).expect("it is a ping");
        let header = parse(&reply).expect("it is a packet");
        assert_eq!((header.source, header.destination), (GATEWAY, ONE));
        assert_eq!(&reply[24..], &[1, 2, 3, 4, 5]);
        assert_eq!(checksum(&reply[..HEADER]), 0);
        assert_eq!(checksum(&reply[HEADER..]), 0);
        assert_eq!(echo_reply(&reply), None);
    }

    #[test]
    fn an_error_is_never_answered_with_an_error() {
        let error = prohibited(&ping(), GATEWAY).expect("a ping may be rejected");
        assert_eq!(error[HEADER..HEADER + 2], [UNREACHABLE, HOST_PROHIBITED]);
        assert_eq!(checksum(&error[HEADER..]), 0);
        assert_eq!(prohibited(&error, ONE), None);
    }

    proptest! {
        #[test]
        fn any_bytes_may_come_out_of_a_device(bytes in prop::collection::vec(any::<u8>(), 0..80), v4: bool) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (v4, bytes.first_mut()) {
                *first = 0x45;
            }
            let _ = (parse(&bytes), echo_reply(&bytes), prohibited(&bytes, GATEWAY));
        }
    }
}
