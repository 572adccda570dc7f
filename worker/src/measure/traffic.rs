//! Two instances on a switch, and what gets from one to the other.

use std::fs::File;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use groundswell_common::fidelity::{Histogram, NetworkReport};
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_common::network::DataPath;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use tokio::time::Instant;

use crate::network::namespace::{fresh, inside};
use crate::network::switch::Switch;
use crate::network::wire::{WireSpec, Wired, wire_in};
use crate::network::{Attachment, Network as _};

/// The addresses of the two.
pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(16, 0, 0, 2), Ipv4Addr::new(16, 0, 0, 3)];
/// Where the second one listens.
pub const PORT: u16 = 4001;
/// Nothing has come for so long: it is over. Longer than any delay and queue here.
const SILENCE: Duration = Duration::from_millis(700);
/// Begins the names of the switch's threads.
const SWITCH_THREAD: &str = "gs-net-";

/// Two network namespaces.
pub type Ends<'a> = [BorrowedFd<'a>; 2];

/// What a receiver saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Packets that came.
    pub packets: u64,
    /// Their bytes, with IP and UDP headers.
    pub bytes: u64,
    /// From the first packet to the last.
    pub time: Duration,
    /// How much longer packets were under way than the configured delay, until the application had them.
    pub error: Histogram,
    /// The same until they were in the receiver's network stack, which is where the network ends: what it takes
    /// to wake the application comes on top.
    pub network_error: Histogram,
    /// Bytes of the first one.
    pub first_bytes: u64,
}

impl Seen {
    /// Packets that came in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure of three digits")]
        let packets = self.packets as f64;
        packets / self.time.as_secs_f64().max(1e-9)
    }
}

/// Two instances on a switch. All goes when this is dropped.
pub struct Pair {
    switch: Switch,
    run: RunId,
    ends: [File; 2],
    /// What else is wired into them stays open as long as they do.
    _wired: Vec<Wired>,
}

impl Pair {
    /// Makes two namespaces on a switch of one thread, both shaped like this.
    ///
    /// # Errors
    /// When this process may not, or the kernel refuses.
    pub async fn new(shape: LinkShape) -> anyhow::Result<Self> {
        Self::on(Switch::new(1)?, shape).await
    }

    /// As [`Pair::new`], on this switch.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub async fn on(switch: Switch, shape: LinkShape) -> anyhow::Result<Self> {
        let run = RunId::new(1);
        switch.open(&run, "16.0.0.0/16".parse()?, 1).await?;
        let (mut ends, mut all) = (Vec::new(), Vec::new());
        for (instance, address) in (0..).map(InstanceId).zip(ADDRESSES) {
            let end = fresh().context("failed to make a network namespace")?;
            let spec = WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch };
            let mut wired = wire_in(end.as_fd(), &spec).context("failed to wire a namespace")?;
            let device = wired.device.take().context("an interface of the switch has a device")?;
            switch.attach(Attachment { run: run.clone(), instance, device, address }).await?;
            switch.configure(&run, instance, &config(shape)).await?;
            all.push(wired);
            ends.push(end);
        }
        let Ok(ends) = ends.try_into() else { unreachable!("two were made") };
        Ok(Self { switch, run, ends, _wired: all })
    }

    /// The namespaces.
    #[must_use]
    pub fn ends(&self) -> Ends<'_> {
        [self.ends[0].as_fd(), self.ends[1].as_fd()]
    }

    /// What the switch did.
    ///
    /// # Errors
    /// Never: the run is open.
    pub async fn report(&self) -> anyhow::Result<NetworkReport> {
        self.switch.report(&self.run).await.context("the run is open")
    }
}

/// A configuration with nothing but this shape.
#[must_use]
pub fn config(default: LinkShape) -> NetworkConfig {
    NetworkConfig {
        enable: true,
        ipv4: None,
        default,
        rules: Vec::new(),
        callback_state: String::new(),
        routing_policy: RoutingPolicy::DenyAll,
    }
}

fn udp(namespace: BorrowedFd<'_>) -> io::Result<UdpSocket> {
    let socket = inside(namespace, || UdpSocket::bind(("0.0.0.0", PORT)))?;
    socket.set_read_timeout(Some(SILENCE))?;
    // A full buffer of the receiver is not the network's loss.
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    Ok(socket)
}

/// Sends packets of `length` bytes for a while, `rate` a second or as many as go, and says what arrived.
///
/// # Errors
/// When there are no sockets.
pub fn traffic(
    [sender, receiver]: Ends<'_>,
    length: usize,
    rate: Option<u32>,
    lasts: Duration,
    delay: Duration,
) -> anyhow::Result<Seen> {
    let (sender, receiver) = (udp(sender)?, udp(receiver)?);
    let base = Instant::now();
    std::thread::scope(|scope| {
        let seen = scope.spawn(move || receive(&receiver, base, delay));
        send(&sender, base, length, rate, lasts);
        seen.join().expect("no panic in the receiver")
    })
}

fn send(socket: &UdpSocket, base: Instant, length: usize, rate: Option<u32>, lasts: Duration) {
    let mut packet = vec![0; length];
    let gap = rate.map(|rate| Duration::from_secs(1) / rate);
    for number in 0.. {
        let due = gap.map(|gap| gap * number);
        let mut now = base.elapsed();
        while let Some(early) = due.and_then(|due| due.checked_sub(now)).filter(|d| !d.is_zero()) {
            std::thread::park_timeout(early);
            now = base.elapsed();
        }
        if now >= lasts {
            break;
        }
        packet[..8].copy_from_slice(&clock().to_be_bytes());
        // A full queue drops, as a network does.
        let _ = socket.send_to(&packet, (ADDRESSES[1], PORT));
    }
}

fn receive(socket: &UdpSocket, base: Instant, delay: Duration) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut buffer = [0; 2048];
    let mut began = None;
    while let Ok((length, arrived)) = receive_one(socket, &mut buffer) {
        let (now, at) = (base.elapsed(), clock());
        let sent = u64::from_be_bytes(buffer[..8].try_into().context("it is stamped")?);
        // What a rate counts: the packet with its IP and UDP headers.
        let bytes = length as u64 + 28;
        if began.is_none() {
            seen.first_bytes = bytes;
        }
        seen.time = now - *began.get_or_insert(now);
        seen.packets += 1;
        seen.bytes += bytes;
        let due = sent + nanoseconds(delay);
        seen.error.record(at.saturating_sub(due));
        seen.network_error.record(arrived.unwrap_or(at).saturating_sub(due));
    }
    Ok(seen)
}

/// A packet's length, and when the kernel received it if it says so.
fn receive_one(socket: &UdpSocket, buffer: &mut [u8]) -> nix::Result<(usize, Option<u64>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(TimeSpec);
    let (socket, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    let got = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut control), flags)?;
    let stamp = got.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::ScmTimestampns(at) = message else { return None };
        Some(nanoseconds(Duration::from(at)))
    });
    Ok((got.bytes, stamp))
}

/// The clock that the kernel stamps packets with, in nanoseconds.
fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanoseconds)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Lets a flow fill a long path: by default the kernel gives it 4 MB.
fn widen() -> io::Result<()> {
    ["tcp_rmem", "tcp_wmem"].iter().try_for_each(|file| {
        std::fs::write(format!("/proc/sys/net/ipv4/{file}"), "4096 131072 67108864")
    })
}

/// The bits in a second of one TCP flow.
///
/// # Errors
/// When the two do not reach each other.
pub fn flow(ends: Ends<'_>, lasts: Duration) -> anyhow::Result<f64> {
    ends.into_iter().try_for_each(|end| inside(end, widen))?;
    let listener = inside(ends[1], || TcpListener::bind(("0.0.0.0", PORT)))?;
    let mut sender = inside(ends[0], || TcpStream::connect((ADDRESSES[1], PORT)))?;
    let (mut receiver, _) = listener.accept()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![0; 256 << 10];
            while began.elapsed() < lasts && sender.write_all(&chunk).is_ok() {}
        });
        let (mut buffer, mut bytes) = (vec![0; 256 << 10], 0);
        while let Ok(length @ 1..) = receiver.read(&mut buffer) {
            bytes += length;
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure of three digits")]
        let bits = bytes as f64 * 8.0;
        Ok(bits / began.elapsed().as_secs_f64())
    })
}

/// What the switches' threads of this process have used of a processor.
///
/// # Errors
/// When the kernel does not say.
pub fn switch_cpu() -> anyhow::Result<Duration> {
    let mut used = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.starts_with(SWITCH_THREAD) {
            let stat = std::fs::read_to_string(task.join("schedstat"))?;
            used += stat.split(' ').next().context("a first column")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(used))
}
