//! A Docker engine that is killed under its containers.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use tokio::time::sleep;

use super::lab::{Lab, Setup};
use crate::harness::{LIMIT, pid, wait_until};

/// An engine of its own: killing it disturbs nobody else.
struct Engine {
    directory: TempDir,
    survive: bool,
    process: Child,
}

impl Engine {
    /// Starts one. Its containers survive it, or do not.
    fn start(survive: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let process = Self::process(directory.path(), survive);
        let engine = Self { directory, survive, process };
        engine.until_up();
        engine
    }

    fn process(directory: &Path, survive: bool) -> Child {
        let at = |name: &str| directory.join(name).display().to_string();
        let mut command = Command::new("dockerd");
        command
            .args(["--host", &format!("unix://{}", at("docker.sock"))])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        if survive {
            command.arg("--live-restore");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("dockerd starts")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    fn until_up(&self) {
        let host = self.host();
        wait_until("the engine answers", LIMIT, || {
            let mut asked = Command::new("docker");
            asked.args(["--host", &host, "version"]).stdout(Stdio::null()).stderr(Stdio::null());
            asked.status().expect("docker is installed").success()
        });
    }

    fn kill(&mut self) {
        kill(pid(&self.process), Signal::SIGKILL).expect("it runs");
        self.process.wait().expect("it ends");
    }

    fn start_again(&mut self) {
        self.process = Self::process(self.directory.path(), self.survive);
        self.until_up();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = kill(pid(&self.process), Signal::SIGTERM);
        let _ = self.process.wait();
        // Each life has mounted its directory over itself, and one that is killed leaves that.
        let mut unmount = Command::new("umount");
        unmount.arg("--recursive").arg(self.directory.path().join("data")).stderr(Stdio::null());
        while unmount.status().is_ok_and(|status| status.success()) {}
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn containers_that_survive_their_engine_are_gone_on_with() {
    under_an_engine_that_is_killed(true, "passed").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn containers_that_die_with_their_engine_are_infrastructure() {
    under_an_engine_that_is_killed(false, "infra").await;
}

async fn under_an_engine_that_is_killed(survive: bool, verdict: &str) {
    let mut engine = Engine::start(survive);
    let variables = vec![("DOCKER_HOST", engine.host())];
    let lab = Lab::start(Setup { variables, runner: "docker", ..Setup::faster(4) }).await;
    let running = lab.run("run = { test_params = { rounds = \"150\", pause_ms = \"100\" } }", "");
    engine.kill();
    sleep(Duration::from_secs(3)).await;
    engine.start_again();
    lab.ended(running, verdict);
    let with = if survive { "with" } else { "without" };
    lab.note(&format!("dockerd killed, back after 3 s, {with} `live-restore`"), verdict);
    lab.ended(lab.submit("", ""), "passed");
}
