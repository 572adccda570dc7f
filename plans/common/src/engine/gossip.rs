//! Gossipsub: how it is configured, asked and heard.

use super::libp2p::{PeerId, gossipsub, identity};
use super::queries::answer;
use super::{Engine, compat};
use crate::command::GossipCommand;
use crate::{
    Event, Forward, GossipConfig, GossipProtocol, NodeError, PeerId as NewPeerId, ScoreConfig,
};

/// Gossipsub as it is wanted.
pub(super) fn behaviour(
    key: &identity::Keypair,
    wanted: &GossipConfig,
) -> Result<gossipsub::Behaviour, NodeError> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .heartbeat_interval(wanted.heartbeat)
        .heartbeat_initial_delay(wanted.initial_delay)
        .prune_backoff(wanted.prune_backoff)
        .mesh_n(wanted.d)
        .mesh_n_low(wanted.d_lo)
        .mesh_n_high(wanted.d_hi)
        .mesh_outbound_min(wanted.d_out)
        .gossip_lazy(wanted.d_lazy)
        .gossip_factor(wanted.gossip_factor)
        .flood_publish(wanted.flood_publish)
        .max_transmit_size(wanted.max_message_bytes);
    if wanted.protocol == GossipProtocol::V1_1 {
        config.protocol_id("/meshsub/1.1.0", gossipsub::Version::V1_1);
    }
    if wanted.forward.is_some() {
        config.validate_messages();
    }
    let wrong = |err: &dyn std::fmt::Display| NodeError::Config(format!("gossipsub: {err}"));
    let config = config.build().map_err(|err| wrong(&err))?;
    let signed = gossipsub::MessageAuthenticity::Signed(key.clone());
    let mut behaviour = gossipsub::Behaviour::new(signed, config).map_err(|err| wrong(&err))?;
    if let Some(score) = &wanted.score {
        let (params, thresholds) = scoring(score);
        behaviour.with_peer_score(params, thresholds).map_err(|err| wrong(&err))?;
    }
    Ok(behaviour)
}

fn scoring(wanted: &ScoreConfig) -> (gossipsub::PeerScoreParams, gossipsub::PeerScoreThresholds) {
    let topic = gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: std::time::Duration::from_secs(1),
        time_in_mesh_cap: 100.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: wanted.decay,
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: -wanted.delivery_weight,
        mesh_message_deliveries_decay: wanted.decay,
        // A peer that behaved so far cannot save up for long.
        mesh_message_deliveries_cap: 2.0 * wanted.delivery_threshold,
        mesh_message_deliveries_threshold: wanted.delivery_threshold,
        mesh_message_deliveries_window: wanted.delivery_window,
        mesh_message_deliveries_activation: wanted.delivery_activation,
        mesh_failure_penalty_weight: -wanted.delivery_weight,
        mesh_failure_penalty_decay: wanted.decay,
        ..gossipsub::TopicScoreParams::default()
    };
    let params = gossipsub::PeerScoreParams {
        topics: [(gossipsub::IdentTopic::new(&wanted.topic).hash(), topic)].into(),
        decay_interval: wanted.decay_interval,
        ip_colocation_factor_weight: -wanted.colocation_weight,
        ip_colocation_factor_threshold: wanted.colocation_threshold,
        ..gossipsub::PeerScoreParams::default()
    };
    let thresholds = gossipsub::PeerScoreThresholds {
        opportunistic_graft_threshold: wanted.graft_threshold,
        ..gossipsub::PeerScoreThresholds::default()
    };
    (params, thresholds)
}

fn scores(gossip: &gossipsub::Behaviour) -> Vec<(NewPeerId, f64)> {
    let scored = gossip.all_peers().filter_map(|(peer, _)| {
        let score = gossip.peer_score(peer)?;
        Some((compat::peer_out(*peer), score))
    });
    scored.collect()
}

impl Engine {
    pub(super) fn obey_gossip(&mut self, command: GossipCommand) {
        match command {
            GossipCommand::Subscribe { topic, reply } => answer(reply, self.subscribe(&topic)),
            GossipCommand::Unsubscribe { topic, reply } => {
                let topic = gossipsub::IdentTopic::new(topic);
                answer(reply, self.gossip().map(|gossip| compat::unsubscribe(gossip, &topic)));
            }
            GossipCommand::Publish { topic, data, reply } => {
                answer(reply, self.publish(&topic, data))
            }
            GossipCommand::MeshPeers { topic, reply } => {
                let topic = gossipsub::IdentTopic::new(topic).hash();
                let peers = self.gossip().map(|gossip| {
                    gossip.mesh_peers(&topic).copied().map(compat::peer_out).collect()
                });
                answer(reply, peers);
            }
            GossipCommand::PeerScores { reply } => {
                let scores = self.gossip().map(|gossip| scores(gossip));
                answer(reply, scores);
            }
            GossipCommand::SetForward { forward, reply } => {
                answer(reply, self.set_forward(forward));
            }
            GossipCommand::PeerScore { peer, reply } => {
                let gossip = self.gossip();
                answer(reply, gossip.map(|gossip| gossip.peer_score(&compat::peer_in(peer))));
            }
        }
    }

    fn gossip(&mut self) -> Result<&mut gossipsub::Behaviour, NodeError> {
        self.swarm.behaviour_mut().gossip.as_mut().ok_or(NodeError::Without("gossipsub"))
    }

    fn subscribe(&mut self, topic: &str) -> Result<(), NodeError> {
        let topic = gossipsub::IdentTopic::new(topic);
        let joined = self.gossip()?.subscribe(&topic);
        joined.map(drop).map_err(|err| NodeError::Config(format!("subscription: {err}")))
    }

    fn publish(&mut self, topic: &str, data: Vec<u8>) -> Result<(), NodeError> {
        let topic = gossipsub::IdentTopic::new(topic);
        let sent = self.gossip()?.publish(topic, data);
        sent.map(drop).map_err(|err| NodeError::Publish(err.to_string()))
    }

    fn set_forward(&mut self, forward: Forward) -> Result<(), NodeError> {
        let known = self.forward.as_mut().ok_or(NodeError::Without("a choice what it forwards"))?;
        *known = forward;
        Ok(())
    }

    /// Passes a message on or drops it, if that is the node's to decide.
    fn pass_on(&mut self, id: &gossipsub::MessageId, from: PeerId, source: Option<PeerId>) {
        let Some(forward) = self.forward else { return };
        let passes = match forward {
            Forward::All => true,
            Forward::Share(share) => self.rng.chance(share),
            Forward::Except(peer) => source != Some(compat::peer_in(peer)),
        };
        let verdict = if passes {
            gossipsub::MessageAcceptance::Accept
        } else {
            self.stats.messages_dropped += 1;
            gossipsub::MessageAcceptance::Ignore
        };
        if let Ok(gossip) = self.gossip() {
            compat::report(gossip, id, &from, verdict);
        }
    }

    pub(super) fn observe_gossip(&mut self, event: gossipsub::Event) {
        if let gossipsub::Event::Message { propagation_source, message_id, message } = event {
            self.stats.messages_in += 1;
            self.pass_on(&message_id, propagation_source, message.source);
            self.tell(Event::Message {
                topic: message.topic.to_string(),
                source: message.source.map(compat::peer_out),
                from: compat::peer_out(propagation_source),
                data: message.data,
            });
        } else if let gossipsub::Event::Subscribed { peer_id, topic, .. } = event {
            let (peer, topic) = (compat::peer_out(peer_id), topic.to_string());
            self.tell(Event::Subscription { peer, topic, joined: true });
        } else if let gossipsub::Event::Unsubscribed { peer_id, topic } = event {
            let (peer, topic) = (compat::peer_out(peer_id), topic.to_string());
            self.tell(Event::Subscription { peer, topic, joined: false });
        }
    }
}
