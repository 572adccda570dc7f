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
