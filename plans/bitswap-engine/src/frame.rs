//! Messages on a stream: each has its length before it.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::put_varint;

/// Other implementations send at most 4 MiB.
const MAX_FRAME: u64 = 8 << 20;
/// Frames above this size are about blocks.
const LARGE: u64 = 4 << 10;

/// A frame as it goes out.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len() + 5);
    put_varint(&mut frame, message.len() as u64);
    frame.extend_from_slice(message);
    frame
}

/// The next frame, or nothing at the stream's end; `heard` is called for each
/// part of a large one, because a block on a slow link is not silence.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    mut heard: impl FnMut(),
) -> io::Result<Option<Bytes>> {
    let Some(len) = read_length(stream).await? else { return Ok(None) };
    if len > MAX_FRAME {
        let text = format!("a message of {len} bytes, more than {MAX_FRAME}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut frame = BytesMut::with_capacity(len);
    while frame.len() < len {
        let missing = (len - frame.len()) as u64;
        if stream.take(missing).read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if len as u64 > LARGE {
            heard();
        }
    }
    Ok(Some(frame.freeze()))
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u64>> {
    let mut number = 0;
    for index in 0..5 {
        let byte = match stream.read_u8().await {
            Ok(byte) => byte,
            Err(err) if index == 0 && err.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            Err(err) => return Err(err),
        };
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(number));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a length of more than five bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_one_after_the_other() {
        let mut bytes = framed(&[7; 5000]);
        bytes.extend(framed(b""));
        let mut stream = &bytes[..];
        let mut heard = 0;
        let first = read_frame(&mut stream, || heard += 1).await.unwrap().unwrap();
        assert_eq!((first.len(), heard), (5000, 1));
        assert_eq!(read_frame(&mut stream, || heard += 1).await.unwrap().unwrap().len(), 0);
        assert_eq!(heard, 1, "a small frame may be about anything");
        assert_eq!(read_frame(&mut stream, || {}).await.unwrap(), None);
    }

    #[tokio::test]
    async fn half_a_frame_and_a_huge_one_are_errors() {
        let frame = framed(b"whole");
        let err = read_frame(&mut &frame[..3], || {}).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof);
        let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
        let err = read_frame(&mut &huge[..], || {}).await.unwrap_err().to_string();
        assert!(err.contains("4294967295 bytes"), "{err}");
    }
}
