//! Instances come and go while others ask them: how often does who is asked answer?

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, sleep, timeout};

#[derive(Deserialize)]
struct P {
    up: Duration,
    down: Duration,
    run_for: Duration,
    every: Duration,
    answer_within: Duration,
    slack: Percent,
}

fn main() -> ExitCode {
    let manifest = include_str!("../manifest.toml");
    groundswell_sdk::run(Cases::new().manifest(manifest).case("churn", churn))
}

async fn churn(cx: Ctx) -> Result {
    let p: P = cx.params()?;
    // Its socket stays when it is away, so that it is silent and does not refuse.
    let socket = UdpSocket::bind((cx.network().ip()?, 0)).await?;
    let members = cx.exchange("addresses", &socket.local_addr()?).await?;
    let own = cx.index() as usize;
    let others: Vec<SocketAddr> =
        (0..members.len()).filter(|at| *at != own).map(|at| members[at].value).collect();

    let ratio = tokio::select! {
        ended = come_and_go(&cx, &p, &socket) => return ended,
        ratio = cx.phase("ask", ask(&cx, &p, &others)) => ratio?,
    };
    cx.point("answered", ratio).unit("ratio").record();
    let all = cx.exchange("answered", &ratio).await?;
    let mean = all.iter().map(|member| member.value).sum::<f64>() / all.len() as f64;
    let expected = p.up.as_secs_f64() / (p.up + p.down).as_secs_f64();
    let what = format!(
        "{mean:.2} of the questions were answered, and {expected:.2} of the time somebody is there"
    );
    cx.check((mean - expected).abs() <= p.slack.ratio(), what);
    Ok(())
}

/// Answers while it is there, and hears nothing while it is away. How long, is drawn: many short times, few long ones.
async fn come_and_go(cx: &Ctx, p: &P, socket: &UdpSocket) -> Result {
    let mut rng = cx.rng("times");
    let mut draw = |mean: Duration| mean.mul_f64(-(1.0 - rng.ratio()).ln());
    let sessions = cx.counter("sessions");
    // Some begin away, as some are at any time.
    if cx.rng("begin").chance(p.down.as_secs_f64() / (p.up + p.down).as_secs_f64()) {
        sleep(draw(p.down)).await;
    }
    let mut buffer = [0; 64];
    loop {
        sessions.add(1);
        forget(socket, &mut buffer);
        // It ends when the session does.
        let _ = timeout(draw(p.up), answer(socket)).await;
        sleep(draw(p.down)).await;
    }
}

/// Drops what came while it was away.
fn forget(socket: &UdpSocket, buffer: &mut [u8]) {
    while socket.try_recv_from(buffer).is_ok() {}
}

async fn answer(socket: &UdpSocket) -> Result {
    let mut buffer = [0; 64];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..length], from).await?;
    }
}

/// Asks one after the other, and returns how many answered.
async fn ask(cx: &Ctx, p: &P, others: &[SocketAddr]) -> Result<f64> {
    let socket = UdpSocket::bind((cx.network().ip()?, 0)).await?;
    let rtt = cx.timer("rtt_s");
    let mut rng = cx.rng("others");
    let mut every = interval(p.every);
    let end = Instant::now() + p.run_for;
    let (mut asked, mut answered) = (0_u32, 0_u32);
    while Instant::now() < end {
        every.tick().await;
        let other = rng.pick(others).ok_or("there is nobody else")?;
        asked += 1;
        let begun = Instant::now();
        socket.send_to(&asked.to_le_bytes(), other).await?;
        if timeout(p.answer_within, answer_to(&socket, asked)).await.is_ok() {
            rtt.observe(begun.elapsed());
            answered += 1;
        }
    }
    Ok(f64::from(answered) / f64::from(asked.max(1)))
}

/// Waits for the answer to one question; others are late ones.
async fn answer_to(socket: &UdpSocket, number: u32) -> Result {
    let mut buffer = [0; 64];
    loop {
        let (length, _) = socket.recv_from(&mut buffer).await?;
        if buffer[..length] == number.to_le_bytes() {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn it_runs_on_this_machine() {
    let run = groundswell_sdk::testing::Local::new(6).param("up", "400ms").param("down", "200ms");
    let run = run.param("run_for", "4s").param("every", "20ms").param("answer_within", "100ms");
    run.param("slack", "50%").run(churn).await.assert_success();
}
