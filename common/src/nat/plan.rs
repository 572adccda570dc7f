//! The NATs that the instances of a group are behind.
//!
//! ```text
//! instances      0 1  2 3  4 5  6        7 in the group
//!                 │    │    │   │
//! layer 0         r0   r1  r2  r3        members 2
//!                  └─┬──┘   └─┬─┘
//! layer 1            R0       R1         members 2: the outermost, in the run's network
//! ```
//!
//! What hangs from one router of the outermost layer is a tree. In the run's network it has one address, one link
//! and one name: those of its first instance, the *front* of the others.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::spec::{Ipv6, NatSpec};

/// The NATs of a group, from the routers that its instances are members of to the ones in the run's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatPlan {
    /// Never empty.
    pub layers: Vec<NatLayer>,
}

/// Routers that are all alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatLayer {
    /// What each is.
    pub spec: NatSpec,
    /// How many instances, or routers of the layer before, share one; the last one may have fewer.
    pub members: u32,
}

impl NatLayer {
    /// The address of a member in the network inside, by its number behind its router.
    #[must_use]
    pub fn address(&self, member: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.spec.lan.network().to_bits().saturating_add(2 + member))
    }
}

impl NatPlan {
    /// How many instances a whole tree has, at least one.
    #[must_use]
    pub fn tree(&self) -> u32 {
        self.layers.iter().fold(1_u32, |size, layer| size.saturating_mul(layer.members.max(1)))
    }

    /// The first instance of the tree an instance belongs to. Both are numbers in the group.
    #[must_use]
    pub fn front(&self, in_group: u32) -> u32 {
        in_group - in_group % self.tree()
    }

    /// How many instances the tree has whose first one is `front`, in a group of `instances`.
    #[must_use]
    pub fn size(&self, front: u32, instances: u32) -> u32 {
        self.tree().min(instances.saturating_sub(front))
    }

    /// The network an instance finds itself in.
    #[must_use]
    pub fn lan(&self) -> Ipv4Net {
        self.layers.first().map_or_else(Ipv4Net::default, |layer| layer.spec.lan)
    }

    /// The router of the first layer an instance is a member of, as its number in the tree, and its address there.
    #[must_use]
    pub fn member(&self, in_group: u32) -> (u32, Ipv4Addr) {
        let in_tree = in_group % self.tree();
        self.layers.first().map_or((0, Ipv4Addr::UNSPECIFIED), |layer| {
            let members = layer.members.max(1);
            (in_tree / members, layer.address(in_tree % members))
        })
    }

    /// Whether the instances have IPv6: all routers on their way have.
    #[must_use]
    pub fn routes_ipv6(&self) -> bool {
        self.layers.iter().all(|layer| layer.spec.ipv6 != Ipv6::Off)
    }

    /// What it is, in a few words for people: `port-restricted`, `2 behind full-cone behind symmetric`.
    #[must_use]
    pub fn title(&self) -> String {
        let each = self.layers.iter().map(|layer| match layer.members {
            0 | 1 => layer.spec.kind.as_str().to_owned(),
            several => format!("{} for {several}", layer.spec.kind.as_str()),
        });
        each.collect::<Vec<_>>().join(" behind ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::NatKind;

    fn layer(kind: NatKind, lan: &str, members: u32) -> NatLayer {
        NatLayer { spec: NatSpec::new(kind, lan.parse().expect("a network")), members }
    }

    fn carrier() -> NatPlan {
        let homes = layer(NatKind::PortRestricted, "192.168.1.0/24", 2);
        NatPlan { layers: vec![homes, layer(NatKind::Symmetric, "100.64.0.0/10", 3)] }
    }

    #[test]
    fn instances_are_shared_out_in_order() {
        let plan = carrier();
        assert_eq!(plan.tree(), 6);
        assert_eq!([0, 5, 6, 11].map(|one| plan.front(one)), [0, 0, 6, 6]);
        let at = |last| Ipv4Addr::new(192, 168, 1, last);
        assert_eq!(
            [0, 1, 2, 7].map(|one| plan.member(one)),
            [(0, at(2)), (0, at(3)), (1, at(2)), (0, at(3))]
        );
        assert_eq!((plan.size(0, 8), plan.size(6, 8)), (6, 2));
    }

    #[test]
    fn one_router_without_ipv6_is_enough_to_have_none() {
        let mut plan = carrier();
        assert!(plan.routes_ipv6());
        plan.layers[1].spec.ipv6 = Ipv6::Off;
        assert!(!plan.routes_ipv6());
    }

    #[test]
    fn a_title_goes_from_inside_to_outside() {
        assert_eq!(carrier().title(), "port-restricted for 2 behind symmetric for 3");
    }
}
