//! Carries out one instance's network configurations, strictly in order.

use std::net::Ipv4Addr;
use std::sync::Arc;

use groundswell_common::chain::Chain;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::NetworkConfig;
use tokio::sync::mpsc;
use tracing::debug;

use super::Note;
use super::claims::Claims;
use super::outside::Way;
use crate::network::{Network, NetworkError};
use crate::parts::ShareSync;
use crate::runtime::{Instance, LinkState};

/// How many configurations of one instance may wait.
pub(crate) const QUEUE: usize = 256;

/// The link of one instance.
pub(crate) struct Link {
    /// The run.
    pub(crate) run: RunId,
    /// The instance.
    pub(crate) id: InstanceId,
    /// Its interface.
    pub(crate) instance: Arc<dyn Instance>,
    /// The data network.
    pub(crate) network: Arc<dyn Network>,
    /// The run's sync.
    pub(crate) sync: Arc<dyn ShareSync>,
    /// Where failures go.
    pub(crate) notes: mpsc::Sender<Note>,
    /// The interface as it is.
    pub(crate) state: LinkState,
    /// Who decides about addresses, in a run that other workers take part in.
    pub(crate) claims: Option<Claims>,
    /// The routes that lead out of the data network.
    pub(crate) way: Option<Way>,
}

impl Link {
    /// Carries out what comes until the supervisor is gone, or one fails: what follows a configuration
    /// that does not hold would be built on sand.
    pub(crate) async fn run(mut self, mut configs: mpsc::Receiver<NetworkConfig>) {
        while let Some(config) = configs.recv().await {
            if let Err((reason, fault_of_plan)) = self.apply(&config).await {
                let note = Note::LinkFailed { id: self.id, reason, fault_of_plan };
                let _ = self.notes.send(note).await;
                return;
            }
            debug!(instance = %self.id, "network configured");
            if !config.callback_state.is_empty() {
                self.sync.configured(self.id, &config.callback_state).await;
            }
        }
    }

    async fn apply(&mut self, config: &NetworkConfig) -> Result<(), (String, bool)> {
        self.claim(config).await?;
        let configured = self.network.configure(&self.run, self.id, config).await;
        let warnings = configured.map_err(|err| {
            let fault_of_plan = !matches!(err, NetworkError::Host { .. });
            (Chain(&err).to_string(), fault_of_plan)
        })?;
        for text in warnings {
            let _ = self.notes.send(Note::Warning(text)).await;
        }
        let wanted = LinkState {
            up: config.enable,
            address: self.address(config).await,
            prefix: self.state.prefix,
        };
        let relinked = wanted != self.state;
        if relinked {
            self.instance.set_link(wanted).await.map_err(|err| (Chain(&err).to_string(), false))?;
            self.state = wanted;
        }
        if let Some(way) = &mut self.way {
            way.follow(config, relinked)
                .map_err(|err| (format!("failed to set routes: {err}"), false))?;
        }
        Ok(())
    }

    /// Asks for a new address where others have a say.
    async fn claim(&self, config: &NetworkConfig) -> Result<(), (String, bool)> {
        let (Some(claims), Some(address)) = (&self.claims, config.ipv4) else { return Ok(()) };
        if address == self.state.address {
            return Ok(());
        }
        claims.claim(self.id, address).await
    }

    async fn address(&self, config: &NetworkConfig) -> Ipv4Addr {
        match config.ipv4 {
            Some(address) => address,
            None => self.network.address(&self.run, self.id).await.unwrap_or(self.state.address),
        }
    }
}
