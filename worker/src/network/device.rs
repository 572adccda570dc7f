//! Closes TUN devices quickly, switches their carrier and offloads, and reads what the kernel counts of them.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};

mod ioctl {
    nix::ioctl_write_int!(set_persist, b'T', 203);
    nix::ioctl_none!(get_namespace, b'T', 227);
    nix::ioctl_write_ptr!(set_carrier, b'T', 226, i32);
    nix::ioctl_write_int!(set_offload, b'T', 208);
    nix::ioctl_read_bad!(
        get_interface,
        nix::request_code_read!(b'T', 210, size_of::<u32>()),
        nix::libc::ifreq
    );
}

/// What a device's reader is able to take: checksums left out, and trains of TCP.
const TCP_TRAINS: u64 = 0x01 | 0x02 | 0x04;
/// Trains of UDP, since Linux 6.2.
const UDP_TRAINS: u64 = 0x20 | 0x40;

/// Lets the kernel leave trains of packets together and their checksums out; see [`super::offload`].
#[expect(unsafe_code, reason = "TUNSETOFFLOAD has no safe wrapper")]
pub(super) fn take_trains(device: BorrowedFd<'_>) -> io::Result<()> {
    let set = |offloads| {
        // SAFETY: the descriptor is open for as long as `device` is borrowed, and the call takes an integer.
        unsafe { ioctl::set_offload(device.as_raw_fd(), offloads) }
    };
    match set(TCP_TRAINS | UDP_TRAINS) {
        Err(Errno::EINVAL) => set(TCP_TRAINS),
        other => other,
    }?;
    Ok(())
}

/// Whether a device has a header before each packet.
#[expect(unsafe_code, reason = "the answer of TUNGETIFF is in a union")]
pub(super) fn has_header(device: &OwnedFd) -> bool {
    interface(device).is_ok_and(|request| {
        // SAFETY: TUNGETIFF has filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        i32::from(flags) & libc::IFF_VNET_HDR != 0
    })
}

/// The name of a device's interface: an instance's, or a router's.
fn name(device: &OwnedFd) -> io::Result<String> {
    let request = interface(device)?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    Ok(name.map(|byte| char::from(byte.cast_unsigned())).collect())
}

/// What the kernel says of a device's interface.
#[expect(unsafe_code, reason = "TUNGETIFF has no safe wrapper")]
fn interface(device: &OwnedFd) -> io::Result<libc::ifreq> {
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: 0 };
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru };
    // SAFETY: the descriptor is open for as long as `device` is borrowed here, and the call fills in one
    // `ifreq`, which outlives it.
    unsafe { ioctl::get_interface(device.as_raw_fd(), &raw mut request) }?;
    Ok(request)
}

/// Closes a TUN device and leaves the interface to its network namespace, which takes it along.
///
/// Closing the last descriptor of an interface that is not persistent waits for RCU under the kernel's
/// link lock, about 31 ms each.
#[expect(unsafe_code, reason = "TUNSETPERSIST has no safe wrapper")]
pub(super) fn close(device: OwnedFd) {
    // SAFETY: the descriptor is open for as long as `device` is borrowed here, and TUNSETPERSIST takes a
    // plain integer. Failing means a slow close and nothing else.
    let _ = unsafe { ioctl::set_persist(device.as_raw_fd(), 1) };
    drop(device);
}

/// How many packets the interfaces of `devices` have dropped because nobody read them in time.
///
/// The kernel tells only inside an interface's own network namespace, so this goes through all of them, on a
/// thread that ends there.
///
/// # Errors
/// When a namespace cannot be entered, without root for example, or one is gone.
pub(super) fn dropped<'a>(devices: impl Iterator<Item = &'a OwnedFd> + Send) -> io::Result<u64> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| devices.map(dropped_by).sum());
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")))
    })
}

/// As [`dropped`], of one device. Leaves the calling thread in its namespace.
fn dropped_by(device: &OwnedFd) -> io::Result<u64> {
    setns(namespace(device)?, CloneFlags::CLONE_NEWNET)?;
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let interface = name(device)?;
    parse_dropped(&table, &interface)
        .ok_or_else(|| io::Error::other("the interface is not in its namespace"))
}

/// The network namespace a device is in.
#[expect(unsafe_code, reason = "TUNGETDEVNETNS has no safe wrapper")]
fn namespace(device: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for as long as `device` is borrowed here; the call takes nothing else.
    let namespace = unsafe { ioctl::get_namespace(device.as_raw_fd()) }?;
    // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// The count of dropped outgoing packets of an interface in `/proc/net/dev`.
fn parse_dropped(table: &str, interface: &str) -> Option<u64> {
    /// Eight columns of what was received, then bytes, packets and errors of what was sent.
    const COLUMN: usize = 11;
    let line = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().nth(COLUMN)?.parse().ok()
}

/// Says whether the interface has a carrier, which applications in its namespace can see. One that is gone
/// already is no error: its instance has ended.
#[expect(unsafe_code, reason = "TUNSETCARRIER has no safe wrapper")]
pub(super) fn set_carrier(device: &OwnedFd, carrier: bool) -> io::Result<()> {
    let carrier = i32::from(carrier);
    // SAFETY: the descriptor is open for as long as `device` is borrowed here, and TUNSETCARRIER reads one
    // integer, which outlives the call.
    match unsafe { ioctl::set_carrier(device.as_raw_fd(), &raw const carrier) } {
        Ok(_) | Err(Errno::EBADFD) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                     lo:       1       2    3    4    5     6          7         8        9       10   11   12   13    14      15         16\n  \
                     eth1:    1       2    3    4    5     6          7         8        9       10   11   77   13    14      15         16\n";
        assert_eq!(parse_dropped(table, "eth1"), Some(77));
        assert_eq!(parse_dropped("eth10: 1 2", "eth1"), None);
        assert_eq!(parse_dropped("eth1: 1 2", "eth1"), None);
    }
}
