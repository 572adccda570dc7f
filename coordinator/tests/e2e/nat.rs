//! NATs, from the composition to what instances on both sides of them see.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Composition, Home, LIMIT, processes, wait_until};

/// Group `public` answers everybody with where it sees them, and also from a port that nobody has asked, until it has
/// heard nobody for a while. All others ask every 100 ms until they have been seen in two ways, and a second longer.
const SCRIPT: &str = r#"
const dgram = require('dgram')
const fs = require('fs')
const outputs = process.env.TEST_OUTPUTS_PATH
const run = process.env.GROUNDSWELL_RUN_SUBNET || process.env.TEST_SUBNET
const server = run.replace('.0/16', '.2')
const end = () => { console.log('{"event":{"success_event":{}}}'); process.exit(0) }
if (process.env.TEST_GROUP_ID === 'public') {
  const asked = dgram.createSocket('udp4'), unasked = dgram.createSocket('udp4')
  let silence
  asked.on('message', (message, from) => {
    clearTimeout(silence)
    silence = setTimeout(end, 5000)
    asked.send(`${from.address}:${from.port}`, from.port, from.address)
    unasked.send('unasked', from.port, from.address)
  })
  unasked.bind(4001, () => asked.bind(4000))
} else {
  const seen = [], unasked = new Set()
  const socket = dgram.createSocket('udp4')
  socket.on('message', (message, from) => {
    if (from.port !== 4000) unasked.add(from.port)
    else if (!seen.includes(`${message}`) && seen.push(`${message}`) === 2) setTimeout(write, 1000)
  })
  socket.bind(5000)
  setInterval(() => socket.send('where am I', 4000, server, () => {}), 100)
  const write = () => {
    fs.writeFileSync(`${outputs}/seen.json`, JSON.stringify({ subnet: process.env.TEST_SUBNET, seen, unasked: [...unasked] }))
    end()
  }
}
"#;

const MANIFEST: &str = r#"
name = "where"
[defaults]
builder = "exec:command"
runner = "netns"
[builders."exec:command"]
entrypoint = ["node", "where.js"]
[runners."netns"]
outcome_from = "stdout"
[runners."docker"]
outcome_from = "stdout"
[[testcases]]
name = "am-i"
instances = { min = 2, max = 100, default = 5 }
"#;

const COMPOSITION: &str = r#"
[global]
plan = "where"
case = "am-i"
runner = "RUNNER"
builder = "exec:command"
timeout = "1m"

[[groups]]
id = "public"
instances = { count = 1 }

[[groups]]
id = "flat"
instances = { count = 2 }
  [groups.nat]
  kind = "port-restricted"
  members = 2

[[groups]]
id = "open"
instances = { count = 1 }
  [groups.nat]
  kind = "full-cone"
  lan = "10.0.0.0/8"

[[groups]]
id = "mobile"
instances = { count = 2 }
  [groups.nat]
  kind = "full-cone"
    [groups.nat.outer]
    kind = "symmetric"
    members = 2

[[schedule]]
at = "10s"
kind = "rebind"
on = ["flat", "mobile"]

[[schedule]]
at = "10s"
kind = "readdress"
on = "open"
"#;

/// What an instance has heard.
struct Heard {
    subnet: String,
    /// Its addresses and ports, in order.
    seen: Vec<(String, u16)>,
    unasked: usize,
}

fn heard(home: &Home, instance: &str) -> Heard {
    let path = format!("{instance}/seen.json");
    let text = home.run(&["collect", "latest", "--file", &path]).ends_with(0).stdout;
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let seen = value["seen"].as_array().expect("a list").iter().map(|seen| {
        let (address, port) = seen.as_str().and_then(|seen| seen.split_once(':')).expect("both");
        let host: Vec<&str> = address.split('.').skip(2).collect();
        (host.join("."), port.parse().expect("a port"))
    });
    Heard {
        subnet: value["subnet"].as_str().expect("a text").to_owned(),
        seen: seen.collect(),
        unasked: value["unasked"].as_array().expect("a list").len(),
    }
}

fn home_with(runner: &str) -> (Home, String) {
    let home = Home::new();
    home.write("where/where.js", SCRIPT);
    home.write("where/manifest.toml", MANIFEST);
    let file = home.write("nats.toml", &COMPOSITION.replace("RUNNER", runner));
    (home, file)
}

fn each_kind_is_as_it_is_defined(runner: &str, flags: &[&str]) {
    let (home, file) = home_with(runner);
    let mut arguments = vec!["submit", file.as_str()];
    arguments.extend(flags);
    home.run(&arguments).ends_with(0).says("6 = 6 success");
    let names = ["flat/0", "flat/1", "open/0", "mobile/0", "mobile/1"];
    let all: BTreeMap<&str, Heard> = names.map(|name| (name, heard(&home, name))).into();

    for (name, Heard { subnet, seen, unasked }) in &all {
        let case = format!("{name} in {subnet}: {seen:?}, {unasked} unasked");
        let lan = if *name == "open/0" { "10.0.0.0/8" } else { "192.168.1.0/24" };
        assert_eq!(subnet, lan, "{case}");
        // Two NATs in a row do not forget at the same moment, so there may be a mapping in between.
        let rebound = if name.starts_with("mobile") { 2..=3 } else { 2..=2 };
        assert!(rebound.contains(&seen.len()), "before and after the event: {case}");
        let last = &seen[seen.len() - 1];
        // The address of the first instance behind the NAT.
        let front = match &name[..4] {
            "flat" => "0.3",
            "open" => "0.5",
            _ => "0.6",
        };
        assert_eq!(seen[0].0, front, "{case}");
        // Only a full cone lets anybody in; an outer NAT that does not makes it as strict as itself.
        assert_eq!(*unasked > 0, *name == "open/0", "{case}");
        if *name == "open/0" {
            assert_eq!(seen[0].1, 5000, "the port is preserved: {case}");
            assert_ne!(last.0, front, "{case}");
        } else {
            assert_eq!(last.0, front, "{case}");
            assert_ne!(last.1, seen[0].1, "{case}");
        }
    }
    let ports: Vec<u16> = ["flat/0", "flat/1"].iter().map(|one| all[one].seen[0].1).collect();
    assert!(ports.contains(&5000) && ports[0] != ports[1], "one of two has it: {ports:?}");
    assert_ne!(all["mobile/0"].seen[0].1, all["mobile/1"].seen[0].1);
}

#[test]
fn each_kind_is_as_it_is_defined_between_namespaces() {
    each_kind_is_as_it_is_defined("netns", &[]);
}

#[test]
fn each_kind_is_as_it_is_defined_between_containers() {
    each_kind_is_as_it_is_defined("docker", &[]);
}

#[test]
fn each_kind_is_as_it_is_defined_over_three_workers() {
    each_kind_is_as_it_is_defined("netns", &["--workers", "3"]);
}

/// Group `public` answers everybody over IPv6, and also from a port that nobody has asked, until it has heard nobody
/// for a while. All others ask until they have been answered, and listen a second longer. Who has no address says so.
const SCRIPT_V6: &str = r#"
const dgram = require('dgram')
const fs = require('fs')
const os = require('os')
const group = process.env.TEST_GROUP_ID
const run = process.env.GROUNDSWELL_RUN_SUBNET || process.env.TEST_SUBNET
const [a, b] = run.split('.').map(Number)
const server = `fd67:7377::${((a << 8) | b).toString(16)}:2`
const own = os.networkInterfaces().eth1.filter(one => one.address.startsWith('fd67:')).map(one => one.address)
const end = () => { console.log('{"event":{"success_event":{}}}'); process.exit(0) }
const seen = new Set(), unasked = new Set()
const write = () => {
  const subnet = process.env.TEST_SUBNET
  const text = JSON.stringify({ subnet, own, seen: [...seen], unasked: [...unasked] })
  fs.writeFileSync(`${process.env.TEST_OUTPUTS_PATH}/seen.json`, text)
  end()
}
if (group === 'public') {
  const asked = dgram.createSocket('udp6'), other = dgram.createSocket('udp6')
  let silence
  asked.on('message', (message, from) => {
    clearTimeout(silence)
    silence = setTimeout(end, 5000)
    asked.send(from.address, from.port, from.address)
    other.send('unasked', from.port, from.address)
  })
  other.bind(4001, () => asked.bind(4000))
} else if (own.length === 0) {
  write()
} else {
  const socket = dgram.createSocket('udp6')
  socket.on('message', (message, from) => {
    if (from.port !== 4000) unasked.add(from.port)
    else if (seen.size === 0 && seen.add(`${message}`)) setTimeout(write, 1000)
  })
  socket.bind(5000)
  setInterval(() => socket.send('where am I', 4000, server, () => {}), 100)
}
"#;

const COMPOSITION_V6: &str = r#"
[global]
plan = "where"
case = "am-i"
runner = "RUNNER"
builder = "exec:command"
timeout = "1m"

[[groups]]
id = "public"
instances = { count = 1 }

[[groups]]
id = "flat"
instances = { count = 2 }
  [groups.nat]
  kind = "symmetric"
  members = 2

[[groups]]
id = "open"
instances = { count = 2 }
  [groups.nat]
  kind = "port-restricted"
  ipv6 = "open"
    [groups.nat.outer]
    kind = "symmetric"
    members = 2
    ipv6 = "open"

[[groups]]
id = "old"
instances = { count = 1 }
  [groups.nat]
  kind = "full-cone"
  ipv6 = "off"
"#;

/// What an instance knows of its IPv6: its own addresses, as whom it was answered, and who else has reached it.
fn six(home: &Home, instance: &str) -> [Vec<String>; 3] {
    let path = format!("{instance}/seen.json");
    let text = home.run(&["collect", "latest", "--file", &path]).ends_with(0).stdout;
    let value: Value = serde_json::from_str(&text).expect("JSON");
    ["own", "seen", "unasked"].map(|key| {
        let list = value[key].as_array().expect("a list");
        list.iter().map(|one| one.to_string().trim_matches('"').to_owned()).collect()
    })
}

fn ipv6_is_routed_as_it_is_said(runner: &str, flags: &[&str]) {
    let home = Home::new();
    home.write("where/where.js", SCRIPT_V6);
    home.write("where/manifest.toml", MANIFEST);
    let file = home.write("six.toml", &COMPOSITION_V6.replace("RUNNER", runner));
    let mut arguments = vec!["submit", file.as_str()];
    arguments.extend(flags);
    home.run(&arguments).ends_with(0).says("6 = 6 success");
    for (number, instance) in (3..).zip(["flat/0", "flat/1", "open/0", "open/1"]) {
        let [own, seen, unasked] = six(&home, instance);
        let case = format!("{instance} {own:?}: {seen:?}, {unasked:?} unasked");
        assert_eq!(own, seen, "nothing is translated: {case}");
        assert!(own.len() == 1 && own[0].ends_with(&format!(":{number}")), "{case}");
        assert_eq!(unasked.is_empty(), instance.starts_with("flat"), "{case}");
    }
    assert_eq!(six(&home, "old/0").map(|list| list.len()), [0, 0, 0]);
}

#[test]
fn ipv6_is_routed_as_it_is_said_between_namespaces() {
    ipv6_is_routed_as_it_is_said("netns", &[]);
}

#[test]
fn ipv6_is_routed_as_it_is_said_between_containers() {
    ipv6_is_routed_as_it_is_said("docker", &[]);
}

#[test]
fn ipv6_is_routed_as_it_is_said_over_three_workers() {
    ipv6_is_routed_as_it_is_said("netns", &["--workers", "3"]);
}

#[test]
fn the_rust_crate_finds_its_address_behind_a_nat_and_configures_the_router() {
    for mut composition in [
        Composition::netns("barrier", "exchange", 6),
        Composition::docker("barrier", "exchange", 6),
    ] {
        composition.group = "nat = { kind = \"symmetric\", members = 6 }";
        let ran = Home::new().submit(&composition, &["--workers", "2"]).ends_with(0);
        ran.says("6 = 6 success").says("all accounted for");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let (home, _) = home_with("netns");
    for (good, bad, why) in [
        ("lan = \"10.0.0.0/8\"", "lan = \"16.1.0.0/16\"", "which overlaps 16.0.0.0/4"),
        ("kind = \"symmetric\"", "kind = \"conical\"", "there is no kind of NAT `conical`"),
        ("members = 2\n\n", "members = 0\n\n", "`members` is 0"),
        ("members = 2\n\n", "ipv6 = \"on\"\n\n", "`ipv6` is `on`"),
        (
            "on = [\"flat\", \"mobile\"]",
            "on = \"public\"",
            "nothing that is rebound is behind a NAT",
        ),
    ] {
        let text = COMPOSITION.replace("RUNNER", "netns").replacen(good, bad, 1);
        let file = home.write("bad.toml", &text);
        let refused = home.run(&["submit", &file]);
        assert!(![Some(0), None].contains(&refused.code), "{bad}: {}", refused.stderr);
        refused.says(why).says("bad.toml:");
    }
}

#[test]
fn after_kill_9_no_router_is_left() {
    let (home, file) = home_with("netns");
    let running = home.start(&["submit", &file, "--progress", "plain"]);
    running.until("phase=running");
    let path = home.dir.path().display().to_string();
    let keeping = || processes(&path).len();
    assert!(keeping() > 3, "spawner and routers are processes of this home");
    running.signal(Signal::SIGKILL);
    running.finish();
    wait_until("no process is left", LIMIT, || keeping() == 0);
}
