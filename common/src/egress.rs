//! What instances reach outside their data network, and what reaches them from outside.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::InstanceId;

/// What the instances of a group may reach outside the data network. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupEgress {
    /// The Internet, until an instance's own network configuration says otherwise.
    pub allow: bool,
    /// Rate of each instance and direction, in bits per second; absent is the worker's own.
    pub rate_bps: Option<u64>,
    /// Hosts that are reached in any case: names, IPv4 addresses and networks, also private ones.
    pub hosts: Vec<String>,
}

impl GroupEgress {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A port of an instance and where it is reached from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedPort {
    /// The instance.
    pub instance: InstanceId,
    /// What the port is called.
    pub label: String,
    /// The port inside.
    pub port: u16,
    /// Where a worker listens for it.
    pub address: SocketAddr,
}
