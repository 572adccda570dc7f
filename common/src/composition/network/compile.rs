//! Works out the network of one run: a class for each of its groups.

use std::collections::HashMap;
use std::time::Duration;

use super::NetworkWish;
use super::play;
use super::selector::{self, Member};
use super::strike;
use crate::composition::{Composition, Run};
use crate::document::Findings;
use crate::link::{AccessLink, LinkShape};
use crate::network::{DataPath, MOST_CLASSES, NetworkPlan};

/// A plan travels in one message with everything else a worker needs.
const MOST_BYTES: usize = 512 << 10;

/// The links of a run while they are worked out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Draft {
    pub(super) access: Vec<AccessLink>,
    /// For each class, for each class it sends to.
    pub(super) paths: Vec<LinkShape>,
}

/// What the composition says about the network of `run`, whose groups have `sizes` instances and whose events may
/// happen until `end`.
pub(in crate::composition) fn compile(
    findings: &Findings,
    composition: &Composition,
    run: &Run,
    sizes: &[u32],
    end: Duration,
) -> NetworkPlan {
    let network = &composition.network;
    let build = |id: &str| composition.groups.iter().find(|group| group.id.value == id);
    let groups: Vec<_> = run.groups.iter().map(|group| build(&group.group_id.value)).collect();
    let silent = groups.iter().flatten().all(|group| group.link.is_empty() && group.nat.is_none());
    let said = network.attachments.regions.is_some()
        || !network.links.is_empty()
        || !network.schedule.is_empty();
    let NetworkWish { encrypt, multicast, data_path, .. } = *network;
    if silent && !said {
        return NetworkPlan { encrypt, multicast, data_path, ..NetworkPlan::default() };
    }
    if groups.len() > MOST_CLASSES {
        let message = format!("{} groups with links, more than {MOST_CLASSES}", groups.len());
        findings.error(run.id.span.clone(), message, "put instances of one kind into one group");
        return NetworkPlan::default();
    }
    let members: Vec<Member<'_>> = run
        .groups
        .iter()
        .zip(&groups)
        .map(|(one, group)| Member {
            id: &one.id.value,
            group: &one.group_id.value,
            region: group.and_then(|group| group.region.as_ref()).map(|one| one.value.as_str()),
            nat: group.is_some_and(|group| group.nat.is_some()),
        })
        .collect();
    let mut draft = ways(composition, &members);
    for (access, group) in draft.access.iter_mut().zip(&groups) {
        if let Some(group) = group {
            *access = group.link.over_access(*access);
        }
    }
    for link in &network.links {
        let from = selector::classes(&link.from, &members);
        let to = selector::classes(&link.to, &members);
        for (from, to) in pairs(&from, &to, link.both) {
            let path = draft.path_mut(from, to);
            *path = link.wish.over(*path);
        }
    }
    let nats: Vec<_> =
        groups.iter().map(|group| Some(group.as_ref()?.nat.as_ref()?.value.clone())).collect();
    for nat in groups.iter().flatten().filter_map(|group| group.nat.as_ref()) {
        if network.data_path == DataPath::Kernel {
            let help = "write `data_path = \"switch\"`, or remove `[groups.nat]`";
            findings.error(nat.span.clone(), "the kernel's data path has no NATs", help);
        }
    }
    let nats = if nats.iter().any(Option::is_some) { nats } else { Vec::new() };
    let schedule = play::compile(findings, composition, &members, draft.clone(), end);
    let narrative = strike::compile(composition, &members, end);
    let plan =
        NetworkPlan { schedule, narrative, nats, encrypt, multicast, data_path, ..draft.plan() };
    strike::check_plan(findings, composition, &plan, sizes, end);
    check_size(findings, run, &plan);
    plan
}

/// What the regions alone make of it.
fn ways(composition: &Composition, members: &[Member<'_>]) -> Draft {
    let count = members.len();
    let mut draft = Draft {
        access: vec![AccessLink::default(); count],
        paths: vec![LinkShape::default(); count * count],
    };
    let Some(regions) = &composition.network.attachments.regions else { return draft };
    let index: Vec<Option<usize>> =
        members.iter().map(|member| regions.index(member.region?)).collect();
    for (class, region) in index.iter().enumerate() {
        let rates = region.and_then(|region| regions.rates.get(region));
        if let Some((upload, download)) = rates {
            draft.access[class].sends.bandwidth_bps = *upload;
            draft.access[class].download_bps = *download;
        }
    }
    for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
        let way = || regions.way(index[from]?, index[to]?);
        if let Some(way) = way() {
            let shape = &mut draft.paths[from * count + to];
            (shape.latency, shape.jitter) = (way.latency, way.jitter);
            shape.loss_pct = way.loss_pct;
        }
    }
    draft
}

/// Every pair of the two sides, once, and also the other way round if `both`.
pub(super) fn pairs(from: &[u16], to: &[u16], both: bool) -> Vec<(u16, u16)> {
    let there = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
    let back = there.clone().filter(|_| both).map(|(from, to)| (to, from));
    let mut pairs: Vec<_> = there.chain(back).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

fn check_size(findings: &Findings, run: &Run, plan: &NetworkPlan) {
    let size = rmp_serde::to_vec_named(plan).map_or(0, |bytes| bytes.len());
    if size > MOST_BYTES {
        let message = format!(
            "the network of run `{}` takes {} KiB, more than {} KiB",
            run.id.value,
            size >> 10,
            MOST_BYTES >> 10
        );
        let help = "use fewer groups, fewer events, or a longer `window` for traces";
        findings.error(run.id.span.clone(), message, help);
    }
}

impl Draft {
    pub(super) fn path(&self, from: u16, to: u16) -> &LinkShape {
        &self.paths[usize::from(from) * self.access.len() + usize::from(to)]
    }

    pub(super) fn path_mut(&mut self, from: u16, to: u16) -> &mut LinkShape {
        &mut self.paths[usize::from(from) * self.access.len() + usize::from(to)]
    }

    /// The plan without a schedule. Shapes that occur often are listed once.
    fn plan(self) -> NetworkPlan {
        let mut plan = NetworkPlan { classes: self.access, ..NetworkPlan::default() };
        if self.paths.iter().all(|path| *path == LinkShape::default()) {
            return plan;
        }
        let mut known: HashMap<String, u16> = HashMap::new();
        for path in self.paths {
            let index = *known.entry(format!("{path:?}")).or_insert_with(|| {
                plan.shapes.push(path);
                u16::try_from(plan.shapes.len() - 1).expect("there are at most 250 times 250 paths")
            });
            plan.paths.push(index);
        }
        plan
    }
}
