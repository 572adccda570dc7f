//! The server's half of WebSocket (RFC 6455): the handshake and frames, without any IO.
//!
//! This is our own and not a library because ten thousand idle connections must not hold a read buffer each (the
//! usual crates keep 4 to 128 KiB per connection), because a message is parsed in the buffer it was read into,
//! and because many messages go out in one write. Extensions and subprotocols are declined, any path, `Host` and
//! `Origin` will do.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

/// Largest message a client may send. Above the limit of a payload, so that its sender gets an answer and not a
/// closed connection.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest request head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// What RFC 6455 appends to a client's key.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a connection ends, as a close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    Normal = 1000,
    GoingAway = 1001,
    Protocol = 1002,
    InvalidData = 1007,
    TooLarge = 1009,
}

/// What the bytes of a client's opening request are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Not all of it has arrived.
    Incomplete,
    /// It takes `len` bytes and is answered with `response`. A client that may come back names its session.
    Accepted { len: usize, response: Vec<u8>, session: Option<u64> },
    /// It is no WebSocket request; answer and close.
    Refused { response: &'static [u8] },
}

/// With this header a client says that it may lose its connection and come back.
const SESSION_HEADER: &[u8] = b"x-groundswell-session";
/// The answer to it.
const KNOWS_SESSIONS: &str = "X-Groundswell: 1\r\n";

const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Reads a client's opening request.
pub(crate) fn handshake(input: &[u8]) -> Handshake {
    let Some(len) = input.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) else {
        if input.len() > MAX_HEAD_BYTES {
            return Handshake::Refused { response: BAD_REQUEST };
        }
        return Handshake::Incomplete;
    };
    let Some(key) = websocket_key(&input[..len]) else {
        return Handshake::Refused { response: BAD_REQUEST };
    };
    let accept = BASE64_STANDARD.encode(Sha1::digest([key, ACCEPT_SUFFIX.as_bytes()].concat()));
    let session = session(&input[..len]);
    // Only to those who ask: for other clients this is a service like any other.
    let known = if session.is_some() { KNOWS_SESSIONS } else { "" };
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         {known}Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Handshake::Accepted { len, response: response.into_bytes(), session }
}

fn websocket_key(head: &[u8]) -> Option<&[u8]> {
    if !head.starts_with(b"GET ") {
        return None;
    }
    header(head, b"sec-websocket-key")
}

/// The session a client names, a hexadecimal number of 64 bits.
fn session(head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(header(head, SESSION_HEADER)?).ok()?;
    u64::from_str_radix(text, 16).ok()
}

fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon].eq_ignore_ascii_case(name).then(|| line[colon + 1..].trim_ascii())
    })
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Continuation,
    Data,
    Close,
    Ping,
    Pong,
}

/// The head of a frame, and how much of the input the whole frame takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) last: bool,
    start: usize,
    pub(crate) len: usize,
}

/// Finds the first frame of `input` and unmasks its payload in place. `None` until it is complete.
pub(crate) fn frame(input: &mut [u8]) -> Result<Option<Frame>, CloseCode> {
    let Some([first, second]) = input.first_chunk::<2>().copied() else { return Ok(None) };
    let kind = match first & 0x0f {
        0 => Kind::Continuation,
        1 | 2 => Kind::Data,
        8 => Kind::Close,
        9 => Kind::Ping,
        10 => Kind::Pong,
        _ => return Err(CloseCode::Protocol),
    };
    let last = first & 0x80 != 0;
    let control = matches!(kind, Kind::Close | Kind::Ping | Kind::Pong);
    let short = second & 0x7f;
    // A client must mask, no extension was agreed on, and control frames are short and whole.
    if first & 0x70 != 0 || second & 0x80 == 0 || (control && (!last || short > 125)) {
        return Err(CloseCode::Protocol);
    }
    let Some((payload, head)) = payload_len(input, short) else { return Ok(None) };
    if payload > MAX_MESSAGE_BYTES {
        return Err(CloseCode::TooLarge);
    }
    let start = head + 4;
    let len = start + payload;
    if input.len() < len {
        return Ok(None);
    }
    let mask = [input[head], input[head + 1], input[head + 2], input[head + 3]];
    unmask(&mut input[start..len], mask);
    Ok(Some(Frame { kind, last, start, len }))
}

impl Frame {
    /// The frame's payload within the input it was found in.
    pub(crate) fn payload<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.start..self.len]
    }
}

fn payload_len(input: &[u8], short: u8) -> Option<(usize, usize)> {
    match short {
        126 => {
            let bytes: [u8; 2] = input.get(2..4)?.try_into().ok()?;
            Some((usize::from(u16::from_be_bytes(bytes)), 4))
        }
        127 => {
            let bytes: [u8; 8] = input.get(2..10)?.try_into().ok()?;
            Some((usize::try_from(u64::from_be_bytes(bytes)).unwrap_or(usize::MAX), 10))
        }
        len => Some((usize::from(len), 2)),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Appends the head of an unmasked text frame.
pub(crate) fn text_head(out: &mut Vec<u8>, len: usize) {
    head(out, 0x81, len);
}

/// Appends a pong that echoes a ping.
pub(crate) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    head(out, 0x8a, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a close frame.
pub(crate) fn close(out: &mut Vec<u8>, code: CloseCode) {
    head(out, 0x88, 2);
    out.extend_from_slice(&(code as u16).to_be_bytes());
}

fn head(out: &mut Vec<u8>, first: u8, len: usize) {
    out.push(first);
    if let Ok(short @ 0..126) = u8::try_from(len) {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(len) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        head(&mut out, first, payload.len());
        out[1] |= 0x80;
        let mask = [1, 2, 3, 4];
        out.extend_from_slice(&mask);
        let start = out.len();
        out.extend_from_slice(payload);
        unmask(&mut out[start..], mask);
        out
    }

    #[test]
    fn the_rust_crates_odd_request_is_accepted() {
        // The key and the answer are the example of RFC 6455.
        let request = b"GET / HTTP/1.1\r\nHost: ...\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nrest";
        let Handshake::Accepted { len, response, session } = handshake(request) else {
            panic!("not accepted");
        };
        assert_eq!(&request[len..], b"rest");
        let response = String::from_utf8(response).expect("text");
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!response.to_lowercase().contains("extensions"));
        assert!(session.is_none() && !response.to_lowercase().contains("groundswell"));
    }

    #[test]
    fn a_client_that_names_its_session_hears_that_it_may_come_back() {
        let request = |session: &str| {
            format!(
                "GET / HTTP/1.1\r\nsec-websocket-key: k\r\nX-Groundswell-Session: {session}\r\n\r\n"
            )
        };
        let named = handshake(request("00000000000000ff").as_bytes());
        let Handshake::Accepted { response, session: Some(0xff), .. } = named else {
            panic!("no session in {named:?}");
        };
        assert!(String::from_utf8(response).expect("text").contains("\r\nX-Groundswell: 1\r\n"));
        let odd = handshake(request("not a number").as_bytes());
        assert!(matches!(odd, Handshake::Accepted { session: None, .. }), "{odd:?}");
    }

    #[test]
    fn other_requests_are_refused_and_half_a_request_is_awaited() {
        assert_eq!(handshake(b"GET / HTTP/1.1\r\nHost: x\r\n"), Handshake::Incomplete);
        assert!(matches!(handshake(b"GET / HTTP/1.1\r\n\r\n"), Handshake::Refused { .. }));
        assert!(matches!(handshake(&[b'x'; 20_000]), Handshake::Refused { .. }));
    }

    #[test]
    fn frames_of_every_length_come_back() {
        for len in [0, 1, 7, 125, 126, 65_535, 65_536, 300_000] {
            let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
            let mut input = masked(0x82, &payload);
            for cut in [0, 1, 2, 5, input.len() - 1] {
                assert_eq!(frame(&mut input[..cut]), Ok(None), "{len} cut at {cut}");
            }
            input.push(0x81);
            let found = frame(&mut input).expect("a frame").expect("complete");
            assert_eq!(found.payload(&input), payload);
            assert_eq!(found.len, input.len() - 1);
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        assert_eq!(frame(&mut [0x81, 0x01, b'x']), Err(CloseCode::Protocol), "not masked");
        assert_eq!(frame(&mut masked(0xc1, b"x")), Err(CloseCode::Protocol), "compressed");
        assert_eq!(frame(&mut masked(0x83, b"x")), Err(CloseCode::Protocol), "unknown");
        assert_eq!(frame(&mut masked(0x09, b"x")), Err(CloseCode::Protocol), "split ping");
        let mut huge = [0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(frame(&mut huge), Err(CloseCode::TooLarge));
    }
}
