//! What is written is what a reader of docs/replay-format.md finds.

use std::io::Read as _;

use flate2::read::DeflateDecoder;
use groundswell_common::ids::InstanceId;
use groundswell_common::run::RunEvent;
use proptest::prelude::*;

use super::format::{self, BLOCK_MS, Change, Group, Header, Place, Step};
use super::recorder::Recorder;

/// The listing in the documentation.
fn example() -> Vec<u8> {
    let document = include_str!("../../../docs/replay-format.md");
    let (_, listing) = document.split_once("```hexdump\n").expect("a listing");
    let (listing, _) = listing.split_once("```").expect("its end");
    let row = |line: &str| -> Vec<u8> {
        let hex = &line[8..56.min(line.len())];
        hex.split_ascii_whitespace().map(|two| u8::from_str_radix(two, 16).expect("hex")).collect()
    };
    listing.lines().flat_map(row).collect()
}

fn payload_of(file: &[u8], place: &Place) -> Vec<u8> {
    let start = usize::try_from(place.offset).expect("small");
    let packed = &file[start + 24..start + place.length as usize];
    let mut payload = Vec::new();
    DeflateDecoder::new(packed).read_to_end(&mut payload).expect("deflate");
    payload
}

/// Milliseconds after the block's start, the channel, values of instances, and whether they are differences.
type Told = (u64, usize, Vec<(usize, u8)>, bool);

/// A reader, as the documentation says one works. It knows nothing of the writer.
struct Block {
    keyframe: Vec<Vec<u8>>,
    steps: Vec<Told>,
    events: Vec<RunEvent>,
}

fn block_of(payload: &[u8]) -> Block {
    let mut at = 0;
    let mut take = |count: usize| {
        at += count;
        payload[at - count..at].to_vec()
    };
    let mut number = |width: usize| {
        let bytes = take(width);
        bytes.iter().rev().fold(0_usize, |sum, byte| sum.wrapping_shl(8) | usize::from(*byte))
    };
    let [instances, channels, steps, flows, events] = std::array::from_fn(|_| number(4));
    let keyframe =
        (0..channels).map(|_| (0..instances).map(|_| byte(number(1))).collect()).collect();
    let heads: Vec<[usize; 4]> =
        (0..steps).map(|_| [number(2), number(1), number(1), number(4)]).collect();
    let gaps: Vec<Vec<usize>> = heads
        .iter()
        .map(|[_, _, form, count]| {
            if *form == 0 {
                (0..*count).map(|_| number(4)).collect()
            } else {
                (0..*count).map(|at| usize::from(at > 0)).collect()
            }
        })
        .collect();
    let steps = heads
        .iter()
        .zip(gaps)
        .map(|([at, channel, form, _], gaps)| {
            let mut instance = 0;
            let values = gaps.iter().map(|gap| {
                instance += gap;
                (instance, byte(number(1)))
            });
            (*at as u64, *channel, values.collect(), *form == 1)
        })
        .collect();
    // Who has sent to whom, which no writer tells yet.
    number(flows * 9);
    let lines = take(events);
    assert_eq!(at, payload.len(), "nothing is left");
    let events = std::str::from_utf8(&lines).expect("text").lines();
    let events = events.map(|line| serde_json::from_str(line).expect("an event")).collect();
    Block { keyframe, steps, events }
}

/// The values of a channel at a moment, by the last block that has begun then.
fn values_at(file: &[u8], at_ms: u64, channel: usize) -> Vec<u8> {
    let (header, _, blocks) = format::read(file).expect("a file");
    let begun = blocks.iter().rfind(|place| u64::from(place.start_ms) <= at_ms);
    let Some(place) = begun else { return vec![0; header.instances as usize] };
    let block = block_of(&payload_of(file, place));
    let mut values = block.keyframe[channel].clone();
    for (at, of, changes, differences) in block.steps {
        if of == channel && u64::from(place.start_ms) + at <= at_ms {
            for (instance, value) in changes {
                values[instance] =
                    if differences { values[instance].wrapping_add(value) } else { value };
            }
        }
    }
    values
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("one byte")
}

fn header(instances: u32) -> Header {
    Header {
        run: "c8k3vmlrirtj2p8lcec0".to_owned(),
        name: "calm-heron".to_owned(),
        submitted_ms: 1_700_000_000_000,
        instances,
        groups: vec![Group { id: "all".to_owned(), instances, household: None }],
        channels: vec!["state".to_owned()],
    }
}

fn event(at_ms: u64, kind: &str) -> RunEvent {
    RunEvent {
        at_ms,
        kind: kind.to_owned(),
        text: "text".to_owned(),
        worker: None,
        group: None,
        instance: Some(InstanceId(0)),
    }
}

#[test]
fn the_example_of_the_documentation_is_read_and_its_blocks_are_written_alike() {
    let file = example();
    let (read, _, blocks) = format::read(&file).expect("the example");
    assert_eq!((read.instances, read.channels), (3, vec!["state".to_owned(), "sent".to_owned()]));
    let times: Vec<_> = blocks.iter().map(|place| (place.start_ms, place.end_ms)).collect();
    assert_eq!(times, [(0, 10_000), (10_000, 12_000)]);
    let last = blocks.last().expect("two");
    let end = usize::try_from(last.offset).expect("small") + last.length as usize;
    assert_eq!(file[end..], format::end(end as u64, &blocks), "index and footer");

    let step = Step { at: 500, channel: 0, what: Change::Few(vec![(2, 7)]) };
    let events = b"{\"at_ms\":10500,\"kind\":\"instance_ended\",\"text\":\"failure\",\"group\":\"home\",\"instance\":2}\n";
    let keyframe = [vec![3, 3, 3], vec![161, 134, 0]];
    let written = format::block((10_000, 12_000), &keyframe, &[step], events).expect("in memory");
    let place = Place { offset: 0, length: u32::try_from(written.len()).expect("small"), ..*last };
    assert_eq!(payload_of(&written, &place), payload_of(&file, last));
    assert_eq!(values_at(&file, 2_999, 1), [161, 0, 0]);
    assert_eq!(values_at(&file, 3_000, 1), [161, 134, 0]);
}

#[test]
fn events_are_in_the_block_of_their_time_and_a_late_one_is_left_out() {
    let mut recorder = Recorder::new(&header(2));
    recorder.event(&event(100, "phase"));
    recorder.event(&event(12_000, "message"));
    recorder.event(&event(9_000, "message"));
    recorder.event(&event(150, "instance_started"));
    recorder.event(&event(25_000, "verdict"));
    recorder.event(&event(50, "message"));
    let file = recorder.finish(26_000);
    let (_, _, blocks) = format::read(&file).expect("a file");
    let times: Vec<Vec<u64>> = blocks
        .iter()
        .map(|place| block_of(&payload_of(&file, place)).events.iter().map(|e| e.at_ms).collect())
        .collect();
    assert_eq!(times, [vec![100, 9_000], vec![12_000], vec![25_000]]);
    assert_eq!(blocks.last().map(|place| place.end_ms), Some(26_000));
}

#[test]
fn what_is_written_stays_and_another_coordinator_goes_on_behind_it() {
    let mut recorder = Recorder::new(&header(4));
    recorder.sample(1_000, 0, &[3, 3, 3, 3]);
    recorder.sample(15_000, 0, &[3, 6, 3, 3]);
    recorder.advance(19_000);
    assert_eq!(recorder.written(), 0, "a late event may come");
    recorder.advance(21_000);
    assert_eq!(recorder.written(), 1);
    let mut left = recorder.so_far().to_vec();
    left.extend(b"GSBK and a part of a block");
    let mut next = Recorder::continued(left).expect("a file");
    assert_eq!((next.written(), next.instances()), (1, 4));
    next.sample(5_000, 0, &[3, 6, 3, 3]);
    next.sample(31_000, 0, &[6, 6, 6, 6]);
    let file = next.finish(32_000);
    assert!(file.starts_with(recorder.so_far()));
    assert_eq!(values_at(&file, 9_999, 0), [3, 3, 3, 3]);
    assert_eq!(values_at(&file, 10_000, 0), [3, 6, 3, 3]);
    assert_eq!(values_at(&file, 31_500, 0), [6, 6, 6, 6]);
    assert!(Recorder::continued(b"something else".to_vec()).is_err());
}

proptest! {
    #[test]
    fn any_moment_is_found_again(
        samples in prop::collection::vec((0..4_000_u64, prop::collection::vec(0..13_u8, 9)), 1..60)
    ) {
        let mut recorder = Recorder::new(&header(9));
        let (mut now, mut told) = (0, Vec::new());
        for (gap, states) in samples {
            now += gap;
            recorder.sample(now, 0, &states);
            recorder.advance(now);
            told.push((now, states));
        }
        let file = recorder.finish(now + 1);
        for at in (0..=now).step_by(37).chain(told.iter().map(|(at, _)| *at)) {
            let known = told.iter().rfind(|(from, _)| *from <= at);
            let known = known.map_or_else(|| vec![0; 9], |(_, states)| states.clone());
            prop_assert_eq!(values_at(&file, at, 0), known, "at {}", at);
        }
        let (_, _, blocks) = format::read(&file).expect("a file");
        for place in blocks {
            prop_assert!(u64::from(place.end_ms - place.start_ms) <= BLOCK_MS);
        }
    }
}
