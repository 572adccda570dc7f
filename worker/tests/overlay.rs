//! Two switches, as on two workers, with real interfaces and the overlay between them. Needs root.

#[expect(dead_code, reason = "other tests need more of it")]
mod host;
mod pipe;
mod relay;
mod talk;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::ids::{Attempt, InstanceId, RunId};
use groundswell_common::link::{AccessLink, LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_common::network::{NetworkPlan, OverlaySecret};
use groundswell_worker::network::counters::Fate;
use groundswell_worker::network::links::Links;
use groundswell_worker::network::overlay::{Others, SealSpec, UnderlayCounts};
use groundswell_worker::network::probe::{Message, PROBE_PORT};
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::{Attachment, Move, Network as _};
use host::{Host, ping};
use nix::sys::socket::{setsockopt, sockopt};
use pipe::Pipe;
use relay::{Relay, Treatment};
use talk::{LIMIT, PORT, at, round_trip, send, silent};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const KEY: u64 = 0x1234_5678_9abc_def0;
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A worker's switch with the one instance of the run that is there.
struct Worker {
    switch: Switch,
    run: RunId,
    instance: InstanceId,
    host: Host,
}

impl Worker {
    async fn new(switch: Switch, run: &RunId, instance: u8, seed: u64) -> Self {
        let (id, address) = (InstanceId(u32::from(instance)), at(instance + 2));
        switch.open(run, "16.0.0.0/16".parse().expect("a subnet"), seed).await.expect("open");
        let (host, device) = Host::new(address);
        let attachment = Attachment { run: run.clone(), instance: id, device, address };
        switch.attach(attachment).await.expect("attached");
        Self { switch, run: run.clone(), instance: id, host }
    }

    fn address(&self) -> SocketAddr {
        self.switch.overlay_address().expect("it has an overlay")
    }

    /// Tells it that `instance` is on the worker that is reached at `overlay`.
    async fn connect(&self, overlay: SocketAddr, instance: u8) {
        self.connect_by(overlay, instance, None).await;
    }

    /// As [`Worker::connect`]. With a secret, what goes between them is encrypted.
    async fn connect_by(&self, overlay: SocketAddr, instance: u8, secret: Option<OverlaySecret>) {
        self.connect_all(&[(overlay, instance)], secret).await;
    }

    /// As [`Worker::connect_by`], to several workers with an instance each.
    async fn connect_all(&self, others: &[(SocketAddr, u8)], secret: Option<OverlaySecret>) {
        let theirs =
            |instance: u8| BTreeMap::from([(InstanceId(u32::from(instance)), at(instance + 2))]);
        let seal = secret.map(|secret| SealSpec { secret, sender: self.instance.0 });
        let workers = others.iter().map(|(overlay, one)| (*overlay, theirs(*one))).collect();
        let others = Others { key: KEY, attempt: Attempt::FIRST, workers, seal, again: None };
        self.switch.connect(&self.run, others).await.expect("connected");
    }

    async fn configure(&self, config: &NetworkConfig) {
        self.switch.configure(&self.run, self.instance, config).await.expect("configured");
    }

    async fn place(&self, version: u64, instance: u32, address: Ipv4Addr) {
        let attempt = Attempt::FIRST;
        let place = Move { attempt, version, instance: InstanceId(instance), address };
        self.switch.place(&self.run, place).await.expect("placed");
    }

    fn udp(&self) -> UdpSocket {
        let socket = self.host.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bound"));
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket
    }

    fn count(&self, fate: Fate) -> u64 {
        self.switch.counts(&self.run).expect("the run is open").1.of(fate)
    }

    fn underlay(&self) -> UnderlayCounts {
        self.switch.underlay(&self.run).expect("it has others")
    }

    /// Waits until the counts are as `level` says.
    async fn reaches(&self, level: impl Fn(&Self) -> bool) {
        let reached = async {
            let mut look = tokio::time::interval(MS);
            while !level(self) {
                look.tick().await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "{:?}", self.underlay());
    }
}

/// Instance 0 on the first worker, instance 1 on the second.
struct Pair {
    one: Worker,
    two: Worker,
}

impl Pair {
    async fn new(seed: u64) -> Self {
        let pair = Self::apart(seed).await;
        pair.one.connect(pair.two.address(), 1).await;
        pair.two.connect(pair.one.address(), 0).await;
        pair
    }

    /// The two do not know of each other yet.
    async fn apart(seed: u64) -> Self {
        let run = RunId::new(1);
        let switch = || Switch::new(1).expect("a switch").with_overlay(LOOPBACK).expect("bound");
        Self {
            one: Worker::new(switch(), &run, 0, seed).await,
            two: Worker::new(switch(), &run, 1, seed).await,
        }
    }

    /// The two with a relay between them that treats what the first sends.
    async fn relayed(treatment: Treatment, delay: Duration) -> (Self, Relay) {
        let pair = Self::apart(1).await;
        let ends = (pair.one.address(), pair.two.address());
        let relay = Relay::start(ends, treatment, delay).await;
        pair.one.connect(relay.towards_two, 1).await;
        pair.two.connect(relay.towards_one, 0).await;
        (pair, relay)
    }

    async fn shape(&self, shape: LinkShape) {
        self.one.configure(&config(shape)).await;
        self.two.configure(&config(shape)).await;
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn packets_arrive_with_the_shape() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    assert_eq!(send(&one, at(3), &two, b"hello").ip(), at(2));
    assert!(ping(&pair.one.host, at(3), LIMIT).is_some());
    pair.shape(LinkShape { latency: MS * 100, ..LinkShape::default() }).await;
    let slow = round_trip(&one, &two);
    assert!((MS * 199..MS * 215).contains(&slow), "{slow:?}");
    pair.shape(LinkShape { latency: MS * 10, ..LinkShape::default() }).await;
    let fast = round_trip(&one, &two);
    assert!((MS * 19..MS * 35).contains(&fast), "{fast:?}");
    assert_eq!(pair.one.count(Fate::Sent), pair.one.underlay().sent);
    assert_eq!(pair.one.count(Fate::Delivered), 0);
    assert!(pair.two.underlay().is_clean(), "{:?}", pair.two.underlay());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_measured_delay_between_workers_is_taken_off_the_configured_one() {
    let (pair, _relay) = Pair::relayed(|_| relay::Fate::Pass, MS * 20).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let bare = round_trip(&one, &two);
    assert!(bare >= MS * 40, "{bare:?}");
    // Once the first probes are answered.
    let known = async {
        let mut look = tokio::time::interval(MS);
        pair.shape(LinkShape { latency: MS * 50, ..LinkShape::default() }).await;
        while round_trip(&one, &two) >= MS * 115 {
            look.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, known).await.expect("the delay is known in time");
    let trip = round_trip(&one, &two);
    assert!((MS * 97..MS * 115).contains(&trip), "{trip:?}");
    // There is nothing to take off here, and it is not taken from the rest.
    pair.shape(LinkShape::default()).await;
    let bare = round_trip(&one, &two);
    assert!(bare >= MS * 40, "{bare:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_underlay_loses_doubles_and_reorders_is_counted_apart() {
    let treatment = |number| match number % 10 {
        3 => relay::Fate::Drop,
        5 => relay::Fate::Double,
        7 => relay::Fate::AfterNext,
        _ => relay::Fate::Pass,
    };
    let (pair, _relay) = Pair::relayed(treatment, Duration::ZERO).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let mut arrived = 0;
    for number in 1..=100_u32 {
        one.send_to(&number.to_be_bytes(), (at(3), PORT)).expect("sent");
        // In step, so that nothing else is lost.
        let handed = u64::from(number);
        pair.one.reaches(|worker| worker.count(Fate::Sent) == handed).await;
    }
    while arrived < 90 {
        two.recv(&mut [0; 4]).expect("received in time");
        arrived += 1;
    }
    silent(&two);
    let counts = pair.two.underlay();
    assert_eq!(
        (counts.received, counts.lost, counts.duplicated, counts.late),
        (90, 10, 10, 10),
        "{counts:?}"
    );
    assert_eq!(pair.one.count(Fate::Lost), 0, "none of it is configured loss");
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_is_the_same_on_one_worker_on_two_and_on_three() {
    let together = survivors_together(7).await;
    assert_eq!(together, survivors_apart(7).await);
    assert_eq!(together, survivors_of_three(7).await);
    assert_ne!(together, survivors_apart(8).await);
}

/// A third worker takes part, and its instance sends to the same destination.
async fn survivors_of_three(seed: u64) -> BTreeSet<u16> {
    let run = RunId::new(1);
    let mut workers = Vec::new();
    for instance in 0..3 {
        let switch = Switch::new(1).expect("a switch").with_overlay(LOOPBACK).expect("bound");
        workers.push(Worker::new(switch, &run, instance, seed).await);
    }
    let addresses: Vec<_> =
        (0..3).zip(&workers).map(|(instance, worker)| (worker.address(), instance)).collect();
    for (number, worker) in workers.iter().enumerate() {
        let mut others = addresses.clone();
        others.remove(number);
        worker.connect_all(&others, None).await;
        worker.configure(&lossy()).await;
    }
    let [one, two, third] = [0, 1, 2].map(|number: usize| &workers[number]);
    let (from, to) = (one.udp(), two.udp());
    let noise = third.udp();
    for _ in 0..100 {
        noise.send_to(b"x", (at(2), PORT)).expect("sent");
    }
    let fates = || (one.count(Fate::Sent), one.count(Fate::Lost));
    survivors(&from, &to, fates).await
}

fn lossy() -> NetworkConfig {
    config(LinkShape { loss_pct: 20.0, ..LinkShape::default() })
}

async fn survivors_apart(seed: u64) -> BTreeSet<u16> {
    let pair = Pair::new(seed).await;
    pair.one.configure(&lossy()).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let fates = || (pair.one.count(Fate::Sent), pair.one.count(Fate::Lost));
    let arrived = survivors(&one, &two, fates).await;
    let counts = pair.two.underlay();
    assert!(counts.is_clean() && counts.received == arrived.len() as u64, "{counts:?}");
    arrived
}

async fn survivors_together(seed: u64) -> BTreeSet<u16> {
    let run = RunId::new(1);
    let worker = Worker::new(Switch::new(1).expect("a switch"), &run, 0, seed).await;
    let (host, device) = Host::new(at(3));
    let attachment = Attachment { run, instance: InstanceId(1), device, address: at(3) };
    worker.switch.attach(attachment).await.expect("attached");
    worker.configure(&lossy()).await;
    let two = host.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bound"));
    two.set_read_timeout(Some(LIMIT)).expect("a limit");
    let fates = || (worker.count(Fate::Delivered), worker.count(Fate::Lost));
    survivors(&worker.udp(), &two, fates).await
}

/// Which of 1,000 packets arrive. `fates` says how many have gone on their way and how many were lost.
async fn survivors(
    one: &UdpSocket,
    two: &UdpSocket,
    fates: impl Fn() -> (u64, u64),
) -> BTreeSet<u16> {
    let mut arrived = BTreeSet::new();
    for batch in 0..20_u16 {
        let numbers = batch * 50..(batch + 1) * 50;
        for number in numbers.clone() {
            one.send_to(&number.to_be_bytes(), (at(3), PORT)).expect("sent");
        }
        let decided = async {
            let mut look = tokio::time::interval(MS);
            while fates().0 + fates().1 < u64::from(numbers.end) {
                look.tick().await;
            }
        };
        tokio::time::timeout(LIMIT, decided).await.expect("all are decided in time");
        while arrived.len() < usize::try_from(fates().0).expect("few") {
            let mut number = [0; 2];
            two.recv(&mut number).expect("received in time");
            arrived.insert(u16::from_be_bytes(number));
        }
    }
    arrived
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_moves_and_other_workers_follow() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let moved = Ipv4Addr::new(16, 0, 77, 9);
    pair.one.place(2, 1, moved).await;
    pair.two.configure(&NetworkConfig { ipv4: Some(moved), ..config(LinkShape::default()) }).await;
    pair.two.host.set_address(moved);
    assert_eq!(send(&one, moved, &two, b"there").ip(), at(2));
    assert_eq!(send(&two, at(2), &one, b"and back").ip(), moved);
    one.send_to(b"x", (at(3), PORT)).expect("sent");
    pair.one.reaches(|worker| worker.count(Fate::NoSuchAddress) == 1).await;

    // Told again, and a word that is older than that one.
    pair.one.place(2, 1, moved).await;
    pair.one.place(1, 1, at(3)).await;
    send(&one, moved, &two, b"still there");

    // What it gave up is another's; the switch takes it as decided.
    pair.one.configure(&NetworkConfig { ipv4: Some(at(3)), ..config(LinkShape::default()) }).await;
    assert_eq!(pair.one.switch.address(&pair.one.run, InstanceId(0)).await, Some(at(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packets_of_a_dead_workers_peers_vanish() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    send(&one, at(3), &two, b"alive");
    let Pair { one: alive, two: dead } = pair;
    let start = Instant::now();
    drop(dead);
    assert!(start.elapsed() < LIMIT, "it ends quickly");
    for _ in 0..10 {
        one.send_to(b"x", (at(3), PORT)).expect("sent");
    }
    alive.reaches(|worker| worker.count(Fate::Sent) == 11).await;
    assert_eq!(alive.count(Fate::NotTaken), 0);
    silent(&one);
    alive.switch.close(&alive.run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_strange_is_counted_and_dropped() {
    let pair = Pair::new(1).await;
    let two = pair.two.udp();
    let stranger = UdpSocket::bind(LOOPBACK).expect("bound");
    let before = pair.two.switch.strange();
    let mut forged = [0; 60];
    forged[..4].copy_from_slice(b"gs\x01\x00");
    forged[12..16].copy_from_slice(&Attempt::FIRST.0.to_be_bytes());
    forged[16..20].copy_from_slice(&1_u32.to_be_bytes());
    for words in [&b""[..], b"gs", &[0xff; 1400], &forged] {
        stranger.send_to(words, pair.two.address()).expect("sent");
    }
    pair.two.reaches(|worker| worker.switch.strange() == before + 4).await;
    // It knows the run's key, but not how to send from the other worker's address.
    forged[4..12].copy_from_slice(&KEY.to_be_bytes());
    stranger.send_to(&forged, pair.two.address()).expect("sent");
    pair.two.reaches(|worker| worker.underlay().foreign == 1).await;
    silent(&two);
    let one = pair.one.udp();
    send(&one, at(3), &two, b"others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_enabled_is_not_there_for_other_workers_either() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    pair.two.configure(&NetworkConfig { enable: false, ..config(LinkShape::default()) }).await;
    one.send_to(b"x", (at(3), PORT)).expect("sent");
    pair.two.reaches(|worker| worker.underlay().untaken == 1).await;
    silent(&two);
    pair.two.configure(&config(LinkShape::default())).await;
    send(&one, at(3), &two, b"back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_packets_arrive_whole() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    // 1,500 bytes with their headers.
    let words = [7; 1472];
    send(&one, at(3), &two, &words);
    assert_eq!(pair.one.underlay().fragmented, 0, "loopback takes them in one piece");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_packets_cross_an_underlay_of_the_same_mtu_and_a_firewall_that_drops() {
    let pipe = Pipe::new();
    let run = RunId::new(1);
    let switch = |end: usize| {
        let address = SocketAddr::new(pipe.addresses[end].into(), 0);
        let switch = || Switch::new(1).expect("a switch").with_overlay(address).expect("bound");
        pipe.ends[end].enter(switch)
    };
    let one = Worker::new(switch(0), &run, 0, 1).await;
    let two = Worker::new(switch(1), &run, 1, 1).await;
    one.connect(two.address(), 1).await;
    two.connect(one.address(), 0).await;
    let (here, there) = (one.udp(), two.udp());
    send(&here, at(3), &there, &[7; 1472]);
    send(&here, at(3), &there, &[7; 1400]);
    assert_eq!(one.underlay().fragmented, 1, "the first is longer than 1,500 with the header");

    // What is short, so that probes pass but packets do not.
    pipe.drop_udp_in(1, 1000..1100);
    for _ in 0..5 {
        here.send_to(&[7; 1000], (at(3), PORT)).expect("sent");
    }
    one.reaches(|worker| worker.underlay().sent == 7).await;
    send(&here, at(3), &there, b"passes");
    let counts = two.underlay();
    assert_eq!((counts.received, counts.lost), (3, 5), "{counts:?}");
    assert_eq!(one.count(Fate::Lost), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_limited_for_packets_of_other_workers_too() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let limited = AccessLink { sends: LinkShape::default(), download_bps: 1_000_000 };
    let classes = vec![AccessLink::default(), limited];
    let plan = NetworkPlan { classes, ..NetworkPlan::default() };
    for worker in [&pair.one, &pair.two] {
        let links = Arc::new(Links::new(&plan, [1, 1]));
        worker.switch.relink(&worker.run, links).await.expect("linked");
    }
    // 45 packets of 1,000 bytes with their headers take 360 ms.
    let words = [7; 972];
    let start = Instant::now();
    for _ in 0..45 {
        one.send_to(&words, (at(3), PORT)).expect("sent");
    }
    for _ in 0..45 {
        two.recv(&mut [0; 2048]).expect("received in time");
    }
    let took = start.elapsed();
    assert!((MS * 360..MS * 800).contains(&took), "{took:?}");
    let report = pair.two.switch.report(&pair.two.run).await.expect("it is open");
    assert_eq!(report.lanes.iter().map(|lane| lane.late.count()).sum::<u64>(), 45);

    // Nobody waits for longer than half a second: 62 packets.
    for _ in 0..100 {
        one.send_to(&words, (at(3), PORT)).expect("sent");
    }
    pair.two.reaches(|worker| worker.underlay().received == 145).await;
    let overrun = pair.two.underlay().overrun;
    assert!((1..=38).contains(&overrun), "{overrun}");
    for _ in overrun..100 {
        two.recv(&mut [0; 2048]).expect("received in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_secret_neither_reads_nor_writes() {
    let secret = |byte| Some(OverlaySecret::new([byte; 32]));
    let pair = Pair::apart(1).await;
    pair.one.connect_by(pair.two.address(), 1, secret(1)).await;
    pair.two.connect_by(pair.one.address(), 0, secret(1)).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    send(&one, at(3), &two, &[7; 1472]);
    assert_eq!(send(&two, at(2), &one, b"and back").ip(), at(3));
    assert!(pair.two.underlay().is_clean());

    let mut forged = [0; 100];
    forged[..4].copy_from_slice(b"gs\x01\x00");
    forged[4..12].copy_from_slice(&KEY.to_be_bytes());
    let stranger = UdpSocket::bind(LOOPBACK).expect("bound");
    for version in [1, 2] {
        forged[2] = version;
        stranger.send_to(&forged, pair.two.address()).expect("sent");
    }
    pair.two.reaches(|worker| worker.underlay().foreign == 2).await;
    silent(&two);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_is_not_seen_on_the_way() {
    let words = b"words that nobody else reads";
    let seen = |datagram: &[u8]| datagram.windows(words.len()).any(|window| window == words);
    for (secret, readable) in [(None, true), (Some(OverlaySecret::new([1; 32])), false)] {
        let wire = UdpSocket::bind(LOOPBACK).expect("bound");
        wire.set_read_timeout(Some(LIMIT)).expect("a limit");
        let worker = Pair::apart(1).await.one;
        worker.connect_by(wire.local_addr().expect("bound"), 1, secret).await;
        worker.udp().send_to(words, (at(3), PORT)).expect("sent");
        let mut datagram = [0; 2048];
        // Probes are shorter.
        let length = loop {
            let length = wire.recv(&mut datagram).expect("received in time");
            if length > 40 + 40 + words.len() || (readable && length > 60) {
                break length;
            }
        };
        assert_eq!(seen(&datagram[..length]), readable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_many_reaches_other_workers_too() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let plan = NetworkPlan { multicast: true, ..NetworkPlan::default() };
    for worker in [&pair.one, &pair.two] {
        let links = Arc::new(Links::new(&plan, [1, 1]));
        worker.switch.relink(&worker.run, links).await.expect("linked");
    }
    one.set_broadcast(true).expect("allowed");
    one.send_to(b"all", (Ipv4Addr::new(16, 0, 255, 255), PORT)).expect("sent");
    assert_eq!(two.recv(&mut [0; 16]).expect("received in time"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_whole_on_another_worker() {
    let pair = Pair::new(1).await;
    let listen = || TcpListener::bind(("0.0.0.0", PORT)).expect("bound");
    let connect = || TcpStream::connect_timeout(&(at(3), PORT).into(), LIMIT).expect("connected");
    let listener = pair.two.host.enter(listen);
    let mut client = pair.one.host.enter(connect);
    let (mut server, _) = listener.accept().expect("accepted");
    server.set_read_timeout(Some(LIMIT)).expect("a limit");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut received = Vec::new();
            server.read_to_end(&mut received).expect("read to the end");
            received
        });
        client.write_all(&sent).expect("sent");
        drop(client);
        reader.join().expect("no panic")
    });
    assert!(received == sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_probes_is_numbered_apart_from_what_an_instance_sends() {
    let pair = Pair::new(1).await;
    let (one, two) = (pair.one.udp(), pair.two.udp());
    let probing = |worker: &Worker| {
        let socket = worker.host.enter(|| UdpSocket::bind(("0.0.0.0", PROBE_PORT)).expect("bound"));
        setsockopt(&socket, sockopt::Ipv4Tos, &0xfc).expect("set");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket
    };
    let (asks, answers) = (probing(&pair.one), probing(&pair.two));
    let zero = Duration::ZERO;
    let probe =
        Message { answer: false, number: 1, from: 0, to: 1, asked: zero, held: zero, back: None };
    for round in 0..20 {
        if round % 3 == 0 {
            asks.send_to(&probe.encode(), (at(3), PROBE_PORT)).expect("sent");
            let length = answers.recv(&mut [0; 64]).expect("received in time");
            assert_eq!(length, probe.encode().len());
        } else {
            send(&one, at(3), &two, b"x");
        }
    }
    let counts = pair.two.underlay();
    assert!(counts.is_clean() && counts.received == 20, "{counts:?}");
    let report = pair.one.switch.report(&pair.one.run).await.expect("it is open");
    let counted: u64 = report.lanes.iter().map(|lane| lane.packets).sum();
    assert_eq!(counted, 13, "probes are not the instance's packets");
    assert_eq!(report.fates.get("handed_over"), Some(&13));
}
