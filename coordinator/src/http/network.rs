//! The links of a run: what was configured, and where the fidelity report says what came of it.

use axum::Json;
use axum::extract::{Path, State};
use groundswell_common::fidelity::Fidelity;
use groundswell_common::link::{AccessLink, LinkShape};
use groundswell_common::nat::NatKind;
use groundswell_common::network::{DataPath, NetworkPlan};
use groundswell_common::run::RunRecord;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::Shared;
use super::ask::{Caller, Params};
use super::calls::Nothing;
use super::failure::Failure;

/// The links between the groups of a run.
#[derive(Debug, Serialize)]
pub(super) struct Network {
    subnet: Ipv4Net,
    data_path: DataPath,
    encrypt: bool,
    groups: Vec<Group>,
    /// Each once.
    shapes: Vec<LinkShape>,
    /// For each group, for each group it sends to: an index into `shapes`.
    links: Vec<usize>,
    /// For each shape: an index into the lanes of the fidelity report.
    lanes: Vec<Option<usize>>,
    schedule: Vec<Planned>,
    narrative: Vec<String>,
    fidelity: Option<Fidelity>,
}

#[derive(Debug, Serialize)]
struct Group {
    id: String,
    instances: u32,
    /// Compositions are resolved to links; what a region was called is not kept.
    region: Option<String>,
    nat: Vec<Layer>,
    up_bps: u64,
    down_bps: u64,
}

#[derive(Debug, Serialize)]
struct Layer {
    kind: NatKind,
    members: u32,
}

#[derive(Debug, Serialize)]
struct Planned {
    at_ms: u64,
    text: String,
}

pub(super) async fn network(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
) -> Result<Json<Network>, Failure> {
    let status = web.run(&caller, &run).await?;
    let record = web.record(&status.run).await?;
    if record.groups.is_empty() {
        let message = format!("the groups of run `{}` are not resolved yet", status.run);
        return Err(Failure::not_found(&message));
    }
    // The record of a run that goes on is older than its status.
    Ok(Json(Network::new(&record, status.network)))
}

impl Network {
    fn new(record: &RunRecord, fidelity: Option<Fidelity>) -> Self {
        let plan = &record.network;
        let (shapes, links, counted) = links(plan, record.groups.len());
        let lane = |shape: &LinkShape| {
            let lanes = fidelity.as_ref()?.lanes.iter();
            lanes.map(|lane| lane.shape).position(|known| known == Some(*shape))
        };
        let started = record.status.started_ms.unwrap_or(record.status.submitted_ms);
        let offset = started.saturating_sub(record.status.submitted_ms);
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let firings = plan.schedule.iter();
        Self {
            subnet: record.subnet,
            data_path: plan.data_path,
            encrypt: plan.encrypt,
            groups: (0..record.groups.len()).map(|class| Group::new(record, class)).collect(),
            lanes: counted.iter().map(lane).collect(),
            shapes,
            links,
            schedule: firings
                .map(|firing| Planned { at_ms: offset + ms(firing.at), text: firing.text.clone() })
                .collect(),
            narrative: plan.narrative.entries.iter().map(|entry| entry.title()).collect(),
            fidelity,
        }
    }
}

impl Group {
    fn new(record: &RunRecord, class: usize) -> Self {
        let (group, plan) = (&record.groups[class], &record.network);
        let access = plan.classes.get(class).copied().unwrap_or_default();
        let layers = plan.nat(class).map(|nat| nat.layers.as_slice()).unwrap_or_default();
        Self {
            id: group.id.clone(),
            instances: group.instances,
            region: None,
            nat: layers
                .iter()
                .map(|layer| Layer { kind: layer.spec.kind, members: layer.members })
                .collect(),
            up_bps: access.sends.bandwidth_bps,
            down_bps: access.download_bps,
        }
    }
}

/// The shapes between groups, each once; which one is between which; and as what the data plane counts each.
fn links(plan: &NetworkPlan, groups: usize) -> (Vec<LinkShape>, Vec<usize>, Vec<LinkShape>) {
    let (mut shapes, mut counted) = (Vec::new(), Vec::new());
    let mut links = Vec::with_capacity(groups * groups);
    for from in 0..groups {
        let access = plan.classes.get(from).copied().unwrap_or_default();
        for to in 0..groups {
            let path = plan.path(from, to);
            let shape = together(access, path);
            let known = shapes.iter().position(|known| *known == shape);
            links.push(known.unwrap_or_else(|| {
                shapes.push(shape);
                let alone = path == LinkShape::default();
                counted.push(if alone { access.sends } else { access.sends.and_path(path) });
                shapes.len() - 1
            }));
        }
    }
    (shapes, links, counted)
}

/// What both do together, with the smaller one of their rates.
fn together(access: AccessLink, path: LinkShape) -> LinkShape {
    let rates = [access.sends.bandwidth_bps, path.bandwidth_bps];
    let rate = rates.into_iter().filter(|rate| *rate > 0).min().unwrap_or(0);
    LinkShape { bandwidth_bps: rate, filter: path.filter, ..access.sends.and_path(path) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn equal_links_are_listed_once() {
        let ms =
            |latency| LinkShape { latency: Duration::from_millis(latency), ..LinkShape::default() };
        let access = |latency, bandwidth_bps| AccessLink {
            sends: LinkShape { bandwidth_bps, ..ms(latency) },
            download_bps: 0,
        };
        let plan = NetworkPlan {
            classes: vec![access(1, 10), access(1, 10)],
            shapes: vec![LinkShape::default(), LinkShape { bandwidth_bps: 4, ..ms(50) }],
            paths: vec![0, 1, 1, 0],
            ..NetworkPlan::default()
        };
        let (shapes, links, counted) = links(&plan, 2);
        assert_eq!(links, [0, 1, 1, 0]);
        assert_eq!(shapes[0], access(1, 10).sends);
        assert_eq!(shapes[1], LinkShape { bandwidth_bps: 4, ..ms(51) });
        assert_eq!(counted, [access(1, 10).sends, ms(51)]);
    }
}
