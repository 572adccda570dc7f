//! Puts the data interface and the listening sockets into a network namespace.
//!
//! Everything is done by ioctl and netlink in the calling thread's namespace: no command is run and nothing
//! waits for the kernel's RCU. The data interface is a TUN device that is made persistent at once, because closing
//! the descriptor of one that is not takes the kernel 31 ms; it goes with its namespace.

use std::ffi::c_ulong;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use groundswell_common::network::DataPath;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use serde::{Deserialize, Serialize};

use super::interface;
use super::namespace;
use super::netlink::{Netlink, namespace_of, routing_socket};
use crate::runtime::LinkState;

/// The name of the data interface; `example-rust` looks for it.
pub const DATA_INTERFACE: &str = "eth1";
/// Where instances reach the sync gateway, on loopback.
pub const SYNC_PORT: u16 = 5050;
/// Where SDKs write their metrics, on loopback.
pub const INFLUX_PORT: u16 = 8086;

/// Where instances reach the resolver of names, on port 53.
pub const NAMES_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// What `/etc/resolv.conf` says inside instances.
pub const RESOLV_CONF: &str = "nameserver 127.0.0.11\n";
const NAMES_PORT: u16 = 53;

/// What to wire into a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireSpec {
    /// Address of the data interface.
    pub address: Ipv4Addr,
    /// Prefix length of the run's subnet.
    pub prefix: u8,
    /// Largest packet of the data interface, in bytes.
    pub mtu: u16,
    /// What carries its packets.
    pub data_path: DataPath,
}

/// What was wired. Every descriptor works from outside the namespace.
#[derive(Debug)]
pub struct Wired {
    /// What the data network needs. For the switch the data interface: an L3 TUN device; see [`open_device`]. For
    /// the kernel a routing socket, by which the network makes the interface. Absent behind a NAT.
    pub device: Option<OwnedFd>,
    /// Listens on 127.0.0.1:5050 inside. Non-blocking.
    pub sync: OwnedFd,
    /// Listens on 127.0.0.1:8086 inside. Non-blocking.
    pub influx: OwnedFd,
    /// The resolver of names.
    pub names: NameSockets,
    /// A datagram socket of the namespace, for setting addresses and routes later.
    pub control: OwnedFd,
}

/// Where an instance asks for names: port 53 of [`NAMES_ADDRESS`] inside. Neither blocks.
#[derive(Debug)]
pub struct NameSockets {
    /// For datagrams.
    pub udp: OwnedFd,
    /// Listens.
    pub tcp: OwnedFd,
}

/// Wires the calling thread's network namespace.
///
/// # Errors
///
/// When the kernel refuses: no right to administer the namespace, no `/dev/net/tun`, a second call.
pub fn wire(spec: &WireSpec) -> io::Result<Wired> {
    let control = ready()?;
    let device = match spec.data_path {
        DataPath::Switch => wire_device(spec, control.as_fd())?,
        DataPath::Kernel => {
            // An address is replaced by adding the new one first; the old one must not take it along.
            std::fs::write("/proc/sys/net/ipv4/conf/default/promote_secondaries", "1")?;
            routing_socket()?
        }
    };
    Ok(Wired {
        device: Some(device),
        sync: listener(Ipv4Addr::LOCALHOST, SYNC_PORT)?,
        influx: listener(Ipv4Addr::LOCALHOST, INFLUX_PORT)?,
        names: name_sockets()?,
        control,
    })
}

/// What to do on a host where no data interface can be made.
pub(crate) const TUN_ADVICE: &str =
    "load the kernel module `tun` and let this user read and write /dev/net/tun, or run as root";

/// Makes the data interface of the switch.
fn wire_device(spec: &WireSpec, control: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    allow_ipv6();
    let device = open_device(DATA_INTERFACE)?;
    let mut request = request_for(DATA_INTERFACE);
    request.ifr_ifru.ifru_mtu = i32::from(spec.mtu);
    interface_ioctl(control, libc::SIOCSIFMTU, &mut request)?;
    set_up(control, DATA_INTERFACE, true)?;
    let link = LinkState { up: true, address: spec.address, prefix: spec.prefix };
    set_addresses(&routing_socket()?.into(), &link)?;
    Ok(device.into())
}

/// Wires the calling thread's network namespace but for the data interface, which a NAT makes when the
/// instance becomes its member. [`set_link`] is not for it then.
///
/// # Errors
///
/// As [`wire`].
pub fn wire_member() -> io::Result<Wired> {
    let control = ready()?;
    Ok(Wired {
        device: None,
        sync: listener(Ipv4Addr::LOCALHOST, SYNC_PORT)?,
        influx: listener(Ipv4Addr::LOCALHOST, INFLUX_PORT)?,
        names: name_sockets()?,
        control,
    })
}

/// Wires another network namespace, on a thread that ends in it, so that no other code ever runs there.
///
/// # Errors
///
/// As [`wire`], and when the namespace cannot be entered.
pub fn wire_in(netns: BorrowedFd<'_>, spec: &WireSpec) -> io::Result<Wired> {
    inside(netns, || wire(spec))
}

/// As [`wire_in`], for [`wire_member`].
///
/// # Errors
///
/// As [`wire_in`].
pub fn wire_member_in(netns: BorrowedFd<'_>) -> io::Result<Wired> {
    inside(netns, wire_member)
}

fn inside(
    netns: BorrowedFd<'_>,
    wire: impl FnOnce() -> io::Result<Wired> + Send,
) -> io::Result<Wired> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            wire()
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the wiring thread panicked")))
    })
}

/// Sets address and state of the data interface through [`Wired::control`].
///
/// # Errors
///
/// When the kernel refuses: the address is not one a host can have, or the caller may not administer the
/// namespace.
pub fn set_link(control: BorrowedFd<'_>, link: LinkState) -> io::Result<()> {
    if !link.up {
        return set_up(control, DATA_INTERFACE, false);
    }
    // Up first: what is down cannot have addresses of IPv6.
    set_up(control, DATA_INTERFACE, true)?;
    // By a socket of another kind, which a thread that is inside has to make.
    let set = || set_addresses(&routing_socket()?.into(), &link);
    namespace::inside(namespace_of(control)?.as_fd(), set)
}

/// A TCP socket of the calling thread's network namespace, connected to nothing. Non-blocking.
///
/// # Errors
///
/// When there are too many descriptors.
pub fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
}

/// As [`stream_socket`], in the network namespace that `control` is a socket of.
///
/// # Errors
///
/// As [`stream_socket`], and when the namespace cannot be entered.
pub fn stream_socket_in(control: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    namespace::inside(namespace_of(control)?.as_fd(), stream_socket)
}

fn set_addresses(netlink: &Netlink, link: &LinkState) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(DATA_INTERFACE)?;
    interface::set_addresses(netlink, index, link.address, link.prefix)
}

/// Makes the calling thread's namespace ready for interfaces, and returns a socket to administer them.
fn ready() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let control = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // Without this every interface would send router solicitations. A kernel without IPv6 does not have the
    // file, which is as good.
    let _absent = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    set_up(control.as_fd(), "lo", true)?;
    Ok(control)
}

/// Lets the next interfaces of the calling thread's namespace have the IPv6 addresses they are given, and none of
/// their own making: then they ask nobody for routers or neighbours.
fn allow_ipv6() {
    for (file, value) in [("addr_gen_mode", "1"), ("disable_ipv6", "0")] {
        // A kernel without IPv6 does not have them; the data network is IPv4 then.
        let _absent = std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{file}"), value);
    }
}

/// Makes a TUN device in the calling thread's namespace. Before each packet it has the header of
/// [`super::offload`].
///
/// # Errors
///
/// When the kernel refuses: no right to administer the namespace, no `/dev/net/tun`, a name that is taken.
pub fn open_device(interface: &str) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = request_for(interface);
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("TUN flags fit the kernel's field");
    interface_ioctl(device.as_fd(), libc::TUNSETIFF, &mut request)?;
    persist(device.as_fd())?;
    super::device::take_trains(device.as_fd())?;
    Ok(device)
}

#[expect(unsafe_code, reason = "no safe wrapper of this ioctl")]
fn persist(device: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_ulong = 1;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, on) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn name_sockets() -> io::Result<NameSockets> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let udp = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    bind(udp.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(NAMES_ADDRESS, NAMES_PORT)))?;
    Ok(NameSockets { udp, tcp: listener(NAMES_ADDRESS, NAMES_PORT)? })
}

fn listener(address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let listener = stream_socket()?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    let address = SocketAddrV4::new(address, port);
    bind(listener.as_raw_fd(), &SockaddrIn::from(address))?;
    listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

fn request_for(interface: &str) -> libc::ifreq {
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_newname: [0; libc::IFNAMSIZ] };
    libc::ifreq { ifr_name: name, ifr_ifru }
}

/// Takes an interface up or down, and leaves everything else of it as it is: that it takes what goes to many, and that
/// it asks nobody for neighbours.
#[expect(unsafe_code, reason = "the flags are in a union")]
fn set_up(control: BorrowedFd<'_>, interface: &str, up: bool) -> io::Result<()> {
    let mut request = request_for(interface);
    interface_ioctl(control, libc::SIOCGIFFLAGS, &mut request)?;
    let flag = i16::try_from(libc::IFF_UP).expect("it fits the kernel's field");
    // SAFETY: SIOCGIFFLAGS has just filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = if up { flags | flag } else { flags & !flag };
    interface_ioctl(control, libc::SIOCSIFFLAGS, &mut request)
}

#[expect(unsafe_code, reason = "no safe wrapper of these ioctls")]
fn interface_ioctl(
    on: BorrowedFd<'_>,
    code: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: every code passed here takes a pointer to an `ifreq`, which outlives the call.
    let done = unsafe { libc::ioctl(on.as_raw_fd(), code, std::ptr::from_mut(request)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
