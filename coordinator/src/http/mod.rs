//! The coordinator's HTTP port: the web page, and the API it uses. docs/http-api.md is the contract.
//!
//! It is a client of the bus as the command line is one: every call goes to whoever leads with the caller's own token,
//! so a standby answers as well as the leader, and nothing is decided here. What is stored is read from the object
//! store once the bus has said that the caller may see the run.

mod artifacts;
mod ask;
mod assets;
mod calls;
mod events;
mod export;
mod failure;
mod logs;
mod network;
mod range;
mod runs;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use groundswell_common::bus::Bus;
use groundswell_common::objects::Objects;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use failure::Failure;
use stream::Hub;

/// How large the body of a request may be.
const MOST_BODY: usize = 64 << 10;
/// What every answer says to browsers, beside what it is about.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
     connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the port answers from.
pub struct HttpParts {
    /// The bus.
    pub bus: Bus,
    /// The object store.
    pub objects: Objects,
    /// Another name under which browsers reach a port on a loopback address, that of a tunnel for example.
    pub name: Option<String>,
}

/// What all handlers share.
struct Web {
    bus: Bus,
    objects: Objects,
    hub: Hub,
    /// Names that browsers may use; absent is any.
    names: Option<Vec<String>>,
}

type Shared = State<Arc<Web>>;

/// Answers on `listener` until `shutdown`; streams end then, other answers are finished.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    parts: HttpParts,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let hub = Hub::new(parts.bus.clone(), parts.objects.clone(), shutdown.clone());
    let names = names(address, parts.name);
    let web = Arc::new(Web { bus: parts.bus, objects: parts.objects, hub, names });
    let ended = shutdown.clone().cancelled_owned();
    axum::serve(listener, router(web)).with_graceful_shutdown(ended).await
}

/// Whoever makes a foreign name point to a loopback address shall not read what is there.
fn names(address: SocketAddr, other: Option<String>) -> Option<Vec<String>> {
    let known = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
    address.ip().is_loopback().then(|| {
        let own = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        known.into_iter().chain([own]).chain(other).collect()
    })
}

fn router(web: Arc<Web>) -> Router {
    let api = Router::new()
        .route("/info", get(calls::info))
        .route("/queue", get(calls::queue))
        .route("/workers", get(calls::workers))
        .route("/workers/cordon", post(calls::cordon))
        .route("/events", get(stream::listen))
        .route("/runs", get(runs::list))
        .route("/runs/{run}", get(runs::one))
        .route("/runs/{run}/record", get(runs::record))
        .route("/runs/{run}/composition", get(runs::composition))
        .route("/runs/{run}/kpis", get(runs::kpis))
        .route("/runs/{run}/grid", get(runs::grid))
        .route("/runs/{run}/events", get(events::list))
        .route("/runs/{run}/network", get(network::network))
        .route("/runs/{run}/logs", get(logs::list))
        .route("/runs/{run}/artifacts", get(artifacts::list))
        .route("/runs/{run}/artifacts/{group}/{number}/{*path}", get(artifacts::file))
        .route("/runs/{run}/replay", get(runs::replay))
        .route("/runs/{run}/export.html", get(export::page))
        .route("/runs/{run}/cancel", post(calls::cancel))
        .route("/runs/{run}/priority", post(calls::priority))
        .fallback(async || Failure::not_found("no such path under /api/v1"))
        .method_not_allowed_fallback(async || Failure::method());
    Router::new()
        .nest("/api/v1", api)
        .route("/api/{*rest}", get(async || Failure::not_found("the API is under /api/v1")))
        .fallback(assets::file)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(from_fn_with_state(Arc::clone(&web), guard))
        .with_state(web)
}

/// Lets in what a browser on this host may ask, and puts on each answer what browsers have to hold to.
async fn guard(State(web): Shared, request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let mut response = match admitted(&web, &request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS.into_iter().chain([(RESOURCE_POLICY, "same-origin")]) {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let has_own_policy = headers.remove(export::OWN_POLICY).is_some();
    if !has_own_policy {
        let policy = HeaderValue::from_static(CONTENT_POLICY);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if is_api {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn admitted(web: &Web, request: &Request) -> Result<(), Failure> {
    if let Some(names) = &web.names {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let name = host.map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) | None => host,
        });
        if !name.is_some_and(|name| names.iter().any(|known| known.eq_ignore_ascii_case(name))) {
            let help = "use localhost, or give `serve` the name with --http-name";
            return Err(Failure::forbidden("this host is not known by that name", help));
        }
    }
    let writes = request.method() == Method::POST;
    if writes && request.headers().get("x-groundswell").is_none_or(|value| value != "1") {
        let help = "send the header `X-Groundswell: 1`";
        return Err(Failure::forbidden("a foreign page may have made this request", help));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_port_is_known_by_few_names() {
        let of = |address: &str, other: Option<&str>| {
            names(address.parse().expect("an address"), other.map(str::to_owned))
        };
        assert_eq!(of("0.0.0.0:7600", None), None);
        let known = of("127.0.0.9:7600", Some("coord.example")).expect("few");
        assert!(known.contains(&"127.0.0.9".to_owned()), "{known:?}");
        assert!(known.contains(&"coord.example".to_owned()), "{known:?}");
        assert!(of("[::1]:7600", None).expect("few").contains(&"[::1]".to_owned()));
    }
}
