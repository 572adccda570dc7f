//! rust-libp2p 0.53: what differs from other versions, and the engine on it.

#[path = "engine/mod.rs"]
#[cfg_attr(
    any(feature = "libp2p-0_56", feature = "libp2p-0_57"),
    expect(clippy::duplicate_mod, reason = "one source for all versions")
)]
pub(crate) mod engine;

use libp2p_0_53 as libp2p;

/// What other versions do otherwise.
mod compat {
    use libp2p_0_53::{gossipsub, kad, swarm, tcp};
    use multiaddr::Multiaddr;

    #[cfg(feature = "ws")]
    pub(crate) use libp2p_websocket_0_53::WsConfig as WebSocket;

    use crate::{KadConfig, NodeError, PeerId};

    /// Makes the handler of a connection that this node has dialled. What the
    /// method is told differs between versions.
    macro_rules! established_outbound {
        () => {
            fn handle_established_outbound_connection(
                &mut self,
                _: ConnectionId,
                _: PeerId,
                _: &Multiaddr,
                _: Endpoint,
            ) -> Result<THandler<Self>, ConnectionDenied> {
                Ok(self.handler())
            }
        };
    }
    pub(crate) use established_outbound;

    pub(crate) fn peer_in(peer: PeerId) -> libp2p_0_53::PeerId {
        libp2p_0_53::PeerId::from_bytes(&peer.to_bytes()).expect("peer ids have not changed")
    }

    pub(crate) fn peer_out(peer: libp2p_0_53::PeerId) -> PeerId {
        PeerId::from_bytes(&peer.to_bytes()).expect("peer ids have not changed")
    }

    pub(crate) fn address_in(address: &Multiaddr) -> Result<libp2p_0_53::Multiaddr, NodeError> {
        libp2p_0_53::Multiaddr::try_from(address.to_vec()).map_err(|err| NodeError::Listen {
            address: address.clone(),
            error: format!("rust-libp2p 0.53 does not know this kind of address: {err}"),
        })
    }

    pub(crate) fn address_out(address: &libp2p_0_53::Multiaddr) -> Multiaddr {
        Multiaddr::try_from(address.to_vec()).expect("newer versions know all older addresses")
    }

    /// Holes are punched from the port of a listener. This version cannot make
    /// an exception for AutoNAT's dials, which then fail on a used pair of
    /// ports, so that it reuses ports only where holes are punched.
    pub(crate) fn tcp_config(punches: bool) -> tcp::Config {
        tcp::Config::new().nodelay(true).port_reuse(punches)
    }

    pub(crate) fn swarm_config(idle: std::time::Duration) -> swarm::Config {
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(idle)
    }

    /// The bucket size is fixed and the table is not refreshed by itself in
    /// this version.
    pub(crate) fn kad_config(wanted: &KadConfig) -> kad::Config {
        let mut config = kad::Config::default();
        config.set_protocol_names(vec![libp2p_0_53::StreamProtocol::new(wanted.protocol)]);
        config
    }

    /// The peers of a closest-peers answer, in this version without addresses.
    pub(crate) fn closest_peers(
        result: kad::GetClosestPeersResult,
    ) -> (Vec<(PeerId, Vec<Multiaddr>)>, bool) {
        let (peers, timed_out) = match result {
            Ok(answer) => (answer.peers, false),
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => (peers, true),
        };
        (peers.into_iter().map(|peer| (peer_out(peer), Vec::new())).collect(), timed_out)
    }

    pub(crate) fn unsubscribe(gossip: &mut gossipsub::Behaviour, topic: &gossipsub::IdentTopic) {
        // Fails when there was no subscription, which is what was asked for.
        let _ = gossip.unsubscribe(topic);
    }

    pub(crate) fn report(
        gossip: &mut gossipsub::Behaviour,
        message: &gossipsub::MessageId,
        from: &libp2p_0_53::PeerId,
        verdict: gossipsub::MessageAcceptance,
    ) {
        // A message that is not kept any more needs no verdict.
        let _ = gossip.report_message_validation_result(message, from, verdict);
    }
}
