//! Both data paths on the same cases. The kernel's takes netem, so this runs where there is one:
//! `deploy/dev/emulated.sh` boots Debian's kernel under emulation. What is measured is printed.

#[expect(dead_code, reason = "interfaces are made by the worker's own code here")]
mod host;
#[expect(dead_code, reason = "the kernel's own tests use more of it")]
mod lab;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use groundswell_common::link::{Distribution, Filter, LinkRule, LinkShape, NetworkConfig};
use groundswell_common::network::DataPath;
use lab::{MS, Net, PORT, at, config, filtered, hears, silent};
use tokio::time::{Instant, MissedTickBehavior};

/// A machine that is emulated is late by so much, now and then by more.
const LATE: Duration = Duration::from_millis(25);
/// After such a silence nothing comes any more.
const SILENCE: Duration = Duration::from_secs(1);

/// What is sent, and what has to come of it.
struct Case {
    name: &'static str,
    shape: LinkShape,
    packets: u32,
    every: Duration,
    /// Bytes of each, with headers.
    size: usize,
    holds: &'static [Holds],
}

/// What has to be so.
#[derive(Debug, Clone, Copy)]
enum Holds {
    /// Half of the packets take as long, or a little longer.
    Takes(Duration),
    /// The fastest and the slowest packet are at least so far apart.
    Spreads(Duration),
    /// No packet takes less.
    AtLeast(Duration),
    /// Nothing overtakes anything.
    InOrder,
    /// So many arrive for each that is sent; more or less by the second.
    Arrive(f64, f64),
    /// Arrivals are bits per second, by 3 %.
    Rate(f64),
    /// How much one loss says about the next; more or less by the second.
    LossCorrelation(f64, f64),
    /// So many arrive much too early; more or less by the second.
    Early(f64, f64),
}

const fn shape() -> LinkShape {
    LinkShape {
        latency: Duration::ZERO,
        jitter: Duration::ZERO,
        distribution: Distribution::Uniform,
        bandwidth_bps: 0,
        filter: Filter::Accept,
        loss_pct: 0.0,
        loss_corr_pct: 0.0,
        corrupt_pct: 0.0,
        corrupt_corr_pct: 0.0,
        reorder_pct: 0.0,
        reorder_corr_pct: 0.0,
        duplicate_pct: 0.0,
        duplicate_corr_pct: 0.0,
    }
}

const CASES: &[Case] = &[
    Case {
        name: "50 ms",
        shape: LinkShape { latency: Duration::from_millis(50), ..shape() },
        packets: 150,
        every: Duration::from_millis(10),
        size: 128,
        holds: &[Holds::Takes(Duration::from_millis(50)), Holds::InOrder, Holds::Arrive(1.0, 0.0)],
    },
    Case {
        name: "5 ms",
        shape: LinkShape { latency: Duration::from_millis(5), ..shape() },
        packets: 150,
        every: Duration::from_millis(10),
        size: 128,
        holds: &[Holds::Takes(Duration::from_millis(5)), Holds::InOrder, Holds::Arrive(1.0, 0.0)],
    },
    Case {
        name: "60 ± 20 ms, uniform",
        shape: LinkShape {
            latency: Duration::from_millis(60),
            jitter: Duration::from_millis(20),
            ..shape()
        },
        packets: 400,
        every: Duration::from_millis(5),
        size: 128,
        holds: &[
            Holds::AtLeast(Duration::from_millis(40)),
            Holds::Spreads(Duration::from_millis(25)),
            Holds::InOrder,
            Holds::Arrive(1.0, 0.0),
        ],
    },
    Case {
        name: "60 ± 10 ms, normal, packets far apart",
        shape: LinkShape {
            latency: Duration::from_millis(60),
            jitter: Duration::from_millis(10),
            distribution: Distribution::Normal,
            ..shape()
        },
        packets: 100,
        every: Duration::from_millis(40),
        size: 128,
        holds: &[
            Holds::Takes(Duration::from_millis(57)),
            Holds::Spreads(Duration::from_millis(25)),
            Holds::InOrder,
            Holds::Arrive(1.0, 0.0),
        ],
    },
    Case {
        name: "10 % loss",
        shape: LinkShape { loss_pct: 10.0, ..shape() },
        packets: 3_000,
        every: Duration::from_millis(1),
        size: 128,
        // 4 times the deviation of so many draws.
        holds: &[Holds::Arrive(0.9, 0.022), Holds::LossCorrelation(0.0, 0.08), Holds::InOrder],
    },
    Case {
        name: "20 % loss, correlated by 50 %",
        shape: LinkShape { loss_pct: 20.0, loss_corr_pct: 50.0, ..shape() },
        packets: 4_000,
        every: Duration::from_millis(1),
        size: 128,
        holds: &[Holds::Arrive(0.8, 0.044), Holds::LossCorrelation(0.5, 0.08), Holds::InOrder],
    },
    Case {
        name: "20 % duplication",
        shape: LinkShape { duplicate_pct: 20.0, ..shape() },
        packets: 2_000,
        every: Duration::from_millis(1),
        size: 128,
        holds: &[Holds::Arrive(1.2, 0.036)],
    },
    Case {
        name: "20 % corruption",
        shape: LinkShape { corrupt_pct: 20.0, ..shape() },
        packets: 2_000,
        every: Duration::from_millis(1),
        size: 1_000,
        // The receiver's checksum finds them.
        holds: &[Holds::Arrive(0.8, 0.04)],
    },
    Case {
        name: "25 % reordering of 50 ms",
        shape: LinkShape { latency: Duration::from_millis(50), reorder_pct: 25.0, ..shape() },
        packets: 1_500,
        every: Duration::from_millis(2),
        size: 128,
        holds: &[Holds::Early(0.25, 0.045), Holds::Arrive(1.0, 0.0)],
    },
    Case {
        // HTB makes up for what two packets take, and an emulated machine stands still for longer than that
        // takes at a high rate.
        name: "250 kbit/s",
        shape: LinkShape { bandwidth_bps: 250_000, ..shape() },
        packets: 250,
        every: Duration::from_millis(24),
        size: 1_000,
        holds: &[Holds::Rate(2.5e5), Holds::InOrder],
    },
    Case {
        name: "500 kbit/s and 30 ms",
        shape: LinkShape { latency: Duration::from_millis(30), bandwidth_bps: 500_000, ..shape() },
        packets: 400,
        every: Duration::from_millis(10),
        size: 1_000,
        holds: &[Holds::Rate(5e5), Holds::AtLeast(Duration::from_millis(30)), Holds::InOrder],
    },
];

/// A packet that arrived: its number, how long it took, and when it was there.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    number: u32,
    took: Duration,
    at: Duration,
}

/// Sends a train from instance 0 to 1 and says what arrived, in order of arrival. `during` happens after so many.
async fn train(
    net: &Net,
    (packets, every, size): (u32, Duration, usize),
    during: Option<(u32, NetworkConfig)>,
) -> Vec<Arrived> {
    let start = Instant::now();
    let receiver = net.sockets[1].try_clone().expect("a socket");
    receiver.set_read_timeout(Some(SILENCE)).expect("a limit");
    let received = tokio::task::spawn_blocking(move || receive(&receiver, start, packets));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut packet = vec![0; size - 28];
    for number in 0..packets {
        ticks.tick().await;
        if let Some((_, config)) = during.as_ref().filter(|(when, _)| *when == number) {
            net.configure(0, config).await;
        }
        packet[..4].copy_from_slice(&number.to_be_bytes());
        let now = u64::try_from(start.elapsed().as_nanos()).expect("a short test");
        packet[4..12].copy_from_slice(&now.to_be_bytes());
        net.sockets[0].send_to(&packet, (at(1), PORT)).expect("sent");
    }
    received.await.expect("no panic")
}

fn receive(socket: &UdpSocket, start: Instant, packets: u32) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let at = start.elapsed();
                let number = u32::from_be_bytes(buffer[..4].try_into().expect("4 bytes"));
                let sent = u64::from_be_bytes(buffer[4..12].try_into().expect("8 bytes"));
                arrived.push(Arrived { number, took: at - Duration::from_nanos(sent), at });
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                // A start that is slow is no end.
                if !arrived.is_empty() || start.elapsed() > SILENCE * 10 {
                    assert!(arrived.iter().all(|one| one.number < packets));
                    return arrived;
                }
            }
            Err(err) => panic!("{err}"),
        }
    }
}

fn took(arrived: &[Arrived]) -> Vec<Duration> {
    let mut took: Vec<Duration> = arrived.iter().map(|one| one.took).collect();
    took.sort_unstable();
    took
}

fn in_order(arrived: &[Arrived]) -> bool {
    arrived.windows(2).all(|pair| pair[0].number <= pair[1].number)
}

/// Correlation of the loss of a packet with that of the one before.
fn loss_correlation(arrived: &[Arrived], packets: u32) -> f64 {
    let mut lost = vec![1.0; usize::try_from(packets).expect("few")];
    for one in arrived {
        lost[usize::try_from(one.number).expect("few")] = 0.0;
    }
    let mean = lost.iter().sum::<f64>() / lost.len() as f64;
    let variance = lost.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / lost.len() as f64;
    let pairs = lost.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean));
    pairs.sum::<f64>() / (lost.len() - 1) as f64 / variance
}

impl Holds {
    /// Whether it holds, and what was measured.
    fn of(self, case: &Case, arrived: &[Arrived]) -> (bool, String) {
        let near = |value: f64, wanted: f64, by: f64| {
            ((value - wanted).abs() <= by + 1e-9, format!("{value:.3} of {wanted} ± {by}"))
        };
        let took = took(arrived);
        let sent = f64::from(case.packets);
        match self {
            Self::Takes(wanted) => {
                let half = took[took.len() / 2];
                let holds = half >= wanted && half <= wanted + LATE;
                (holds, format!("half took {half:.1?} of {wanted:?}"))
            }
            Self::Spreads(wanted) => {
                let spread = took[took.len() - 1] - took[0];
                (spread >= wanted, format!("spread by {spread:.1?}"))
            }
            Self::AtLeast(wanted) => {
                (took[0] >= wanted, format!("none took less than {:.1?}", took[0]))
            }
            Self::InOrder => (in_order(arrived), "in order".to_owned()),
            Self::Arrive(wanted, by) => near(arrived.len() as f64 / sent, wanted, by),
            Self::LossCorrelation(wanted, by) => {
                near(loss_correlation(arrived, case.packets), wanted, by)
            }
            Self::Early(wanted, by) => {
                let early = took.iter().filter(|took| **took < case.shape.latency / 2).count();
                near(early as f64 / arrived.len() as f64, wanted, by)
            }
            Self::Rate(wanted) => {
                // The first packets are the burst.
                let tail = &arrived[10..];
                let time = tail[tail.len() - 1].at - tail[0].at;
                let rate = ((tail.len() - 1) * case.size * 8) as f64 / time.as_secs_f64();
                let (holds, _) = near(rate / wanted, 1.0, 0.03);
                (holds, format!("{:.3} of {:.3} Mbit/s", rate / 1e6, wanted / 1e6))
            }
        }
    }
}

/// All cases, one after the other, on one network: each reshapes it live.
async fn all_cases(path: DataPath) {
    let net = Net::new(path, 2).await;
    let mut wrong = Vec::new();
    for case in CASES {
        net.configure(0, &config(case.shape)).await;
        // A machine that stands still for a moment makes one attempt wrong; not three.
        for attempt in 1..=3 {
            let arrived = train(&net, (case.packets, case.every, case.size), None).await;
            assert!(arrived.len() > 20, "{}: {} arrived", case.name, arrived.len());
            let measured: Vec<_> = case.holds.iter().map(|one| one.of(case, &arrived)).collect();
            let good = measured.iter().all(|(good, _)| *good);
            let texts = measured
                .iter()
                .map(|(good, text)| format!("{text}{}", if *good { "" } else { " (WRONG)" }));
            let line = format!(
                "{}: {}: {}",
                path.as_str(),
                case.name,
                texts.collect::<Vec<_>>().join("; ")
            );
            tell(&line);
            if good {
                break;
            }
            if attempt == 3 {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[expect(clippy::print_stdout, reason = "the measured values are what this test is for")]
fn tell(line: &str) {
    println!("{line}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the time of an emulated kernel: deploy/dev/emulated.sh"]
async fn the_switch_does_what_the_cases_say() {
    all_cases(DataPath::Switch).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sch_netem: deploy/dev/emulated.sh"]
async fn the_kernel_does_what_the_cases_say() {
    all_cases(DataPath::Kernel).await;
}

/// Rules with a filter or a shape, on a link that is slow by default.
async fn rules(path: DataPath) {
    let net = Net::new(path, 3).await;
    let slow = config(LinkShape { latency: MS * 300, ..shape() });
    let with =
        |filter| NetworkConfig { rules: filtered("16.0.0.3/32", filter).rules, ..slow.clone() };
    net.configure(0, &with(Filter::Drop)).await;
    net.sockets[0].send_to(b"x", (at(1), PORT)).expect("sent");
    silent(&net.sockets[1]);
    silent(&net.sockets[1]);
    net.configure(0, &with(Filter::Reject)).await;
    let start = Instant::now();
    assert_eq!(lab::refusal(&net.hosts[0], at(1)), ErrorKind::HostUnreachable);
    assert!(start.elapsed() < MS * 200, "a refusal is not delayed: {:?}", start.elapsed());
    hears(&net.sockets[0], at(2), &net.sockets[2]);
    let fast = LinkRule {
        subnet: "16.0.0.3/32".parse().expect("a subnet"),
        shape: LinkShape { latency: MS * 20, ..shape() },
    };
    net.configure(0, &NetworkConfig { rules: vec![fast], ..slow }).await;
    for (to, wanted) in [(1, MS * 20), (2, MS * 300)] {
        let start = Instant::now();
        hears(&net.sockets[0], at(to), &net.sockets[to]);
        let took = start.elapsed();
        assert!((wanted..wanted + MS * 60).contains(&took), "{to}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the time of an emulated kernel: deploy/dev/emulated.sh"]
async fn the_switch_keeps_rules_by_destination() {
    rules(DataPath::Switch).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sch_netem: deploy/dev/emulated.sh"]
async fn the_kernel_keeps_rules_by_destination() {
    rules(DataPath::Kernel).await;
}

/// From 200 ms to 20 ms while packets are under way: those that come later do not overtake.
async fn reshape(path: DataPath) {
    let net = Net::new(path, 2).await;
    let late = |ms| config(LinkShape { latency: MS * ms, ..shape() });
    net.configure(0, &late(200)).await;
    let arrived = train(&net, (400, MS * 2, 128), Some((200, late(20)))).await;
    assert_eq!(arrived.len(), 400);
    assert!(in_order(&arrived), "packets were overtaken");
    let last = arrived[399].took;
    assert!((MS * 20..MS * 60).contains(&last), "the last one took {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the time of an emulated kernel: deploy/dev/emulated.sh"]
async fn the_switch_reshapes_live_in_order() {
    reshape(DataPath::Switch).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sch_netem: deploy/dev/emulated.sh"]
async fn the_kernel_reshapes_live_in_order() {
    reshape(DataPath::Kernel).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sch_netem: deploy/dev/emulated.sh"]
async fn the_kernel_has_room_for_all_that_is_under_way() {
    let net = Net::new(DataPath::Kernel, 2).await;
    net.configure(0, &config(LinkShape { latency: SILENCE * 2, ..shape() })).await;
    // More than the thousand that netem has room for by itself, all under way at once.
    let arrived = train(&net, (1_600, MS, 128), None).await;
    assert_eq!(arrived.len(), 1_600);
    let report = net.network.report(&net.run).await.expect("open");
    assert!(report.lanes.iter().all(|lane| lane.no_memory == 0 && lane.lost == 0), "{report:?}");
}
