//! Abuses the sync service, past any SDK.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testground::client::Client;

use crate::Result;

/// Operations sent at once.
const BURST: u64 = 500;
/// Operations that count as 65 each.
const PADDED: u64 = 200;

/// A WebSocket with nothing in between.
struct Socket(TcpStream);

impl Socket {
    fn open() -> Result<Self> {
        let mut stream = TcpStream::connect(("testground-sync-service", 5050))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(Self(stream))
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        Ok(self.0.write_all(&frame(message))?)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let mut length = u64::from(head[1]);
        if length > 125 {
            let mut long = [0; 8];
            let width = if length == 126 { 2 } else { 8 };
            self.0.read_exact(&mut long[8 - width..])?;
            length = u64::from_be_bytes(long);
        }
        let mut payload = vec![0; usize::try_from(length)?];
        self.0.read_exact(&mut payload)?;
        if head[0] != 0x81 {
            return Err("the connection was closed".into());
        }
        Ok(serde_json::from_slice(&payload)?)
    }

    /// Whether a request is answered with an error that contains `why`.
    fn refuses(&mut self, request: &Value, why: &str) -> Result<bool> {
        self.send(request)?;
        let answer = self.receive()?;
        Ok(answer["error"].as_str().is_some_and(|error| error.contains(why)))
    }
}

/// A text frame, masked with zeros.
fn frame(message: &Value) -> Vec<u8> {
    let text = message.to_string();
    let mut frame = vec![0x81];
    match u16::try_from(text.len()) {
        Ok(short @ 0..=125) => frame.push(0x80 | short as u8),
        Ok(medium) => {
            frame.push(0x80 | 126);
            frame.extend(medium.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

fn prefix(client: &Client) -> String {
    let parameters = client.run_parameters();
    let (run, plan, case) = (parameters.test_run, parameters.test_plan, parameters.test_case);
    format!("run:{run}:plan:{plan}:case:{case}:")
}

/// What is too large is refused, and the connection goes on.
pub fn payload(client: &Client) -> Result<()> {
    let mut socket = Socket::open()?;
    let prefix = prefix(client);
    let topic = format!("{prefix}topics:large");
    let large =
        json!({ "id": "1", "publish": { "topic": topic, "payload": "x".repeat(10_000_000) } });
    if !socket.refuses(&large, "is larger than")? {
        return Err("10 MB were published".into());
    }
    let name = format!("{prefix}states:{}", "x".repeat(1_000_000));
    if !socket
        .refuses(&json!({ "id": "2", "signal_entry": { "state": name } }), "is longer than")?
    {
        return Err("a state had a name of 1 MB".into());
    }
    if socket
        .refuses(&json!({ "id": "3", "publish": { "topic": topic, "payload": "small" } }), " ")?
    {
        return Err("what is small was refused as well".into());
    }
    Ok(())
}

/// Signals as fast as it can, on two connections, and reads the answers.
pub fn flood(client: &Client, time: Duration) -> Result<()> {
    let state = format!("{}states:flood", prefix(client));
    let flooding = (0..2).map(|_| {
        let state = state.clone();
        std::thread::spawn(move || flood_one(&state, time).map_err(|err| err.to_string()))
    });
    let flooding: Vec<_> = flooding.collect();
    let mut all = 0;
    for one in flooding {
        all += one.join().map_err(|_| "a thread panicked")??;
    }
    client.record_message(format!("{all} signals in {} s", time.as_secs()));
    Ok(())
}

fn flood_one(state: &str, time: Duration) -> Result<u64> {
    let mut socket = Socket::open()?;
    let signal = frame(&json!({ "id": "1", "signal_entry": { "state": state } }));
    // Each 4 KiB of a message count as an operation more, so a slow machine gets over the limit too.
    let padding = "x".repeat(256 << 10);
    let padded =
        frame(&json!({ "id": "1", "signal_entry": { "state": state }, "padding": padding }));
    for _ in 0..PADDED {
        socket.0.write_all(&padded)?;
    }
    for _ in 0..PADDED {
        socket.receive()?;
    }
    let burst = signal.repeat(usize::try_from(BURST)?);
    let (begin, mut all) = (Instant::now(), 0);
    while begin.elapsed() < time {
        socket.0.write_all(&burst)?;
        for _ in 0..BURST {
            let answer = socket.receive()?;
            if answer["error"] != "" {
                return Err(format!("after {all} signals: {}", answer["error"]).into());
            }
            all += 1;
        }
    }
    Ok(all)
}

/// Tries to read and write what belongs to other runs, plans and cases.
pub fn keys(client: &Client) -> Result<()> {
    let parameters = client.run_parameters();
    let (run, plan, case) = (parameters.test_run, parameters.test_plan, parameters.test_case);
    let mut socket = Socket::open()?;
    let forged = [
        format!("run:00000000000000000000:plan:{plan}:case:{case}:"),
        format!("run:{run}:plan:other:case:{case}:"),
        format!("run:{run}:plan:{plan}:case:other:"),
        format!("run:{run}>:plan:{plan}:case:{case}:"),
        "run:*:plan:*:case:*:".to_owned(),
        String::new(),
    ];
    for prefix in forged {
        let state = format!("{prefix}states:stolen");
        let topic = format!("{prefix}topics:run_events");
        let requests = [
            json!({ "id": "1", "signal_entry": { "state": state } }),
            json!({ "id": "2", "barrier": { "state": state, "target": 0 } }),
            json!({ "id": "3", "publish": { "topic": topic, "payload": { "failure_event": {} } } }),
            json!({ "id": "4", "subscribe": { "topic": topic } }),
        ];
        for request in requests {
            if !socket.refuses(&request, "not of this run")? {
                return Err(format!("this was not refused: {request}").into());
            }
        }
    }
    Ok(())
}
