//! This worker's end of the overlay: its socket and the thread that reads it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::Others;
use super::counters::Underlay;
use super::peer::{Away, Line, Peer};
use super::receiver::{Neighbors, Receiver};
use super::seal::Seal;
use super::window::LIFE_SHIFT;
use crate::network::thread::{Thread, ThreadParts};

/// The way to other workers.
#[derive(Debug)]
pub(in crate::network) struct End {
    line: Arc<Line>,
    pub(in crate::network) address: SocketAddr,
    pub(in crate::network) receiver: Thread,
    strange: Arc<AtomicU64>,
}

impl End {
    /// Binds the socket and starts the thread, whose times count from `start`.
    pub(in crate::network) fn start(address: SocketAddr, start: Instant) -> std::io::Result<Self> {
        let line = Arc::new(Line::bind(address)?);
        let address = line.address()?;
        let strange = Arc::new(AtomicU64::new(0));
        let (parts, commands) = ThreadParts::new()?;
        line.watch(&parts.epoll)?;
        let (own, counted) = (Arc::clone(&line), Arc::clone(&strange));
        let body = move |parts: ThreadParts| {
            Receiver::new(own, parts.epoll, parts.wake, parts.inbox, counted, start).run();
        };
        let receiver = Thread::with("gs-overlay".to_owned(), (parts, commands), body)?;
        Ok(Self { line, address, receiver, strange })
    }

    /// Datagrams that are damaged, none of ours, or of no run that is open here.
    pub(in crate::network) fn strange(&self) -> u64 {
        self.strange.load(Ordering::Relaxed)
    }

    /// The other workers of a run, reached from here.
    pub(in crate::network) fn links(&self, others: &Others, counts: &Arc<Underlay>) -> Neighbors {
        let attempt = others.attempt.0;
        let mut links = Neighbors {
            key: others.key,
            attempt,
            peers: Vec::new(),
            instances: BTreeMap::new(),
            counts: Arc::clone(counts),
            again: others.again.is_some(),
            seal: others.seal.as_ref().map(|spec| Arc::new(Seal::new(spec, others.key))),
        };
        for (address, instances) in &others.workers {
            let (line, counts) = (Arc::clone(&self.line), Arc::clone(counts));
            let seal = links.seal.clone();
            let peer = Peer::new(line, *address, others.key, attempt, counts, seal);
            let peer = peer.counting_from(u64::from(others.again.unwrap_or(0)) << LIFE_SHIFT);
            let peer = Arc::new(peer);
            links.instances.extend(instances.iter().map(|(instance, address)| {
                let away = Away { instance: instance.0, peer: Arc::clone(&peer) };
                (instance.0, (Arc::new(away), *address))
            }));
            links.peers.push(peer);
        }
        links
    }
}
