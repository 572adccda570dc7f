//! Links between the groups of a run, over the switch with real interfaces. Needs root.

#[expect(dead_code, reason = "other tests need more of it")]
mod host;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{
    AccessLink, Filter, LinkRule, LinkShape, NetworkConfig, RoutingPolicy,
};
use groundswell_common::network::{Action, NetworkPlan};
use groundswell_worker::network::counters::Fate;
use groundswell_worker::network::links::Links;
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::wire::set_link;
use groundswell_worker::network::{Attachment, Network as _};
use groundswell_worker::runtime::LinkState;
use host::{Host, ping};
use nix::libc;
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
/// What must happen happens within this.
const LIMIT: Duration = Duration::from_secs(5);
/// What must not happen has not happened within this.
const NEVER: Duration = Duration::from_millis(300);
/// How much longer than it should be a round trip may be on a busy machine.
const SLACK: Duration = Duration::from_millis(15);
const PORT: u16 = 4001;

/// Two groups of two instances each: 0 and 1, 2 and 3.
struct Net {
    switch: Switch,
    run: RunId,
    hosts: Vec<Host>,
    sockets: Vec<UdpSocket>,
    links: Links,
}

impl Net {
    async fn new(plan: &NetworkPlan) -> Self {
        let (switch, run) = (Switch::new(2).expect("a switch"), RunId::new(1));
        switch.open(&run, "16.0.0.0/16".parse().expect("a subnet"), 1).await.expect("open");
        let links = Links::new(plan, [2, 2]);
        switch.relink(&run, Arc::new(links.clone())).await.expect("linked");
        let (mut hosts, mut sockets) = (Vec::new(), Vec::new());
        for instance in 0..4 {
            let (host, device) = Host::new(at(instance));
            let id = InstanceId(u32::from(instance));
            let attachment =
                Attachment { run: run.clone(), instance: id, device, address: at(instance) };
            switch.attach(attachment).await.expect("attached");
            let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bound"));
            socket.set_read_timeout(Some(LIMIT)).expect("a limit");
            sockets.push(socket);
            hosts.push(host);
        }
        Self { switch, run, hosts, sockets, links }
    }

    async fn act(&mut self, action: Action) {
        self.links = self.links.after(&action);
        let links = Arc::new(self.links.clone());
        self.switch.relink(&self.run, links).await.expect("linked");
    }

    async fn configure(&self, instance: u32, default: LinkShape, rules: Vec<LinkRule>) {
        let config = NetworkConfig {
            enable: true,
            ipv4: None,
            default,
            rules,
            callback_state: String::new(),
            routing_policy: RoutingPolicy::DenyAll,
        };
        self.switch.configure(&self.run, InstanceId(instance), &config).await.expect("configured");
    }

    /// The shortest of three round trips between two instances, so that a busy machine does not count.
    fn round_trip(&self, one: u8, two: u8) -> Duration {
        let send = |from: u8, to: u8| {
            let mut buffer = [0; 16];
            self.sockets[usize::from(from)].send_to(b"x", (at(to), PORT)).expect("sent");
            self.sockets[usize::from(to)].recv_from(&mut buffer).expect("received in time");
        };
        let trip = || {
            let start = Instant::now();
            send(one, two);
            send(two, one);
            start.elapsed()
        };
        (0..3).map(|_| trip()).min().expect("three of them")
    }

    /// Waits until the first instance sees a carrier, or none: the kernel tells it up to a second later.
    async fn carrier_is(&self, wanted: bool) {
        let reached = async {
            let mut look = tokio::time::interval(MS * 10);
            while self.hosts[0].enter(is_running) != wanted {
                look.tick().await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.expect("the carrier changes");
    }

    /// Asserts that a packet from one instance does not reach another.
    fn is_cut(&self, from: u8, to: u8) {
        self.sockets[usize::from(from)].send_to(b"x", (at(to), PORT)).expect("sent");
        let socket = &self.sockets[usize::from(to)];
        socket.set_read_timeout(Some(NEVER)).expect("a limit");
        let heard = socket.recv_from(&mut [0; 16]);
        assert!(matches!(&heard, Err(err) if err.kind() == ErrorKind::WouldBlock), "{heard:?}");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    }
}

fn at(instance: u8) -> Ipv4Addr {
    Ipv4Addr::new(16, 0, 0, instance + 2)
}

fn latency(time: Duration) -> LinkShape {
    LinkShape { latency: time, ..LinkShape::default() }
}

/// 20 ms between the groups, nothing within, and access links as given.
fn apart(classes: [AccessLink; 2]) -> NetworkPlan {
    NetworkPlan {
        classes: classes.to_vec(),
        shapes: vec![LinkShape::default(), latency(MS * 20)],
        paths: vec![0, 1, 1, 0],
        ..NetworkPlan::default()
    }
}

fn cut(carrier: bool) -> Action {
    Action::Cut { cut: 0, from: vec![0], to: vec![1], carrier }
}

#[track_caller]
fn takes(trip: Duration, expected: Duration) {
    assert!((expected..expected + SLACK).contains(&trip), "{trip:?}, not {expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_apart_and_their_members_are_not() {
    let net = Net::new(&apart([AccessLink::default(); 2])).await;
    takes(net.round_trip(0, 1), Duration::ZERO);
    takes(net.round_trip(2, 3), Duration::ZERO);
    takes(net.round_trip(0, 2), MS * 40);
    takes(net.round_trip(3, 1), MS * 40);
    let gateway = Ipv4Addr::new(16, 0, 0, 1);
    takes(ping(&net.hosts[0], gateway, LIMIT).expect("answered"), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_links_add_up_with_the_path_and_a_configuration_replaces_them() {
    let slow = AccessLink { sends: latency(MS * 10), download_bps: 0 };
    let net = Net::new(&apart([slow, AccessLink::default()])).await;
    takes(net.round_trip(0, 1), MS * 20);
    takes(net.round_trip(0, 2), MS * 50);
    net.configure(0, latency(MS * 30), Vec::new()).await;
    takes(net.round_trip(0, 2), MS * 70);
    let shape = latency(MS * 5);
    let rule = LinkRule { subnet: "16.0.0.4/32".parse().expect("a subnet"), shape };
    net.configure(0, latency(MS * 30), vec![rule]).await;
    takes(net.round_trip(0, 2), MS * 25);
    takes(net.round_trip(0, 3), MS * 70);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_drops_until_it_heals_whatever_the_rules_say() {
    let mut net = Net::new(&apart([AccessLink::default(); 2])).await;
    let shape = LinkShape { filter: Filter::Accept, ..LinkShape::default() };
    let rule = LinkRule { subnet: "16.0.0.0/16".parse().expect("a subnet"), shape };
    net.configure(0, LinkShape::default(), vec![rule]).await;
    net.act(cut(false)).await;
    net.is_cut(0, 2);
    net.is_cut(3, 1);
    takes(net.round_trip(0, 1), Duration::ZERO);
    assert_eq!(net.switch.counts(&net.run).expect("open").1.of(Fate::Filtered), 2);
    net.act(Action::Heal { cuts: vec![0] }).await;
    takes(net.round_trip(0, 2), MS * 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flap_with_carrier_is_seen_inside() {
    let mut net = Net::new(&apart([AccessLink::default(); 2])).await;
    net.carrier_is(true).await;
    net.act(cut(true)).await;
    net.carrier_is(false).await;
    net.is_cut(0, 2);
    net.is_cut(0, 1);
    net.act(Action::Heal { cuts: vec![0] }).await;
    net.carrier_is(true).await;
    takes(net.round_trip(0, 1), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reshape_of_a_group_holds_at_once_and_for_its_members_only() {
    let mut net = Net::new(&apart([AccessLink::default(); 2])).await;
    let link = AccessLink { sends: latency(MS * 15), download_bps: 0 };
    net.configure(2, latency(MS * 60), Vec::new()).await;
    net.act(Action::Access { classes: vec![1], link }).await;
    takes(net.round_trip(2, 3), MS * 30);
    takes(net.round_trip(0, 1), Duration::ZERO);
    let pairs = vec![(0, 1), (1, 0)];
    net.act(Action::Path { pairs, shape: LinkShape::default() }).await;
    takes(net.round_trip(0, 2), MS * 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_shared_by_all_who_send() {
    let limited = AccessLink { sends: LinkShape::default(), download_bps: 1_000_000 };
    let net = Net::new(&apart([limited, AccessLink::default()])).await;
    // 45 packets of 1,000 bytes with their headers take 360 ms.
    let words = [7; 972];
    let start = Instant::now();
    for _ in 0..15 {
        for sender in 1..4 {
            net.sockets[sender].send_to(&words, (at(0), PORT)).expect("sent");
        }
    }
    let mut buffer = [0; 2048];
    for _ in 0..45 {
        net.sockets[0].recv(&mut buffer).expect("received in time");
    }
    let took = start.elapsed();
    assert!((MS * 360..MS * 450).contains(&took), "{took:?}");
}

#[test]
fn an_interface_that_is_taken_down_and_up_is_as_before() {
    let (host, wired) = Host::wired(at(0));
    let look = || (host.enter(flags), host.enter(routes));
    let before = look();
    assert!(before.0 & libc::IFF_MULTICAST != 0 && before.0 & libc::IFF_NOARP != 0);
    assert_eq!(before.1.len(), 2, "the subnet and the groups: {:?}", before.1);
    for up in [false, true] {
        let state = LinkState { up, address: at(0), prefix: 16 };
        set_link(wired.control.as_fd(), state).expect("set");
        assert_eq!(look().0 & libc::IFF_UP != 0, up);
    }
    assert_eq!(look(), before);
}

/// The destinations of all IPv4 routes of this thread's namespace, as the kernel writes them.
fn routes() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").expect("the table");
    let destination = |line: &str| line.split('\t').nth(1).map(str::to_owned);
    table.lines().skip(1).filter_map(destination).collect()
}

/// Whether the data interface of this thread's namespace has a carrier.
fn is_running() -> bool {
    flags() & libc::IFF_RUNNING != 0
}

/// The flags of the data interface of this thread's namespace.
#[expect(unsafe_code, reason = "the flags are in a union")]
fn flags() -> libc::c_int {
    let control = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut request = host::request();
    host::ioctl(&control, libc::SIOCGIFFLAGS, &mut request);
    // SAFETY: SIOCGIFFLAGS has just filled in the flags.
    i32::from(unsafe { request.ifr_ifru.ifru_flags })
}
