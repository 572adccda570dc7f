//! Runs: the list, one of them, and what is stored of it whole.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use groundswell_common::api::{InstanceState, RunGrid, RunRequest, RunsRequest};
use groundswell_common::bus::Bus;
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::messages::InstanceRange;
use groundswell_common::objects::Objects;
use groundswell_common::run::{RunPhase, RunRecord, RunStatus, SourceInfo, Verdict};
use serde::{Deserialize, Serialize};

use super::ask::{self, Caller, Params};
use super::calls::Nothing;
use super::failure::Failure;
use super::{Shared, Web, range};
use crate::record::{self, KpiFile};

/// Runs a list has when nothing is said.
const USUAL: u32 = 100;
/// Runs a list has at most.
const MOST: u32 = 500;
/// Runs that are asked for at once.
const PAGE: u32 = 100;
/// How many runs are looked at for one list.
const LOOKED_AT: u32 = 5_000;

/// A run with where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RunEntry {
    pub(super) status: RunStatus,
    source: SourceInfo,
}

impl RunEntry {
    /// All that is known.
    pub(super) fn whole(status: RunStatus) -> Self {
        Self { source: status.source.clone(), status }
    }

    /// What a list says of it.
    pub(super) fn short(status: RunStatus) -> Self {
        Self::whole(status.listed())
    }
}

/// Some runs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RunList {
    pub(super) runs: Vec<RunEntry>,
    pub(super) more: bool,
}

/// Which runs are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Filter {
    limit: Option<u32>,
    before: Option<RunId>,
    plan: Option<String>,
    case: Option<String>,
    user: Option<String>,
    branch: Option<String>,
    commit: Option<String>,
    phase: Option<String>,
    verdict: Option<String>,
    q: Option<String>,
}

impl Filter {
    fn takes(&self, run: &RunStatus) -> bool {
        let is = |wanted: &Option<String>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == text)
        };
        let among = |wanted: &Option<String>, word: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|one| one.trim() == word))
        };
        let commit = self.commit.as_ref();
        is(&self.plan, &run.plan)
            && is(&self.case, &run.case)
            && is(&self.user, &run.user)
            && is(&self.branch, &run.source.branch)
            && commit.is_none_or(|commit| run.source.commit.starts_with(commit.as_str()))
            && among(&self.phase, run.phase.as_str())
            && among(&self.verdict, run.verdict.map_or("none", Verdict::as_str))
            && self.q.as_ref().is_none_or(|text| has(run, &text.to_lowercase()))
    }

    /// Refuses words that no run has, which would quietly find nothing.
    fn check(&self) -> Result<(), Failure> {
        if self.limit.is_some_and(|limit| limit == 0 || limit > MOST) {
            return Err(Failure::invalid(&format!("`limit` is 1 to {MOST}"), ""));
        }
        let phases = RunPhase::ALL.map(RunPhase::as_str);
        let verdicts: Vec<&str> =
            Verdict::ALL.map(Verdict::as_str).into_iter().chain(["none"]).collect();
        for (name, said, known) in
            [("phase", &self.phase, &phases[..]), ("verdict", &self.verdict, &verdicts)]
        {
            let mut words = said.iter().flat_map(|said| said.split(',')).map(str::trim);
            if let Some(word) = words.find(|word| !known.contains(word)) {
                let message = format!("`{word}` is no {name}");
                return Err(Failure::invalid(
                    &message,
                    &format!("it is one of {}", known.join(", ")),
                ));
            }
        }
        Ok(())
    }
}

fn has(run: &RunStatus, text: &str) -> bool {
    let source = &run.source;
    [run.run.as_str(), &run.name, &run.plan, &run.case, &run.user, &source.branch, &source.commit]
        .iter()
        .any(|field| field.to_lowercase().contains(text))
}

pub(super) async fn list(
    State(web): Shared,
    caller: Caller,
    Params(filter): Params<Filter>,
) -> Result<Json<RunList>, Failure> {
    filter.check()?;
    let limit = usize::try_from(filter.limit.unwrap_or(USUAL)).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    let mut before = filter.before.clone();
    let mut looked_at = 0;
    while found.len() <= limit && looked_at < LOOKED_AT {
        let request = RunsRequest { limit: PAGE, before: before.clone() };
        let page: Vec<RunStatus> = web.ask(&caller, "runs", &request).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.run.clone());
        let whole = page.len() < PAGE as usize;
        looked_at += PAGE;
        found.extend(page.into_iter().filter(|run| filter.takes(run)).map(RunEntry::short));
        if whole {
            break;
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    Ok(Json(RunList { runs: found, more }))
}

pub(super) async fn one(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
) -> Result<Json<RunEntry>, Failure> {
    Ok(Json(RunEntry::whole(web.run(&caller, &run).await?)))
}

/// How much of a record is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Brief {
    brief: Option<u32>,
}

pub(super) async fn record(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Params(Brief { brief }): Params<Brief>,
) -> Result<Json<RunRecord>, Failure> {
    let run = web.run(&caller, &run).await?.run;
    let mut record = web.record(&run).await?;
    if brief == Some(1) {
        record.composition.clear();
        record.ends.clear();
        record.network_reports.clear();
    }
    Ok(Json(record))
}

pub(super) async fn composition(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
) -> Result<Response, Failure> {
    let run = web.run(&caller, &run).await?.run;
    let text = web.record(&run).await?.composition;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

pub(super) async fn kpis(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
) -> Result<Json<KpiFile>, Failure> {
    let run = web.run(&caller, &run).await?.run;
    let none = || Failure::not_found(&format!("run `{run}` has measured nothing, or is going on"));
    record::load_kpis(&web.objects, &run).await?.map(Json).ok_or_else(none)
}

pub(super) async fn replay(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let run = web.run(&caller, &run).await?.run;
    let none = || Failure::not_found(&format!("there is no replay of run `{run}`"));
    let file = web.objects.get(&record::replay_key(&run)).await?.ok_or_else(none)?;
    let mut response = range::answer(&headers, file);
    let kind = header::HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Every instance of a run in one byte.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Grid {
    run: RunId,
    at_ms: u64,
    pub(super) revision: u64,
    groups: Vec<(String, u32)>,
    placement: Vec<(WorkerId, Vec<InstanceRange>)>,
    states: String,
}

impl From<&RunGrid> for Grid {
    fn from(grid: &RunGrid) -> Self {
        Self {
            run: grid.run.clone(),
            at_ms: grid.at_ms,
            revision: grid.revision,
            groups: grid.groups.clone(),
            placement: grid.placement.clone(),
            states: STANDARD.encode(&grid.states),
        }
    }
}

pub(super) async fn grid(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
) -> Result<Json<Grid>, Failure> {
    let run = web.run(&caller, &run).await?.run;
    let grid = grid_of(&web.bus, &web.objects, &caller, &run).await?;
    Ok(Json(Grid::from(&grid)))
}

impl Web {
    /// What is stored of a run.
    pub(super) async fn record(&self, run: &RunId) -> Result<RunRecord, Failure> {
        record_of(&self.objects, run).await
    }
}

/// Where each instance of a run is, or was at its end.
pub(super) async fn grid_of(
    bus: &Bus,
    objects: &Objects,
    caller: &Caller,
    run: &RunId,
) -> Result<RunGrid, Failure> {
    let request = RunRequest { selector: run.to_string() };
    match ask::ask(bus, caller, "grid", &request).await {
        Err(failure) if failure.is_not_found() => Ok(at_its_end(&record_of(objects, run).await?)),
        answer => answer,
    }
}

async fn record_of(objects: &Objects, run: &RunId) -> Result<RunRecord, Failure> {
    let none = || Failure::not_found(&format!("run `{run}` has no record yet"));
    record::load(objects, run).await?.ok_or_else(none)
}

/// Where the instances of a run were when it was over.
fn at_its_end(record: &RunRecord) -> RunGrid {
    let status = &record.status;
    let groups: Vec<(String, u32)> =
        status.groups.iter().map(|(id, counts)| (id.clone(), counts.want)).collect();
    let total: u32 = groups.iter().map(|(_, count)| count).sum();
    let mut states =
        vec![InstanceState::Waiting.code(); usize::try_from(total).unwrap_or_default()];
    for (instance, end) in &record.ends {
        if let Some(state) = usize::try_from(instance.0).ok().and_then(|at| states.get_mut(at)) {
            *state = InstanceState::Ended(end.outcome).code();
        }
    }
    RunGrid {
        run: status.run.clone(),
        at_ms: status.finished_ms.unwrap_or(status.submitted_ms) - status.submitted_ms,
        revision: status.revision,
        groups,
        placement: record.placement.clone(),
        states,
    }
}
