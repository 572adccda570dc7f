//! The write endpoint of InfluxDB 1.x that SDKs expect on 127.0.0.1:8086 inside an instance.
//!
//! [`serve`] accepts on a listener inside an instance's namespace and hands lines to a [`MetricsSink`]
//! without waiting: the Rust SDK does nothing else while its write runs. The sink gives them to the worker's
//! [`Shipper`], and through a bounded channel to one task, made with the sink, which appends to the file
//! `metrics.lp` up to a number of bytes. What does not fit into the channel or the file is counted, and never in
//! the way of the run. A line that is malformed goes nowhere; those beside it do.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use groundswell_common::ids::RunId;
use groundswell_common::metrics::Shipper;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub mod line;

use line::{Identity, Precision, attribute};

/// Largest body of a write.
const LARGEST_WRITE: usize = 4 << 20;
/// Connections of one instance at a time; more wait.
const CONNECTIONS: usize = 32;
/// Writes that may wait for the file, and how many bytes they may be together.
const WRITES: usize = 1024;
const WAITING_BYTES: u64 = 16 << 20;
/// How long a client may take to send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Takes lines for a file, and for a store. Clones share both.
#[derive(Debug, Clone)]
pub struct MetricsSink {
    writes: mpsc::Sender<String>,
    counts: Arc<Counts>,
    store: Option<(Shipper, RunId)>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    dropped: AtomicU64,
    malformed: AtomicU64,
    /// Bytes that wait for the file.
    waiting: AtomicU64,
}

/// How many lines a sink has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineCounts {
    /// Lines taken, whether they are in the file already or not.
    pub accepted: u64,
    /// Lines that did not fit or could not be written.
    pub dropped: u64,
    /// Lines that are none.
    pub malformed: u64,
}

impl MetricsSink {
    /// A sink for `file`, which never grows beyond `largest` bytes, and the task that writes it. The task
    /// ends with the last clone of the sink, and then all is written.
    pub fn new(file: PathBuf, largest: u64) -> (Self, impl Future<Output = std::io::Result<()>>) {
        let (writes, inbox) = mpsc::channel(WRITES);
        let counts = Arc::new(Counts::default());
        let task = append(file, largest, inbox, Arc::clone(&counts));
        (Self { writes, counts, store: None }, task)
    }

    /// The same, that gives each line to `shipper` too, on the account of `run`.
    #[must_use]
    pub fn shipping(self, shipper: Shipper, run: RunId) -> Self {
        Self { store: Some((shipper, run)), ..self }
    }

    /// How many lines it has seen.
    #[must_use]
    pub fn counts(&self) -> LineCounts {
        LineCounts {
            accepted: self.counts.accepted.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            malformed: self.counts.malformed.load(Ordering::Relaxed),
        }
    }

    /// Counts lines that are none.
    fn refuse(&self, malformed: u64) {
        self.counts.malformed.fetch_add(malformed, Ordering::Relaxed);
        if let Some((shipper, run)) = &self.store {
            shipper.malformed(Some(run), malformed);
        }
    }

    /// Takes `lines`, each with its newline, or counts them as dropped.
    fn take(&self, lines: String) {
        if let Some((shipper, run)) = &self.store {
            lines.lines().for_each(|line| shipper.line(run, line));
        }
        let (count, bytes) = (line_count(&lines), lines.len() as u64);
        let waiting = self.counts.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Counted first, so that the writer never takes back what is not there yet.
        self.counts.accepted.fetch_add(count, Ordering::Relaxed);
        if waiting > WAITING_BYTES || self.writes.try_send(lines).is_err() {
            self.counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.refuse(count);
        }
    }
}

impl Counts {
    /// Lines that were accepted are dropped after all.
    fn refuse(&self, lines: u64) {
        self.accepted.fetch_sub(lines, Ordering::Relaxed);
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

fn line_count(lines: &str) -> u64 {
    lines.lines().count() as u64
}

/// Appends what comes until nobody can send any more.
async fn append(
    file: PathBuf,
    largest: u64,
    mut inbox: mpsc::Receiver<String>,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let mut open = tokio::fs::OpenOptions::new().create(true).append(true).open(&file).await?;
    let mut left = largest.saturating_sub(open.metadata().await?.len());
    while let Some(lines) = inbox.recv().await {
        counts.waiting.fetch_sub(lines.len() as u64, Ordering::Relaxed);
        let Some(rest) = left.checked_sub(lines.len() as u64) else {
            counts.refuse(line_count(&lines));
            continue;
        };
        left = rest;
        if let Err(err) = open.write_all(lines.as_bytes()).await {
            debug!(error = %err, "metrics could not be written");
            counts.refuse(line_count(&lines));
        }
    }
    open.flush().await
}

/// Serves the endpoint on a listening, non-blocking socket until `cancel`.
///
/// # Errors
/// When the descriptor is not a listening TCP socket.
pub async fn serve(
    listener: OwnedFd,
    identity: Identity,
    sink: MetricsSink,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(std::net::TcpListener::from(listener))?;
    let identity = Arc::new(identity);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
            (listener.accept().await, place)
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            // Ended connections are forgotten; dropping the set ends the others.
            Some(_) = connections.join_next() => {}
            (accepted, place) = accept => match accepted {
                Ok((stream, _)) => {
                    let (identity, sink) = (Arc::clone(&identity), sink.clone());
                    connections.spawn(async move {
                        converse(stream, &identity, &sink).await;
                        drop(place);
                    });
                }
                // Without descriptors the next accept fails as well; let others end theirs first.
                Err(err) => {
                    debug!(error = %err, "a metrics connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, identity: &Identity, sink: &MetricsSink) {
    let answer =
        service_fn(|request| async { Ok::<_, Infallible>(answer(request, identity, sink).await) });
    // A client that goes away in the middle is the plan's matter.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    identity: &Identity,
    sink: &MetricsSink,
) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/write") => match write(request, identity, sink).await {
            Ok(()) => reply(StatusCode::NO_CONTENT, ""),
            Err((status, why)) => reply(status, &serde_json::json!({ "error": why }).to_string()),
        },
        // `CREATE DATABASE` succeeds; there is nothing to select.
        (&Method::GET | &Method::POST, "/query") => {
            reply(StatusCode::OK, r#"{"results":[{"statement_id":0}]}"#)
        }
        (&Method::GET | &Method::HEAD, "/ping") => reply(StatusCode::NO_CONTENT, ""),
        _ => reply(StatusCode::NOT_FOUND, r#"{"error":"not found"}"#),
    }
}

async fn write(
    request: Request<Incoming>,
    identity: &Identity,
    sink: &MetricsSink,
) -> Result<(), (StatusCode, String)> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    if request.headers().get(CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        let why = "compressed writes are not understood, send them plain".to_owned();
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let precision = precision(request.uri().query().unwrap_or_default()).map_err(bad)?;
    let body = Limited::new(request.into_body(), LARGEST_WRITE)
        .collect()
        .await
        .map_err(|err| (StatusCode::PAYLOAD_TOO_LARGE, err.to_string()))?
        .to_bytes();
    let text = str::from_utf8(&body).map_err(|err| bad(err.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let (mut lines, mut malformed, mut first) = (String::new(), 0, None);
    let points =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for point in points {
        match attribute(point, identity, precision, now_ns) {
            Ok(attributed) => {
                lines.push_str(&attributed);
                lines.push('\n');
            }
            Err(why) => {
                malformed += 1;
                first.get_or_insert_with(|| format!("unable to parse '{point}': {why}"));
            }
        }
    }
    if !lines.is_empty() {
        sink.take(lines);
    }
    sink.refuse(malformed);
    // As InfluxDB has it: the good lines of a write are taken although it is answered with an error.
    first.map_or(Ok(()), |why| Err(bad(why)))
}

fn precision(query: &str) -> Result<Precision, String> {
    let Some(text) = query.split('&').find_map(|pair| pair.strip_prefix("precision=")) else {
        return Ok(Precision::NANOSECONDS);
    };
    Precision::parse(text).ok_or_else(|| format!("unknown precision '{text}'"))
}

fn reply(status: StatusCode, json: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(json.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // Clients look at the version to choose their dialect.
    headers.insert("x-influxdb-version", hyper::header::HeaderValue::from_static("1.8.10"));
    if !json.is_empty() {
        headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    struct Endpoint {
        address: SocketAddr,
        sink: MetricsSink,
        file: PathBuf,
        cancel: CancellationToken,
        tasks: JoinSet<std::io::Result<()>>,
        _dir: tempfile::TempDir,
    }

    fn endpoint(largest: u64) -> Endpoint {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("metrics.lp");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let (sink, writer) = MetricsSink::new(file.clone(), largest);
        let identity = Identity { tags: vec![("group".into(), "all".into())], instance: 3 };
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer);
        tasks.spawn(serve(listener.into(), identity, sink.clone(), cancel.clone()));
        Endpoint { address, sink, file, cancel, tasks, _dir: dir }
    }

    impl Endpoint {
        async fn ask(&self, head: &str, body: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.expect("connected");
            let request = format!(
                "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await;
            read.expect("answered in time").expect("answered");
            answer
        }

        /// Ends everything; what the file holds then.
        async fn end(self) -> (String, LineCounts) {
            let Self { sink, file, cancel, mut tasks, _dir, .. } = self;
            cancel.cancel();
            let counts = Arc::clone(&sink.counts);
            drop(sink);
            let ended = async { while tasks.join_next().await.is_some() {} };
            tokio::time::timeout(LIMIT, ended).await.expect("all tasks end");
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let counts = LineCounts {
                accepted: read(&counts.accepted),
                dropped: read(&counts.dropped),
                malformed: read(&counts.malformed),
            };
            (std::fs::read_to_string(file).expect("a file"), counts)
        }
    }

    #[tokio::test]
    async fn lines_are_written_down_with_their_origin() {
        let endpoint = endpoint(1 << 20);
        let body = "rtt value=1 5\n\n# a comment\nrtt,peer=b value=2 6\n";
        let answer = endpoint.ask("POST /write?db=testground&precision=ms", body).await;
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        let (text, counts) = endpoint.end().await;
        assert_eq!(
            text,
            "rtt,group=all value=1,instance=3i 5000000\nrtt,peer=b,group=all value=2,instance=3i 6000000\n"
        );
        assert_eq!(counts, LineCounts { accepted: 2, dropped: 0, malformed: 0 });
    }

    #[tokio::test]
    async fn clients_find_what_they_look_for() {
        let endpoint = endpoint(1 << 20);
        assert!(endpoint.ask("GET /ping", "").await.starts_with("HTTP/1.1 204"));
        let created = endpoint.ask("POST /query?q=CREATE+DATABASE+x", "").await;
        assert!(created.starts_with("HTTP/1.1 200") && created.contains("results"), "{created}");
        assert!(endpoint.ask("GET /debug", "").await.starts_with("HTTP/1.1 404"));
        endpoint.end().await;
    }

    #[tokio::test]
    async fn what_is_not_understood_is_refused() {
        let endpoint = endpoint(1 << 20);
        for (head, body, status) in [
            ("POST /write?db=x", "nonsense", "400"),
            ("POST /write?db=x&precision=week", "rtt value=1", "400"),
            ("POST /write HTTP/1.1\r\ncontent-encoding: gzip\r\nx-end:", "rtt value=1", "415"),
        ] {
            let answer = endpoint.ask(head, body).await;
            assert_eq!(answer.get(9..12), Some(status), "{answer}");
        }
        let large = "a".repeat(LARGEST_WRITE + 1);
        let answer = endpoint.ask("POST /write", &large).await;
        assert_eq!(answer.get(9..12), Some("413"), "{answer}");
        assert_eq!(endpoint.end().await.0, "");
    }

    #[tokio::test]
    async fn a_malformed_line_is_counted_and_those_beside_it_are_taken() {
        let endpoint = endpoint(1 << 20);
        let body = "good value=1 5\nbad value=NaN\nworse\nalso\\ good value=2 6";
        let answer = endpoint.ask("POST /write", body).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("unable to parse 'bad value=NaN': invalid value"), "{answer}");
        let (text, counts) = endpoint.end().await;
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(counts, LineCounts { accepted: 2, dropped: 0, malformed: 2 });
    }

    #[tokio::test]
    async fn a_full_file_drops_and_counts() {
        let endpoint = endpoint(60);
        for _ in 0..3 {
            let answer = endpoint.ask("POST /write", "rtt value=1 5").await;
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        }
        let (text, counts) = endpoint.end().await;
        assert_eq!(text, "rtt,group=all value=1,instance=3i 5\n");
        assert_eq!(counts, LineCounts { accepted: 1, dropped: 2, malformed: 0 });
    }
}
