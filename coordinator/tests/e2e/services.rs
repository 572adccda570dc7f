//! Runs beside a real S3 server, and under the eyes of a collector of traces.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use s3s::service::S3ServiceBuilder;

use crate::harness::{Composition, Home, LIMIT, wait_until};

/// An S3 server over a directory, with the bucket `bucket`.
pub(crate) struct S3 {
    pub(crate) endpoint: String,
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl S3 {
    fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("bound"))
    }

    /// One that listens there; its key is `key`, with the secret `secret`.
    pub(crate) fn on(listener: TcpListener) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("bucket")).expect("made");
        let files = s3s_fs::FileSystem::new(dir.path()).expect("a store");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        listener.set_nonblocking(true).expect("set");
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).expect("a listener")
        };
        let connections = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service.clone());
                connections.spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Self { endpoint, dir, _runtime: runtime }
    }
}

#[test]
fn images_outputs_and_records_go_to_s3_and_come_back() {
    let s3 = S3::start();
    let home = Home::new()
        .with("GROUNDSWELL_OBJECTS", "s3://bucket/some/prefix")
        .with("GROUNDSWELL_S3_ENDPOINT", s3.endpoint.clone())
        .with("AWS_ACCESS_KEY_ID", "key")
        .with("AWS_SECRET_ACCESS_KEY", "secret");
    home.submit(&Composition::netns("barrier", "rounds", 3), &[]).ends_with(0);
    let said = home.run(&["collect", "latest", "--file", "all/0/stdout.log"]).ends_with(0).stdout;
    assert!(said.contains("median round"), "{said}");
    assert!(s3.dir.path().join("bucket/some/prefix/runs").is_dir());
    assert!(!home.dir.path().join("store/runs").exists(), "nothing lies in the local store");
}

/// Takes what is posted to it and answers 200.
fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let into = Arc::clone(&into);
            std::thread::spawn(move || take(stream, &into));
        }
    });
    (endpoint, taken)
}

fn take(stream: TcpStream, into: &Mutex<Vec<u8>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut length = 0_usize;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
            let line = line.trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        into.lock().ok()?.extend(body);
        (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

#[test]
fn a_collector_receives_the_spans_of_a_run() {
    let (endpoint, taken) = collector();
    let home = Home::new().with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    home.submit(&Composition::netns("placebo", "ok", 2), &[]).ends_with(0);
    // A span's name stands in the protobuf as field 5: tag 0x2a, length, text.
    let has = |name: &str| {
        let mut field = vec![0x2a, u8::try_from(name.len()).expect("short")];
        field.extend(name.as_bytes());
        taken.lock().expect("whole").windows(field.len()).any(|window| window == field)
    };
    for name in ["run", "assignment", "instance", "prepare", "start", "collect"] {
        wait_until(&format!("the span `{name}` has arrived"), LIMIT / 8, || has(name));
    }
}
