//! Calls that the bus answers and that need nothing else.

use axum::Json;
use axum::extract::{Path, State};
use groundswell_common::api::{CancelRequest, CordonRequest, ServiceInfo, WhoAmI, WorkerStatus};
use groundswell_common::queue::{Priority, PriorityRequest, QueueEntry};
use groundswell_common::run::RunStatus;
use groundswell_common::token::Scope;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::ask::{Caller, Params, Said};
use super::failure::Failure;

/// A call without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What the page starts from.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    api: u32,
    service: ServiceInfo,
    tokens_required: bool,
    user: Option<String>,
    scopes: Vec<Scope>,
}

pub(super) async fn info(
    State(web): Shared,
    caller: Caller,
    _: Params<Nothing>,
) -> Result<Json<Info>, Failure> {
    let WhoAmI { tokens_required, user, scopes } = web.ask(&caller, "whoami", &()).await?;
    let service = web.ask(&caller, "info", &()).await?;
    Ok(Json(Info { api: 1, service, tokens_required, user, scopes }))
}

pub(super) async fn queue(
    State(web): Shared,
    caller: Caller,
    _: Params<Nothing>,
) -> Result<Json<Vec<QueueEntry>>, Failure> {
    Ok(Json(web.ask(&caller, "queue", &()).await?))
}

pub(super) async fn workers(
    State(web): Shared,
    caller: Caller,
    _: Params<Nothing>,
) -> Result<Json<Vec<WorkerStatus>>, Failure> {
    Ok(Json(web.ask(&caller, "workers", &()).await?))
}

/// Why and how a run is to end.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cancel {
    kill: bool,
    reason: String,
}

pub(super) async fn cancel(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Said(Cancel { kill, reason }): Said<Cancel>,
) -> Result<Json<RunStatus>, Failure> {
    let run = web.run(&caller, &run).await?.run;
    Ok(Json(web.ask(&caller, "cancel", &CancelRequest { run, kill, reason }).await?))
}

/// How urgent a run is to be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Urgency {
    priority: Priority,
}

pub(super) async fn priority(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Said(Urgency { priority }): Said<Urgency>,
) -> Result<Json<RunStatus>, Failure> {
    let run = web.run(&caller, &run).await?.run;
    Ok(Json(web.ask(&caller, "priority", &PriorityRequest { run, priority }).await?))
}

pub(super) async fn cordon(
    State(web): Shared,
    caller: Caller,
    Said(mut request): Said<CordonRequest>,
) -> Result<Json<Vec<WorkerStatus>>, Failure> {
    if request.by.is_empty() {
        let WhoAmI { user, .. } = web.ask(&caller, "whoami", &()).await?;
        request.by = user.unwrap_or_else(|| "the web page".to_owned());
    }
    Ok(Json(web.ask(&caller, "cordon", &request).await?))
}
