//! Closes TUN devices quickly, and switches their carrier.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

mod ioctl {
    nix::ioctl_write_int!(set_persist, b'T', 203);
    nix::ioctl_write_ptr!(set_carrier, b'T', 226, i32);
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
