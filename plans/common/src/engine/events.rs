//! What the swarm tells: kept in the node's state, and passed on.

use super::behaviour::BehaviourEvent;
use super::libp2p::core::ConnectedPoint;
use super::libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use super::libp2p::{autonat, identify, kad, relay};
use super::queries::answer;
use super::{Engine, commands, compat};
use crate::{AutonatVerdict, Connection, Event, NodeError, PeerId, RelayEvent};

impl Engine {
    #[expect(clippy::wildcard_enum_match_arm, reason = "versions differ in what else there is")]
    pub(super) fn observe(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.observe_protocol(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(compat::peer_out(peer_id), connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id, connection_id, num_established, cause, ..
            } => {
                let closed = self.connections.remove(&connection_id);
                self.tell(Event::Disconnected {
                    peer: compat::peer_out(peer_id),
                    relayed: closed.is_some_and(|connection| connection.relayed),
                    left: num_established,
                    cause: cause.map(|err| err.to_string()),
                });
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.dial_failed(peer_id.map(compat::peer_out), connection_id, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.tell(Event::Listening(compat::address_out(&address)));
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                let known = self.listeners.iter().position(|(_, id)| *id == listener_id);
                if let Some(index) = known {
                    let (address, _) = self.listeners.remove(index);
                    self.tell(Event::ListenerGone(address));
                }
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.tell(Event::External(compat::address_out(&address)));
            }
            _ => {}
        }
    }

    fn connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let address = endpoint.get_remote_address();
        let connection = Connection {
            peer,
            address: compat::address_out(address),
            dialer: endpoint.is_dialer(),
            // Where a relayed connection comes from does not say that it is one.
            relayed: endpoint.is_relayed(),
        };
        if connection.dialer {
            self.stats.dials_ok += 1;
        } else {
            self.stats.accepted += 1;
        }
        self.tell(Event::Connected {
            peer,
            address: connection.address.clone(),
            dialer: connection.dialer,
            relayed: connection.relayed,
        });
        self.connections.insert(id, connection);
        if let Some(reply) = self.dials.remove(&id) {
            answer(reply, Ok(peer));
        }
    }

    fn dial_failed(&mut self, peer: Option<PeerId>, id: ConnectionId, error: &DialError) {
        let kind = commands::kind(error);
        *self.stats.dials_failed.entry(kind).or_default() += 1;
        let text = format!("{error:?}");
        if let Some(reply) = self.dials.remove(&id) {
            let who = peer.map_or_else(|| "an unknown peer".to_owned(), |peer| peer.to_string());
            answer(reply, Err(NodeError::Dial { who, kind, error: text.clone() }));
        }
        self.tell(Event::DialFailed { peer, kind, error: text });
    }

    fn observe_protocol(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(event) => self.observe_identify(event),
            BehaviourEvent::Ping(event) => {
                let peer = compat::peer_out(event.peer);
                self.tell(Event::Ping { peer, rtt: event.result.ok() });
            }
            BehaviourEvent::Kad(event) => self.observe_kad(event),
            BehaviourEvent::RelayServer(event) => self.observe_relay(event),
            BehaviourEvent::RelayClient(event) => {
                if let relay::client::Event::ReservationReqAccepted {
                    relay_peer_id, renewal, ..
                } = event
                {
                    let relay = compat::peer_out(relay_peer_id);
                    self.tell(Event::Reserved { relay, renewal });
                }
            }
            BehaviourEvent::Dcutr(event) => self.tell(Event::Upgraded {
                peer: compat::peer_out(event.remote_peer_id),
                error: event.result.err().map(|err| err.to_string()),
            }),
            BehaviourEvent::Autonat(event) => self.observe_autonat(event),
            BehaviourEvent::Gossip(event) => self.observe_gossip(event),
            BehaviourEvent::Streams(incoming) => self.take_stream(incoming),
        }
    }

    fn observe_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        let serves = self
            .kad_protocol
            .is_some_and(|own| info.protocols.iter().any(|protocol| protocol.as_ref() == own));
        if let (true, Ok(kad)) = (serves, self.kad()) {
            for address in &info.listen_addrs {
                kad.add_address(&peer_id, address.clone());
            }
        }
        self.tell(Event::Identified {
            peer: compat::peer_out(peer_id),
            agent: info.agent_version,
            protocols: info.protocols.iter().map(ToString::to_string).collect(),
            listens: info.listen_addrs.iter().map(compat::address_out).collect(),
            observed: compat::address_out(&info.observed_addr),
        });
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is about the routing table")]
    fn observe_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
                self.step(id, result, &stats, step.last);
            }
            kad::Event::InboundRequest { .. } => self.stats.kad_requests_in += 1,
            kad::Event::ModeChanged { new_mode } => {
                self.tell(Event::KadServer(new_mode == kad::Mode::Server));
            }
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "versions differ in what else there is")]
    fn observe_relay(&mut self, event: relay::Event) {
        let out = compat::peer_out;
        let event = match event {
            relay::Event::ReservationReqAccepted { src_peer_id, .. } => {
                RelayEvent::ReservationAccepted(out(src_peer_id))
            }
            relay::Event::ReservationReqDenied { src_peer_id, .. } => {
                RelayEvent::ReservationDenied(out(src_peer_id))
            }
            relay::Event::ReservationTimedOut { src_peer_id } => {
                RelayEvent::ReservationEnded(out(src_peer_id))
            }
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                RelayEvent::CircuitAccepted { from: out(src_peer_id), to: out(dst_peer_id) }
            }
            relay::Event::CircuitReqDenied { src_peer_id, dst_peer_id, .. } => {
                RelayEvent::CircuitDenied { from: out(src_peer_id), to: out(dst_peer_id) }
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => {
                RelayEvent::CircuitClosed { from: out(src_peer_id), to: out(dst_peer_id) }
            }
            _ => return,
        };
        self.tell(Event::Relay(event));
    }

    fn observe_autonat(&mut self, event: autonat::Event) {
        let autonat::Event::StatusChanged { new, .. } = event else { return };
        self.tell(Event::Autonat(match new {
            autonat::NatStatus::Public(address) => {
                AutonatVerdict::Public(compat::address_out(&address))
            }
            autonat::NatStatus::Private => AutonatVerdict::Private,
            autonat::NatStatus::Unknown => AutonatVerdict::Unknown,
        }));
    }
}
