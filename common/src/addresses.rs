//! Who has which address of a run's subnet. Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

use crate::ids::InstanceId;

/// The first 96 bits of every counterpart: a unique local prefix of RFC 4193.
const COUNTERPARTS: [u16; 6] = [0xfd67, 0x7377, 0, 0, 0, 0];
/// How many instances a run can have: its /16 without the network's, the gateway's and the broadcast address. Also
/// instances behind NATs count, because an address follows from an instance's number.
pub const MOST_INSTANCES: u32 = (1 << 16) - 3;

/// Bits before the IPv4 address in its counterpart.
pub const COUNTERPART_BITS: u8 = 96;

/// The IPv6 address that stands beside an IPv4 address: `fd67:7377::1000:2` beside `16.0.0.2`.
///
/// It is the same address written in another way. Whoever has the one has the other, so one table of holders
/// and one set of rules hold for both.
#[must_use]
pub fn counterpart(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = COUNTERPARTS;
    let [high, low] = [address.to_bits() >> 16, address.to_bits() & 0xffff];
    let word = |bits| u16::try_from(bits).expect("it has 16 bits");
    Ipv6Addr::new(a, b, c, d, e, f, word(high), word(low))
}

/// The IPv4 address whose counterpart this is, if it is one.
#[must_use]
pub fn of_counterpart(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let bits = u32::from(high) << 16 | u32::from(low);
    ([a, b, c, d, e, f] == COUNTERPARTS).then(|| Ipv4Addr::from_bits(bits))
}

/// Why an instance does not get an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// It does not belong to the run.
    #[error("address {address} is not in the run's subnet {subnet}")]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The run's subnet.
        subnet: Ipv4Net,
    },
    /// It is the network's, the gateway's or the broadcast address.
    #[error(
        "address {0} is not for instances: it is the first, the second or the last of the subnet"
    )]
    Reserved(Ipv4Addr),
    /// Another instance has it.
    #[error("address {address} is taken by instance {holder}: give each instance one of its own")]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        holder: InstanceId,
    },
}

/// The addresses of one run. Any instance may take any free address of the subnet at any time.
#[derive(Debug)]
pub struct Addresses {
    subnet: Ipv4Net,
    holders: BTreeMap<Ipv4Addr, InstanceId>,
    held: BTreeMap<InstanceId, Ipv4Addr>,
    /// Addresses that one instance alone may take.
    kept: BTreeMap<Ipv4Addr, InstanceId>,
}

impl Addresses {
    /// No address is taken yet.
    #[must_use]
    pub fn new(subnet: Ipv4Net) -> Self {
        let (holders, held, kept) = Default::default();
        Self { subnet: subnet.trunc(), holders, held, kept }
    }

    /// The network they are in.
    #[must_use]
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The address that answers pings and is no instance's: `.0.1` of a /16.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.network().to_bits().wrapping_add(1))
    }

    /// The subnet's broadcast address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        self.subnet.broadcast()
    }

    /// The address `instance` has.
    #[must_use]
    pub fn of(&self, instance: InstanceId) -> Option<Ipv4Addr> {
        self.held.get(&instance).copied()
    }

    /// Gives `address` to `instance`, which gives up the one it had.
    ///
    /// # Errors
    /// When it is not to be had; the instance then keeps what it had.
    pub fn claim(&mut self, instance: InstanceId, address: Ipv4Addr) -> Result<(), AddressRefused> {
        self.check(address)?;
        let holder = self.holders.get(&address).or_else(|| self.kept.get(&address));
        if let Some(holder) = holder.copied().filter(|other| *other != instance) {
            return Err(AddressRefused::Taken { address, holder });
        }
        self.give(instance, address);
        Ok(())
    }

    /// Keeps `address` for `instance`, whatever address that one has: its counterpart is in use behind it.
    pub fn keep(&mut self, instance: InstanceId, address: Ipv4Addr) {
        self.kept.insert(address, instance);
    }

    /// Gives `address` to `instance` on the word of who has decided it. Whoever still has it here loses it:
    /// that one has moved, and the news of it are on their way.
    ///
    /// # Errors
    /// When it is no address for instances at all.
    pub fn seize(&mut self, instance: InstanceId, address: Ipv4Addr) -> Result<(), AddressRefused> {
        self.check(address)?;
        if let Some(former) = self.holders.get(&address).copied() {
            self.release(former);
        }
        self.give(instance, address);
        Ok(())
    }

    fn check(&self, address: Ipv4Addr) -> Result<(), AddressRefused> {
        if !self.subnet.contains(&address) {
            return Err(AddressRefused::Outside { address, subnet: self.subnet });
        }
        let reserved = [self.subnet.network(), self.gateway(), self.broadcast()];
        if reserved.contains(&address) {
            return Err(AddressRefused::Reserved(address));
        }
        Ok(())
    }

    fn give(&mut self, instance: InstanceId, address: Ipv4Addr) {
        self.release(instance);
        self.holders.insert(address, instance);
        self.held.insert(instance, address);
    }

    /// Takes the address of `instance` away.
    pub fn release(&mut self, instance: InstanceId) {
        if let Some(address) = self.held.remove(&instance) {
            self.holders.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_one_counterpart() {
        let six: Ipv6Addr = "fd67:7377::1003:4d02".parse().expect("an address");
        assert_eq!(counterpart(at("16.3.77.2")), six);
        assert_eq!(of_counterpart(six), Some(at("16.3.77.2")));
        assert_eq!(of_counterpart("fd67:7377:1::1003:4d02".parse().expect("an address")), None);
    }

    #[test]
    fn an_address_has_one_holder_and_is_free_again_when_it_moves() {
        let mut addresses = Addresses::new("16.3.0.0/16".parse().expect("a subnet"));
        let (one, two) = (InstanceId(1), InstanceId(2));
        assert_eq!(addresses.claim(one, at("16.3.0.2")), Ok(()));
        assert_eq!(
            addresses.claim(two, at("16.3.0.2")),
            Err(AddressRefused::Taken { address: at("16.3.0.2"), holder: one })
        );
        assert_eq!(addresses.claim(one, at("16.3.77.2")), Ok(()));
        assert_eq!(addresses.claim(two, at("16.3.0.2")), Ok(()));
        assert_eq!(addresses.of(one), Some(at("16.3.77.2")));
    }

    #[test]
    fn what_is_kept_for_one_is_never_given_to_another() {
        let mut addresses = Addresses::new("16.3.0.0/16".parse().expect("a subnet"));
        let (router, other) = (InstanceId(0), InstanceId(7));
        addresses.keep(router, at("16.3.0.2"));
        addresses.keep(router, at("16.3.0.3"));
        assert_eq!(addresses.claim(router, at("16.3.0.2")), Ok(()));
        assert_eq!(addresses.claim(router, at("16.3.9.9")), Ok(()));
        for address in [at("16.3.0.2"), at("16.3.0.3")] {
            let taken = AddressRefused::Taken { address, holder: router };
            assert_eq!(addresses.claim(other, address), Err(taken));
        }
        assert_eq!(addresses.claim(router, at("16.3.0.2")), Ok(()));
    }

    #[test]
    fn what_is_seized_is_lost_by_whom_the_news_have_not_reached() {
        let mut addresses = Addresses::new("16.3.0.0/16".parse().expect("a subnet"));
        let (one, two) = (InstanceId(1), InstanceId(2));
        assert_eq!(addresses.claim(one, at("16.3.0.2")), Ok(()));
        assert_eq!(addresses.seize(two, at("16.3.0.2")), Ok(()));
        assert_eq!((addresses.of(one), addresses.of(two)), (None, Some(at("16.3.0.2"))));
        // The late news of the one that has moved take nothing from the other.
        assert_eq!(addresses.seize(one, at("16.3.0.9")), Ok(()));
        assert_eq!(addresses.of(two), Some(at("16.3.0.2")));
        assert!(addresses.seize(one, at("16.3.0.1")).is_err());
    }

    #[test]
    fn what_is_not_for_instances_is_refused() {
        let mut addresses = Addresses::new("16.3.0.0/16".parse().expect("a subnet"));
        assert_eq!(addresses.gateway(), at("16.3.0.1"));
        for reserved in ["16.3.0.0", "16.3.0.1", "16.3.255.255"] {
            let refused = addresses.claim(InstanceId(0), at(reserved));
            assert_eq!(refused, Err(AddressRefused::Reserved(at(reserved))));
        }
        let outside = addresses.claim(InstanceId(0), at("16.4.0.2"));
        assert!(matches!(outside, Err(AddressRefused::Outside { .. })));
        assert_eq!(addresses.of(InstanceId(0)), None);
    }
}
