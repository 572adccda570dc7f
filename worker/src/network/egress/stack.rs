//! The far end of one TCP connection of an instance, played in this process.
//!
//! A TCP/IP stack of its own with one socket: packets of the instance go in, packets for it come out, and between
//! them is the stream. It has the address of the host that the instance believes to talk to.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};
use smoltcp::wire::{HardwareAddress, IpCidr};

/// Largest packet for an instance.
const MTU: usize = 1500;
/// Bytes of a stream that may wait in each direction.
const BUFFER: usize = 128 << 10;
/// Packets for the instance that may wait before the stack makes no more.
const LEAVING: usize = 32;
/// How often an idle connection asks whether the instance is still there, and how long it may stay silent.
const KEEP_ALIVE: StackDuration = StackDuration::from_secs(30);
const SILENCE: StackDuration = StackDuration::from_secs(120);

/// One connection.
pub(super) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    ends: Packets,
}

/// The packets that go in and come out.
#[derive(Debug, Default)]
struct Packets {
    arrived: VecDeque<Box<[u8]>>,
    leaving: VecDeque<Vec<u8>>,
}

impl Stack {
    /// A stack that answers for `address`. Until [`Stack::listen`] it refuses every connection.
    pub(super) fn new(address: Ipv4Addr, now: Duration) -> Self {
        let mut ends = Packets::default();
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut ends, instant(now));
        // The prefix makes every instance a neighbour, so there is nothing to route.
        interface.update_ip_addrs(|addresses| {
            let added = addresses.push(IpCidr::new(address.into(), 0));
            added.expect("there is room for two addresses");
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let mut socket =
            Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(SILENCE));
        let socket = sockets.add(socket);
        Self { interface, sockets, socket, ends }
    }

    /// Takes the connection that comes next.
    pub(super) fn listen(&mut self, to: SocketAddrV4) {
        let endpoint = (*to.ip(), to.port());
        self.socket().listen(endpoint).expect("the port is not 0 and the socket is new");
    }

    /// A packet of the instance.
    pub(super) fn push(&mut self, bytes: Box<[u8]>) {
        self.ends.arrived.push_back(bytes);
    }

    /// Works off what has arrived and what is due.
    pub(super) fn poll(&mut self, now: Duration) {
        self.interface.poll(instant(now), &mut self.ends, &mut self.sockets);
    }

    /// How long until it has to be polled again; absent is until something happens.
    pub(super) fn next_poll(&mut self, now: Duration) -> Option<Duration> {
        if self.ends.leaving.len() >= LEAVING {
            return None;
        }
        self.interface.poll_delay(instant(now), &self.sockets).map(Duration::from)
    }

    /// The next packet for the instance.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.ends.leaving.pop_front()
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Whether nothing more will happen once the first packet is in. What the instance has sent and nobody has taken counts unless `aborted`.
    pub(super) fn is_over(&mut self, aborted: bool) -> bool {
        let socket = self.socket();
        // One that listens again has lost the instance before the connection was made, and nobody else is to come.
        let over = matches!(socket.state(), State::Closed | State::TimeWait | State::Listen);
        let taken = aborted || socket.recv_queue() == 0;
        over && taken && self.ends.leaving.is_empty()
    }
}

fn instant(now: Duration) -> StackInstant {
    StackInstant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

impl Device for Packets {
    type RxToken<'a> = Received;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Received, Slot<'_>)> {
        let bytes = self.arrived.pop_front()?;
        Some((Received(bytes), Slot(&mut self.leaving)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Slot<'_>> {
        (self.leaving.len() < LEAVING).then_some(Slot(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // Those of the instance have been looked at before its packets came here.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// A packet of the instance on its way into the stack.
struct Received(Box<[u8]>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Room for a packet for the instance.
struct Slot<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut bytes = vec![0; length];
        let written = write(&mut bytes);
        self.0.push_back(bytes);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::{RST, SYN, segment};
    use super::*;

    #[test]
    fn a_connection_that_is_given_up_before_it_is_made_is_over() {
        let there = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 80);
        let mut stack = Stack::new(*there.ip(), Duration::ZERO);
        stack.listen(there);
        stack.push(segment(*there.ip(), SYN, 100).into());
        stack.poll(Duration::ZERO);
        assert!(stack.pop().is_some(), "it is answered");
        assert!(!stack.is_over(false));
        stack.push(segment(*there.ip(), RST, 101).into());
        stack.poll(Duration::ZERO);
        assert!(stack.is_over(false));
    }
}
