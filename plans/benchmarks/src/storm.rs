//! Everybody dials everybody and sends.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(30);
/// What is written and read at a time.
const CHUNK: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, Deserialize)]
struct Params {
    conn_count: u32,
    conn_outgoing: u32,
    conn_delay_ms: u64,
    concurrent_dials: usize,
    data_size_kb: u64,
}

/// Listens on several ports, learns where all others listen, dials some of them at random moments, and sends.
pub(crate) async fn storm(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let network = cx.network();
    let mut readers = JoinSet::new();
    let (closed, mut ends) = mpsc::channel(1024);
    let own = listen(&cx, network.ip()?, params.conn_count, &mut readers, &closed).await?;
    let all = cx.exchange("listeners", &own).await?;
    let others = all.into_iter().filter(|member| member.index != cx.index());
    let targets: Vec<SocketAddrV4> = others.flat_map(|member| member.value).collect();
    ensure!(!targets.is_empty(), "nobody else listens");

    cx.signal_and_wait("listening").await?;
    dial_all(&cx, params, &targets).await?;
    // Everything has been sent, so whoever counted a dial on the other side will see its end.
    let dialled = cx.exchange("dialled", &dialled_of(&cx, params, &targets)).await?;
    let mine =
        dialled.iter().flat_map(|member| &member.value).filter(|target| own.contains(target));
    for _ in mine {
        let read = timeout(DIAL, ends.recv()).await?.unwrap_or_default();
        cx.counter("bytes.read").unit("B").add(read);
    }
    cx.signal_and_wait("done").await?;
    Ok(())
}

/// Opens the listeners and returns where they are. What comes over a connection is read to its end and counted.
async fn listen(
    cx: &Ctx,
    ip: Ipv4Addr,
    count: u32,
    readers: &mut JoinSet<()>,
    closed: &mpsc::Sender<u64>,
) -> Result<Vec<SocketAddrV4>> {
    let mut addresses = Vec::new();
    let (ok, err) =
        (cx.counter("listens.ok").unit("count"), cx.counter("listens.err").unit("count"));
    err.add(0);
    for _ in 0..count {
        match TcpListener::bind((ip, 0)).await {
            Ok(listener) => {
                addresses.push(SocketAddrV4::new(ip, listener.local_addr()?.port()));
                readers.spawn(accept(listener, closed.clone()));
                ok.add(1);
            }
            Err(error) => {
                cx.message(format!("cannot listen: {error}"));
                err.add(1);
            }
        }
    }
    Ok(addresses)
}

async fn accept(listener: TcpListener, closed: mpsc::Sender<u64>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(drain(stream, closed.clone()));
        // What has ended is let go of.
        while connections.try_join_next().is_some() {}
    }
}

async fn drain(mut stream: TcpStream, closed: mpsc::Sender<u64>) {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        total += read as u64;
    }
    // Nobody counts any more once the case has ended.
    let _ = closed.send(total).await;
}

/// Whom this instance dials: drawn from the run's seed, so that everybody can tell.
fn dialled_of(cx: &Ctx, params: Params, targets: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
    let mut rng = cx.rng("targets");
    (0..params.conn_outgoing).filter_map(|_| rng.pick(targets).copied()).collect()
}

async fn dial_all(cx: &Ctx, params: Params, targets: &[SocketAddrV4]) -> Result {
    let permits = Arc::new(Semaphore::new(params.concurrent_dials.max(1)));
    let mut rng = cx.rng("delays");
    let mut dials = JoinSet::new();
    cx.counter("dials.ok").unit("count").add(0);
    cx.counter("dials.err").unit("count").add(0);
    for target in dialled_of(cx, params, targets) {
        let delay = rng.duration(Duration::from_millis(params.conn_delay_ms));
        let (cx, permits) = (cx.clone(), Arc::clone(&permits));
        dials.spawn(async move {
            sleep(delay).await;
            let _permit = permits.acquire().await;
            dial(&cx, target, params.data_size_kb * 1024).await;
        });
    }
    while let Some(ended) = dials.join_next().await {
        ended?;
    }
    Ok(())
}

/// Dials and sends. A failure is counted.
async fn dial(cx: &Ctx, target: SocketAddrV4, bytes: u64) {
    let begun = Instant::now();
    let mut stream = match timeout(DIAL, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(cx, target, &error.to_string()),
        Err(_) => return failed(cx, target, "nobody answers"),
    };
    cx.counter("dials.ok").unit("count").add(1);
    cx.timer("dial_time_s").observe(begun.elapsed());
    match send(&mut stream, bytes).await {
        Ok(()) => cx.counter("bytes.sent").unit("B").add(bytes),
        Err(error) => failed(cx, target, &error.to_string()),
    }
}

fn failed(cx: &Ctx, target: SocketAddrV4, error: &str) {
    cx.message(format!("dialling {target}: {error}"));
    cx.counter("dials.err").unit("count").add(1);
}

async fn send(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    let chunk = vec![7; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..size]).await?;
        left -= size as u64;
    }
    stream.shutdown().await
}
