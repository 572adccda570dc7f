//! Carries packets between the switches of a run's workers, over UDP.
//!
//! The source's switch decides, delays and shapes; what arrives here was due when it was sent and goes
//! straight to the destination's interface, unless that has a limit on what it receives. Every ordered pair of instances counts its packets, so that what the
//! network below loses is known and is never taken for configured loss. The switches probe each
//! other, and half of the shortest round trip is taken off the configured delay.
//!
//! One socket per worker and one thread that reads it: the threads of the data plane all send through the same socket,
//! which the kernel allows without a lock of ours, so a worker has one address for all runs.
//!
//! ```text
//! header    the bytes before a packet                          pure
//! window    which numbers of a pair have arrived               pure
//! delay     the underlay's delay, and what it takes off        pure
//! counters  what became of packets between workers
//! peer      another worker, and the sending side of a pair
//! seal      encryption and authentication
//! receiver  the thread that takes what arrives
//! arrivals  hands it to its destination, at its turn
//! end       this worker's socket and that thread
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use groundswell_common::ids::{Attempt, InstanceId};
use groundswell_common::network::OverlaySecret;

mod arrivals;
pub(super) mod counters;
mod delay;
pub(super) mod end;
mod header;
pub(super) mod peer;
pub(super) mod receiver;
mod seal;
mod window;

pub use counters::UnderlayCounts;

/// The other workers of a run, and the instances they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Others {
    /// Names the run between its workers.
    pub key: u64,
    /// A packet of another attempt is not taken.
    pub attempt: Attempt,
    /// Where each worker's switch takes packets, and the instances it holds with their addresses at the start.
    pub workers: Vec<(SocketAddr, BTreeMap<InstanceId, std::net::Ipv4Addr>)>,
    /// How what goes between them is encrypted, if it is.
    pub seal: Option<SealSpec>,
    /// The life of this worker, when it goes on in the middle of the run: higher than that of any before it.
    pub again: Option<u32>,
}

/// How the packets between a run's workers are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealSpec {
    /// What all workers of the run know and nobody else does.
    pub secret: OverlaySecret,
    /// Names this worker in this attempt; no other worker and no other attempt has the same.
    pub sender: u32,
}

/// The local address from which `nats`, a list of URLs separated by commas, is reached.
///
/// # Errors
/// When none of its hosts is known, or no way leads there.
pub fn address_towards(nats: &str) -> io::Result<IpAddr> {
    let mut failed = io::Error::other("there is no NATS server");
    for url in nats.split(',') {
        match local_address(url.trim()) {
            Ok(address) => return Ok(address),
            Err(err) => failed = err,
        }
    }
    Err(failed)
}

/// Host and port of a URL, which has this port when it names none.
pub(crate) fn host_of(url: &str, port: u16) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = host.split('/').next().unwrap_or(host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

fn local_address(url: &str) -> io::Result<IpAddr> {
    let there = host_of(url, 4222).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let any: SocketAddr = match there {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    // Nothing is sent: connecting a datagram socket only asks for the route.
    let probe = UdpSocket::bind(any)?;
    probe.connect(there)?;
    Ok(probe.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_one_that_reaches_nats() {
        let local = IpAddr::from([127, 0, 0, 1]);
        for url in ["nats://127.0.0.1:4222", "tls://me:secret@127.0.0.1", "127.0.0.1:9/,nats://x"] {
            assert_eq!(address_towards(url).expect(url), local);
        }
        assert!(address_towards("").is_err());
    }
}
