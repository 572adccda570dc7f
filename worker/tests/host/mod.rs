//! A network namespace with a data interface, as the worker would wire it.
#![expect(unsafe_code, reason = "interfaces are made with ioctls")]

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use groundswell_common::network::DataPath;
use groundswell_worker::network::wire::{DATA_INTERFACE, WireSpec, Wired, open_device, wire};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::time::Instant;

/// A network namespace. It goes when this is dropped and nothing in it is open.
pub(crate) struct Host {
    pub(crate) namespace: File,
}

impl Host {
    /// Makes a namespace whose `eth1` has `address` in a /16, and the interface's device.
    pub(crate) fn new(address: Ipv4Addr) -> (Self, OwnedFd) {
        let host = Self::bare();
        let device = host.enter(|| open_device(DATA_INTERFACE).expect("TUN devices").into());
        host.set_address(address);
        (host, device)
    }

    /// As [`Host::new`], with a device that has no header before its packets and no trains of them.
    pub(crate) fn plain(address: Ipv4Addr) -> (Self, OwnedFd) {
        let host = Self::bare();
        let device = host.enter(make_plain_device);
        host.set_address(address);
        (host, device)
    }

    /// Makes a namespace that is wired as the worker does it, and what is wired there.
    pub(crate) fn wired(address: Ipv4Addr) -> (Self, Wired) {
        let host = Self::bare();
        let spec = WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch };
        let wired = host.enter(|| wire(&spec).expect("wired"));
        (host, wired)
    }

    /// Makes a namespace without a data interface.
    pub(crate) fn bare() -> Self {
        let made = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
            // Router solicitations would be counted among the packets of a test.
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").ok();
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
            let namespace = File::open("/proc/thread-self/ns/net").expect("a namespace");
            Self { namespace }
        });
        made.join().expect("a namespace")
    }

    /// Does something inside. Sockets that it returns stay inside.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
                act()
            });
            inside.join().expect("no panic inside")
        })
    }

    /// Replaces the address of the data interface and takes it up.
    pub(crate) fn set_address(&self, address: Ipv4Addr) {
        self.enter(|| {
            let control = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let mut request = request();
            request.ifr_ifru.ifru_addr = inet(address);
            ioctl(&control, libc::SIOCSIFADDR, &mut request);
            request.ifr_ifru.ifru_netmask = inet(Ipv4Addr::new(255, 255, 0, 0));
            ioctl(&control, libc::SIOCSIFNETMASK, &mut request);
            request.ifr_ifru.ifru_flags =
                i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("flags");
            ioctl(&control, libc::SIOCSIFFLAGS, &mut request);
        });
    }
}

fn make_plain_device() -> OwnedFd {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("TUN devices");
    let mut request = request();
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("flags");
    ioctl(&device, libc::TUNSETIFF, &mut request);
    device.into()
}

/// A request about the data interface.
pub(crate) fn request() -> libc::ifreq {
    // SAFETY: all zeroes is a valid request: integers, and a union of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"eth1") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

fn inet(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("small"),
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: address.to_bits().to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain integers, and the kernel reads the one as the other.
    unsafe { std::mem::transmute(address) }
}

pub(crate) fn ioctl(on: &impl std::os::fd::AsFd, what: libc::Ioctl, request: &mut libc::ifreq) {
    // SAFETY: the descriptor is open and every request used here takes an `ifreq`.
    let result = unsafe { libc::ioctl(on.as_fd().as_raw_fd(), what, request) };
    assert_eq!(result, 0, "ioctl {what:#x}: {}", std::io::Error::last_os_error());
}

/// Pings `address` from `host`; the round trip, or `None` when there is no answer within `limit`.
pub(crate) fn ping(host: &Host, address: Ipv4Addr, limit: Duration) -> Option<Duration> {
    // An echo request with the number 1 of 0, and its checksum.
    const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];
    let socket: UdpSocket = host.enter(|| {
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
            .expect("root may")
            .into()
    });
    socket.connect((address, 0)).expect("a destination");
    socket.set_read_timeout(Some(limit)).expect("a limit");
    let start = Instant::now();
    socket.send(&REQUEST).expect("sent");
    let mut packet = [0; 128];
    let length = socket.recv(&mut packet).ok()?;
    // A raw socket sees the IP header as well.
    (length == 28 && packet[20] == 0).then(|| start.elapsed())
}
