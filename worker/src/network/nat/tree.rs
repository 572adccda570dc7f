//! All routers behind one address of a run's network: one that has it, and those that are its members.

use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};

use groundswell_common::nat::{NatKind, NatLayer, NatPlan, NatSpec};
use groundswell_common::network::DataPath;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{NatError, Router};
use crate::network::wire::{DATA_INTERFACE, WireSpec};

/// What a tree is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeSpec {
    /// The NATs, from inside to outside.
    pub plan: NatPlan,
    /// How many instances are behind them, at most as many as a tree of the plan has.
    pub instances: u32,
    /// The outermost router's end of the run's network.
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
        let mut inward = spec.plan.layers.iter().zip(counts).rev();
        let Some((outermost, _)) = inward.next() else { return Err(NatError::Empty) };
        let (router, device) = Router::new(outermost.spec.clone(), outside, mtu)?;
        let (mut layers, mut outer) = (vec![vec![router]], outermost);
        for (layer, count) in inward {
            let parents = layers.last().map_or(&[][..], Vec::as_slice);
            let made = (0..count).map(|number| behind(parents, outer, layer, number));
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
    number: u32,
) -> Result<Router, NatError> {
    let members = outer.members.max(1);
    let parent = parents.get(place(number / members)).ok_or(NatError::Empty)?;
    Router::behind(parent, layer.spec.clone(), outer.address(number % members))
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
