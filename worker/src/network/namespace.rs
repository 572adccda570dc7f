//! Makes network namespaces and does things in them.
//!
//! Whatever is done in a namespace is done by a thread that ends in it, so that no other code ever runs there.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, setns, unshare};

/// Makes a network namespace in which IPv6 is off.
pub(crate) fn fresh() -> io::Result<File> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        for of in ["all", "default"] {
            // A kernel without IPv6 does not have the file, which is as good.
            let _absent = std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "1");
        }
        File::open("/proc/thread-self/ns/net")
    })
    .unwrap_or_else(|| Err(panicked()))
}

/// Does something in a namespace.
pub(crate) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        act()
    })
    .unwrap_or_else(|| Err(panicked()))
}

/// Sets kernel settings of the calling thread's network namespace.
pub(super) fn set_all(settings: &[(&str, &str)]) -> io::Result<()> {
    for (name, value) in settings {
        std::fs::write(format!("/proc/sys/net/{name}"), value)
            .map_err(|err| io::Error::new(err.kind(), format!("/proc/sys/net/{name}: {err}")))?;
    }
    Ok(())
}

/// Does something on a thread that ends with it. `None` when it panicked.
fn on_thread<T: Send>(act: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| scope.spawn(act).join().ok())
}

fn panicked() -> io::Error {
    io::Error::other("a thread in a network namespace panicked")
}
