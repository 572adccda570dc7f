//! Two network namespaces and a pair of interfaces between them, with the usual MTU of 1,500.

use std::fs::File;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// The namespaces and the addresses of their interfaces. All goes when this is dropped and nothing in it is open.
pub(crate) struct Pipe {
    pub(crate) ends: [End; 2],
    pub(crate) addresses: [Ipv4Addr; 2],
}

/// One of the namespaces.
pub(crate) struct End {
    namespace: File,
}

impl Pipe {
    pub(crate) fn new() -> Self {
        Self::between([Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)])
    }

    /// With these addresses, of one /24.
    pub(crate) fn between(addresses: [Ipv4Addr; 2]) -> Self {
        let pipe = Self { ends: [End::new(), End::new()], addresses };
        let other = pipe.ends[1].namespace.as_raw_fd();
        let other = format!("/proc/{}/fd/{other}", std::process::id());
        let made = ["link", "add", "wire0", "type", "veth", "peer", "name", "wire1", "netns"];
        pipe.ends[0].command("ip", &[&made[..], &[&other]].concat());
        for (number, end) in pipe.ends.iter().enumerate() {
            let (name, address) = (format!("wire{number}"), format!("{}/24", addresses[number]));
            end.command("ip", &["address", "add", &address, "dev", &name]);
            end.command("ip", &["link", "set", &name, "up"]);
            end.command("ip", &["link", "set", "lo", "up"]);
        }
        pipe
    }

    /// Drops UDP datagrams of these lengths, their headers included, that come in at one end.
    pub(crate) fn drop_udp_in(&self, end: usize, lengths: Range<u16>) {
        let rules = format!(
            "add table inet firewall; \
             add chain inet firewall incoming {{ type filter hook input priority 0; }}; \
             add rule inet firewall incoming udp length {}-{} drop",
            lengths.start,
            lengths.end - 1
        );
        self.ends[end].command("nft", &[&rules]);
    }
}

impl End {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
            File::open("/proc/thread-self/ns/net").expect("a namespace")
        });
        Self { namespace: made.join().expect("a namespace") }
    }

    /// Does something inside. Sockets and threads that it makes stay inside.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
                act()
            });
            inside.join().expect("no panic inside")
        })
    }

    /// Runs a program inside, which must succeed.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) {
        let output =
            self.enter(|| Command::new(program).args(arguments).output().expect("it runs"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    }
}
