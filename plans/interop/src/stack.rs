//! Stacks: what a node speaks on its way to others, as `transport/security/muxer`.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_p2p::{GossipConfig, Identity, Multiaddr, NodeConfig, Protocol, Security, Version};
use groundswell_sdk::prelude::*;

/// A node of a version that speaks one stack only, or why this build cannot.
pub(crate) fn config(identity: Identity, stack: &str, version: Version) -> Result<NodeConfig> {
    let config = NodeConfig { version, ..NodeConfig::new(identity) };
    let lacks = |what: &str| format!("rust-{} as it is built here has no {what}", config.version);
    let [transport, security, muxer] = parts(stack)?;
    let security = match (transport, security) {
        ("tcp", _) => security_of(security).ok_or_else(|| lacks(security))?,
        ("ws", _) if cfg!(feature = "ws") => {
            security_of(security).ok_or_else(|| lacks(security))?
        }
        // QUIC has its own.
        ("quic", "tls") if cfg!(feature = "quic") => Security::Noise,
        (transport, _) => return Err(lacks(transport).into()),
    };
    let known = if transport == "quic" { "quic" } else { "yamux" };
    ensure!(muxer == known, "{}", lacks(muxer));
    Ok(NodeConfig {
        security,
        agent: implementation(config.version),
        ping: Some(Duration::from_millis(200)),
        relay_client: true,
        gossip: Some(GossipConfig::default()),
        ..config
    })
}

fn security_of(name: &str) -> Option<Security> {
    match name {
        "noise" => Some(Security::Noise),
        "plaintext" => Some(Security::Plaintext),
        #[cfg(feature = "quic")]
        "tls" => Some(Security::Tls),
        _ => None,
    }
}

/// Where a node that speaks a stack listens.
pub(crate) fn listen(stack: &str, ip: Ipv4Addr) -> Result<Multiaddr> {
    let [transport, ..] = parts(stack)?;
    let at = Multiaddr::empty().with(Protocol::Ip4(ip));
    Ok(match transport {
        "quic" => at.with(Protocol::Udp(0)).with(Protocol::QuicV1),
        "ws" => at.with(Protocol::Tcp(0)).with(Protocol::Ws("/".into())),
        _ => at.with(Protocol::Tcp(0)),
    })
}

fn parts(stack: &str) -> Result<[&str; 3]> {
    let parts: Vec<&str> = stack.split('/').collect();
    let [transport, security, muxer] = parts[..] else {
        return Err(format!("`{stack}` is no transport/security/muxer").into());
    };
    Ok([transport, security, muxer])
}

/// How a version of rust-libp2p is called.
pub(crate) fn implementation(version: Version) -> String {
    format!("rust-{}", version.name().replace('_', "."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::PLAIN;

    fn config(stack: &str) -> Result<NodeConfig> {
        super::config(Identity::derive(1, 2, 3), stack, Version::oldest())
    }

    #[test]
    fn a_stack_that_is_not_built_in_is_told_by_name() {
        let wrong = |stack| config(stack).unwrap_err().to_string();
        assert!(wrong("tcp/noise/mplex").ends_with("has no mplex"));
        assert!(wrong("udp/noise/yamux").ends_with("has no udp"));
        assert!(wrong("tcp").contains("`tcp` is no transport/security/muxer"));
        if cfg!(not(feature = "quic")) {
            assert!(wrong("tcp/tls/yamux").ends_with("has no tls"));
            assert!(wrong("quic/tls/quic").ends_with("has no quic"));
        }
        if cfg!(not(feature = "ws")) {
            assert!(wrong("ws/noise/yamux").ends_with("has no ws"));
        }
        let plain = config(PLAIN).unwrap();
        assert!(plain.agent.starts_with("rust-libp2p-0.5"), "{}", plain.agent);
    }

    #[test]
    fn a_stack_says_where_it_listens() {
        let at = |stack| listen(stack, Ipv4Addr::LOCALHOST).unwrap().to_string();
        assert_eq!(at(PLAIN), "/ip4/127.0.0.1/tcp/0");
        assert_eq!(at("ws/noise/yamux"), "/ip4/127.0.0.1/tcp/0/ws");
        assert_eq!(at("quic/tls/quic"), "/ip4/127.0.0.1/udp/0/quic-v1");
    }
}
