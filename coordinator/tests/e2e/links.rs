//! Links between groups and a schedule, from the composition to what instances measure.

use std::path::{Path, PathBuf};

use crate::harness::Home;

/// Each instance pings all three for six seconds: the first two are group `near`, the third is `far`.
const SCRIPT: &str = r#"
net="${TEST_SUBNET%.0.0/16}"
for host in 2 3 4; do
  busybox ping -c 60 -i 0.1 -W 1 "$net.0.$host" > "$TEST_OUTPUTS_PATH/$host" 2>&1 &
done
wait
echo '{"event":{"success_event":{}}}'
"#;

const MANIFEST: &str = r#"
name = "pings"
[defaults]
builder = "exec:command"
runner = "netns"
[builders."exec:command"]
entrypoint = ["sh", "run.sh"]
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

/// What `ping` says at its end: how many of 60 came back, and the shortest round trip in milliseconds.
fn measured(text: &str) -> (u32, f64) {
    let received = text.split(" packets received").next().and_then(|all| all.rsplit(' ').next());
    let shortest = text.split("min/avg/max = ").nth(1).and_then(|all| all.split('/').next());
    let parse = || Some((received?.parse().ok()?, shortest?.parse().ok()?));
    parse().unwrap_or_else(|| panic!("not what ping prints:\n{text}"))
}

/// Files of this name below a directory.
fn named(name: &str, dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else if entry.file_name() == name {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn groups_are_as_far_apart_as_the_composition_says_and_a_partition_comes_and_goes() {
    let home = Home::new();
    home.write("pings/run.sh", SCRIPT);
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
        assert_eq!(received, 60, "{within}");
        assert!(shortest < 20.0, "{within}: {shortest} ms");
    }
    // There 20 ms, back 10 ms of the access link and 20 ms.
    for between in ["near/0/4", "near/1/4", "far/0/2", "far/0/3"] {
        let (received, shortest) = ping(between);
        assert!((35..=50).contains(&received), "{between}: {received} of 60");
        assert!((50.0..70.0).contains(&shortest), "{between}: {shortest} ms");
    }

    let logs = named("events.jsonl", home.dir.path());
    let lines: Vec<String> = logs
        .iter()
        .flat_map(|log| {
            std::fs::read_to_string(log)
                .map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        })
        .flatten()
        .filter(|line| line.contains("\"schedule\""))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("partition `atlantic`: asked for at 2.000 s, done at 2.0"),
        "{lines:?}"
    );
    assert!(lines[1].contains("is over: asked for at 3.500 s, done at 3.5"), "{lines:?}");
}

#[test]
fn a_region_that_does_not_exist_is_refused_before_anything_runs() {
    let home = Home::new();
    home.write("pings/run.sh", SCRIPT);
    home.write("pings/manifest.toml", MANIFEST);
    home.write("world.csv", ",eu,uk\neu,0,20\nuk,20,0\n");
    let file = home.write("links.toml", COMPOSITION);
    let refused = home.run(&["submit", &file]);
    assert_ne!(refused.code, Some(0));
    refused.says("`world.csv` has no region `us`").says("links.toml:16");
}
