//! All routers behind one address of a run's network: one that has it, and those that are its members.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};

use groundswell_common::addresses::counterpart;
use groundswell_common::nat::{NatKind, NatLayer, NatPlan, NatSpec};
use groundswell_common::network::DataPath;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{NatError, Routed, Router};
use crate::network::wire::{DATA_INTERFACE, WireSpec};

/// What a tree is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeSpec {
    /// The NATs, from inside to outside.
    pub plan: NatPlan,
    /// How many instances are behind them, at most as many as a tree of the plan has.
    pub instances: u32,
    /// The outermost router's end of the run's network. Its address is the first instance's; in IPv6 each instance
    /// has its own, the counterparts of this one and those that follow.
    pub wire: WireSpec,
}

impl TreeSpec {
    /// One home router, to find out whether there can be any.
    #[must_use]
    pub fn trial() -> Self {
        let lan = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 1, 0), 24);
        let spec = NatSpec::new(NatKind::PortRestricted, lan);
        let address = Ipv4Addr::new(16, 0, 0, 2);
        Self {
            plan: NatPlan { layers: vec![NatLayer { spec, members: 1 }] },
            instances: 1,
            wire: WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch },
        }
    }
}

impl TreeSpec {
    /// The IPv6 address of an instance, by its number in the tree.
    fn ipv6(&self, instance: u32) -> Ipv6Addr {
        counterpart(Ipv4Addr::from_bits(self.wire.address.to_bits().saturating_add(instance)))
    }

    /// What is behind each member of a router of the layer with this number, counted from inside.
    fn routed(&self, layer: usize, router: u32) -> Routed {
        let layers = &self.plan.layers;
        let (true, Some(own)) = (self.plan.routes_ipv6(), layers.get(layer)) else {
            return Routed::new();
        };
        // How many instances are behind a member.
        let each = layers[..layer]
            .iter()
            .fold(1, |size: u32, inner| size.saturating_mul(inner.members.max(1)));
        let members = (0..own.members.max(1)).map_while(|member| {
            let first = router.checked_mul(own.members.max(1))?.checked_add(member)?;
            let first = first.checked_mul(each).filter(|first| *first < self.instances)?;
            let instances = first..first.saturating_add(each).min(self.instances);
            Some((own.address(member), instances.map(|one| self.ipv6(one)).collect()))
        });
        members.collect()
    }
}

/// The routers. Dropping it lets them go.
#[derive(Debug)]
pub struct Tree {
    plan: NatPlan,
    /// Layer by layer, from outside to inside.
    layers: Vec<Vec<Router>>,
}

impl Tree {
    /// Makes the routers. Returns the device of the outermost one: an end of the data network.
    ///
    /// # Errors
    ///
    /// As [`Router::new`].
    pub fn new(spec: &TreeSpec) -> Result<(Self, OwnedFd), NatError> {
        let WireSpec { address, prefix, mtu, data_path: _ } = spec.wire;
        let outside = Ipv4Net::new(address, prefix)
            .map_err(|err| std::io::Error::new(std::io::ErrorKind::InvalidInput, err))
            .map_err(NatError::host("read the address of a router"))?;
        let mut counts = Vec::new();
        for layer in &spec.plan.layers {
            let inside = counts.last().copied().unwrap_or(spec.instances);
            counts.push(inside.div_ceil(layer.members.max(1)));
        }
        let mut inward = spec.plan.layers.iter().zip(counts).enumerate().rev();
        let Some((at, (outermost, _))) = inward.next() else { return Err(NatError::Empty) };
        let routed = spec.routed(at, 0);
        let (router, device) = Router::new(outermost.spec.clone(), routed, outside, mtu)?;
        let (mut layers, mut outer) = (vec![vec![router]], outermost);
        for (at, (layer, count)) in inward {
            let parents = layers.last().map_or(&[][..], Vec::as_slice);
            let routed = |number| spec.routed(at, number);
            let made =
                (0..count).map(|number| behind(parents, outer, layer, routed(number), number));
            let made = made.collect::<Result<_, _>>()?;
            layers.push(made);
            outer = layer;
        }
        Ok((Self { plan: spec.plan.clone(), layers }, device))
    }

    /// Gives an instance its data interface. `member` is its number in the tree, or in the group.
    ///
    /// # Errors
    ///
    /// As [`Router::join`].
    pub fn join(&self, member: u32, namespace: BorrowedFd<'_>) -> Result<(), NatError> {
        let (router, address) = self.plan.member(member);
        let innermost = self.layers.last().and_then(|layer| layer.get(place(router)));
        innermost.ok_or(NatError::Empty)?.join(namespace, DATA_INTERFACE, address)
    }

    /// Forgets all mappings of all its routers.
    ///
    /// # Errors
    ///
    /// As [`Router::rebind`].
    pub fn rebind(&mut self) -> Result<(), NatError> {
        self.layers.iter_mut().flatten().try_for_each(Router::rebind)
    }

    /// Makes the routers next to the instances be of another kind, or of their own again.
    ///
    /// # Errors
    ///
    /// As [`Router::become_kind`].
    pub fn become_kind(&mut self, kind: Option<NatKind>) -> Result<(), NatError> {
        let own = self.plan.layers.first().ok_or(NatError::Empty)?.spec.kind;
        let innermost = self.layers.last_mut().into_iter().flatten();
        innermost.into_iter().try_for_each(|router| router.become_kind(kind.unwrap_or(own)))
    }

    /// Gives the outermost router another address.
    ///
    /// # Errors
    ///
    /// As [`Router::readdress`].
    pub fn readdress(&mut self, address: Ipv4Addr) -> Result<(), NatError> {
        self.layers.first_mut().into_iter().flatten().try_for_each(|one| one.readdress(address))
    }
}

/// The router with this number in its layer, as a member of one of the layer outside.
fn behind(
    parents: &[Router],
    outer: &NatLayer,
    layer: &NatLayer,
    routed: Routed,
    number: u32,
) -> Result<Router, NatError> {
    let members = outer.members.max(1);
    let parent = parents.get(place(number / members)).ok_or(NatError::Empty)?;
    Router::behind(parent, layer.spec.clone(), routed, outer.address(number % members))
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use groundswell_common::nat::Ipv6;

    use super::*;

    /// Two instances in each home, three homes at each carrier's; of the last home one instance is there.
    fn carrier() -> TreeSpec {
        let trial = TreeSpec::trial();
        let mut homes = trial.plan.layers[0].clone();
        homes.members = 2;
        let lan = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
        let spec = NatSpec::new(NatKind::Symmetric, lan);
        let plan = NatPlan { layers: vec![homes, NatLayer { spec, members: 3 }] };
        TreeSpec { plan, instances: 5, ..trial }
    }

    fn six(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd67, 0x7377, 0, 0, 0, 0, 0x1000, last)
    }

    #[test]
    fn each_router_knows_what_is_behind_its_members() {
        let home = |last| Ipv4Addr::new(192, 168, 1, last);
        let carrier_at = |last| Ipv4Addr::new(100, 64, 0, last);
        let spec = carrier();
        let first = Routed::from([(home(2), vec![six(2)]), (home(3), vec![six(3)])]);
        assert_eq!(spec.routed(0, 0), first);
        assert_eq!(spec.routed(0, 2), Routed::from([(home(2), vec![six(6)])]));
        let all = Routed::from([
            (carrier_at(2), vec![six(2), six(3)]),
            (carrier_at(3), vec![six(4), six(5)]),
            (carrier_at(4), vec![six(6)]),
        ]);
        assert_eq!(spec.routed(1, 0), all);
    }

    #[test]
    fn there_is_no_ipv6_behind_a_router_that_has_none() {
        let mut spec = carrier();
        spec.plan.layers[0].spec.ipv6 = Ipv6::Off;
        assert_eq!(spec.routed(1, 0), Routed::new());
    }
}
