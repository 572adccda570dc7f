//! Instances behind NATs reach each other over UDP by hole punching: a server in the open tells each at which address
//! it sees the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, sleep_until};

#[derive(Deserialize)]
struct P {
    every: Duration,
    give_up: Duration,
    punched: bool,
}

#[derive(Serialize, Deserialize)]
enum Message {
    /// I am this peer.
    Here(u32),
    /// The server sees the peer you look for at this address.
    There(SocketAddr),
    /// A packet between peers: its sender, and whether it has heard the other.
    Punch(u32, bool),
}

fn main() -> ExitCode {
    let manifest = include_str!("../manifest.toml");
    groundswell_sdk::run(Cases::new().manifest(manifest).case("punch", punch))
}

async fn punch(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    let socket = UdpSocket::bind((cx.network().ip()?, 0)).await?;
    let members = cx.exchange("addresses", &socket.local_addr()?).await?;
    let server = members.iter().find(|member| member.group == "server");
    let server = server.ok_or("there is no group `server`")?.value;

    if cx.group() == "server" {
        return tokio::select! {
            ended = introduce(&socket) => ended,
            done = cx.signal_and_wait("done") => Ok(done?),
        };
    }
    let outcome = reach(&cx, &p, &socket, server).await?;
    cx.point("punched", outcome.is_some()).unit("ratio").record();
    if let Some(took) = outcome {
        cx.point("time_to_punch_s", took).record();
    }
    cx.check(outcome.is_some() == p.punched, format!("punched: {}", outcome.is_some()));
    cx.signal_and_wait("done").await?;
    Ok(())
}

/// The server: answers each peer with the address of its partner, as soon as both have been seen.
async fn introduce(socket: &UdpSocket) -> Result {
    let mut seen = BTreeMap::new();
    let mut buffer = [0; 256];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        if let Message::Here(peer) = serde_json::from_slice(&buffer[..length])? {
            seen.insert(peer, from);
            if let Some(partner) = seen.get(&(peer ^ 1)) {
                socket.send_to(&serde_json::to_vec(&Message::There(*partner))?, from).await?;
            }
        }
    }
}

/// Sends to the partner until both have heard each other: 0 and 1 are partners, 2 and 3, and so on.
async fn reach(
    cx: &Ctx,
    p: &P,
    socket: &UdpSocket,
    server: SocketAddr,
) -> Result<Option<Duration>> {
    let me = cx.group_index();
    let begun = Instant::now();
    let mut every = interval(p.every);
    let (mut partner, mut heard, mut was_heard) = (None, None, false);
    let mut buffer = [0; 256];
    // Whoever is done goes on for a moment, so that the other hears it.
    let mut end = begun + p.give_up;
    loop {
        tokio::select! {
            _ = every.tick() => {
                let (message, to) = match partner {
                    None => (Message::Here(me), server),
                    Some(address) => (Message::Punch(me, heard.is_some()), address),
                };
                socket.send_to(&serde_json::to_vec(&message)?, to).await?;
            }
            received = socket.recv_from(&mut buffer) => {
                // A refusal that an earlier packet met is reported here; it is no reason to stop.
                let Ok((length, from)) = received else { continue };
                match serde_json::from_slice(&buffer[..length])? {
                    Message::There(address) if partner.is_none() => partner = Some(address),
                    Message::Punch(whose, hears) if whose == me ^ 1 => {
                        partner = Some(from);
                        heard = heard.or(Some(begun.elapsed()));
                        if hears && !was_heard {
                            was_heard = true;
                            end = Instant::now() + p.every * 5;
                        }
                    }
                    Message::There(_) | Message::Punch(..) | Message::Here(_) => {}
                }
            }
            () = sleep_until(end) => return Ok(heard.filter(|_| was_heard)),
        }
    }
}

#[tokio::test]
async fn it_runs_on_this_machine() {
    let run = groundswell_sdk::testing::Local::groups(&[("server", 1), ("peers", 4)]);
    let run = run.param("every", "50ms").param("give_up", "10s").param("punched", true);
    run.run(punch).await.assert_success();
}
