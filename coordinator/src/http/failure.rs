//! Why a request is not answered with what was asked for: a refusal and a status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use groundswell_common::api::{Refusal, RefusalKind};
use groundswell_common::bus::RequestError;
use groundswell_common::chain::Chain;
use groundswell_common::objects::ObjectsError;
use groundswell_common::outputs::OutputsError;
use tracing::warn;

/// After how many seconds it is worth to ask again.
const AGAIN: &str = "2";

/// A request that failed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    status: StatusCode,
    refusal: Refusal,
}

impl Failure {
    fn new(status: StatusCode, kind: RefusalKind, message: &str, help: &str) -> Self {
        let refusal = Refusal { kind, message: message.to_owned(), help: help.to_owned() };
        Self { status, refusal }
    }

    pub(super) fn invalid(message: &str, help: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, RefusalKind::Invalid, message, help)
    }

    pub(super) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, RefusalKind::NotFound, message, "")
    }

    pub(super) fn forbidden(message: &str, help: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, RefusalKind::Forbidden, message, help)
    }

    pub(super) fn unavailable(message: &str, help: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, RefusalKind::Unavailable, message, help)
    }

    pub(super) fn method() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, RefusalKind::Invalid, "this path has no such method", "")
    }

    pub(super) fn outside() -> Self {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        Self::new(status, RefusalKind::Invalid, "there are no such bytes", "")
    }

    pub(super) fn too_large(message: &str) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, RefusalKind::Invalid, message, "")
    }

    /// The caller is nobody, or somebody who may not.
    pub(super) fn refused_to(known: bool, refusal: Refusal) -> Self {
        let status = if known { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        Self { status, refusal }
    }

    /// Whether the caller is not let in.
    pub(super) fn is_forbidden(&self) -> bool {
        self.refusal.kind == RefusalKind::Forbidden
    }

    /// Whether there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        self.refusal.kind == RefusalKind::NotFound
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::Unplaceable => StatusCode::CONFLICT,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, refusal }
    }
}

impl From<RequestError> for Failure {
    fn from(err: RequestError) -> Self {
        warn!(error = %Chain(&err), "a call is not answered");
        match err {
            RequestError::NoAnswer { .. } => {
                Self::unavailable("no coordinator leads at this moment", "a standby takes over")
            }
            RequestError::Unreadable { .. } => Self::unavailable(
                "the coordinator that leads answers with what this one cannot read",
                "they are of different versions",
            ),
            RequestError::Forbidden { .. } => Self::unavailable(
                "the NATS servers do not let this coordinator call",
                "see deploy/nats for what a coordinator has to be allowed",
            ),
        }
    }
}

impl From<ObjectsError> for Failure {
    fn from(err: ObjectsError) -> Self {
        warn!(error = %Chain(&err), "the object store does not answer");
        Self::unavailable(
            &Chain(&err).to_string(),
            "`coordinator doctor` looks at the object store",
        )
    }
}

impl From<OutputsError> for Failure {
    fn from(err: OutputsError) -> Self {
        warn!(error = %Chain(&err), "outputs are not readable");
        match err {
            OutputsError::Absent { .. } => Self::not_found(&err.to_string()),
            OutputsError::Store(_)
            | OutputsError::Index { .. }
            | OutputsError::Frame { .. }
            | OutputsError::Damaged { .. } => Self::unavailable(&Chain(&err).to_string(), ""),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self.refusal)).into_response();
        let extra = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Some((header::RETRY_AFTER, AGAIN))
            }
            _ => None,
        };
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
