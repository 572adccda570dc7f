//! Sockets of instances that talk to each other over the data network.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::Instant;

/// What must happen happens within this.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// What must not happen has not happened within this.
pub(crate) const NEVER: Duration = Duration::from_millis(300);
pub(crate) const PORT: u16 = 4001;

pub(crate) fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(16, 0, 0, last)
}

/// Sends `words` and says who they came from at the other end.
pub(crate) fn send(
    from: &UdpSocket,
    to: Ipv4Addr,
    receiver: &UdpSocket,
    words: &[u8],
) -> SocketAddr {
    from.send_to(words, (to, PORT)).expect("sent");
    let mut buffer = [0; 2048];
    let (length, source) = receiver.recv_from(&mut buffer).expect("received in time");
    assert_eq!(&buffer[..length], words);
    source
}

/// Asserts that nothing arrives.
pub(crate) fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(NEVER)).expect("a limit");
    let heard = socket.recv_from(&mut [0; 2048]);
    assert!(matches!(&heard, Err(err) if err.kind() == ErrorKind::WouldBlock), "{heard:?}");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
}

/// The shortest of five round trips, so that a busy machine does not count.
pub(crate) fn round_trip(one: &UdpSocket, two: &UdpSocket) -> Duration {
    let trip = || {
        let start = Instant::now();
        send(one, at(3), two, b"ping");
        send(two, at(2), one, b"pong");
        start.elapsed()
    };
    (0..5).map(|_| trip()).min().expect("five of them")
}
