//! The books of a run: which worker has which instances, what each share has told, how each instance ended.

use std::collections::BTreeMap;

use groundswell_common::api::InstanceState;
use groundswell_common::egress::ExposedPort;
use groundswell_common::fidelity::{self, Fidelity, NetworkReport};
use groundswell_common::ids::{InstanceId, WorkerId};
use groundswell_common::messages::InstanceRange;
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::run::GroupCounts;

use super::ShareKpis;
use crate::placement;

/// One worker's share of a run and what it has told.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// The worker.
    pub worker: WorkerId,
    /// Its instances.
    pub ranges: Vec<InstanceRange>,
    /// Instances that are ready.
    pub ready: u32,
    /// What the worker is busy with.
    pub doing: String,
    /// Every instance is ready.
    pub prepared: bool,
    /// Every instance was let go.
    pub started: bool,
    /// Ports of its instances that are reached from outside.
    pub exposed: Vec<ExposedPort>,
    /// What the worker has measured of the data network.
    pub network: Option<NetworkReport>,
    /// How far it is with what its instances have measured.
    pub kpis: ShareKpis,
    /// Where its outputs are listed, once they are stored.
    pub index: Option<String>,
    /// Its outputs will never be stored.
    pub collect_failed: bool,
    /// Nothing of it is left on the worker.
    pub cleaned: bool,
    /// The worker is gone, and the share with it.
    pub lost: bool,
    /// The worker has told this coordinator everything it had told another one.
    pub retold: bool,
}

impl Share {
    fn new(worker: WorkerId, ranges: Vec<InstanceRange>) -> Self {
        Self {
            worker,
            ranges,
            ready: 0,
            doing: String::new(),
            prepared: false,
            started: false,
            exposed: Vec::new(),
            network: None,
            kpis: ShareKpis::Untold,
            index: None,
            collect_failed: false,
            cleaned: false,
            lost: false,
            retold: false,
        }
    }

    /// How many instances it has.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.ranges.iter().map(|range| range.count).sum()
    }

    fn contains(&self, instance: InstanceId) -> bool {
        self.ranges
            .iter()
            .any(|range| instance.0 >= range.first.0 && instance.0 - range.first.0 < range.count)
    }

    /// Its instances.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.ranges
            .iter()
            .flat_map(|range| (range.first.0..range.first.0 + range.count).map(InstanceId))
    }

    /// Nothing more is to be expected of its outputs.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let stored = self.index.is_some() || self.collect_failed;
        self.lost || (stored && self.kpis != ShareKpis::Fetching)
    }
}

/// The books of a run.
#[derive(Debug, Clone)]
pub struct Accounts {
    groups: Vec<(String, u32)>,
    /// In the order of their workers.
    shares: Vec<Share>,
    ends: BTreeMap<InstanceId, InstanceEnd>,
    counts: Vec<GroupCounts>,
    first_bad: Option<InstanceId>,
}

impl Accounts {
    /// Empty books for groups of these names and sizes.
    #[must_use]
    pub fn new(groups: Vec<(String, u32)>) -> Self {
        let counts = groups
            .iter()
            .map(|(_, want)| GroupCounts { want: *want, ..GroupCounts::default() })
            .collect();
        Self { groups, shares: Vec::new(), ends: BTreeMap::new(), counts, first_bad: None }
    }

    /// Takes the placement in.
    pub fn place(&mut self, shares: Vec<placement::Share>) {
        self.shares =
            shares.into_iter().map(|(worker, ranges)| Share::new(worker, ranges)).collect();
        self.shares.sort_by(|one, other| one.worker.cmp(&other.worker));
    }

    /// Instances of the run.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.groups.iter().map(|(_, count)| count).sum()
    }

    /// The shares, in the order of their workers.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The share of `worker`.
    pub fn share(&mut self, worker: &WorkerId) -> Option<&mut Share> {
        let at = self.at(worker)?;
        self.shares.get_mut(at)
    }

    /// How each instance ended that has.
    #[must_use]
    pub fn ends(&self) -> &BTreeMap<InstanceId, InstanceEnd> {
        &self.ends
    }

    /// The first instance that was told to have ended without success, and was neither lost nor killed as it should be.
    #[must_use]
    pub fn first_bad(&self) -> Option<InstanceId> {
        self.first_bad
    }

    /// The group of an instance and its number in it.
    #[must_use]
    pub fn locate(&self, instance: InstanceId) -> (usize, u32) {
        let mut first = 0;
        for (group, (_, count)) in self.groups.iter().enumerate() {
            if instance.0 - first < *count {
                return (group, instance.0 - first);
            }
            first += count;
        }
        (self.groups.len(), 0)
    }

    /// An instance as people call it: `group[number]`.
    #[must_use]
    pub fn label(&self, instance: InstanceId) -> String {
        let (group, number) = self.locate(instance);
        let name = self.groups.get(group).map_or("?", |(name, _)| name.as_str());
        format!("{name}[{number}]")
    }

    /// Notes how an instance of `worker` ended. The first word counts: a repeated or later one, and one about an
    /// instance that this worker does not have, changes nothing.
    pub fn end(&mut self, worker: &WorkerId, instance: InstanceId, end: InstanceEnd) -> bool {
        let share = self.at(worker).map(|at| &self.shares[at]);
        let known = share.is_some_and(|share| !share.lost && share.contains(instance));
        known && self.note(instance, end)
    }

    /// Where the share of a worker is: they are in the order of their workers.
    fn at(&self, worker: &WorkerId) -> Option<usize> {
        self.shares.binary_search_by(|share| share.worker.cmp(worker)).ok()
    }

    fn note(&mut self, instance: InstanceId, end: InstanceEnd) -> bool {
        if self.ends.contains_key(&instance) {
            return false;
        }
        let (group, _) = self.locate(instance);
        self.counts[group].count(end.outcome);
        // One that is lost has done nothing wrong, nor has one that the run's own schedule has killed.
        let blameless = matches!(end.outcome, Outcome::Success | Outcome::Lost | Outcome::Killed);
        if !blameless && self.first_bad.is_none() {
            self.first_bad = Some(instance);
        }
        self.ends.insert(instance, end);
        true
    }

    /// Gives every instance of `worker` that has not ended this end. Returns how many those are.
    pub fn end_share(&mut self, worker: &WorkerId, outcome: Outcome, reason: &str) -> u32 {
        let open: Vec<InstanceId> = self
            .shares
            .iter()
            .filter(|share| &share.worker == worker)
            .flat_map(Share::instances)
            .filter(|instance| !self.ends.contains_key(instance))
            .collect();
        self.end_each(open, outcome, reason)
    }

    /// Gives every instance that has not ended this end. Returns how many those are.
    pub fn end_rest(&mut self, outcome: Outcome, reason: &str) -> u32 {
        let open: Vec<InstanceId> = (0..self.total())
            .map(InstanceId)
            .filter(|instance| !self.ends.contains_key(instance))
            .collect();
        self.end_each(open, outcome, reason)
    }

    fn end_each(&mut self, open: Vec<InstanceId>, outcome: Outcome, reason: &str) -> u32 {
        let mut ended = 0;
        for instance in open {
            let end =
                InstanceEnd { outcome, reason: reason.to_owned(), exit: None, last_lines: vec![] };
            ended += u32::from(self.note(instance, end));
        }
        ended
    }

    /// Instances that have not ended.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.total() - u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    /// Whether every share satisfies `what`; not before there are shares.
    pub fn every(&self, what: impl Fn(&Share) -> bool) -> bool {
        !self.shares.is_empty() && self.shares.iter().all(what)
    }

    /// Whether nothing of it is left on any worker.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.shares.iter().all(|share| share.cleaned || share.lost)
    }

    /// How many instances are lost, or have succeeded and their outputs are lost with their worker.
    #[must_use]
    pub fn lost(&self) -> u32 {
        let is_lost = |share: &Share, instance: &InstanceId| {
            let outputs_lost = share.lost && share.index.is_none();
            self.ends.get(instance).is_some_and(|end| match end.outcome {
                Outcome::Lost => true,
                Outcome::Success => outputs_lost,
                Outcome::Failure
                | Outcome::TimedOut
                | Outcome::Canceled
                | Outcome::Aborted
                | Outcome::Killed => false,
            })
        };
        let of = |share: &Share| share.instances().filter(|id| is_lost(share, id)).count();
        u32::try_from(self.shares.iter().map(of).sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// How many instances of each group are where.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, GroupCounts)> {
        let mut counts = self.counts.clone();
        for share in &self.shares {
            let mut ready = if share.prepared { share.size() } else { share.ready };
            for range in &share.ranges {
                let here = ready.min(range.count);
                ready -= here;
                let group = &mut counts[usize::from(range.group)];
                group.ready += here;
                group.running += if share.started { range.count } else { 0 };
            }
        }
        for group in &mut counts {
            group.ready = group.ready.max(group.ended()).min(group.want);
            group.running = group.running.saturating_sub(group.ended());
        }
        self.groups.iter().map(|(name, _)| name.clone()).zip(counts).collect()
    }

    /// Where each instance is, by its number.
    #[must_use]
    pub fn states(&self) -> Vec<InstanceState> {
        let mut states = vec![InstanceState::Waiting; usize::try_from(self.total()).unwrap_or(0)];
        let mut set = |instance: InstanceId, state| {
            let place = usize::try_from(instance.0).ok().and_then(|at| states.get_mut(at));
            if let Some(place) = place {
                *place = state;
            }
        };
        for share in &self.shares {
            let state = match (share.prepared, share.started) {
                (_, true) => InstanceState::Running,
                (true, false) => InstanceState::Ready,
                (false, false) => InstanceState::Preparing,
            };
            share.instances().for_each(|instance| set(instance, state));
        }
        for (instance, end) in &self.ends {
            set(*instance, InstanceState::Ended(end.outcome));
        }
        states
    }

    /// The groups and how many instances each has.
    #[must_use]
    pub fn groups(&self) -> &[(String, u32)] {
        &self.groups
    }

    /// How true the data network was, by what workers have measured; absent when none has.
    ///
    /// A share whose instances never ran had no network to measure.
    #[must_use]
    pub fn network(&self) -> Option<Fidelity> {
        let parts: Vec<_> = self
            .shares
            .iter()
            .filter(|share| share.started || share.network.is_some())
            .map(|share| (share.worker.clone(), share.network.as_ref()))
            .collect();
        fidelity::judge(&parts)
    }

    /// The first `most` instances that did not succeed, for a summary.
    #[must_use]
    pub fn failures(&self, most: usize) -> Vec<(InstanceId, String, u32, InstanceEnd)> {
        self.ends
            .iter()
            .filter(|(_, end)| !matches!(end.outcome, Outcome::Success | Outcome::Killed))
            .take(most)
            .map(|(instance, end)| {
                let (group, number) = self.locate(*instance);
                (*instance, self.groups[group].0.clone(), number, end.clone())
            })
            .collect()
    }

    /// The number of instances whose outcome satisfies `what`.
    pub fn count(&self, what: impl Fn(Outcome) -> bool) -> usize {
        self.ends.values().filter(|end| what(end.outcome)).count()
    }
}
