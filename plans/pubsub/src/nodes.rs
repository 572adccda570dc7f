//! How the nodes are configured.

use groundswell_p2p::{
    Forward, GossipConfig, GossipProtocol, Identity, Multiaddr, NodeConfig, Protocol, ScoreConfig,
};

use crate::params::{GossipVersion, P};
use crate::scenario::{Conduct, Scenario};
use crate::world::{Peer, World};

/// The topic of all messages.
pub(crate) const TOPIC: &str = "groundswell";

/// Where a node listens.
pub(crate) fn listen(ip: std::net::Ipv4Addr, port: u16) -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4(ip)).with(Protocol::Tcp(port))
}

/// An honest node.
pub(crate) fn honest(identity: Identity, at: Multiaddr, scenario: Scenario, p: &P) -> NodeConfig {
    let score = p.scoring.then(|| ScoreConfig {
        delivery_window: p.score_delivery_window,
        delivery_activation: p.score_activation,
        colocation_threshold: p.score_colocation_threshold,
        colocation_weight: if scenario.colocation { 5.0 } else { 0.0 },
        ..ScoreConfig::expecting(TOPIC, p.message_rate, p.score_delivery_share.ratio())
    });
    NodeConfig {
        listen: vec![at],
        gossip: Some(GossipConfig {
            protocol: match p.gossip_version {
                GossipVersion::Newest => GossipProtocol::Newest,
                GossipVersion::V1_1 => GossipProtocol::V1_1,
            },
            score,
            ..overlay(p)
        }),
        // Gossipsub's streams keep connections open; nothing else has to.
        ..NodeConfig::new(identity)
    }
}

/// A Sybil: it wants to be in the mesh of everybody it has dialled.
pub(crate) fn sybil(identity: Identity, at: Multiaddr, scenario: Scenario, p: &P) -> NodeConfig {
    let greedy = p.sybil_degree.max(p.overlay_dhi);
    NodeConfig {
        listen: vec![at],
        gossip: Some(GossipConfig {
            d: greedy,
            d_lo: greedy,
            d_hi: greedy * 2,
            d_out: 0,
            // It tells nobody what it has.
            d_lazy: 0,
            gossip_factor: 0.0,
            forward: Some(forward(scenario.before, None, p)),
            ..overlay(p)
        }),
        ..NodeConfig::new(identity)
    }
}

/// What a conduct means for a node.
pub(crate) fn forward(conduct: Conduct, target: Option<&Peer>, p: &P) -> Forward {
    match (conduct, target) {
        (Conduct::Honest, _) | (Conduct::Censoring, None) => Forward::All,
        (Conduct::Silent, _) => Forward::Share(0.0),
        (Conduct::Degraded, _) => Forward::Share(1.0 - p.sybil_degrade.ratio()),
        (Conduct::Censoring, Some(target)) => Forward::Except(target.peer),
    }
}

/// What a Sybil does from the attack on.
pub(crate) fn attack(world: &World, scenario: Scenario, p: &P) -> Forward {
    forward(scenario.after, world.target(scenario), p)
}

fn overlay(p: &P) -> GossipConfig {
    let sizes = p.message_sizes.iter().chain([&p.message_size]);
    let largest = sizes.map(|size| size.0).max().unwrap_or_default();
    GossipConfig {
        heartbeat: p.t_heartbeat,
        prune_backoff: p.prune_backoff,
        d: p.overlay_d,
        d_lo: p.overlay_dlo,
        d_hi: p.overlay_dhi,
        d_lazy: p.overlay_dlazy,
        d_out: p.overlay_dout,
        gossip_factor: p.gossip_factor,
        flood_publish: p.flood_publishing,
        // Room for signature and framing.
        max_message_bytes: usize::try_from(largest).unwrap_or(usize::MAX / 2) + 65_536,
        ..GossipConfig::default()
    }
}
