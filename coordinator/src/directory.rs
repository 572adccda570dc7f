//! Who has which address in one run, over all its workers. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use groundswell_common::addresses::{AddressRefused, Addresses};
use groundswell_common::ids::InstanceId;
use groundswell_common::messages::first_address;
use ipnet::Ipv4Net;

/// The addresses of a run, and how often one has changed.
#[derive(Debug)]
pub struct Directory {
    addresses: Addresses,
    changes: u64,
    /// The change that gave each instance its address; none has one at the start.
    versions: BTreeMap<InstanceId, u64>,
}

impl Directory {
    /// Every one of `instances` has the address it starts with.
    #[must_use]
    pub fn new(subnet: Ipv4Net, instances: impl IntoIterator<Item = InstanceId>) -> Self {
        let mut addresses = Addresses::new(subnet);
        for instance in instances {
            // A run that is larger than its subnet has no address for the last ones, and is refused elsewhere.
            let _ = addresses.claim(instance, first_address(subnet, instance));
        }
        Self { addresses, changes: 0, versions: BTreeMap::new() }
    }

    /// Counts changes on from `version`: workers have heard of earlier ones from another coordinator.
    #[must_use]
    pub fn after(mut self, version: u64) -> Self {
        self.changes = version;
        self
    }

    /// Keeps the address that each instance would start with for the one whose router it is behind, which comes
    /// first: in IPv6 it has it.
    #[must_use]
    pub fn keeping(mut self, behind: impl IntoIterator<Item = (InstanceId, InstanceId)>) -> Self {
        let subnet = self.addresses.subnet();
        for (front, instance) in behind {
            self.addresses.keep(front, first_address(subnet, instance));
        }
        self
    }

    /// Instances that have another address than at the start, each with the version of that change.
    pub fn moved(&self) -> impl Iterator<Item = (InstanceId, Ipv4Addr, u64)> {
        self.versions.iter().filter_map(|(instance, version)| {
            Some((*instance, self.addresses.of(*instance)?, *version))
        })
    }

    /// Gives `address` to `instance`; returns the version of that change. Claiming what it has is no change and
    /// gives the same version again.
    ///
    /// # Errors
    /// When the address is not to be had; the instance then keeps what it had.
    pub fn claim(
        &mut self,
        instance: InstanceId,
        address: Ipv4Addr,
    ) -> Result<u64, AddressRefused> {
        let before = self.addresses.of(instance);
        self.addresses.claim(instance, address)?;
        if before != Some(address) {
            self.changes += 1;
            self.versions.insert(instance, self.changes);
        }
        Ok(self.versions.get(&instance).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> impl Iterator<Item = InstanceId> {
        (0..3).map(InstanceId)
    }

    fn at(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_claim_that_is_repeated_is_the_same_change() {
        let mut directory = Directory::new("16.5.0.0/16".parse().expect("a subnet"), three());
        let (one, two) = (InstanceId(0), InstanceId(1));
        assert_eq!(directory.claim(one, at("16.5.0.2")), Ok(0), "it has it from the start");
        assert_eq!(directory.claim(one, at("16.5.1.1")), Ok(1));
        assert_eq!(directory.claim(two, at("16.5.0.2")), Ok(2), "it was given up");
        assert_eq!(directory.claim(one, at("16.5.1.1")), Ok(1));
        assert_eq!(directory.claim(two, at("16.5.0.3")), Ok(3));
        let moved: Vec<_> = directory.moved().collect();
        assert_eq!(moved, [(one, at("16.5.1.1"), 1), (two, at("16.5.0.3"), 3)]);
    }

    #[test]
    fn what_is_in_use_behind_a_router_is_refused() {
        let subnet = "16.5.0.0/16".parse().expect("a subnet");
        let fronts = [InstanceId(0), InstanceId(2)];
        let behind = [0, 1].map(|instance| (InstanceId(0), InstanceId(instance)));
        let mut directory = Directory::new(subnet, fronts).keeping(behind);
        assert_eq!(directory.claim(InstanceId(0), at("16.5.9.9")), Ok(1));
        for kept in ["16.5.0.2", "16.5.0.3"] {
            let refused = directory.claim(InstanceId(2), at(kept)).expect_err("kept");
            assert!(refused.to_string().contains("taken by instance 0"), "{refused}");
        }
    }

    #[test]
    fn what_an_instance_of_any_worker_has_is_refused() {
        let mut directory = Directory::new("16.5.0.0/16".parse().expect("a subnet"), three());
        let refused = directory.claim(InstanceId(0), at("16.5.0.4")).expect_err("taken");
        assert!(refused.to_string().contains("taken by instance 2"), "{refused}");
        let refused = directory.claim(InstanceId(0), at("16.6.0.4")).expect_err("outside");
        assert!(refused.to_string().contains("not in the run's subnet"), "{refused}");
        assert_eq!(directory.claim(InstanceId(0), at("16.5.0.2")), Ok(0), "it kept its own");
    }
}
