//! How bytes get to other nodes: TCP, relays, and WebSocket and QUIC where they are compiled in.

use super::libp2p::core::Transport as _;
use super::libp2p::core::muxing::StreamMuxerBox;
use super::libp2p::core::transport::Boxed;
use super::libp2p::core::transport::timeout::TransportTimeout;
use super::libp2p::core::upgrade::Version;
use super::libp2p::{PeerId, identity, noise, plaintext, relay, tcp, yamux};
use crate::counted::Counted;
use crate::stats::Meter;
use crate::{NodeConfig, NodeError, Security};

type Transport = Boxed<(PeerId, StreamMuxerBox)>;

/// The transport, and the relay client's other half.
pub(super) fn build(
    key: &identity::Keypair,
    config: &NodeConfig,
    meter: &Meter,
) -> Result<(Transport, relay::client::Behaviour), NodeError> {
    let (circuits, relay) = relay::client::new(key.public().to_peer_id());
    let tcp = || {
        let meter = meter.clone();
        tcp::tokio::Transport::new(super::compat::tcp_config(config.dcutr))
            .map(move |stream, _| Counted::new(stream, meter.clone()))
    };
    #[cfg(not(feature = "ws"))]
    let sockets = tcp();
    #[cfg(feature = "ws")]
    let sockets = super::compat::WebSocket::new(tcp()).or_transport(tcp());
    let streams = circuits.or_transport(sockets).upgrade(Version::V1Lazy);
    let muxer = yamux::Config::default();
    let wrong = |err: &dyn std::fmt::Display| NodeError::Config(err.to_string());
    let transport = match config.security {
        Security::Noise => {
            let noise = noise::Config::new(key).map_err(|err| wrong(&err))?;
            streams.authenticate(noise).multiplex(muxer).boxed()
        }
        #[cfg(feature = "quic")]
        Security::Tls => {
            let tls = super::libp2p::tls::Config::new(key).map_err(|err| wrong(&err))?;
            streams.authenticate(tls).multiplex(muxer).boxed()
        }
        Security::Plaintext => {
            streams.authenticate(plaintext::Config::new(key)).multiplex(muxer).boxed()
        }
    };
    #[cfg(feature = "quic")]
    let transport = with_quic(transport, key);
    // A host that drops packets would keep a dial for as long as its kernel likes.
    let transport = TransportTimeout::new(transport, config.dial_timeout).boxed();
    Ok((transport, relay))
}

#[cfg(feature = "quic")]
fn with_quic(others: Transport, key: &identity::Keypair) -> Transport {
    use futures::future::Either;

    let quic = super::libp2p::quic::tokio::Transport::new(super::libp2p::quic::Config::new(key));
    quic.or_transport(others)
        .map(|either, _| match either {
            Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            Either::Right(other) => other,
        })
        .boxed()
}
