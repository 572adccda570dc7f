//! A node of libp2p 0.56 with beetswap on it, in a task of its own.
//!
//! In: what its handle asks for, events of the swarm. Out: answers to the handle.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use beetswap::QueryId;
use blockstore::InMemoryBlockstore;
use cid::Cid;
use futures::StreamExt;
use groundswell_sdk::prelude::*;
use libp2p::core::Transport;
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, ConnectionId, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, identity, noise, tcp, yamux};
use multihash_codetable::{Code, MultihashDigest};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::counted::Counted;

/// The longest hash in a name.
const HASH_BYTES: usize = 64;
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);
const COMMANDS: usize = 256;

/// Where a node's blocks are.
pub(crate) type Store = InMemoryBlockstore<HASH_BYTES>;

type Reply<T> = oneshot::Sender<std::result::Result<T, String>>;

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    bitswap: beetswap::Behaviour<HASH_BYTES, Store>,
}

enum Command {
    Dial(Multiaddr, Reply<()>),
    Get(Cid, Reply<Vec<u8>>),
}

/// A node that runs until this is dropped.
pub(crate) struct Node {
    peer: PeerId,
    address: Multiaddr,
    received: Arc<AtomicU64>,
    commands: mpsc::Sender<Command>,
    _task: JoinSet<()>,
}

impl Node {
    /// Starts a node whose identity follows from three numbers, and waits until it listens, if it is to.
    pub(crate) async fn start(
        (seed, instance, number): (u64, u32, u64),
        listen: Option<Ipv4Addr>,
        store: Arc<Store>,
    ) -> Result<Self> {
        let secret = format!("groundswell interop {seed} {instance} {number}");
        let secret = Code::Sha2_256.digest(secret.as_bytes()).digest().to_vec();
        let key = identity::Keypair::ed25519_from_bytes(secret)?;
        let peer = key.public().to_peer_id();
        let received = Arc::new(AtomicU64::new(0));
        let mut swarm = build(&key, store, Arc::clone(&received))?;
        let mut address = Multiaddr::empty();
        if let Some(ip) = listen {
            swarm.listen_on(Multiaddr::empty().with(Protocol::Ip4(ip)).with(Protocol::Tcp(0)))?;
            address = listening(&mut swarm).await.with(Protocol::P2p(peer));
        }
        let (commands, asked) = mpsc::channel(COMMANDS);
        let running = Running { swarm, dials: HashMap::new(), gets: HashMap::new() };
        let mut task = JoinSet::new();
        task.spawn(running.run(asked));
        Ok(Self { peer, address, received, commands, _task: task })
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where it listens, with its peer id at the end.
    pub(crate) fn address(&self) -> &Multiaddr {
        &self.address
    }

    /// Bytes that have come in over all its connections.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Connects to a peer.
    pub(crate) async fn dial(&self, address: Multiaddr) -> Result {
        self.ask(|reply| Command::Dial(address, reply)).await
    }

    /// Gets a block from whoever is connected; waits until somebody has it.
    pub(crate) async fn get(&self, cid: Cid) -> Result<Vec<u8>> {
        self.ask(|reply| Command::Get(cid, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| "the node has ended")?;
        Ok(answer.await.map_err(|_| "the node has ended")??)
    }
}

fn build(
    key: &identity::Keypair,
    store: Arc<Store>,
    received: Arc<AtomicU64>,
) -> Result<Swarm<Behaviour>> {
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(move |stream, _| Counted::new(stream, Arc::clone(&received)))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let identify = identify::Config::new("/groundswell/1.0.0".to_owned(), key.public());
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify),
        bitswap: beetswap::Behaviour::new(store),
    };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
    Ok(Swarm::new(transport, behaviour, key.public().to_peer_id(), config))
}

async fn listening(swarm: &mut Swarm<Behaviour>) -> Multiaddr {
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// The state of a node's task.
struct Running {
    swarm: Swarm<Behaviour>,
    dials: HashMap<ConnectionId, Reply<()>>,
    gets: HashMap<QueryId, Reply<Vec<u8>>>,
}

impl Running {
    async fn run(mut self, mut asked: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = asked.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.observe(event),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dial(address, reply) => {
                let options = DialOpts::from(address);
                let connection = options.connection_id();
                match self.swarm.dial(options) {
                    Ok(()) => {
                        self.dials.insert(connection, reply);
                    }
                    Err(err) => answer(reply, Err(err.to_string())),
                }
            }
            Command::Get(cid, reply) => {
                let query = self.swarm.behaviour_mut().bitswap.get(&cid);
                self.gets.insert(query, reply);
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is of no interest")]
    fn observe(&mut self, event: SwarmEvent<BehaviourEvent>) {
        use beetswap::Event::{GetQueryError, GetQueryResponse};
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                if let Some(reply) = self.dials.remove(&connection_id) {
                    answer(reply, Ok(()));
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(reply) = self.dials.remove(&connection_id) {
                    answer(reply, Err(format!("failed to dial: {error:?}")));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Bitswap(event)) => {
                let (query_id, outcome) = match event {
                    GetQueryResponse { query_id, data } => (query_id, Ok(data)),
                    GetQueryError { query_id, error } => (query_id, Err(error.to_string())),
                };
                if let Some(reply) = self.gets.remove(&query_id) {
                    answer(reply, outcome);
                }
            }
            _ => {}
        }
    }
}

/// Sends an answer to whoever still waits for it.
fn answer<T>(reply: Reply<T>, outcome: std::result::Result<T, String>) {
    // One who has given up waiting needs no answer.
    let _ = reply.send(outcome);
}
