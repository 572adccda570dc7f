//! Names as an instance asks for them, at the resolver in its own namespace. Needs root.

#[expect(dead_code, reason = "other tests use more of it")]
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::ids::{Attempt, InstanceId, RunId};
use groundswell_common::link::{LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_common::messages::{
    Assignment, GroupSpec, ImageKind, ImageRef, Limits, Resources, RunOptions, RuntimeKind,
};
use groundswell_common::network::{DataPath, NetworkPlan};
use groundswell_worker::names::directory::Directory;
use groundswell_worker::names::{Known, Names};
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::wire::{NAMES_ADDRESS, WireSpec, wire_in, wire_member_in};
use groundswell_worker::network::{Attachment, Network};
use host::Host;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const LIMIT: Duration = Duration::from_secs(10);
/// Instances of the group `many`; they exist as addresses only.
const MANY: u32 = 300;

/// A run with one real instance, and the resolver of this host played by the test.
struct Stage {
    switch: Arc<Switch>,
    assignment: Assignment,
    instance: Host,
    upstream: UdpSocket,
    names: Names,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    async fn new() -> Self {
        let assignment = assignment();
        let switch = Arc::new(Switch::new(1).expect("a switch").with_egress(BTreeSet::new()));
        let run = assignment.run.clone();
        switch.open(&run, assignment.subnet, 1).await.expect("open");
        let instance = Host::bare();
        let address = assignment.address(InstanceId(0));
        let spec = WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch };
        let wired = wire_in(instance.namespace.as_fd(), &spec).expect("wired");
        let attachment = Attachment {
            run: run.clone(),
            instance: InstanceId(0),
            device: wired.device.expect("made"),
            address,
        };
        switch.attach(attachment).await.expect("attached");

        let upstream = UdpSocket::bind("127.0.0.1:0").expect("bound");
        upstream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let hosts = BTreeMap::from([("echo".to_owned(), vec![Ipv4Addr::new(10, 0, 0, 9)])]);
        let network: Arc<dyn Network> = Arc::clone(&switch) as Arc<dyn Network>;
        let known = Known {
            run,
            directory: Directory::new(&assignment, &hosts),
            network,
            upstream: vec![upstream.local_addr().expect("an address")],
        };
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (names, serving) = Names::new(known, end.clone()).expect("an epoll");
        tasks.spawn(serving);
        names.serve(InstanceId(0), wired.names).await;
        Self { switch, assignment, instance, upstream, names, end, tasks }
    }

    async fn configure(&self, ipv4: Option<Ipv4Addr>, routing_policy: RoutingPolicy) {
        let config = NetworkConfig {
            enable: true,
            ipv4,
            default: LinkShape::default(),
            rules: Vec::new(),
            callback_state: String::new(),
            routing_policy,
        };
        let run = &self.assignment.run;
        self.switch.configure(run, InstanceId(0), &config).await.expect("configured");
    }

    fn socket(&self) -> UdpSocket {
        Self::socket_of(&self.instance)
    }

    fn socket_of(instance: &Host) -> UdpSocket {
        let socket = instance.enter(|| UdpSocket::bind("127.0.0.1:0").expect("bound"));
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket.connect((NAMES_ADDRESS, 53)).expect("connected");
        socket
    }

    /// Asks in a datagram.
    fn ask(&self, name: &str, kind: TYPE) -> (RCODE, Vec<Ipv4Addr>, bool) {
        Self::ask_by(&self.socket(), name, kind)
    }

    fn ask_by(socket: &UdpSocket, name: &str, kind: TYPE) -> (RCODE, Vec<Ipv4Addr>, bool) {
        socket.send(&question(name, kind)).expect("sent");
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).expect("answered");
        read(&answer[..length])
    }

    fn found(&self, name: &str) -> Vec<Ipv4Addr> {
        let (code, addresses, _) = self.ask(name, TYPE::A);
        assert_eq!(code, RCODE::NoError, "{name}");
        addresses
    }

    async fn finish(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn question(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    let name = Name::new(name).expect("a name");
    packet.questions.push(Question::new(name, kind.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().expect("short")
}

fn read(bytes: &[u8]) -> (RCODE, Vec<Ipv4Addr>, bool) {
    let packet = Packet::parse(bytes).expect("an answer");
    assert_eq!(packet.id(), 77);
    let addresses = packet.answers.iter().map(|record| {
        let RData::A(address) = &record.rdata else { panic!("not an address: {record:?}") };
        Ipv4Addr::from_bits(address.address)
    });
    (packet.rcode(), addresses.collect(), packet.has_flags(PacketFlag::TRUNCATION))
}

fn assignment() -> Assignment {
    let group = |id: &str, instances| GroupSpec {
        id: id.to_owned(),
        instances,
        image: ImageRef {
            kind: ImageKind::Bundle,
            digest: String::new(),
            size: 0,
            command: Vec::new(),
            workdir: String::new(),
            env: BTreeMap::new(),
        },
        params: BTreeMap::new(),
        profiles: BTreeMap::new(),
        env: BTreeMap::new(),
        resources: Resources::default(),
        egress: Default::default(),
        datasets: Vec::new(),
    };
    Assignment {
        run: RunId::new(1),
        attempt: Attempt::FIRST,
        plan: "plan".to_owned(),
        case: "case".to_owned(),
        runtime: RuntimeKind::Netns,
        total_instances: MANY + 1,
        subnet: "16.0.0.0/16".parse().expect("a subnet"),
        start_time: String::new(),
        disable_metrics: true,
        seed: 1,
        groups: vec![group("one", 1), group("many", MANY)],
        network: NetworkPlan::default(),
        share: Vec::new(),
        workers: Vec::new(),
        peers: Vec::new(),
        network_key: 0,
        overlay_secret: None,
        options: RunOptions::default(),
        limits: Limits::default(),
        source: Default::default(),
        trace: BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_found_where_it_is_at_that_moment() {
    let stage = Stage::new().await;
    let first = Ipv4Addr::new(16, 0, 0, 2);
    let hostname = stage.assignment.hostname(InstanceId(0));
    for name in ["one", "one-0", "One.gs", &hostname] {
        assert_eq!(stage.found(name), [first], "{name}");
    }
    let moved = Ipv4Addr::new(16, 0, 9, 9);
    stage.configure(Some(moved), RoutingPolicy::DenyAll).await;
    assert_eq!(stage.found("one-0"), [moved]);
    assert_eq!(stage.found("echo"), [Ipv4Addr::new(10, 0, 0, 9)]);
    // There is the name, and there is no such address.
    assert_eq!(stage.ask("one", TYPE::AAAA), (RCODE::NoError, Vec::new(), false));
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_asked_elsewhere_only_for_who_may_reach_the_internet() {
    let stage = Stage::new().await;
    let nobody = (RCODE::NameError, Vec::new(), false);
    assert_eq!(stage.ask("example.org", TYPE::A), nobody);
    stage.configure(None, RoutingPolicy::AllowAll).await;
    assert_eq!(stage.ask("nobody.gs", TYPE::A), nobody, "never asked elsewhere");
    let socket = stage.socket();
    let asked = question("example.org", TYPE::A);
    socket.send(&asked).expect("sent");
    let mut buffer = [0; 512];
    let (length, from) = stage.upstream.recv_from(&mut buffer).expect("passed on");
    assert_eq!(&buffer[..length], &asked);
    let mut reply = Packet::parse(&asked).expect("a question").into_reply();
    *reply.rcode_mut() = RCODE::Refused;
    let reply = reply.build_bytes_vec().expect("short");
    stage.upstream.send_to(&reply, from).expect("sent");
    let length = socket.recv(&mut buffer).expect("answered");
    assert_eq!(&buffer[..length], &reply);
    stage.configure(None, RoutingPolicy::DenyAll).await;
    assert_eq!(stage.ask("example.org", TYPE::A), nobody);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_behind_one_nat_are_answered() {
    let stage = Stage::new().await;
    let first = stage.assignment.address(InstanceId(0));
    // The others have no address of their own, and are known by the first one's number.
    let others = [Host::bare(), Host::bare()];
    for other in &others {
        let wired = wire_member_in(other.namespace.as_fd()).expect("wired");
        stage.names.serve(InstanceId(0), wired.names).await;
    }
    for instance in [&stage.instance, &others[0], &others[1]] {
        let socket = Stage::socket_of(instance);
        assert_eq!(Stage::ask_by(&socket, "one", TYPE::A), (RCODE::NoError, vec![first], false));
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_is_told_over_a_stream() {
    let stage = Stage::new().await;
    // They are somewhere else, so nobody answers for them; the directory knows them by number.
    let mut hosts = Vec::new();
    for instance in 1..=40 {
        let address = stage.assignment.address(InstanceId(instance));
        let host = Host::bare();
        let spec = WireSpec { address, prefix: 16, mtu: 1500, data_path: DataPath::Switch };
        let wired = wire_in(host.namespace.as_fd(), &spec).expect("wired");
        let run = stage.assignment.run.clone();
        let attachment = Attachment {
            run,
            instance: InstanceId(instance),
            device: wired.device.expect("made"),
            address,
        };
        stage.switch.attach(attachment).await.expect("attached");
        hosts.push(host);
    }
    let (code, some, cut) = stage.ask("many", TYPE::A);
    assert_eq!((code, cut), (RCODE::NoError, true));
    assert!((20..40).contains(&some.len()), "{}", some.len());

    let mut stream = stage.instance.enter(|| {
        let server: SocketAddr = (NAMES_ADDRESS, 53).into();
        TcpStream::connect_timeout(&server, LIMIT).expect("connected")
    });
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    // Two questions over one stream.
    for (name, count) in [("many", 40), ("many-3", 1)] {
        let asked = question(name, TYPE::A);
        let length = u16::try_from(asked.len()).expect("short");
        stream.write_all(&[&length.to_be_bytes()[..], &asked].concat()).expect("sent");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("answered");
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).expect("answered");
        let (code, all, cut) = read(&answer);
        assert_eq!((code, all.len(), cut), (RCODE::NoError, count, false));
    }
    stage.finish().await;
}
