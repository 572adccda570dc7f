//! Workers that are killed in the middle of a run: what they ran goes on until they are back, or until their time
//! is over.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::harness::{Composition, LIMIT, Ran, Running, control_groups, processes, wait_until};

/// How many lines each instance prints.
const LINES: usize = 400;

/// Prints numbered lines, a hundred in a second at best, then its outcome.
const TICKER: &str = r#"
i=0
while [ $i -lt 400 ]; do echo "line $i"; i=$((i+1)); sleep 0.01; done
echo '{"event":{"success_event":{"group":"'"$TEST_GROUP_ID"'"}}}'
"#;

/// As above, with a connection to the sync that it opens again before its end. Speaks WebSocket with a mask of zeroes.
const RECONNECTS: &str = r#"
export LC_ALL=C
connect() {
  exec 3<>/dev/tcp/127.0.0.1/5050
  printf 'GET / HTTP/1.1\r\nHost: sync\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n' >&3
  while IFS= read -r line <&3 && [ "$line" != $'\r' ]; do :; done
}
signal() {
  key="run:$TEST_RUN:plan:$TEST_PLAN:case:$TEST_CASE:states:$1"
  text='{"id":"1","signal_entry":{"state":"'"$key"'"}}'
  printf '\x81\xfe\x00\x'"$(printf %02x ${#text})"'\x00\x00\x00\x00%s' "$text" >&3
  read -r -N 4 answer <&3
}
connect
signal begun
i=0
while [ $i -lt 400 ]; do echo "line $i"; i=$((i+1)); sleep 0.01; done
exec 3>&-
connect
signal done
[ -n "$answer" ] || exit 1
echo '{"event":{"success_event":{"group":"'"$TEST_GROUP_ID"'"}}}'
"#;

/// A run of a script.
struct Script {
    running: Running,
    /// Is in the command line of every process that runs it.
    mark: String,
}

impl Script {
    /// Submits a plan that is a script of a shell in containers with nothing else, and waits until it runs.
    fn run_in_containers(cluster: &Cluster, script: &str, count: u32) -> Self {
        let mark = format!("mark-{}", cluster.worker_name(0));
        let dockerfile = format!(
            "FROM scratch\nARG PLAN_PATH\nCOPY ./plan/${{PLAN_PATH}}/busybox /bin/sh\n\
             COPY ./plan/${{PLAN_PATH}}/busybox /bin/sleep\nCOPY ./plan/run.sh /run.sh\n\
             ENTRYPOINT [\"/bin/sh\", \"/run.sh\", \"{mark}\"]\n"
        );
        let manifest = "name = \"stock\"\n[defaults]\nbuilder = \"docker:generic\"\nrunner = \"local:docker\"\n\
                        [builders.\"docker:generic\"]\nenabled = true\n\
                        [runners.\"local:docker\"]\nenabled = true\noutcome_from = \"stdout\"\n\
                        [[testcases]]\nname = \"only\"\ninstances = { min = 1, max = 9, default = 1 }\n";
        for (name, text) in
            [("Dockerfile", dockerfile.as_str()), ("manifest.toml", manifest), ("run.sh", script)]
        {
            cluster.home.write(&format!("stock/{name}"), text);
        }
        let busybox = cluster.home.dir.path().join("stock/busybox");
        std::fs::copy("/bin/busybox", busybox).expect("busybox-static");
        let count = count.to_string();
        let plan = ["--plan", "stock", "--case", "only", "--instances", count.as_str()];
        let running = cluster.home.start(&[&["submit", "--progress", "plain"][..], &plan].concat());
        running.until("phase=running");
        Self { running, mark }
    }

    /// Submits a plan that is a script of bash, and waits until it runs.
    fn run(cluster: &Cluster, script: &str, count: u32) -> Self {
        let mark = format!("mark-{}", cluster.worker_name(0));
        let manifest = format!(
            "name = \"script\"\n[defaults]\nbuilder = \"exec:command\"\nrunner = \"netns\"\n\
             [builders.\"exec:command\"]\nentrypoint = [\"bash\", \"run.sh\", \"{mark}\"]\n\
             [runners.\"netns\"]\noutcome_from = \"stdout\"\n\
             [[testcases]]\nname = \"only\"\ninstances = {{ min = 1, max = 10, default = 1 }}\n"
        );
        cluster.home.write("script/manifest.toml", &manifest);
        cluster.home.write("script/run.sh", script);
        let composition = format!(
            "[global]\nplan = \"script\"\ncase = \"only\"\nbuilder = \"exec:command\"\nrunner = \"netns\"\n\
             [[groups]]\nid = \"all\"\ninstances = {{ count = {count} }}\n"
        );
        let file = cluster.home.write("script.toml", &composition);
        let running = cluster.home.start(&["submit", &file, "--progress", "plain"]);
        running.until("phase=running");
        Self { running, mark }
    }

    /// The first processes of its instances on this host. A child that is about to run something else looks like one.
    fn processes(&self) -> Vec<String> {
        let mut found = processes(&self.mark);
        let all = found.clone();
        let is_one = |pid: &str| all.iter().any(|line| line.split(' ').next() == Some(pid));
        found.retain(|line| {
            let pid = line.split(' ').next().unwrap_or_default();
            line.contains("run.sh") && parent(pid).is_some_and(|parent| !is_one(&parent))
        });
        found.sort();
        found
    }

    fn finish(self) -> Ran {
        self.running.finish()
    }
}

/// The parent of a process that is still there.
fn parent(pid: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(line.trim().to_owned())
}

/// Files of this name below a directory.
fn files(below: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![below.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) if entry.file_name() == name => found.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    found
}

fn wait_for_line(cluster: &Cluster, worker: u32, line: &str) {
    until_printed(&cluster.state_dir(worker), line);
}

/// Waits until every instance of the worker with this state directory has printed a line.
#[track_caller]
pub(crate) fn until_printed(state_dir: &Path, line: &str) {
    let spool = state_dir.join("spool");
    wait_until(&format!("all have printed {line}"), LIMIT, || {
        let logs = files(&spool, "stdout.log");
        let has = |file: &PathBuf| {
            std::fs::read_to_string(file).unwrap_or_default().lines().any(|one| one.contains(line))
        };
        !logs.is_empty() && logs.iter().all(has)
    });
}

/// Every line of every instance is there, once and in order.
#[track_caller]
fn nothing_is_lost_or_doubled(cluster: &Cluster, group: &str, instances: usize) {
    let expected: Vec<String> = (0..LINES).map(|number| format!("line {number}")).collect();
    for number in 0..instances {
        let file = format!("{group}/{number}/stdout.log");
        let text = cluster.home.run(&["collect", "latest", "--file", &file]).ends_with(0).stdout;
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(lines, expected, "{file}");
    }
}

fn containers(worker: &str) -> String {
    let filter = format!("label=dev.groundswell.worker={worker}");
    let output = Command::new("docker").args(["ps", "-aq", "--filter", &filter]).output();
    String::from_utf8_lossy(&output.expect("docker runs").stdout).trim().to_owned()
}

/// No process of a worker that was killed for good, nothing it has made.
fn nothing_is_left(cluster: &Cluster, worker: u32) {
    let (name, state) = (cluster.worker_name(worker), cluster.state_dir(worker));
    let state = state.display().to_string();
    wait_until("no process is left", LIMIT, || processes(&state).is_empty());
    nothing_of_instances_is_left(cluster, worker);
    wait_until("no control group is left", LIMIT, || control_groups(&name).is_empty());
    wait_until("no container is left", LIMIT, || containers(&name).is_empty());
    let mounts = std::fs::read_to_string("/proc/mounts").expect("there");
    assert!(!mounts.contains(&state), "{mounts}");
}

/// No instance of a worker, whether it lives or not.
fn nothing_of_instances_is_left(cluster: &Cluster, worker: u32) {
    let name = cluster.worker_name(worker);
    let has_instances =
        || control_groups(&name).iter().any(|path| !path.ends_with(format!("groundswell-{name}")));
    wait_until("no control group of an instance is left", LIMIT, || !has_instances());
    wait_until("no container is left", LIMIT, || containers(&name).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_back_in_time_goes_on_with_its_instances() {
    let mut cluster = Cluster::start(1).await;
    let script = Script::run(&cluster, TICKER, 3);
    wait_for_line(&cluster, 0, "line 50");
    let before = script.processes();
    assert_eq!(before.len(), 3, "{before:?}");
    // Twice, for the second life takes over from the first as the third does from the second.
    for line in ["line 150", "line 250"] {
        cluster.kill(0);
        cluster.start_again(0);
        wait_for_line(&cluster, 0, line);
        assert_eq!(script.processes(), before);
    }
    script.finish().ends_with(0).says("3 = 3 success").says("was restarted during the run");
    nothing_is_lost_or_doubled(&cluster, "all", 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_gone_on_with_as_well() {
    let mut cluster = Cluster::start(1).await;
    // An engine takes its time to answer.
    let slowly = TICKER.replace("0.01", "0.04");
    let script = Script::run_in_containers(&cluster, &slowly, 2);
    wait_for_line(&cluster, 0, "line 30");
    let before = script.processes();
    assert!(before.len() >= 2, "{before:?}");
    for line in ["line 100", "line 200"] {
        cluster.kill(0);
        cluster.start_again(0);
        wait_for_line(&cluster, 0, line);
        assert_eq!(script.processes(), before);
    }
    // So late that they end within the lease.
    wait_for_line(&cluster, 0, "line 350");
    cluster.kill(0);
    // Their first processes stay, to say how it ended.
    let ended = || processes(&script.mark).iter().all(|line| line.contains("/.groundswell/init"));
    wait_until("both have ended", LIMIT, ended);
    cluster.start_again(0);
    script.finish().ends_with(0).says("2 = 2 success");
    nothing_is_lost_or_doubled(&cluster, "single", 2);
    let name = cluster.worker_name(0);
    wait_until("no container is left", LIMIT, || containers(&name).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_worker_that_does_not_come_back_end_themselves() {
    let mut cluster = Cluster::start(1).await;
    let endless = "while :; do echo tick; sleep 0.1; done";
    let script = Script::run_in_containers(&cluster, endless, 2);
    wait_for_line(&cluster, 0, "tick");
    cluster.kill(0);
    assert!(!script.processes().is_empty(), "they go on");
    nothing_is_left(&cluster, 0);
    assert_eq!(script.processes(), Vec::<String>::new());
    script.finish().ends_with(20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_ends_while_nobody_is_there_has_succeeded_all_the_same() {
    let mut cluster = Cluster::start(1).await;
    let script = Script::run(&cluster, TICKER, 2);
    wait_for_line(&cluster, 0, "line 300");
    cluster.kill(0);
    wait_until("both have ended", LIMIT, || script.processes().is_empty());
    cluster.start_again(0);
    script.finish().ends_with(0).says("2 = 2 success");
    nothing_is_lost_or_doubled(&cluster, "all", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_connects_again_goes_on() {
    let mut cluster = Cluster::start(1).await;
    let script = Script::run(&cluster, RECONNECTS, 2);
    wait_for_line(&cluster, 0, "line 50");
    cluster.kill(0);
    cluster.start_again(0);
    script.finish().ends_with(0).says("2 = 2 success");
    nothing_is_lost_or_doubled(&cluster, "all", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_fails_because_it_was_cut_off_is_lost_and_not_failed() {
    let mut cluster = Cluster::start(1).await;
    let running =
        cluster.home.submit_and_wait_for_running(&Composition::netns("placebo", "stall", 2));
    // One that has not connected yet would connect to the worker's next life.
    wait_for_line(&cluster, 0, "claimed sequence numbers");
    cluster.kill(0);
    cluster.start_again(0);
    running.finish().ends_with(20).says("it has not connected again");
    assert_eq!(cluster.home.status()["verdict"], "infra");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_worker_that_does_not_come_back_end_themselves() {
    let mut cluster = Cluster::start(1).await;
    let script = Script::run(&cluster, "while :; do echo tick; sleep 0.1; done", 3);
    wait_for_line(&cluster, 0, "tick");
    cluster.kill(0);
    assert_eq!(script.processes().len(), 3, "they go on");
    nothing_is_left(&cluster, 0);
    script.finish().ends_with(20);
    assert_eq!(cluster.home.status()["verdict"], "infra");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_back_when_its_instances_are_gone_says_so() {
    let mut cluster = Cluster::start(1).await;
    let script = Script::run(&cluster, "while :; do echo tick; sleep 0.1; done", 2);
    wait_for_line(&cluster, 0, "tick");
    cluster.kill(0);
    wait_until("both have ended", LIMIT, || script.processes().is_empty());
    cluster.start_again(0);
    script.finish().ends_with(20);
    assert_eq!(cluster.home.status()["verdict"], "infra");
    nothing_of_instances_is_left(&cluster, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_in_good_order_leaves_nothing() {
    let mut cluster = Cluster::start(1).await;
    let script = Script::run(&cluster, "while :; do echo tick; sleep 0.1; done", 2);
    wait_for_line(&cluster, 0, "tick");
    let worker = crate::harness::pid(&cluster.processes[1]);
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    cluster.processes[1].wait().expect("it ends");
    let state = cluster.state_dir(0).display().to_string();
    assert_eq!(processes(&state), Vec::<String>::new());
    assert_eq!(script.processes(), Vec::<String>::new());
    script.finish().ends_with(20);
}
