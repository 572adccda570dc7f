//! IPv6 beside IPv4, and packets to many, on interfaces that are wired as the worker does it. Needs root.

#[expect(dead_code, reason = "other tests need more of it")]
mod host;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::addresses::counterpart;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{
    AccessLink, Filter, LinkRule, LinkShape, NetworkConfig, RoutingPolicy,
};
use groundswell_common::network::NetworkPlan;
use groundswell_worker::network::counters::Counts;
use groundswell_worker::network::links::Links;
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::wire::{Wired, set_link};
use groundswell_worker::network::{Attachment, Network as _};
use groundswell_worker::runtime::LinkState;
use host::Host;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
/// What must happen happens within this.
const LIMIT: Duration = Duration::from_secs(5);
/// What must not happen has not happened within this.
const NEVER: Duration = Duration::from_millis(300);
const PORT: u16 = 4001;
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Instances numbered from 0 with addresses from `16.0.0.2`.
struct Net {
    switch: Switch,
    run: RunId,
    hosts: Vec<Host>,
    controls: Vec<OwnedFd>,
    _listeners: Vec<[OwnedFd; 2]>,
}

impl Net {
    async fn new(instances: u8, plan: &NetworkPlan) -> Self {
        let (switch, run) = (Switch::new(2).expect("a switch"), RunId::new(1));
        switch.open(&run, "16.0.0.0/16".parse().expect("a subnet"), 1).await.expect("open");
        let links = Links::new(plan, [u32::from(instances)]);
        switch.relink(&run, Arc::new(links)).await.expect("linked");
        let (mut hosts, mut controls, mut listeners) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..instances {
            let (host, wired) = Host::wired(at(number));
            let Wired { device, control, sync, influx, .. } = wired;
            let (instance, address) = (InstanceId(number.into()), at(number));
            let attachment =
                Attachment { run: run.clone(), instance, device: device.expect("made"), address };
            switch.attach(attachment).await.expect("attached");
            hosts.push(host);
            controls.push(control);
            listeners.push([sync, influx]);
        }
        Self { switch, run, hosts, controls, _listeners: listeners }
    }

    fn udp(&self, instance: u8) -> UdpSocket {
        let bind = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bound");
        let socket = self.hosts[usize::from(instance)].enter(bind);
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket
    }

    async fn configure(
        &self,
        instance: u32,
        ipv4: Option<Ipv4Addr>,
        default: LinkShape,
        rules: Vec<LinkRule>,
    ) {
        let config = NetworkConfig {
            enable: true,
            ipv4,
            default,
            rules,
            callback_state: String::new(),
            routing_policy: RoutingPolicy::DenyAll,
        };
        self.switch.configure(&self.run, InstanceId(instance), &config).await.expect("configured");
    }

    fn counts(&self) -> Counts {
        self.switch.counts(&self.run).expect("the run is open").1
    }

    /// Asserts that nothing was counted but these. A packet is counted once it has been handed over.
    async fn nothing_but(&self, fates: &[(&str, u64)]) {
        let counted = || self.counts().named().collect::<Vec<_>>();
        let reached = async {
            let mut look = tokio::time::interval(MS);
            while counted() != fates {
                look.tick().await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "{:?}, not {fates:?}", counted());
    }
}

fn at(instance: u8) -> Ipv4Addr {
    Ipv4Addr::new(16, 0, 0, instance + 2)
}

fn six(instance: u8) -> Ipv6Addr {
    counterpart(at(instance))
}

fn rule(subnet: &str, shape: LinkShape) -> LinkRule {
    LinkRule { subnet: subnet.parse().expect("a subnet"), shape }
}

/// Sends a word, and says where it came from and how long it took.
fn send(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> (IpAddr, Duration) {
    let start = Instant::now();
    from.send_to(b"word", to).expect("sent");
    let (length, source) = receiver.recv_from(&mut [0; 64]).expect("received in time");
    assert_eq!(length, 4);
    (source.ip(), start.elapsed())
}

fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(NEVER)).expect("a limit");
    let heard = socket.recv_from(&mut [0; 64]);
    assert!(matches!(&heard, Err(err) if err.kind() == ErrorKind::WouldBlock), "{heard:?}");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_reach_the_same_instance_through_the_same_shape() {
    let net = Net::new(2, &NetworkPlan::default()).await;
    let (one, two) = (net.udp(0), net.udp(1));
    let latency = LinkShape { latency: MS * 30, ..LinkShape::default() };
    net.configure(0, None, LinkShape::default(), vec![rule("16.0.0.3/32", latency)]).await;
    let (source, took) = send(&one, (six(1), PORT).into(), &two);
    assert_eq!(source, six(0));
    assert!(took >= MS * 30, "{took:?}");
    let (source, took) = send(&one, (at(1).to_ipv6_mapped(), PORT).into(), &two);
    assert_eq!(source, at(0).to_ipv6_mapped());
    assert!(took >= MS * 30, "{took:?}");
    assert!(send(&two, (six(0), PORT).into(), &one).1 < LIMIT);
    // Nothing came of interfaces that had something to say by themselves.
    net.nothing_but(&[("delivered", 3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_pings_of_ipv6() {
    let net = Net::new(1, &NetworkPlan::default()).await;
    let flags = SockFlag::SOCK_CLOEXEC;
    let raw = || socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6);
    let ping = UdpSocket::from(net.hosts[0].enter(raw).expect("root may"));
    ping.connect((counterpart(Ipv4Addr::new(16, 0, 0, 1)), 0)).expect("a destination");
    ping.set_read_timeout(Some(LIMIT)).expect("a limit");
    ping.send(&[128, 0, 0, 0, 0, 0, 0, 1]).expect("sent");
    let mut reply = [0; 64];
    let length = ping.recv(&mut reply).expect("answered");
    assert_eq!((length, reply[0], reply[7]), (8, 129, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_rule_is_an_error_in_ipv6_too() {
    let net = Net::new(2, &NetworkPlan::default()).await;
    let reject = LinkShape { filter: Filter::Reject, ..LinkShape::default() };
    net.configure(0, None, LinkShape::default(), vec![rule("16.0.0.0/24", reject)]).await;
    let refused = net.hosts[0].enter(|| TcpStream::connect((six(1), PORT)));
    assert_eq!(refused.map(drop).map_err(|err| err.kind()), Err(ErrorKind::PermissionDenied));
    net.nothing_but(&[("rejected", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_addresses_move_together() {
    let net = Net::new(2, &NetworkPlan::default()).await;
    let (one, two) = (net.udp(0), net.udp(1));
    let moved = Ipv4Addr::new(16, 0, 77, 9);
    net.configure(1, Some(moved), LinkShape::default(), Vec::new()).await;
    let mut link = LinkState { up: true, address: moved, prefix: 16 };
    for up in [true, false, true] {
        link.up = up;
        set_link(net.controls[1].as_fd(), link).expect("set");
    }
    assert_eq!(send(&one, (counterpart(moved), PORT).into(), &two).0, six(0));
    assert_eq!(send(&two, (six(0), PORT).into(), &one).0, counterpart(moved));
    assert_eq!(send(&two, (at(0).to_ipv6_mapped(), PORT).into(), &one).0, moved.to_ipv6_mapped());
    one.send_to(b"gone", (six(1), PORT)).expect("sent");
    silent(&two);
    net.nothing_but(&[("delivered", 3), ("no_such_address", 1)]).await;
}

/// A socket of an instance that takes what is sent to mDNS's group, and to the port.
fn member(net: &Net, instance: u8) -> UdpSocket {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("bound");
    let socket = net.hosts[usize::from(instance)].enter(bind);
    socket.join_multicast_v4(&MDNS, &at(instance)).expect("joined");
    socket.set_multicast_loop_v4(false).expect("set");
    socket.set_broadcast(true).expect("allowed");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_many_reaches_all_others_each_by_its_own_link() {
    let plan = NetworkPlan { multicast: true, ..NetworkPlan::default() };
    let net = Net::new(4, &plan).await;
    let latency = LinkShape { latency: MS * 40, ..LinkShape::default() };
    let drop = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
    let rules = vec![rule("16.0.0.4/32", latency), rule("16.0.0.5/32", drop)];
    net.configure(0, None, LinkShape::default(), rules).await;
    let members: Vec<UdpSocket> = (0..4).map(|instance| member(&net, instance)).collect();
    for to in [MDNS, Ipv4Addr::new(16, 0, 255, 255)] {
        let start = Instant::now();
        members[0].send_to(b"who is there", (to, PORT)).expect("sent");
        let (_, source) = members[1].recv_from(&mut [0; 64]).expect("received in time");
        assert_eq!(source.ip(), at(0));
        members[2].recv_from(&mut [0; 64]).expect("received in time");
        assert!(start.elapsed() >= MS * 40);
        silent(&members[3]);
        if to == MDNS {
            // A broadcast its own kernel gives back.
            silent(&members[0]);
        }
    }
    net.nothing_but(&[("delivered", 4), ("filtered", 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_ipv6_work_as_well_and_joining_one_is_not_a_packet_of_the_plan() {
    let plan = NetworkPlan { multicast: true, ..NetworkPlan::default() };
    let net = Net::new(2, &plan).await;
    let (one, two) = (net.udp(0), net.udp(1));
    let index = net.hosts[1].enter(|| nix::net::if_::if_nametoindex("eth1").expect("there"));
    two.join_multicast_v6(&MDNS6, index).expect("joined");
    let index = net.hosts[0].enter(|| nix::net::if_::if_nametoindex("eth1").expect("there"));
    let to = std::net::SocketAddrV6::new(MDNS6, PORT, 0, index);
    assert_eq!(send(&one, to.into(), &two).0, six(0));
    net.nothing_but(&[("delivered", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_for_each_takes_one_turn_at_the_senders_rate() {
    let sends = LinkShape { bandwidth_bps: 1_000_000, ..LinkShape::default() };
    let classes = vec![AccessLink { sends, download_bps: 0 }];
    let net =
        Net::new(6, &NetworkPlan { classes, multicast: true, ..NetworkPlan::default() }).await;
    let members: Vec<UdpSocket> = (0..6).map(|instance| member(&net, instance)).collect();
    let start = Instant::now();
    // 1,000 bytes with their headers take 8 ms, for all five together.
    for _ in 0..10 {
        members[0].send_to(&[7; 972], (MDNS, PORT)).expect("sent");
    }
    for member in &members[1..] {
        for _ in 0..10 {
            member.recv_from(&mut [0; 2048]).expect("received in time");
        }
    }
    let took = start.elapsed();
    assert!((MS * 80..MS * 200).contains(&took), "{took:?}");
    net.nothing_but(&[("delivered", 50)]).await;
}
