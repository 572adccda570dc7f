//! Everybody in the run, worked out from one message per group.
//!
//! Peer ids follow from the seed and the instances' numbers, so that a run of
//! ten thousand needs a handful of messages to know them all.

use std::collections::BTreeMap;
use std::time::Duration;

use groundswell_sdk::{Ctx, Result};
use serde::{Deserialize, Serialize};

use crate::{Identity, Multiaddr, PeerId, Rng, truth};

/// How long groups may take to tell about themselves.
const GROUPS_TIMEOUT: Duration = Duration::from_secs(120);

/// What a group tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// The group's id.
    pub group: String,
    /// The number of its first instance.
    pub first: u32,
    /// Its instances.
    pub count: u32,
    /// What they do.
    pub role: String,
    /// What they run.
    pub version: String,
    /// Whether they are behind a NAT.
    pub nat: bool,
    /// The share of them, from 0 to 1, at whose address nobody answers.
    pub undialable: f64,
}

/// One instance's first node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The instance's number.
    pub index: u32,
    /// Its group, as a place in [`Roster::groups`].
    pub group: usize,
    /// Who it is.
    pub peer: PeerId,
    /// Whether others reach it.
    pub dialable: bool,
}

/// All groups and members of a run.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The groups, in the order of their instances.
    pub groups: Vec<GroupInfo>,
    /// The members, in the order of their numbers.
    pub members: Vec<Member>,
}

impl Roster {
    /// Tells about the own group and waits for all others.
    pub async fn gather(cx: &Ctx, own: GroupInfo) -> Result<Self> {
        if cx.env().index.is_none() {
            return Err("the platform does not tell instances their number".into());
        }
        if cx.group_index() == 0 {
            cx.publish("groups", &own).await?;
        }
        let mut groups: BTreeMap<u32, GroupInfo> = BTreeMap::new();
        let mut told = cx.subscribe::<GroupInfo>("groups").await?;
        let all = async {
            while groups.values().map(|group| group.count).sum::<u32>() < cx.instances() {
                let group = told.next().await?;
                groups.insert(group.first, group);
            }
            Ok::<_, groundswell_sdk::SyncError>(())
        };
        let in_time = tokio::time::timeout(GROUPS_TIMEOUT, all).await;
        let known: Vec<_> = groups.values().map(|group| group.group.as_str()).collect();
        in_time.map_err(|_| format!("only the groups {known:?} have told about themselves"))??;
        Ok(Self::of(cx.env().seed, groups.into_values().collect()))
    }

    /// The members of these groups.
    #[must_use]
    pub fn of(seed: u64, groups: Vec<GroupInfo>) -> Self {
        let mut members = Vec::new();
        for (place, group) in groups.iter().enumerate() {
            for index in group.first..group.first + group.count {
                let peer = Identity::derive(seed, u64::from(index), 0).peer();
                let undialable = is_undialable(seed, index, group.undialable);
                let dialable = !group.nat && !undialable;
                members.push(Member { index, group: place, peer, dialable });
            }
        }
        Self { groups, members }
    }

    /// The group of a member.
    #[must_use]
    pub fn group(&self, member: &Member) -> &GroupInfo {
        &self.groups[member.group]
    }

    /// The members with this number.
    #[must_use]
    pub fn member(&self, index: u32) -> Option<&Member> {
        let place = self.members.binary_search_by_key(&index, |member| member.index).ok()?;
        self.members.get(place)
    }

    /// The member that is this peer.
    #[must_use]
    pub fn find(&self, peer: PeerId) -> Option<&Member> {
        self.members.iter().find(|member| member.peer == peer)
    }

    /// Whether a member is one that others join through: those with the role
    /// `bootstrapper`, and in a run without that role the first.
    #[must_use]
    pub fn is_bootstrapper(&self, index: u32) -> bool {
        let role = |member: &Member| self.group(member).role == "bootstrapper";
        if self.groups.iter().any(|group| group.role == "bootstrapper" && group.count > 0) {
            self.member(index).is_some_and(role)
        } else {
            index == 0
        }
    }

    /// How many bootstrappers there are.
    #[must_use]
    pub fn bootstrappers(&self) -> usize {
        self.members.iter().filter(|member| self.is_bootstrapper(member.index)).count()
    }

    /// The groups with a role, and their places.
    pub fn with_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = (usize, &'a GroupInfo)> {
        self.groups.iter().enumerate().filter(move |(_, group)| group.role == role)
    }

    /// What a closest-peers query by `searcher` should return: the closest of
    /// all that others reach.
    #[must_use]
    pub fn closest(&self, key: &[u8], k: usize, searcher: PeerId) -> Vec<PeerId> {
        let others =
            self.members.iter().filter(|member| member.dialable && member.peer != searcher);
        truth::closest(key, k, others.map(|member| member.peer))
    }

    /// The share of a table whose peers nobody reaches.
    #[must_use]
    pub fn undialable_ratio(&self, table: impl IntoIterator<Item = PeerId>) -> f64 {
        let known: BTreeMap<_, _> =
            self.members.iter().map(|member| (member.peer, member.dialable)).collect();
        let (mut all, mut dead) = (0_u32, 0_u32);
        for peer in table {
            all += 1;
            dead += u32::from(known.get(&peer) == Some(&false));
        }
        f64::from(dead) / f64::from(all.max(1))
    }
}

/// Whether an instance is among the share at whose address nobody answers.
#[must_use]
pub fn is_undialable(seed: u64, index: u32, share: f64) -> bool {
    Rng::new(seed, &format!("undialable/{index}")).ratio() < share
}

/// Where a bootstrapper is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entrance {
    pub(super) index: u32,
    pub(super) address: Multiaddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, role: &str, first: u32, count: u32) -> GroupInfo {
        GroupInfo {
            group: name.to_owned(),
            first,
            count,
            role: role.to_owned(),
            version: "v".to_owned(),
            nat: name == "homes",
            undialable: if name == "broken" { 0.5 } else { 0.0 },
        }
    }

    #[test]
    fn everybody_works_out_the_same_members() {
        let groups = vec![group("a", "passive", 0, 3), group("homes", "searcher", 3, 2)];
        let roster = Roster::of(1, groups);
        assert_eq!(roster.members.len(), 5);
        assert_eq!(roster.member(4).unwrap().peer, Identity::derive(1, 4, 0).peer());
        let dialable: Vec<_> = roster.members.iter().map(|member| member.dialable).collect();
        assert_eq!(dialable, [true, true, true, false, false]);
        let table = roster.members.iter().map(|member| member.peer);
        assert!((roster.undialable_ratio(table) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn the_first_instance_is_the_entrance_where_no_group_is() {
        let without = Roster::of(1, vec![group("a", "passive", 0, 3)]);
        assert!(without.is_bootstrapper(0) && !without.is_bootstrapper(1));
        let groups = vec![group("a", "passive", 0, 3), group("b", "bootstrapper", 3, 2)];
        let with = Roster::of(1, groups);
        assert!(!with.is_bootstrapper(0) && with.is_bootstrapper(4));
        assert_eq!(with.bootstrappers(), 2);
    }

    #[test]
    fn about_the_asked_for_share_is_undialable() {
        let roster = Roster::of(9, vec![group("broken", "passive", 0, 1000)]);
        let dead = roster.members.iter().filter(|member| !member.dialable).count();
        assert!((430..570).contains(&dead), "{dead} of 1000");
    }

    #[test]
    fn the_truth_has_neither_the_searcher_nor_those_nobody_reaches() {
        let roster = Roster::of(1, vec![group("a", "x", 0, 5), group("homes", "y", 5, 5)]);
        let searcher = roster.members[2].peer;
        let truth = roster.closest(b"key", 20, searcher);
        assert_eq!(truth.len(), 4);
        assert!(!truth.contains(&searcher));
    }
}
