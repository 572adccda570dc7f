//! Many instances on one switch: setting up, memory, traffic of all, reshaping all, tearing down.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use groundswell_common::fidelity::Histogram;
use groundswell_common::fidelity::grade::time;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{AccessLink, LinkShape};
use groundswell_common::network::{DataPath, NetworkPlan};
use groundswell_worker::network::links::Links;
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::wire::{WireSpec, Wired, wire};
use groundswell_worker::network::{Attachment, Network as _};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::{TimeVal, TimeValLike as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{PORT, config};

/// Threads that make namespaces.
const MAKERS: u32 = 2;
/// How often each instance sends to the next one, and how long it waits in between.
const ROUNDS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(40);

/// Instances that keep their listeners. A process of many more has no descriptors for them.
const WITH_LISTENERS: u32 = 1_000;

/// What else is wired in a namespace.
type Rest = Option<[OwnedFd; 3]>;

/// An instance's namespace, what is wired there, and its device, which the switch gets.
struct Member {
    namespace: File,
    rest: Rest,
    device: OwnedFd,
    address: Ipv4Addr,
}

/// Measures one switch with so many instances.
pub(crate) async fn measure(count: u32) -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let (switch, run) = (Switch::new(1)?, RunId::new(2));
    switch.open(&run, "16.1.0.0/16".parse()?, 1).await?;
    let (before, spent, began) = (used_memory()?, cpu()?, Instant::now());
    let mut namespaces: Vec<Option<(File, Rest)>> = (0..count).map(|_| None).collect();
    let mut made = make(count);
    // As a worker does it: who is ready is attached while others are made.
    while let Some(member) = made.recv().await {
        let (number, Member { namespace, rest, device, address }) = member?;
        let instance = InstanceId(number);
        switch.attach(Attachment { run: run.clone(), instance, device, address }).await?;
        namespaces[usize::try_from(number)?] = Some((namespace, rest));
    }
    let namespaces: Vec<_> = namespaces.into_iter().flatten().collect();
    ensure!(namespaces.len() == usize::try_from(count)?, "not all were made");
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    let memory = used_memory()?.saturating_sub(before) / u64::from(count);
    let spent = (cpu()? - spent).as_secs_f64() * 1e3 / f64::from(count);
    println!("| {count} | set up | {rate:.0}/s | {memory} kB and {spent:.2} ms of cpu each |");
    let latency = Duration::from_millis(10);
    let shape = LinkShape { latency, ..LinkShape::default() };
    let began = Instant::now();
    for instance in (0..count).map(InstanceId) {
        switch.configure(&run, instance, &config(shape)).await?;
    }
    println!("| {count} | reshaped one after another | {} | |", ms(began));
    let links = |latency| links(count, latency);
    let began = Instant::now();
    switch.relink(&run, links(latency)).await?;
    println!("| {count} | reshaped at once by the schedule | {} | |", ms(began));
    let arrived = traffic(&namespaces)?;
    let mut late = Histogram::default();
    let report = switch.report(&run).await.context("the run is open")?;
    report.lanes.iter().for_each(|lane| late.merge(&lane.late));
    let [p50, p99] = [0.5, 0.99].map(|q| time(late.quantile(q)));
    let sent = count * ROUNDS;
    println!(
        "| {count} | each sends to the next, {}/s in all | {arrived} of {sent} arrived | late p50 {p50}, p99 {p99} |",
        u64::from(count) * 1_000 / u64::try_from(PAUSE.as_millis())?,
    );
    let began = Instant::now();
    switch.close(&run).await;
    let closed = ms(began);
    drop(namespaces);
    println!("| {count} | torn down | {closed}, with namespaces {} | |", ms(began));
    ensure!(arrived > 0, "nothing arrived");
    Ok(())
}

fn ms(began: Instant) -> String {
    format!("{:.1} ms", began.elapsed().as_secs_f64() * 1e3)
}

/// All in one group whose access link has this latency.
fn links(count: u32, latency: Duration) -> Arc<Links> {
    let sends = LinkShape { latency, ..LinkShape::default() };
    let plan = NetworkPlan {
        classes: vec![AccessLink { sends, download_bps: 0 }],
        ..NetworkPlan::default()
    };
    Arc::new(Links::new(&plan, [count]))
}

/// Makes them on threads of their own, in no order.
fn make(count: u32) -> mpsc::Receiver<anyhow::Result<(u32, Member)>> {
    let (sender, made) = mpsc::channel(usize::try_from(count).unwrap_or(usize::MAX));
    for maker in 0..MAKERS {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for number in (maker..count).step_by(MAKERS as usize) {
                let _ = sender.blocking_send(member(number).map(|member| (number, member)));
            }
        });
    }
    made
}

/// Leaves the calling thread in the namespace it makes.
fn member(number: u32) -> anyhow::Result<Member> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(16, 1, 0, 2).to_bits() + number);
    let wired = wire(&WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch })?;
    let Wired { device, sync, influx, control, .. } = wired;
    let rest = (number < WITH_LISTENERS).then_some([sync, influx, control]);
    Ok(Member { namespace, rest, device: device.expect("made"), address })
}

/// Each sends to the next one in turn; how many packets have arrived in the end.
fn traffic(namespaces: &[(File, Rest)]) -> anyhow::Result<u32> {
    std::thread::scope(|scope| {
        let all = scope.spawn(|| {
            let sockets = sockets(namespaces)?;
            let mut arrived = 0;
            for _ in 0..ROUNDS {
                let began = Instant::now();
                for (from, to) in sockets.iter().zip(sockets.iter().cycle().skip(1)) {
                    from.0.send_to(b"hello", (to.1, PORT))?;
                }
                std::thread::park_timeout(PAUSE.saturating_sub(began.elapsed()));
                arrived += drained(&sockets);
            }
            std::thread::park_timeout(PAUSE * 5);
            Ok(arrived + drained(&sockets))
        });
        all.join().expect("no panic inside")
    })
}

fn sockets(namespaces: &[(File, Rest)]) -> anyhow::Result<Vec<(UdpSocket, Ipv4Addr)>> {
    let addresses = Ipv4Addr::new(16, 1, 0, 2).to_bits()..;
    let mut sockets = Vec::new();
    for ((namespace, _), address) in namespaces.iter().zip(addresses) {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        socket.set_nonblocking(true)?;
        sockets.push((socket, Ipv4Addr::from_bits(address)));
    }
    Ok(sockets)
}

fn drained(sockets: &[(UdpSocket, Ipv4Addr)]) -> u32 {
    let mut arrived = 0;
    for (socket, _) in sockets {
        while socket.recv(&mut [0; 16]).is_ok() {
            arrived += 1;
        }
    }
    arrived
}

/// What this process has used of all cores.
fn cpu() -> anyhow::Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let times = [used.user_time(), used.system_time()];
    let microseconds: i64 = times.iter().map(TimeVal::num_microseconds).sum();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}

/// Memory that is in use and not only a cache, in kB.
fn used_memory() -> anyhow::Result<u64> {
    let table = std::fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| -> anyhow::Result<u64> {
        let line = table.lines().find(|line| line.starts_with(name)).context("a known name")?;
        Ok(line.split_ascii_whitespace().nth(1).context("a value")?.parse()?)
    };
    let free = of("MemFree:")? + of("Buffers:")? + of("Cached:")? + of("SReclaimable:")?;
    Ok(of("MemTotal:")? - free)
}
