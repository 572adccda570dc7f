//! Who takes part, and who dials whom: the same in every instance.

use std::collections::BTreeSet;

use groundswell_p2p::topology::{self, Edges};
use groundswell_p2p::{Multiaddr, PeerId, Protocol, Rng};
use groundswell_sdk::Member;
use serde::{Deserialize, Serialize};

use crate::params::P;
use crate::scenario::{Scenario, Target, Victims};

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Sends messages and receives those of others.
    Publisher,
    /// Receives messages.
    Lurker,
    /// Attacks.
    Sybil,
}

/// What an instance tells the others of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it is for.
    pub(crate) role: Role,
    /// Where its nodes are, with their peer ids.
    pub(crate) nodes: Vec<String>,
}

/// A node of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its instance's number.
    pub(crate) instance: u32,
    /// What it is for.
    pub(crate) role: Role,
    /// Where it is, with its peer id.
    pub(crate) address: Multiaddr,
    /// Who it is.
    pub(crate) peer: PeerId,
}

/// Everybody.
#[derive(Debug)]
pub(crate) struct World {
    /// The honest nodes, in the order of their instances.
    pub(crate) honest: Vec<Peer>,
    /// The Sybils' nodes, likewise.
    pub(crate) sybils: Vec<Peer>,
    edges: Edges,
}

/// A run that cannot be what its case is about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorldError {
    #[error("instance {instance} told the address `{address}`, which is none with a peer id")]
    Address { instance: u32, address: String },
    #[error("there are {have} honest nodes; at least 3 are needed for a mesh")]
    Few { have: usize },
    #[error("there is no {0} in the run: add a group with role = \"{0}\"")]
    Nobody(&'static str),
    #[error("the case has no Sybils, but {0} of them are in the run: take the group out")]
    Sybils(usize),
}

impl World {
    /// The world as the instances told it.
    pub(crate) fn new(
        book: Vec<Member<Entry>>,
        scenario: Scenario,
        p: &P,
    ) -> Result<Self, WorldError> {
        let mut world = Self { honest: Vec::new(), sybils: Vec::new(), edges: Edges::new() };
        for member in book {
            for address in &member.value.nodes {
                let peer = peer(member.index, member.value.role, address)?;
                match peer.role {
                    Role::Publisher | Role::Lurker => world.honest.push(peer),
                    Role::Sybil => world.sybils.push(peer),
                }
            }
        }
        world.check(scenario)?;
        let each = p.degree.div_ceil(2);
        let count = world.honest.len();
        world.edges = topology::random(count, each, p.seed);
        // Random neighbours alone could leave an island.
        for (dialer, listener) in topology::ring(count) {
            if !world.edges.contains(&(listener, dialer)) {
                world.edges.insert((dialer, listener));
            }
        }
        Ok(world)
    }

    fn check(&self, scenario: Scenario) -> Result<(), WorldError> {
        let has = |role| self.honest.iter().any(|peer| peer.role == role);
        if self.honest.len() < 3 {
            return Err(WorldError::Few { have: self.honest.len() });
        }
        if !has(Role::Publisher) {
            return Err(WorldError::Nobody("publisher"));
        }
        if scenario.target() == Some(Target::FirstLurker) && !has(Role::Lurker) {
            return Err(WorldError::Nobody("lurker"));
        }
        match (scenario.has_sybils(), self.sybils.len()) {
            (true, 0) => Err(WorldError::Nobody("sybil")),
            (false, some @ 1..) => Err(WorldError::Sybils(some)),
            (true | false, _) => Ok(()),
        }
    }

    /// Who the attack is about, if it is about one.
    pub(crate) fn target(&self, scenario: Scenario) -> Option<&Peer> {
        let role = match scenario.target()? {
            Target::FirstLurker => Role::Lurker,
            Target::FirstPublisher => Role::Publisher,
        };
        self.honest.iter().find(|peer| peer.role == role)
    }

    /// Whom an honest node dials when it joins.
    pub(crate) fn dials_of(&self, instance: u32) -> Vec<&Peer> {
        let own = self.place(instance);
        topology::dials_of(&self.edges, own).map(|other| &self.honest[other]).collect()
    }

    /// Everybody who dials an honest node or is dialled by it.
    pub(crate) fn neighbours(&self, instance: u32) -> Vec<&Peer> {
        let own = self.place(instance);
        let other = |(dialer, listener): &(usize, usize)| match (*dialer == own, *listener == own) {
            (true, _) => Some(&self.honest[*listener]),
            (_, true) => Some(&self.honest[*dialer]),
            (false, false) => None,
        };
        self.edges.iter().filter_map(other).collect()
    }

    /// Whom the Sybil with this number, counted over all instances, dials.
    pub(crate) fn victims(&self, sybil: usize, scenario: Scenario, p: &P) -> Vec<&Peer> {
        match scenario.victims {
            Victims::Target => self.target(scenario).into_iter().collect(),
            Victims::All => self.honest.iter().collect(),
            Victims::Many => {
                let mut all: Vec<_> = self.honest.iter().collect();
                Rng::new(p.seed, &format!("sybil/{sybil}")).shuffle(&mut all);
                all.truncate(p.sybil_degree);
                all
            }
        }
    }

    /// The peer ids of the honest nodes.
    pub(crate) fn honest_peers(&self) -> BTreeSet<PeerId> {
        self.honest.iter().map(|peer| peer.peer).collect()
    }

    /// Publishers in the run.
    pub(crate) fn publishers(&self) -> impl Iterator<Item = &Peer> {
        self.honest.iter().filter(|peer| peer.role == Role::Publisher)
    }

    fn place(&self, instance: u32) -> usize {
        self.honest.iter().position(|peer| peer.instance == instance).unwrap_or_default()
    }
}

fn peer(instance: u32, role: Role, text: &str) -> Result<Peer, WorldError> {
    let wrong = || WorldError::Address { instance, address: text.to_owned() };
    let address: Multiaddr = text.parse().map_err(|_| wrong())?;
    let peer = address.iter().find_map(|part| {
        let Protocol::P2p(peer) = part else { return None };
        Some(peer)
    });
    Ok(Peer { instance, role, peer: peer.ok_or_else(wrong)?, address })
}

#[cfg(test)]
mod tests {
    use groundswell_p2p::Identity;

    use super::*;
    use crate::params::tests::params;

    fn member(index: u32, role: Role, nodes: u64) -> Member<Entry> {
        let address = |node| {
            let peer = Identity::derive(42, u64::from(index), node).peer();
            format!("/ip4/10.0.0.{index}/tcp/4001/p2p/{peer}")
        };
        let entry = Entry { role, nodes: (0..nodes).map(address).collect() };
        Member { index, group: "all".to_owned(), value: entry }
    }

    fn book(lurkers: u32, sybils: u32) -> Vec<Member<Entry>> {
        let mut book = vec![member(0, Role::Publisher, 1)];
        book.extend((1..=lurkers).map(|index| member(index, Role::Lurker, 1)));
        book.extend((0..sybils).map(|index| member(lurkers + 1 + index, Role::Sybil, 4)));
        book
    }

    fn scenario(name: &str) -> Scenario {
        Scenario::named(name).unwrap()
    }

    #[test]
    fn everybody_agrees_on_who_dials_whom_and_nobody_is_alone() {
        let world = World::new(book(9, 0), scenario("baseline"), &params("degree=2")).unwrap();
        let dials: usize = (0..10).map(|instance| world.dials_of(instance).len()).sum();
        let known: usize = (0..10).map(|instance| world.neighbours(instance).len()).sum();
        assert_eq!(dials * 2, known);
        assert!((0..10).all(|instance| world.neighbours(instance).len() >= 2));
    }

    #[test]
    fn sybils_dial_some_all_or_the_target() {
        let p = params("sybil_degree=3");
        let count = |name: &str| {
            let world = World::new(book(9, 2), scenario(name), &p).unwrap();
            assert_eq!(world.sybils.len(), 8);
            world.victims(5, scenario(name), &p).len()
        };
        assert_eq!((count("degrade"), count("eclipse-net"), count("eclipse-target")), (3, 10, 1));
    }

    #[test]
    fn a_run_that_cannot_be_what_its_case_is_about_is_refused() {
        let wrong = |book, name: &str| {
            World::new(book, scenario(name), &params("")).unwrap_err().to_string()
        };
        assert!(wrong(book(1, 0), "baseline").contains("2 honest nodes"));
        assert!(wrong(book(5, 0), "dawn").contains("no sybil"));
        assert!(wrong(book(5, 1), "churn").contains("4 of them"));
        let mut none = book(5, 0);
        none.remove(0);
        assert!(wrong(none, "baseline").contains("no publisher"));
    }
}
