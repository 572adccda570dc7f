//! Carries the datagrams of one port of an instance, or the pings of one identifier.
//!
//! All go out through one socket, so a port of the instance is one port outside for every host. What comes back
//! is passed on from hosts the instance has sent to, and from nobody else.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::flow::{Event, Inner};
use super::frames::{self, Cargo, Refusal};

/// How long a port is kept that nothing passes.
const IDLE: Duration = Duration::from_secs(60);
/// Hosts a port may talk to.
const PEERS: usize = 1024;
/// The largest datagram there is.
const LARGEST: usize = 65_536;

/// Whose packets they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    Ping,
}

/// Carries them until none has passed for a while.
pub(super) async fn carry(inner: Inner, kind: Kind, from: SocketAddrV4, first: Box<[u8]>) {
    match open(kind) {
        Ok(host) => {
            let until = Instant::now() + IDLE;
            let mut carried = Carried { inner, kind, from, host, peers: HashMap::new(), until };
            carried.pass(&first);
            carried.run().await;
        }
        // A host may not let this process ping.
        Err(_) => inner.refuse(&first, Refusal::Unreachable),
    }
}

fn open(kind: Kind) -> io::Result<UdpSocket> {
    let any = (Ipv4Addr::UNSPECIFIED, 0);
    let socket = match kind {
        Kind::Udp => std::net::UdpSocket::bind(any)?,
        Kind::Ping => {
            let flags = SockFlag::SOCK_CLOEXEC;
            let pings: OwnedFd =
                socket(AddressFamily::Inet, SockType::Datagram, flags, SockProtocol::Icmp)?;
            pings.into()
        }
    };
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

struct Carried {
    inner: Inner,
    kind: Kind,
    from: SocketAddrV4,
    host: UdpSocket,
    /// Whom it has sent to, and whether it may.
    peers: HashMap<SocketAddrV4, Result<(), Refusal>>,
    until: Instant,
}

impl Carried {
    async fn run(&mut self) {
        let mut buffer = vec![0; LARGEST];
        loop {
            let free = self.inner.is_free();
            tokio::select! {
                event = self.inner.event() => match event {
                    Event::Packet(bytes) => self.pass(&bytes),
                    Event::Freed => {}
                    Event::Changed => self.peers.clear(),
                    Event::Over => return,
                },
                received = self.host.recv_from(&mut buffer), if free => {
                    // An error is about a packet that was sent before, not about the socket.
                    if let Ok((length, SocketAddr::V4(peer))) = received {
                        self.back(peer, &buffer[..length]);
                    }
                }
                () = sleep_until(self.until) => return,
            }
        }
    }

    /// Passes a packet of the instance on.
    fn pass(&mut self, packet: &[u8]) {
        let (to, (start, end)) = match frames::cargo(packet) {
            Some(Cargo::Udp { to, payload, .. }) => (to, payload),
            Some(Cargo::Ping { to, message, .. }) => (SocketAddrV4::new(to, 0), message),
            Some(Cargo::Tcp { .. }) | None => return,
        };
        if self.peers.len() >= PEERS {
            self.peers.clear();
        }
        let may = match self.peers.get(&to) {
            Some(may) => *may,
            None => {
                let may = self.inner.may_reach(*to.ip());
                self.peers.insert(to, may);
                may
            }
        };
        if let Err(why) = may {
            return self.inner.refuse(packet, why);
        }
        self.until = Instant::now() + IDLE;
        // A full buffer of this host loses it, as any buffer on the way may. The runtime is not asked: it does not
        // know yet that a new socket is ready.
        let (fd, to) = (self.host.as_raw_fd(), SockaddrIn::from(to));
        let _ = sendto(fd, &packet[start..end], &to, MsgFlags::MSG_DONTWAIT);
    }

    /// Passes a packet from outside to the instance.
    fn back(&mut self, peer: SocketAddrV4, bytes: &[u8]) {
        if self.peers.get(&peer) != Some(&Ok(())) {
            return;
        }
        let packet = match self.kind {
            Kind::Udp => frames::datagram(peer, self.from, bytes),
            Kind::Ping => frames::ping_reply(*peer.ip(), self.from, bytes),
        };
        if let Some(packet) = packet {
            self.until = Instant::now() + IDLE;
            self.inner.send_back(packet);
        }
    }
}
