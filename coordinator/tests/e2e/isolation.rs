//! Two runs on one worker at the same time: instances of one reach nothing of the other, and nothing of the host.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{BUILD_LIMIT, Home, LIMIT, Running, wait_until};
use crate::hosts::{HERE, THERE, World};

const SCRIPT: &str = include_str!("reach.js");

const MANIFEST: &str = r#"
name = "reach"
[defaults]
builder = "exec:command"
runner = "netns"
[builders."exec:command"]
entrypoint = ["node", "reach.js"]
[runners."netns"]
outcome_from = "stdout"
[runners."docker"]
outcome_from = "stdout"
[[testcases]]
name = "reach"
instances = { min = 2, max = 2, default = 2 }
"#;

/// One instance may reach the Internet, the other one may not; both may send to groups.
const COMPOSITION: &str = r#"
[global]
plan = "reach"
case = "reach"
runner = "RUNNER"
builder = "exec:command"
timeout = "5m"
[global.run_config]
exposed_ports = { ask = "6060" }
[network]
multicast = true
[[groups]]
id = "open"
instances = { count = 1 }
[groups.egress]
allow = true
hosts = ["0.0.0.0/0"]
[[groups]]
id = "shut"
instances = { count = 1 }
"#;

/// What listens on the worker's host, on all its addresses. Nothing may get to it.
struct Bait {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Bait {
    const PORT: u16 = 4222;

    fn lay() -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, Self::PORT)).expect("bound");
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, Self::PORT)).expect("bound");
        tcp.set_nonblocking(true).expect("set");
        udp.set_nonblocking(true).expect("set");
        Self { tcp, udp }
    }

    fn is_untouched(&self) {
        let connected = self.tcp.accept().map(|(_, from)| from);
        assert!(connected.is_err(), "a connection from {connected:?}");
        let received = self.udp.recv_from(&mut [0; 9]).map(|(_, from)| from);
        assert!(received.is_err(), "a packet from {received:?}");
    }
}

/// A stack on a host of its own, with runs in it.
struct Stack {
    world: World,
    home: Home,
    up: Running,
}

impl Stack {
    fn start() -> Self {
        let (world, home) = (World::new(), Home::new());
        world.serve();
        home.write("reach/reach.js", SCRIPT);
        home.write("reach/manifest.toml", MANIFEST);
        let up = world.here(|| home.start(&["up"]));
        up.until("up: 1 worker");
        Self { world, home, up }
    }

    fn command(&self, arguments: &[&str]) -> String {
        self.world.here(|| self.home.run(arguments)).ends_with(0).stdout.trim().to_owned()
    }

    /// Submits a run and waits until both its instances answer.
    fn submit(&self, runner: &str) -> Run<'_> {
        let file = self.home.write("reach.toml", &COMPOSITION.replace("RUNNER", runner));
        let id = self.command(&["submit", &file, "--detach"]);
        let mut status = Value::Null;
        wait_until("the run is there", BUILD_LIMIT, || {
            let listed = self.command(&["status", &id, "--json"]);
            status = serde_json::from_str::<Value>(&listed).expect("JSON")[0].take();
            assert_eq!(status["verdict"], Value::Null, "{status:#}");
            status["phase"] == "running"
        });
        let exposed = status["exposed"].as_array().expect("a list").iter();
        let instances: Vec<Instance> = exposed
            .map(|one| {
                let control = one["address"].as_str().and_then(|text| text.parse().ok());
                let mut instance = Instance {
                    stack: self,
                    control: control.expect("an address"),
                    v4: String::new(),
                    v6: String::new(),
                };
                wait_until("it answers", LIMIT, || instance.asked("/who").is_some());
                let who = instance.ask("/who");
                instance.v4 = who["v4"].as_str().expect("an address").to_owned();
                instance.v6 = who["v6"].as_str().expect("an address").to_owned();
                instance
            })
            .collect();
        assert_eq!(instances.len(), 2, "{status:#}");
        Run { id, instances }
    }

    /// The port of its NATS.
    fn nats(&self) -> String {
        let endpoint = self.home.dir.path().join("stacks/0/endpoint.json");
        let text = std::fs::read_to_string(endpoint).expect("a stack");
        let endpoint: Value = serde_json::from_str(&text).expect("JSON");
        endpoint["url"].as_str().and_then(|url| url.rsplit(':').next()).expect("a port").to_owned()
    }
}

struct Run<'a> {
    id: String,
    instances: Vec<Instance<'a>>,
}

impl Run<'_> {
    /// The beginning of its addresses, `16.0.` for example.
    fn prefix(&self) -> String {
        let mut bytes = self.instances[0].v4.split('.');
        format!("{}.{}.", bytes.next().expect("four bytes"), bytes.next().expect("four bytes"))
    }
}

struct Instance<'a> {
    stack: &'a Stack,
    control: SocketAddr,
    v4: String,
    v6: String,
}

impl Instance<'_> {
    fn ask(&self, path: &str) -> Value {
        let answer = self.asked(path);
        answer.unwrap_or_else(|| panic!("{} does not answer {path}", self.v4))
    }

    /// Asks through its exposed port.
    fn asked(&self, path: &str) -> Option<Value> {
        let text = self.stack.world.here(|| {
            let mut stream = TcpStream::connect(self.control).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// What became of attempts to reach something.
    fn tries(&self, attempts: &[String]) -> Vec<(String, String)> {
        let list: Vec<String> =
            attempts.iter().map(|one| format!("reach={}", one.replace(' ', "+"))).collect();
        let found = self.ask(&format!("/try?{}", list.join("&")));
        let of = |attempt: &String| found[attempt].as_str().expect("an outcome").to_owned();
        attempts.iter().map(|attempt| (attempt.clone(), of(attempt))).collect()
    }

    /// Who has spoken to it since it was last asked.
    fn heard(&self) -> Vec<String> {
        let heard = self.ask("/heard");
        let lines = heard.as_array().expect("a list").iter();
        lines.map(|line| line.as_str().expect("a line").to_owned()).collect()
    }
}

/// All ways to an instance's addresses.
fn ways_to(instance: &Instance<'_>) -> Vec<String> {
    let (v4, v6) = (&instance.v4, &instance.v6);
    let hows = ["udp", "tcp", "ping"];
    hows.iter().flat_map(|how| [format!("{how} {v4}"), format!("{how} {v6}")]).collect()
}

/// What is on the worker's host and next to it.
fn ways_to_the_host(nats: &str) -> Vec<String> {
    let mut ways = Vec::new();
    for host in [HERE.to_string(), "10.77.0.1".to_owned(), "127.0.0.1".to_owned()] {
        for port in [nats, "4222"] {
            ways.extend(["udp", "tcp"].map(|how| format!("{how} {host} {port}")));
        }
    }
    for host in [HERE.to_string(), "10.77.0.1".to_owned(), "169.254.169.254".to_owned()] {
        ways.push(format!("ping {host}"));
    }
    ways.extend(["udp", "tcp"].map(|how| format!("{how} 169.254.169.254 80")));
    ways
}

fn nothing_of_the_other_run_or_the_host_is_reached(runner: &str) {
    let stack = Stack::start();
    let private = ["address", "add", "10.77.0.1/24", "dev", "wire0"];
    stack.world.here(|| crate::hosts::ip(&private));
    let bait = stack.world.here(Bait::lay);
    let runs = [stack.submit(runner), stack.submit(runner)];
    assert_ne!(runs[0].prefix(), runs[1].prefix());

    // What is theirs they reach, so that silence elsewhere means something.
    for run in &runs {
        let [open, shut] = run.instances.as_slice() else { panic!("two instances") };
        for (from, to) in [(open, shut), (shut, open)] {
            for (attempt, outcome) in from.tries(&ways_to(to)) {
                assert_eq!(outcome, "answer", "{} {attempt}", from.v4);
            }
            let everyone = [format!("udp {}255.255", run.prefix()), "udp 224.0.0.251".to_owned()];
            for (attempt, outcome) in from.tries(&everyone) {
                assert_eq!(outcome, "answer", "{} {attempt}", from.v4);
            }
        }
        let outside = [format!("tcp {THERE} 80")];
        assert_eq!(open.tries(&outside)[0].1, "answer");
        assert_ne!(shut.tries(&outside)[0].1, "answer");
    }

    let host = ways_to_the_host(&stack.nats());
    for (run, other) in [(&runs[0], &runs[1]), (&runs[1], &runs[0])] {
        let mut attempts = host.clone();
        attempts.extend(other.instances.iter().flat_map(ways_to));
        attempts.push(format!("udp {}255.255", other.prefix()));
        for instance in &run.instances {
            for (attempt, outcome) in instance.tries(&attempts) {
                let tried = !outcome.contains("no socket");
                assert!(tried && outcome != "answer", "{} {attempt}: {outcome}", instance.v4);
            }
            // To everyone, which is everyone of the own run.
            instance.tries(&["udp 255.255.255.255".to_owned(), "udp 224.0.0.251".to_owned()]);
        }
    }
    for run in &runs {
        for instance in &run.instances {
            let heard = instance.heard();
            let own = |line: &&String| {
                let of = |one: &Instance<'_>| line.ends_with(&one.v4) || line.ends_with(&one.v6);
                run.instances.iter().any(of)
            };
            assert!(!heard.is_empty());
            assert_eq!(heard.iter().find(|line| !own(line)), None, "{}: {heard:?}", instance.v4);
        }
    }
    bait.is_untouched();

    for run in &runs {
        for instance in &run.instances {
            instance.ask("/end");
        }
        stack.command(&["wait", &run.id]);
    }
    stack.up.ctrl_c();
    stack.up.finish().ends_with(0);
}

#[test]
fn nothing_of_another_run_or_the_host_is_reached_from_namespaces() {
    nothing_of_the_other_run_or_the_host_is_reached("netns");
}

#[test]
fn nothing_of_another_run_or_the_host_is_reached_from_containers() {
    nothing_of_the_other_run_or_the_host_is_reached("docker");
}
