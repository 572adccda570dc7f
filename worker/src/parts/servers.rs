//! The servers a worker depends on: no instance may reach them.
//!
//! Their names are looked up anew for each share, because what a name means may change, and may not be known when
//! the worker starts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use crate::config::WorkerConfig;
use crate::network::overlay::host_of;

/// How often a name is looked up until it counts as unknown, and how long between.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// How long the store for metrics is looked up: no run waits for it.
const METRICS_PATIENCE: Duration = Duration::from_millis(200);

/// The servers by name, and what is known of them.
#[derive(Debug, Default)]
pub struct Servers {
    /// Each with its port.
    names: Vec<String>,
    /// The store for metrics, without which a run goes on all the same.
    metrics: Option<String>,
    /// The addresses each one had when it was last looked up.
    known: Mutex<BTreeMap<String, BTreeSet<Ipv4Addr>>>,
}

/// A server whose address is not known.
#[derive(Debug, thiserror::Error)]
#[error("failed to find the address of `{name}`, which no instance may reach")]
pub struct UnknownServer {
    /// Its name.
    name: String,
    /// Why.
    #[source]
    source: io::Error,
}

impl Servers {
    /// NATS, the object store and the store for metrics, as the configuration has them.
    #[must_use]
    pub fn of(config: &WorkerConfig) -> Self {
        let nats = config.bus.url.split(',').map(|url| host_of(url.trim(), 4222));
        let objects = config.objects.endpoint.iter().map(|url| host_of(url, 443));
        let metrics = config.metrics.as_ref().map(|store| host_of(&store.url, 8086));
        Self { metrics, ..Self::new(nats.chain(objects)) }
    }

    /// These, each with a port.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().collect(), metrics: None, known: Mutex::default() }
    }

    /// Their addresses; for a name that cannot be looked up those that it had before.
    ///
    /// # Errors
    /// When nothing was ever known of one.
    pub async fn addresses(&self) -> Result<BTreeSet<Ipv4Addr>, UnknownServer> {
        for name in &self.names {
            match look_up(name).await {
                Ok(found) => drop(self.lock().insert(name.clone(), found)),
                Err(source) if !self.lock().contains_key(name) => {
                    return Err(UnknownServer { name: name.clone(), source });
                }
                Err(_) => {}
            }
        }
        if let Some(name) = &self.metrics
            && let Ok(Ok(found)) = timeout(METRICS_PATIENCE, addresses_of(name)).await
        {
            self.lock().insert(name.clone(), found);
        }
        Ok(self.lock().values().flatten().copied().collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeSet<Ipv4Addr>>> {
        // Nothing panics between two changes of the table.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_up(name: &str) -> io::Result<BTreeSet<Ipv4Addr>> {
    let mut tries = 1;
    loop {
        match addresses_of(name).await {
            Err(_) if tries < TRIES => sleep(PAUSE).await,
            done => return done,
        }
        tries += 1;
    }
}

/// What a host with its port is at the moment. Instances have IPv4 only outside.
pub(crate) async fn addresses_of(name: &str) -> io::Result<BTreeSet<Ipv4Addr>> {
    let found = lookup_host(name).await?;
    Ok(found.filter_map(|address| v4(address.ip())).collect())
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_known_stays_so_and_one_that_never_was_is_told() {
        let servers = Servers::new(["127.0.0.1:4222".to_owned(), "[::1]:443".to_owned()]);
        let local = BTreeSet::from([Ipv4Addr::LOCALHOST]);
        assert_eq!(servers.addresses().await.expect("known"), local);

        let gone = Servers::new(["no-such-host.invalid:4222".to_owned()]);
        let said = gone.addresses().await.expect_err("unknown").to_string();
        assert!(said.contains("no-such-host.invalid"), "{said}");
        let metrics =
            Servers { metrics: Some("no-such-host.invalid:8086".to_owned()), ..Servers::default() };
        assert_eq!(metrics.addresses().await.expect("no run waits for it"), BTreeSet::new());
        gone.lock().insert("no-such-host.invalid:4222".to_owned(), local.clone());
        assert_eq!(gone.addresses().await.expect("known from before"), local);
    }
}
