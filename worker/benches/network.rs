//! How true and how fast the data network is: delay error, rate, packets a second of one core, one TCP flow.
//! Beside veth and bridge, and HTB where this kernel has it, in the same run.
//!
//! Run as root: `cargo bench --bench network`; `-- --quick` only shows that it works. Everything happens in
//! namespaces of its own.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use groundswell_common::fidelity::grade::time;
use groundswell_common::fidelity::{Histogram, NetworkReport};
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::{Attachment, Network as _};
use host::Host;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::Instant;

#[path = "network/crowd.rs"]
mod crowd;
#[path = "../tests/host/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod host;

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(16, 0, 0, 2), Ipv4Addr::new(16, 0, 0, 3)];
const PORT: u16 = 4001;
/// Nothing has come for so long: it is over. Longer than any delay and queue here.
const SILENCE: Duration = Duration::from_millis(700);
const MBIT: u64 = 1_000_000;

/// How much of everything.
#[derive(Clone, Copy)]
struct Extent {
    time: Duration,
    rates: &'static [u32],
    delays_ms: &'static [u64],
    mbits: &'static [u64],
    crowds: &'static [u32],
}

const FULL: Extent = Extent {
    time: Duration::from_millis(1_500),
    rates: &[1_000, 10_000, 50_000],
    delays_ms: &[1, 10, 100],
    mbits: &[1, 10, 100, 500],
    crowds: &[1_000, 5_000],
};
const QUICK: Extent = Extent {
    time: Duration::from_millis(200),
    rates: &[1_000],
    delays_ms: &[1, 10],
    mbits: &[1, 10],
    crowds: &[20],
};

/// One of two hosts that reach each other.
enum End {
    Switch(Host),
    Veth(File),
}

/// What a receiver saw.
#[derive(Default)]
struct Seen {
    packets: u64,
    bytes: u64,
    /// From the first packet to the last.
    time: Duration,
    /// How much longer packets were under way than the configured delay.
    error: Histogram,
    first_bytes: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let extent = if quick { QUICK } else { FULL };
    // Any of these words measures only what it names.
    let parts = ["delays", "rates", "throughput", "flows", "crowds"];
    let named: Vec<String> = std::env::args().filter(|word| parts.contains(&&**word)).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let veth = Veth::new();
    if let Err(err) = &veth {
        println!("veth and bridge are not measured: {err:#}\n");
    }
    let veth = veth.ok();
    if wanted("delays") {
        delays(extent, veth.as_ref()).await?;
    }
    if wanted("rates") {
        rates(extent, veth.as_ref()).await?;
    }
    if wanted("throughput") {
        throughput(extent, veth.as_ref()).await?;
    }
    if wanted("flows") {
        flows(extent, veth.as_ref()).await?;
    }
    if wanted("crowds") {
        println!("| instances | what | | |\n|---:|---|---:|---|");
        for &count in extent.crowds {
            crowd::measure(count).await?;
        }
    }
    Ok(())
}

fn config(default: LinkShape) -> NetworkConfig {
    NetworkConfig {
        enable: true,
        ipv4: None,
        default,
        rules: Vec::new(),
        callback_state: String::new(),
        routing_policy: RoutingPolicy::DenyAll,
    }
}

/// Two instances on a switch of one thread.
struct Net {
    switch: Switch,
    run: RunId,
    ends: [End; 2],
}

impl Net {
    async fn new(shape: LinkShape) -> anyhow::Result<Self> {
        Self::on(Switch::new(1)?, shape).await
    }

    async fn on(switch: Switch, shape: LinkShape) -> anyhow::Result<Self> {
        let run = RunId::new(1);
        switch.open(&run, "16.0.0.0/16".parse()?, 1).await?;
        let mut ends = Vec::new();
        for (instance, address) in (0..).map(InstanceId).zip(ADDRESSES) {
            let (host, device) = Host::new(address);
            switch.attach(Attachment { run: run.clone(), instance, device, address }).await?;
            switch.configure(&run, instance, &config(shape)).await?;
            ends.push(End::Switch(host));
        }
        let Ok(ends) = ends.try_into() else { unreachable!("two were made") };
        Ok(Self { switch, run, ends })
    }

    async fn report(&self) -> anyhow::Result<NetworkReport> {
        self.switch.report(&self.run).await.context("the run is open")
    }
}

/// Two namespaces joined by a bridge in a third. They go when this is dropped.
struct Veth {
    names: [String; 3],
    ends: [End; 2],
}

impl Veth {
    fn new() -> anyhow::Result<Self> {
        let names =
            ["a", "b", "bridge"].map(|end| format!("gs-bench-{}-{end}", std::process::id()));
        let made = Self::make(&names);
        if made.is_err() {
            remove(&names);
        }
        Ok(Self { ends: made?, names })
    }

    fn make(names: &[String; 3]) -> anyhow::Result<[End; 2]> {
        let [a, b, bridge] = names;
        for name in names {
            command("ip", &["netns", "add", name])?;
        }
        command("ip", &["-n", bridge, "link", "add", "br0", "type", "bridge"])?;
        command("ip", &["-n", bridge, "link", "set", "br0", "up"])?;
        for ((name, port), address) in [(a, "va"), (b, "vb")].into_iter().zip(ADDRESSES) {
            let address = format!("{address}/16");
            let peer = ["peer", "name", "eth1", "netns", name];
            let add = ["-n", bridge, "link", "add", port, "type", "veth"];
            command("ip", &[&add[..], &peer[..]].concat())?;
            command("ip", &["-n", bridge, "link", "set", port, "master", "br0", "up"])?;
            command("ip", &["-n", name, "addr", "add", &address, "dev", "eth1"])?;
            command("ip", &["-n", name, "link", "set", "eth1", "up"])?;
        }
        let end = |name| File::open(format!("/run/netns/{name}")).map(End::Veth);
        Ok([end(a)?, end(b)?])
    }

    /// Limits what the first end sends.
    fn limit(&self, mbit: u64) -> anyhow::Result<()> {
        let (name, rate) = (&self.names[0], format!("{mbit}mbit"));
        let root = ["-n", name, "qdisc", "replace", "dev", "eth1", "root", "handle", "1:"];
        command("tc", &[&root[..], &["htb", "default", "1"]].concat())?;
        let class = ["-n", name, "class", "replace", "dev", "eth1", "parent", "1:"];
        command("tc", &[&class[..], &["classid", "1:1", "htb", "rate", &rate]].concat())
    }

    fn unlimit(&self) -> anyhow::Result<()> {
        command("tc", &["-n", &self.names[0], "qdisc", "del", "dev", "eth1", "root"])
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        remove(&self.names);
    }
}

fn remove(names: &[String]) {
    for name in names {
        // One that was never made cannot be removed.
        let _ = command("ip", &["netns", "del", name]);
    }
}

fn command(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("`{program}` does not run"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), told.trim());
    Ok(())
}

impl End {
    fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Switch(host) => host.enter(act),
            Self::Veth(namespace) => std::thread::scope(|scope| {
                let inside = scope.spawn(|| {
                    setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
                    act()
                });
                inside.join().expect("no panic inside")
            }),
        }
    }

    fn udp(&self) -> anyhow::Result<UdpSocket> {
        let socket = self.enter(|| UdpSocket::bind(("0.0.0.0", PORT)))?;
        socket.set_read_timeout(Some(SILENCE))?;
        // A full buffer of the receiver is not the network's loss.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
        Ok(socket)
    }
}

/// Sends packets of `length` bytes for a while, `rate` a second or as many as go, and says what arrived.
fn traffic(
    ends: &[End; 2],
    length: usize,
    rate: Option<u32>,
    lasts: Duration,
    delay: Duration,
) -> anyhow::Result<Seen> {
    let [sender, receiver] = ends;
    let (sender, receiver) = (sender.udp()?, receiver.udp()?);
    let base = Instant::now();
    std::thread::scope(|scope| {
        let seen = scope.spawn(move || receive(&receiver, base, delay));
        send(&sender, base, length, rate, lasts)?;
        seen.join().expect("no panic in the receiver")
    })
}

fn send(
    socket: &UdpSocket,
    base: Instant,
    length: usize,
    rate: Option<u32>,
    lasts: Duration,
) -> anyhow::Result<()> {
    let mut packet = vec![0; length];
    let gap = rate.map(|rate| Duration::from_secs(1) / rate);
    for number in 0.. {
        let due = gap.map(|gap| gap * number);
        let mut now = base.elapsed();
        while let Some(early) = due.and_then(|due| due.checked_sub(now)).filter(|d| !d.is_zero()) {
            std::thread::park_timeout(early);
            now = base.elapsed();
        }
        if now >= lasts {
            break;
        }
        packet[..8].copy_from_slice(&nanoseconds(now).to_be_bytes());
        // A full queue drops, as a network does.
        let _ = socket.send_to(&packet, (ADDRESSES[1], PORT));
    }
    Ok(())
}

fn receive(socket: &UdpSocket, base: Instant, delay: Duration) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut buffer = [0; 2048];
    let mut began = None;
    while let Ok(length) = socket.recv(&mut buffer) {
        let now = base.elapsed();
        let sent = u64::from_be_bytes(buffer[..8].try_into().context("it is stamped")?);
        // What the rate counts: the packet with its IP and UDP headers.
        let bytes = length as u64 + 28;
        if began.is_none() {
            seen.first_bytes = bytes;
        }
        seen.time = now - *began.get_or_insert(now);
        seen.packets += 1;
        seen.bytes += bytes;
        let travelled = nanoseconds(now).saturating_sub(sent);
        seen.error.record(travelled.saturating_sub(nanoseconds(delay)));
    }
    Ok(seen)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Errors of the delay, p50 and p99: of the whole way between applications, and of the switch alone.
async fn delays(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!("| packets/s | delay | way: error p50 | p99 | switch: late p50 | p99 | of a core |");
    println!("|---:|---|---:|---:|---:|---:|---:|");
    for &rate in extent.rates {
        if let Some(veth) = veth {
            let seen = traffic(&veth.ends, 64, Some(rate), extent.time, Duration::ZERO)?;
            let [p50, p99] = [0.5, 0.99].map(|q| time(seen.error.quantile(q)));
            println!("| {rate} | veth and bridge, none | {p50} | {p99} | | | |");
        }
        for &ms in extent.delays_ms {
            let latency = Duration::from_millis(ms);
            let shape = LinkShape { latency, ..LinkShape::default() };
            for (name, switch) in
                [("", Switch::new(1)?), (", never spinning", Switch::spinning(1, Duration::ZERO)?)]
            {
                let net = Net::on(switch, shape).await?;
                let before = cpu()?;
                let seen = traffic(&net.ends, 64, Some(rate), extent.time, latency)?;
                let used = (cpu()? - before).as_secs_f64() / extent.time.as_secs_f64() * 100.0;
                let [way50, way99] = [0.5, 0.99].map(|q| time(seen.error.quantile(q)));
                let mut late = Histogram::default();
                net.report().await?.lanes.iter().for_each(|lane| late.merge(&lane.late));
                let [p50, p99] = [0.5, 0.99].map(|q| time(late.quantile(q)));
                println!(
                    "| {rate} | {ms} ms{name} | {way50} | {way99} | {p50} | {p99} | {used:.0} % |"
                );
            }
        }
    }
    println!();
    Ok(())
}

/// Rates offered one and a half times.
async fn rates(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!("| configured | switch | off | HTB | off |\n|---:|---:|---:|---:|---:|");
    for &mbit in extent.mbits {
        let offered = u32::try_from(mbit * MBIT * 3 / 2 / (8 * 1_428))?;
        let shape = LinkShape { bandwidth_bps: mbit * MBIT, ..LinkShape::default() };
        let net = Net::new(shape).await?;
        let switch = traffic(&net.ends, 1_400, Some(offered), extent.time, Duration::ZERO)?;
        let htb = veth.and_then(|veth| {
            veth.limit(mbit).ok()?;
            let seen = traffic(&veth.ends, 1_400, Some(offered), extent.time, Duration::ZERO).ok();
            veth.unlimit().ok()?;
            seen
        });
        // HTB counts the Ethernet header as well, so it lets that much less through.
        let htb =
            htb.map_or_else(|| "not measured | ".to_owned(), |s| off(&s, mbit, 1_442.0 / 1_428.0));
        println!("| {mbit} Mbit/s | {} | {htb} |", off(&switch, mbit, 1.0));
    }
    println!();
    Ok(())
}

/// The rate that was seen and its deviation. From the arrival of the first packet on, all later ones came.
fn off(seen: &Seen, mbit: u64, counted: f64) -> String {
    if seen.time.is_zero() {
        return "too few packets | ".to_owned();
    }
    let bytes = (seen.bytes - seen.first_bytes) as f64 * counted;
    let achieved = bytes * 8.0 / seen.time.as_secs_f64() / MBIT as f64;
    format!("{achieved:.3} Mbit/s | {:+.2} %", (achieved / mbit as f64 - 1.0) * 100.0)
}

/// As many small packets as go.
async fn throughput(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!("| path | arrived/s | per second of the switch's cpu |\n|---|---:|---:|");
    let shaped = LinkShape {
        latency: Duration::from_millis(10),
        jitter: Duration::from_millis(1),
        loss_pct: 1.0,
        bandwidth_bps: 10_000 * MBIT,
        ..LinkShape::default()
    };
    for (name, shape) in [("switch, unshaped", LinkShape::default()), ("switch, shaped", shaped)] {
        // Spinning would count as work.
        let net = Net::on(Switch::spinning(1, Duration::ZERO)?, shape).await?;
        let before = cpu()?;
        let seen = traffic(&net.ends, 36, None, extent.time, Duration::ZERO)?;
        let handled: u64 = net.report().await?.lanes.iter().map(|lane| lane.packets).sum();
        let used = (cpu()? - before).as_secs_f64();
        println!("| {name} | {:.0} | {:.0} |", per_second(&seen), handled as f64 / used);
    }
    if let Some(veth) = veth {
        let seen = traffic(&veth.ends, 36, None, extent.time, Duration::ZERO)?;
        println!("| veth and bridge | {:.0} | in the sender's |", per_second(&seen));
    }
    println!();
    Ok(())
}

fn per_second(seen: &Seen) -> f64 {
    seen.packets as f64 / seen.time.as_secs_f64().max(1e-9)
}

/// What the switch's threads have used of a core.
fn cpu() -> anyhow::Result<Duration> {
    let mut used = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.starts_with("gs-net-") {
            let stat = std::fs::read_to_string(task.join("schedstat"))?;
            used += stat.split(' ').next().context("a first column")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(used))
}

/// One TCP flow.
async fn flows(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!("| path | one TCP flow | of veth and bridge |\n|---|---:|---:|");
    let beside = veth.map(|veth| flow(&veth.ends, extent.time * 2)).transpose()?;
    let share = |rate: f64| {
        beside.map_or_else(|| "not measured".to_owned(), |beside| format!("{:.2}", rate / beside))
    };
    let ms = Duration::from_millis(1);
    let plain = LinkShape::default();
    let fast = LinkShape { bandwidth_bps: 1_000 * MBIT, latency: ms, ..plain };
    for (name, shape) in [
        ("switch, unshaped", plain),
        ("switch, 1 ms", LinkShape { latency: ms, ..plain }),
        ("switch, 10 ms", LinkShape { latency: ms * 10, ..plain }),
        ("switch, 1 ms, 0.01 % loss", LinkShape { latency: ms, loss_pct: 0.01, ..plain }),
        ("switch, 1 ms, 1 Gbit/s", fast),
    ] {
        let net = Net::new(shape).await?;
        let before = cpu()?;
        let rate = flow(&net.ends, extent.time * 2)?;
        let used = (cpu()? - before).as_secs_f64() / (extent.time * 2).as_secs_f64() * 100.0;
        println!("| {name} | {rate:.2} Gbit/s at {used:.0} % of a core | {} |", share(rate));
    }
    if let Some(beside) = beside {
        println!("| veth and bridge | {beside:.2} Gbit/s | 1 |");
    }
    println!();
    Ok(())
}

/// Lets a flow fill a long path: by default the kernel gives it 4 MB.
fn widen() {
    for file in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{file}"), "4096 131072 67108864").ok();
    }
}

fn flow(ends: &[End; 2], lasts: Duration) -> anyhow::Result<f64> {
    ends.iter().for_each(|end| end.enter(widen));
    let listener = ends[1].enter(|| TcpListener::bind(("0.0.0.0", PORT)))?;
    let mut sender = ends[0].enter(|| TcpStream::connect((ADDRESSES[1], PORT)))?;
    let (mut receiver, _) = listener.accept()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![0; 256 << 10];
            while began.elapsed() < lasts && sender.write_all(&chunk).is_ok() {}
        });
        let (mut buffer, mut bytes) = (vec![0; 256 << 10], 0);
        while let Ok(length @ 1..) = receiver.read(&mut buffer) {
            bytes += length;
        }
        Ok(bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9)
    })
}
