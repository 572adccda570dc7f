//! Puts the data interface and the listening sockets into a network namespace.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// The name of the data interface; `example-rust` looks for it.
pub const DATA_INTERFACE: &str = "eth1";
/// Where instances reach the sync gateway, on loopback.
pub const SYNC_PORT: u16 = 5050;
/// Where SDKs write their metrics, on loopback.
pub const INFLUX_PORT: u16 = 8086;

/// What to wire into a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireSpec {
    /// Address of the data interface.
    pub address: Ipv4Addr,
    /// Prefix length of the run's subnet.
    pub prefix: u8,
    /// Largest packet of the data interface, in bytes.
    pub mtu: u16,
}

/// What was wired. Every descriptor works from outside the namespace.
#[derive(Debug)]
pub struct Wired {
    /// The data interface: an L3 TUN device without packet information header.
    pub device: OwnedFd,
    /// Listens on 127.0.0.1:5050 inside. Non-blocking.
    pub sync: OwnedFd,
    /// Listens on 127.0.0.1:8086 inside. Non-blocking.
    pub influx: OwnedFd,
    /// A datagram socket of the namespace, for setting addresses later.
    pub control: OwnedFd,
}
