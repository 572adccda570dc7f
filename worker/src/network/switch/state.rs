//! Who is in which run, with which address, rules and links.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use groundswell_common::ids::{Attempt, InstanceId, RunId};
use groundswell_common::link::Filter;

use crate::network::addresses::{AddressRefused, Addresses};
use crate::network::goal::Holder;
use crate::network::links::Links;
use crate::network::overlay::counters::Underlay;
use crate::network::overlay::peer::Away;
use crate::network::port::Port;
use crate::network::rules::Rules;
use crate::network::{Expected, NetworkError, device};

#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Names given to runs and interfaces so far; none is given twice.
    pub(super) named: u64,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) key: u64,
    pub(super) addresses: Addresses,
    pub(super) ports: BTreeMap<InstanceId, Arc<Port>>,
    /// What each instance is configured with, as the threads that send for them have it.
    pub(super) rules: BTreeMap<InstanceId, Rules>,
    pub(super) others: Option<Connected>,
    pub(super) links: Arc<Links>,
    /// How often the links were changed, and what each instance is configured with or where it is.
    pub(super) relinked: u64,
    pub(super) reshaped: BTreeMap<InstanceId, u64>,
}

/// The other workers of a run.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) attempt: Attempt,
    /// Their instances, and the version of each one's address.
    pub(super) instances: BTreeMap<InstanceId, (Arc<Away>, u64)>,
    pub(super) counts: Arc<Underlay>,
}

impl Run {
    /// Takes an address for an instance that is attached. Returns the one it had.
    pub(super) fn take_address(
        &mut self,
        instance: InstanceId,
        address: Option<Ipv4Addr>,
    ) -> Result<(Arc<Port>, Option<Ipv4Addr>, Ipv4Addr), NetworkError> {
        let Some(port) = self.ports.get(&instance).map(Arc::clone) else {
            return Err(not_attached(instance));
        };
        let from = self.addresses.of(instance);
        // It may have lost its former one to an instance elsewhere that was told earlier than we.
        let Some(to) = address.or(from) else {
            return Err(NetworkError::Refused(format!("instance {instance} has no address")));
        };
        match self.others {
            None => self.addresses.claim(instance, to),
            Some(_) => self.addresses.seize(instance, to),
        }
        .map_err(refused)?;
        *self.reshaped.entry(instance).or_default() += 1;
        Ok((port, from, to))
    }

    /// Takes in what is decided for receivers and interfaces; senders hear of it in their threads.
    pub(super) fn relink(&mut self, links: Arc<Links>) -> std::io::Result<()> {
        let before = std::mem::replace(&mut self.links, Arc::clone(&links));
        for (instance, port) in &self.ports {
            port.download.limit(links.access(*instance).download_bps);
            port.offline.store(links.is_offline(*instance), Ordering::Relaxed);
            if links.reshapes(&before, *instance)
                && let Some(rules) = self.rules.get_mut(instance)
            {
                rules.reshape(links.access(*instance).sends);
            }
            let carrier = links.has_carrier(*instance);
            if carrier != before.has_carrier(*instance) {
                device::set_carrier(&port.device, carrier)?;
            }
        }
        Ok(())
    }

    /// The end of an instance, here or on another worker.
    pub(super) fn holder(&self, instance: InstanceId) -> Option<Holder> {
        let here = self.ports.get(&instance).map(|port| Holder::Here(Arc::clone(port)));
        here.or_else(|| {
            let (away, _) = self.others.as_ref()?.instances.get(&instance)?;
            Some(Holder::Away(Arc::clone(away)))
        })
    }

    pub(super) fn expected(&mut self, from: InstanceId, to: InstanceId) -> Option<Expected> {
        let present = |instance| self.ports.get(&instance).map(|port| port.is_present());
        let away = || self.others.as_ref().is_some_and(|others| others.instances.contains_key(&to));
        if present(from) != Some(true) || !present(to).unwrap_or_else(away) {
            return None;
        }
        let address = self.addresses.of(to)?;
        let path = *self.links.path(from.0, to.0);
        let (rule, lane) = self.rules.get_mut(&from)?.find(address);
        if path.filter(rule) != Filter::Accept {
            return None;
        }
        let path = path.shape.filter(|_| !lane.ruled).unwrap_or_default();
        let downloads = self.links.access(to).download_bps > 0;
        let expected = Expected::of(address, &[lane.shape, path], downloads);
        let reshaped = |instance| self.reshaped.get(&instance).copied().unwrap_or(0);
        let changes = self.relinked + reshaped(from) + reshaped(to);
        Some(Expected { changes, ..expected })
    }
}

impl Control {
    pub(super) fn run(&mut self, run: &RunId) -> Result<&mut Run, NetworkError> {
        self.runs.get_mut(run).ok_or_else(|| {
            NetworkError::Refused(format!("the data network of run {run} is not open"))
        })
    }
}

pub(super) fn not_attached(instance: InstanceId) -> NetworkError {
    NetworkError::Refused(format!("instance {instance} is not attached"))
}

pub(super) fn refused(why: AddressRefused) -> NetworkError {
    NetworkError::Refused(why.to_string())
}
