//! How true and how fast the data network is: delay error, rate, packets a second of one core, one TCP flow.
//! Beside veth and bridge, and HTB where this kernel has it, in the same run.
//!
//! Run as root: `cargo bench --bench network`; `-- --quick` only shows that it works. Everything happens in
//! namespaces of its own.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use groundswell_common::fidelity::grade::time;
use groundswell_common::fidelity::{Histogram, NetworkReport};
use groundswell_common::link::LinkShape;
use groundswell_worker::measure::traffic::{
    ADDRESSES, Ends, PORT, Pair, Seen, config, flow, switch_cpu, traffic,
};
use groundswell_worker::network::switch::Switch;
use host::Host;

#[path = "network/crowd.rs"]
mod crowd;
#[path = "../tests/host/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod host;

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

/// Two namespaces joined by a bridge in a third. None has a name, so all go with this process at the latest.
struct Veth {
    ends: [Host; 2],
    _bridge: Host,
}

impl Veth {
    fn new() -> anyhow::Result<Self> {
        let (ends, bridge) = ([Host::bare(), Host::bare()], Host::bare());
        command(&bridge, "ip", &["link", "add", "br0", "type", "bridge"])?;
        command(&bridge, "ip", &["link", "set", "br0", "up"])?;
        for ((end, port), address) in ends.iter().zip(["va", "vb"]).zip(ADDRESSES) {
            let (address, there) = (format!("{address}/16"), path(end));
            let peer = ["type", "veth", "peer", "name", "eth1", "netns", &there];
            command(&bridge, "ip", &[&["link", "add", port][..], &peer[..]].concat())?;
            command(&bridge, "ip", &["link", "set", port, "master", "br0", "up"])?;
            command(end, "ip", &["addr", "add", &address, "dev", "eth1"])?;
            command(end, "ip", &["link", "set", "eth1", "up"])?;
        }
        Ok(Self { ends, _bridge: bridge })
    }

    fn ends(&self) -> Ends<'_> {
        [self.ends[0].namespace.as_fd(), self.ends[1].namespace.as_fd()]
    }

    /// Limits what the first end sends.
    fn limit(&self, mbit: u64) -> anyhow::Result<()> {
        let (end, rate) = (&self.ends[0], format!("{mbit}mbit"));
        let root = ["qdisc", "replace", "dev", "eth1", "root", "handle", "1:"];
        command(end, "tc", &[&root[..], &["htb", "default", "1"]].concat())?;
        let class = ["class", "replace", "dev", "eth1", "parent", "1:"];
        command(end, "tc", &[&class[..], &["classid", "1:1", "htb", "rate", &rate]].concat())
    }

    fn unlimit(&self) -> anyhow::Result<()> {
        command(&self.ends[0], "tc", &["qdisc", "del", "dev", "eth1", "root"])
    }
}

/// Where other processes find a namespace.
fn path(host: &Host) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), host.namespace.as_raw_fd())
}

/// Runs a program in a namespace.
fn command(host: &Host, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = host.enter(|| Command::new(program).args(arguments).output());
    let output = output.with_context(|| format!("`{program}` does not run"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), told.trim());
    Ok(())
}

/// Errors of the delay, p50 and p99: of the whole way until the receiving application runs, of the network's part of
/// it, which ends in the receiver's stack, and of the switch alone.
async fn delays(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!(
        "| packets/s | delay | way: error p50 | p99 | network: error p50 | p99 | switch: late p50 | p99 | of a core |"
    );
    println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|");
    for &rate in extent.rates {
        if let Some(veth) = veth {
            let seen = traffic(veth.ends(), 64, Some(rate), extent.time, Duration::ZERO)?;
            println!("| {rate} | veth and bridge, none | {} | | | |", errors(&seen));
        }
        for &ms in extent.delays_ms {
            let latency = Duration::from_millis(ms);
            let shape = LinkShape { latency, ..LinkShape::default() };
            for (name, switch) in
                [("", Switch::new(1)?), (", never spinning", Switch::spinning(1, Duration::ZERO)?)]
            {
                let net = Pair::on(switch, shape).await?;
                let before = switch_cpu()?;
                let seen = traffic(net.ends(), 64, Some(rate), extent.time, latency)?;
                let used =
                    (switch_cpu()? - before).as_secs_f64() / extent.time.as_secs_f64() * 100.0;
                let mut late = Histogram::default();
                net.report().await?.lanes.iter().for_each(|lane| late.merge(&lane.late));
                let [p50, p99] = [0.5, 0.99].map(|q| time(late.quantile(q)));
                let errors = errors(&seen);
                println!("| {rate} | {ms} ms{name} | {errors} | {p50} | {p99} | {used:.0} % |");
            }
        }
    }
    println!();
    Ok(())
}

/// Four columns: the way's and the network's p50 and p99.
fn errors(seen: &Seen) -> String {
    let columns = [&seen.error, &seen.network_error]
        .map(|error| [0.5, 0.99].map(|q| time(error.quantile(q))).join(" | "));
    columns.join(" | ")
}

/// Rates offered one and a half times.
async fn rates(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!("| configured | switch | off | while packets waited: off | HTB | off |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for &mbit in extent.mbits {
        let offered = u32::try_from(mbit * MBIT * 3 / 2 / (8 * 1_428))?;
        let shape = LinkShape { bandwidth_bps: mbit * MBIT, ..LinkShape::default() };
        let net = Pair::new(shape).await?;
        let switch = traffic(net.ends(), 1_400, Some(offered), extent.time, Duration::ZERO)?;
        let waited = waited(&net.report().await?, mbit);
        let htb = veth.and_then(|veth| {
            veth.limit(mbit).ok()?;
            let seen = traffic(veth.ends(), 1_400, Some(offered), extent.time, Duration::ZERO).ok();
            veth.unlimit().ok()?;
            seen
        });
        // HTB counts the Ethernet header as well, so it lets that much less through.
        let htb =
            htb.map_or_else(|| "not measured | ".to_owned(), |s| off(&s, mbit, 1_442.0 / 1_428.0));
        println!("| {mbit} Mbit/s | {} | {waited} | {htb} |", off(&switch, mbit, 1.0));
    }
    println!();
    Ok(())
}

/// The deviation while the sender had offered enough, as the switch has seen it: a sender that is held up shows
/// in what arrives, and not here.
fn waited(report: &NetworkReport, mbit: u64) -> String {
    let (mut bytes, mut time) = (0, Duration::ZERO);
    for lane in &report.lanes {
        bytes += lane.busy.bytes;
        time += lane.busy.time;
    }
    let achieved = bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9) / MBIT as f64;
    format!("{:+.2} %", (achieved / mbit as f64 - 1.0) * 100.0)
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
        let net = Pair::on(Switch::spinning(1, Duration::ZERO)?, shape).await?;
        let before = switch_cpu()?;
        let seen = traffic(net.ends(), 36, None, extent.time, Duration::ZERO)?;
        let handled: u64 = net.report().await?.lanes.iter().map(|lane| lane.packets).sum();
        let used = (switch_cpu()? - before).as_secs_f64();
        println!("| {name} | {:.0} | {:.0} |", seen.per_second(), handled as f64 / used);
    }
    if let Some(veth) = veth {
        let seen = traffic(veth.ends(), 36, None, extent.time, Duration::ZERO)?;
        println!("| veth and bridge | {:.0} | in the sender's |", seen.per_second());
    }
    println!();
    Ok(())
}

/// One TCP flow.
async fn flows(extent: Extent, veth: Option<&Veth>) -> anyhow::Result<()> {
    println!("| path | one TCP flow | of veth and bridge |\n|---|---:|---:|");
    let beside =
        veth.map(|veth| flow(veth.ends(), extent.time * 2)).transpose()?.map(|bps| bps / 1e9);
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
        let net = Pair::new(shape).await?;
        let before = switch_cpu()?;
        let rate = flow(net.ends(), extent.time * 2)? / 1e9;
        let used = (switch_cpu()? - before).as_secs_f64() / (extent.time * 2).as_secs_f64() * 100.0;
        println!("| {name} | {rate:.2} Gbit/s at {used:.0} % of a core | {} |", share(rate));
    }
    if let Some(beside) = beside {
        println!("| veth and bridge | {beside:.2} Gbit/s | 1 |");
    }
    println!();
    Ok(())
}
