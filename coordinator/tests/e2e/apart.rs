//! A cluster whose machines share nothing but a wire and an object store: the coordinator with NATS and each worker
//! are in a network namespace of their own.

use std::process::{Child, Command, Stdio};

use groundswell_common::nats_server;
use nix::sys::signal::{Signal, kill};

use crate::harness::{Composition, Home, LIMIT, fetch_crates, pid, wait_until, worker_binary};
use crate::hosts::{Host, Site};

/// NATS and `coordinator serve` on the hub, a worker on each other host; all ended when it is dropped.
struct Cluster {
    site: Site,
    home: Home,
    /// In the order in which they end.
    processes: Vec<Child>,
}

impl Cluster {
    async fn start(objects: &str) -> Self {
        let nats = nats_server::find().await.expect("a nats-server");
        let url = format!("nats://{}:4222", Site::HUB);
        let home = Home::new().with("GROUNDSWELL_NATS", &url).with("GROUNDSWELL_OBJECTS", objects);
        let mut cluster = Self { site: Site::new(3), home, processes: Vec::new() };
        let store = cluster.home.dir.path().join("nats");
        let address = Site::HUB.to_string();
        let mut command = Command::new(nats);
        command.args(["-js", "-a", &address, "-p", "4222", "-sd"]).arg(store);
        let nats = started(&cluster.site.hub, &mut command);
        cluster.processes.push(nats);
        cluster.site.hub.until_listening(Site::HUB, 4222);
        let serve = started(&cluster.site.hub, &mut cluster.home.command(&["serve"]));
        cluster.processes.insert(0, serve);
        for (number, host) in cluster.site.spokes.iter().enumerate() {
            let state = cluster.home.dir.path().join(format!("worker{number}"));
            let name = format!("apart-{}-{number}", std::process::id());
            let mut command = Command::new(worker_binary());
            command
                .args(["run", "--nats", &url, "--objects", objects, "--name", &name])
                .args(["--slots", "50", "--state-dir"])
                .arg(state);
            cluster.processes.insert(0, started(host, &mut command));
        }
        wait_until("all workers are there", LIMIT, || {
            let listed = cluster.on_hub(&["workers", "--json"]);
            listed.matches("\"ready\"").count() == 3
        });
        cluster
    }

    fn on_hub(&self, arguments: &[&str]) -> String {
        self.site.hub.enter(|| self.home.run(arguments)).stdout
    }

    /// Runs a composition; its instances have to be on so many workers.
    #[track_caller]
    fn passes(&self, composition: &Composition, workers: usize) {
        let ran = self.site.hub.enter(|| self.home.submit(composition, &[]));
        ran.passes(composition.count);
        let status = self.site.hub.enter(|| self.home.status());
        assert_eq!(status["workers"].as_array().map(Vec::len), Some(workers), "{status:#}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = kill(pid(process), Signal::SIGTERM);
            let _ = process.wait();
        }
    }
}

fn started(host: &Host, command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    host.enter(|| command.spawn().expect("it starts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_pong_and_splitbrain_pass_across_workers_in_namespaces_of_their_own() {
    fetch_crates("ping-pong");
    fetch_crates("splitbrain");
    fetch_crates("verify");
    let store = tempfile::tempdir().expect("a directory");
    let objects = format!("file://{}", store.path().display());
    // The hub has no registry of packages, so what is written in JavaScript is built before.
    let home = Home::new().with("GROUNDSWELL_OBJECTS", &objects);
    home.submit(&Composition::netns("network-js", "uses-data-network", 2), &[]).passes(2);

    let cluster = Cluster::start(&objects).await;
    for plan in ["ping-pong", "network-js"] {
        cluster.passes(&Composition::netns(plan, "ping-pong", 2), 2);
        cluster.passes(&Composition::docker(plan, "ping-pong", 2), 2);
    }
    for (plan, case) in [
        ("splitbrain", "accept"),
        ("splitbrain", "reject"),
        ("splitbrain", "drop"),
        ("network-js", "splitbrain-accept"),
        ("network-js", "splitbrain-reject"),
        ("network-js", "splitbrain-drop"),
    ] {
        cluster.passes(&Composition::netns(plan, case, 6), 3);
        cluster.passes(&Composition::docker(plan, case, 6), 3);
    }
    cluster.passes(&Composition::netns("verify", "uses-data-network", 6), 3);
}
