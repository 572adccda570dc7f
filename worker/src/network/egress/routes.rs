//! The routes of an instance that lead out of its data network.
//!
//! An instance that may reach nothing outside has no route there, so it is told at once by its own kernel.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc;

use super::policy::Grant;
use crate::network::wire::DATA_INTERFACE;

/// Networks that an instance has routes to.
pub type Routes = BTreeSet<Ipv4Net>;

/// The routes that go with a grant.
#[must_use]
pub fn of(grant: &Grant) -> Routes {
    if grant.allow {
        return Routes::from([Ipv4Net::default()]);
    }
    grant.hosts.iter().map(Ipv4Net::trunc).collect()
}

/// Gives an instance the routes `to` where it has `from`. `control` is a socket of its network namespace.
///
/// # Errors
///
/// When the kernel refuses, for example because the data interface is down.
pub fn change(control: BorrowedFd<'_>, from: &Routes, to: &Routes) -> io::Result<()> {
    for gone in from.difference(to) {
        match route(control, libc::SIOCDELRT, *gone) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    for new in to.difference(from) {
        match route(control, libc::SIOCADDRT, *new) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "no safe wrapper of these ioctls")]
fn route(control: BorrowedFd<'_>, code: libc::Ioctl, to: Ipv4Net) -> Result<(), Errno> {
    let mut device = [0; libc::IFNAMSIZ];
    for (place, letter) in device.iter_mut().zip(DATA_INTERFACE.bytes()) {
        *place = letter.cast_signed();
    }
    // SAFETY: all zeroes is a valid route: integers, addresses of no family, and a null pointer.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(to.network());
    route.rt_genmask = address(to.netmask());
    route.rt_flags = libc::RTF_UP;
    if to.prefix_len() == 32 {
        route.rt_flags |= libc::RTF_HOST;
    }
    route.rt_dev = device.as_mut_ptr();
    // SAFETY: both codes take a pointer to an `rtentry`, which outlives the call, as the name it points to does.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), code, std::ptr::from_mut(&mut route)) };
    Errno::result(done).map(drop)
}

fn address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (place, byte) in data[2..6].iter_mut().zip(address.octets()) {
        *place = byte.cast_signed();
    }
    let family = libc::sa_family_t::try_from(libc::AF_INET).expect("AF_INET is 2");
    libc::sockaddr { sa_family: family, sa_data: data }
}
