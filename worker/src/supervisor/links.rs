//! Carries out what is asked of one end of the data network, strictly in order: the network configurations of
//! the instances behind it, and the schedule's changes of its address and mappings.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::NetworkConfig;
use groundswell_common::nat::NatKind;
use ipnet::Ipv4Net;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::Note;
use super::claims::Claims;
use super::outside::Way;
use crate::network::{Network, NetworkError};
use crate::parts::ShareSync;
use crate::runtime::{Instance, LinkState, Nat, RuntimeError};

/// How many requests to one end may wait.
pub(crate) const QUEUE: usize = 256;
/// How many addresses are tried until one is free.
const TRIES: u64 = 256;
/// How long an instance that cannot be reached may take to be known as ended.
const ENDING: Duration = Duration::from_secs(1);

/// What is asked.
pub(crate) enum Request {
    /// An instance's own network configuration.
    Configure { by: InstanceId, config: NetworkConfig },
    /// The schedule's; done once the token is dropped.
    Change { what: Change, done: TaskTrackerToken },
}

/// A change of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The NAT forgets its mappings.
    Rebind,
    /// It has another address.
    Readdress,
    /// The NAT is of another kind, or of its own again.
    Become(Option<NatKind>),
}

/// What has the address.
#[derive(Clone)]
pub(crate) enum Holder {
    /// The instance itself.
    Instance(Arc<dyn Instance>),
    /// The NAT it is behind, alone or with others.
    Nat(Arc<dyn Nat>),
}

/// One end of the data network.
pub(crate) struct Link {
    /// The run.
    pub(crate) run: RunId,
    /// The instance it is known by.
    pub(crate) id: InstanceId,
    /// What has its address.
    pub(crate) holder: Holder,
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
    /// Where other addresses come from.
    pub(crate) candidates: Candidates,
}

/// Why something does not hold, and whether the plan is the cause.
type Failed = (String, bool);

impl Link {
    /// Carries out what comes until the supervisor is gone, or one fails: what follows a configuration
    /// that does not hold would be built on sand.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            if let Err(note) = self.carry_out(request).await {
                let _ = self.notes.send(note).await;
                return;
            }
        }
    }

    async fn carry_out(&mut self, request: Request) -> Result<(), Note> {
        match request {
            Request::Configure { by, config } => {
                self.configure(&config).await.map_err(|(reason, fault_of_plan)| {
                    Note::LinkFailed { id: by, reason, fault_of_plan }
                })?;
                debug!(instance = %by, "network configured");
                if !config.callback_state.is_empty() {
                    self.sync.configured(by, &config.callback_state).await;
                }
            }
            Request::Change { what, done } => {
                let changed = match what {
                    Change::Rebind => self.rebind().await,
                    Change::Readdress => self.readdress().await,
                    Change::Become(kind) => self.become_kind(kind).await,
                };
                let failed = |(reason, _)| {
                    Note::ScheduleFailed(format!("schedule: instance {}: {reason}", self.id))
                };
                changed.map_err(failed)?;
                drop(done);
            }
        }
        Ok(())
    }

    async fn configure(&mut self, config: &NetworkConfig) -> Result<(), Failed> {
        if let Some(address) = config.ipv4 {
            self.claim(address).await?;
        }
        let configured = self.network.configure(&self.run, self.id, config).await;
        for text in configured.map_err(network_failed)? {
            let _ = self.notes.send(Note::Warning(text)).await;
        }
        let address = match config.ipv4 {
            Some(address) => address,
            None => self.network.address(&self.run, self.id).await.unwrap_or(self.state.address),
        };
        let wanted = LinkState { up: config.enable, address, ..self.state };
        let relinked = wanted != self.state;
        self.set(wanted).await?;
        let led = self.way.as_mut().map_or(Ok(()), |way| way.follow(config, relinked));
        led.map_err(route_failed)
    }

    /// Makes the holder of the address be as the network has it already.
    async fn set(&mut self, wanted: LinkState) -> Result<(), Failed> {
        if wanted == self.state {
            return Ok(());
        }
        match &self.holder {
            Holder::Instance(instance) => instance.set_link(wanted).await,
            // The network alone takes it out: its members' own interfaces stay as they are.
            Holder::Nat(_) if wanted.address == self.state.address => Ok(()),
            Holder::Nat(nat) => nat.readdress(wanted.address).await,
        }
        .map_err(runtime_failed)?;
        self.state = wanted;
        Ok(())
    }

    /// Asks for a new address where others have a say.
    async fn claim(&self, address: Ipv4Addr) -> Result<(), Failed> {
        match &self.claims {
            Some(claims) if address != self.state.address => claims.claim(self.id, address).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn rebind(&self) -> Result<(), Failed> {
        match &self.holder {
            Holder::Instance(_) => Ok(()),
            Holder::Nat(nat) => nat.rebind().await.map_err(runtime_failed),
        }
    }

    async fn become_kind(&self, kind: Option<NatKind>) -> Result<(), Failed> {
        match &self.holder {
            Holder::Instance(_) => Ok(()),
            Holder::Nat(nat) => nat.become_kind(kind).await.map_err(runtime_failed),
        }
    }

    /// Takes another address of the run's network, the first free one of those that are drawn.
    async fn readdress(&mut self) -> Result<(), Failed> {
        let mut last = String::new();
        for _ in 0..TRIES {
            let address = self.candidates.draw();
            if address == self.state.address {
                continue;
            }
            match self.take(address).await {
                Err((reason, true)) => last = reason,
                Ok(()) => return self.follow(address).await,
                Err(failed) => return Err(failed),
            }
        }
        Err((format!("no free address found: {last}"), false))
    }

    async fn take(&self, address: Ipv4Addr) -> Result<(), Failed> {
        self.claim(address).await?;
        self.network.readdress(&self.run, self.id, address).await.map_err(network_failed)
    }

    /// Sets the address that the network has already. An instance that has ended needs none.
    async fn follow(&mut self, address: Ipv4Addr) -> Result<(), Failed> {
        let set = self.set(LinkState { address, ..self.state }).await;
        if let (Err(_), Holder::Instance(instance)) = (&set, &self.holder)
            && timeout(ENDING, instance.wait()).await.is_ok()
        {
            return Ok(());
        }
        set?;
        self.way.as_mut().map_or(Ok(()), Way::again).map_err(route_failed)
    }
}

fn route_failed(err: std::io::Error) -> Failed {
    (format!("failed to set routes: {err}"), false)
}

fn network_failed(err: NetworkError) -> Failed {
    let fault_of_plan = !matches!(err, NetworkError::Host { .. });
    (Chain(&err).to_string(), fault_of_plan)
}

fn runtime_failed(err: RuntimeError) -> Failed {
    (Chain(&err).to_string(), false)
}

/// Addresses of a run's network in an order that the seed decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidates {
    subnet: Ipv4Net,
    state: u64,
}

impl Candidates {
    pub(crate) fn new(subnet: Ipv4Net, seed: u64, instance: InstanceId) -> Self {
        // The instance is spread over all bits, so that no two draw the same addresses one after the other.
        let state = seed ^ u64::from(instance.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { subnet, state }
    }

    /// The next one, whether it is free or not.
    fn draw(&mut self) -> Ipv4Addr {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.state;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^= drawn >> 31;
        let hosts = u64::from(u32::MAX >> self.subnet.prefix_len());
        let host = u32::try_from(drawn & hosts).expect("it has at most 32 bits");
        Ipv4Addr::from_bits(self.subnet.network().to_bits() | host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_in_the_subnet_and_decided_by_seed_and_instance() {
        let subnet: Ipv4Net = "16.5.0.0/16".parse().expect("a subnet");
        let drawn = |seed, instance| {
            let mut candidates = Candidates::new(subnet, seed, InstanceId(instance));
            [(); 50].map(|()| candidates.draw())
        };
        assert_eq!(drawn(7, 1), drawn(7, 1));
        assert_ne!(drawn(7, 1), drawn(7, 2));
        assert_ne!(drawn(7, 1), drawn(8, 1));
        assert!(drawn(7, 1).iter().all(|address| subnet.contains(address)));
    }
}
