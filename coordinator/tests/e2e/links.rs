//! Links between groups and a schedule, from the composition to what instances measure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Home, named};

/// Each instance sends all three a packet each 100 ms, and sends back what it gets. The first two instances are
/// group `near`, the third is `far`. A raw socket for real pings is nothing that an instance may have.
const SCRIPT: &str = r#"
const dgram = require('dgram')
const fs = require('fs')
const net = process.env.TEST_SUBNET.replace('.0.0/16', '')
const hosts = ['2', '3', '4']
const trips = Object.fromEntries(hosts.map(host => [host, []]))
const socket = dgram.createSocket('udp4')
socket.on('message', (message, from) => {
  if (message[0] === 0) return socket.send(Buffer.concat([Buffer.from([1]), message.subarray(1)]), from.port, from.address)
  trips[from.address.split('.')[3]].push(performance.now() - message.readDoubleBE(1))
})
socket.bind(4000, () => {
  let sent = 0
  const timer = setInterval(() => {
    const message = Buffer.alloc(9)
    for (const host of hosts) {
      message.writeDoubleBE(performance.now(), 1)
      socket.send(Buffer.from(message), 4000, `${net}.0.${host}`)
    }
    if (++sent === 60) clearInterval(timer)
  }, 100)
})
setTimeout(() => {
  for (const host of hosts) {
    fs.writeFileSync(`${process.env.TEST_OUTPUTS_PATH}/${host}`, `${trips[host].length} ${Math.min(...trips[host])}`)
  }
  console.log('{"event":{"success_event":{}}}')
  process.exit(0)
}, 8000)
"#;

const MANIFEST: &str = r#"
name = "pings"
[defaults]
builder = "exec:command"
runner = "netns"
[builders."exec:command"]
entrypoint = ["node", "pings.js"]
[runners."netns"]
outcome_from = "stdout"
[[testcases]]
name = "ping"
instances = { min = 3, max = 3, default = 3 }
"#;

const COMPOSITION: &str = r#"
[global]
plan = "pings"
case = "ping"
runner = "netns"
builder = "exec:command"
timeout = "1m"

[[groups]]
id = "near"
region = "eu"
instances = { count = 2 }

[[groups]]
id = "far"
region = "us"
instances = { count = 1 }

[groups.link]
latency = "10ms"

[network]
matrix = "world.csv"

[[schedule]]
at = "2s"
for = "1500ms"
kind = "partition"
from = "region:us"
to = "*"
name = "atlantic"
"#;

/// How many of 60 came back, and the shortest round trip in milliseconds.
fn measured(text: &str) -> (u32, f64) {
    let parse = || {
        let (received, shortest) = text.split_once(' ')?;
        Some((received.parse().ok()?, shortest.trim().parse().ok()?))
    };
    parse().unwrap_or_else(|| panic!("not what the plan writes: {text}"))
}

#[test]
fn groups_are_as_far_apart_as_the_composition_says_and_a_partition_comes_and_goes() {
    let home = Home::new();
    home.write("pings/pings.js", SCRIPT);
    home.write("pings/manifest.toml", MANIFEST);
    home.write("world.csv", ",eu,us\neu,0,20\nus,20,0\n");
    let file = home.write("links.toml", COMPOSITION);

    let checked = home.run(&["validate", &file]).ends_with(0).stdout;
    let line = "links: 1 of 2 groups with access links, 0 to 20 ms between groups, 2 changes scheduled, the last at 3.5 s";
    assert!(checked.contains(line), "{checked}");

    home.run(&["submit", &file]).ends_with(0).says("3 = 3 success");
    let ping = |path: &str| {
        measured(&home.run(&["collect", "latest", "--file", path]).ends_with(0).stdout)
    };
    for within in ["near/0/3", "near/1/2"] {
        let (received, shortest) = ping(within);
        // The others may begin a little later.
        assert!(received >= 57, "{within}: {received} of 60");
        assert!(shortest < 20.0, "{within}: {shortest} ms");
    }
    // There 20 ms, back 10 ms of the access link and 20 ms.
    for between in ["near/0/4", "near/1/4", "far/0/2", "far/0/3"] {
        let (received, shortest) = ping(between);
        assert!((35..=50).contains(&received), "{between}: {received} of 60");
        assert!((50.0..70.0).contains(&shortest), "{between}: {shortest} ms");
    }

    let mut lines = BTreeSet::new();
    for log in named("events.jsonl", home.dir.path()) {
        let text = std::fs::read_to_string(log).expect("readable");
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        // The coordinator's log has the same events by its own clock.
        let fired = events.filter(|event| event["kind"] == "schedule");
        lines.extend(fired.filter_map(|event| event["text"].as_str().map(str::to_owned)));
    }
    let lines: Vec<String> = lines.into_iter().collect();
    let of = |at: &str| {
        lines.iter().filter(|line| line.contains(at) && line.contains(", done at ")).count()
    };
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(of("partition `atlantic`: asked for at 2.000 s"), 1, "{lines:?}");
    assert_eq!(of("partition `atlantic` is over: asked for at 3.500 s"), 1, "{lines:?}");
}

#[test]
fn a_region_that_does_not_exist_is_refused_before_anything_runs() {
    let home = Home::new();
    home.write("pings/pings.js", SCRIPT);
    home.write("pings/manifest.toml", MANIFEST);
    home.write("world.csv", ",eu,uk\neu,0,20\nuk,20,0\n");
    let file = home.write("links.toml", COMPOSITION);
    let refused = home.run(&["submit", &file]);
    assert_ne!(refused.code, Some(0));
    refused.says("`world.csv` has no region `us`").says("links.toml:16");
}
