//! A store with the write interface of InfluxDB 2 that is strict about everything, and that can be in many moods.
//!
//! It takes only what a real one takes: the right path, organisation, bucket, precision and token, gzip or plain, and
//! lines that parse. It writes down all it takes, and every request with its time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groundswell_common::metrics::line;
use tokio::time::Instant;

/// What it expects.
pub(crate) const ORG: &str = "lab";
pub(crate) const BUCKET: &str = "runs of the lab";
pub(crate) const TOKEN: &str = "s3cret==";

/// How it answers a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Good,
    /// The token does not count any more.
    Unauthorized,
    /// The first line of each write is wrong.
    Malformed,
    /// More bytes than these, unpacked, are too many.
    Small(usize),
    /// It is asked too often, and says for how many seconds to wait.
    Busy(u32),
    /// It is not up yet.
    Unavailable,
    /// It takes this long to answer, and stores.
    Slow(Duration),
    /// It hangs up in the middle of the answer, and does not store.
    Cut,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) zipped: bool,
    pub(crate) lines: usize,
    pub(crate) status: u16,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    lines: Vec<String>,
    asked: Vec<Asked>,
}

/// The store. It listens until the test's process ends.
#[derive(Debug, Clone)]
pub(crate) struct FakeStore {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl FakeStore {
    pub(crate) fn start(mood: Mood) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").expect("bound"), mood)
    }

    pub(crate) fn listen(listener: TcpListener, mood: Mood) -> Self {
        let address = listener.local_addr().expect("an address");
        let state = State { mood, lines: Vec::new(), asked: Vec::new() };
        let store = Self { address, state: Arc::new(Mutex::new(state)) };
        let serving = store.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.converse(&stream));
            }
        });
        store
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.lock().expect("not poisoned").mood = mood;
    }

    /// Every line it has stored.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.state.lock().expect("not poisoned").lines.clone()
    }

    /// Every request, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().expect("not poisoned").asked.clone()
    }

    fn converse(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(request)) = Request::read(&mut reader) {
            let mood = self.state.lock().expect("not poisoned").mood;
            let at = Instant::now();
            if let Mood::Slow(length) = mood {
                pause(length);
            }
            let answer = self.answer(&request, mood);
            let asked = Asked {
                at,
                path: request.path.clone(),
                zipped: request.zipped,
                lines: request.body.lines().count(),
                status: answer.0,
            };
            self.state.lock().expect("not poisoned").asked.push(asked);
            if mood == Mood::Cut && request.is_write() {
                let _ = (&*stream).write_all(b"HTTP/1.1 2");
                return;
            }
            if respond(stream, &answer).is_err() {
                return;
            }
        }
    }

    /// Status, further headers, body.
    fn answer(&self, request: &Request, mood: Mood) -> (u16, String, String) {
        let plain = |status| (status, String::new(), String::new());
        let says = |status, code: &str, text: &str| {
            let json = serde_json::json!({ "code": code, "message": text }).to_string();
            (status, String::new(), json)
        };
        if request.method == "GET" && request.path == "/ping" {
            return plain(204);
        }
        if !request.is_write() {
            return says(404, "not found", "path not found");
        }
        if request.authorization != format!("Token {TOKEN}") || mood == Mood::Unauthorized {
            return says(401, "unauthorized", "unauthorized access");
        }
        if request.parameter("org") != ORG || request.parameter("bucket") != BUCKET {
            return says(404, "not found", "bucket not found");
        }
        if request.parameter("precision") != "ns" {
            return says(400, "invalid", "this test writes nanoseconds");
        }
        match mood {
            Mood::Busy(seconds) => {
                let (status, _, body) = says(429, "too many requests", "too many writes");
                return (status, format!("Retry-After: {seconds}\r\n"), body);
            }
            Mood::Unavailable => return says(503, "unavailable", "starting"),
            Mood::Small(most) if request.body.len() > most => {
                return says(413, "request too large", "too many bytes");
            }
            Mood::Malformed if !request.body.is_empty() => {
                let json =
                    serde_json::json!({ "code": "invalid", "message": "no good", "line": 1 });
                return (400, String::new(), json.to_string());
            }
            Mood::Good
            | Mood::Unauthorized
            | Mood::Malformed
            | Mood::Small(_)
            | Mood::Slow(_)
            | Mood::Cut => {}
        }
        if request.body.is_empty() {
            return says(400, "invalid", "writing requires points");
        }
        for (number, line) in request.body.lines().enumerate() {
            if let Err(err) = line::parse(line) {
                let text = format!("unable to parse '{line}': {err}");
                let json =
                    serde_json::json!({ "code": "invalid", "message": text, "line": number + 1 });
                return (400, String::new(), json.to_string());
            }
        }
        if mood != Mood::Cut {
            let lines = request.body.lines().map(str::to_owned);
            self.state.lock().expect("not poisoned").lines.extend(lines);
        }
        plain(204)
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of the test's own that is slow on purpose")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn respond(mut stream: &TcpStream, answer: &(u16, String, String)) -> io::Result<()> {
    let (status, headers, body) = answer;
    let length =
        if *status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    stream.write_all(format!("HTTP/1.1 {status} x\r\n{headers}{length}\r\n{body}").as_bytes())
}

/// A request as far as it matters.
struct Request {
    method: String,
    path: String,
    query: String,
    authorization: String,
    zipped: bool,
    body: String,
}

impl Request {
    /// Reads the next one; none when the client is done.
    fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Self>> {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut words = first.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (mut length, mut authorization, mut zipped) = (0, String::new(), false);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => length = value.parse().expect("a length"),
                ("authorization", value) => value.clone_into(&mut authorization),
                ("content-encoding", value) => {
                    assert_eq!(value, "gzip");
                    zipped = true;
                }
                _ => {}
            }
        }
        let mut packed = vec![0; length];
        reader.read_exact(&mut packed)?;
        let mut body = String::new();
        if zipped {
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut body)?;
        } else {
            body = String::from_utf8(packed).map_err(io::Error::other)?;
        }
        let (path, query) = (path.to_owned(), query.to_owned());
        Ok(Some(Self { method, path, query, authorization, zipped, body }))
    }

    fn is_write(&self) -> bool {
        self.method == "POST" && self.path == "/api/v2/write"
    }

    fn parameter(&self, name: &str) -> String {
        let found = self.query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        found.unwrap_or_default().replace('+', " ").replace("%20", " ").replace("%3D", "=")
    }
}
