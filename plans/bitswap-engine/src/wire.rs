//! Messages in the format of the public specification: protocol buffers,
//! written by hand because there is one small kind of message.

use bytes::Bytes;

use crate::Cid;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// What the sender wants, or does not want any more.
    pub wants: Vec<Entry>,
    /// Whether `wants` replaces all earlier ones.
    pub full: bool,
    /// Blocks, with their names made from their bytes.
    pub blocks: Vec<(Cid, Bytes)>,
    /// Which blocks the sender has and lacks.
    pub presences: Vec<(Cid, Presence)>,
    /// Bytes of blocks that the sender still has to send to the receiver.
    pub pending_bytes: u64,
}

/// A line of a wantlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The block.
    pub cid: Cid,
    /// What about it.
    pub want: Want,
    /// Higher ones first.
    pub priority: i32,
    /// Whether the sender wants to hear that the receiver lacks it.
    pub send_dont_have: bool,
}

/// What a sender wants of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// To know whether the receiver has it.
    Have,
    /// The block itself.
    Block,
    /// Nothing any more.
    Cancel,
}

/// Whether a sender has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    Have,
    /// It does not.
    DontHave,
}

/// A message that does not keep to the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message has a wrong {0}")]
pub struct BadMessage(&'static str);

impl Message {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.blocks.is_empty() && self.presences.is_empty() && !self.full
    }

    /// The message in bytes. Version 1.1 knows neither presences nor kinds of
    /// wants, and takes what it does not know for nothing.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let data: usize = self.blocks.iter().map(|(_, data)| data.len() + 32).sum();
        let mut out = Vec::with_capacity(data + 64 * (self.wants.len() + self.presences.len()));
        let wantlist = self.encode_wantlist();
        if !wantlist.is_empty() {
            put_bytes(&mut out, 1, &wantlist);
        }
        for (cid, data) in &self.blocks {
            let prefix = cid.prefix();
            put_varint(&mut out, 3 << 3 | 2);
            put_varint(&mut out, (field_len(prefix.len()) + field_len(data.len())) as u64);
            put_bytes(&mut out, 1, &prefix);
            put_bytes(&mut out, 2, data);
        }
        for (cid, presence) in &self.presences {
            let mut inner = Vec::with_capacity(48);
            put_bytes(&mut inner, 1, &cid.to_bytes());
            put_number(&mut inner, 2, u64::from(*presence == Presence::DontHave));
            put_bytes(&mut out, 4, &inner);
        }
        put_number(&mut out, 5, self.pending_bytes.min(i32::MAX as u64));
        out
    }

    fn encode_wantlist(&self) -> Vec<u8> {
        let mut wantlist = Vec::with_capacity(48 * self.wants.len());
        for entry in &self.wants {
            let mut inner = Vec::with_capacity(48);
            put_bytes(&mut inner, 1, &entry.cid.to_bytes());
            put_number(&mut inner, 2, u64::try_from(entry.priority).unwrap_or(0));
            put_number(&mut inner, 3, u64::from(entry.want == Want::Cancel));
            put_number(&mut inner, 4, u64::from(entry.want == Want::Have));
            put_number(&mut inner, 5, u64::from(entry.send_dont_have));
            put_bytes(&mut wantlist, 1, &inner);
        }
        put_number(&mut wantlist, 2, u64::from(self.full));
        wantlist
    }

    /// Reads a message. Names with another hash than SHA-256 are left out:
    /// nobody here has such blocks.
    pub fn decode(bytes: &Bytes) -> Result<Self, BadMessage> {
        let mut message = Self::default();
        for field in Fields(bytes.clone()) {
            match field? {
                (1, Value::Bytes(wantlist)) => message.decode_wantlist(wantlist)?,
                // How version 1.0 sends blocks: without a prefix, by version 0 of names.
                (2, Value::Bytes(data)) => {
                    let hash = Cid::of(crate::DAG_PB, &data).multihash();
                    let cid = Cid::from_bytes(&hash).map_err(|_| BadMessage("block"))?;
                    message.blocks.push((cid, data));
                }
                (3, Value::Bytes(block)) => message.decode_block(block)?,
                (4, Value::Bytes(presence)) => message.decode_presence(presence)?,
                (5, Value::Number(bytes)) => message.pending_bytes = bytes,
                _ => {}
            }
        }
        Ok(message)
    }

    fn decode_wantlist(&mut self, bytes: Bytes) -> Result<(), BadMessage> {
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(entry)) => {
                    if let Some(entry) = decode_entry(entry)? {
                        self.wants.push(entry);
                    }
                }
                (2, Value::Number(full)) => self.full = full != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn decode_block(&mut self, bytes: Bytes) -> Result<(), BadMessage> {
        let (mut prefix, mut data) = (Bytes::new(), Bytes::new());
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(value)) => prefix = value,
                (2, Value::Bytes(value)) => data = value,
                _ => {}
            }
        }
        if let Some(cid) = Cid::of_prefixed(&prefix, &data) {
            self.blocks.push((cid, data));
        }
        Ok(())
    }

    fn decode_presence(&mut self, bytes: Bytes) -> Result<(), BadMessage> {
        let (mut cid, mut presence) = (Bytes::new(), Presence::Have);
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(value)) => cid = value,
                (2, Value::Number(1)) => presence = Presence::DontHave,
                _ => {}
            }
        }
        if let Ok(cid) = Cid::from_bytes(&cid) {
            self.presences.push((cid, presence));
        }
        Ok(())
    }
}

fn decode_entry(bytes: Bytes) -> Result<Option<Entry>, BadMessage> {
    let (mut cid, mut priority, mut cancel, mut have, mut send_dont_have) =
        (Bytes::new(), 1, false, false, false);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(value)) => cid = value,
            (2, Value::Number(value)) => priority = i32::try_from(value).unwrap_or(i32::MAX),
            (3, Value::Number(value)) => cancel = value != 0,
            (4, Value::Number(value)) => have = value == 1,
            (5, Value::Number(value)) => send_dont_have = value != 0,
            _ => {}
        }
    }
    let want = match (cancel, have) {
        (true, _) => Want::Cancel,
        (false, true) => Want::Have,
        (false, false) => Want::Block,
    };
    Ok(Cid::from_bytes(&cid).ok().map(|cid| Entry { cid, want, priority, send_dont_have }))
}

/// Appends a number in groups of seven bits.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Takes a number in groups of seven bits from the front.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(number);
        }
    }
    None
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Zero is what a field that is not there means.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
    if number > 0 {
        put_varint(out, field << 3);
        put_varint(out, number);
    }
}

/// What a field of bytes with a number below 16 takes.
fn field_len(len: usize) -> usize {
    let mut length = Vec::with_capacity(5);
    put_varint(&mut length, len as u64);
    1 + length.len() + len
}

/// A field's content.
pub(crate) enum Value {
    Number(u64),
    Bytes(Bytes),
    /// Fixed-size numbers, which no message here has.
    Other,
}

/// The fields of a message, in their order.
pub(crate) struct Fields(pub(crate) Bytes);

impl Fields {
    fn take(&mut self) -> Option<(u64, Value)> {
        let mut rest: &[u8] = &self.0;
        let tag = take_varint(&mut rest)?;
        let (value, used) = match tag & 7 {
            0 => (Value::Number(take_varint(&mut rest)?), self.0.len() - rest.len()),
            2 => {
                let len = usize::try_from(take_varint(&mut rest)?).ok()?;
                let start = self.0.len() - rest.len();
                let end = start.checked_add(len).filter(|end| *end <= self.0.len())?;
                (Value::Bytes(self.0.slice(start..end)), end)
            }
            kind @ (1 | 5) => {
                let end = self.0.len() - rest.len() + if kind == 1 { 8 } else { 4 };
                (end <= self.0.len()).then_some((Value::Other, end))?
            }
            _ => return None,
        };
        let _ = self.0.split_to(used);
        Some((tag >> 3, value))
    }
}

impl Iterator for Fields {
    type Item = Result<(u64, Value), BadMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.take().ok_or(BadMessage("field"));
        if taken.is_err() {
            self.0.clear();
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RAW;

    fn entry(want: Want) -> Entry {
        let cid = Cid::of(RAW, b"wanted");
        Entry { cid, want, priority: 7, send_dont_have: want == Want::Have }
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let data = Bytes::from_static(b"some data");
        let message = Message {
            wants: vec![entry(Want::Have), entry(Want::Block), entry(Want::Cancel)],
            full: true,
            blocks: vec![(Cid::of(RAW, &data), data)],
            presences: vec![
                (Cid::of(RAW, b"a"), Presence::Have),
                (Cid::of(RAW, b"b"), Presence::DontHave),
            ],
            pending_bytes: 300,
        };
        assert_eq!(Message::decode(&message.encode().into()), Ok(message));
        assert!(Message::decode(&Bytes::new()).unwrap().is_empty());
    }

    /// Written out by the field numbers of the specification, which other
    /// implementations read.
    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let cid = Cid::of(RAW, b"wanted");
        let wants = vec![Entry { cid, want: Want::Have, priority: 1, send_dont_have: true }];
        let message = Message { wants, ..Message::default() };
        let mut expected = vec![0x0a, 46, 0x0a, 44, 0x0a, 36];
        expected.extend_from_slice(&cid.to_bytes());
        expected.extend_from_slice(&[0x10, 1, 0x20, 1, 0x28, 1]);
        assert_eq!(message.encode(), expected);

        let blocks = vec![(Cid::of(RAW, b"hi"), Bytes::from_static(b"hi"))];
        let message = Message { blocks, ..Message::default() };
        let block = [0x1a, 10, 0x0a, 4, 1, 0x55, 0x12, 0x20, 0x12, 2, b'h', b'i'];
        assert_eq!(message.encode(), block);

        let presences = vec![(cid, Presence::DontHave)];
        let message = Message { presences, ..Message::default() };
        let mut expected = vec![0x22, 40, 0x0a, 36];
        expected.extend_from_slice(&cid.to_bytes());
        expected.extend_from_slice(&[0x10, 1]);
        assert_eq!(message.encode(), expected);
    }

    #[test]
    fn unknown_fields_are_skipped_and_broken_ones_told() {
        let mut bytes = vec![0x7a, 1, 0, 0x3d, 1, 2, 3, 4];
        bytes.extend_from_slice(&Message { full: true, ..Message::default() }.encode());
        assert!(Message::decode(&bytes.into()).unwrap().full);
        for broken in [&[0x0a, 5, 1][..], &[0x0b], &[0xff], &[0x3d, 1]] {
            let err = Message::decode(&Bytes::copy_from_slice(broken)).unwrap_err();
            assert_eq!(err, BadMessage("field"));
        }
    }

    #[test]
    fn blocks_of_version_1_0_are_read() {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 2, b"old");
        let message = Message::decode(&bytes.into()).unwrap();
        let (cid, data) = &message.blocks[0];
        assert_eq!((cid.digest(), &data[..]), (Cid::of(RAW, b"old").digest(), &b"old"[..]));
        assert_eq!(cid.to_bytes().len(), 34);
    }
}
