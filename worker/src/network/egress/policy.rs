//! Which hosts outside the data network an instance may reach. Pure.
//!
//! Some are out of reach whatever a composition says: the host itself and what is next to it in a cloud, the
//! servers that Groundswell itself runs on, and every run's data network. Private networks have to be named. The
//! rest is the Internet, and open to whom it is granted.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// What one instance may reach outside its data network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// The Internet.
    pub allow: bool,
    /// Hosts and networks that it reaches in any case, also private ones.
    pub hosts: Vec<Ipv4Net>,
}

impl Grant {
    /// Whether it reaches anything at all.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow || !self.hosts.is_empty()
    }
}

/// Networks that are never reached: this host, its link, metadata services, all data networks, groups, and what
/// is no host's address.
const NEVER: [(Ipv4Addr, u8); 8] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(16, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Networks of the neighbourhood, which have to be named. The last one is a carrier's.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Whether an instance with this grant may reach `destination`. `protected` are servers of Groundswell's own.
///
/// That an address is one of this host is not seen here: only the kernel knows.
#[must_use]
pub fn permits(grant: &Grant, destination: Ipv4Addr, protected: &BTreeSet<Ipv4Addr>) -> bool {
    if is_in(&NEVER, destination) || protected.contains(&destination) {
        return false;
    }
    let named = grant.hosts.iter().any(|net| net.contains(&destination));
    named || (grant.allow && !is_in(&PRIVATE, destination))
}

fn is_in(networks: &[(Ipv4Addr, u8)], address: Ipv4Addr) -> bool {
    networks.iter().any(|(network, length)| {
        (address.to_bits() ^ network.to_bits()).checked_shr(32 - u32::from(*length)) == Some(0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant(allow: bool, hosts: &[&str]) -> Grant {
        Grant { allow, hosts: hosts.iter().map(|host| host.parse().expect("a network")).collect() }
    }

    fn reaches(grant: &Grant, destination: &str) -> bool {
        let protected = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 7)]);
        permits(grant, destination.parse().expect("an address"), &protected)
    }

    #[test]
    fn the_internet_is_open_to_whom_it_is_granted() {
        assert!(reaches(&grant(true, &[]), "203.0.113.9"));
        assert!(!reaches(&grant(false, &[]), "203.0.113.9"));
        assert!(!reaches(&grant(true, &[]), "198.51.100.7"), "a server of Groundswell");
    }

    #[test]
    fn a_private_network_has_to_be_named() {
        for private in ["10.1.2.3", "172.31.255.1", "192.168.0.1", "100.127.0.1"] {
            assert!(!reaches(&grant(true, &[]), private), "{private}");
            let named = format!("{private}/32");
            assert!(reaches(&grant(false, &[&named]), private), "{private}");
        }
        assert!(!reaches(&grant(true, &["10.1.2.3/32"]), "10.1.2.4"));
        assert!(reaches(&grant(true, &[]), "172.32.0.1") && reaches(&grant(true, &[]), "11.0.0.1"));
    }

    #[test]
    fn what_is_out_of_reach_stays_there_whatever_is_named() {
        let all = grant(true, &["0.0.0.0/0"]);
        for never in [
            "127.0.0.1",
            "169.254.169.254",
            "16.3.0.2",
            "224.0.0.251",
            "255.255.255.255",
            "0.1.2.3",
            "198.51.100.7",
        ] {
            assert!(!reaches(&all, never), "{never}");
        }
        assert!(reaches(&all, "10.0.0.1") && reaches(&all, "15.255.255.255"));
    }

    proptest! {
        #[test]
        fn without_a_grant_nothing_is_reached(address: u32) {
            prop_assert!(!permits(&Grant::default(), address.into(), &BTreeSet::new()));
        }
    }
}
