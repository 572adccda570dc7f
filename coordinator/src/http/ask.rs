//! What a request says about its caller, and calls on the bus in the caller's name.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use groundswell_common::api::{Refusal, RefusalKind, RunRequest, WhoAmI};
use groundswell_common::run::RunStatus;
use groundswell_common::token::Token;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Web;
use super::failure::Failure;

/// Who asks: the token of the request, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Caller(pub(super) Option<Token>);

impl FromRequestParts<Arc<Web>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Web>) -> Result<Self, Failure> {
        let Some(value) = parts.headers.get(header::AUTHORIZATION) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default();
        let token = text.strip_prefix("Bearer ").and_then(|token| token.trim().parse().ok());
        let help = "send `Authorization: Bearer gs_…`";
        let wrong = || Refusal {
            kind: RefusalKind::Forbidden,
            message: "what the request has for a token is none".to_owned(),
            help: help.to_owned(),
        };
        token.map(|token| Self(Some(token))).ok_or_else(|| Failure::refused_to(false, wrong()))
    }
}

/// The parameters of a request. An unknown or unreadable one is told.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Web>> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Web>) -> Result<Self, Failure> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(err) => Err(Failure::invalid(&err.body_text(), "docs/http-api.md lists them")),
        }
    }
}

/// The body of a request, in JSON.
#[derive(Debug)]
pub(super) struct Said<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Web>> for Said<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, web: &Arc<Web>) -> Result<Self, Failure> {
        let body = Bytes::from_request(request, web).await.map_err(|err| {
            match err.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Failure::too_large("a body has 64 KiB at most"),
                _ => Failure::invalid("the body ends before it is whole", ""),
            }
        })?;
        let read = serde_json::from_slice(&body).map_err(|err| {
            Failure::invalid(&format!("the body is not as it should be: {err}"), "docs/http-api.md")
        });
        read.map(Self)
    }
}

impl Web {
    /// Calls whoever leads.
    pub(super) async fn ask<R: DeserializeOwned>(
        &self,
        caller: &Caller,
        call: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<R, Failure> {
        ask(&self.bus, caller, call, request).await
    }

    /// The state of the run that a path names; says as well that the caller may see it.
    pub(super) async fn run(&self, caller: &Caller, selector: &str) -> Result<RunStatus, Failure> {
        self.ask(caller, "run", &RunRequest { selector: selector.to_owned() }).await
    }
}

/// Calls whoever leads, in the name of `caller`.
pub(super) async fn ask<R: DeserializeOwned>(
    bus: &groundswell_common::bus::Bus,
    caller: &Caller,
    call: &str,
    request: &(impl Serialize + Sync),
) -> Result<R, Failure> {
    let refusal = match bus.call_for::<R>(caller.0.as_ref(), call, request).await? {
        Ok(answer) => return Ok(answer),
        Err(refusal) => refusal,
    };
    if refusal.kind != RefusalKind::Forbidden {
        return Err(refusal.into());
    }
    // Somebody who may look, and not do this; or nobody at all.
    let known = bus.call_for::<WhoAmI>(caller.0.as_ref(), "whoami", &()).await?.is_ok();
    Err(Failure::refused_to(known, refusal))
}
