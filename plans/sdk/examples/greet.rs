//! A plan with one case that succeeds and some that do not. Run it: `cargo run --example greet -- --local 3`.

use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Deserialize)]
struct P {
    #[serde(default = "words")]
    words: String,
}

fn words() -> String {
    "hello".to_owned()
}

fn main() -> ExitCode {
    let cases = Cases::new()
        .case("greet", greet)
        .case("ready", ready)
        .case("fail", fail)
        .case("crash", crash)
        .case("wait", wait);
    groundswell_sdk::run(cases)
}

/// Everybody greets everybody over TCP.
async fn greet(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    let listener = TcpListener::bind((cx.network().ip()?, 0)).await?;
    let peers = cx.exchange("addresses", &listener.local_addr()?).await?;
    let count = peers.len();
    cx.phase("greet", async {
        let (sent, ()) = tokio::try_join!(send(&cx, &p, &peers), receive(&cx, &listener, count))?;
        cx.point("greetings", sent).unit("count").record();
        Ok(())
    })
    .await
}

async fn send(cx: &Ctx, p: &P, peers: &[Member<std::net::SocketAddr>]) -> Result<usize> {
    let dial = cx.timer("dial_s");
    for peer in peers {
        let mut stream = dial.time(TcpStream::connect(peer.value)).await?;
        stream.write_all(p.words.as_bytes()).await?;
    }
    Ok(peers.len())
}

async fn receive(cx: &Ctx, listener: &TcpListener, count: usize) -> Result {
    for _ in 0..count {
        let (mut stream, from) = listener.accept().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        cx.check(!text.is_empty(), format!("{from} said nothing"));
    }
    Ok(())
}

/// Uses what every SDK has.
async fn ready(cx: Ctx) -> Result {
    cx.signal_and_wait("ready").await?;
    let mut peers = cx.subscribe::<serde_json::Value>("peers").await?;
    cx.publish("peers", &serde_json::json!({ "ID": format!("rust-{}", cx.seq()) })).await?;
    for _ in 0..cx.instances() {
        cx.message(peers.next().await?);
    }
    Ok(())
}

async fn fail(cx: Ctx) -> Result {
    ensure!(cx.instances() == 0, "there are {} instances", cx.instances());
    Ok(())
}

async fn crash(cx: Ctx) -> Result {
    panic!("instance {} has a bug", cx.index())
}

async fn wait(cx: Ctx) -> Result {
    cx.message("waiting");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    Ok(())
}
