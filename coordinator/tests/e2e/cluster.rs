//! A coordinator and workers as processes of their own, on a NATS server that is killed under them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use groundswell_common::api::{Answer, ServiceInfo};
use groundswell_common::bus::{Bus, BusConfig};
use groundswell_common::nats_server::NatsServer;
use groundswell_common::subjects;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::harness::{Composition, Home, LIMIT, control_groups, pid, wait_until, worker_binary};

/// A NATS server, `coordinator serve`, and workers; all ended when it is dropped.
pub(crate) struct Cluster {
    pub(crate) home: Home,
    nats: NatsServer,
    pub(crate) objects: String,
    /// The coordinator, then the workers.
    pub(crate) processes: Vec<Child>,
    _dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start(workers: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let nats = NatsServer::start(&dir.path().join("nats")).await.expect("a nats-server");
        let objects = format!("file://{}", dir.path().join("store").display());
        let home = Home::new()
            .with("GROUNDSWELL_NATS", nats.url())
            .with("GROUNDSWELL_OBJECTS", objects.clone());
        let serve = coordinator(&home);
        let mut cluster = Self { home, nats, objects, processes: vec![serve], _dir: dir };
        for number in 0..workers {
            let worker = cluster.worker(number);
            cluster.processes.push(worker);
        }
        wait_until("all workers are there", LIMIT, || {
            let listed = cluster.home.run(&["workers", "--json"]).stdout;
            listed.matches("\"ready\"").count() == workers as usize
        });
        cluster
    }

    fn worker(&self, number: u32) -> Child {
        let log = self.home.dir.path().join(format!("worker{number}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
        Command::new(worker_binary())
            .args(["run", "--nats", &self.nats.url(), "--objects", &self.objects])
            .args(["--name", &self.worker_name(number), "--slots", "50", "--state-dir"])
            .arg(self.state_dir(number))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("opened"))
            .spawn()
            .expect("the worker runs")
    }

    pub(crate) fn state_dir(&self, number: u32) -> PathBuf {
        self.home.dir.path().join(format!("worker{number}"))
    }

    /// Kills a worker as a crash does.
    pub(crate) fn kill(&mut self, number: u32) {
        let process = &mut self.processes[number as usize + 1];
        kill(pid(process), Signal::SIGKILL).expect("it runs");
        process.wait().expect("it has ended");
    }

    /// Starts a worker that was killed again.
    pub(crate) fn start_again(&mut self, number: u32) {
        let worker = self.worker(number);
        self.processes[number as usize + 1] = worker;
    }

    /// Waits until the coordinator of this process answers.
    async fn is_led_by(&self, process: Pid) {
        let bus = Bus::connect(&BusConfig::open(self.nats.url(), "test")).await.expect("connected");
        let asked = async {
            loop {
                let answer = bus.request::<Answer<ServiceInfo>>(subjects::api("info"), &()).await;
                match answer {
                    Ok(Ok(info)) if i64::from(info.pid) == i64::from(process.as_raw()) => break,
                    Ok(_) | Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(LIMIT, asked).await.expect("it leads in time");
    }

    pub(crate) fn worker_name(&self, number: u32) -> String {
        format!(
            "e2e-{}-{number}",
            std::process::id() as usize + self.nats.pid().unwrap_or(0) as usize
        )
    }
}

/// A coordinator with a twentieth of the usual intervals: a worker counts as lost after six seconds, a leader
/// after three quarters of a second.
fn coordinator(home: &Home) -> Child {
    let mut serve = home.command(&["serve", "--lease-divisor", "20"]);
    serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it serves")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &self.processes {
            let _ = kill(pid(process), Signal::SIGCONT);
            let _ = kill(pid(process), Signal::SIGTERM);
        }
        for process in &mut self.processes {
            let _ = process.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_is_killed_and_restarted_does_not_end_the_run() {
    let mut cluster = Cluster::start(2).await;
    let mut composition = Composition::netns("barrier", "rounds", 4);
    composition.group = "run = { test_params = { rounds = \"3000\" } }";
    let running = cluster.home.submit_and_wait_for_running(&composition);
    cluster.nats.kill().await.expect("killed");
    cluster.nats.restart().await.expect("restarted");
    running.finish().ends_with(0).says("4 = 4 success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_ends_the_run_as_infrastructure_and_leaves_nothing() {
    let cluster = Cluster::start(2).await;
    let running =
        cluster.home.submit_and_wait_for_running(&Composition::netns("placebo", "stall", 4));
    let name = cluster.worker_name(0);
    kill(pid(&cluster.processes[1]), Signal::SIGKILL).expect("it runs");
    running.finish().ends_with(20);
    wait_until("its control groups are gone", LIMIT, || control_groups(&name).is_empty());
    assert_eq!(cluster.home.status()["verdict"], "infra");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_goes_on_with_the_run_of_a_leader_that_is_killed() {
    let mut cluster = Cluster::start(2).await;
    let mut composition = Composition::netns("barrier", "rounds", 4);
    composition.group = "run = { test_params = { rounds = \"3000\" } }";
    let running = cluster.home.submit_and_wait_for_running(&composition);
    let standby = coordinator(&cluster.home);
    kill(pid(&cluster.processes[0]), Signal::SIGKILL).expect("it runs");
    cluster.processes.push(standby);
    running.finish().ends_with(0).says("4 = 4 success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_finds_another_and_stands_by() {
    let mut cluster = Cluster::start(2).await;
    let mut composition = Composition::netns("barrier", "rounds", 4);
    composition.group = "run = { test_params = { rounds = \"6000\" } }";
    let running = cluster.home.submit_and_wait_for_running(&composition);
    let standby = coordinator(&cluster.home);
    let (first, second) = (pid(&cluster.processes[0]), pid(&standby));
    cluster.processes.push(standby);
    kill(first, Signal::SIGSTOP).expect("it runs");
    cluster.is_led_by(second).await;
    kill(first, Signal::SIGCONT).expect("it is stopped");
    kill(second, Signal::SIGKILL).expect("it runs");
    cluster.is_led_by(first).await;
    running.finish().ends_with(0).says("4 = 4 success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_drained_gets_nothing_and_leaves_nothing() {
    let mut cluster = Cluster::start(2).await;
    let [name, other] = [0, 1].map(|number| cluster.worker_name(number));
    let running =
        cluster.home.submit_and_wait_for_running(&Composition::netns("placebo", "stall", 4));
    let drain = ["workers", "drain", &name, "--deadline", "2s", "--reason", "new kernel"];
    let drained = cluster.home.run(&drain).ends_with(0);
    drained.says("with 2 instances").says(&format!("drained: {name}"));
    running.finish().ends_with(20).says("its worker was drained");

    cluster.home.submit(&Composition::netns("placebo", "ok", 4), &[]).passes(4);
    assert_eq!(cluster.home.status()["workers"], serde_json::json!([other]));
    let refused = cluster.home.run(&["workers", "cordon", "nobody"]).ends_with(4);
    refused.says("there is no worker `nobody`").says(&other);

    let state_dir = cluster.home.dir.path().join("worker0");
    let clean = || {
        let mut clean = Command::new(worker_binary());
        clean.args(["clean", "--verify", "--state-dir"]).arg(&state_dir);
        let output = clean.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mut worker = cluster.processes.remove(1);
    let (code, said) = clean();
    assert_eq!(code, Some(1), "it runs");
    assert!(said.contains(&format!("process id {}", worker.id())), "{said}");
    kill(pid(&worker), Signal::SIGTERM).expect("it runs");
    assert!(worker.wait().expect("it ends").success());
    assert_eq!(clean().0, Some(0), "nothing is left");
}
