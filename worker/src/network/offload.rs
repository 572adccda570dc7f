//! Packets that a sender's kernel leaves together, and checksums that it leaves out. Pure.
//!
//! A frame is what goes through an interface: ten bytes of `virtio_net_hdr`, then an IP packet. The header says
//! whether the transport checksum is still to be written, and whether the packet is in truth a train of many
//! that differ in nothing but their sequence. The receiver's kernel takes such a train as it is, so it crosses
//! the switch in one read and one write. Where the packets of a train do not stay together, it is cut.

use std::ops::Range;

/// Bytes before each packet.
pub(super) const HEADER: usize = 10;

/// The transport checksum is not there yet: its place holds the sum of the pseudo header.
const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;

const TCP_PROTOCOL: u8 = 6;
const UDP_PROTOCOL: u8 = 17;
/// Flags of TCP that belong to the first packet of a train, and to the last.
const TCP_FIRST: u8 = 0x80;
const TCP_LAST: u8 = 0x01 | 0x08;

/// How a train is made up. Offsets count from the first byte of the IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Train {
    kind: u8,
    /// Where the transport header begins.
    transport: usize,
    /// Bytes of all headers, which each packet has.
    headers: usize,
    /// Payload of each packet but the last.
    size: usize,
    /// Payload of all.
    payload: usize,
    /// Packets.
    pub(super) count: usize,
}

/// The packet of a frame.
pub(super) fn packet(frame: &[u8]) -> &[u8] {
    &frame[HEADER..]
}

/// Whether a frame is a train of packets, whatever its train is like.
pub(super) fn is_train(frame: &[u8]) -> bool {
    frame[1] != 0
}

impl Train {
    /// Reads what the header of a frame says; `None` when the frame is no train, or one that cannot be.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let (kind, size) = (frame[1], usize::from(number(frame, 4)));
        let transport = usize::from(number(frame, 6));
        let bytes = packet(frame);
        let protocol = match bytes.first()? >> 4 {
            4 => bytes.get(9)?,
            _ => bytes.get(6)?,
        };
        let own = match (kind, *protocol) {
            (TCP4 | TCP6, TCP_PROTOCOL) => usize::from(bytes.get(transport + 12)? >> 4) * 4,
            (UDP, UDP_PROTOCOL) => 8,
            _ => return None,
        };
        let shortest = if kind == UDP { 8 } else { 20 };
        let below = if bytes[0] >> 4 == 4 { 20 } else { 40 };
        let headers = transport + own;
        let payload = bytes.len().checked_sub(headers)?;
        let wrong = own < shortest || transport < below || size == 0 || payload == 0;
        let count = if wrong { return None } else { payload.div_ceil(size) };
        Some(Self { kind, transport, headers, size, payload, count })
    }

    /// Bytes of one packet of it.
    pub(super) fn length(&self, number: usize) -> usize {
        let payload = self.payload_of(number..number + 1);
        self.headers + payload.len()
    }

    /// Bytes of all packets of it.
    pub(super) fn bytes(&self) -> usize {
        self.count * self.headers + self.payload
    }

    fn payload_of(&self, packets: Range<usize>) -> Range<usize> {
        let at = |packets: usize| (packets * self.size).min(self.payload);
        at(packets.start)..at(packets.end)
    }

    /// Writes a frame of some of its packets into `into`: a train again, or a single packet.
    pub(super) fn cut(&self, frame: &[u8], packets: Range<usize>, into: &mut Vec<u8>) {
        let payload = self.payload_of(packets.clone());
        let bytes = packet(frame);
        into.clear();
        into.extend_from_slice(&frame[..HEADER + self.headers]);
        into.extend_from_slice(&bytes[self.headers + payload.start..self.headers + payload.end]);
        if packets.len() == 1 {
            (into[1], into[4], into[5]) = (0, 0, 0);
        }
        into[2..4].copy_from_slice(&short(self.headers).to_ne_bytes());
        let part = &mut into[HEADER..];
        if self.kind == UDP {
            let length = short(8 + payload.len()).to_be_bytes();
            part[self.transport + 4..self.transport + 6].copy_from_slice(&length);
        } else {
            self.number_tcp(part, &packets, payload.start);
        }
        number_ip(part, packets.start);
        self.start_checksum(into);
    }

    /// Writes sequence number and flags into the first packet of a part.
    fn number_tcp(&self, part: &mut [u8], packets: &Range<usize>, before: usize) {
        let tcp = &mut part[self.transport..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let before = u32::try_from(before).expect("a packet is shorter than 64 KiB");
        tcp[4..8].copy_from_slice(&sequence.wrapping_add(before).to_be_bytes());
        if packets.start > 0 {
            tcp[13] &= !TCP_FIRST;
        }
        if packets.end < self.count {
            tcp[13] &= !TCP_LAST;
        }
    }

    /// Writes the sum of the pseudo header into the checksum's place, whose length is another now.
    fn start_checksum(&self, frame: &mut [u8]) {
        let at = if self.kind == UDP { 6 } else { 16 };
        frame[0] = NEEDS_CHECKSUM;
        frame[8..10].copy_from_slice(&short(at).to_ne_bytes());
        let part = &mut frame[HEADER..];
        let protocol = if self.kind == UDP { UDP_PROTOCOL } else { TCP_PROTOCOL };
        let length = part.len() - self.transport;
        let addresses = if part[0] >> 4 == 4 { 12..20 } else { 8..40 };
        let sum = add(&part[addresses], u64::from(protocol) + length as u64);
        let place = self.transport + at;
        part[place..place + 2].copy_from_slice(&fold(sum).to_be_bytes());
    }
}

/// Writes length and number into the IP header of a part.
fn number_ip(part: &mut [u8], before: usize) {
    let length = part.len();
    if part[0] >> 4 != 4 {
        part[4..6].copy_from_slice(&short(length - 40).to_be_bytes());
        return;
    }
    part[2..4].copy_from_slice(&short(length).to_be_bytes());
    let id = u16::from_be_bytes([part[4], part[5]]).wrapping_add(short(before));
    part[4..6].copy_from_slice(&id.to_be_bytes());
    part[10..12].fill(0);
    let header = usize::from(part[0] & 0x0f) * 4;
    let sum = !fold(add(&part[..header], 0));
    part[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the transport checksum of a single packet if its sender left it out. Whoever takes the packet without
/// the header before it, or takes it damaged, must be able to check it.
pub(super) fn finish(frame: &mut [u8]) {
    if frame[0] & NEEDS_CHECKSUM == 0 {
        return;
    }
    let (start, offset) = (usize::from(number(frame, 6)), usize::from(number(frame, 8)));
    frame[..HEADER].fill(0);
    let Some(covered) =
        frame[HEADER..].get_mut(start..).filter(|covered| covered.len() > offset + 1)
    else {
        return;
    };
    let sum = !fold(add(covered, 0));
    // A sum of zero would say to UDP that there is none; TCP takes both for the same.
    let sum = if sum == 0 { u16::MAX } else { sum };
    covered[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A number of the header, which is in the order of this machine.
fn number(frame: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([frame[at], frame[at + 1]])
}

fn short(length: usize) -> u16 {
    u16::try_from(length).expect("a packet is shorter than 64 KiB")
}

/// The sum of big-endian words, as the Internet checksum of RFC 1071 adds them, not folded yet.
pub(super) fn add(bytes: &[u8], sum: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().fold(sum, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
    match *rest {
        [] => sum,
        [a] => sum + u64::from(u16::from_be_bytes([a, 0])),
        [a, b] => sum + u64::from(u16::from_be_bytes([a, b])),
        [a, b, c, ..] => {
            sum + u64::from(u16::from_be_bytes([a, b])) + u64::from(u16::from_be_bytes([c, 0]))
        }
    }
}

/// Folds a sum of words into one.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("it was folded")
}

#[cfg(test)]
mod tests;
