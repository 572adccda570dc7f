//! How fast sync is, beside Redis, on the same machine in the same run.
//!
//! ```text
//! cargo bench -p groundswell-worker --bench sync [-- --quick]
//! ```
//!
//! Each side is a process of its own: nats-server and the gateway, redis-server, and the load with a TCP connection
//! for each client. The table has medians over the rounds. All of it runs in a network namespace of its own where
//! that is allowed, as instances do, so that the host's firewall is not measured.
//!
//! `bare` is what the kernel's TCP alone takes for the same messages, without any sync behind it.

#![expect(clippy::print_stdout, reason = "its table is what a benchmark is for")]

mod bare;
mod load;
mod swarm;
mod wire;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use groundswell_common::bus::{Bus, BusConfig};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::nats_server::NatsServer;
use groundswell_common::sync::create_log;
use groundswell_worker::sync::{RunSync, SyncLimits, SyncSpec};
use load::{PIPELINED, Task};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::task::TaskTracker;
use wire::Wire;

const RUN: &str = "c8k3vmlrirtj2p8lcec0";

fn main() -> Result<()> {
    // Before any thread is there: a network namespace is its thread's.
    if std::env::args().all(|arg| arg != "gateway" && arg != "bare" && arg != "load") {
        own_network();
    }
    tokio::runtime::Runtime::new()?.block_on(bench())
}

fn own_network() {
    let done = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(Command::new("ip").args(["link", "set", "lo", "up"]).status()?));
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("`ip link set lo up` ended with {status}"),
        Err(err) => println!("measured in the host's network, with its firewall: {err}"),
    }
}

async fn bench() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["gateway", url, max_instances] => gateway(url, max_instances.parse()?).await,
        ["bare"] => {
            let listener = nix_listener()?;
            println!("{}", listener.local_addr()?);
            bare::serve(&listener)
        }
        ["load", wire, address, task, count, rounds] => {
            let wire = if *wire == "redis" { Wire::Redis } else { Wire::Gateway };
            let task = Task::parse(task).context("no such task")?;
            let seconds = load::run(task, wire, address.parse()?, count.parse()?, rounds.parse()?)?;
            println!("{}", serde_json::to_string(&seconds)?);
            Ok(())
        }
        ["--quick"] => compare(&[100, 1000], 3).await,
        _ => compare(&[100, 1000, 10_000], 11).await,
    }
}

/// The process that instances connect to. It prints where, and ends when its input ends.
async fn gateway(url: &str, total_instances: u32) -> Result<()> {
    let config = BusConfig::open(url.to_owned(), "bench");
    let bus = Bus::connect(&config).await?;
    let run: RunId = RUN.parse()?;
    let workers = vec!["w1".parse::<WorkerId>()?];
    create_log(&bus, &run, Attempt::FIRST, 1 << 32, &workers).await?;
    let spec = SyncSpec {
        run,
        attempt: Attempt::FIRST,
        plan: "bench".to_owned(),
        case: "sync".to_owned(),
        worker: workers[0].clone(),
        epoch: Epoch(1),
        workers,
        total_instances,
        connections: None,
        limits: SyncLimits::NONE,
    };
    let tasks = TaskTracker::new();
    let (sync, _events) = RunSync::open(bus, spec, &tasks).await?;
    let listener = nix_listener()?;
    println!("{}", listener.local_addr()?);
    sync.serve(InstanceId(0), "bench".to_owned(), listener.into()).await;
    let mut line = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
    sync.close().await;
    Ok(())
}

fn nix_listener() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Row {
    what: String,
    ours: String,
    peer: String,
    ratio: String,
}

/// Where each server listens. Redis may be absent.
struct Servers {
    ours: SocketAddr,
    floor: SocketAddr,
    theirs: Option<SocketAddr>,
}

async fn compare(sizes: &[usize], rounds: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let nats = NatsServer::start(&directory.path().join("nats")).await?;
    let mut gateway = Command::new(std::env::current_exe()?)
        .args(["gateway", &nats.url(), "10000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let ours = first_line(&mut gateway)?.parse::<SocketAddr>()?;
    let redis = start_redis(&directory.path().join("redis")).await?;
    let theirs = redis.as_ref().map(|(_, address)| *address);
    let mut bare =
        Command::new(std::env::current_exe()?).arg("bare").stdout(Stdio::piped()).spawn()?;
    let floor = first_line(&mut bare)?.parse::<SocketAddr>()?;
    let rows = measure(&Servers { ours, floor, theirs }, sizes, rounds);
    drop(gateway.stdin.take());
    gateway.wait()?;
    bare.kill()?;
    bare.wait()?;
    if let Some((mut child, _)) = redis {
        child.kill()?;
        child.wait()?;
    }
    nats.stop().await?;
    println!("\n| what; its peer | groundswell | peer | peer / groundswell |\n|---|---|---|---|");
    for Row { what, ours, peer, ratio } in rows? {
        println!("| {what} | {ours} | {peer} | {ratio} |");
    }
    Ok(())
}

fn measure(servers: &Servers, sizes: &[usize], rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in sizes.iter().copied() {
        rows.extend(barriers(servers, count, rounds)?);
    }
    let redis = |task, count| {
        servers.theirs.map(|address| median(task, Wire::Redis, address, count, 5)).transpose()
    };
    for (task, count, what) in [
        (Task::Signals, 100, "signals a second, 100 clients; redis: INCR"),
        (Task::Publishes, 100, "publishes a second, 100 clients, 64 bytes; redis: RPUSH"),
    ] {
        let all = count * PIPELINED;
        let seconds = median(task, Wire::Gateway, servers.ours, count, 5)?;
        rows.push(rates(what.to_owned(), all, seconds, redis(task, count)?));
    }
    for count in sizes.iter().copied().filter(|count| *count <= 1000) {
        let seconds = median(Task::AllToAll, Wire::Gateway, servers.ours, count, 5)?;
        let what = format!("all-to-all of {count}, deliveries a second; redis: PUBLISH");
        rows.push(rates(what, count * count, seconds, redis(Task::AllToAll, count)?));
    }
    Ok(rows)
}

fn barriers(servers: &Servers, count: usize, rounds: usize) -> Result<Vec<Row>> {
    let redis = |task, rounds| {
        servers.theirs.map(|address| median(task, Wire::Redis, address, count, rounds)).transpose()
    };
    let gateway = |task| median(task, Wire::Gateway, servers.ours, count, rounds);
    let (in_steps, together) = (gateway(Task::Barrier)?, gateway(Task::BarrierTogether)?);
    let bare = median(Task::Barrier, Wire::Gateway, servers.floor, count, rounds)?;
    let woken = redis(Task::Barrier, rounds)?;
    let steps = format!("barrier of {count}: signal, its answer, barrier");
    let at_once = format!("barrier of {count}: signal and barrier in one write");
    Ok(vec![
        times(format!("{steps}; bare: the same messages"), in_steps, Some(bare)),
        times(format!("{steps}; redis: INCR and wake-up"), in_steps, woken),
        times(format!("{at_once}; redis: INCR and wake-up"), together, woken),
        times(
            format!("{steps}; redis: INCR polled every second"),
            in_steps,
            redis(Task::BarrierPolled, 3)?,
        ),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn rates(what: String, count: usize, ours: f64, peer: Option<f64>) -> Row {
    let rate = |seconds: f64| format!("{:.0}/s", count as f64 / seconds);
    Row {
        what,
        ours: rate(ours),
        peer: peer.map_or_else(|| "not measured".to_owned(), rate),
        ratio: peer.map_or_else(String::new, |peer| format!("{:.2}", ours / peer)),
    }
}

fn times(what: String, ours: f64, peer: Option<f64>) -> Row {
    let time = |seconds: f64| format!("{:.1} ms", seconds * 1000.0);
    Row {
        what,
        ours: time(ours),
        peer: peer.map_or_else(|| "not measured".to_owned(), time),
        ratio: peer.map_or_else(String::new, |peer| format!("{:.2}", peer / ours)),
    }
}

/// The median of a task's rounds, run in a process of its own. The first round warms up.
fn median(task: Task, wire: Wire, address: SocketAddr, count: usize, rounds: usize) -> Result<f64> {
    let wire = if wire == Wire::Redis { "redis" } else { "gateway" };
    let output = Command::new(std::env::current_exe()?)
        .args(["load", wire, &address.to_string(), task.name()])
        .args([count.to_string(), (rounds + 1).to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "load {} with {count} clients failed", task.name());
    let mut seconds: Vec<f64> = serde_json::from_slice(&output.stdout)?;
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    println!("{wire} {} {count}: {seconds:.4?}", task.name());
    Ok(seconds[seconds.len() / 2])
}

/// Starts Redis as Debian ships it, without persistence, or says why there is none.
async fn start_redis(directory: &Path) -> Result<Option<(Child, SocketAddr)>> {
    std::fs::create_dir_all(directory)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let started = Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--maxclients", "15000", "--tcp-backlog", "4096"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(err) => {
            println!("redis is not measured: redis-server cannot be run: {err}");
            return Ok(None);
        }
    };
    for _ in 0..200 {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return Ok(Some((child, address)));
        }
        if child.try_wait()?.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    println!("redis is not measured: redis-server does not listen");
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn first_line(child: &mut Child) -> Result<String> {
    let output = child.stdout.take().context("its output is piped")?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)?;
    Ok(line.trim().to_owned())
}
