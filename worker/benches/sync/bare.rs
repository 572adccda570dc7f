//! The least a barrier over TCP can cost here: a server that knows nothing but how to answer.
//!
//! It speaks just enough of the protocol for the load's barrier, keeps no state beyond the sockets that wait, parses
//! nothing and stores nothing. What it needs is the price of the kernel's TCP; what the gateway needs beyond
//! that is the gateway's own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use anyhow::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const LISTENER: u64 = u64::MAX;
const OPENED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
const SIGNALLED: &str =
    r#"{"id":"1","error":"","publish":null,"subscribe":"","signal_entry":{"seq":1}}"#;
const PASSED: &str = r#"{"id":"2","error":"","publish":null,"subscribe":"","signal_entry":null}"#;

/// Serves until it is killed.
pub(crate) fn serve(listener: &TcpListener) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut events = vec![EpollEvent::empty(); 1024];
    let mut sockets: Vec<Option<TcpStream>> = Vec::new();
    let mut waiting = Vec::new();
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            if event.data() == LISTENER {
                accept(listener, &epoll, &mut sockets)?;
                continue;
            }
            let number = usize::try_from(event.data())?;
            if let Some(target) = answer(&mut sockets[number])? {
                waiting.push(number);
                if waiting.len() == target {
                    for number in waiting.drain(..) {
                        say(&mut sockets[number], PASSED)?;
                    }
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &Epoll,
    sockets: &mut Vec<Option<TcpStream>>,
) -> Result<()> {
    let (stream, _) = match listener.accept() {
        Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(()),
        accepted => accepted?,
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(stream.as_fd(), EpollEvent::new(flags, sockets.len() as u64))?;
    sockets.push(Some(stream));
    Ok(())
}

/// Reads once. Returns the target of the barrier that was asked for.
fn answer(socket: &mut Option<TcpStream>) -> Result<Option<usize>> {
    let Some(stream) = socket else { return Ok(None) };
    let mut buffer = [0; 4096];
    let count = match stream.read(&mut buffer) {
        Ok(count) => count,
        Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    if count == 0 {
        *socket = None;
    } else if buffer.starts_with(b"GET") {
        stream.write_all(OPENED)?;
    } else if let Some(target) = target(&buffer[..count]) {
        return Ok(Some(target));
    } else {
        say(socket, SIGNALLED)?;
    }
    Ok(None)
}

/// The number at the end of a frame whose text ends in `"target":N}}`.
fn target(frame: &[u8]) -> Option<usize> {
    let digits = frame.strip_suffix(b"}}")?;
    let start = digits.iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
    std::str::from_utf8(&digits[start..]).ok()?.parse().ok()
}

fn say(socket: &mut Option<TcpStream>, text: &str) -> Result<()> {
    let Some(stream) = socket else { return Ok(()) };
    let mut frame = vec![0x81, u8::try_from(text.len())?];
    frame.extend_from_slice(text.as_bytes());
    Ok(stream.write_all(&frame)?)
}
