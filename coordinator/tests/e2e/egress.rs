//! What instances reach outside their data network, and what they do not: with a host of its own for the coordinator
//! and its workers, and another one for the Internet.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Composition, Home, LIMIT, fetch_crates, wait_until};
use crate::hosts::{HERE, THERE, World};

#[test]
fn traffic_is_allowed_and_blocked_as_the_plan_asks() {
    fetch_crates("network");
    let world = World::new();
    world.serve();
    let home = Home::new();
    let group = "run = { test_params = { url = \"http://203.0.113.2/\" } }";
    for case in ["traffic-allowed", "traffic-blocked"] {
        let netns = Composition { group, ..Composition::netns("network", case, 2) };
        world.here(|| home.submit(&netns, &[])).passes(2);
        let docker = Composition { group, ..Composition::docker("network", case, 2) };
        world.here(|| home.submit(&docker, &[])).passes(2);
    }
}

#[test]
fn instances_use_the_data_network_and_no_other() {
    let home = Home::new();
    home.submit(&Composition::netns("verify", "uses-data-network", 4), &[]).passes(4);
    home.submit(&Composition::docker("verify", "uses-data-network", 3), &[]).passes(3);
    let workers = ["--workers", "3"];
    home.submit(&Composition::netns("verify", "uses-data-network", 6), &workers).passes(6);
}

/// Looks names up, dials addresses, and then serves its port until it was asked once. It writes down all it has seen.
const SCRIPT: &str = r#"
const dns = require('dns').promises
const fs = require('fs')
const http = require('http')
const net = require('net')
const params = Object.fromEntries(process.env.TEST_INSTANCE_PARAMS.split('|').map(one => one.split('=')))
const seen = { names: {}, dials: {}, port: process.env.DEBUG_PORT, hosts: process.env.ADDITIONAL_HOSTS }

async function look(name) {
  const start = performance.now()
  const found = await dns.lookup(name, { all: true, family: 4 }).then(all => all.map(one => one.address).sort().join(' '), err => err.code)
  seen.names[name] = [found, performance.now() - start]
}

function dial(address) {
  const [host, port] = address.split(':')
  const start = performance.now()
  return new Promise(done => {
    const socket = net.connect({ host, port, timeout: 5000 })
    const end = what => { socket.destroy(); seen.dials[address] = [what, performance.now() - start]; done() }
    // Linux says now and then that a connection is made when its refusal comes in the middle of connect(). It has no peer.
    const made = () => socket.remoteAddress ? end('connected') : (socket.destroy(), done(dial(address)))
    socket.on('connect', made).on('error', err => end(err.code)).on('timeout', () => end('silence'))
  })
}

async function main() {
  for (const name of params.names.split(',').concat(process.env.HOSTNAME)) await look(name)
  for (const address of params.dials.split(',')) await dial(address)
  const server = http.createServer((request, response) => {
    response.end(`hello from ${process.env.TEST_GROUP_ID}`)
    server.close()
    fs.writeFileSync(`${process.env.TEST_OUTPUTS_PATH}/seen.json`, JSON.stringify(seen))
    console.log('{"event":{"success_event":{}}}')
  })
  server.keepAliveTimeout = 1
  server.listen(Number(process.env.DEBUG_PORT), '127.0.0.1')
}
main()
"#;

const MANIFEST: &str = r#"
name = "outside"
[defaults]
builder = "exec:command"
runner = "netns"
[builders."exec:command"]
entrypoint = ["node", "outside.js"]
[runners."netns"]
outcome_from = "stdout"
[runners."docker"]
outcome_from = "stdout"
[[testcases]]
name = "look"
instances = { min = 3, max = 3, default = 3 }
"#;

/// A run with a group that may reach the Internet and one that may not.
struct Outside {
    world: World,
    home: Home,
    file: String,
}

impl Outside {
    /// `dials` are what each instance dials.
    fn new(runner: &str, more: &str, dials: &[String]) -> Self {
        let (world, home) = (World::new(), Home::new());
        world.serve();
        home.write("outside/outside.js", SCRIPT);
        home.write("outside/manifest.toml", MANIFEST);
        let text = format!(
            "[global]\nplan = \"outside\"\ncase = \"look\"\nrunner = \"{runner}\"\nbuilder = \"exec:command\"\ntimeout = \"3m\"\n\
             [global.run_config]\nexposed_ports = {{ debug = \"6060\" }}\n{more}\n\
             [global.run.test_params]\nnames = \"open,shut-1.gs,Shut,nobody.gs,nobody.example\"\ndials = \"{}\"\n\
             [[groups]]\nid = \"open\"\ninstances = {{ count = 1 }}\n[groups.egress]\nallow = true\nrate = \"50Mbit\"\n\
             [[groups]]\nid = \"shut\"\ninstances = {{ count = 2 }}\n",
            dials.join(",")
        );
        let file = home.write("outside.toml", &text);
        Self { world, home, file }
    }

    /// Runs it, asks each instance through its exposed port, and returns what they have seen.
    fn run(&self) -> [Value; 3] {
        let running =
            self.world.here(|| self.home.start(&["submit", &self.file, "--progress", "plain"]));
        let exposed = "exposed    debug of i2 (port 6060) at ";
        wait_until("its ports are known", LIMIT, || {
            running.stderr().contains(exposed)
                || !running.stderr().is_empty() && over(&running.stderr())
        });
        let said = running.stderr();
        for (instance, group) in ["open", "shut", "shut"].iter().enumerate() {
            let start = format!("exposed    debug of i{instance} (port 6060) at ");
            let address = said.lines().find_map(|line| line.split(&start).nth(1));
            let address = address.unwrap_or_else(|| panic!("not exposed: {said}"));
            let address: SocketAddr = address.trim().parse().expect("an address");
            wait_until("the instance answers", LIMIT, || self.ask(address, group));
        }
        running.finish().passes(3);
        let shown = self.home.run(&["status", "latest"]).ends_with(0).stdout;
        assert!(shown.contains("debug of i0 (port 6060) at "), "{shown}");
        assert_eq!(self.home.status()["exposed"].as_array().map(Vec::len), Some(3));
        ["open/0", "shut/0", "shut/1"].map(|instance| {
            let file = format!("{instance}/seen.json");
            let text = self.home.run(&["collect", "latest", "--file", &file]).ends_with(0).stdout;
            serde_json::from_str(&text).expect("JSON")
        })
    }

    /// Asks through an exposed port; true once it is answered.
    fn ask(&self, address: SocketAddr, group: &str) -> bool {
        self.world.here(|| {
            let Ok(mut stream) = TcpStream::connect(address) else { return false };
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
            let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut text = String::new();
            asked.is_ok()
                && stream.read_to_string(&mut text).is_ok()
                && text.ends_with(&format!("hello from {group}"))
        })
    }
}

/// Whether a run has ended before it came so far.
fn over(said: &str) -> bool {
    said.contains("FAILED") || said.contains("INFRA")
}

/// What became of a look-up or a dial, and whether it took no time.
#[track_caller]
fn was(seen: &Value, kind: &str, of: &str, what: &str) {
    let (found, ms) = (&seen[kind][of][0], seen[kind][of][1].as_f64().expect("a time"));
    assert_eq!(found, what, "{of}: {seen:#}");
    assert!(ms < 2000.0, "{of}: {ms} ms");
}

fn names_are_answered(seen: &[Value; 3]) {
    for (index, one) in seen.iter().enumerate() {
        was(one, "names", "open", "16.0.0.2");
        was(one, "names", "shut-1.gs", "16.0.0.4");
        was(one, "names", "Shut", "16.0.0.3 16.0.0.4");
        was(one, "names", "nobody.gs", "ENOTFOUND");
        let own = one["names"].as_object().expect("names");
        let own = own.keys().find(|name| name.starts_with(&format!("i{index}-")));
        was(one, "names", own.expect("its host name"), &format!("16.0.0.{}", index + 2));
        assert_eq!(one["port"], "6060");
    }
    for shut in &seen[1..] {
        was(shut, "names", "nobody.example", "ENOTFOUND");
    }
}

#[test]
fn groups_reach_what_their_composition_allows_and_nothing_next_to_it() {
    for runner in ["netns", "docker"] {
        let internet = format!("{THERE}:80");
        let forbidden = [
            format!("{HERE}:4222"),
            "127.0.0.1:4222".to_owned(),
            "169.254.169.254:80".to_owned(),
            "16.1.0.2:6060".to_owned(),
            "10.0.0.1:80".to_owned(),
        ];
        let mut dials = forbidden.to_vec();
        dials.push(internet.clone());
        let outside = Outside::new(runner, "", &dials);
        // Like a server of Groundswell's own: open to everyone who comes so far.
        let _server = outside.world.here(|| TcpListener::bind(("0.0.0.0", 4222)).expect("bound"));
        let seen = outside.run();
        names_are_answered(&seen);
        was(&seen[0], "dials", &internet, "connected");
        for shut in &seen[1..] {
            was(shut, "dials", &internet, "ENETUNREACH");
        }
        for address in &forbidden {
            let [to_open, to_shut] = match address.starts_with("127.") {
                true => ["ECONNREFUSED"; 2],
                false => ["EHOSTUNREACH", "ENETUNREACH"],
            };
            was(&seen[0], "dials", address, to_open);
            was(&seen[1], "dials", address, to_shut);
        }
        let fates = outside.home.status()["network"]["fates"].clone();
        assert!(
            fates["denied"].as_u64() >= Some(4) && fates["outside"].as_u64() >= Some(3),
            "{fates}"
        );
    }
}

#[test]
fn an_extra_host_is_reached_by_everyone_and_one_that_is_unknown_is_told() {
    let there = format!("{THERE}:80");
    let other = "203.0.113.3:80".to_owned();
    let extra = format!("additional_hosts = [\"{THERE}\"]");
    let outside = Outside::new("netns", &extra, &[there.clone(), other.clone()]);
    let seen = outside.run();
    for one in &seen {
        was(one, "dials", &there, "connected");
        assert_eq!(one["hosts"], THERE.to_string());
    }
    was(&seen[1], "dials", &other, "ENETUNREACH");

    let text = std::fs::read_to_string(&outside.file).expect("written");
    let unknown = text.replace(&format!("[\"{THERE}\"]"), "[\"nobody.example\"]");
    std::fs::write(&outside.file, unknown).expect("written");
    let refused = outside.world.here(|| outside.home.run(&["submit", &outside.file]));
    assert!(![Some(0), None].contains(&refused.code), "{}", refused.stderr);
    refused.says("extra host `nobody.example` is not known to this worker");
}

#[test]
fn what_is_no_egress_is_refused_before_anything_runs() {
    let home = Home::new();
    let group = "egress = { allow = true, rate = \"fast\", hosts = [\"::1\", \"no host\"] }";
    let composition = Composition { group, ..Composition::netns("placebo", "ok", 2) };
    let refused = home.submit(&composition, &[]);
    assert_ne!(refused.code, Some(0));
    refused
        .says("`rate` is `fast`, not a rate")
        .says("`::1` is not a host")
        .says("`no host` is not a host");
}
