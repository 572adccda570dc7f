//! Carries one TCP connection of an instance to a host outside.
//!
//! The connection to the host is made first and the instance's is taken only then, so an instance hears a refusal
//! as a refusal and silence as silence.

use std::io::{self, ErrorKind};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::Shutdown;
use smoltcp::socket::tcp::State;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::flow::{Event, Inner};
use super::frames::Refusal;
use super::stack::Stack;

/// How long a host may take to answer. An instance gives up earlier or tries again.
const CONNECT: Duration = Duration::from_secs(30);
/// A flow without anything to be polled for is looked at so often.
const IDLE: Duration = Duration::from_secs(60);
/// Packets taken at once before the others have their turn.
const BATCH: usize = 32;

/// What became of the connection to the host.
enum Dialed {
    Connected(TcpStream),
    Refused,
    Unreachable,
    Silence,
    Revoked,
}

/// Carries the connection that `opening` opens, to its end.
pub(super) async fn carry(mut inner: Inner, to: SocketAddrV4, opening: Box<[u8]>) {
    match dial(&mut inner, to).await {
        Dialed::Connected(host) => {
            let mut stack = Stack::new(*to.ip(), inner.now());
            stack.listen(to);
            stack.push(opening);
            let (host_ended, shut, aborted) = (false, false, false);
            Carried { inner, to, stack, host, host_ended, shut, aborted }.run().await;
        }
        // A stack that does not listen answers as a host does whose port is closed.
        Dialed::Refused => {
            let mut stack = Stack::new(*to.ip(), inner.now());
            stack.push(opening);
            stack.poll(inner.now());
            while let Some(bytes) = stack.pop() {
                inner.send_back(bytes);
                inner.settle().await;
            }
        }
        Dialed::Unreachable => inner.refuse(&opening, Refusal::Unreachable),
        Dialed::Revoked => inner.refuse(&opening, Refusal::Prohibited),
        Dialed::Silence => {}
    }
}

async fn dial(inner: &mut Inner, to: SocketAddrV4) -> Dialed {
    let connected = tokio::select! {
        connected = timeout(CONNECT, TcpStream::connect(to)) => connected,
        () = inner.revoked(*to.ip()) => return Dialed::Revoked,
    };
    match connected {
        Ok(Ok(host)) => {
            // Without it small answers are only slower.
            let _ = host.set_nodelay(true);
            Dialed::Connected(host)
        }
        Ok(Err(err)) if err.kind() == ErrorKind::ConnectionRefused => Dialed::Refused,
        Ok(Err(err)) if err.kind() == ErrorKind::TimedOut => Dialed::Silence,
        Ok(Err(_)) => Dialed::Unreachable,
        Err(_) => Dialed::Silence,
    }
}

/// A connection that is carried.
struct Carried {
    inner: Inner,
    to: SocketAddrV4,
    stack: Stack,
    host: TcpStream,
    /// The host sends nothing more.
    host_ended: bool,
    /// The host was told that the instance sends nothing more.
    shut: bool,
    /// What is left of the stream goes nowhere.
    aborted: bool,
}

impl Carried {
    async fn run(mut self) {
        loop {
            self.stack.poll(self.inner.now());
            if !self.aborted && self.exchange().is_err() {
                self.abort();
            }
            self.stack.poll(self.inner.now());
            while self.inner.is_free() {
                let Some(bytes) = self.stack.pop() else { break };
                self.inner.send_back(bytes);
            }
            if self.stack.is_over(self.aborted) && self.inner.is_free() {
                return;
            }
            self.wait().await;
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self) {
        let now = self.inner.now();
        // What the stack would send has to wait for its turn first.
        let delay = if self.inner.is_free() { self.stack.next_poll(now) } else { None };
        let socket = self.stack.socket();
        let (reads, writes) = (!self.host_ended && socket.can_send(), socket.can_recv());
        tokio::select! {
            // A revocation comes before what the host has sent.
            biased;
            event = self.inner.event() => self.on(event),
            _ = self.host.readable(), if reads => {}
            _ = self.host.writable(), if writes => {}
            () = sleep(delay.unwrap_or(IDLE)) => {}
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Packet(bytes) => self.take(bytes),
            Event::Freed => {}
            Event::Changed if self.inner.may_reach(*self.to.ip()).is_ok() => {}
            Event::Changed | Event::Over => self.abort(),
        }
    }

    fn abort(&mut self) {
        self.aborted = true;
        self.stack.socket().abort();
    }

    fn take(&mut self, first: Box<[u8]>) {
        self.stack.push(first);
        for _ in 1..BATCH {
            let Some(more) = self.inner.at_once() else { return };
            self.stack.push(more);
        }
    }

    /// Moves bytes both ways as far as they go. An error is the end of the connection to the host.
    fn exchange(&mut self) -> io::Result<()> {
        let Self { stack, host, .. } = self;
        let socket = stack.socket();
        while socket.can_recv() {
            let moved = socket.recv(|bytes| moved(host.try_write(bytes)));
            if moved.map_err(io::Error::other)?? == 0 {
                break;
            }
        }
        let asked_to_end = !socket.may_recv() && !socket.can_recv();
        let connected = !matches!(socket.state(), State::Listen | State::SynReceived);
        if asked_to_end && connected && !self.shut {
            self.shut = true;
            nix::sys::socket::shutdown(host.as_raw_fd(), Shutdown::Write)?;
        }
        while !self.host_ended && socket.can_send() {
            let mut ended = false;
            let moved = socket.send(|room| {
                let read = host.try_read(room);
                ended = matches!(read, Ok(0)) && !room.is_empty();
                moved(read)
            });
            if ended {
                self.host_ended = true;
                socket.close();
            } else if moved.map_err(io::Error::other)?? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// How many bytes have moved; none when there is no room or nothing there.
fn moved(done: io::Result<usize>) -> (usize, io::Result<usize>) {
    match done {
        Ok(count) => (count, Ok(count)),
        Err(err) if err.kind() == ErrorKind::WouldBlock => (0, Ok(0)),
        Err(err) => (0, Err(err)),
    }
}
