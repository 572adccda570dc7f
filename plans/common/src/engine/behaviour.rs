//! The protocols of a node, each there or not.

use std::num::NonZeroUsize;

use super::libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use super::libp2p::swarm::NetworkBehaviour;
use super::libp2p::swarm::behaviour::toggle::Toggle;
use super::libp2p::{autonat, dcutr, gossipsub, identify, identity, kad, ping, relay};
use super::{compat, gossip, streams};
use crate::{AutonatConfig, KadConfig, KadMode, NodeConfig, NodeError, RelayLimits};

/// All protocols together.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "super::libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    pub(super) identify: identify::Behaviour,
    pub(super) ping: Toggle<ping::Behaviour>,
    pub(super) kad: Toggle<kad::Behaviour<MemoryStore>>,
    pub(super) relay_server: Toggle<relay::Behaviour>,
    pub(super) relay_client: Toggle<relay::client::Behaviour>,
    pub(super) dcutr: Toggle<dcutr::Behaviour>,
    pub(super) autonat: Toggle<autonat::Behaviour>,
    pub(super) gossip: Toggle<gossipsub::Behaviour>,
    pub(super) streams: streams::Behaviour,
}

impl Behaviour {
    pub(super) fn new(
        key: &identity::Keypair,
        config: &NodeConfig,
        relay_client: relay::client::Behaviour,
    ) -> Result<Self, NodeError> {
        let peer = key.public().to_peer_id();
        let identify = identify::Config::new("/groundswell/1.0.0".to_owned(), key.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true);
        let gossip =
            config.gossip.as_ref().map(|wanted| gossip::behaviour(key, wanted)).transpose()?;
        Ok(Self {
            identify: identify::Behaviour::new(identify),
            ping: config
                .ping
                .map(|every| ping::Behaviour::new(ping::Config::new().with_interval(every)))
                .into(),
            kad: config.kad.as_ref().map(|wanted| kademlia(peer, wanted)).into(),
            relay_server: config
                .relay_server
                .as_ref()
                .map(|limits| relay::Behaviour::new(peer, relay_config(limits)))
                .into(),
            relay_client: config.relay_client.then_some(relay_client).into(),
            dcutr: config.dcutr.then(|| dcutr::Behaviour::new(peer)).into(),
            autonat: config
                .autonat
                .as_ref()
                .map(|wanted| autonat::Behaviour::new(peer, autonat_config(wanted)))
                .into(),
            gossip: gossip.into(),
            streams: streams::Behaviour::new(),
        })
    }
}

/// What a mode is called in this version.
pub(super) fn kad_mode(mode: KadMode) -> Option<kad::Mode> {
    match mode {
        KadMode::Auto => None,
        KadMode::Server => Some(kad::Mode::Server),
        KadMode::Client => Some(kad::Mode::Client),
    }
}

fn kademlia(peer: super::libp2p::PeerId, wanted: &KadConfig) -> kad::Behaviour<MemoryStore> {
    let mut config = compat::kad_config(wanted);
    config.set_query_timeout(wanted.query_timeout);
    if let Some(alpha) = NonZeroUsize::new(wanted.alpha) {
        config.set_parallelism(alpha);
    }
    if let Some(replication) = NonZeroUsize::new(wanted.replication) {
        config.set_replication_factor(replication);
    }
    let store = MemoryStoreConfig {
        max_records: wanted.max_records,
        max_provided_keys: wanted.max_records,
        ..MemoryStoreConfig::default()
    };
    let store = MemoryStore::with_config(peer, store);
    let mut behaviour = kad::Behaviour::with_config(peer, store, config);
    behaviour.set_mode(kad_mode(wanted.mode));
    behaviour
}

fn relay_config(limits: &RelayLimits) -> relay::Config {
    relay::Config {
        max_reservations: limits.reservations,
        // From one address as many as there are: members of a NAT share one.
        max_reservations_per_peer: limits.reservations,
        reservation_duration: limits.reservation_time,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.circuits,
        max_circuits_per_peer: limits.circuits_per_peer,
        max_circuit_duration: limits.circuit_time,
        max_circuit_bytes: limits.circuit_bytes,
        circuit_src_rate_limiters: Vec::new(),
    }
}

fn autonat_config(wanted: &AutonatConfig) -> autonat::Config {
    autonat::Config {
        boot_delay: wanted.boot_delay,
        retry_interval: wanted.retry,
        refresh_interval: wanted.refresh,
        confidence_max: wanted.confidence,
        // The addresses of a test's network are private or nobody's.
        only_global_ips: false,
        throttle_server_period: std::time::Duration::ZERO,
        throttle_clients_global_max: usize::MAX,
        throttle_clients_peer_max: usize::MAX,
        ..autonat::Config::default()
    }
}
