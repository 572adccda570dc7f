//! A coordinator and workers as processes of their own, on a NATS server that is killed under them.

use std::process::{Child, Command, Stdio};

use groundswell_common::nats_server::NatsServer;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::harness::{Composition, Home, LIMIT, control_groups, pid, wait_until};

/// A NATS server, `coordinator serve`, and workers; all ended when it is dropped.
struct Cluster {
    home: Home,
    nats: NatsServer,
    processes: Vec<Child>,
    _dir: TempDir,
}

impl Cluster {
    async fn start(workers: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let nats = NatsServer::start(&dir.path().join("nats")).await.expect("a nats-server");
        let objects = format!("file://{}", dir.path().join("store").display());
        let home = Home::new()
            .with("GROUNDSWELL_NATS", nats.url())
            .with("GROUNDSWELL_OBJECTS", objects.clone());
        // A twentieth of the usual intervals: a worker counts as lost after six seconds.
        let mut serve = home.command(&["serve", "--lease-divisor", "20"]);
        let serve = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it serves");
        let mut cluster = Self { home, nats, processes: vec![serve], _dir: dir };
        for number in 0..workers {
            let worker = cluster.worker(number, &objects);
            cluster.processes.push(worker);
        }
        wait_until("all workers are there", LIMIT, || {
            let listed = cluster.home.run(&["workers", "--json"]).stdout;
            listed.matches("\"ready\"").count() == workers as usize
        });
        cluster
    }

    fn worker(&self, number: u32, objects: &str) -> Child {
        let binary =
            std::path::Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
        assert!(binary.is_file(), "build the whole workspace: {} is missing", binary.display());
        Command::new(binary)
            .args(["run", "--nats", &self.nats.url(), "--objects", objects])
            .args(["--name", &self.worker_name(number), "--slots", "50", "--state-dir"])
            .arg(self.home.dir.path().join(format!("worker{number}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the worker runs")
    }

    fn worker_name(&self, number: u32) -> String {
        format!(
            "e2e-{}-{number}",
            std::process::id() as usize + self.nats.pid().unwrap_or(0) as usize
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &self.processes {
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
