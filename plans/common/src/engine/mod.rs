//! The task of a node, on whichever version of rust-libp2p includes it.
//!
//! In: commands of the handle, events of the swarm. Out: replies, events.

mod behaviour;
mod commands;
mod events;
mod gossip;
mod queries;
mod stream_handler;
mod streams;
mod transport;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::behaviour::Behaviour;
use self::libp2p::swarm::{ConnectionId, Swarm};
use self::queries::Query;
use super::{compat, libp2p};
use crate::command::Reply;
use crate::node::Wiring;
use crate::{
    Connection, Event, Forward, IncomingStream, Multiaddr, NodeConfig, NodeError, PeerId, Rng,
    Stats,
};

/// How long a node that is stopped waits for its connections to close.
const FAREWELL: Duration = Duration::from_secs(1);

/// A node's state. Only its task touches it.
struct Engine {
    swarm: Swarm<Behaviour>,
    wiring: Wiring,
    kad_protocol: Option<&'static str>,
    listeners: Vec<(Multiaddr, libp2p::core::transport::ListenerId)>,
    connections: BTreeMap<ConnectionId, Connection>,
    dials: BTreeMap<ConnectionId, Reply<PeerId>>,
    queries: HashMap<libp2p::kad::QueryId, Query>,
    /// Who takes the streams of each protocol.
    takers: HashMap<String, mpsc::Sender<IncomingStream>>,
    stats: Stats,
    forward: Option<Forward>,
    rng: Rng,
}

/// Builds a node and starts its task.
pub(crate) fn start(config: NodeConfig, wiring: Wiring) -> Result<(), NodeError> {
    let kad_protocol = config.kad.as_ref().map(|kad| kad.protocol);
    let mut engine = Engine {
        swarm: build(&config, &wiring)?,
        wiring,
        kad_protocol,
        listeners: Vec::new(),
        connections: BTreeMap::new(),
        dials: BTreeMap::new(),
        queries: HashMap::new(),
        takers: HashMap::new(),
        stats: Stats::default(),
        forward: config.gossip.as_ref().and_then(|gossip| gossip.forward),
        rng: Rng::new(u64::from_be_bytes(first_bytes(&config.identity.secret())), "forward"),
    };
    for address in &config.listen {
        engine.listen(address.clone())?;
    }
    for address in &config.external {
        engine.swarm.add_external_address(compat::address_in(address)?);
    }
    let tasks = engine.wiring.tasks.clone();
    tasks.spawn(engine.run());
    Ok(())
}

fn first_bytes(secret: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&secret[..8]);
    first
}

fn build(config: &NodeConfig, wiring: &Wiring) -> Result<Swarm<Behaviour>, NodeError> {
    let key = libp2p::identity::Keypair::ed25519_from_bytes(config.identity.secret())
        .map_err(|err| NodeError::Config(err.to_string()))?;
    let peer = key.public().to_peer_id();
    let (transport, relay) = transport::build(&key, config, &wiring.meter)?;
    let behaviour = Behaviour::new(&key, config, relay)?;
    Ok(Swarm::new(transport, behaviour, peer, compat::swarm_config(config.idle_timeout)))
}

impl Engine {
    async fn run(mut self) {
        let stopping = self.wiring.stopping.clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => break,
                command = self.wiring.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.observe(event),
            }
        }
        // An end that takes too long ends with the sockets.
        let _ = timeout(FAREWELL, self.close_connections()).await;
    }

    async fn close_connections(&mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Fails for one that is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        while self.swarm.network_info().num_peers() > 0 {
            let event = self.swarm.select_next_some().await;
            self.observe(event);
        }
    }

    fn listen(&mut self, address: Multiaddr) -> Result<(), NodeError> {
        let listener = self.swarm.listen_on(compat::address_in(&address)?).map_err(|err| {
            NodeError::Listen { address: address.clone(), error: format!("{err:?}") }
        })?;
        self.listeners.push((address, listener));
        Ok(())
    }

    /// Tells whoever listens.
    fn tell(&self, event: Event) {
        // Without a listener there is nobody to miss it.
        let _ = self.wiring.events.send(event);
    }

    fn stats(&self) -> Stats {
        let (bytes_in, bytes_out) = self.wiring.meter.read();
        Stats {
            peers: self.swarm.network_info().num_peers(),
            connections: self.connections.len(),
            relayed: self.connections.values().filter(|connection| connection.relayed).count(),
            bytes_in,
            bytes_out,
            ..self.stats.clone()
        }
    }
}
