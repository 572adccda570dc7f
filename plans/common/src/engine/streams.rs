//! A plan's own protocols: streams that this node opens, and those that peers
//! open.
//!
//! It takes the place of the crate `libp2p-stream`, which opens a stream over
//! any one of several connections, and throws all but one away of those that
//! come at the same moment.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::task::{Context, Poll};

use tokio::sync::watch;

use super::compat;
use super::libp2p::PeerId;
use super::libp2p::core::{Endpoint, Multiaddr};
use super::libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use super::libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use super::libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, THandler, THandlerInEvent, ToSwarm,
};
use super::stream_handler::{Accepted, Handler};
use crate::NodeError;
use crate::command::Reply;
use crate::stream::boxed;

/// A stream that a peer has opened.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) peer: PeerId,
    pub(super) protocol: StreamProtocol,
    pub(super) stream: Stream,
}

/// A stream that is asked for, and who waits for it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) protocol: StreamProtocol,
    pub(super) waiter: Waiter,
}

impl Request {
    pub(super) fn new(protocol: StreamProtocol, reply: Reply<crate::Stream>) -> Self {
        let waiter = Waiter { protocol: protocol.clone(), reply: Some(reply) };
        Self { protocol, waiter }
    }
}

/// Who waits for a stream. One that is dropped is told that there will be none.
pub(crate) struct Waiter {
    protocol: StreamProtocol,
    reply: Option<Reply<crate::Stream>>,
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waiter").field(&self.protocol).finish()
    }
}

impl Waiter {
    pub(super) fn opened(mut self, stream: Stream) {
        self.answer(Ok(boxed(stream)));
    }

    pub(super) fn failed(mut self, error: impl Display) {
        self.fail(&error);
    }

    fn fail(&mut self, error: &dyn Display) {
        self.answer(Err(NodeError::OpenStream(format!("`{}`: {error}", self.protocol))));
    }

    fn answer(&mut self, answer: Result<crate::Stream, NodeError>) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(answer);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.fail(&"the connection ended");
    }
}

/// All streams of a node.
pub(super) struct Behaviour {
    /// The protocols that are taken from peers; handlers look there.
    accepted: watch::Sender<Vec<StreamProtocol>>,
    /// The connections to each peer in the order they came, and whether they
    /// go through a relay.
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
    /// What waits for a connection.
    waiting: HashMap<PeerId, Vec<Request>>,
    events: VecDeque<ToSwarm<Incoming, Request>>,
}

impl Behaviour {
    pub(super) fn new() -> Self {
        Self {
            accepted: watch::Sender::new(Vec::new()),
            connections: HashMap::new(),
            waiting: HashMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes streams of a protocol from here on.
    pub(super) fn accept(&mut self, protocol: StreamProtocol) {
        self.accepted.send_if_modified(|all| {
            let new = !all.contains(&protocol);
            if new {
                all.push(protocol);
            }
            new
        });
    }

    /// Opens a stream over the best connection there is, or makes one.
    pub(super) fn open(&mut self, peer: PeerId, request: Request) {
        match self.best(&peer) {
            Some(connection) => self.hand_over(peer, connection, request),
            None => {
                self.waiting.entry(peer).or_default().push(request);
                let options = DialOpts::peer_id(peer);
                let condition = PeerCondition::DisconnectedAndNotDialing;
                let opts = options.condition(condition).build();
                self.events.push_back(ToSwarm::Dial { opts });
            }
        }
    }

    /// The newest direct connection to a peer; without one the newest that
    /// goes through a relay.
    fn best(&self, peer: &PeerId) -> Option<ConnectionId> {
        let all = self.connections.get(peer)?;
        let direct = all.iter().rev().find(|(_, relayed)| !relayed);
        direct.or(all.last()).map(|(connection, _)| *connection)
    }

    fn hand_over(&mut self, peer_id: PeerId, connection: ConnectionId, request: Request) {
        let handler = NotifyHandler::One(connection);
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: request });
    }

    fn established(&mut self, event: &ConnectionEstablished<'_>) {
        let connection = (event.connection_id, event.endpoint.is_relayed());
        self.connections.entry(event.peer_id).or_default().push(connection);
        for request in self.waiting.remove(&event.peer_id).unwrap_or_default() {
            self.hand_over(event.peer_id, event.connection_id, request);
        }
    }

    fn closed(&mut self, event: &ConnectionClosed<'_>) {
        if let Some(all) = self.connections.get_mut(&event.peer_id) {
            all.retain(|(connection, _)| *connection != event.connection_id);
            if all.is_empty() {
                self.connections.remove(&event.peer_id);
            }
        }
    }

    fn dial_failed(&mut self, peer: PeerId, error: &DialError) {
        // A dial that is declined because another one is on its way decides nothing.
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        for request in self.waiting.remove(&peer).unwrap_or_default() {
            request.waiter.failed(error);
        }
    }

    pub(super) fn handler(&self) -> Handler {
        Handler::new(self.accepted.subscribe())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Incoming;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    compat::established_outbound!();

    #[expect(clippy::wildcard_enum_match_arm, reason = "versions differ in what else there is")]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.established(&event),
            FromSwarm::ConnectionClosed(event) => self.closed(&event),
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error, .. }) => {
                self.dial_failed(peer, error);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: Accepted) {
        let Accepted { protocol, stream } = event;
        self.events.push_back(ToSwarm::GenerateEvent(Incoming { peer, protocol, stream }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Incoming, THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
