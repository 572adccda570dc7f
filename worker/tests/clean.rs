//! `worker clean`, `worker bench` and `worker doctor` as processes, on a host with a Docker engine. Needs root and Debian's
//! `busybox-static`.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use groundswell_common::card::{CARD_FILE, Card};
use groundswell_common::ids::{Attempt, RunId, WorkerId};
use groundswell_common::messages::Resources;
use groundswell_common::nats_server::NatsServer;
use groundswell_worker::runtime::Runtime as _;
use groundswell_worker::runtime::cgroup::Cgroups;
use groundswell_worker::runtime::docker::{DockerConfig, DockerRuntime};

/// A host's leftovers of one worker that was killed.
struct Killed {
    dir: tempfile::TempDir,
    worker: WorkerId,
    run: RunId,
    image: String,
    hex: String,
    process: Child,
}

impl Killed {
    fn new() -> Self {
        let run = RunId::new(1_700_000_000);
        let worker = WorkerId::from_lossy(&format!("clean-{run}"));
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("worker"), worker.as_str()).expect("written");
        for path in [format!("spool/{run}/1/all/0"), format!("docker/held/gs-{run}-1-0-xyz")] {
            fs::create_dir_all(dir.path().join(path)).expect("a directory");
        }
        let hex: String =
            run.as_str().bytes().map(|byte| format!("{byte:02x}")).collect::<String>()
                + &"0".repeat(24);
        let image = format!("groundswell/{}:{hex}", &hex[..12]);
        let import = format!("tar -C /bin -c busybox | docker import - {image}");
        sh(&import);
        fs::create_dir(dir.path().join("used")).expect("a directory");
        fs::write(dir.path().join("used").join(&hex), "").expect("written");
        let label = format!("dev.groundswell.worker={worker}");
        sh(&format!(
            "docker run --network none --name gs-{run}-1-0 --label {label} {image} \
             /busybox dd if=/dev/zero of=/file bs=1M count=3"
        ));
        let process = Self::in_a_group(&worker, &run);
        Self { dir, worker, run, image, hex, process }
    }

    /// A process in a control group of the worker.
    fn in_a_group(worker: &WorkerId, run: &RunId) -> Child {
        let cgroups = Cgroups::detect(worker);
        cgroups.prepare().expect("control groups");
        let name = format!("{run}-1-0");
        let leaf = cgroups.leaf(&name);
        leaf.create(&Resources::default()).expect("a group");
        let process = Command::new("sleep").arg("1000").spawn().expect("spawned");
        let below = format!("groundswell-{worker}/{name}/cgroup.procs");
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"];
        let procs = roots.map(|root| PathBuf::from(root).join(&below));
        let procs = procs.iter().find(|path| path.exists()).expect("the group is there");
        fs::write(procs, process.id().to_string()).expect("moved");
        process
    }

    fn clean(&self, flags: &[&str]) -> Output {
        let mut clean = Command::new(env!("CARGO_BIN_EXE_worker"));
        clean.arg("clean").arg("--state-dir").arg(self.dir.path()).args(flags);
        clean.output().expect("it runs")
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("a child").is_none()
    }

    fn has_container(&self) -> bool {
        let found = sh(&format!("docker ps -aq --filter name=gs-{}-", self.run));
        !found.is_empty()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Nothing is left where the test has passed; it should not leave anything where it has not.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.clean(&["--images"]);
    }
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output();
    let output = output.expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_a_killed_worker_left_is_named_then_removed_and_another_workers_is_not_touched() {
    let (mut one, mut other) = (Killed::new(), Killed::new());
    let verified = one.clean(&["--verify"]);
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified));
    let said = text(&verified);
    let run = &one.run;
    for what in [
        format!("container `gs-{run}-1-0`"),
        format!("control group `{run}-1-0`"),
        format!("spool/{run}/1`"),
        format!("held/gs-{run}-1-0-xyz`"),
    ] {
        assert!(said.contains(&what), "{what} in {said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
    let shown = one.clean(&["--dry-run"]);
    assert!(shown.status.success() && text(&shown).contains("would remove"));
    assert!(one.is_running() && one.has_container());

    let cleaned = one.clean(&[]);
    assert!(cleaned.status.success(), "{}", text(&cleaned));
    assert!(!one.is_running() && !one.has_container());
    let verified = one.clean(&["--verify"]);
    assert_eq!(text(&verified), "nothing is left on this host\n");
    assert!(verified.status.success());
    assert!(other.is_running() && other.has_container());

    let cleaned = one.clean(&["--images"]);
    assert!(text(&cleaned).contains(&one.hex), "{}", text(&cleaned));
    assert!(cleaned.status.success());
    assert_eq!(sh(&format!("docker images -q {}", one.image)), "");
    assert_ne!(sh(&format!("docker images -q {}", other.image)), "");
}

#[tokio::test]
async fn an_engine_tells_what_containers_have_written_and_which_images_are_ours() {
    let killed = Killed::new();
    let config = DockerConfig {
        worker: killed.worker.clone(),
        state_dir: killed.dir.path().join("docker"),
        socket: None,
    };
    let docker = DockerRuntime::connect(config).await.expect("an engine");
    let written = docker.written(&killed.worker).await;
    let bytes = written[&(killed.run.clone(), Attempt::FIRST)];
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
    let digest = format!("sha256:{}", killed.hex);
    let digests: Vec<String> =
        docker.images().await.expect("listed").into_iter().map(|image| image.digest).collect();
    assert!(digests.contains(&digest), "{digests:?}");
    assert!(digests.iter().all(|digest| digest.len() == 71), "{digests:?}");
    assert!(docker.directories().await.iter().all(|path| path.is_dir()));
    // A container has it: the engine refuses, and it stays.
    docker.forget(&digest).await.expect_err("it is in use");
    assert_ne!(sh(&format!("docker images -q {}", killed.image)), "");
}

#[test]
fn the_card_of_this_host_is_whole_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_worker"));
    let output = bench.args(["bench", "--json", "--state-dir"]).arg(dir.path()).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let card: Card = serde_json::from_slice(&output.stdout).expect("a card");
    let kept = fs::read(dir.path().join(CARD_FILE)).expect("kept");
    assert_eq!(serde_json::from_slice::<Card>(&kept).expect("a card"), card);
    assert!(card.missing.is_empty(), "{:?}", card.missing);
    let figures = &card.figures;
    for runtime in ["netns", "docker"] {
        assert!(figures.starts_per_second[runtime] > 1.0, "{figures:?}");
    }
    let all = [
        figures.packets_per_core_second,
        figures.flow_bps,
        figures.wakeup_p50_us,
        figures.wakeup_p99_us,
        figures.disk_write_bytes_per_second,
        figures.fsync_p99_us,
    ];
    assert!(all.iter().all(|figure| figure.is_some_and(|figure| figure > 0.0)), "{figures:?}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("there").flatten().collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("bench-")));
}

#[tokio::test]
async fn a_doctor_that_only_shows_steps_says_which_there_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let nats = NatsServer::start(&dir.path().join("nats")).await.expect("a nats-server");
    let objects = format!("file://{}", dir.path().join("objects").display());
    let mut doctor = tokio::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    doctor.args(["doctor", "--fix", "--dry-run", "--nats", &nats.url(), "--objects", &objects]);
    // So many instances are more than any host's settings allow.
    doctor.args(["--slots", "100000000", "--state-dir"]).arg(dir.path().join("state"));
    let output = doctor.output().await.expect("it runs");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ok      runtime `netns` works"), "{said}");
    let step = "sysctl -w kernel.threads-max=800020000";
    assert!(said.contains(&format!("        fix: {step}")), "{said}");
    let steps = said.split("steps that `--fix` takes:").nth(1).expect("it shows the steps");
    assert!(steps.contains(step) && !steps.contains("after that"), "{said}");
    let kept = fs::read_to_string("/proc/sys/kernel/threads-max").expect("a setting");
    assert_ne!(kept.trim(), "800020000", "nothing was done");
    nats.stop().await.expect("stopped");
}
