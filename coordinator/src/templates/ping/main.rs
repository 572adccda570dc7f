//! Every instance measures how long the next one takes to answer.

use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Deserialize)]
struct P {
    rounds: u32,
    latency: Duration,
    slack: Duration,
}

fn main() -> ExitCode {
    let manifest = include_str!("../manifest.toml");
    groundswell_sdk::run(Cases::new().manifest(manifest).case("ping", ping))
}

async fn ping(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    let net = cx.network();
    net.shape(Shape::new().latency(p.latency)).await?;

    let listener = TcpListener::bind((net.ip()?, 0)).await?;
    let peers = cx.exchange("addresses", &listener.local_addr()?).await?;
    let next = peers[(cx.index() as usize + 1) % peers.len()].value;

    // This instance answers until everybody has measured.
    tokio::select! {
        ended = answer(listener) => ended,
        measured = cx.phase("measure", measure(&cx, &p, next)) => measured,
    }
}

async fn measure(cx: &Ctx, p: &P, next: std::net::SocketAddr) -> Result {
    let rtt = cx.timer("rtt_s");
    let mut stream = TcpStream::connect(next).await?;
    stream.set_nodelay(true)?;
    let mut fastest = Duration::MAX;
    for _ in 0..p.rounds {
        let begun = Instant::now();
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await?;
        let took = begun.elapsed();
        fastest = fastest.min(took);
        rtt.observe(took);
    }
    // With `--local --unshaped` nobody delays anything.
    if cx.network().can_shape() {
        let (least, most) = (p.latency * 2, p.latency * 2 + p.slack);
        cx.check(fastest >= least, format!("{fastest:?} is less than twice the latency"));
        cx.check(fastest <= most, format!("{fastest:?} is more than {most:?}"));
    }
    Ok(())
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
    let run = groundswell_sdk::testing::Local::new(3).unshaped();
    let run = run.param("rounds", 3).param("latency", "0s").param("slack", "1s");
    run.run(ping).await.assert_success();
}
