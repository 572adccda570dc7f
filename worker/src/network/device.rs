//! Closes TUN devices quickly.

use std::os::fd::{AsRawFd as _, OwnedFd};

mod ioctl {
    nix::ioctl_write_int!(set_persist, b'T', 203);
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
