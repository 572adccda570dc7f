//! What a handle asks of its node.

use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Closest, Connection, Forward, IncomingStream, KadMode, NodeError, PeerFound, Providers,
    QueryReport, RoutingEntry, Stats, Stream, Values,
};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, NodeError>>;

/// One request with the way its answer goes.
pub(crate) enum Command {
    Listen { address: Multiaddr, reply: Reply<()> },
    StopListening { address: Multiaddr, reply: Reply<()> },
    AddExternal { address: Multiaddr, reply: Reply<()> },
    Listeners { reply: Reply<Vec<Multiaddr>> },
    Dial { address: Multiaddr, reply: Reply<PeerId> },
    DialPeer { peer: PeerId, addresses: Vec<Multiaddr>, reply: Reply<PeerId> },
    Disconnect { peer: PeerId, reply: Reply<()> },
    Connections { reply: Reply<Vec<Connection>> },
    Stats { reply: Reply<Stats> },
    AutonatServer { peer: PeerId, address: Multiaddr, reply: Reply<()> },
    OpenStream { peer: PeerId, protocol: String, reply: Reply<Stream> },
    AcceptStreams { protocol: String, reply: Reply<mpsc::Receiver<IncomingStream>> },
    Kad(KadCommand),
    Gossip(GossipCommand),
}

/// A request to Kademlia.
pub(crate) enum KadCommand {
    AddAddress { peer: PeerId, address: Multiaddr, reply: Reply<()> },
    ForgetPeer { peer: PeerId, reply: Reply<()> },
    SetMode { mode: KadMode, reply: Reply<()> },
    Bootstrap { reply: Reply<QueryReport> },
    Closest { key: Vec<u8>, reply: Reply<Closest> },
    FindPeer { peer: PeerId, reply: Reply<PeerFound> },
    Provide { key: Vec<u8>, reply: Reply<QueryReport> },
    Providers { key: Vec<u8>, want: usize, reply: Reply<Providers> },
    PutValue { key: Vec<u8>, value: Vec<u8>, ttl: Option<Duration>, reply: Reply<QueryReport> },
    GetValue { key: Vec<u8>, want: usize, reply: Reply<Values> },
    RoutingTable { reply: Reply<Vec<RoutingEntry>> },
    RecordsHeld { keys: Vec<Vec<u8>>, reply: Reply<usize> },
}

/// A request to gossipsub.
pub(crate) enum GossipCommand {
    Subscribe { topic: String, reply: Reply<()> },
    Unsubscribe { topic: String, reply: Reply<()> },
    Publish { topic: String, data: Vec<u8>, reply: Reply<()> },
    MeshPeers { topic: String, reply: Reply<Vec<PeerId>> },
    PeerScore { peer: PeerId, reply: Reply<Option<f64>> },
    PeerScores { reply: Reply<Vec<(PeerId, f64)>> },
    SetForward { forward: Forward, reply: Reply<()> },
}
