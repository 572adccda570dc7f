//! rust-libp2p 0.56: what differs from other versions, and the engine on it.

#[path = "engine/mod.rs"]
#[cfg_attr(
    feature = "libp2p-0_57",
    expect(clippy::duplicate_mod, reason = "one source for all versions")
)]
pub(crate) mod engine;

use libp2p_0_56 as libp2p;

/// What other versions do otherwise.
mod compat {
    use std::num::NonZeroUsize;

    use libp2p_0_56::{gossipsub, kad, swarm, tcp};
    use multiaddr::Multiaddr;

    #[cfg(feature = "ws")]
    pub(crate) use libp2p_websocket_0_56::Config as WebSocket;

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
                _: super::libp2p::core::transport::PortUse,
            ) -> Result<THandler<Self>, ConnectionDenied> {
                Ok(self.handler())
            }
        };
    }
    pub(crate) use established_outbound;

    pub(crate) fn peer_in(peer: PeerId) -> libp2p_0_56::PeerId {
        libp2p_0_56::PeerId::from_bytes(&peer.to_bytes()).expect("peer ids have not changed")
    }

    pub(crate) fn peer_out(peer: libp2p_0_56::PeerId) -> PeerId {
        PeerId::from_bytes(&peer.to_bytes()).expect("peer ids have not changed")
    }

    pub(crate) fn address_in(address: &Multiaddr) -> Result<libp2p_0_56::Multiaddr, NodeError> {
        libp2p_0_56::Multiaddr::try_from(address.to_vec()).map_err(|err| NodeError::Listen {
            address: address.clone(),
            error: format!("rust-libp2p 0.56 does not know this kind of address: {err}"),
        })
    }

    pub(crate) fn address_out(address: &libp2p_0_56::Multiaddr) -> Multiaddr {
        Multiaddr::try_from(address.to_vec()).expect("newer versions know all older addresses")
    }

    /// This version decides for each dial whether to reuse a listener's port.
    pub(crate) fn tcp_config(_: bool) -> tcp::Config {
        tcp::Config::new().nodelay(true)
    }

    pub(crate) fn swarm_config(idle: std::time::Duration) -> swarm::Config {
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(idle)
    }

    pub(crate) fn kad_config(wanted: &KadConfig) -> kad::Config {
        let protocol = libp2p_0_56::StreamProtocol::new(wanted.protocol);
        let mut config = kad::Config::new(protocol);
        if let Some(size) = NonZeroUsize::new(wanted.bucket_size) {
            config.set_kbucket_size(size);
        }
        config.set_periodic_bootstrap_interval(wanted.refresh);
        config
    }

    /// The peers of a closest-peers answer, and where they are said to be.
    pub(crate) fn closest_peers(
        result: kad::GetClosestPeersResult,
    ) -> (Vec<(PeerId, Vec<Multiaddr>)>, bool) {
        let (peers, timed_out) = match result {
            Ok(answer) => (answer.peers, false),
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => (peers, true),
        };
        let known = |info: kad::PeerInfo| {
            (peer_out(info.peer_id), info.addrs.iter().map(address_out).collect())
        };
        (peers.into_iter().map(known).collect(), timed_out)
    }

    pub(crate) fn unsubscribe(gossip: &mut gossipsub::Behaviour, topic: &gossipsub::IdentTopic) {
        gossip.unsubscribe(topic);
    }

    pub(crate) fn report(
        gossip: &mut gossipsub::Behaviour,
        message: &gossipsub::MessageId,
        from: &libp2p_0_56::PeerId,
        verdict: gossipsub::MessageAcceptance,
    ) {
        // A message that is not kept any more needs no verdict.
        let _ = gossip.report_message_validation_result(message, from, verdict);
    }
}
