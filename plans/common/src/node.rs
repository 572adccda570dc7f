//! A handle on a running node.

use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::command::{Command, GossipCommand, KadCommand, Reply};
use crate::stats::Meter;
use crate::{
    Closest, Connection, Event, Forward, IncomingStream, KadMode, NodeConfig, PeerFound, Providers,
    QueryReport, RoutingEntry, Stats, Stream, Values, Version,
};

/// How many events a listener may be behind before it misses some.
const EVENTS: usize = 8192;
const COMMANDS: usize = 256;

/// A node that runs until its last handle is dropped, or it is [stopped](Self::stop).
#[derive(Debug, Clone)]
pub struct Node {
    peer: PeerId,
    version: Version,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    ended: CancellationToken,
}

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// It has been stopped.
    #[error("the node has stopped")]
    Stopped,
    /// It was not configured for it.
    #[error("the node was started without {0}")]
    Without(&'static str),
    /// The configuration does not work.
    #[error("failed to start the node: {0}")]
    Config(String),
    /// It cannot listen there.
    #[error("failed to listen at {address}: {error}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// The error.
        error: String,
    },
    /// It got no connection.
    #[error("failed to dial {who}: {error}")]
    Dial {
        /// The peer or address.
        who: String,
        /// The kind of failure.
        kind: crate::DialFailure,
        /// The error.
        error: String,
    },
    /// A query could not begin or found nothing where it has to.
    #[error("the query failed: {0}")]
    Query(String),
    /// A query ended by its timeout.
    #[error("the query timed out after {} s", .0.took.as_secs_f64())]
    QueryTimeout(QueryReport),
    /// A message was not sent.
    #[error("failed to publish: {0}")]
    Publish(String),
    /// A stream was not opened.
    #[error("failed to open a stream: {0}")]
    OpenStream(String),
    /// Something that was waited for did not happen.
    #[error("waited {} s for {what} in vain", .limit.as_secs_f64())]
    Waited {
        /// What.
        what: String,
        /// How long.
        limit: Duration,
    },
}

/// What the engine of any version gets.
pub(crate) struct Wiring {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) stopping: CancellationToken,
    /// Tells of the end when the engine is dropped.
    pub(crate) _ended: DropGuard,
    pub(crate) tasks: TaskTracker,
    pub(crate) meter: Meter,
}

impl Node {
    /// Starts a node and waits until it listens.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (events, mut listening) = broadcast::channel(EVENTS);
        let node = Self {
            peer: config.identity.peer(),
            version: config.version,
            commands,
            events: events.clone(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let wiring = Wiring {
            commands: received,
            events,
            stopping: node.stopping.clone(),
            _ended: node.ended.clone().drop_guard(),
            tasks: node.tasks.clone(),
            meter: Meter::default(),
        };
        let wanted = config.listen.len();
        match config.version {
            #[cfg(feature = "libp2p-0_53")]
            Version::V0_53 => crate::v0_53::engine::start(config, wiring)?,
            #[cfg(feature = "libp2p-0_56")]
            Version::V0_56 => crate::v0_56::engine::start(config, wiring)?,
            #[cfg(feature = "libp2p-0_57")]
            Version::V0_57 => crate::v0_57::engine::start(config, wiring)?,
        }
        let mut have = 0;
        while have < wanted {
            match listening.recv().await {
                Ok(Event::Listening(_)) => have += 1,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(NodeError::Stopped),
            }
        }
        Ok(node)
    }

    /// Closes all connections and waits until the node has ended.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The token that is cancelled when the node has ended.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// What [`Self::stop`] waits for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Who the node is.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The version of rust-libp2p it runs.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What happens from this moment on. A receiver that is more than 8192
    /// events behind misses some and is told so.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Waits for an event of which `pick` makes something. Subscribe with
    /// [`Node::events`] before doing what leads to the event.
    pub async fn wait_for<T>(
        events: &mut broadcast::Receiver<Event>,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, NodeError> {
        let search = async {
            loop {
                match events.recv().await {
                    Ok(event) => {
                        if let Some(found) = pick(&event) {
                            return Ok(found);
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Err(NodeError::Stopped),
                }
            }
        };
        let waited = || NodeError::Waited { what: what.to_owned(), limit };
        tokio::time::timeout(limit, search).await.map_err(|_| waited())?
    }

    /// Listens at another address, for example `<relay>/p2p-circuit`.
    pub async fn listen(&self, address: Multiaddr) -> Result<(), NodeError> {
        self.ask(|reply| Command::Listen { address, reply }).await
    }

    /// Stops listening at an address that was given to [`Self::listen`] or in
    /// the configuration.
    pub async fn stop_listening(&self, address: Multiaddr) -> Result<(), NodeError> {
        self.ask(|reply| Command::StopListening { address, reply }).await
    }

    /// Says that others reach the node at this address.
    pub async fn add_external(&self, address: Multiaddr) -> Result<(), NodeError> {
        self.ask(|reply| Command::AddExternal { address, reply }).await
    }

    /// Where the node listens.
    pub async fn listeners(&self) -> Result<Vec<Multiaddr>, NodeError> {
        self.ask(|reply| Command::Listeners { reply }).await
    }

    /// The first address that others can use, with the peer id at its end.
    pub async fn address(&self) -> Result<Multiaddr, NodeError> {
        let listeners = self.listeners().await?;
        let first = listeners.into_iter().next();
        let address = first.ok_or(NodeError::Without("an address to listen at"))?;
        Ok(address.with(Protocol::P2p(self.peer)))
    }

    /// Connects to whoever is at an address, over this address alone. A peer id
    /// at its end is checked, and a peer that is connected in the same way,
    /// directly or through a relay, is not dialled again.
    pub async fn dial(&self, address: Multiaddr) -> Result<PeerId, NodeError> {
        self.ask(|reply| Command::Dial { address, reply }).await
    }

    /// Connects to a peer at one of these addresses, or those the node has
    /// learnt. One that is connected is not dialled again.
    pub async fn dial_peer(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> Result<PeerId, NodeError> {
        self.ask(|reply| Command::DialPeer { peer, addresses, reply }).await
    }

    /// Closes all connections to a peer.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), NodeError> {
        self.ask(|reply| Command::Disconnect { peer, reply }).await
    }

    /// The connections that stand.
    pub async fn connections(&self) -> Result<Vec<Connection>, NodeError> {
        self.ask(|reply| Command::Connections { reply }).await
    }

    /// The node's counters.
    pub async fn stats(&self) -> Result<Stats, NodeError> {
        self.ask(|reply| Command::Stats { reply }).await
    }

    /// Gets a place at a relay, given with its peer id, and waits for it.
    pub async fn reserve(&self, relay: Multiaddr, limit: Duration) -> Result<Multiaddr, NodeError> {
        let mut events = self.events();
        let circuit = relay.with(Protocol::P2pCircuit);
        self.listen(circuit.clone()).await?;
        Self::wait_for(&mut events, "a relay's reservation", limit, |event| {
            if matches!(event, Event::ListenerGone(gone) if *gone == circuit) {
                let (address, error) = (circuit.clone(), "the relay refused or is gone".to_owned());
                return Some(Err(NodeError::Listen { address, error }));
            }
            matches!(event, Event::Reserved { .. }).then_some(Ok(()))
        })
        .await??;
        Ok(circuit.with(Protocol::P2p(self.peer)))
    }

    /// Waits for the next round trip to a peer that is measured. The node
    /// needs a `ping` interval.
    pub async fn ping(&self, peer: PeerId, limit: Duration) -> Result<Duration, NodeError> {
        let mut events = self.events();
        let what = format!("a ping to {peer}");
        Self::wait_for(&mut events, &what, limit, |event| {
            let Event::Ping { peer: of, rtt } = event else { return None };
            if *of == peer { *rtt } else { None }
        })
        .await
    }

    /// Puts a peer into the routing table.
    pub async fn add_address(&self, peer: PeerId, address: Multiaddr) -> Result<(), NodeError> {
        self.ask_kad(|reply| KadCommand::AddAddress { peer, address, reply }).await
    }

    /// Takes a peer out of the routing table.
    pub async fn forget_peer(&self, peer: PeerId) -> Result<(), NodeError> {
        self.ask_kad(|reply| KadCommand::ForgetPeer { peer, reply }).await
    }

    /// Whether the node answers Kademlia's queries from here on.
    pub async fn set_kad_mode(&self, mode: KadMode) -> Result<(), NodeError> {
        self.ask_kad(|reply| KadCommand::SetMode { mode, reply }).await
    }

    /// Looks for the node itself and refreshes all buckets.
    pub async fn bootstrap(&self) -> Result<QueryReport, NodeError> {
        self.ask_kad(|reply| KadCommand::Bootstrap { reply }).await
    }

    /// Looks for the peers closest to a key. A query that timed out is
    /// answered with what it has.
    pub async fn closest(&self, key: Vec<u8>) -> Result<Closest, NodeError> {
        self.ask_kad(|reply| KadCommand::Closest { key, reply }).await
    }

    /// Looks for a peer.
    pub async fn find_peer(&self, peer: PeerId) -> Result<PeerFound, NodeError> {
        self.ask_kad(|reply| KadCommand::FindPeer { peer, reply }).await
    }

    /// Announces that this node has what a key names.
    pub async fn provide(&self, key: Vec<u8>) -> Result<QueryReport, NodeError> {
        self.ask_kad(|reply| KadCommand::Provide { key, reply }).await
    }

    /// Looks for providers, until there are `want` of them or the query ends.
    pub async fn providers(&self, key: Vec<u8>, want: usize) -> Result<Providers, NodeError> {
        self.ask_kad(|reply| KadCommand::Providers { key, want, reply }).await
    }

    /// Stores a value at the peers closest to its key, and is content with one.
    pub async fn put_value(
        &self,
        key: Vec<u8>,
        value: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<QueryReport, NodeError> {
        self.ask_kad(|reply| KadCommand::PutValue { key, value, ttl, reply }).await
    }

    /// Looks for a value, until it has come `want` times or the query ends.
    pub async fn get_value(&self, key: Vec<u8>, want: usize) -> Result<Values, NodeError> {
        self.ask_kad(|reply| KadCommand::GetValue { key, want, reply }).await
    }

    /// Everybody in the routing table.
    pub async fn routing_table(&self) -> Result<Vec<RoutingEntry>, NodeError> {
        self.ask_kad(|reply| KadCommand::RoutingTable { reply }).await
    }

    /// How many provider records this node stores for these keys, and values
    /// for any key.
    pub async fn records_held(&self, keys: Vec<Vec<u8>>) -> Result<usize, NodeError> {
        self.ask_kad(|reply| KadCommand::RecordsHeld { keys, reply }).await
    }

    /// Lets AutoNAT ask a peer, also one that is not connected.
    pub async fn autonat_server(&self, peer: PeerId, address: Multiaddr) -> Result<(), NodeError> {
        self.ask(|reply| Command::AutonatServer { peer, address, reply }).await
    }

    /// Joins a topic.
    pub async fn subscribe(&self, topic: &str) -> Result<(), NodeError> {
        self.ask_gossip(|reply| GossipCommand::Subscribe { topic: topic.to_owned(), reply }).await
    }

    /// Leaves a topic.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), NodeError> {
        self.ask_gossip(|reply| GossipCommand::Unsubscribe { topic: topic.to_owned(), reply }).await
    }

    /// Sends a message to a topic.
    pub async fn publish(&self, topic: &str, data: Vec<u8>) -> Result<(), NodeError> {
        self.ask_gossip(|reply| GossipCommand::Publish { topic: topic.to_owned(), data, reply })
            .await
    }

    /// The peers in the mesh of a topic.
    pub async fn mesh_peers(&self, topic: &str) -> Result<Vec<PeerId>, NodeError> {
        self.ask_gossip(|reply| GossipCommand::MeshPeers { topic: topic.to_owned(), reply }).await
    }

    /// The score of a peer, if peers are scored.
    pub async fn peer_score(&self, peer: PeerId) -> Result<Option<f64>, NodeError> {
        self.ask_gossip(|reply| GossipCommand::PeerScore { peer, reply }).await
    }

    /// The scores of all peers that are connected; empty if peers are not scored.
    pub async fn peer_scores(&self) -> Result<Vec<(PeerId, f64)>, NodeError> {
        self.ask_gossip(|reply| GossipCommand::PeerScores { reply }).await
    }

    /// Changes which messages of others the node passes on. It must have been
    /// started with [`GossipConfig::forward`](crate::GossipConfig::forward).
    pub async fn set_forward(&self, forward: Forward) -> Result<(), NodeError> {
        self.ask_gossip(|reply| GossipCommand::SetForward { forward, reply }).await
    }

    /// Opens a stream to a peer, over a direct connection if there is one, and
    /// connects to it if need be.
    pub async fn open_stream(&self, peer: PeerId, protocol: &str) -> Result<Stream, NodeError> {
        self.ask(|reply| Command::OpenStream { peer, protocol: protocol.to_owned(), reply }).await
    }

    /// Takes streams of a protocol from now on. One receiver per protocol.
    pub async fn accept_streams(
        &self,
        protocol: &str,
    ) -> Result<mpsc::Receiver<IncomingStream>, NodeError> {
        self.ask(|reply| Command::AcceptStreams { protocol: protocol.to_owned(), reply }).await
    }

    async fn ask_kad<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> KadCommand,
    ) -> Result<T, NodeError> {
        self.ask(|reply| Command::Kad(command(reply))).await
    }

    async fn ask_gossip<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> GossipCommand,
    ) -> Result<T, NodeError> {
        self.ask(|reply| Command::Gossip(command(reply))).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NodeError::Stopped)?;
        answer.await.map_err(|_| NodeError::Stopped)?
    }
}
