//! The HTTP API beside a real stack, by a client that knows nothing but docs/http-api.md.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::harness::{BUILD_LIMIT, Composition, Home, LIMIT, Running, wait_until};

/// What a server has answered.
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err} in {text}"))
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// A server of the API.
struct Site {
    address: String,
    token: Option<String>,
}

impl Site {
    /// The one that a command that goes on has named.
    fn of(running: &Running) -> Self {
        running.until("the web page: http://");
        let said = running.stderr();
        let (_, rest) = said.split_once("the web page: http://").expect("it is there");
        let address = rest.split('/').next().expect("an address").to_owned();
        Self { address, token: None }
    }

    fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if headers.iter().all(|header| !header.starts_with("Host:")) {
            request += &format!("Host: {}\r\n", self.address);
        }
        if let Some(token) = &self.token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        headers.iter().for_each(|header| request += &format!("{header}\r\n"));
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = self.send(method, path, headers, body);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an answer");
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let status = head[9..12].parse().expect("a status");
        let rest = &all[end + 4..];
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { joined(rest) } else { rest.to_vec() };
        Answer { status, head, body }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", &format!("/api/v1{path}"), &[], "")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", &format!("/api/v1{path}"), &["X-Groundswell: 1"], body)
    }

    /// Opens a stream of events.
    fn listen(&self, topics: &str, headers: &[&str]) -> Events {
        let path = format!("/api/v1/events?topics={topics}");
        let stream = self.send("GET", &path, headers, "");
        Events { lines: BufReader::new(stream) }
    }
}

/// What chunks say together.
fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n").expect("a length");
        let length = std::str::from_utf8(&chunks[..end]).expect("text");
        let length = usize::from_str_radix(length, 16).expect("hex");
        if length == 0 {
            return body;
        }
        body.extend(&chunks[end + 2..end + 2 + length]);
        chunks = &chunks[end + 4 + length..];
    }
}

/// A stream of events as it comes. Lengths of chunks are lines that are no field of an event.
struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    /// The next event: its id, its name, its data.
    fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut id, mut event) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("it lives") == 0 {
                return None;
            }
            if let Some(text) = line.strip_prefix("id: ") {
                text.trim().clone_into(&mut id);
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.trim().clone_into(&mut event);
            } else if let Some(text) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(text.trim()).expect("one line of JSON");
                return Some((id, event, data));
            }
        }
    }

    /// Events up to and with the first one that fits.
    fn until(&mut self, fits: impl Fn(&str, &Value) -> bool) -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        while let Some(event) = self.next() {
            let found = fits(&event.1, &event.2);
            all.push(event);
            if found {
                return all;
            }
        }
        panic!("the stream has ended: {all:#?}");
    }
}

#[test]
fn a_run_is_seen_and_canceled_and_everything_of_it_fetched() {
    let home = Home::new();
    let up = home.start(&["up", "--listen", "127.0.0.1:0"]);
    up.until("up: 1 worker");
    let site = Site::of(&up);
    let info = site.get("/info").is(200).json();
    assert_eq!((&info["api"], &info["tokens_required"]), (&1.into(), &false.into()), "{info}");

    let stall = home.submit(&Composition::netns("placebo", "stall", 3), &["--detach"]);
    let stall = stall.ends_with(0).stdout.trim().to_owned();
    let mut events = site.listen(&format!("runs,run:latest,grid:{stall}"), &[]);
    let first = events.until(|event, _| event == "grid");
    let names: Vec<&str> = first.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["hello", "runs", "run_full", "grid"]);
    assert_eq!(first[0].2["topics"][1], format!("run:{stall}"));
    wait_until("it runs", BUILD_LIMIT, || {
        site.get("/runs/latest").is(200).json()["status"]["phase"] == "running"
    });
    let running = "AwMD"; // three times 3
    wait_until("instances run", LIMIT, || {
        site.get(&format!("/runs/{stall}/grid")).is(200).json()["states"] == running
    });
    let refused = site.get(&format!("/runs/{stall}/logs")).is(503);
    assert!(refused.head.contains("retry-after"), "{}", refused.head);

    let cancel = format!("/runs/{stall}/cancel");
    let status = site.post(&cancel, r#"{"kill":true,"reason":"enough"}"#).is(200).json();
    assert_eq!(status["run"], stall.as_str());
    let told =
        events.until(|event, data| event == "run_full" && data["status"]["phase"] == "cleaned");
    let canceled = serde_json::json!([[0, 3, 9]]);
    let is_it = |data: &Value| data["changes"] == canceled;
    assert!(told.iter().any(|(_, name, data)| name == "grid_change" && is_it(data)), "{told:#?}");
    let lines: Vec<&Value> = told
        .iter()
        .filter(|(_, name, _)| name == "events")
        .flat_map(|(_, _, data)| data["events"].as_array().expect("lines"))
        .collect();
    assert!(lines.iter().any(|line| line["kind"] == "verdict"), "{lines:#?}");

    everything_is_fetched(&home, &site, &stall);
    up.ctrl_c();
    // The server ends its streams.
    while events.next().is_some() {}
    up.finish().ends_with(0);
}

fn everything_is_fetched(home: &Home, site: &Site, canceled: &str) {
    let ok = home.submit(&Composition::netns("placebo", "ok", 2), &[]).passes(2);
    let run = ok.stdout.trim();
    let path = |rest: &str| format!("/runs/{run}{rest}");
    let listed = site.get("/runs?verdict=passed&limit=1").is(200).json();
    assert_eq!(listed["runs"][0]["status"]["run"], run, "{listed:#}");
    assert_eq!(listed["more"], false);
    let listed = site.get(&format!("/runs?before={run}")).is(200).json();
    assert_eq!(listed["runs"][0]["status"]["run"], canceled);
    assert_eq!(site.get(&path("/record?brief=1")).is(200).json()["ends"], serde_json::json!([]));
    assert_eq!(site.get(&path("/record")).is(200).json()["ends"].as_array().map(Vec::len), Some(2));
    let composition = site.get(&path("/composition")).is(200);
    assert!(String::from_utf8_lossy(&composition.body).contains("case = \"ok\""));
    assert_eq!(site.get(&path("/grid")).is(200).json()["states"], "BgY=");
    let network = site.get(&path("/network")).is(200).json();
    assert_eq!(
        (&network["groups"][0]["id"], &network["links"]),
        (&"all".into(), &serde_json::json!([0]))
    );

    let all = site.get(&path("/events")).is(200).json();
    assert_eq!((&all["from"], &all["end"], &all["over"]), (&0.into(), &true.into(), &true.into()));
    let phases = site.get(&path("/events?kinds=phase,verdict&limit=2")).is(200).json();
    assert_eq!(phases["events"].as_array().map(Vec::len), Some(2), "{phases:#}");
    let rest = site.get(&path(&format!("/events?from={}", phases["next"]))).is(200).json();
    assert_eq!(rest["from"], phases["next"]);

    let files = site.get(&path("/artifacts?instance=all:1")).is(200).json();
    let mut listed = files["files"].as_array().expect("files").iter();
    let file = listed.find(|file| file["size"].as_u64() > Some(4)).expect("one with content");
    assert_eq!(file["in_group"], 1, "{files:#}");
    let place = path(&format!("/artifacts/all/1/{}", file["path"].as_str().expect("a path")));
    let whole = site.get(&place).is(200);
    assert_eq!(whole.body.len() as u64, file["size"]);
    assert!(whole.head.contains("application/octet-stream"), "{}", whole.head);
    let part = site.ask("GET", &format!("/api/v1{place}"), &["Range: bytes=0-3"], "").is(206);
    assert_eq!(part.body, whole.body[..4]);
    let logs = site.get(&path("/logs?limit=2")).is(200).json();
    assert_eq!(logs["lines"].as_array().map(Vec::len), Some(2), "{logs:#}");
    assert!(
        site.get(&path("/logs?q=nobody+says+this")).is(200).json()["lines"]
            == serde_json::json!([])
    );

    let replay = site.get(&path("/replay")).is(200).body;
    assert!(replay.starts_with(b"GSREPLAY") && replay.ends_with(b"GSREPEND"));
    let end = format!("/api/v1{}", path("/replay"));
    let footer = site.ask("GET", &end, &["Range: bytes=-32"], "").is(206).body;
    assert_eq!(footer, replay[replay.len() - 32..]);
    assert_eq!(STANDARD.encode(&footer[24..]), STANDARD.encode("GSREPEND"));
}

#[test]
fn what_is_wrong_is_told_in_words() {
    let home = Home::new();
    let up = home.start(&["up", "--listen", "127.0.0.1:0"]);
    up.until("up: 1 worker");
    let site = Site::of(&up);
    for (path, status, word) in [
        ("/runs/nope", 404, "not_found"),
        ("/nothing", 404, "not_found"),
        ("/runs?limit=0", 400, "invalid"),
        ("/runs?lmit=1", 400, "invalid"),
        ("/runs?phase=flying", 400, "invalid"),
        ("/events?topics=everything", 400, "invalid"),
        ("/events?topics=run:nope", 404, "not_found"),
    ] {
        let answer = site.get(path).is(status);
        assert_eq!(answer.json()["kind"], word, "{path}");
        assert!(answer.head.contains("no-store") && answer.head.contains("nosniff"), "{path}");
    }
    let cancel = "/api/v1/runs/latest/cancel";
    assert_eq!(site.ask("POST", cancel, &[], "{}").status, 403, "any page may send this");
    site.post("/runs/latest/cancel", "{").is(400);
    site.post("/runs/latest/cancel", &"x".repeat(70_000)).is(413);
    site.ask("DELETE", "/api/v1/runs", &[], "").is(405);
    site.ask("GET", "/api/v1/info", &["Host: evil.example"], "").is(403);
    site.ask("GET", "/api/v1/info", &["Host: localhost:1"], "").is(200);
    up.ctrl_c();
    up.finish().ends_with(0);
}

#[test]
fn a_stream_is_gone_on_with_where_it_was() {
    let home = Home::new();
    let up = home.start(&["up", "--listen", "127.0.0.1:0"]);
    up.until("up: 1 worker");
    let site = Site::of(&up);
    // Builds it: a topic that nobody listens to is not followed for long.
    home.submit(&Composition::netns("placebo", "ok", 2), &[]).passes(2);
    let mut events = site.listen("runs", &[]);
    let told = events.until(|event, _| event == "runs");
    let last = format!("Last-Event-ID: {}", told[1].0);
    drop(events);
    let ok = home.submit(&Composition::netns("placebo", "ok", 2), &[]).passes(2);
    // The server tells what came in the meantime when it has told it to itself.
    std::thread::park_timeout(Duration::from_secs(1));
    let mut events = site.listen("runs", &[&last]);
    let told = events.until(|event, data| event == "run" && data["status"]["phase"] == "cleaned");
    assert_eq!(told[0].2["resumed"], true, "{told:#?}");
    assert!(told.iter().all(|(_, event, _)| event != "runs"), "no full state");
    assert_eq!(told[1].2["status"]["run"], ok.stdout.trim());
    let mut other = site.listen("runs", &["Last-Event-ID: 00000000.3"]);
    assert_eq!(other.next().expect("hello").2["resumed"], false);
    up.ctrl_c();
    up.finish().ends_with(0);
}
