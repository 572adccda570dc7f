//! What clients say and hear: the Testground protocol over WebSocket, or Redis.

use anyhow::{Result, bail};

/// Prefix of every key of the benchmark's run.
pub(crate) const PREFIX: &str = "run:c8k3vmlrirtj2p8lcec0:plan:bench:case:sync:";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Gateway,
    Redis,
}

/// What a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The answer to a signal, a publish, a count.
    Number(u64),
    /// A barrier has been reached.
    Passed,
    /// A message of a topic.
    Item,
    /// Anything else.
    Other,
}

impl Wire {
    pub(crate) fn opening(self) -> &'static [u8] {
        match self {
            Self::Gateway => b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            // Version 3 of the protocol lets a connection subscribe and command at once.
            Self::Redis => b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        }
    }

    pub(crate) fn signal(self, state: &str) -> Vec<u8> {
        match self {
            Self::Gateway => frame(&format!(
                r#"{{"id":"1","is_cancel":false,"signal_entry":{{"state":"{PREFIX}states:{state}"}}}}"#
            )),
            Self::Redis => command(&["INCR", state]),
        }
    }

    pub(crate) fn barrier(self, state: &str, target: usize) -> Vec<u8> {
        match self {
            Self::Gateway => frame(&format!(
                r#"{{"id":"2","is_cancel":false,"barrier":{{"state":"{PREFIX}states:{state}","target":{target}}}}}"#
            )),
            Self::Redis => command(&["GET", state]),
        }
    }

    /// Appends to a topic that keeps its messages.
    pub(crate) fn publish(self, topic: &str, payload: &str) -> Vec<u8> {
        match self {
            Self::Gateway => frame(&format!(
                r#"{{"id":"3","is_cancel":false,"publish":{{"topic":"{PREFIX}topics:{topic}","payload":"{payload}"}}}}"#
            )),
            Self::Redis => command(&["RPUSH", topic, payload]),
        }
    }

    /// Tells all subscribers. Redis keeps nothing then.
    pub(crate) fn tell(self, topic: &str, payload: &str) -> Vec<u8> {
        match self {
            Self::Gateway => self.publish(topic, payload),
            Self::Redis => command(&["PUBLISH", topic, payload]),
        }
    }

    pub(crate) fn subscribe(self, topic: &str) -> Vec<u8> {
        match self {
            Self::Gateway => frame(&format!(
                r#"{{"id":"4","is_cancel":false,"subscribe":{{"topic":"{PREFIX}topics:{topic}"}}}}"#
            )),
            Self::Redis => command(&["SUBSCRIBE", topic]),
        }
    }

    /// Tells what is complete in `input` and returns how many bytes that was.
    pub(crate) fn read(self, input: &[u8], tell: &mut impl FnMut(Event)) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let found = match self {
                Self::Gateway => read_frame(rest),
                Self::Redis => read_reply(rest)?,
            };
            let Some((event, len)) = found else { return Ok(used) };
            tell(event);
            used += len;
        }
    }
}

fn frame(text: &str) -> Vec<u8> {
    let mut out = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(short @ 0..126) => out.push(0x80 | short),
        _ => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    // A mask of zeros is as good as any to the receiver, who unmasks all the same.
    out.extend([0; 4]);
    out.extend_from_slice(text.as_bytes());
    out
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}

fn read_frame(input: &[u8]) -> Option<(Event, usize)> {
    let (len, start) = match *input.get(1)? {
        126 => (usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)), 4),
        short => (usize::from(short), 2),
    };
    let text = input.get(start..start + len)?;
    // All ids have one digit.
    let head = r#"{"id":"1","error":"","publish":"#.len();
    let rest = text.get(head..).unwrap_or_default();
    let event = if let Some(seq) = rest.strip_prefix(br#"{"seq":"#) {
        Event::Number(digits(seq))
    } else if let Some(rest) = rest.strip_prefix(br#"null,"subscribe":"#) {
        match rest.strip_prefix(br#""","signal_entry":"#) {
            None => Event::Item,
            Some(b"null}") => Event::Passed,
            Some(rest) => Event::Number(digits(rest.get(7..).unwrap_or_default())),
        }
    } else {
        Event::Other
    };
    Some((event, start + len))
}

fn digits(text: &[u8]) -> u64 {
    text.iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, byte| number * 10 + u64::from(byte - b'0'))
}

/// Integers, bulk strings that hold one, and pushes of three bulk strings.
fn read_reply(input: &[u8]) -> Result<Option<(Event, usize)>> {
    let Some((line, len)) = line(input) else { return Ok(None) };
    let number = digits(&line[1..]);
    match line[0] {
        b':' => Ok(Some((Event::Number(number), len))),
        b'+' | b'_' => Ok(Some((Event::Other, len))),
        b'$' => {
            let end = len + usize::try_from(number)? + 2;
            let event = input.get(len..end).map(|text| (Event::Number(digits(text)), end));
            Ok(event)
        }
        b'>' => {
            let mut used = len;
            let mut kind = Event::Other;
            for part in 0..number {
                let Some((line, len)) = line_at(input, used) else { return Ok(None) };
                let mut next = used + len;
                if line[0] == b'$' {
                    let size = usize::try_from(digits(&line[1..]))?;
                    let Some(text) = input.get(next..next + size + 2) else { return Ok(None) };
                    if part == 0 && text.starts_with(b"message") {
                        kind = Event::Item;
                    }
                    next += size + 2;
                }
                used = next;
            }
            Ok(Some((kind, used)))
        }
        _ => bail!("redis says {}", String::from_utf8_lossy(line)),
    }
}

fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    Some((&input[..end.saturating_sub(1)], end + 1))
}

fn line_at(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    line(input.get(at..)?)
}
