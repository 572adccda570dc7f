//! The kernel as a data network, with real interfaces. Needs root.
//!
//! What takes netem is ignored here and runs in a kernel that has it, side by side with the switch:
//! `deploy/dev/emulated.sh`.

#[expect(dead_code, reason = "interfaces are made by the worker's own code here")]
mod host;
mod lab;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::fidelity::{Grade, judge};
use groundswell_common::ids::{Attempt, InstanceId, WorkerId};
use groundswell_common::link::{
    AccessLink, Distribution, Filter, LinkRule, LinkShape, NetworkConfig,
};
use groundswell_common::network::{Action, DataPath, NetworkPlan};
use groundswell_worker::network::NetworkError;
use groundswell_worker::network::links::Links;
use groundswell_worker::network::overlay::Others;
use host::ping;
use lab::{LIMIT, MS, Net, at, config, filtered, hears, silent};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use tokio::time::Instant;

fn rate(bandwidth_bps: u64) -> LinkShape {
    LinkShape { bandwidth_bps, ..LinkShape::default() }
}

fn rule(subnet: &str, shape: LinkShape) -> LinkRule {
    LinkRule { subnet: subnet.parse().expect("a subnet"), shape }
}

/// The shortest of three trains, so that a machine that stands still for a moment does not count.
fn train(from: &UdpSocket, to: Ipv4Addr, receiver: &UdpSocket) -> Duration {
    (0..3).map(|_| one_train(from, to, receiver)).min().expect("three of them")
}

/// How long 60 packets of 1,000 bytes with their headers take from the first to the last to arrive.
fn one_train(from: &UdpSocket, to: Ipv4Addr, receiver: &UdpSocket) -> Duration {
    let mut buffer = [0; 2048];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..60 {
                from.send_to(&[7; 972], (to, lab::PORT)).expect("sent");
            }
        });
        receiver.recv(&mut buffer).expect("received in time");
        let start = Instant::now();
        for _ in 1..60 {
            receiver.recv(&mut buffer).expect("received in time");
        }
        start.elapsed()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_reach_each_other_and_the_gateway_and_nobody_else() {
    let net = Net::new(DataPath::Kernel, 3).await;
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
        let source = hears(&net.sockets[from], at(to), &net.sockets[to]);
        assert_eq!(source.ip(), at(from));
    }
    assert!(ping(&net.hosts[0], Ipv4Addr::new(16, 0, 0, 1), LIMIT).is_some());
    assert!(ping(&net.hosts[0], at(2), LIMIT).is_some());
    assert!(ping(&net.hosts[0], at(77), MS * 200).is_none());
    // Its gateway is a namespace of the worker's; nothing in there listens, and nothing answers.
    let socket = &net.sockets[0];
    socket.connect((Ipv4Addr::new(16, 0, 0, 1), 22)).expect("a destination");
    socket.send(b"x").expect("sent");
    silent(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_held_and_changed_live() {
    let net = Net::new(DataPath::Kernel, 2).await;
    // 59 packets of 8,000 bits, less the burst of 3,000 bytes and more for a busy machine.
    for (bps, least, most) in [(1_000_000, 430, 600), (4_000_000, 100, 200)] {
        net.configure(0, &config(rate(bps))).await;
        let took = train(&net.sockets[0], at(1), &net.sockets[1]);
        assert!((MS * least..MS * most).contains(&took), "{bps} bit/s: {took:?}");
    }
    net.configure(0, &config(LinkShape::default())).await;
    let took = train(&net.sockets[0], at(1), &net.sockets[1]);
    assert!(took < MS * 50, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_has_a_rate_of_its_own() {
    let net = Net::new(DataPath::Kernel, 3).await;
    let rules = vec![rule("16.0.0.3/32", rate(1_000_000))];
    net.configure(0, &NetworkConfig { rules, ..config(LinkShape::default()) }).await;
    let took = train(&net.sockets[0], at(1), &net.sockets[1]);
    assert!((MS * 440..MS * 560).contains(&took), "{took:?}");
    assert!(train(&net.sockets[0], at(2), &net.sockets[2]) < MS * 50);
    // It is gone with the next configuration, which has another one.
    let rules = vec![rule("16.0.0.4/32", rate(2_000_000)), rule("16.0.0.5/32", rate(1_000))];
    net.configure(0, &NetworkConfig { rules, ..config(rate(50_000_000)) }).await;
    assert!(train(&net.sockets[0], at(1), &net.sockets[1]) < MS * 60);
    let took = train(&net.sockets[0], at(2), &net.sockets[2]);
    assert!((MS * 215..MS * 320).contains(&took), "{took:?}");
    net.configure(0, &config(LinkShape::default())).await;
    assert!(train(&net.sockets[0], at(2), &net.sockets[2]) < MS * 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_shared_by_all_who_send() {
    let net = Net::new(DataPath::Kernel, 4).await;
    net.relink(&[AccessLink { download_bps: 1_000_000, ..AccessLink::default() }]).await;
    let start = Instant::now();
    for _ in 0..15 {
        for sender in 1..4 {
            net.sockets[sender].send_to(&[7; 972], (at(0), lab::PORT)).expect("sent");
        }
    }
    let mut buffer = [0; 2048];
    for _ in 0..45 {
        net.sockets[0].recv(&mut buffer).expect("received in time");
    }
    let took = start.elapsed();
    assert!((MS * 310..MS * 700).contains(&took), "{took:?}");
    net.relink(&[AccessLink::default()]).await;
    assert!(train(&net.sockets[1], at(0), &net.sockets[0]) < MS * 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_hold_for_what_is_sent_and_a_shape_does_not_delay_them() {
    let net = Net::new(DataPath::Kernel, 3).await;
    for shape in [LinkShape::default(), rate(100_000)] {
        let with = |filter| {
            let rules = filtered("16.0.0.3/32", filter).rules;
            NetworkConfig { rules, ..config(shape) }
        };
        net.configure(0, &with(Filter::Drop)).await;
        net.sockets[0].send_to(b"x", (at(1), lab::PORT)).expect("sent");
        silent(&net.sockets[1]);
        net.configure(0, &with(Filter::Reject)).await;
        assert_eq!(lab::refusal(&net.hosts[0], at(1)), ErrorKind::HostUnreachable);
        silent(&net.sockets[1]);
        hears(&net.sockets[0], at(2), &net.sockets[2]);
        hears(&net.sockets[1], at(0), &net.sockets[0]);
        net.configure(0, &with(Filter::Accept)).await;
        hears(&net.sockets[0], at(1), &net.sockets[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_moves_live_and_addresses_are_taken_once() {
    let net = Net::new(DataPath::Kernel, 2).await;
    let to = |last| NetworkConfig { ipv4: Some(at(last)), ..config(LinkShape::default()) };
    net.configure(0, &to(50)).await;
    assert_eq!(net.network.address(&net.run, InstanceId(0)).await, Some(at(50)));
    assert_eq!(hears(&net.sockets[0], at(1), &net.sockets[1]).ip(), at(50));
    hears(&net.sockets[1], at(50), &net.sockets[0]);
    net.sockets[1].send_to(b"x", (at(0), lab::PORT)).expect("sent");
    silent(&net.sockets[0]);
    let taken = net.network.configure(&net.run, InstanceId(1), &to(50)).await;
    assert!(
        matches!(&taken, Err(NetworkError::Refused(why)) if why.contains("taken by instance 0")),
        "{taken:?}"
    );
    net.configure(1, &to(0)).await;
    hears(&net.sockets[0], at(0), &net.sockets[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_leaves_the_network_and_comes_back_elsewhere() {
    let net = Net::new(DataPath::Kernel, 2).await;
    let away = NetworkConfig { enable: false, ipv4: Some(at(9)), ..config(LinkShape::default()) };
    net.configure(0, &away).await;
    net.sockets[1].send_to(b"x", (at(0), lab::PORT)).expect("sent");
    silent(&net.sockets[0]);
    assert!(net.sockets[0].send_to(b"x", (at(1), lab::PORT)).is_err());
    net.configure(0, &config(LinkShape::default())).await;
    assert_eq!(hears(&net.sockets[0], at(1), &net.sockets[1]).ip(), at(9));
    hears(&net.sockets[1], at(9), &net.sockets[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_source_does_not_pass() {
    let net = Net::new(DataPath::Kernel, 3).await;
    // An instance has no right to do this.
    let foreign = net.hosts[0].enter(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let foreign =
            socket(AddressFamily::Inet, SockType::Datagram, flags, None).expect("a socket");
        setsockopt(&foreign, sockopt::IpTransparent, &true).expect("root may");
        let address = SockaddrIn::from(SocketAddrV4::new(at(2), lab::PORT + 1));
        bind(foreign.as_raw_fd(), &address).expect("bound");
        UdpSocket::from(foreign)
    });
    foreign.send_to(b"x", (at(1), lab::PORT)).expect("sent");
    silent(&net.sockets[1]);
}

/// Two groups of two instances each.
async fn groups() -> (Net, Links) {
    let net = Net::bare(DataPath::Kernel).await;
    let plan = NetworkPlan {
        classes: vec![AccessLink::default(); 2],
        shapes: vec![
            LinkShape::default(),
            LinkShape { filter: Filter::Reject, ..LinkShape::default() },
        ],
        paths: vec![0, 1, 0, 0],
        ..NetworkPlan::default()
    };
    let links = Links::new(&plan, [2, 2]);
    net.network.relink(&net.run, Arc::new(links.clone())).await.expect("linked");
    (net.with(4).await, links)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_wins_over_a_rule_and_a_rule_over_the_filter_of_a_path() {
    let (net, links) = groups().await;
    assert_eq!(lab::refusal(&net.hosts[0], at(2)), ErrorKind::HostUnreachable);
    hears(&net.sockets[0], at(1), &net.sockets[1]);
    hears(&net.sockets[2], at(0), &net.sockets[0]);
    net.configure(0, &filtered("16.0.0.0/16", Filter::Accept)).await;
    hears(&net.sockets[0], at(2), &net.sockets[2]);
    let cut = links.after(&Action::Cut { cut: 0, from: vec![0], to: vec![1], carrier: false });
    net.network.relink(&net.run, Arc::new(cut.clone())).await.expect("cut");
    for (from, to) in [(0, 2), (3, 1)] {
        net.sockets[from].send_to(b"x", (at(to), lab::PORT)).expect("sent");
        silent(&net.sockets[to]);
    }
    hears(&net.sockets[2], at(3), &net.sockets[3]);
    let healed = cut.after(&Action::Heal { cuts: vec![0] });
    net.network.relink(&net.run, Arc::new(healed)).await.expect("healed");
    hears(&net.sockets[3], at(1), &net.sockets[1]);
    let report = net.network.report(&net.run).await.expect("open");
    assert_eq!((report.fates["filtered"], report.fates["rejected"]), (2, 1), "{:?}", report.fates);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flap_with_carrier_is_seen_inside() {
    let (net, links) = groups().await;
    let flap = links.after(&Action::Cut { cut: 0, from: vec![0], to: vec![0, 1], carrier: true });
    net.network.relink(&net.run, Arc::new(flap.clone())).await.expect("cut");
    carrier_is(&net, false).await;
    let healed = flap.after(&Action::Heal { cuts: vec![0] });
    net.network.relink(&net.run, Arc::new(healed)).await.expect("healed");
    carrier_is(&net, true).await;
    hears(&net.sockets[0], at(1), &net.sockets[1]);
    hears(&net.sockets[2], at(0), &net.sockets[0]);
}

/// Waits until the first instance sees a carrier, or none: the kernel tells it up to a second later.
async fn carrier_is(net: &Net, wanted: bool) {
    let running = || {
        let all = nix::ifaddrs::getifaddrs().expect("a list");
        all.filter(|one| one.interface_name == "eth1")
            .any(|one| one.flags.contains(InterfaceFlags::IFF_RUNNING))
    };
    let reached = async {
        let mut look = tokio::time::interval(MS * 10);
        while net.hosts[0].enter(running) != wanted {
            look.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.expect("the carrier changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_is_reported_and_no_better_than_it_is() {
    let net = Net::new(DataPath::Kernel, 2).await;
    for _ in 0..10 {
        hears(&net.sockets[0], at(1), &net.sockets[1]);
    }
    net.configure(0, &config(rate(1_000_000))).await;
    one_train(&net.sockets[0], at(1), &net.sockets[1]);
    let report = net.network.report(&net.run).await.expect("open");
    let of =
        |shape| report.lanes.iter().find(|lane| lane.shape == Some(shape)).map(|lane| lane.packets);
    assert_eq!(of(rate(1_000_000)), Some(60), "{report:?}");
    assert_eq!(of(LinkShape::default()), Some(10), "{report:?}");
    assert_eq!(report.fates["delivered"], 70);
    let worker = WorkerId::from_lossy("w1");
    let fidelity = judge(&[(worker, Some(&report))]).expect("measured");
    assert_eq!(fidelity.grade, Grade::Unproven, "{:?}", fidelity.reasons);
    assert_eq!(fidelity.line(), "unproven · 70 packets · lateness not measured");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_have_shaped_is_reported_when_they_are_gone() {
    let net = Net::new(DataPath::Kernel, 2).await;
    let rules = vec![rule("16.0.0.3/32", rate(5_000_000))];
    net.configure(0, &NetworkConfig { rules, ..config(rate(1_000_000)) }).await;
    one_train(&net.sockets[0], at(1), &net.sockets[1]);
    net.configure(0, &config(rate(2_000_000))).await;
    let report = net.network.report(&net.run).await.expect("open");
    let of =
        |shape| report.lanes.iter().find(|lane| lane.shape == Some(shape)).map(|lane| lane.packets);
    assert_eq!(of(rate(5_000_000)), Some(60), "{report:?}");
}

/// Duplication, as an access link has it.
fn doubling() -> AccessLink {
    let sends = LinkShape { duplicate_pct: 50.0, ..LinkShape::default() };
    AccessLink { sends, ..AccessLink::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_does_not_go_with_rules_is_refused_and_changes_nothing() {
    let net = Net::new(DataPath::Kernel, 2).await;
    let rules = vec![rule("16.0.0.3/32", rate(1_000_000))];
    net.configure(0, &NetworkConfig { rules, ..config(LinkShape::default()) }).await;
    let plan = NetworkPlan { classes: vec![AccessLink::default()], ..NetworkPlan::default() };
    let links = Links::new(&plan, [2]);
    let change = Action::Access { classes: vec![0], link: doubling() };
    let refused = net.network.relink(&net.run, Arc::new(links.after(&change))).await;
    let said = refused.expect_err("refused").to_string();
    assert!(said.contains("duplicate packets on a link that has rules"), "{said}");
    let took = train(&net.sockets[0], at(1), &net.sockets[1]);
    assert!((MS * 440..MS * 560).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sch_netem: deploy/dev/emulated.sh"]
async fn packets_are_doubled_once_rules_with_shapes_are_gone() {
    let net = Net::new(DataPath::Kernel, 2).await;
    let rules = vec![rule("16.0.0.3/32", rate(1_000_000)), rule("16.0.0.4/32", rate(1_000))];
    net.configure(0, &NetworkConfig { rules, ..config(LinkShape::default()) }).await;
    hears(&net.sockets[0], at(1), &net.sockets[1]);
    net.configure(0, &config(doubling().sends)).await;
    hears(&net.sockets[0], at(1), &net.sockets[1]);
    // And the other way around.
    let rules = vec![rule("16.0.0.3/32", rate(1_000_000))];
    net.configure(0, &NetworkConfig { rules, ..config(LinkShape::default()) }).await;
    hears(&net.sockets[0], at(1), &net.sockets[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_do_is_refused_with_the_alternative() {
    let net = Net::new(DataPath::Kernel, 1).await;
    let delay = LinkShape { latency: MS * 5, ..LinkShape::default() };
    let pareto = LinkShape { jitter: MS, distribution: Distribution::Pareto, ..delay };
    let done = net.network.configure(&net.run, InstanceId(0), &config(pareto)).await;
    let said = done.expect_err("refused").to_string();
    assert!(said.ends_with("use the switch: `data_path = \"switch\"`"), "{said}");
    let plan = NetworkPlan { shapes: vec![delay], ..NetworkPlan::default() };
    let said = net.network.check(&plan).await.expect_err("refused").to_string();
    assert!(said.contains("shape the paths between groups"), "{said}");
    let (key, attempt) = (1, Attempt::FIRST);
    let others = Others { key, attempt, workers: Vec::new(), seal: None, again: None };
    let said = net.network.connect(&net.run, others).await.expect_err("refused").to_string();
    assert!(said.contains("connect several workers"), "{said}");
    // Kernels differ in this.
    let plan = NetworkPlan {
        classes: vec![AccessLink { sends: delay, ..AccessLink::default() }],
        ..NetworkPlan::default()
    };
    let refused = net.network.check(&plan).await.err().map(|err| err.to_string());
    assert_eq!(refused.is_none(), net.network.caps().delay, "{refused:?}");
    assert!(refused.is_none_or(|why| why.contains("this kernel has no netem")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_run_that_is_closed_nor_of_a_worker_that_is_gone() {
    for drop_only in [false, true] {
        let mut net = Net::new(DataPath::Kernel, 10).await;
        net.sockets.clear();
        if !drop_only {
            net.network.close(&net.run).await;
        }
        let hosts = std::mem::take(&mut net.hosts);
        drop(net);
        let gone = || {
            hosts.iter().all(|host| !host.enter(|| nix::net::if_::if_nametoindex("eth1").is_ok()))
        };
        let reached = async {
            let mut look = tokio::time::interval(MS * 10);
            while !gone() {
                look.tick().await;
            }
        };
        // Old kernels take half a second for each, under emulation even more.
        tokio::time::timeout(LIMIT * 12, reached).await.expect("the interfaces go");
    }
}
