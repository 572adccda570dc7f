//! Has one core take in all packets of an interface, so that they stay in order.
//!
//! A packet that leaves a veth interface waits for the other end on the core that sent it. Two packets that
//! leave a queue one after the other may do so on two cores, and then the second can overtake the first. The
//! kernel's receive packet steering prevents that. It is told through sysfs, which shows the interfaces of the
//! network namespace it was mounted in.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

/// The interfaces of one network namespace in sysfs.
#[derive(Debug)]
pub(super) struct Steering {
    interfaces: OwnedFd,
}

impl Steering {
    /// Of the calling thread's network namespace. Leaves the thread in a mount namespace of its own, which has
    /// to end with it.
    pub(super) fn here() -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { interfaces: open("/sys/class/net", flags, Mode::empty())? })
    }

    /// Has one core take in what an interface receives; `number` chooses it.
    pub(super) fn steer(&self, interface: &str, number: u32) -> io::Result<()> {
        let cores = std::thread::available_parallelism()?.get();
        let path = format!("{interface}/queues/rx-0/rps_cpus");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.interfaces, path.as_str(), flags, Mode::empty())?);
        file.write_all(mask(number, cores).as_bytes())
    }
}

/// The mask of one core, as the kernel writes them: words of 32 bits in hexadecimal, the highest first.
fn mask(number: u32, cores: usize) -> String {
    let core = number % u32::try_from(cores).unwrap_or(u32::MAX);
    format!("{:x}{}", 1_u32 << (core % 32), ",00000000".repeat((core / 32) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_those_of_one_core() {
        assert_eq!(mask(0, 1), "1");
        assert_eq!(mask(7, 4), "8");
        assert_eq!(mask(33, 64), "2,00000000");
    }
}
