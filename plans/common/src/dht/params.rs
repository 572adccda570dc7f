//! The parameters of a DHT, under their historic names where they have one.

use std::time::Duration;

use groundswell_sdk::{Percent, Rate};
use serde::Deserialize;

use crate::version::UnknownVersion;
use crate::{KadConfig, KadMode, Version};

/// Who answers the DHT's queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientMode {
    /// Whoever finds out by AutoNAT that others reach it.
    Auto,
    /// Everybody, reachable or not: how it was until 2019.
    AllServer,
    /// Everybody who is reachable, which nodes are told.
    NatAreClients,
}

impl ClientMode {
    /// The name, as in parameters and tags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::AllServer => "all-server",
            Self::NatAreClients => "nat-are-clients",
        }
    }

    /// How a node begins.
    #[must_use]
    pub fn kad_mode(self, dialable: bool) -> KadMode {
        match (self, dialable) {
            (Self::Auto, _) => KadMode::Auto,
            (Self::AllServer, _) | (Self::NatAreClients, true) => KadMode::Server,
            (Self::NatAreClients, false) => KadMode::Client,
        }
    }
}

/// How a node gets into the network once it knows somebody there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// It looks for itself.
    #[serde(rename = "self")]
    Own,
    /// It looks for itself and then fills all buckets.
    Full,
}

/// What a case says about the DHT. Whatever a manifest leaves out has the default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DhtParams {
    /// What each packet waits before it leaves.
    pub latency: Duration,
    /// How far that deviates.
    pub jitter_pct: f64,
    /// What an instance sends at most.
    pub bandwidth: Option<Rate>,
    /// Peers in a bucket.
    pub bucket_size: usize,
    /// Requests in flight per query.
    pub alpha: usize,
    /// Peers that hold a record.
    pub replication: usize,
    /// When a query gives up.
    pub query_timeout: Duration,
    /// How long a connection that nobody uses is kept.
    pub idle_timeout: Duration,
    /// Who answers queries.
    pub client_mode: ClientMode,
    /// Whether nodes that are told that nobody reaches them keep a place at a
    /// bootstrapper's relay, so that they have an address.
    pub relay: bool,
    /// How nodes join.
    pub join: Join,
    /// Over how long nodes join.
    pub stagger: Duration,
    /// How long the network then settles.
    pub settle: Duration,
    /// The share of the group that announces an address at which nobody answers.
    pub undialable_pct: Percent,
    /// Which of the versions in this build the nodes run. Without a word the oldest.
    pub version: Option<String>,
    /// Nodes in each instance. Only the first one takes part in the case; the others fill the network.
    pub nodes_per_instance: usize,
}

impl Default for DhtParams {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter_pct: 10.0,
            bandwidth: None,
            bucket_size: 20,
            alpha: 3,
            replication: 20,
            query_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            client_mode: ClientMode::NatAreClients,
            relay: true,
            join: Join::Own,
            stagger: Duration::from_secs(2),
            settle: Duration::from_secs(2),
            undialable_pct: Percent(0.0),
            version: None,
            nodes_per_instance: 1,
        }
    }
}

impl DhtParams {
    /// The version that nodes run.
    pub fn version(&self) -> Result<Version, UnknownVersion> {
        self.version.as_deref().map_or_else(|| Ok(Version::oldest()), str::parse)
    }

    /// Kademlia's part of it.
    #[must_use]
    pub fn kad(&self, mode: KadMode) -> KadConfig {
        KadConfig {
            bucket_size: self.bucket_size,
            alpha: self.alpha,
            replication: self.replication,
            query_timeout: self.query_timeout,
            mode,
            ..KadConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::Params;

    use super::*;

    #[test]
    fn historic_names_are_read_and_the_rest_has_defaults() {
        let text = "latency=100ms|bucket_size=10|client_mode=all-server|join=full|other=1";
        let params: DhtParams = Params::unpack(text).read().unwrap();
        assert_eq!(params.latency, Duration::from_millis(100));
        assert_eq!((params.bucket_size, params.alpha), (10, 3));
        assert_eq!((params.client_mode, params.join), (ClientMode::AllServer, Join::Full));
    }

    #[test]
    fn a_version_that_is_not_built_in_is_refused_by_name() {
        let params = DhtParams { version: Some("libp2p-0_1".to_owned()), ..DhtParams::default() };
        assert!(params.version().unwrap_err().to_string().contains("`libp2p-0_1`"));
        assert_eq!(DhtParams::default().version().unwrap(), Version::oldest());
    }

    #[test]
    fn only_those_told_that_they_are_not_reachable_are_clients() {
        assert_eq!(ClientMode::NatAreClients.kad_mode(false), KadMode::Client);
        assert_eq!(ClientMode::NatAreClients.kad_mode(true), KadMode::Server);
        assert_eq!(ClientMode::AllServer.kad_mode(false), KadMode::Server);
        assert_eq!(ClientMode::Auto.kad_mode(true), KadMode::Auto);
    }
}
