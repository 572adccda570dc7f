//! A run in one file that opens from disk: the page with what the API would answer inside.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, Request, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tower::ServiceExt as _;

use super::ask::{Caller, Params};
use super::calls::Nothing;
use super::failure::Failure;
use super::{Shared, Web, assets};

/// Says that an answer brings its content policy itself. Never sent.
pub(super) const OWN_POLICY: HeaderName = HeaderName::from_static("x-groundswell-own-policy");
/// Where the data goes in the page.
const PLACE: &str = "@@GROUNDSWELL_DATA@@";
/// How large an answer may be to go into the file.
const MOST: usize = 256 << 20;
/// What goes into the file, below `/runs/<id>`, and how it is asked for.
const ANSWERS: [(&str, &str); 10] = [
    ("", ""),
    ("/record?brief=1", "/record?brief=1"),
    ("/composition", "/composition"),
    ("/events", "/events?limit=5000&from=-5000"),
    ("/kpis", "/kpis"),
    ("/network", "/network"),
    ("/grid", "/grid"),
    ("/replay", "/replay"),
    ("/logs", "/logs?limit=5000"),
    ("/artifacts", "/artifacts?limit=2000"),
];

#[derive(Serialize)]
struct Export {
    v: u32,
    run: String,
    made_ms: i64,
    version: &'static str,
    answers: BTreeMap<String, String>,
}

pub(super) async fn page(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    _: Params<Nothing>,
) -> Result<Response, Failure> {
    let none = || Failure::not_found("this coordinator was built without its web page");
    let template = assets::get("export.html").ok_or_else(none)?;
    let template = String::from_utf8_lossy(&template.data);
    let status = web.run(&caller, &run).await?;
    let export = Export {
        v: 1,
        run: status.run.to_string(),
        made_ms: jiff::Timestamp::now().as_millisecond(),
        version: env!("CARGO_PKG_VERSION"),
        answers: answers(&web, &caller, status.run.as_str()).await?,
    };
    let page = template.replacen(PLACE, &packed(&export), 1);
    let mut response = page.into_response();
    let said = response.headers_mut();
    let name = format!("attachment; filename=\"{}.html\"", status.name);
    said.extend(HeaderValue::from_str(&name).ok().map(|name| (header::CONTENT_DISPOSITION, name)));
    said.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    said.insert(OWN_POLICY, HeaderValue::from_static("1"));
    Ok(response)
}

/// What the API answers; what it has not got is left out.
async fn answers(
    web: &Arc<Web>,
    caller: &Caller,
    run: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut answers = BTreeMap::new();
    for (path, asked) in ANSWERS {
        let uri = format!("/api/v1/runs/{run}{asked}");
        let mut request = Request::get(uri).header(header::HOST, "localhost");
        if let Some(token) = &caller.0 {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let request = request.body(Body::empty());
        let request = request.map_err(|err| Failure::invalid(&err.to_string(), ""))?;
        let router = super::router(Arc::clone(web));
        let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        if !answer.status().is_success() {
            continue;
        }
        let body = axum::body::to_bytes(answer.into_body(), MOST).await;
        let body = body.map_err(|err| Failure::unavailable(&err.to_string(), ""))?;
        answers.insert(format!("/runs/{run}{path}"), STANDARD.encode(body));
    }
    Ok(answers)
}

fn packed(export: &Export) -> String {
    let json = serde_json::to_vec(export).unwrap_or_default();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let gzip = encoder.write_all(&json).and_then(|()| encoder.finish());
    STANDARD.encode(gzip.unwrap_or_default())
}
