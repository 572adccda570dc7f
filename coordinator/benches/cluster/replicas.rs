//! What three servers of NATS cost beside one, with and without forcing each message to the disk: operations
//! through one worker's gateway, and the start of a small run.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use groundswell_common::bus::{Bus, BusConfig};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::run::RunPhase;
use groundswell_common::sync::{create_log, stream_name};
use groundswell_worker::sync::{RunSync, SyncLimits, SyncSpec};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::task::TaskTracker;

use crate::load::{self, PIPELINED, Task};
use crate::median;
use crate::rig::{Cluster, Setup};
use crate::wire::Wire;

/// The run whose keys the load uses.
const RUN: &str = "c8k3vmlrirtj2p8lcec0";
/// Clients of the gateway.
const CLIENTS: usize = 100;
/// How often a run of ten instances is started; the median counts.
const RUNS: usize = 5;

const SETUPS: [(&str, Setup); 4] = [
    ("1 server", Setup::PLAIN),
    ("1, `always`", Setup { always: true, ..Setup::PLAIN }),
    ("3 servers", Setup { servers: 3, ..Setup::PLAIN }),
    ("3, `always`", Setup { servers: 3, always: true, ..Setup::PLAIN }),
];

/// Which load, with how many clients, how many rounds, and how many operations a round has.
const LOADS: [(&str, Task, usize, usize, usize); 3] = [
    ("barriers of 100 a second", Task::Barrier, CLIENTS, 50, 1),
    ("publishes a second, 100 clients", Task::Publishes, CLIENTS, 3, CLIENTS * PIPELINED),
    ("signals with barrier a second, one client", Task::Barrier, 1, 200, 1),
];

pub(crate) async fn measure() -> Result<()> {
    println!("\n### Three servers of NATS beside one; in brackets, one server is faster by\n");
    let names = SETUPS.map(|(name, _)| name).join(" | ");
    println!("| what | {names} |\n|---|---:|---:|---:|---:|");
    let mut columns = Vec::new();
    for (_, setup) in SETUPS {
        columns.push(column(setup).await?);
    }
    for (at, (what, ..)) in LOADS.iter().enumerate() {
        let rates = columns.iter().map(|column| column.rates[at]);
        let row = with_ratios(rates, |one, other| one / other, |rate| format!("{rate:.0}"));
        println!("| {what} | {row} |");
    }
    let times = columns.iter().map(|column| column.start.as_secs_f64());
    let row = with_ratios(times, |one, other| other / one, |time| format!("{time:.2} s"));
    println!("| submit of 10 instances until all have started | {row} |");
    Ok(())
}

fn with_ratios(
    values: impl Iterator<Item = f64>,
    ratio: impl Fn(f64, f64) -> f64,
    show: impl Fn(f64) -> String,
) -> String {
    let values: Vec<f64> = values.collect();
    let shown = |value: &f64| format!("{} ({:.2})", show(*value), ratio(values[0], *value));
    values.iter().map(shown).collect::<Vec<_>>().join(" | ")
}

struct Column {
    rates: [f64; LOADS.len()],
    start: Duration,
}

async fn column(setup: Setup) -> Result<Column> {
    let mut cluster = Cluster::start(setup).await?;
    let rates = gateway_rates(&cluster).await?;
    cluster.add_workers(1, 10).await?;
    let file = cluster.composition(("barrier", "rounds"), 10, "")?;
    // The first run builds the plan and brings it to the worker.
    cluster.run(&[&file]).await?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        times.push(cluster.run(&[&file]).await?.reached(RunPhase::Running)?.at);
    }
    cluster.end().await?;
    Ok(Column { rates, start: median(times) })
}

async fn gateway_rates(cluster: &Cluster) -> Result<[f64; LOADS.len()]> {
    let mut gateway = Command::new(std::env::current_exe()?)
        .args(["gateway", cluster.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let address = first_line(&mut gateway).await?;
    cluster.check_replicas(&stream_name(&RUN.parse()?, Attempt::FIRST)).await?;
    let mut rates = [0.0; LOADS.len()];
    for (at, (_, task, clients, rounds, operations)) in LOADS.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let operations = *operations as f64;
        rates[at] = operations / seconds(&address, *task, *clients, *rounds).await?;
    }
    // It ends when its input does.
    drop(gateway.stdin.take());
    gateway.wait().await?;
    Ok(rates)
}

/// The median of a task's rounds, run in a process of its own. The first round warms up.
async fn seconds(address: &str, task: Task, clients: usize, rounds: usize) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["load", address, task.name()])
        .args([clients.to_string(), (rounds + 1).to_string()])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "load {} with {clients} clients failed", task.name());
    let mut seconds: Vec<f64> = serde_json::from_slice(&output.stdout)?;
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().context("there are rounds")
}

async fn first_line(child: &mut Child) -> Result<String> {
    let output = child.stdout.take().context("its output is piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).await?;
    Ok(line.trim().to_owned())
}

/// The process that clients connect to. It prints where, and ends when its input ends.
pub(crate) async fn gateway(url: &str) -> Result<()> {
    let bus = Bus::connect(&BusConfig::open(url.to_owned(), "bench")).await?;
    let run: RunId = RUN.parse()?;
    let worker: WorkerId = "w1".parse()?;
    create_log(&bus, &run, Attempt::FIRST, 1 << 32, std::slice::from_ref(&worker)).await?;
    let spec = SyncSpec {
        run,
        attempt: Attempt::FIRST,
        plan: "bench".to_owned(),
        case: "sync".to_owned(),
        worker: worker.clone(),
        epoch: Epoch(1),
        workers: vec![worker],
        total_instances: u32::try_from(CLIENTS)?,
        connections: None,
        limits: SyncLimits::NONE,
    };
    let (sync, _events) = RunSync::open(bus, spec, &TaskTracker::new()).await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    sync.serve(InstanceId(0), "bench".to_owned(), listener.into()).await;
    BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
    sync.close().await;
    Ok(())
}

/// The process that the clients are in. It prints the seconds of each round.
pub(crate) fn run_load(
    address: SocketAddr,
    task: &str,
    clients: usize,
    rounds: usize,
) -> Result<()> {
    let task = Task::parse(task).context("no such task")?;
    let seconds = load::run(task, Wire::Gateway, address, clients, rounds)?;
    println!("{}", serde_json::to_string(&seconds)?);
    Ok(())
}
