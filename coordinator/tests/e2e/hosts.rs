//! Hosts of their own for tests: network namespaces, and wires between them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

use crate::harness::{LIMIT, wait_until};

/// The address of the workers' host in a [`World`], and that of a server in the Internet.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// A host. It goes when nothing runs in it any more.
pub(crate) struct Host(File);

impl Host {
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
            Self(File::open("/proc/thread-self/ns/net").expect("a namespace"))
        });
        let host = made.join().expect("a namespace");
        host.enter(|| ip(&["link", "set", "lo", "up"]));
        host
    }

    /// Does something on this host. Processes that it starts run there.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter");
                act()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits until somebody listens at an address, as this host reaches it.
    pub(crate) fn until_listening(&self, address: Ipv4Addr, port: u16) {
        wait_until("somebody listens", LIMIT, || {
            self.enter(|| TcpStream::connect((address, port)).is_ok())
        });
    }

    /// The same host once more, for another thread.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.try_clone().expect("a descriptor"))
    }

    /// Makes a wire from interface `name` of this host to interface `there` of another one.
    pub(crate) fn wire(&self, name: &str, other: &Self, there: &str) {
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        let words = ["link", "add", name, "type", "veth", "peer", "name", there, "netns"];
        self.enter(|| ip(&[&words[..], &[&namespace]].concat()));
    }

    /// Gives an interface an address with a prefix, and takes it up.
    pub(crate) fn address(&self, interface: &str, address: &str) {
        self.enter(|| {
            ip(&["address", "add", address, "dev", interface]);
            ip(&["link", "set", interface, "up"]);
        });
    }
}

/// Hosts that are connected by a hub, as machines in a rack.
pub(crate) struct Site {
    pub(crate) hub: Host,
    pub(crate) spokes: Vec<Host>,
}

impl Site {
    /// The hub's address.
    pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Hosts around a hub, with addresses from 192.0.2.11 on.
    pub(crate) fn new(spokes: u8) -> Self {
        let site = Self { hub: Host::new(), spokes: (0..spokes).map(|_| Host::new()).collect() };
        site.hub.enter(|| ip(&["link", "add", "hub", "type", "bridge"]));
        site.hub.address("hub", &format!("{}/24", Self::HUB));
        for (number, spoke) in site.spokes.iter().enumerate() {
            let port = format!("port{number}");
            site.hub.wire(&port, spoke, "wire");
            site.hub.enter(|| ip(&["link", "set", &port, "master", "hub", "up"]));
            spoke.address("wire", &format!("192.0.2.{}/24", 11 + number));
        }
        site
    }
}

pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {errors}");
}

/// A host for workers with a wire to the Internet, which is another host.
pub(crate) struct World {
    here: Host,
    there: Host,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { here: Host::new(), there: Host::new() };
        world.here.wire("wire0", &world.there, "wire1");
        world.here.address("wire0", &format!("{HERE}/24"));
        world.there.address("wire1", &format!("{THERE}/24"));
        world
    }

    /// Does something on the workers' host. Processes that it starts run there.
    pub(crate) fn here<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.here.enter(act)
    }

    /// A server of pages in the Internet.
    pub(crate) fn serve(&self) {
        let listener = self.there.enter(|| TcpListener::bind((THERE, 80)).expect("bound"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from outside\n");
            }
        });
    }
}
