//! Stands in for `network::wire::{wire_in, set_link}` until those are there; to be deleted then.
#![expect(unsafe_code, reason = "interfaces are set up by ioctl")]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::network::wire::{DATA_INTERFACE, INFLUX_PORT, SYNC_PORT, WireSpec, Wired};
use crate::runtime::LinkState;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_address, libc::SIOCSIFADDR, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_netmask, libc::SIOCSIFNETMASK, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Wires a network namespace.
pub(super) fn wire_in(netns: BorrowedFd<'_>, spec: &WireSpec) -> io::Result<Wired> {
    // A thread of its own: it stays in the namespace until it ends.
    std::thread::scope(|scope| {
        let wired = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            wire_here(spec)
        });
        wired.join().map_err(|_| io::Error::other("the wiring thread panicked"))?
    })
}

/// Sets the address of the data interface, or takes it down.
pub(super) fn set_link(control: BorrowedFd<'_>, link: LinkState) -> io::Result<()> {
    if link.up {
        address(control, link.address, link.prefix)?;
    }
    up(control, DATA_INTERFACE, link.up)
}

fn wire_here(spec: &WireSpec) -> io::Result<Wired> {
    let control = OwnedFd::from(UdpSocket::bind("0.0.0.0:0")?);
    up(control.as_fd(), "lo", true)?;
    let device = tun()?;
    let mut request = request(DATA_INTERFACE);
    request.ifr_ifru.ifru_mtu = i32::from(spec.mtu);
    // SAFETY: the descriptor is open and the request complete.
    unsafe { set_mtu(control.as_raw_fd(), &raw const request) }?;
    address(control.as_fd(), spec.address, spec.prefix)?;
    up(control.as_fd(), DATA_INTERFACE, true)?;
    let sync = listen(SYNC_PORT)?;
    Ok(Wired { device: device.into(), sync, influx: listen(INFLUX_PORT)?, control })
}

fn listen(port: u16) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

fn tun() -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = request(DATA_INTERFACE);
    let kind = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(kind).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the request complete.
    unsafe { tun_set_iff(device.as_raw_fd(), &raw const request) }?;
    Ok(device)
}

fn address(control: BorrowedFd<'_>, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let mut request = request(DATA_INTERFACE);
    request.ifr_ifru.ifru_addr = socket_address(address);
    // SAFETY: the descriptor is open and the request complete.
    unsafe { set_address(control.as_raw_fd(), &raw const request) }?;
    request.ifr_ifru.ifru_addr = socket_address(Ipv4Addr::from(mask));
    // SAFETY: as above.
    unsafe { set_netmask(control.as_raw_fd(), &raw const request) }?;
    Ok(())
}

fn up(control: BorrowedFd<'_>, interface: &str, up: bool) -> io::Result<()> {
    let mut request = request(interface);
    let flags = if up { libc::IFF_UP | libc::IFF_RUNNING } else { 0 };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the request complete.
    unsafe { set_flags(control.as_raw_fd(), &raw const request) }?;
    Ok(())
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(u8::cast_signed);
    let data = [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(2),
        sa_data: data,
    }
}

fn request(interface: &str) -> libc::ifreq {
    // SAFETY: every bit pattern is a valid request; zero is an empty one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request
}
