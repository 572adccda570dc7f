//! Clients send requests at a steady rate, whether or not answers come, and measure each from when it was due.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

#[derive(Deserialize)]
struct P {
    rate: u32,
    run_for: Duration,
    size: Bytes,
    slowest: Duration,
}

fn main() -> ExitCode {
    let manifest = include_str!("../manifest.toml");
    groundswell_sdk::run(Cases::new().manifest(manifest).case("load", load))
}

async fn load(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    let listener = TcpListener::bind((cx.network().ip()?, 0)).await?;
    let members = cx.exchange("addresses", &listener.local_addr()?).await?;
    let servers: Vec<SocketAddr> = members
        .iter()
        .filter(|member| member.group == "servers")
        .map(|member| member.value)
        .collect();
    ensure!(!servers.is_empty(), "there is no group `servers`");

    tokio::select! {
        ended = answer(listener) => ended,
        done = cx.phase("load", async {
            if cx.group() == "servers" {
                return Ok(());
            }
            send(&cx, &p, servers[cx.group_index() as usize % servers.len()]).await
        }) => done,
    }
}

async fn send(cx: &Ctx, p: &P, server: SocketAddr) -> Result {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let gap = Duration::from_secs(1) / p.rate.max(1);
    let count = u32::try_from(p.run_for.as_nanos() / gap.as_nanos()).unwrap_or(u32::MAX);
    let size = usize::try_from(p.size.0)?;
    let begin = Instant::now();
    let (from, to) = stream.split();
    let ((), slowest) = tokio::try_join!(
        requests(to, begin, gap, count, size),
        answers(cx, from, begin, gap, count, size),
    )?;
    cx.point("throughput", f64::from(count) / begin.elapsed().as_secs_f64()).unit("1/s").record();
    cx.check(slowest <= p.slowest, format!("the slowest answer took {slowest:?}"));
    Ok(())
}

async fn requests(
    mut to: WriteHalf<'_>,
    begin: Instant,
    gap: Duration,
    count: u32,
    size: usize,
) -> Result {
    let request = vec![7; size];
    for number in 0..count {
        sleep_until(begin + gap * number).await;
        to.write_all(&request).await?;
    }
    Ok(())
}

/// Waiting for a request's turn counts, so that a server that is behind is not measured less often.
async fn answers(
    cx: &Ctx,
    mut from: ReadHalf<'_>,
    begin: Instant,
    gap: Duration,
    count: u32,
    size: usize,
) -> Result<Duration> {
    let latency = cx.timer("latency_s");
    let mut answer = vec![0; size];
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        from.read_exact(&mut answer).await?;
        let took = (begin + gap * number).elapsed();
        latency.observe(took);
        slowest = slowest.max(took);
    }
    Ok(slowest)
}

/// Sends back what comes, to all who connect.
async fn answer(listener: TcpListener) -> Result {
    let mut guests = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        guests.spawn(async move {
            let (mut from, mut to) = stream.split();
            // A guest that goes is no error.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

#[tokio::test]
async fn it_runs_on_this_machine() {
    let run = groundswell_sdk::testing::Local::groups(&[("servers", 1), ("clients", 2)]);
    let run = run.param("rate", 100).param("run_for", "1s").param("size", "1KiB");
    run.param("slowest", "10s").run(load).await.assert_success();
}
