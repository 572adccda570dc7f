//! The way from instances to hosts outside the data network, with a host of its own for the worker and another one
//! for the Internet. Needs root.

#[expect(dead_code, reason = "other tests need more of it")]
mod host;
#[expect(dead_code, reason = "other tests use more of it")]
mod pipe;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{AccessLink, LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_common::network::{Action, NetworkPlan};
use groundswell_worker::network::counters::Fate;
use groundswell_worker::network::egress::Grant;
use groundswell_worker::network::egress::routes::{self, Routes};
use groundswell_worker::network::links::Links;
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::{Attachment, Network as _};
use host::{Host, ping};
use pipe::Pipe;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(10);
/// The worker's address, and that of a host in the Internet.
const HERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 2);

/// A worker's switch with one instance, on a host that is connected to another one.
struct World<'a> {
    pipe: &'a Pipe,
    switch: Switch,
    run: RunId,
    instance: Host,
    control: OwnedFd,
}

/// Runs a test on the worker's host.
fn on_a_host(test: impl AsyncFnOnce(World<'_>) + Send) {
    let pipe = Pipe::between([HERE, THERE]);
    pipe.ends[0].enter(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let world = World::new(&pipe).await;
            test(world).await;
        });
    });
}

impl<'a> World<'a> {
    async fn new(pipe: &'a Pipe) -> Self {
        let switch = Switch::new(1).expect("a switch").with_egress(BTreeSet::new());
        let run = RunId::new(1);
        switch.open(&run, "16.0.0.0/16".parse().expect("a subnet"), 1).await.expect("open");
        let (instance, device) = Host::new(INSIDE);
        let attachment =
            Attachment { run: run.clone(), instance: InstanceId(0), device, address: INSIDE };
        switch.attach(attachment).await.expect("attached");
        let control = instance.enter(|| UdpSocket::bind("0.0.0.0:0").expect("a socket").into());
        // The route is there in any case, so that it is the switch that refuses.
        let everything = Routes::from(["0.0.0.0/0".parse().expect("a network")]);
        let control: OwnedFd = control;
        routes::change(control.as_fd(), &Routes::new(), &everything).expect("routed");
        Self { pipe, switch, run, instance, control }
    }

    async fn permit(&self, allow: bool, hosts: &[&str], bps: u64) {
        let hosts = hosts.iter().map(|host| host.parse().expect("a network")).collect();
        let grant = Grant { allow, hosts };
        self.switch.permit(&self.run, InstanceId(0), grant, bps).await.expect("permitted");
    }

    async fn configure(&self, routing_policy: RoutingPolicy) {
        let config = NetworkConfig {
            enable: true,
            ipv4: None,
            default: LinkShape::default(),
            rules: Vec::new(),
            callback_state: String::new(),
            routing_policy,
        };
        let warnings = self.switch.configure(&self.run, InstanceId(0), &config).await;
        assert_eq!(warnings.expect("configured"), Vec::<String>::new());
    }

    /// Dials from inside; what that says, and how long it took.
    fn dial(&self, to: Ipv4Addr, port: u16) -> (Result<TcpStream, ErrorKind>, Duration) {
        let start = Instant::now();
        // Not `connect_timeout`: since Linux 5.18 `poll` may wake before the error of the socket is set.
        let dialed = self.instance.enter(|| TcpStream::connect((to, port)));
        let dialed = dialed.map_err(|err| err.kind());
        (dialed, start.elapsed())
    }

    #[track_caller]
    fn refused_at_once(&self, to: Ipv4Addr, port: u16, kind: ErrorKind) {
        let (dialed, took) = self.dial(to, port);
        assert_eq!(dialed.expect_err("it is refused"), kind, "{to}");
        // A refusal that comes in the middle of `connect` is forgotten until the next SYN, a second later.
        assert!(took < Duration::from_secs(2), "{to}: {took:?}");
    }

    fn listen(&self) -> TcpListener {
        self.pipe.ends[1].enter(|| TcpListener::bind((THERE, 80)).expect("bound"))
    }

    fn count(&self, fate: Fate) -> u64 {
        self.switch.counts(&self.run).expect("open").1.of(fate)
    }
}

/// Reads a request of four bytes and answers with `bytes`.
fn serve(listener: TcpListener, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4];
            if stream.read_exact(&mut request).is_err() || &request == b"stop" {
                return;
            }
            let _ = stream.write_all(&bytes);
        }
    })
}

fn fetch(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(b"get!").expect("sent");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read to the end");
    bytes
}

#[test]
fn who_is_allowed_reaches_a_host_outside_and_who_is_not_hears_so_at_once() {
    on_a_host(async |world| {
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let _server = serve(world.listen(), sent.clone());
        world.refused_at_once(THERE, 80, ErrorKind::HostUnreachable);
        world.permit(true, &[], 0).await;
        let stream = world.dial(THERE, 80).0.expect("connected");
        assert!(fetch(stream) == sent);
        // A port that is closed there is a port that is closed here.
        world.refused_at_once(THERE, 81, ErrorKind::ConnectionRefused);
        // Also when its answer has to wait for its turn.
        world.permit(true, &[], 1_000_000).await;
        world.refused_at_once(THERE, 81, ErrorKind::ConnectionRefused);
        assert!(world.count(Fate::Outside) > 0 && world.count(Fate::Returned) > 1000);
    });
}

#[test]
fn a_plan_takes_and_gives_egress_live() {
    on_a_host(async |world| {
        let listener = world.listen();
        world.configure(RoutingPolicy::AllowAll).await;
        let mut stream = world.dial(THERE, 80).0.expect("connected");
        let (mut there, from) = listener.accept().expect("accepted");
        assert_eq!(from.ip(), HERE);
        stream.write_all(b"ping").expect("sent");
        there.read_exact(&mut [0; 4]).expect("received");

        world.configure(RoutingPolicy::DenyAll).await;
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let ended = stream.read(&mut [0; 4]).map_err(|err| err.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset));
        world.refused_at_once(THERE, 80, ErrorKind::HostUnreachable);
        there.set_read_timeout(Some(LIMIT)).expect("a limit");
        assert_eq!(there.read(&mut [0; 4]).expect("it is told"), 0);
        world.configure(RoutingPolicy::AllowAll).await;
        assert!(world.dial(THERE, 80).0.is_ok());
    });
}

#[test]
fn the_host_itself_and_what_is_next_to_it_are_out_of_reach() {
    on_a_host(async |world| {
        // Services of the host: on every address, so only the policy keeps instances away.
        let _all = TcpListener::bind(("0.0.0.0", 4222)).expect("bound");
        world.permit(true, &["0.0.0.0/0"], 0).await;
        let more = ["address", "add", "203.0.113.9/24", "dev", "wire0"];
        world.pipe.ends[0].command("ip", &more);
        for forbidden in [
            HERE,
            // Its second address on the same interface, which it does not reach itself by.
            Ipv4Addr::new(203, 0, 113, 9),
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(169, 254, 169, 254),
            Ipv4Addr::new(16, 1, 0, 2),
        ] {
            // A packet to loopback does not even leave an instance; here it does not answer.
            if forbidden != Ipv4Addr::LOCALHOST {
                world.refused_at_once(forbidden, 4222, ErrorKind::HostUnreachable);
            }
        }
        let socket = world.instance.enter(|| UdpSocket::bind("0.0.0.0:0").expect("bound"));
        socket.connect((HERE, 4222)).expect("connected");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket.send(b"x").expect("sent");
        let heard = socket.recv(&mut [0; 9]).map_err(|err| err.kind());
        assert_eq!(heard, Err(ErrorKind::HostUnreachable));
        assert!(world.count(Fate::Denied) >= 5);
    });
}

#[test]
fn another_run_on_the_same_worker_is_out_of_reach() {
    on_a_host(async |world| {
        let other = RunId::new(2);
        let address = Ipv4Addr::new(16, 1, 0, 2);
        world.switch.open(&other, "16.1.0.0/16".parse().expect("a subnet"), 1).await.expect("open");
        let (instance, device) = Host::new(address);
        let attachment = Attachment { run: other, instance: InstanceId(0), device, address };
        world.switch.attach(attachment).await.expect("attached");
        let _server = instance.enter(|| TcpListener::bind((address, 80)).expect("bound"));
        world.refused_at_once(address, 80, ErrorKind::HostUnreachable);
        world.permit(true, &["16.1.0.0/16"], 0).await;
        world.refused_at_once(address, 80, ErrorKind::HostUnreachable);
    });
}

#[test]
fn a_named_host_is_reached_and_nothing_else() {
    on_a_host(async |world| {
        let _listener = world.listen();
        world.permit(false, &["203.0.113.2/32"], 0).await;
        assert!(world.dial(THERE, 80).0.is_ok());
        world.refused_at_once(Ipv4Addr::new(203, 0, 113, 3), 80, ErrorKind::HostUnreachable);
        // Its route is the only one.
        let everything = Routes::from(["0.0.0.0/0".parse().expect("a network")]);
        let named = Routes::from(["203.0.113.2/32".parse().expect("a network")]);
        routes::change(world.control.as_fd(), &everything, &named).expect("routed");
        assert!(world.dial(THERE, 80).0.is_ok());
        world.refused_at_once(Ipv4Addr::new(203, 0, 113, 3), 80, ErrorKind::NetworkUnreachable);
        routes::change(world.control.as_fd(), &named, &Routes::new()).expect("routed");
        world.refused_at_once(THERE, 80, ErrorKind::NetworkUnreachable);
    });
}

#[test]
fn datagrams_and_pings_come_back() {
    on_a_host(async |world| {
        let there = world.pipe.ends[1].enter(|| UdpSocket::bind((THERE, 53)).expect("bound"));
        let stranger = world.pipe.ends[1].enter(|| UdpSocket::bind((THERE, 54)).expect("bound"));
        world.permit(true, &[], 0).await;
        let socket = world.instance.enter(|| UdpSocket::bind("0.0.0.0:0").expect("bound"));
        for socket in [&there, &socket] {
            socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        }
        let mut buffer = [0; 2048];
        for words in [&b"hello"[..], &[7; 1400]] {
            socket.send_to(words, (THERE, 53)).expect("sent");
            let (length, from) = there.recv_from(&mut buffer).expect("received");
            assert_eq!((&buffer[..length], from.ip()), (words, HERE.into()));
            // Whom it has not asked it does not hear.
            stranger.send_to(b"stray", from).expect("sent");
            there.send_to(&buffer[..length], from).expect("sent");
            let (length, from) = socket.recv_from(&mut buffer).expect("received");
            assert_eq!((&buffer[..length], from), (words, (THERE, 53).into()));
        }
        world.pipe.ends[0].enter(|| {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("set");
        });
        assert!(ping(&world.instance, THERE, LIMIT).is_some());
    });
}

#[test]
fn the_rate_holds_both_ways() {
    on_a_host(async |world| {
        let listener = world.listen();
        // 8 Mbit/s are a megabyte a second.
        world.permit(true, &[], 8_000_000).await;
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("read to the end");
            stream.write_all(&bytes).expect("sent");
            bytes.len()
        });
        let mut stream = world.dial(THERE, 80).0.expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let start = Instant::now();
        stream.write_all(&vec![7; 1_500_000]).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut");
        let mut back = Vec::new();
        stream.read_exact(&mut [0]).expect("it begins");
        let up = start.elapsed();
        stream.read_to_end(&mut back).expect("read to the end");
        let down = start.elapsed() - up;
        assert_eq!((server.join().expect("no panic"), back.len()), (1_500_000, 1_499_999));
        for (took, way) in [(up, "up"), (down, "down")] {
            let seconds = took.as_secs_f64();
            assert!((1.35..4.0).contains(&seconds), "{way}: {seconds:.2} s for 1.5 s");
        }
    });
}

#[test]
fn a_flap_cuts_what_is_outside_as_well_and_a_connection_outlives_it() {
    on_a_host(async |world| {
        let listener = world.listen();
        world.permit(true, &[], 0).await;
        let plan = NetworkPlan { classes: vec![AccessLink::default()], ..NetworkPlan::default() };
        let links = Links::new(&plan, [1]);
        let mut stream = world.dial(THERE, 80).0.expect("connected");
        let (mut there, _) = listener.accept().expect("accepted");
        let flap = Action::Cut { cut: 0, from: vec![0], to: vec![0], carrier: false };
        let cut = Arc::new(links.after(&flap));
        world.switch.relink(&world.run, cut).await.expect("cut");
        for stream in [&stream, &there] {
            stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
        }
        stream.write_all(b"up").expect("sent");
        there.write_all(b"down").expect("sent");
        assert!(there.read(&mut [0; 9]).is_err() && stream.read(&mut [0; 9]).is_err());
        assert!(world.count(Fate::Filtered) > 0);
        world.switch.relink(&world.run, Arc::new(links)).await.expect("healed");
        for stream in [&stream, &there] {
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        }
        there.read_exact(&mut [0; 2]).expect("it comes again");
        stream.read_exact(&mut [0; 4]).expect("it comes again");
    });
}

#[test]
fn without_an_egress_it_is_refused_when_it_is_asked_for() {
    let pipe = Pipe::between([HERE, THERE]);
    pipe.ends[0].enter(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let switch = Switch::new(1).expect("a switch");
            assert!(!switch.caps().egress);
            let open = Grant { allow: true, hosts: Vec::new() };
            let refused = switch.permit(&RunId::new(1), InstanceId(0), open, 0).await;
            assert!(refused.expect_err("refused").to_string().contains("hosts outside"));
        });
    });
}
