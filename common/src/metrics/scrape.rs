//! Answers whoever asks for metrics in the text format of Prometheus: `GET /metrics`.
//!
//! The format is OpenMetrics 1.0, which Prometheus and VictoriaMetrics read.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 16;
/// How long a client may take to send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// What the format calls itself.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An endpoint that answers until it is dropped.
#[derive(Debug)]
pub struct Exposed {
    address: SocketAddr,
    _end: DropGuard,
}

impl Exposed {
    /// Answers with what `registry` holds at the time.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: SocketAddr, registry: Registry) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(serve(listener, registry, end.clone()).instrument(info_span!("scrape")));
        info!(%address, "metrics can be asked for");
        Ok(Self { address, _end: end.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: TcpListener, registry: Registry, end: CancellationToken) {
    let registry = Arc::new(registry);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            () = end.cancelled() => return,
            // Ended connections are forgotten; dropping the set ends the others.
            Some(_) = connections.join_next() => {}
            (accepted, place) = accept => match accepted {
                Ok((stream, _)) => {
                    let registry = Arc::clone(&registry);
                    connections.spawn(async move {
                        let answer = service_fn(|request| {
                            let answer = answer(&request, &registry);
                            async move { Ok::<_, Infallible>(answer) }
                        });
                        // Whoever goes away in the middle gets nothing.
                        let _ = hyper::server::conn::http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEAD_LIMIT)
                            .serve_connection(TokioIo::new(stream), answer)
                            .await;
                        drop(place);
                    });
                }
                Err(err) => {
                    debug!(error = %err, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let mut text = String::new();
            // A text takes everything that is written to it.
            let _ = encode(&mut text, registry);
            (StatusCode::OK, text)
        }
        _ => (StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let format = if status == StatusCode::OK { FORMAT } else { "text/plain" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::super::Shipper;
    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn the_registry_is_answered_as_it_is_at_the_time() {
        let mut registry = Registry::with_prefix("groundswell_test");
        let counter: Counter = Counter::default();
        registry.register("things", "Things", counter.clone());
        registry.register_collector(Box::new(Shipper::off()));
        let exposed = Exposed::start(([127, 0, 0, 1], 0).into(), registry).await.expect("bound");
        counter.inc();
        let answer = ask(exposed.address(), "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(FORMAT), "{answer}");
        assert!(answer.contains("\ngroundswell_test_things_total 1\n"), "{answer}");
        let lost = "\ngroundswell_test_metrics_lost_total{reason=\"overflow\"} 0\n";
        assert!(answer.contains(lost) && answer.contains("# EOF"), "{answer}");
        assert!(ask(exposed.address(), "/").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = taken.local_addr().expect("an address");
        let refused = Exposed::start(address, Registry::default()).await;
        assert_eq!(refused.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
