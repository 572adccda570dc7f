//! What is stored of a run beside its outputs, and how runs of the past are found again.

use std::collections::BTreeMap;

use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::bus;
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::kpi::{
    Distribution, HostLoad, Judgement, Judging, KpiRow, SeriesKey, SeriesSet, judge,
};
use groundswell_common::messages::GroupSpec;
use groundswell_common::objects::{Objects, ObjectsError};
use groundswell_common::run::{RunRecord, RunStatus};
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::placement::Share;
use crate::run::Kpis;

/// Version of the record's format.
pub const RECORD_VERSION: u32 = 1;

/// Key of a run's record.
#[must_use]
pub fn record_key(run: &RunId) -> String {
    format!("runs/{run}/record.json")
}

/// Key of a run's event log.
#[must_use]
pub fn events_key(run: &RunId) -> String {
    format!("runs/{run}/events.jsonl")
}

/// Key of a run's composition.
#[must_use]
pub fn composition_key(run: &RunId) -> String {
    format!("runs/{run}/composition.toml")
}

/// Key of what every instance of a run did when: docs/replay-format.md.
#[must_use]
pub fn replay_key(run: &RunId) -> String {
    format!("runs/{run}/replay.gsr")
}

/// Key of what a run has measured.
#[must_use]
pub fn kpis_key(run: &RunId) -> String {
    format!("runs/{run}/kpis.json")
}

/// What a run has measured, stored beside its record as `kpis.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KpiFile {
    /// Version of this format.
    pub v: u32,
    /// The run.
    pub run: RunId,
    /// Each KPI over all groups and tags; those the manifest declares come first.
    pub kpis: Vec<KpiRow>,
    /// Each series.
    pub series: Vec<SeriesRow>,
    /// How the host of each worker was doing.
    pub hosts: Vec<(WorkerId, HostLoad)>,
    /// What came of it.
    pub judgement: Option<Judgement>,
}

/// A series with its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesRow {
    /// What it is.
    pub key: SeriesKey,
    /// How many values there are.
    pub count: u64,
    /// Their statistics by name.
    pub stats: BTreeMap<String, f64>,
    /// The values, from which further ones can be had.
    pub values: Distribution,
}

impl KpiFile {
    /// Everything that `kpis` knows.
    #[must_use]
    pub fn new(run: &RunId, judging: &Judging, kpis: &Kpis) -> Self {
        let row = |(key, values): (&SeriesKey, &Distribution)| SeriesRow {
            key: key.clone(),
            count: values.count(),
            stats: judge::stats(values),
            values: values.clone(),
        };
        Self {
            v: RECORD_VERSION,
            run: run.clone(),
            kpis: judge::rows(judging, &kpis.series),
            series: kpis.series.iter().map(row).collect(),
            hosts: kpis.hosts.clone(),
            judgement: kpis.judgement.clone(),
        }
    }
}

/// Stores what a run has measured.
///
/// # Errors
/// When the store refuses it.
pub async fn store_kpis(
    objects: &Objects,
    run: &RunId,
    kpis: &KpiFile,
) -> Result<(), ObjectsError> {
    let json = serde_json::to_vec(kpis).expect("KPIs are plain data that always encodes");
    objects.put(&kpis_key(run), json).await
}

/// Reads what a run has measured; absent or unreadable is `None`.
///
/// # Errors
/// When the store does not answer.
pub async fn load_kpis(objects: &Objects, run: &RunId) -> Result<Option<KpiFile>, ObjectsError> {
    let Some(json) = objects.get(&kpis_key(run)).await? else { return Ok(None) };
    Ok(serde_json::from_slice(&json)
        .inspect_err(|err| warn!(run = %run, error = %err, "unreadable KPIs"))
        .ok())
}

/// Reads the series of a share that its worker has stored; absent or unreadable is `None`.
///
/// # Errors
/// When the store does not answer.
pub async fn load_series(objects: &Objects, key: &str) -> Result<Option<SeriesSet>, ObjectsError> {
    decoded(objects, key).await
}

/// What another coordinator needs, besides the request and the control state, to go on with a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Seed of everything drawn by chance.
    pub seed: u64,
    /// The data network.
    pub subnet: Ipv4Net,
    /// The time instances are told the run began.
    pub start_time: String,
    /// From the submission to that time.
    pub start_offset_ms: u64,
    /// Groups with their images.
    pub groups: Vec<GroupSpec>,
    /// Which worker has which instances.
    pub shares: Vec<Share>,
}

/// Stores what was asked for.
///
/// # Errors
/// When the store refuses it.
pub async fn store_request(
    objects: &Objects,
    run: &RunId,
    request: &SubmitRequest,
) -> Result<(), ObjectsError> {
    objects.put(&request_key(run), bus::encode(request)).await
}

/// Reads what was asked for; absent or unreadable is `None`.
///
/// # Errors
/// When the store does not answer.
pub async fn load_request(
    objects: &Objects,
    run: &RunId,
) -> Result<Option<SubmitRequest>, ObjectsError> {
    decoded(objects, &request_key(run)).await
}

/// Stores who gets what.
///
/// # Errors
/// When the store refuses it.
pub async fn store_placed(
    objects: &Objects,
    run: &RunId,
    placed: &Placed,
) -> Result<(), ObjectsError> {
    objects.put(&placed_key(run), bus::encode(placed)).await
}

/// Reads who got what; absent or unreadable is `None`.
///
/// # Errors
/// When the store does not answer.
pub async fn load_placed(objects: &Objects, run: &RunId) -> Result<Option<Placed>, ObjectsError> {
    decoded(objects, &placed_key(run)).await
}

fn request_key(run: &RunId) -> String {
    format!("runs/{run}/request.msgpack")
}

fn placed_key(run: &RunId) -> String {
    format!("runs/{run}/placed.msgpack")
}

async fn decoded<T: DeserializeOwned>(
    objects: &Objects,
    key: &str,
) -> Result<Option<T>, ObjectsError> {
    let Some(bytes) = objects.get(key).await? else { return Ok(None) };
    match bus::decode(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(err) => {
            warn!(key, error = %err, "unreadable object");
            Ok(None)
        }
    }
}

/// Stores a record.
///
/// # Errors
/// When the store refuses it.
pub async fn store(objects: &Objects, record: &RunRecord) -> Result<(), ObjectsError> {
    let json =
        serde_json::to_vec_pretty(record).expect("a record is plain data that always encodes");
    objects.put(&record_key(&record.status.run), json).await
}

/// Reads the record of a run; absent or unreadable is `None`.
///
/// # Errors
/// When the store does not answer.
pub async fn load(objects: &Objects, run: &RunId) -> Result<Option<RunRecord>, ObjectsError> {
    let Some(json) = objects.get(&record_key(run)).await? else { return Ok(None) };
    match serde_json::from_slice(&json) {
        Ok(record) => Ok(Some(record)),
        Err(err) => {
            warn!(run = %run, error = %err, "unreadable record");
            Ok(None)
        }
    }
}

/// All runs with something in the store, oldest first.
///
/// # Errors
/// When the store does not answer.
pub async fn runs(objects: &Objects) -> Result<Vec<RunId>, ObjectsError> {
    let names = objects.list_directories("runs").await?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The newest `limit` runs, or those that are older than `before`, newest first: those in `known` as they are there, the others from their records.
///
/// # Errors
/// When the store does not answer.
pub async fn newest(
    objects: &Objects,
    mut known: BTreeMap<RunId, RunStatus>,
    limit: usize,
    before: Option<&RunId>,
) -> Result<Vec<RunStatus>, ObjectsError> {
    let mut ids = runs(objects).await?;
    ids.extend(known.keys().cloned());
    ids.sort();
    ids.dedup();
    let mut statuses = Vec::new();
    for id in ids.iter().rev().filter(|id| before.is_none_or(|before| *id < before)) {
        if statuses.len() >= limit {
            break;
        }
        match known.remove(id) {
            Some(status) => statuses.push(status),
            None => statuses.extend(load(objects, id).await?.map(unknown)),
        }
    }
    Ok(statuses)
}

/// What the record of a run says that nobody knows otherwise.
#[must_use]
pub fn unknown(record: RunRecord) -> RunStatus {
    let forgotten = !record.status.phase.is_over();
    RunStatus { forgotten, ..record.status }
}

/// Finds the one run that `selector` means: `latest`, or any unique prefix of an id or a name.
///
/// # Errors
/// When it means none or more than one.
pub fn select(runs: &[RunId], selector: &str) -> Result<RunId, Refusal> {
    let refuse = |message: String, help: &str| Refusal {
        kind: RefusalKind::NotFound,
        message,
        help: help.to_owned(),
    };
    if selector == "latest" {
        return runs
            .iter()
            .max()
            .cloned()
            .ok_or_else(|| refuse("there are no runs yet".to_owned(), ""));
    }
    let fits =
        |run: &&RunId| run.as_str().starts_with(selector) || run.name().starts_with(selector);
    let exact = |run: &&RunId| run.as_str() == selector || run.name() == selector;
    let found: Vec<&RunId> = runs.iter().filter(fits).collect();
    let exactly: Vec<&RunId> = runs.iter().filter(exact).collect();
    match (found.as_slice(), exactly.as_slice()) {
        _ if selector.is_empty() => Err(refuse("no run was named".to_owned(), "")),
        ([only], _) | (_, [only]) => Ok((*only).clone()),
        ([], _) => Err(refuse(
            format!("no run's id or name starts with `{selector}`"),
            "`coordinator ls` lists them",
        )),
        (many, _) => {
            let names: Vec<String> =
                many.iter().take(5).map(|run| format!("{run} ({})", run.name())).collect();
            Err(refuse(
                format!("`{selector}` means {} runs: {}", many.len(), names.join(", ")),
                "give more of the id",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_by_any_unique_prefix_of_its_id_or_name() {
        let ids: Vec<RunId> = ["c8k3vmlrirtj2p8lcec0", "c8k4vmlrirtj2p8lcec0"]
            .iter()
            .map(|id| id.parse().expect("an id"))
            .collect();
        assert_eq!(select(&ids, "c8k3"), Ok(ids[0].clone()));
        assert_eq!(select(&ids, &ids[1].name()), Ok(ids[1].clone()));
        assert_eq!(select(&ids, "latest"), Ok(ids[1].clone()));
        let many = select(&ids, "c8k").expect_err("two");
        assert!(many.message.starts_with("`c8k` means 2 runs: c8k3"), "{}", many.message);
        let none = select(&ids, "nope").expect_err("none");
        assert_eq!(none.message, "no run's id or name starts with `nope`");
        assert!(select(&ids, "").is_err());
    }
}
