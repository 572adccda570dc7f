//! What the kernel's queues are told: HTB for rates, netem for everything else. Pure.
//!
//! ```text
//! 1:  HTB                                  of the whole interface; 1:0 is beside all classes
//! └─ 1:<lane + 1>  class                   the rate of a shape
//!    └─ <0x10 + lane>:  netem              its delay and chance, where the kernel has netem
//!       └─ <0x4000 + lane>:  bfifo         what waits for its turn at the rate
//! ```
//!
//! Without netem the bfifo hangs below the class. Lane 0 is the default's.
//!
//! Three things make netem do what a shape says:
//!
//! * It keeps the order of packets only while it has a rate of its own. So it has one, so large that it
//!   delays nothing.
//! * Its correlated loss is wrong by orders of magnitude. A Gilbert-Elliott model that loses every packet in
//!   its bad state is the chain we mean, exactly.
//! * Its queue drops silently when it is full. So it has room for what can be under way, and what waits for
//!   the rate waits in a queue of its own, which is limited in time.

use std::time::Duration;

use groundswell_common::link::{Distribution, LinkShape};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

use crate::network::jitter;

/// As many shapes as one interface can have.
pub(super) const MOST_LANES: usize = 4_000;
/// The longest jitter netem can spread.
pub(super) const MOST_JITTER: Duration = Duration::from_secs(2);
/// The largest deviation in netem's tables, in multiples of the jitter.
pub(super) const MOST_DEVIATION: f64 = 3.99;

/// What waits for its turn at a rate waits so long at most.
const PATIENCE: Duration = Duration::from_millis(500);
/// A queue has room for this in any case, in bytes.
const LEAST_QUEUE: u64 = 32_000;
/// Room of a queue that nothing waits in, in bytes.
const ANY_QUEUE: u32 = 256 << 20;
/// Faster than any machine; HTB needs a rate. In bytes per second.
const UNLIMITED: u64 = 125_000_000_000;
/// A rate at which netem does not delay a packet by a nanosecond, in bytes per second.
const INSTANT: u64 = 1_000_000_000_000_000;
/// Packets in a second that netem's queue has room for when no rate says how many there can be.
const MOST_PACKETS: f64 = 500_000.0;
/// Packets that may be under way on one link at most: memory is finite.
const MOST_QUEUED: f64 = 200_000.0;
/// The shortest packet, in bytes: so many fit into a rate at most.
const SHORTEST: f64 = 64.0;
/// A rate this large takes superpackets as they are: sending one takes less than a millisecond.
const COARSE_BPS: u64 = 1_000_000_000;
/// Values in a table of deviations.
const TABLE: u32 = 4_096;
/// What stands for 1 in such a table.
const SCALE: f64 = 8_192.0;

const ROOT: TcHandle = TcHandle { major: 1, minor: 0 };
const KIND_OPTIONS: u16 = 2;

/// One qdisc or class and its settings.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    kind: &'static str,
    class: bool,
    handle: TcHandle,
    parent: TcHandle,
    options: Vec<u8>,
}

impl Part {
    /// The message that makes it, or changes it when it is there.
    pub(super) fn message(&self, interface: i32) -> RouteNetlinkMessage {
        let mut message = TcMessage::with_index(interface);
        message.header = TcHeader { handle: self.handle, parent: self.parent, ..message.header };
        let options = DefaultNla::new(KIND_OPTIONS, self.options.clone());
        message.attributes =
            vec![TcAttribute::Kind(self.kind.to_owned()), TcAttribute::Other(options)];
        if self.parent == TcHandle::ROOT {
            message.attributes.push(TcAttribute::Stab(without_ethernet()));
        }
        if self.class {
            RouteNetlinkMessage::NewTrafficClass(message)
        } else {
            RouteNetlinkMessage::NewQueueDiscipline(message)
        }
    }

    /// The message that removes it.
    pub(super) fn removal(&self, interface: i32) -> RouteNetlinkMessage {
        let mut message = TcMessage::with_index(interface);
        message.header = TcHeader { handle: self.handle, parent: self.parent, ..message.header };
        if self.class {
            RouteNetlinkMessage::DelTrafficClass(message)
        } else {
            RouteNetlinkMessage::DelQueueDiscipline(message)
        }
    }

    pub(super) fn handle(&self) -> TcHandle {
        self.handle
    }

    pub(super) fn is_class(&self) -> bool {
        self.class
    }

    /// Whether another one is in the same place, so that the one can be changed into the other.
    pub(super) fn is_place_of(&self, other: &Self) -> bool {
        (self.class, self.handle) == (other.class, other.handle)
    }
}

/// The root of all lanes.
pub(super) fn root() -> Part {
    let mut init = Vec::new();
    // Version 3 of HTB; the quantum is given with each class; class 1 is the default.
    for word in [3_u32, 10, 1, 0, 0] {
        init.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    attribute(&mut options, 2, &init);
    Part { kind: "htb", class: false, handle: ROOT, parent: TcHandle::ROOT, options }
}

/// The class of a lane.
pub(super) fn class_of(lane: usize) -> TcHandle {
    TcHandle { major: ROOT.major, minor: number(lane) + 1 }
}

/// The netem of a lane.
pub(super) fn netem_of(lane: usize) -> TcHandle {
    TcHandle { major: 0x10 + number(lane), minor: 0 }
}

/// The queue of a lane.
pub(super) fn queue_of(lane: usize) -> TcHandle {
    TcHandle { major: 0x4000 + number(lane), minor: 0 }
}

fn number(lane: usize) -> u16 {
    u16::try_from(lane.min(MOST_LANES)).expect("there are few lanes")
}

/// What a lane with this shape is made of, from the root down.
pub(super) fn lane(lane: usize, shape: &LinkShape, netem: bool, seed: u64) -> Vec<Part> {
    let class = class_of(lane);
    let mut parts = vec![Part {
        kind: "htb",
        class: true,
        handle: class,
        parent: ROOT,
        options: class_options(shape.bandwidth_bps),
    }];
    let mut parent = class;
    if netem {
        let handle = netem_of(lane);
        let options = netem_options(shape, seed);
        parts.push(Part { kind: "netem", class: false, handle, parent, options });
        parent = TcHandle { minor: 1, ..handle };
    }
    let options = queue_bytes(shape.bandwidth_bps).to_ne_bytes().to_vec();
    parts.push(Part { kind: "bfifo", class: false, handle: queue_of(lane), parent, options });
    parts
}

/// A class and a queue that hold a rate, and nothing else.
pub(super) fn rate_only(bandwidth_bps: u64) -> Vec<Part> {
    let shape = LinkShape { bandwidth_bps, ..LinkShape::default() };
    lane(0, &shape, false, 0)
}

/// Whether superpackets must be cut before they are shaped: each is one packet to HTB and netem.
pub(super) fn needs_single_packets(shape: &LinkShape) -> bool {
    let rate = (1..COARSE_BPS).contains(&shape.bandwidth_bps);
    rate || shape.loss_pct > 0.0
        || shape.duplicate_pct > 0.0
        || shape.corrupt_pct > 0.0
        || shape.reorder_pct > 0.0
}

/// Room for half a second at a rate.
fn queue_bytes(bandwidth_bps: u64) -> u32 {
    if bandwidth_bps == 0 {
        return ANY_QUEUE;
    }
    let millis = u64::try_from(PATIENCE.as_millis()).expect("it is short");
    let bytes = (bandwidth_bps / 8).saturating_mul(millis) / 1_000;
    u32::try_from(bytes.max(LEAST_QUEUE)).unwrap_or(u32::MAX)
}

fn class_options(bandwidth_bps: u64) -> Vec<u8> {
    let rate = if bandwidth_bps == 0 { UNLIMITED } else { (bandwidth_bps / 8).max(1) };
    // Two packets, or two milliseconds: with less HTB is slower than it should be whenever it is woken late.
    let burst = (rate / 500).max(3_000);
    // HTB counts tokens as time at the rate, in units of 64 ns.
    let ticks = (u128::from(burst) * 1_000_000_000 / u128::from(rate)) >> 6;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
    let mut parameters = Vec::new();
    for _ in ["rate", "ceil"] {
        // Ethernet as the link layer, which needs no table of transmission times.
        parameters.extend([0_u8, 1]);
        for half in [0_u16; 3] {
            parameters.extend(half.to_ne_bytes());
        }
        parameters.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    }
    // Burst, burst at ceil, quantum, level, priority.
    for word in [ticks, ticks, 1_514, 0, 0] {
        parameters.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    attribute(&mut options, 1, &parameters);
    if u32::try_from(rate).is_err() {
        attribute(&mut options, 6, &rate.to_ne_bytes());
        attribute(&mut options, 7, &rate.to_ne_bytes());
    }
    options
}

/// Every attribute is there each time: what is left out of a change keeps its old value.
fn netem_options(shape: &LinkShape, seed: u64) -> Vec<u8> {
    let reorder = probability(shape.reorder_pct);
    let random_loss = if shape.loss_corr_pct > 0.0 { 0 } else { probability(shape.loss_pct) };
    let mut options = Vec::new();
    // Latency and jitter follow as attributes of 64 bits.
    for word in [
        0,
        packets_under_way(shape),
        random_loss,
        u32::from(reorder > 0),
        probability(shape.duplicate_pct),
        0,
    ] {
        options.extend(word.to_ne_bytes());
    }
    attribute(&mut options, 1, &[0; 12]);
    attribute(&mut options, 3, &words(&[reorder, 0]));
    attribute(&mut options, 4, &words(&[probability(shape.corrupt_pct), 0]));
    if shape.loss_pct > 0.0 && shape.loss_corr_pct > 0.0 {
        let mut model = Vec::new();
        attribute(&mut model, 2, &words(&gilbert(shape)));
        attribute(&mut options, 5, &model);
    }
    attribute(&mut options, 6, &words(&[u32::MAX, 0, 0, 0]));
    attribute(&mut options, 8, &INSTANT.to_ne_bytes());
    attribute(&mut options, 10, &nanoseconds(shape.latency).to_ne_bytes());
    attribute(&mut options, 11, &nanoseconds(shape.jitter).to_ne_bytes());
    if !shape.jitter.is_zero() {
        attribute(&mut options, 2, &table(shape.distribution));
    }
    // Linux 6.6 and later; others do not know it and do not mind.
    attribute(&mut options, 14, &seed.to_ne_bytes());
    options
}

/// The chance to come into the bad state, the chance to leave it, no packet passes there, each passes elsewhere.
///
/// With a share p and a correlation r a packet is lost with p + r (1 - p) after a lost one and with p (1 - r)
/// after one that passed.
fn gilbert(shape: &LinkShape) -> [u32; 4] {
    let (p, r) = (f64::from(shape.loss_pct) / 100.0, f64::from(shape.loss_corr_pct) / 100.0);
    [share(p * (1.0 - r)), share((1.0 - p) * (1.0 - r)), 0, 0]
}

/// How many packets can be between netem's two ends.
fn packets_under_way(shape: &LinkShape) -> u32 {
    let late = shape.latency + shape.jitter.mul_f64(MOST_DEVIATION);
    let rate = match shape.bandwidth_bps {
        0 => MOST_PACKETS,
        #[expect(clippy::cast_precision_loss, reason = "a limit need not be exact")]
        bps => (bps as f64 / 8.0 / SHORTEST).min(MOST_PACKETS),
    };
    let packets = (late.as_secs_f64() * rate * 1.5 + 1_000.0).min(MOST_QUEUED);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
    let packets = packets as u32;
    packets
}

/// The deviations of a distribution, as netem draws them: each as likely as any other.
fn table(distribution: Distribution) -> Vec<u8> {
    let values = (0..TABLE).map(|draw| {
        let draw = (f64::from(draw) + 0.5) / f64::from(TABLE);
        let deviation = jitter::deviation(distribution, draw);
        let deviation = deviation.clamp(-MOST_DEVIATION, MOST_DEVIATION);
        #[expect(clippy::cast_possible_truncation, reason = "less than 4 times 8,192")]
        let value = (deviation * SCALE).round() as i16;
        value
    });
    values.flat_map(i16::to_ne_bytes).collect()
}

/// A percentage as netem has it: all of 32 bits is always.
fn probability(pct: f32) -> u32 {
    share(f64::from(pct) / 100.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates floats"
)]
fn share(share: f64) -> u32 {
    (share * f64::from(u32::MAX)).round() as u32
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Rates are those of IP packets, as in the switch: 14 bytes of each frame do not count.
fn without_ethernet() -> Vec<u8> {
    let mut size = vec![0; 4];
    size.extend((-14_i32).to_ne_bytes());
    size.extend([0; 16]);
    let mut table = Vec::new();
    attribute(&mut table, 1, &size);
    table
}

/// Appends an attribute as netlink has them.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).expect("attributes are short");
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_uses_all_of_32_bits() {
        assert_eq!(probability(0.0), 0);
        assert_eq!(probability(50.0), 1 << 31);
        assert_eq!(probability(100.0), u32::MAX);
    }

    #[test]
    fn correlated_loss_keeps_its_share_and_its_correlation() {
        let shape = LinkShape { loss_pct: 5.0, loss_corr_pct: 50.0, ..LinkShape::default() };
        let [into, out, ..] = gilbert(&shape).map(|word| f64::from(word) / f64::from(u32::MAX));
        assert!((into / (into + out) - 0.05).abs() < 1e-6, "the share of the bad state");
        assert!((1.0 - out - into - 0.5).abs() < 1e-6, "what is left of one packet in the next");
    }

    #[test]
    fn a_queue_has_room_for_what_is_under_way_and_for_half_a_second() {
        let latency = Duration::from_millis(200);
        let fast = LinkShape { latency, ..LinkShape::default() };
        assert!(packets_under_way(&fast) > 100_000);
        let slow = LinkShape { bandwidth_bps: 1_000_000, ..fast };
        assert!((1_500..2_000).contains(&packets_under_way(&slow)));
        assert_eq!(queue_bytes(1_000_000), 62_500);
        assert_eq!(queue_bytes(1_000), 32_000);
    }

    #[test]
    fn tables_are_as_wide_as_the_distribution() {
        let ends = |distribution| {
            let table = table(distribution);
            let read = |bytes: &[u8]| i16::from_ne_bytes(bytes.try_into().expect("two bytes"));
            (read(&table[..2]), read(&table[table.len() - 2..]))
        };
        assert_eq!(ends(Distribution::Uniform), (-8190, 8190));
        let (low, high) = ends(Distribution::Normal);
        assert!(low < -27_000 && high > 27_000 && low == -high, "{low} {high}");
    }

    #[test]
    fn lanes_have_places_of_their_own() {
        let shape = LinkShape::default();
        let all: Vec<Part> =
            [0, 1, MOST_LANES].iter().flat_map(|one| lane(*one, &shape, true, 1)).collect();
        for (at, part) in all.iter().enumerate() {
            assert!(!all[at + 1..].iter().any(|other| part.is_place_of(other)), "{part:?}");
        }
    }

    #[test]
    fn superpackets_are_cut_where_they_would_matter() {
        let shape = LinkShape { latency: Duration::from_millis(9), ..LinkShape::default() };
        assert!(!needs_single_packets(&shape));
        assert!(needs_single_packets(&LinkShape { loss_pct: 0.1, ..shape }));
        assert!(needs_single_packets(&LinkShape { bandwidth_bps: 1_000_000, ..shape }));
        assert!(!needs_single_packets(&LinkShape { bandwidth_bps: 5_000_000_000, ..shape }));
    }
}
