//! What messages look like: who sent which when, and padding.

/// Bytes that are not padding.
pub(crate) const HEADER: usize = 20;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// Which publisher sent it: its instance's number.
    pub(crate) publisher: u32,
    /// Which of its messages it is. Those of the warm-up count from the top.
    pub(crate) number: u32,
    /// When it was sent, in nanoseconds since 1970.
    pub(crate) sent_ns: u64,
    /// How long it is.
    pub(crate) bytes: u32,
}

/// Messages with this number or a higher one belong to the warm-up.
pub(crate) const WARM: u32 = 1 << 31;

impl Message {
    /// The message in its form on the wire.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut data = vec![0; HEADER.max(self.bytes as usize)];
        data[..4].copy_from_slice(&self.publisher.to_be_bytes());
        data[4..8].copy_from_slice(&self.number.to_be_bytes());
        data[8..16].copy_from_slice(&self.sent_ns.to_be_bytes());
        data[16..20].copy_from_slice(&self.bytes.to_be_bytes());
        data
    }

    /// Reads a message; nothing if it is none of this plan, or is cut.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?));
        let bytes = word(16)?;
        let message = Self {
            publisher: word(0)?,
            number: word(4)?,
            sent_ns: u64::from_be_bytes(data.get(8..16)?.try_into().ok()?),
            bytes,
        };
        (data.len() == bytes as usize).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_not_when_it_is_cut() {
        let message = Message { publisher: 7, number: 9, sent_ns: 1_700_000_000_123, bytes: 300 };
        let data = message.encode();
        assert_eq!(data.len(), 300);
        assert_eq!(Message::decode(&data), Some(message));
        assert_eq!(Message::decode(&data[..299]), None);
        assert_eq!(Message::decode(b"short"), None);
    }
}
