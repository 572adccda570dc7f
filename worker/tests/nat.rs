//! NATs in real network namespaces, with the switch as the wide area network. Needs root and nftables.
//!
//! What a NAT does is found out from outside, by the tests of RFC 5780: three endpoints of two servers see
//! where a member's packets come from, and try to reach it there.

#[path = "nat/changes.rs"]
mod changes;
#[expect(dead_code, reason = "other tests need more of it")]
mod host;
#[path = "nat/six.rs"]
mod six;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::nat::{NatLayer, NatPlan};
use groundswell_common::network::DataPath;
use groundswell_worker::network::nat::{
    NatError, NatKind, NatSpec, PortForward, Routed, Router, SpecRefused, Transport, Tree, TreeSpec,
};
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::wire::WireSpec;
use groundswell_worker::network::{Attachment, Network as _};
use host::{Host, ping};
use ipnet::Ipv4Net;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use tokio::time::Instant;

/// What must happen happens within this.
const LIMIT: Duration = Duration::from_secs(5);
/// What must not happen has not happened within this.
const NEVER: Duration = Duration::from_millis(250);
/// The servers' first port.
const PORT: u16 = 4000;
/// The members' port.
const INNER: u16 = 5000;
const MTU: u16 = 1500;

/// A wide area network.
struct Wan {
    switch: Switch,
    run: RunId,
    attached: u32,
}

impl Wan {
    async fn new() -> Self {
        let switch = Switch::new(1).expect("a switch");
        let run = RunId::new(1);
        switch.open(&run, "16.0.0.0/16".parse().expect("a subnet"), 1).await.expect("open");
        Self { switch, run, attached: 0 }
    }

    async fn attach(&mut self, address: Ipv4Addr, device: OwnedFd) {
        let instance = InstanceId(self.attached);
        self.attached += 1;
        let attachment = Attachment { run: self.run.clone(), instance, device, address };
        self.switch.attach(attachment).await.expect("attached");
    }

    async fn host(&mut self, last: u8) -> Host {
        let (host, device) = Host::new(at(last));
        self.attach(at(last), device).await;
        host
    }

    async fn router(&mut self, spec: NatSpec, last: u8) -> Router {
        let outside = Ipv4Net::new(at(last), 16).expect("a network");
        let (router, device) = Router::new(spec, Routed::new(), outside, MTU).expect("a router");
        self.attach(at(last), device).await;
        router
    }

    async fn servers(&mut self) -> Servers {
        let (one, two) = (self.host(10).await, self.host(11).await);
        let sockets = [udp(&one, PORT), udp(&one, PORT + 1), udp(&two, PORT)];
        Servers { one, sockets }
    }
}

/// Three endpoints: two ports of one address, and one of another.
struct Servers {
    one: Host,
    sockets: [UdpSocket; 3],
}

const ENDPOINTS: [(u8, u16); 3] = [(10, PORT), (10, PORT + 1), (11, PORT)];

impl Servers {
    /// How an endpoint sees `socket`.
    fn sees(&self, endpoint: usize, socket: &UdpSocket) -> SocketAddr {
        let (last, port) = ENDPOINTS[endpoint];
        socket.send_to(b"it is me", (at(last), port)).expect("sent");
        let (_, source) = self.sockets[endpoint].recv_from(&mut [0; 64]).expect("received");
        source
    }

    fn mapping(&self, member: &Host, port: u16) -> Mapping {
        let socket = udp(member, port);
        let seen = [0, 1, 2].map(|endpoint| self.sees(endpoint, &socket));
        // The first mapping is there still.
        assert_eq!(self.sees(0, &socket), seen[0]);
        // Two of three random ports are the same one once in a while.
        match seen.iter().collect::<BTreeSet<_>>().len() {
            1 => Mapping::Independent,
            _ => Mapping::Dependent,
        }
    }

    /// Which endpoints reach a member at the mapping of a packet to the first of them. `expected` are
    /// waited for.
    fn filtering(&self, member: &Host, port: u16, expected: &[u8]) -> Vec<u8> {
        let socket = udp(member, port);
        let seen = self.sees(0, &socket);
        for (name, server) in (0_u8..).zip(&self.sockets) {
            server.send_to(&[name], seen).expect("sent");
        }
        let mut arrived: Vec<u8> = expected.iter().map(|_| receive(&socket)[0]).collect();
        socket.set_read_timeout(Some(NEVER)).expect("a limit");
        let mut more = [0; 1];
        while socket.recv(&mut more).is_ok() {
            arrived.push(more[0]);
        }
        arrived.sort_unstable();
        arrived
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    Independent,
    Dependent,
}

fn mapping_of(kind: NatKind) -> Mapping {
    match kind {
        NatKind::FullCone | NatKind::AddressRestricted | NatKind::PortRestricted => {
            Mapping::Independent
        }
        NatKind::Symmetric => Mapping::Dependent,
    }
}

/// Endpoints that reach a member which has sent to the first of them.
fn let_in_by(kind: NatKind) -> &'static [u8] {
    match kind {
        NatKind::FullCone => &[0, 1, 2],
        NatKind::AddressRestricted => &[0, 1],
        NatKind::PortRestricted | NatKind::Symmetric => &[0],
    }
}

fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(16, 0, 0, last)
}

fn home(kind: NatKind) -> NatSpec {
    NatSpec::new(kind, "192.168.1.0/24".parse().expect("a network"))
}

fn inner(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1, last)
}

fn member(router: &Router, last: u8) -> Host {
    let host = Host::bare();
    router.join(host.namespace.as_fd(), "eth1", inner(last)).expect("joined");
    host
}

fn udp(host: &Host, port: u16) -> UdpSocket {
    let start = Instant::now();
    let socket = host.enter(|| {
        loop {
            match UdpSocket::bind(("0.0.0.0", port)) {
                // What was closed here stays open for a moment in a program that another test is starting.
                Err(err) if err.kind() == ErrorKind::AddrInUse && start.elapsed() < LIMIT => {
                    std::thread::yield_now();
                }
                bound => return bound.expect("bound"),
            }
        }
    });
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("received in time");
    buffer[..length].to_vec()
}

fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(NEVER)).expect("a limit");
    let heard = socket.recv_from(&mut [0; 64]);
    assert!(matches!(&heard, Err(err) if err.kind() == ErrorKind::WouldBlock), "{heard:?}");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
}

/// A TCP connection from a port that others may share.
fn connect_from(host: &Host, port: u16, to: SocketAddrV4) -> TcpStream {
    host.enter(|| {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .expect("a socket");
        setsockopt(&socket, sockopt::ReuseAddr, &true).expect("set");
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        bind(socket.as_raw_fd(), &SockaddrIn::from(from)).expect("bound");
        connect(socket.as_raw_fd(), &SockaddrIn::from(to)).expect("connected");
        TcpStream::from(socket)
    })
}

/// Sends words both ways.
fn talk(one: &mut TcpStream, two: &mut TcpStream) {
    say(one, two);
    say(two, one);
}

fn say(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"words").expect("sent");
    to.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut buffer = [0; 5];
    to.read_exact(&mut buffer).expect("received in time");
    assert_eq!(&buffer, b"words");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_maps_and_filters_as_it_is_defined() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, kind) in (20..).zip(NatKind::ALL) {
        let router = wan.router(home(kind), last).await;
        let host = member(&router, 2);
        assert_eq!(servers.mapping(&host, INNER), mapping_of(kind), "{kind:?}");
        let let_in = let_in_by(kind);
        assert_eq!(servers.filtering(&host, INNER + 1, let_in), let_in, "{kind:?}");
        let seen = servers.sees(0, &udp(&host, INNER + 2));
        assert_eq!(seen.ip(), at(last));
        assert_eq!(seen.port() == INNER + 2, kind.maps_independent_of_endpoint(), "{kind:?}");
        assert!(ping(&host, at(10), LIMIT).is_some(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nats_in_a_row_are_the_stricter_of_both() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, outer) in (20..).zip(NatKind::ALL) {
        // RFC 6598: the addresses between a carrier and its customers.
        let carrier = NatSpec::new(outer, "100.64.0.0/10".parse().expect("a network"));
        let carrier = wan.router(carrier, last).await;
        for (customer, inner) in (2..).zip(NatKind::ALL) {
            let address = Ipv4Addr::new(100, 64, 0, customer);
            let router = Router::behind(&carrier, home(inner), Routed::new(), address);
            let router = router.expect("a customer");
            let host = member(&router, 2);
            let case = format!("{inner:?} behind {outer:?}");
            let strict = [mapping_of(inner), mapping_of(outer)].contains(&Mapping::Dependent);
            let mapping = if strict { Mapping::Dependent } else { Mapping::Independent };
            assert_eq!(servers.mapping(&host, INNER), mapping, "{case}");
            let both = [let_in_by(inner), let_in_by(outer)];
            let stricter = both.into_iter().min_by_key(|let_in| let_in.len()).expect("two");
            assert_eq!(servers.filtering(&host, INNER + 1, stricter), stricter, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_punched_between_all_kinds_but_the_two_strictest() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let mut sides = Vec::new();
    for first in [20_u8, 30] {
        let mut side = Vec::new();
        for (last, kind) in (first..).zip(NatKind::ALL) {
            let router = wan.router(home(kind), last).await;
            let host = member(&router, 2);
            side.push((kind, host, router));
        }
        sides.push(side);
    }
    let mut port = INNER;
    for (left, one, _router) in &sides[0] {
        for (right, two, _router) in &sides[1] {
            port += 1;
            let pair = [udp(one, port), udp(two, port)];
            let met = punch(&servers, &pair, possible(*left, *right));
            assert_eq!(met, possible(*left, *right), "{left:?} and {right:?}");
        }
    }
}

/// Whether a hole can be punched: not when a symmetric NAT sends from a port that the other side's filter
/// cannot know.
fn possible(one: NatKind, two: NatKind) -> bool {
    use NatKind::{PortRestricted, Symmetric};
    !matches!((one, two), (Symmetric, PortRestricted | Symmetric) | (PortRestricted, Symmetric))
}

/// Has both ends send to where a server has seen the other one, and answer to where they hear from. Returns
/// whether both have heard.
fn punch(servers: &Servers, pair: &[UdpSocket; 2], expected: bool) -> bool {
    let mut targets = [servers.sees(0, &pair[1]), servers.sees(0, &pair[0])];
    let mut heard = [false; 2];
    let start = Instant::now();
    let limit = if expected { LIMIT } else { NEVER };
    for end in pair {
        end.set_read_timeout(Some(Duration::from_millis(10))).expect("a limit");
    }
    while heard != [true; 2] && start.elapsed() < limit {
        for ((end, target), heard) in pair.iter().zip(&mut targets).zip(&mut heard) {
            end.send_to(b"hello", *target).expect("sent");
            if let Ok((_, source)) = end.recv_from(&mut [0; 64]) {
                (*target, *heard) = (source, true);
            }
        }
    }
    heard == [true; 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn members_meet_at_their_external_addresses_if_the_nat_hairpins() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, kind) in
        (20..).zip(NatKind::ALL.into_iter().filter(|kind| *kind != NatKind::Symmetric))
    {
        let router = wan.router(home(kind), last).await;
        let (one, two) = (udp(&member(&router, 2), INNER), udp(&member(&router, 3), INNER + 1));
        let seen = [servers.sees(0, &one), servers.sees(0, &two)];
        one.send_to(b"over there", seen[1]).expect("sent");
        let (_, source) = two.recv_from(&mut [0; 64]).expect("received in time");
        assert_eq!(source, seen[0], "{kind:?}");
        two.send_to(b"and back", source).expect("sent");
        let (_, source) = one.recv_from(&mut [0; 64]).expect("received in time");
        assert_eq!(source, seen[1], "{kind:?}");

        let straight = NatSpec { hairpin: false, ..home(kind) };
        let router = wan.router(straight, last + 10).await;
        let (one, two) = (udp(&member(&router, 2), INNER), udp(&member(&router, 3), INNER + 1));
        one.send_to(b"x", servers.sees(0, &two)).expect("sent");
        silent(&two);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_use_the_same_port() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, kind) in (20..).zip(NatKind::ALL) {
        let router = wan.router(home(kind), last).await;
        let hosts = [member(&router, 2), member(&router, 3)];
        let sockets = hosts.each_ref().map(|host| udp(host, INNER));
        let seen = sockets.each_ref().map(|socket| servers.sees(0, socket));
        assert_ne!(seen[0], seen[1], "{kind:?}");
        for (name, (socket, seen)) in (0_u8..).zip(sockets.iter().zip(seen)) {
            servers.sockets[0].send_to(&[name], seen).expect("sent");
            assert_eq!(receive(socket), [name], "{kind:?}");
        }
        drop(sockets);
        // The second one's port is another one outside, the same for all endpoints all the same.
        assert_eq!(servers.mapping(&hosts[1], INNER), mapping_of(kind), "{kind:?}");
        let taken = router.join(Host::bare().namespace.as_fd(), "eth1", inner(3));
        assert!(matches!(taken, Err(NatError::Refused(SpecRefused::Taken(_)))), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_random_when_they_are_not_preserved() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let spec = NatSpec { preserve_ports: false, ..home(NatKind::PortRestricted) };
    let router = wan.router(spec, 20).await;
    let host = member(&router, 2);
    let seen = servers.sees(0, &udp(&host, INNER));
    assert_ne!(seen.port(), INNER);
    assert_eq!(servers.mapping(&host, INNER), Mapping::Independent);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_leave_through_each_kind() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let listeners = [PORT, PORT + 1]
        .map(|port| servers.one.enter(|| TcpListener::bind(("0.0.0.0", port)).expect("bound")));
    for (last, kind) in (20..).zip(NatKind::ALL) {
        let router = wan.router(home(kind), last).await;
        let host = member(&router, 2);
        let mut seen = Vec::new();
        for (port, listener) in [PORT, PORT + 1].into_iter().zip(&listeners) {
            let mut client = connect_from(&host, INNER, SocketAddrV4::new(at(10), port));
            let (mut server, source) = listener.accept().expect("accepted");
            talk(&mut client, &mut server);
            seen.push((source, client, server));
        }
        assert_eq!(seen[0].0.ip(), at(last));
        // RFC 5382 REQ-1.
        let independent = seen[0].0 == seen[1].0;
        assert_eq!(independent, kind.maps_independent_of_endpoint(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_lets_everybody_in() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, kind) in (20..).zip(NatKind::ALL) {
        let to = SocketAddrV4::new(inner(2), INNER);
        let forwards = [Transport::Tcp, Transport::Udp]
            .map(|transport| PortForward { transport, port: 80, to })
            .to_vec();
        let router = wan.router(NatSpec { forwards, ..home(kind) }, last).await;
        let (host, neighbour) = (member(&router, 2), member(&router, 3));
        let listener = host.enter(|| TcpListener::bind(("0.0.0.0", INNER)).expect("bound"));
        let outside = SocketAddrV4::new(at(last), 80);
        // From outside, and by hairpin from inside.
        for from in [&servers.one, &neighbour] {
            let mut client = connect_from(from, 0, outside);
            let (mut server, source) = listener.accept().expect("accepted");
            talk(&mut client, &mut server);
            let hairpin = source.ip() == at(last);
            assert!(hairpin || source.ip() == at(10), "{kind:?}: {source}");
        }
        let socket = udp(&host, INNER);
        servers.sockets[2].send_to(b"knock", outside).expect("sent");
        let (_, source) = socket.recv_from(&mut [0; 64]).expect("received in time");
        socket.send_to(b"who is it", source).expect("sent");
        let (_, source) = servers.sockets[2].recv_from(&mut [0; 64]).expect("received in time");
        assert_eq!(source, SocketAddr::from(outside), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_is_its_members_whoever_speaks_first() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let kinds = NatKind::ALL.into_iter().filter(|kind| kind.maps_independent_of_endpoint());
    for (last, kind) in (20..).zip(kinds) {
        let to = SocketAddrV4::new(inner(2), INNER);
        let forwards = vec![PortForward { transport: Transport::Udp, port: INNER + 1, to }];
        let router = wan.router(NatSpec { forwards, ..home(kind) }, last).await;
        let (host, neighbour) = (member(&router, 2), member(&router, 3));
        // The neighbour has the port inside that is forwarded outside.
        let other = servers.sees(0, &udp(&neighbour, INNER + 1));
        let outside = SocketAddr::from((at(last), INNER + 1));
        assert_ne!(other, outside, "{kind:?}");
        assert_eq!(servers.sees(0, &udp(&host, INNER)), outside, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebinding_forgets_every_mapping() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, kind) in (20..).zip(NatKind::ALL) {
        let mut router = wan.router(home(kind), last).await;
        let socket = udp(&member(&router, 2), INNER);
        let mut seen = BTreeSet::from([servers.sees(0, &socket)]);
        for _ in 0..2 {
            router.rebind().expect("rebound");
            for old in &seen {
                servers.sockets[0].send_to(b"x", old).expect("sent");
            }
            silent(&socket);
            let new = servers.sees(0, &socket);
            assert!(seen.insert(new), "{kind:?}: {new} again");
            servers.sockets[0].send_to(b"there you are", new).expect("sent");
            assert_eq!(receive(&socket), b"there you are", "{kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_not_used_ends() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    for (last, kind) in (20..).zip([NatKind::FullCone, NatKind::PortRestricted]) {
        let spec = NatSpec { mapping_timeout_s: 1, preserve_ports: false, ..home(kind) };
        let router = wan.router(spec, last).await;
        let socket = udp(&member(&router, 2), INNER);
        let seen = servers.sees(0, &socket);
        ends(&router).await;
        servers.sockets[0].send_to(b"x", seen).expect("sent");
        silent(&socket);
        assert_ne!(servers.sees(0, &socket), seen, "{kind:?}");
    }
}

/// Waits until a router has no mapping.
async fn ends(router: &Router) {
    let host = Host { namespace: router.namespace().try_clone_to_owned().expect("open").into() };
    let gone = async {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        loop {
            look.tick().await;
            let list = || {
                Command::new("nft").args(["list", "map", "ip", "groundswell", "owners"]).output()
            };
            let listed = host.enter(list).expect("nft runs");
            assert!(listed.status.success(), "{listed:?}");
            if !String::from_utf8_lossy(&listed.stdout).contains("elements") {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("mappings end");
}

#[tokio::test(flavor = "multi_thread")]
async fn homes_share_a_carrier() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let homes = NatLayer { spec: home(NatKind::FullCone), members: 2 };
    let spec = NatSpec::new(NatKind::PortRestricted, "100.64.0.0/10".parse().expect("a network"));
    let plan = NatPlan { layers: vec![homes, NatLayer { spec, members: 2 }] };
    let wire = WireSpec { address: at(20), prefix: 16, mtu: MTU, data_path: DataPath::Switch };
    let (mut tree, device) =
        Tree::new(&TreeSpec { plan, instances: 3, wire }).expect("two homes and a carrier");
    wan.attach(at(20), device).await;
    let hosts = [0, 1, 2].map(|member| {
        let host = Host::bare();
        tree.join(member, host.namespace.as_fd()).expect("joined");
        host
    });
    // All use the same port, the first of each home has the same address, and the carrier keeps them apart.
    let sockets = hosts.each_ref().map(|host| udp(host, INNER));
    let seen = sockets.each_ref().map(|socket| servers.sees(0, socket));
    assert!(seen.iter().all(|seen| seen.ip() == at(20)), "{seen:?}");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
    for (name, (socket, seen)) in (0_u8..).zip(sockets.iter().zip(seen)) {
        servers.sockets[0].send_to(&[name], seen).expect("sent");
        assert_eq!(receive(socket), [name]);
        servers.sockets[1].send_to(b"x", seen).expect("sent");
        silent(socket);
    }
    assert_eq!(servers.filtering(&hosts[0], INNER + 1, &[0]), [0], "the stricter of both");
    let full = tree.join(4, Host::bare().namespace.as_fd());
    assert!(matches!(full, Err(NatError::Refused(SpecRefused::Taken(_)))), "{full:?}");
    tree.rebind().expect("rebound");
    assert_ne!(servers.sees(0, &sockets[0]), seen[0]);
    let overlap = NatLayer {
        spec: NatSpec::new(NatKind::Symmetric, "16.0.0.0/24".parse().expect("a network")),
        members: 1,
    };
    let refused =
        Tree::new(&TreeSpec { plan: NatPlan { layers: vec![overlap] }, instances: 1, wire });
    assert!(matches!(refused, Err(NatError::Refused(SpecRefused::Overlap { .. }))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_goes_with_its_holders() {
    let mut wan = Wan::new().await;
    let router = wan.router(home(NatKind::FullCone), 20).await;
    let host = member(&router, 2);
    let there = || host.enter(|| nix::net::if_::if_nametoindex("eth1").is_ok());
    assert!(there());
    drop(router);
    wan.switch.close(&wan.run).await;
    let gone = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while there() {
            look.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("the member's interface goes with the router");
}

#[test]
fn nats_work_inside_a_user_namespace() {
    inside_a_user_namespace("each_kind_maps_and_filters_as_it_is_defined");
}

#[test]
fn firewalls_work_inside_a_user_namespace() {
    inside_a_user_namespace("six::a_firewall_lets_answers_in_and_nothing_else");
}

/// Runs a test again, without root.
fn inside_a_user_namespace(test: &str) {
    let tests = std::env::current_exe().expect("the tests");
    let done = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(tests)
        .args(["--exact", test, "--test-threads=1"])
        .output()
        .expect("util-linux is installed");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}
