//! IPv6 through the routers of NATs, which do not translate it: their firewalls.

use std::net::{Ipv6Addr, SocketAddrV6};

use groundswell_common::addresses::counterpart;
use groundswell_common::link::AccessLink;
use groundswell_common::network::{Action, NetworkPlan};
use groundswell_worker::network::links::Links;
use groundswell_worker::network::nat::Ipv6;
use groundswell_worker::network::wire::Wired;

use super::*;

/// Instances behind routers whose outermost has the address of the first of them.
struct Home {
    tree: Tree,
    number: InstanceId,
    hosts: Vec<Host>,
}

impl Wan {
    /// A host outside, wired as the worker does it.
    async fn outside(&mut self, last: u8) -> Host {
        let (host, Wired { device, .. }) = Host::wired(at(last));
        self.attach(at(last), device.expect("made")).await;
        host
    }

    /// So many instances, the first with the number `last`, behind routers from inside to outside.
    async fn home(&mut self, layers: Vec<NatLayer>, instances: u8, last: u8) -> Home {
        let plan = NatPlan { layers };
        let leads = plan.routes_ipv6();
        let wire =
            WireSpec { address: at(last), prefix: 16, mtu: MTU, data_path: DataPath::Switch };
        let spec = TreeSpec { plan, instances: instances.into(), wire };
        let (tree, device) = Tree::new(&spec).expect("routers");
        let number = InstanceId(self.attached);
        self.attach(at(last), device).await;
        if leads {
            let behind = (0..instances).map(|one| at(last + one)).collect();
            self.switch.lead(&self.run, number, behind).await.expect("led");
        }
        let hosts = (0..u32::from(instances)).map(|one| {
            let host = Host::bare();
            tree.join(one, host.namespace.as_fd()).expect("joined");
            host
        });
        let hosts = hosts.collect();
        Home { tree, number, hosts }
    }
}

/// One home with such a firewall.
fn layers(ipv6: Ipv6) -> Vec<NatLayer> {
    vec![NatLayer { spec: NatSpec { ipv6, ..home(NatKind::PortRestricted) }, members: 3 }]
}

/// The same behind a carrier's.
fn behind(inner: Ipv6, outer: Ipv6) -> Vec<NatLayer> {
    let mut layers = layers(inner);
    let lan = "100.64.0.0/10".parse().expect("a network");
    let spec = NatSpec { ipv6: outer, ..NatSpec::new(NatKind::Symmetric, lan) };
    layers[0].members = 1;
    layers.push(NatLayer { spec, members: 3 });
    layers
}

fn six(last: u8, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(counterpart(at(last)), port, 0, 0)
}

fn udp6(host: &Host, port: u16) -> UdpSocket {
    let bind = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bound");
    let socket = host.enter(bind);
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    socket
}

/// Sends a word, and says where it came from.
fn send(from: &UdpSocket, to: SocketAddrV6, receiver: &UdpSocket) -> SocketAddr {
    from.send_to(b"word", to).expect("sent");
    let (length, source) = receiver.recv_from(&mut [0; 64]).expect("received in time");
    assert_eq!(length, 4);
    source
}

fn connect6(from: &Host, to: SocketAddrV6, limit: Duration) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to.into(), limit))
}

fn listen(host: &Host) -> TcpListener {
    host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, INNER)).expect("bound"))
}

/// Connects and sends words both ways.
fn meet(from: &Host, to: SocketAddrV6, listener: &TcpListener) -> SocketAddr {
    let mut client = connect6(from, to, LIMIT).expect("connected");
    let (mut server, source) = listener.accept().expect("accepted");
    talk(&mut client, &mut server);
    source
}

fn is_kept_out(from: &Host, to: SocketAddrV6) {
    let refused = connect6(from, to, NEVER).map(drop).map_err(|err| err.kind());
    assert_eq!(refused, Err(ErrorKind::TimedOut), "without a word");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_lets_answers_in_and_nothing_else() {
    let mut wan = Wan::new().await;
    let (server, stranger) = (wan.outside(10).await, wan.outside(11).await);
    let home = wan.home(layers(Ipv6::Firewall), 2, 20).await;
    let listener = listen(&server);
    for (last, host) in (20..).zip(&home.hosts) {
        let (inner, outer) = (udp6(host, INNER), udp6(&server, PORT));
        let (other_port, other_host) = (udp6(&server, PORT + 1), udp6(&stranger, PORT));
        let socket = six(last, INNER);
        for from in [&outer, &other_port, &other_host] {
            from.send_to(b"x", socket).expect("sent");
        }
        silent(&inner);
        // Nothing is translated.
        assert_eq!(send(&inner, six(10, PORT), &outer), socket.into());
        assert_eq!(send(&outer, socket, &inner), six(10, PORT).into());
        for from in [&other_port, &other_host] {
            from.send_to(b"x", socket).expect("sent");
        }
        silent(&inner);

        assert_eq!(meet(host, six(10, INNER), &listener).ip(), *socket.ip());
        let _inside = listen(host);
        is_kept_out(&server, socket);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_lets_everybody_in() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    let home = wan.home(layers(Ipv6::Open), 2, 20).await;
    let (inner, outer) = (udp6(&home.hosts[1], INNER), udp6(&server, PORT));
    assert_eq!(send(&outer, six(21, INNER), &inner), six(10, PORT).into());
    assert_eq!(send(&inner, six(10, PORT), &outer), six(21, INNER).into());
    let listener = listen(&home.hosts[1]);
    assert_eq!(meet(&server, six(21, INNER), &listener).ip(), *six(10, 0).ip());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ipv6_there_is_no_address_and_no_way_in() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    for (last, layers) in (20..).zip([
        layers(Ipv6::Off),
        behind(Ipv6::Off, Ipv6::Open),
        behind(Ipv6::Open, Ipv6::Off),
    ]) {
        let home = wan.home(layers, 1, last).await;
        let bound = home.hosts[0].enter(|| UdpSocket::bind(six(last, INNER)));
        assert_eq!(bound.map(drop).map_err(|err| err.kind()), Err(ErrorKind::AddrNotAvailable));
        let inner = udp6(&home.hosts[0], INNER);
        udp6(&server, PORT).send_to(b"x", six(last, INNER)).expect("sent");
        silent(&inner);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_punched_by_sending_from_both_sides() {
    let mut wan = Wan::new().await;
    let one = wan.home(layers(Ipv6::Firewall), 1, 20).await;
    let two = wan.home(behind(Ipv6::Firewall, Ipv6::Firewall), 1, 30).await;
    let (left, right) = (udp6(&one.hosts[0], INNER), udp6(&two.hosts[0], INNER));
    // The first one opens its own side and is kept out by the other.
    left.send_to(b"x", six(30, INNER)).expect("sent");
    silent(&right);
    assert_eq!(send(&right, six(20, INNER), &left), six(30, INNER).into());
    assert_eq!(send(&left, six(30, INNER), &right), six(20, INNER).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_opens_the_port_of_its_member() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    let to = SocketAddrV4::new(inner(3), INNER);
    let forwards = [Transport::Tcp, Transport::Udp]
        .map(|transport| PortForward { transport, port: 80, to })
        .to_vec();
    let mut layers = layers(Ipv6::Firewall);
    layers[0].spec.forwards = forwards;
    let home = wan.home(layers, 2, 20).await;
    let outer = udp6(&server, PORT);
    let inner = [20, 21].map(|last| udp6(&home.hosts[usize::from(last - 20_u8)], INNER));
    let listeners = [0, 1].map(|number: usize| listen(&home.hosts[number]));
    assert_eq!(send(&outer, six(21, INNER), &inner[1]), six(10, PORT).into());
    assert_eq!(send(&inner[1], six(10, PORT), &outer), six(21, INNER).into());
    meet(&server, six(21, INNER), &listeners[1]);
    outer.send_to(b"x", six(20, INNER)).expect("sent");
    silent(&inner[0]);
    is_kept_out(&server, six(20, INNER));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_firewalls_in_a_row_are_as_strict_as_the_stricter() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    let listener = listen(&server);
    let (closed, open) = (Ipv6::Firewall, Ipv6::Open);
    let cases = [(closed, closed), (closed, open), (open, closed), (open, open)];
    for (number, (one, other)) in (0_u8..).zip(cases) {
        let last = 20 + 10 * number;
        let home = wan.home(behind(one, other), 3, last).await;
        // The last of three homes of one member each.
        let address = six(last + 2, INNER);
        let (inner, outer) = (udp6(&home.hosts[2], INNER), udp6(&server, PORT));
        outer.send_to(b"word", address).expect("sent");
        if [one, other] == [Ipv6::Open; 2] {
            assert_eq!(receive(&inner), b"word");
        } else {
            silent(&inner);
        }
        assert_eq!(send(&inner, six(10, PORT), &outer), address.into(), "{one:?} in {other:?}");
        assert_eq!(send(&outer, address, &inner), six(10, PORT).into());
        assert_eq!(meet(&home.hosts[2], six(10, INNER), &listener).ip(), *address.ip());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_reach_each_other_and_are_told_of_errors() {
    let mut wan = Wan::new().await;
    let _server = wan.outside(10).await;
    let one = wan.home(layers(Ipv6::Firewall), 2, 20).await;
    let two = wan.home(behind(Ipv6::Open, Ipv6::Firewall), 2, 30).await;
    for (last, home) in [(20, &one), (30, &two)] {
        let [first, second] = [0, 1].map(|number| udp6(&home.hosts[number], INNER));
        assert_eq!(send(&first, six(last + 1, INNER), &second), six(last, INNER).into());
        assert_eq!(send(&second, six(last, INNER), &first), six(last + 1, INNER).into());
    }
    // Nobody listens there, which the other host says itself.
    let socket = udp6(&one.hosts[0], INNER + 1);
    socket.connect(six(10, PORT)).expect("a destination");
    socket.send(b"x").expect("sent");
    let told = socket.recv(&mut [0; 64]).map_err(|err| err.kind());
    assert_eq!(told, Err(ErrorKind::ConnectionRefused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_forgets_after_a_while_and_when_its_router_is_rebound() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    let mut layers = layers(Ipv6::Firewall);
    layers[0].spec.mapping_timeout_s = 1;
    let mut home = wan.home(layers, 1, 20).await;
    let (inner, outer) = (udp6(&home.hosts[0], INNER), udp6(&server, PORT));
    let opened = || {
        assert_eq!(send(&inner, six(10, PORT), &outer), six(20, INNER).into());
        assert_eq!(send(&outer, six(20, INNER), &inner), six(10, PORT).into());
    };
    opened();
    // Nothing may come for the whole time: the answer would keep it open.
    inner.set_read_timeout(Some(Duration::from_millis(1500))).expect("a limit");
    assert!(inner.recv(&mut [0; 64]).is_err());
    outer.send_to(b"x", six(20, INNER)).expect("sent");
    silent(&inner);
    opened();
    home.tree.rebind().expect("rebound");
    outer.send_to(b"x", six(20, INNER)).expect("sent");
    silent(&inner);
    opened();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_with_another_address_is_still_the_way_to_its_members() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    let mut home = wan.home(layers(Ipv6::Firewall), 2, 20).await;
    let (inner, outer) = (udp6(&home.hosts[1], INNER), udp6(&server, PORT));
    assert_eq!(send(&inner, six(10, PORT), &outer), six(21, INNER).into());
    home.tree.readdress(at(99)).expect("readdressed");
    wan.switch.readdress(&wan.run, home.number, at(99)).await.expect("readdressed");
    // Connections are not lost with the address that was not theirs.
    assert_eq!(send(&outer, six(21, INNER), &inner), six(10, PORT).into());
    for taken in [20, 21] {
        let refused = wan.switch.readdress(&wan.run, InstanceId(0), at(taken)).await;
        assert!(refused.is_err_and(|err| err.to_string().contains("taken")));
    }
    // In IPv4 a member's number is nobody's.
    udp(&server, INNER).send_to(b"x", (at(21), INNER)).expect("sent");
    let nobody = |wan: &Wan| {
        let counted = wan.switch.counts(&wan.run).expect("the run is open").1;
        counted.named().any(|(fate, count)| (fate, count) == ("no_such_address", 1))
    };
    let counted = async {
        let mut look = tokio::time::interval(Duration::from_millis(1));
        while !nobody(&wan) {
            look.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, counted).await.expect("counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cuts_a_router_off_cuts_ipv6_off() {
    let mut wan = Wan::new().await;
    let server = wan.outside(10).await;
    let home = wan.home(layers(Ipv6::Open), 2, 20).await;
    let outer = udp6(&server, PORT);
    let inner = [0, 1].map(|number| udp6(&home.hosts[number], INNER));
    let plan = NetworkPlan { classes: vec![AccessLink::default(); 2], ..NetworkPlan::default() };
    let links = Links::new(&plan, [1, 1]);
    let cut = Action::Cut { cut: 0, from: vec![0], to: vec![1], carrier: false };
    wan.switch.relink(&wan.run, links.after(&cut).into()).await.expect("cut");
    for (last, inner) in (20..).zip(&inner) {
        outer.send_to(b"x", six(last, INNER)).expect("sent");
        inner.send_to(b"x", six(10, PORT)).expect("sent");
        silent(inner);
    }
    silent(&outer);
    let counted = wan.switch.counts(&wan.run).expect("the run is open");
    let dropped = |number: u32| counted.0[&InstanceId(number)].named().collect::<Vec<_>>();
    assert_eq!(dropped(0), [("filtered", 2)]);
    assert_eq!(dropped(1), [("filtered", 2)], "as what the router sends");
    wan.switch.relink(&wan.run, links.into()).await.expect("healed");
    for (last, inner) in (20..).zip(&inner) {
        assert_eq!(send(&outer, six(last, INNER), inner), six(10, PORT).into());
        assert_eq!(send(inner, six(10, PORT), &outer), six(last, INNER).into());
    }
}
