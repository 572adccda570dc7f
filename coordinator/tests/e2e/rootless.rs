//! Without root: shapes, NATs and egress work inside an unprivileged user namespace as they do for root.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Composition, Home, Ran, conclusive, repository};
use crate::hosts::{HERE, THERE, World};

/// The user `nobody`.
const NOBODY: &str = "65534";

/// A directory of `nobody`'s with a coordinator in it, a nats-server and a home.
struct Nobody {
    dir: TempDir,
}

impl Nobody {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::copy(env!("CARGO_BIN_EXE_coordinator"), dir.path().join("coordinator"))
            .expect("copied");
        std::fs::copy(nats_server(), dir.path().join("nats-server")).expect("copied");
        Self { dir }
    }

    /// Takes over what another home has built, for `nobody` has no toolchain.
    fn take_builds_of(&self, home: &Home) {
        let to = self.dir.path().join("home");
        std::fs::create_dir_all(&to).expect("made");
        run("cp", &["-r".as_ref(), home.dir.path().join("store").as_os_str(), to.as_os_str()]);
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the directory")).expect("made");
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// Runs the coordinator as `nobody`.
    fn run(&self, arguments: &[&str]) -> Ran {
        let dir = self.dir.path();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir, mode).expect("set");
        run("chown", &["-R".as_ref(), format!("{NOBODY}:{NOBODY}").as_ref(), dir.as_os_str()]);
        // Distributions let every user open the TUN device; this mount namespace does too.
        let tun = "rm -f $0; mknod -m 666 $0 c 10 200 && mount --bind $0 /dev/net/tun && \
                   exec setpriv \"$@\"";
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", tun])
            .arg(dir.join("tun"))
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .arg(dir.join("coordinator"))
            .args(arguments)
            .env("GROUNDSWELL_HOME", dir.join("home"))
            .env("XDG_CONFIG_HOME", dir)
            .env("HOME", dir)
            .env("GROUNDSWELL_NATS_SERVER", dir.join("nats-server"))
            .current_dir(dir)
            .output()
            .expect("unshare runs");
        Ran::of(&output)
    }
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(program).args(arguments).status().expect("it runs");
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn nats_server() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("nats-server"));
    found.into_iter().find(|path| path.is_file()).expect("a nats-server on the path")
}

#[test]
fn a_plan_runs_in_a_user_namespace_and_the_missing_limits_are_told() {
    let nobody = Nobody::new();
    let plan = repository().join("plans/example-sh");
    run("cp", &["-r".as_ref(), plan.as_os_str(), nobody.dir.path().as_os_str()]);
    let plan = nobody.dir.path().join("example-sh").display().to_string();
    let arguments = ["submit", "--case", "environment", "--instances", "2", "--plan", &plan];
    let how = ["--runner", "netns", "--builder", "exec:command"];
    let ran = nobody.run(&[&arguments[..], &how[..]].concat()).passes(2);
    assert!(ran.stderr.contains("limit"), "{}", ran.stderr);
}

/// The one image that a home has built.
fn image_of(home: &Home) -> String {
    let images = std::fs::read_dir(home.dir.path().join("store/builds/of-blob")).expect("built");
    let names: Vec<_> = images.flatten().map(|entry| entry.path()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].file_stem().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn shapes_and_filters_hold_as_they_do_for_root() {
    let nobody = Nobody::new();
    let cases: [(&str, &[&str], u32); 2] =
        [("ping-pong", &["ping-pong"], 2), ("splitbrain", &["reject", "drop"], 6)];
    for (plan, cases, count) in cases {
        let home = Home::new();
        home.submit(&Composition::netns(plan, cases[0], count), &[]).passes(count);
        nobody.take_builds_of(&home);
        let from = repository().join("plans").join(plan);
        let to = nobody.dir.path().join(plan);
        run("cp", &["-r".as_ref(), from.as_os_str(), to.as_os_str()]);
        for case in cases {
            let file = home.composition(&Composition::netns(plan, case, count));
            let text = std::fs::read_to_string(file).expect("written");
            let text = text.replace(&from.display().to_string(), &to.display().to_string());
            let image = format!("run = {{ artifact = \"sha256:{}\" }}\n", image_of(&home));
            let file = nobody.write("composition.toml", &(text + &image));
            conclusive(|| nobody.run(&["submit", &file])).passes(count);
        }
    }
}

/// Group `public` tells everybody who asks where it sees them. All others ask it, dial what they are told to, write
/// down what came of it, and say so to `public`, which ends when it has heard that from all.
const SCRIPT: &str = r#"
const dgram = require('dgram')
const fs = require('fs')
const net = require('net')
const params = Object.fromEntries(process.env.TEST_INSTANCE_PARAMS.split('|').map(one => one.split('=')))
const run = process.env.GROUNDSWELL_RUN_SUBNET || process.env.TEST_SUBNET
const server = run.replace('.0/16', '.2')
const end = () => { console.log('{"event":{"success_event":{}}}'); process.exit(0) }
const socket = dgram.createSocket('udp4')

function dial (address) {
  const [host, port] = address.split(':')
  return new Promise(done => {
    const socket = net.connect({ host, port, timeout: 5000 })
    const end = what => { socket.destroy(); done([address, what]) }
    // A refusal in the middle of connect() may look like a connection, but has no peer.
    const made = () => socket.remoteAddress ? end('connected') : (socket.destroy(), done(dial(address)))
    socket.on('connect', made).on('error', err => end(err.code)).on('timeout', () => end('silence'))
  })
}

if (process.env.TEST_GROUP_ID === 'public') {
  const others = Number(process.env.TEST_INSTANCE_COUNT) - 1
  const done = new Set()
  socket.on('message', (message, from) => {
    const seen = `${from.address}:${from.port}`
    if (`${message}` === 'done') done.add(seen)
    socket.send(seen, from.port, from.address, () => { if (done.size === others) setTimeout(end, 1000) })
  })
  socket.bind(4000)
} else {
  let seen
  socket.on('message', message => {
    if (seen) return
    seen = `${message}`
    Promise.all(params.dials.split(',').map(dial)).then(dials => {
      const found = { subnet: process.env.TEST_SUBNET, seen, dials: Object.fromEntries(dials) }
      fs.writeFileSync(`${process.env.TEST_OUTPUTS_PATH}/found.json`, JSON.stringify(found))
      socket.send('done', 4000, server, () => setTimeout(end, 500))
    })
  })
  socket.bind(5000)
  setInterval(() => { if (!seen) socket.send('where am I', 4000, server, () => {}) }, 100)
}
"#;

const MANIFEST: &str = r#"
name = "edge"
[defaults]
builder = "exec:command"
runner = "netns"
[builders."exec:command"]
entrypoint = ["node", "edge.js"]
[runners."netns"]
outcome_from = "stdout"
[runners."docker"]
outcome_from = "stdout"
[[testcases]]
name = "look"
instances = { min = 2, max = 9, default = 3 }
"#;

/// Somebody at home, who may reach the Internet, and a phone behind two NATs, which may not.
const COMPOSITION: &str = r#"
[global]
plan = "edge"
case = "look"
runner = "RUNNER"
builder = "exec:command"
timeout = "2m"
[global.run.test_params]
dials = "DIALS"
[[groups]]
id = "public"
instances = { count = 1 }
[[groups]]
id = "plain"
instances = { count = 1 }
[groups.egress]
allow = true
[[groups]]
id = "home"
instances = { count = 1 }
[groups.nat]
kind = "port-restricted"
[groups.egress]
allow = true
[[groups]]
id = "phone"
instances = { count = 1 }
[groups.nat]
kind = "full-cone"
[groups.nat.outer]
kind = "symmetric"
"#;

/// The addresses they dial: in the Internet an open port and a closed one, then the worker's host.
fn dials() -> [String; 3] {
    [format!("{THERE}:80"), format!("{THERE}:81"), format!("{HERE}:4222")]
}

fn composition(runner: &str) -> String {
    COMPOSITION.replace("RUNNER", runner).replace("DIALS", &dials().join(","))
}

/// Checks what each instance found, as `collect` gives it.
fn each_is_where_it_should_be(collect: impl Fn(&str) -> String) {
    let [open, closed, host] = dials();
    for (group, subnet, front, outcomes) in [
        ("plain", "16.0.0.0/16", "16.0.0.3", ["connected", "ECONNREFUSED", "EHOSTUNREACH"]),
        ("home", "192.168.1.0/24", "16.0.0.4", ["connected", "ECONNREFUSED", "EHOSTUNREACH"]),
        ("phone", "192.168.1.0/24", "16.0.0.5", ["EHOSTUNREACH"; 3]),
    ] {
        let found: Value =
            serde_json::from_str(&collect(&format!("{group}/0/found.json"))).expect("JSON");
        let seen = found["seen"].as_str().expect("a text");
        assert!(seen.starts_with(&format!("{front}:")), "{group} is seen at {seen}");
        assert_eq!(found["subnet"], subnet, "{group}");
        for (address, outcome) in [&open, &closed, &host].into_iter().zip(outcomes) {
            assert_eq!(found["dials"][address], outcome, "{group} {address}: {found:#}");
        }
    }
}

#[test]
fn behind_a_nat_egress_goes_through_the_router() {
    for runner in ["netns", "docker"] {
        let (world, home) = (World::new(), Home::new());
        world.serve();
        home.write("edge/edge.js", SCRIPT);
        home.write("edge/manifest.toml", MANIFEST);
        let file = home.write("edge.toml", &composition(runner));
        world.here(|| home.run(&["submit", &file])).passes(4);
        each_is_where_it_should_be(|path| {
            home.run(&["collect", "latest", "--file", path]).ends_with(0).stdout
        });
    }
}

#[test]
fn nats_and_egress_work_as_they_do_for_root() {
    let (world, nobody) = (World::new(), Nobody::new());
    world.serve();
    nobody.write("edge/edge.js", SCRIPT);
    nobody.write("edge/manifest.toml", MANIFEST);
    let file = nobody.write("edge.toml", &composition("netns"));
    world.here(|| nobody.run(&["submit", &file])).passes(4);
    each_is_where_it_should_be(|path| {
        nobody.run(&["collect", "latest", "--file", path]).ends_with(0).stdout
    });
}
