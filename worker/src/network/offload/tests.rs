use proptest::prelude::*;

use super::*;

/// A train as a kernel would make it: its checksum is left out.
#[derive(Debug, Clone)]
struct Made {
    v6: bool,
    udp: bool,
    options: usize,
    flags: u8,
    sequence: u32,
    id: u16,
    size: u16,
    payload: Vec<u8>,
}

impl Made {
    fn frame(&self) -> Vec<u8> {
        let ip = if self.v6 { 40 } else { 20 };
        let own = if self.udp { 8 } else { 20 + self.options };
        let total = ip + own + self.payload.len();
        let mut frame = vec![0; HEADER + ip + own];
        frame[0] = NEEDS_CHECKSUM;
        frame[1] = match (self.udp, self.v6) {
            (true, _) => UDP,
            (false, true) => TCP6,
            (false, false) => TCP4,
        };
        frame[4..6].copy_from_slice(&self.size.to_ne_bytes());
        frame[6..8].copy_from_slice(&short(ip).to_ne_bytes());
        frame[8..10].copy_from_slice(&(if self.udp { 6_u16 } else { 16 }).to_ne_bytes());
        let packet = &mut frame[HEADER..];
        let protocol = if self.udp { UDP_PROTOCOL } else { TCP_PROTOCOL };
        if self.v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&short(total - 40).to_be_bytes());
            packet[6] = protocol;
            packet[8..40].copy_from_slice(&[7; 32]);
        } else {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&short(total).to_be_bytes());
            packet[4..6].copy_from_slice(&self.id.to_be_bytes());
            packet[9] = protocol;
            packet[12..20].copy_from_slice(&[16, 0, 0, 2, 16, 0, 0, 3]);
        }
        if self.udp {
            packet[ip + 4..ip + 6].copy_from_slice(&short(total - ip).to_be_bytes());
        } else {
            packet[ip + 4..ip + 8].copy_from_slice(&self.sequence.to_be_bytes());
            packet[ip + 12] = u8::try_from(own / 4).expect("small") << 4;
            packet[ip + 13] = self.flags;
        }
        frame.extend_from_slice(&self.payload);
        frame
    }
}

fn made() -> impl Strategy<Value = Made> {
    let packet =
        (any::<bool>(), any::<bool>(), 0..10_usize, any::<u8>(), any::<u32>(), any::<u16>());
    let payload = prop::collection::vec(any::<u8>(), 1..8_000);
    (packet, 1..1_500_u16, payload).prop_map(
        |((v6, udp, words, flags, sequence, id), size, payload)| Made {
            v6,
            udp,
            options: words * 4,
            flags,
            sequence,
            id,
            size,
            payload,
        },
    )
}

/// Whether the checksums of a finished single packet are right.
fn is_sound(frame: &[u8]) -> bool {
    let packet = packet(frame);
    let (ip, protocol, addresses) = match packet[0] >> 4 {
        4 => (20, packet[9], &packet[12..20]),
        _ => (40, packet[6], &packet[8..40]),
    };
    let pseudo = add(addresses, u64::from(protocol) + (packet.len() - ip) as u64);
    let header = packet[0] >> 4 != 4 || fold(add(&packet[..20], 0)) == 0xffff;
    header && fold(add(&packet[ip..], pseudo)) == 0xffff
}

proptest! {
    #[test]
    fn a_train_cut_into_its_packets_carries_the_same_bytes_in_order(made in made()) {
        let frame = made.frame();
        let train = Train::of(&frame).expect("it is one");
        prop_assert_eq!(train.count, made.payload.len().div_ceil(made.size.into()));
        let (mut one, mut carried) = (Vec::new(), Vec::new());
        for number in 0..train.count {
            train.cut(&frame, number..number + 1, &mut one);
            prop_assert_eq!(one.len(), HEADER + train.length(number));
            prop_assert!(!is_train(&one));
            finish(&mut one);
            prop_assert!(is_sound(&one), "packet {number}");
            let ip = if made.v6 { 40 } else { 20 };
            let bytes = packet(&one);
            if !made.v6 {
                let id = u16::from_be_bytes([bytes[4], bytes[5]]);
                prop_assert_eq!(id, made.id.wrapping_add(short(number)));
            }
            if !made.udp {
                let at = u32::from_be_bytes([bytes[ip + 4], bytes[ip + 5], bytes[ip + 6], bytes[ip + 7]]);
                prop_assert_eq!(at.wrapping_sub(made.sequence) as usize, carried.len());
                let (first, last) = (number == 0, number + 1 == train.count);
                let gone = if first { 0 } else { TCP_FIRST } | if last { 0 } else { TCP_LAST };
                let kept = made.flags & !gone;
                prop_assert_eq!(bytes[ip + 13], kept);
            }
            carried.extend_from_slice(&bytes[train.headers..]);
        }
        prop_assert_eq!(carried, made.payload);
    }

    #[test]
    fn a_part_of_a_train_is_a_train_whose_packets_are_the_same(made in made(), from: prop::sample::Index, many: prop::sample::Index) {
        let frame = made.frame();
        let train = Train::of(&frame).expect("it is one");
        let from = from.index(train.count);
        let to = from + 1 + many.index(train.count - from);
        let (mut part, mut direct, mut again) = (Vec::new(), Vec::new(), Vec::new());
        train.cut(&frame, from..to, &mut part);
        if to - from == 1 {
            prop_assert!(!is_train(&part));
        } else {
            let inner = Train::of(&part).expect("it is one");
            prop_assert_eq!(inner.count, to - from);
            for number in 0..inner.count {
                inner.cut(&part, number..number + 1, &mut again);
                train.cut(&frame, from + number..from + number + 1, &mut direct);
                prop_assert_eq!(&again, &direct);
            }
        }
    }

    #[test]
    fn noise_is_never_a_panic(noise in prop::collection::vec(any::<u8>(), 10..200)) {
        let mut noise = noise;
        if let Some(train) = Train::of(&noise) {
            prop_assert!(train.count > 0);
        }
        finish(&mut noise);
    }
}

#[test]
fn a_whole_packet_is_left_alone() {
    let mut frame = vec![0; HEADER];
    frame.extend_from_slice(&[0x45, 0, 0, 20]);
    let before = frame.clone();
    finish(&mut frame);
    assert_eq!(frame, before);
    assert_eq!(Train::of(&frame), None);
}
