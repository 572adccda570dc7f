//! Instances spread messages over UDP: whoever hears one for the first time passes it on to some others.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, sleep_until};

#[derive(Deserialize)]
struct P {
    degree: usize,
    messages: u32,
    every: Duration,
    settle: Duration,
    delivered: Percent,
}

/// A message as it travels.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Rumour {
    origin: u32,
    number: u32,
    /// When it was sent first, in nanoseconds since 1970: instances share a clock, or have good ones.
    sent_ns: u64,
}

fn main() -> ExitCode {
    let manifest = include_str!("../manifest.toml");
    groundswell_sdk::run(Cases::new().manifest(manifest).case("gossip", gossip))
}

async fn gossip(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    let socket = UdpSocket::bind((cx.network().ip()?, 0)).await?;
    let members = cx.exchange("addresses", &socket.local_addr()?).await?;
    let neighbours = neighbours(&cx, &members, p.degree);

    cx.signal_and_wait("begin").await?;
    let heard = cx.phase("gossip", spread(&cx, &p, &socket, &neighbours)).await?;

    let all = cx.instances() * p.messages;
    let ratio = f64::from(heard) / f64::from(all);
    cx.point("delivered", ratio).unit("ratio").record();
    cx.check(ratio >= p.delivered.ratio(), format!("heard {heard} of {all} messages"));
    Ok(())
}

/// The next instance, so that everybody is reached, and some that are drawn.
fn neighbours(cx: &Ctx, members: &[Member<SocketAddr>], degree: usize) -> Vec<SocketAddr> {
    let own = cx.index() as usize;
    let mut others: Vec<usize> = (0..members.len()).filter(|at| *at != own).collect();
    cx.rng("neighbours").shuffle(&mut others);
    let next = (own + 1) % members.len();
    let drawn = others.into_iter().filter(|at| *at != next);
    let chosen = std::iter::once(next).chain(drawn).take(degree.max(1));
    chosen.map(|at| members[at].value).collect()
}

/// Sends the own messages, and passes on those of others. Returns how many different ones were there.
async fn spread(cx: &Ctx, p: &P, socket: &UdpSocket, neighbours: &[SocketAddr]) -> Result<u32> {
    let delivery = cx.timer("delivery_s");
    let (sent, duplicates) = (cx.counter("sent"), cx.counter("duplicates"));
    let mut known = BTreeSet::new();
    let mut every = interval(p.every);
    let end = Instant::now() + p.every * p.messages + p.settle;
    let mut own = 0;
    let mut buffer = [0; 256];
    loop {
        let rumour = tokio::select! {
            _ = every.tick(), if own < p.messages => {
                own += 1;
                Rumour { origin: cx.index(), number: own, sent_ns: now_ns()? }
            }
            received = socket.recv_from(&mut buffer) => {
                let (length, _) = received?;
                let rumour: Rumour = serde_json::from_slice(&buffer[..length])?;
                if known.contains(&(rumour.origin, rumour.number)) {
                    duplicates.add(1);
                    continue;
                }
                delivery.observe(Duration::from_nanos(now_ns()?.saturating_sub(rumour.sent_ns)));
                rumour
            }
            () = sleep_until(end) => break,
        };
        known.insert((rumour.origin, rumour.number));
        let text = serde_json::to_vec(&rumour)?;
        for neighbour in neighbours {
            socket.send_to(&text, neighbour).await?;
            sent.add(1);
        }
    }
    Ok(u32::try_from(known.len())?)
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

#[tokio::test]
async fn it_runs_on_this_machine() {
    let run = groundswell_sdk::testing::Local::new(5).param("degree", 3).param("messages", 5);
    let run = run.param("every", "50ms").param("settle", "1s").param("delivered", "100%");
    run.run(gossip).await.assert_success();
}
