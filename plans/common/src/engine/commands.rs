//! What a handle asks for.

use std::time::Duration;

use tokio::sync::mpsc;

use super::libp2p::StreamProtocol;
use super::libp2p::swarm::DialError;
use super::libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use super::queries::answer;
use super::streams::{Incoming, Request};
use super::{Engine, compat};
use crate::command::{Command, KadCommand, Reply};
use crate::{
    Connection, DialFailure, IncomingStream, Multiaddr, NodeError, PeerId, Protocol, Stream,
};

/// Streams of a protocol that may wait to be taken.
const STREAMS: usize = 1024;

impl Engine {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Listen { address, reply } => {
                let listening = self.listen(address);
                answer(reply, listening);
            }
            Command::StopListening { address, reply } => {
                answer(reply, self.stop_listening(&address));
            }
            Command::AddExternal { address, reply } => {
                let known = compat::address_in(&address);
                answer(reply, known.map(|address| self.swarm.add_external_address(address)));
            }
            Command::Listeners { reply } => {
                answer(reply, Ok(self.swarm.listeners().map(compat::address_out).collect()));
            }
            Command::Dial { address, reply } => self.dial(&address, reply),
            Command::DialPeer { peer, addresses, reply } => {
                self.dial_peer(peer, &addresses, reply);
            }
            Command::Disconnect { peer, reply } => {
                // Fails for one that is not connected, which is what was asked for.
                let _ = self.swarm.disconnect_peer_id(compat::peer_in(peer));
                answer(reply, Ok(()));
            }
            Command::Connections { reply } => {
                answer(reply, Ok(self.connections.values().cloned().collect()));
            }
            Command::Stats { reply } => answer(reply, Ok(self.stats())),
            Command::OpenStream { peer, protocol, reply } => self.open(peer, protocol, reply),
            Command::AcceptStreams { protocol, reply } => answer(reply, self.accept(&protocol)),
            Command::AutonatServer { peer, address, reply } => {
                answer(reply, self.autonat_server(peer, &address));
            }
            Command::Kad(command) => self.obey_kad(command),
            Command::Gossip(command) => self.obey_gossip(command),
        }
    }

    fn obey_kad(&mut self, command: KadCommand) {
        match command {
            KadCommand::AddAddress { peer, address, reply } => {
                answer(reply, self.add_address(peer, &address));
            }
            KadCommand::ForgetPeer { peer, reply } => {
                let kad = self.kad();
                answer(reply, kad.map(|kad| drop(kad.remove_peer(&compat::peer_in(peer)))));
            }
            KadCommand::SetMode { mode, reply } => answer(reply, self.set_kad_mode(mode)),
            KadCommand::Bootstrap { reply } => self.bootstrap(reply),
            KadCommand::Closest { key, reply } => self.closest(key, reply),
            KadCommand::FindPeer { peer, reply } => self.find_peer(peer, reply),
            KadCommand::Provide { key, reply } => self.provide(&key, reply),
            KadCommand::Providers { key, want, reply } => self.providers(&key, want, reply),
            KadCommand::PutValue { key, value, ttl, reply } => {
                self.put_value(&key, value, ttl.map(later), reply);
            }
            KadCommand::GetValue { key, want, reply } => self.get_value(&key, want, reply),
            KadCommand::RoutingTable { reply } => answer(reply, self.routing_table()),
            KadCommand::RecordsHeld { keys, reply } => answer(reply, self.records_held(&keys)),
        }
    }

    fn stop_listening(&mut self, address: &Multiaddr) -> Result<(), NodeError> {
        let known = self.listeners.iter().position(|(given, _)| given == address);
        let index = known.ok_or_else(|| NodeError::Listen {
            address: address.clone(),
            error: "the node does not listen there".to_owned(),
        })?;
        let (_, listener) = self.listeners.remove(index);
        self.swarm.remove_listener(listener);
        Ok(())
    }

    /// Dials whoever is at an address, and nowhere else. A peer that is
    /// connected in the same way, directly or through a relay, is not dialled
    /// again.
    fn dial(&mut self, address: &Multiaddr, reply: Reply<PeerId>) {
        let known = match compat::address_in(address) {
            Ok(known) => known,
            Err(err) => return answer(reply, Err(err)),
        };
        let Some(peer) = last_peer(address) else {
            let options = DialOpts::unknown_peer_id().address(known).build();
            return self.begin_dial(options, None, address.to_string(), reply);
        };
        let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
        let same = |one: &Connection| one.peer == peer && one.relayed == relayed;
        if self.connections.values().any(same) {
            return answer(reply, Ok(peer));
        }
        let options = DialOpts::peer_id(compat::peer_in(peer))
            .condition(PeerCondition::Always)
            .addresses(vec![known])
            .build();
        self.begin_dial(options, Some(peer), address.to_string(), reply);
    }

    /// Dials a peer at these addresses and all that the node has learnt.
    fn dial_peer(&mut self, peer: PeerId, addresses: &[Multiaddr], reply: Reply<PeerId>) {
        let known: Result<Vec<_>, _> = addresses.iter().map(compat::address_in).collect();
        let known = match known {
            Ok(known) => known,
            Err(err) => return answer(reply, Err(err)),
        };
        let options = DialOpts::peer_id(compat::peer_in(peer))
            .condition(PeerCondition::Disconnected)
            .addresses(known)
            .extend_addresses_through_behaviour()
            .build();
        let who = addresses.first().map_or_else(|| peer.to_string(), ToString::to_string);
        self.begin_dial(options, Some(peer), who, reply);
    }

    fn begin_dial(
        &mut self,
        options: DialOpts,
        peer: Option<PeerId>,
        who: String,
        reply: Reply<PeerId>,
    ) {
        let connection = options.connection_id();
        match (self.swarm.dial(options), peer) {
            (Ok(()), _) => {
                self.dials.insert(connection, reply);
            }
            (Err(DialError::DialPeerConditionFalse(_)), Some(peer)) => answer(reply, Ok(peer)),
            (Err(err), _) => {
                let (kind, error) = (kind(&err), err.to_string());
                answer(reply, Err(NodeError::Dial { who, kind, error }));
            }
        }
    }

    fn add_address(&mut self, peer: PeerId, address: &Multiaddr) -> Result<(), NodeError> {
        let address = compat::address_in(address)?;
        self.kad()?.add_address(&compat::peer_in(peer), address);
        Ok(())
    }

    fn autonat_server(&mut self, peer: PeerId, address: &Multiaddr) -> Result<(), NodeError> {
        let address = compat::address_in(address)?;
        let autonat = self.swarm.behaviour_mut().autonat.as_mut();
        let autonat = autonat.ok_or(NodeError::Without("AutoNAT"))?;
        autonat.add_server(compat::peer_in(peer), Some(address));
        Ok(())
    }

    fn open(&mut self, peer: PeerId, protocol: String, reply: Reply<Stream>) {
        match StreamProtocol::try_from_owned(protocol) {
            Ok(protocol) => {
                let request = Request::new(protocol, reply);
                self.swarm.behaviour_mut().streams.open(compat::peer_in(peer), request);
            }
            Err(err) => answer(reply, Err(NodeError::OpenStream(err.to_string()))),
        }
    }

    fn accept(&mut self, protocol: &str) -> Result<mpsc::Receiver<IncomingStream>, NodeError> {
        let wrong = |err: String| NodeError::Config(format!("protocol `{protocol}`: {err}"));
        let name = StreamProtocol::try_from_owned(protocol.to_owned())
            .map_err(|err| wrong(err.to_string()))?;
        if self.takers.get(protocol).is_some_and(|taker| !taker.is_closed()) {
            return Err(wrong("its streams are taken already".to_owned()));
        }
        self.swarm.behaviour_mut().streams.accept(name);
        let (taker, streams) = mpsc::channel(STREAMS);
        self.takers.insert(protocol.to_owned(), taker);
        Ok(streams)
    }

    /// Hands a stream to whoever takes those of its protocol. One too many is
    /// closed, as a listener does whose backlog is full.
    pub(super) fn take_stream(&mut self, incoming: Incoming) {
        let Some(taker) = self.takers.get(incoming.protocol.as_ref()) else { return };
        let stream = crate::stream::boxed(incoming.stream);
        let peer = compat::peer_out(incoming.peer);
        if taker.try_send(IncomingStream { peer, stream }).is_err() {
            tracing::warn!(%peer, "a stream was closed: nobody takes those of its protocol");
        }
    }
}

/// The kind of a failed dial.
pub(super) fn kind(error: &DialError) -> DialFailure {
    match error {
        DialError::NoAddresses => DialFailure::NoAddress,
        DialError::WrongPeerId { .. } | DialError::LocalPeerId { .. } => DialFailure::WrongPeer,
        DialError::DialPeerConditionFalse(_) | DialError::Aborted | DialError::Denied { .. } => {
            DialFailure::Declined
        }
        DialError::Transport(errors) => DialFailure::of_text(&format!("{errors:?}")),
    }
}

/// The peer that an address names at its end.
fn last_peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a record's end is a point in time of the standard library's clock"
)]
fn later(ttl: Duration) -> std::time::Instant {
    std::time::Instant::now() + ttl
}
