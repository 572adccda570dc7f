//! The switch with real interfaces in real network namespaces. Needs root.

#[expect(dead_code, reason = "other tests need more of it")]
mod host;
mod talk;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use groundswell_common::fidelity::judge;
use groundswell_common::ids::{InstanceId, RunId, WorkerId};
use groundswell_common::link::{Filter, LinkRule, LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_worker::network::counters::{Counts, Fate};
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::{Attachment, Network as _, NetworkError};
use host::{Host, ping};
use talk::{LIMIT, NEVER, PORT, at, round_trip, send, silent};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

/// Instances of one run, numbered from 0 with addresses from `16.0.0.2`.
struct Net {
    switch: Switch,
    run: RunId,
    hosts: Vec<Host>,
}

impl Net {
    async fn new(instances: u32, seed: u64) -> Self {
        let switch = Switch::new(2).expect("a switch");
        let run = RunId::new(1);
        let hosts = join(&switch, &run, instances, seed).await;
        Self { switch, run, hosts }
    }

    /// Binds a UDP socket to the port of an instance.
    fn udp(&self, instance: usize) -> UdpSocket {
        udp(&self.hosts[instance])
    }

    async fn configure(&self, instance: u32, config: &NetworkConfig) -> Vec<String> {
        self.switch.configure(&self.run, InstanceId(instance), config).await.expect("configured")
    }

    async fn shape(&self, shape: LinkShape) {
        for instance in (0_u32..).take(self.hosts.len()) {
            self.configure(instance, &config(shape)).await;
        }
    }

    fn counts(&self) -> Counts {
        self.switch.counts(&self.run).expect("the run is open").1
    }

    /// Waits until so many packets have met a fate.
    async fn reaches(&self, fate: Fate, count: u64) {
        let reached = async {
            let mut look = tokio::time::interval(MS);
            while self.counts().of(fate) < count {
                look.tick().await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "{fate:?} stays at {}", self.counts().of(fate));
    }
}

async fn join(switch: &Switch, run: &RunId, instances: u32, seed: u64) -> Vec<Host> {
    switch.open(run, "16.0.0.0/16".parse().expect("a subnet"), seed).await.expect("open");
    let mut hosts = Vec::new();
    for instance in 0..instances {
        let address = at(u8::try_from(instance + 2).expect("few instances"));
        let (host, device) = Host::new(address);
        let attachment =
            Attachment { run: run.clone(), instance: InstanceId(instance), device, address };
        switch.attach(attachment).await.expect("attached");
        hosts.push(host);
    }
    hosts
}

fn udp(host: &Host) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bound"));
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    socket
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

fn filtered(subnet: &str, filter: Filter) -> NetworkConfig {
    let shape = LinkShape { filter, ..LinkShape::default() };
    let rules = vec![LinkRule { subnet: subnet.parse().expect("a subnet"), shape }];
    NetworkConfig { rules, ..config(LinkShape::default()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_reach_each_other() {
    let net = Net::new(3, 1).await;
    let sockets = [net.udp(0), net.udp(1), net.udp(2)];
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
        let address = at(u8::try_from(to + 2).expect("small"));
        let source = send(&sockets[from], address, &sockets[to], b"hello");
        assert_eq!(source.ip(), at(u8::try_from(from + 2).expect("small")));
    }
    assert!(ping(&net.hosts[0], at(4), LIMIT).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_whole_over_a_delayed_link() {
    let net = Net::new(2, 1).await;
    net.shape(LinkShape { latency: MS * 5, jitter: MS, ..LinkShape::default() }).await;
    let listener = net.hosts[1].enter(|| TcpListener::bind(("0.0.0.0", PORT)).expect("bound"));
    let mut client = net.hosts[0]
        .enter(|| TcpStream::connect_timeout(&(at(3), PORT).into(), LIMIT).expect("connected"));
    let (mut server, _) = listener.accept().expect("accepted");
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut received = Vec::new();
            server.set_read_timeout(Some(LIMIT)).expect("a limit");
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
async fn latency_is_what_ping_pong_expects() {
    let net = Net::new(2, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    net.shape(LinkShape { latency: MS * 100, ..LinkShape::default() }).await;
    let slow = round_trip(&one, &two);
    assert!((MS * 200..MS * 215).contains(&slow), "{slow:?}");
    net.shape(LinkShape { latency: MS * 10, ..LinkShape::default() }).await;
    let fast = round_trip(&one, &two);
    assert!((MS * 20..MS * 35).contains(&fast), "{fast:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_is_held() {
    let net = Net::new(2, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    net.shape(LinkShape { bandwidth_bps: 1_000_000, ..LinkShape::default() }).await;
    // 1,000 bytes with their headers. Two are sent for each that arrives, twice the rate.
    let words = [7; 972];
    for _ in 0..10 {
        one.send_to(&words, (at(3), PORT)).expect("sent");
    }
    two.recv(&mut [0; 2048]).expect("received in time");
    let start = Instant::now();
    let mut bits = 0.0;
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..2 {
            one.send_to(&words, (at(3), PORT)).expect("sent");
        }
        two.recv(&mut [0; 2048]).expect("received in time");
        bits += 8000.0;
    }
    let rate = bits / start.elapsed().as_secs_f64();
    assert!((950_000.0..1_050_000.0).contains(&rate), "{rate} bit/s");
    net.reaches(Fate::Overrun, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_rule_is_silent_and_a_later_configuration_lifts_it() {
    let net = Net::new(3, 1).await;
    let (one, two, three) = (net.udp(0), net.udp(1), net.udp(2));
    net.configure(0, &filtered("16.0.0.3/32", Filter::Drop)).await;
    one.send_to(b"x", (at(3), PORT)).expect("sent");
    silent(&two);
    silent(&one);
    net.reaches(Fate::Filtered, 1).await;
    send(&one, at(4), &three, b"others are reached");
    send(&two, at(2), &one, b"rules are the sender's");
    net.configure(0, &config(LinkShape::default())).await;
    send(&one, at(3), &two, b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_rule_is_an_error_at_once() {
    let net = Net::new(2, 1).await;
    net.configure(0, &filtered("16.0.0.0/24", Filter::Reject)).await;
    let start = Instant::now();
    // Not `connect_timeout`: since Linux 5.18 `poll` may wake before the error of the socket is set.
    let refused = net.hosts[0].enter(|| TcpStream::connect((at(3), PORT)));
    let kind = refused.map(drop).map_err(|err| err.kind());
    assert_eq!(kind, Err(ErrorKind::HostUnreachable));
    let one = net.udp(0);
    one.connect((at(3), PORT)).expect("connected");
    one.send(b"x").expect("sent");
    let heard = one.recv(&mut [0; 16]).map_err(|err| err.kind());
    assert_eq!(heard, Err(ErrorKind::HostUnreachable));
    assert!(start.elapsed() < LIMIT, "both came as errors, not by the limit");
    net.reaches(Fate::Rejected, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_changes_live() {
    let net = Net::new(2, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    let moved = Ipv4Addr::new(16, 0, 77, 9);
    let readdress = NetworkConfig { ipv4: Some(moved), ..config(LinkShape::default()) };
    net.configure(1, &readdress).await;
    net.hosts[1].set_address(moved);
    assert_eq!(net.switch.address(&net.run, InstanceId(1)).await, Some(moved));
    let source = send(&one, moved, &two, b"there");
    assert_eq!(source.ip(), at(2));
    assert_eq!(send(&two, at(2), &one, b"and back").ip(), moved);
    one.send_to(b"x", (at(3), PORT)).expect("sent");
    net.reaches(Fate::NoSuchAddress, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_others_and_of_nobody_are_refused() {
    let net = Net::new(2, 1).await;
    for (address, why) in [
        (at(3), "taken by instance 1"),
        (at(1), "not for instances"),
        (Ipv4Addr::new(17, 0, 0, 2), "not in the run's subnet"),
    ] {
        let wish = NetworkConfig { ipv4: Some(address), ..config(LinkShape::default()) };
        let refused = net.switch.configure(&net.run, InstanceId(0), &wish).await;
        assert!(
            matches!(&refused, Err(NetworkError::Refused(text)) if text.contains(why)),
            "{refused:?}"
        );
    }
    assert_eq!(net.switch.address(&net.run, InstanceId(0)).await, Some(at(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_enabled_is_not_there() {
    let net = Net::new(2, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    let off = NetworkConfig { enable: false, ..config(LinkShape::default()) };
    net.configure(1, &off).await;
    one.send_to(b"x", (at(3), PORT)).expect("sent");
    two.send_to(b"x", (at(2), PORT)).expect("sent");
    net.reaches(Fate::Absent, 2).await;
    silent(&one);
    silent(&two);
    net.configure(1, &config(LinkShape::default())).await;
    send(&one, at(3), &two, b"back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_pings_through_the_senders_shape() {
    let net = Net::new(1, 1).await;
    let gateway = at(1);
    assert!(ping(&net.hosts[0], gateway, LIMIT).is_some());
    net.shape(LinkShape { latency: MS * 60, ..LinkShape::default() }).await;
    let trip = ping(&net.hosts[0], gateway, LIMIT).expect("answered");
    assert!(trip >= MS * 60, "{trip:?}");
    assert!(ping(&net.hosts[0], at(99), NEVER).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_is_counted_and_the_same_for_the_same_seed() {
    let first = survivors(7).await;
    assert_eq!(first, survivors(7).await);
    assert_ne!(first, survivors(8).await);
    // The 99 % interval of 20 % of 2,000.
    let lost = 2000 - first.len();
    assert!((354..=446).contains(&lost), "{lost} of 2,000 lost");
}

/// Which of 2,000 packets arrive over a link that loses 20 %.
async fn survivors(seed: u64) -> BTreeSet<u16> {
    let net = Net::new(2, seed).await;
    let (one, two) = (net.udp(0), net.udp(1));
    net.shape(LinkShape { loss_pct: 20.0, ..LinkShape::default() }).await;
    let mut arrived = BTreeSet::new();
    for batch in 0..40_u16 {
        let numbers = batch * 50..(batch + 1) * 50;
        for number in numbers.clone() {
            one.send_to(&number.to_be_bytes(), (at(3), PORT)).expect("sent");
        }
        let decided = || net.counts().of(Fate::Delivered) + net.counts().of(Fate::Lost);
        let all = tokio::time::timeout(LIMIT, async {
            let mut look = tokio::time::interval(MS);
            while decided() < u64::from(numbers.end) {
                look.tick().await;
            }
        });
        all.await.expect("all are decided in time");
        while arrived.len() < usize::try_from(net.counts().of(Fate::Delivered)).expect("few") {
            let mut number = [0; 2];
            two.recv(&mut number).expect("received in time");
            arrived.insert(u16::from_be_bytes(number));
        }
    }
    arrived
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_do_not_see_each_other() {
    let net = Net::new(2, 1).await;
    let other = RunId::new(2);
    let strangers = join(&net.switch, &other, 3, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    let (same_address, third) = (udp(&strangers[1]), udp(&strangers[2]));
    send(&one, at(3), &two, b"ours");
    one.send_to(b"x", (at(4), PORT)).expect("sent");
    net.reaches(Fate::NoSuchAddress, 1).await;
    silent(&same_address);
    silent(&third);
    net.switch.close(&other).await;
    assert!(net.switch.counts(&other).is_none());
    send(&one, at(3), &two, b"the other run's end is not ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcast_and_multicast_go_nowhere() {
    let net = Net::new(2, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    one.set_broadcast(true).expect("allowed");
    one.send_to(b"x", (Ipv4Addr::new(16, 0, 255, 255), PORT)).expect("sent");
    net.reaches(Fate::Group, 1).await;
    silent(&two);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_act_is_said() {
    let net = Net::new(1, 1).await;
    let open = NetworkConfig {
        routing_policy: RoutingPolicy::AllowAll,
        ..config(LinkShape { filter: Filter::Drop, ..LinkShape::default() })
    };
    let warnings = net.configure(0, &open).await;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(net.configure(0, &config(LinkShape::default())).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_closes_quickly_and_an_instance_that_is_gone_disturbs_nobody() {
    let mut net = Net::new(40, 1).await;
    net.hosts.truncate(20);
    let (one, two) = (net.udp(0), net.udp(1));
    send(&one, at(3), &two, b"still here");
    let start = Instant::now();
    net.switch.close(&net.run).await;
    let took = start.elapsed();
    // Closed one by one without TUNSETPERSIST they take 31 ms each.
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_did_is_measured() {
    let net = Net::new(2, 1).await;
    let (one, two) = (net.udp(0), net.udp(1));
    assert!(net.switch.report(&net.run).await.expect("open").lanes.is_empty());
    let delayed = LinkShape { latency: MS * 20, ..LinkShape::default() };
    net.configure(0, &config(delayed)).await;
    for _ in 0..100 {
        one.send_to(b"hello", (at(3), PORT)).expect("sent");
    }
    net.reaches(Fate::Delivered, 100).await;
    send(&two, at(2), &one, b"undelayed");

    let report = net.switch.report(&net.run).await.expect("open");
    let lane = |shape| report.lanes.iter().find(|lane| lane.shape == Some(shape)).expect("used");
    let counted = lane(delayed);
    // 20 bytes of IP header, 8 of UDP.
    assert_eq!((counted.packets, counted.bytes, counted.late.count()), (100, 3_300, 100));
    assert!(counted.late.max() > 0);
    assert_eq!(lane(LinkShape::default()).packets, 1);
    assert_eq!(report.fates.get("delivered"), Some(&101));
    assert_eq!(report.interface_drops, Some(0));
    net.switch.close(&net.run).await;
    assert_eq!(net.switch.report(&net.run).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chance_and_rate_did_is_compared_with_what_was_configured() {
    let net = Net::new(2, 1).await;
    let shape = LinkShape { loss_pct: 10.0, bandwidth_bps: 8_000_000, ..LinkShape::default() };
    net.shape(shape).await;
    let one = net.udp(0);
    for _ in 0..400 {
        one.send_to(&[0; 972], (at(3), PORT)).expect("sent");
    }
    let decided = async {
        let mut look = tokio::time::interval(MS);
        while [Fate::Delivered, Fate::Lost, Fate::Overrun]
            .map(|fate| net.counts().of(fate))
            .iter()
            .sum::<u64>()
            < 400
        {
            look.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, decided).await.expect("in time");

    let report = net.switch.report(&net.run).await.expect("open");
    let fidelity = judge(&[(WorkerId::from_lossy("w"), Some(&report))]).expect("a report");
    let lane = &fidelity.lanes[0];
    assert!(lane.loss.expect("configured").holds, "{lane:?}");
    let rate = lane.rate.expect("configured");
    let achieved = rate.achieved_bps.expect("the queue was full");
    assert!((achieved / 8e6 - 1.0).abs() < 0.05, "{rate:?}");
    assert_eq!(report.fates.get("lost"), Some(&report.lanes[0].lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_is_not_read_in_time_tells_how_many_it_dropped() {
    let net = Net::new(2, 1).await;
    // Someone has the port: a refusal would be one more packet.
    let (one, _two) = (net.udp(0), net.udp(1));
    // Far more than the interface's queue holds, sent by as many threads as it takes to be faster.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20_000).for_each(|_| drop(one.send_to(b"x", (at(3), PORT)))));
        }
    });
    let report = net.switch.report(&net.run).await.expect("open");
    let handled: u64 = report.lanes.iter().map(|lane| lane.packets).sum();
    let dropped = report.interface_drops.expect("root may look");
    // What is still in the interface's queue is neither.
    assert!(handled + dropped <= 80_000 && handled + dropped >= 70_000, "{handled} and {dropped}");
}
