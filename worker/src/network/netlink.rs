//! Asks the kernel about the interfaces, addresses, routes and queues of one network namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

/// Room for one part of an answer; the kernel makes none larger.
const PART: usize = 64 << 10;

/// A routing socket of one network namespace. It works from outside the namespace, and keeps it alive.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl From<OwnedFd> for Netlink {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A routing socket of the calling thread's namespace.
pub(super) fn routing_socket() -> io::Result<OwnedFd> {
    let route = SockProtocol::NetlinkRoute;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?)
}

/// The network namespace a socket was made in.
#[expect(unsafe_code, reason = "SIOCGSKNS has no safe wrapper")]
pub(super) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the call takes nothing else.
    let namespace = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if namespace < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

impl Netlink {
    /// Asks for one thing and waits for the kernel's answer.
    pub(super) fn ask(&self, what: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(what, NLM_F_ACK | flags)?;
        self.parts(|_| {})
    }

    /// Asks for one thing and returns it.
    pub(super) fn get(&self, what: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let mut found = None;
        self.send(what, NLM_F_ACK)?;
        self.parts(|part| found = Some(part))?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Asks for all there are of something.
    pub(super) fn dump(&self, what: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        self.send(what, NLM_F_DUMP)?;
        self.parts(|part| found.push(part))?;
        Ok(found)
    }

    /// The network namespace it speaks about.
    pub(super) fn namespace(&self) -> io::Result<OwnedFd> {
        namespace_of(self.socket.as_fd())
    }

    fn send(&self, what: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(what);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        nix::sys::socket::send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads the parts of an answer up to its end, which may be an error.
    fn parts(&self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        let mut buffer = vec![0; PART];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let part = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let taken = usize::try_from(part.header.length).map_err(io::Error::other)?;
                rest = rest.get(taken.next_multiple_of(4)..).unwrap_or_default();
                if let NetlinkPayload::Error(error) = &part.payload
                    && error.code.is_some()
                {
                    return Err(error.to_io());
                }
                if matches!(part.payload, NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) {
                    return Ok(());
                }
                if let NetlinkPayload::InnerMessage(message) = part.payload {
                    each(message);
                }
            }
        }
    }
}
