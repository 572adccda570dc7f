//! Another worker of a run, and the sending side of an ordered pair whose destination is there.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::libc;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, SockaddrStorage, getsockopt, sendmsg, setsockopt, sockopt};
use tokio::time::Instant;

use super::counters::{Underlay, add};
use super::delay::Lead;
use super::header::{self, Header, Kind};
use super::seal::{self, Seal};

/// Bytes the kernel keeps for the socket in each direction, as far as it allows.
const BUFFER: usize = 8 << 20;
/// Bytes of the UDP and the IP header under ours; without options.
const BELOW_IPV4: usize = 28;
const BELOW_IPV6: usize = 48;

/// The worker's socket for all packets from and to other workers, and the clock its probes are stamped with.
#[derive(Debug)]
pub(in crate::network) struct Line {
    socket: UdpSocket,
    start: Instant,
}

impl Line {
    /// Binds the socket. It never blocks, and leaves it to IP to send in fragments what is too long.
    pub(in crate::network) fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // Only root may have more than the system's usual limit; without, bursts are lost earlier.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);
        if address.is_ipv4() {
            allow_fragments(&socket)?;
        }
        Ok(Self { socket, start: Instant::now() })
    }

    pub(in crate::network) fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(in crate::network) fn watch(&self, epoll: &Epoll) -> std::io::Result<()> {
        Ok(epoll.add(&self.socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The clock of what is sent here.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Without this the kernel forbids fragments on the way, and what is too long for a hop there vanishes
/// wherever the hop's complaint is filtered.
#[expect(unsafe_code, reason = "IP_MTU_DISCOVER has no safe wrapper")]
fn allow_fragments(socket: &UdpSocket) -> std::io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_DONT;
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("four bytes");
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `value`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Another worker, in one run.
#[derive(Debug)]
pub(in crate::network) struct Peer {
    line: Arc<Line>,
    /// Where it takes packets, and the only place it sends them from.
    pub(super) address: SocketAddr,
    to: SockaddrStorage,
    /// The longest packet of an instance that the underlay takes whole, as far as it is known.
    longest: AtomicUsize,
    /// The measured delay of one way.
    delay_ns: AtomicU64,
    run: u64,
    attempt: u32,
    pub(super) counts: Arc<Underlay>,
    seal: Option<Arc<Seal>>,
    before_first: u64,
}

impl Peer {
    pub(in crate::network) fn new(
        line: Arc<Line>,
        address: SocketAddr,
        run: u64,
        attempt: u32,
        counts: Arc<Underlay>,
        seal: Option<Arc<Seal>>,
    ) -> Self {
        let (longest, delay_ns) = (AtomicUsize::new(usize::MAX), AtomicU64::new(0));
        let to = address.into();
        Self { line, address, to, longest, delay_ns, run, attempt, counts, seal, before_first: 0 }
    }

    /// Packets are counted from the number after this one.
    pub(in crate::network) fn counting_from(self, before_first: u64) -> Self {
        Self { before_first, ..self }
    }

    /// Finds out what the underlay takes whole. For the thread that reads the line, which is where the line is.
    pub(super) fn learn_mtu(&self) {
        let below = if self.address.is_ipv4() { BELOW_IPV4 } else { BELOW_IPV6 };
        let ours = header::LENGTH + if self.seal.is_some() { seal::OVERHEAD } else { 0 };
        let longest = mtu_towards(self.address).saturating_sub(below + ours);
        self.longest.store(longest, Ordering::Relaxed);
    }

    /// The measured delay of one way; nothing until it is known.
    fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay_ns.load(Ordering::Relaxed))
    }

    pub(super) fn measured(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.delay_ns.store(delay, Ordering::Relaxed);
    }

    /// Asks for an answer; one that is lost is one sample less.
    pub(super) fn probe(&self) {
        let header = self.header(Kind::Probe, 0, 0, 0, self.line.now_ns());
        self.send(&header, &[]);
    }

    /// Answers a probe.
    pub(super) fn echo(&self, probe: &Header) {
        let header = self.header(Kind::Echo, 0, 0, probe.sequence, probe.sent_ns);
        self.send(&header, &[]);
    }

    fn header(
        &self,
        kind: Kind,
        source: u32,
        destination: u32,
        sequence: u64,
        sent_ns: u64,
    ) -> Header {
        let (attempt, run) = (self.attempt, self.run);
        Header { kind, attempt, run, source, destination, sequence, sent_ns }
    }

    /// Sends at once; `false` when the kernel did not take it.
    fn send(&self, header: &Header, packet: &[u8]) -> bool {
        let header = header.encode();
        let sealed = self.seal.as_ref().map(|seal| seal.seal(&header, packet));
        let parts = match &sealed {
            Some(sealed) => [IoSlice::new(sealed), IoSlice::new(&[])],
            None => [IoSlice::new(&header), IoSlice::new(packet)],
        };
        let socket = self.line.socket.as_raw_fd();
        sendmsg(socket, &parts, &[], MsgFlags::empty(), Some(&self.to)).is_ok()
    }
}

/// The largest IP packet that leaves towards `address` whole, as far as this host knows.
fn mtu_towards(address: SocketAddr) -> usize {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let known = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(address)?;
        Ok(getsockopt(&socket, sockopt::IpMtu)?)
    });
    // Only for counting: where it is not known, what every network has.
    known.ok().and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(1500)
}

/// An instance on another worker.
#[derive(Debug)]
pub(in crate::network) struct Away {
    pub(in crate::network) instance: u32,
    pub(in crate::network) peer: Arc<Peer>,
}

/// The sending side of an ordered pair whose destination is on another worker.
#[derive(Debug)]
pub(in crate::network) struct Stream {
    source: u32,
    /// The destination's number in the pair: its own, or that with the mark of probes.
    destination: u32,
    to: Arc<Away>,
    /// Only the thread that owns the source comes here, so nobody ever waits for the lock.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last packet sent.
    sent: u64,
    lead: Lead,
}

impl Stream {
    pub(in crate::network) fn new(source: u32, destination: u32, to: Arc<Away>) -> Self {
        let state = State { sent: to.peer.before_first, ..State::default() };
        Self { source, destination, to, state: Mutex::new(state) }
    }

    pub(in crate::network) fn leads_to(&self, away: &Arc<Away>) -> bool {
        Arc::ptr_eq(&self.to, away)
    }

    /// See [`Lead::send_at`].
    pub(in crate::network) fn send_at(&self, due: Duration, departure: Duration) -> Duration {
        let delay = self.to.peer.delay();
        self.state().lead.send_at(due, departure, delay)
    }

    /// Sends a packet that is due; `false` when the kernel did not take it.
    pub(in crate::network) fn send(&self, packet: &[u8]) -> bool {
        let peer = &self.to.peer;
        let mut state = self.state();
        // What the kernel does not take has no number: it is this host's loss and not the underlay's.
        let sequence = state.sent + 1;
        let now = peer.line.now_ns();
        let header = peer.header(Kind::Packet, self.source, self.destination, sequence, now);
        if !peer.send(&header, packet) {
            return false;
        }
        state.sent = sequence;
        add(&peer.counts.sent, 1);
        if packet.len() > peer.longest.load(Ordering::Relaxed) {
            add(&peer.counts.fragmented, 1);
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in it can be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
