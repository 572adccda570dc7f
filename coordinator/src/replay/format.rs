//! The bytes of a replay file, version 1: docs/replay-format.md.

use std::io::{self, Write as _};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use serde::{Deserialize, Serialize};

/// How long a block is, in milliseconds.
pub(super) const BLOCK_MS: u64 = 10_000;
const MAGIC: &[u8; 8] = b"GSREPLAY";
const BLOCK_MAGIC: &[u8; 4] = b"GSBK";
const END_MAGIC: &[u8; 8] = b"GSREPEND";
const VERSION: u16 = 1;
/// The length of a header before its JSON.
const HEADER: usize = 16;
/// The length of a block before its payload.
const BLOCK_HEADER: usize = 24;

/// What a file is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The run's id.
    pub run: String,
    /// Its name.
    pub name: String,
    /// When it was submitted, Unix milliseconds.
    pub submitted_ms: u64,
    /// How many instances it has.
    pub instances: u32,
    /// Its groups; they add up to the instances.
    pub groups: Vec<Group>,
    /// What is told of each instance; the first one is `state`.
    pub channels: Vec<String>,
}

/// A group of instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// How many instances it has.
    pub instances: u32,
    /// How many of them share the innermost NAT, when it is behind one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub household: Option<u32>,
}

/// Why a file is not gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is something else, or of another version.
    #[error("not a replay file of version {VERSION}")]
    Other,
    /// Its header cannot be read.
    #[error("the header of the replay file is not readable: {0}")]
    Header(String),
}

/// A change of a channel at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Milliseconds since the block began.
    pub(super) at: u16,
    pub(super) channel: u8,
    pub(super) what: Change,
}

/// How a channel changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// These instances, in ascending order, have these values.
    Few(Vec<(u32, u8)>),
    /// The differences of all, modulo 256.
    All(Vec<u8>),
}

impl Change {
    /// How `before` becomes `after`; absent when they are equal.
    pub(super) fn between(before: &[u8], after: &[u8]) -> Option<Self> {
        let pairs = || before.iter().zip(after);
        let changed = pairs().filter(|(old, new)| old != new).count();
        if changed == 0 {
            return None;
        }
        if changed * 4 > after.len() {
            return Some(Self::All(pairs().map(|(old, new)| new.wrapping_sub(*old)).collect()));
        }
        let few = (0_u32..).zip(pairs()).filter(|(_, (old, new))| old != new);
        Some(Self::Few(few.map(|(at, (_, new))| (at, *new)).collect()))
    }

    fn count(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::All(all) => all.len(),
        }
    }
}

/// Where a block is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start_ms: u32,
    pub(super) end_ms: u32,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// The beginning of a file.
pub(super) fn header(header: &Header) -> Vec<u8> {
    let json = serde_json::to_vec(header).unwrap_or_default();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(length(json.len()).to_le_bytes());
    bytes.extend(json);
    bytes
}

/// A block between two times: what was at its start, what changed, what happened.
pub(super) fn block(
    (start_ms, end_ms): (u32, u32),
    keyframe: &[Vec<u8>],
    steps: &[Step],
    events: &[u8],
) -> io::Result<Vec<u8>> {
    let payload = payload(keyframe, steps, events);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&payload)?;
    let packed = encoder.finish()?;
    let mut bytes = BLOCK_MAGIC.to_vec();
    for number in [start_ms, end_ms, length(packed.len()), length(payload.len()), crc(&packed)] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(packed);
    Ok(bytes)
}

fn payload(keyframe: &[Vec<u8>], steps: &[Step], events: &[u8]) -> Vec<u8> {
    let instances = keyframe.first().map_or(0, Vec::len);
    let counts = [instances, keyframe.len(), steps.len(), 0, events.len()];
    let mut bytes = Vec::new();
    counts.iter().for_each(|count| bytes.extend(length(*count).to_le_bytes()));
    keyframe.iter().for_each(|channel| bytes.extend(channel));
    for step in steps {
        bytes.extend(step.at.to_le_bytes());
        let form = u8::from(matches!(step.what, Change::All(_)));
        bytes.extend([step.channel, form]);
        bytes.extend(length(step.what.count()).to_le_bytes());
    }
    for step in steps {
        if let Change::Few(few) = &step.what {
            let mut before = 0;
            for (instance, _) in few {
                bytes.extend((instance - before).to_le_bytes());
                before = *instance;
            }
        }
    }
    for step in steps {
        match &step.what {
            Change::Few(few) => bytes.extend(few.iter().map(|(_, value)| *value)),
            Change::All(all) => bytes.extend(all),
        }
    }
    bytes.extend(events);
    bytes
}

/// The end of a file whose blocks end at `offset`.
pub(super) fn end(offset: u64, blocks: &[Place]) -> Vec<u8> {
    let mut index = Vec::new();
    for place in blocks {
        index.extend(place.start_ms.to_le_bytes());
        index.extend(place.end_ms.to_le_bytes());
        index.extend(place.offset.to_le_bytes());
        index.extend(place.length.to_le_bytes());
    }
    let last_ms = blocks.last().map_or(0, |place| place.end_ms);
    let mut bytes = index;
    let check = crc(&bytes);
    bytes.extend(offset.to_le_bytes());
    bytes.extend(length(blocks.len()).to_le_bytes());
    bytes.extend(check.to_le_bytes());
    bytes.extend(last_ms.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(END_MAGIC);
    bytes
}

/// The header of a file and its whole blocks.
///
/// # Errors
/// When it is no such file.
pub(super) fn read(bytes: &[u8]) -> Result<(Header, usize, Vec<Place>), Unreadable> {
    let version = bytes.get(8..10).map(|two| u16::from_le_bytes([two[0], two[1]]));
    if !bytes.starts_with(MAGIC) || version != Some(VERSION) {
        return Err(Unreadable::Other);
    }
    let start = HEADER + number(bytes, 12).unwrap_or(0) as usize;
    let json = bytes.get(HEADER..start).ok_or(Unreadable::Other)?;
    let header = serde_json::from_slice(json).map_err(|err| Unreadable::Header(err.to_string()))?;
    let (mut at, mut blocks) = (start, Vec::new());
    while let Some(place) = block_at(bytes, at) {
        at += place.length as usize;
        blocks.push(place);
    }
    Ok((header, start, blocks))
}

/// The block that begins at `at`, when it is whole.
fn block_at(bytes: &[u8], at: usize) -> Option<Place> {
    let rest = bytes.get(at..)?;
    let packed = number(rest, 12)? as usize;
    let content = rest.get(BLOCK_HEADER..BLOCK_HEADER.checked_add(packed)?)?;
    let whole = rest.starts_with(BLOCK_MAGIC) && number(rest, 20)? == crc(content);
    whole.then_some(Place {
        start_ms: number(rest, 4)?,
        end_ms: number(rest, 8)?,
        offset: at as u64,
        length: length(BLOCK_HEADER + packed),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
