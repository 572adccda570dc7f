//! Instances as containers of a real Docker engine. Needs root and `/var/run/docker.sock`, and Debian's
//! `busybox-static` for a userland without a registry.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use bollard::models::ContainerSummary;
use bollard::query_parameters::{CreateImageOptions, ListContainersOptions, RemoveImageOptions};
use bollard::{Docker, body_full};
use futures::{StreamExt as _, TryStreamExt as _};
use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{ImageKind, ImageRef, Resources};
use groundswell_common::network::DataPath;
use groundswell_common::objects::file_digest;
use groundswell_worker::network::wire::WireSpec;
use groundswell_worker::runtime::docker::{DockerConfig, DockerRuntime};
use groundswell_worker::runtime::{
    Created, InstanceLabels, InstanceSpec, LinkState, Runtime as _, RuntimeError,
};
use tokio::io::AsyncReadExt as _;

const LIMIT: Duration = Duration::from_secs(60);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(16, 3, 0, 2);

/// One worker with a state directory, an image and a run of its own.
struct Bench {
    directory: tempfile::TempDir,
    docker: Docker,
    runtime: DockerRuntime,
    worker: WorkerId,
    run: RunId,
    imported: Mutex<Vec<String>>,
}

impl Bench {
    async fn new() -> Self {
        let run = RunId::new(1_700_000_000);
        Self::of(WorkerId::from_lossy(&format!("test-{run}")), run).await
    }

    async fn of(worker: WorkerId, run: RunId) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = DockerConfig {
            worker: worker.clone(),
            state_dir: directory.path().join("state"),
            socket: None,
        };
        fs::create_dir(&config.state_dir).expect("made");
        let runtime = DockerRuntime::connect(config).await.expect("a Docker engine");
        let docker = Docker::connect_with_socket_defaults().expect("a socket");
        let docker = docker.negotiate_version().await.expect("an engine");
        Self { directory, docker, runtime, worker, run, imported: Mutex::default() }
    }

    /// An image with nothing but busybox, fetched.
    async fn busybox(&self, changes: &[&str]) -> ImageRef {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_path_with_name("/bin/busybox", "bin/busybox").expect("busybox-static");
        for applet in ["sh", "cat", "dd", "env", "id", "ip", "nc", "ping", "sleep", "touch", "wget"]
        {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            archive.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("added");
        }
        let archive = archive.into_inner().expect("written");
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            changes: changes.iter().map(|&change| change.to_owned()).collect(),
            ..Default::default()
        };
        let steps: Vec<_> = self
            .docker
            .create_image(Some(options), Some(body_full(archive.into())), None)
            .try_collect()
            .await
            .expect("imported");
        let id = steps.last().and_then(|step| step.status.clone()).expect("an id");
        let saved: Vec<u8> =
            self.docker.export_image(&id).map(|part| part.expect("saved").to_vec()).concat().await;
        let image = self.blob(ImageKind::Docker, &saved);
        self.runtime.fetch(&image.0, &image.1).await.expect("fetched");
        self.imported.lock().expect("not poisoned").push(id);
        image.0
    }

    fn blob(&self, kind: ImageKind, archive: &[u8]) -> (ImageRef, PathBuf) {
        let file = self.directory.path().join(format!("blob-{}", archive.len()));
        fs::write(&file, zstd::encode_all(archive, 1).expect("compressed")).expect("written");
        let image = ImageRef {
            kind,
            digest: file_digest(&file).expect("read"),
            size: fs::metadata(&file).expect("there").len(),
            command: Vec::new(),
            workdir: String::new(),
            env: BTreeMap::new(),
        };
        (image, file)
    }

    fn spec(&self, image: &ImageRef, instance: u32, command: &[&str]) -> InstanceSpec {
        let mut image = image.clone();
        image.command.extend(command.iter().map(|&word| word.to_owned()));
        let directory = |name: &str| {
            let path = self.directory.path().join(format!("{name}-{instance}"));
            fs::create_dir_all(&path).expect("made");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("set");
            path
        };
        InstanceSpec {
            labels: InstanceLabels {
                run: self.run.clone(),
                attempt: Attempt::FIRST,
                instance: InstanceId(instance),
                worker: self.worker.clone(),
                epoch: Epoch(5),
                plan: "mesh".into(),
                case: "dial".into(),
                group: "all".into(),
                in_group: instance,
            },
            image,
            env: BTreeMap::from([("TEST_PLAN".to_owned(), "mesh".to_owned())]),
            hostname: format!("i{instance}-test"),
            outputs: directory("outputs"),
            temp: directory("temp"),
            datasets: Vec::new(),
            hosts: BTreeMap::from([("testground-sync-service".to_owned(), Ipv4Addr::LOCALHOST)]),
            resources: Resources::default(),
            ulimits: Vec::new(),
            wire: WireSpec { address: ADDRESS, prefix: 16, mtu: 1500, data_path: DataPath::Switch },
            behind: None,
            keep: false,
            read_only_root: false,
            again: false,
        }
    }

    async fn create(&self, image: &ImageRef, instance: u32, command: &[&str]) -> Created {
        self.runtime.create(self.spec(image, instance, command)).await.expect("created")
    }

    async fn containers(&self) -> Vec<ContainerSummary> {
        let label = format!("dev.groundswell.worker={}", self.worker);
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![label])].into()),
            ..Default::default()
        };
        self.docker.list_containers(Some(options)).await.expect("listed")
    }

    /// Ends the test: nothing may be left.
    async fn close(self) {
        let errors = self.runtime.reap(&self.worker).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(self.containers().await.len(), 0);
        for image in self.imported.into_inner().expect("not poisoned") {
            let options = RemoveImageOptions { force: true, ..Default::default() };
            self.docker.remove_image(&image, Some(options), None).await.expect("removed");
        }
        let held = fs::read_dir(self.directory.path().join("state/held")).expect("there");
        assert_eq!(held.count(), 0, "directories of containers are left");
    }
}

async fn text_of(pipe: OwnedFd) -> String {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).expect("a pipe");
    let mut text = String::new();
    tokio::time::timeout(LIMIT, pipe.read_to_string(&mut text))
        .await
        .expect("it ends")
        .expect("read");
    text
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Lets an instance go and returns its stdout and how it ended.
async fn finish(created: Created) -> (String, groundswell_common::outcome::Exit) {
    created.instance.start().await.expect("started");
    let stdout = text_of(created.stdout).await;
    let exit = tokio::time::timeout(LIMIT, created.instance.wait()).await.expect("it ends");
    created.instance.remove().await.expect("removed");
    (stdout, exit)
}

#[tokio::test]
async fn an_image_runs_its_own_command_with_its_own_and_the_plans_environment() {
    let bench = Bench::new().await;
    let image = bench
        .busybox(&["ENTRYPOINT [\"/bin/env\"]", "ENV OF_IMAGE=1", "WORKDIR /work", "USER 4711"])
        .await;
    assert!(bench.runtime.has(&image).await);
    let created = bench.create(&image, 0, &[]).await;
    let (stdout, exit) = finish(created).await;
    let lines: Vec<_> = stdout.lines().collect();
    for line in ["TEST_PLAN=mesh", "OF_IMAGE=1", "HOSTNAME=i0-test"] {
        assert!(lines.contains(&line), "{line} is not in {lines:?}");
    }
    let known = ["TEST_PLAN", "OF_IMAGE", "HOSTNAME", "PATH", "HOME", "PWD", "SHLVL"];
    let unknown: Vec<_> = lines
        .iter()
        .filter(|line| !known.contains(&line.split('=').next().unwrap_or("")))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(exit.code, Some(0));
    bench.close().await;
}

#[tokio::test]
async fn nothing_of_the_plan_runs_before_it_is_let_go() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let created =
        bench.create(&image, 0, &["sh", "-c", "touch /outputs/ran; echo out; echo err >&2"]).await;
    let ran = bench.directory.path().join("outputs-0/ran");
    let listed = bench.containers().await;
    let labels = listed[0].labels.clone().expect("labels");
    assert_eq!(labels["dev.groundswell.instance"], "0");
    assert_eq!(labels["testground.group_id"], "all");
    assert_eq!(listed[0].names, Some(vec![format!("/gs-{}-1-0", bench.run)]));
    let top = bench
        .docker
        .top_processes(
            &format!("gs-{}-1-0", bench.run),
            None::<bollard::query_parameters::TopOptions>,
        )
        .await;
    let processes = top.expect("answered").processes.expect("a list");
    assert_eq!(processes.len(), 1, "only the init process runs: {processes:?}");
    assert!(!ran.exists());
    created.instance.start().await.expect("started");
    assert_eq!(text_of(created.stdout).await, "out\n");
    assert_eq!(text_of(created.stderr).await, "err\n");
    assert_eq!(created.instance.wait().await.code, Some(0));
    assert_eq!(created.instance.wait().await.code, Some(0), "it may be asked again");
    assert!(ran.exists());
    created.instance.remove().await.expect("removed");
    bench.close().await;
}

#[tokio::test]
async fn exit_codes_signals_and_want_of_memory_are_told_apart() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let (_, exit) = finish(bench.create(&image, 0, &["sh", "-c", "exit 42"]).await).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (Some(42), None, false));
    let (_, exit) = finish(bench.create(&image, 1, &["sh", "-c", "kill -6 $$"]).await).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (None, Some(6), false));
    let mut spec = bench.spec(&image, 2, &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"]);
    spec.resources.memory_bytes = Some(32 << 20);
    let (_, exit) = finish(bench.runtime.create(spec).await.expect("created")).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (None, Some(9), true));
    bench.close().await;
}

#[tokio::test]
async fn a_plan_without_its_command_is_refused_before_the_run() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    for command in [&["nonesuch"][..], &["/bin/nonesuch"], &[]] {
        let refused = bench.runtime.create(bench.spec(&image, 0, command)).await.map(drop);
        let Err(RuntimeError::Plan(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("nonesuch") || text.contains("no command"), "{text}");
    }
    assert_eq!(bench.containers().await.len(), 0, "the refused containers are removed");
    bench.close().await;
}

#[tokio::test]
async fn the_network_is_wired_and_the_gateway_is_reached_from_inside() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let script = "ip -4 addr show eth1; cat /etc/hosts; echo hello | nc testground-sync-service 5050; \
                  cat /proc/sys/net/ipv4/ping_group_range";
    let created = bench.create(&image, 0, &["sh", "-c", script]).await;
    let listener = std::net::TcpListener::from(created.wired.sync.try_clone().expect("cloned"));
    let listener = tokio::net::TcpListener::from_std(listener).expect("non-blocking");
    created.instance.start().await.expect("started");
    let (mut socket, _) =
        tokio::time::timeout(LIMIT, listener.accept()).await.expect("in time").expect("accepted");
    let mut line = [0; 6];
    socket.read_exact(&mut line).await.expect("read");
    assert_eq!(&line, b"hello\n");
    drop(socket);
    let stdout = text_of(created.stdout).await;
    assert!(stdout.contains("inet 16.3.0.2/16"), "{stdout}");
    assert!(stdout.contains("16.3.0.2\ti0-test"), "{stdout}");
    assert!(stdout.ends_with("0\t2147483647\n"), "{stdout}");
    created.instance.remove().await.expect("removed");
    bench.close().await;
}

#[tokio::test]
async fn the_link_can_be_moved_and_taken_down_while_it_runs() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let script = "while ! ip addr show eth1 | busybox grep -q 16.3.1.9/16; do sleep 0.05; done; echo moved; \
                  while ip link show eth1 | busybox grep -q ,UP; do sleep 0.05; done; echo down";
    let created = bench.create(&image, 0, &["sh", "-c", script]).await;
    created.instance.start().await.expect("started");
    let mut link = LinkState { up: true, address: Ipv4Addr::new(16, 3, 1, 9), prefix: 16 };
    created.instance.set_link(link).await.expect("moved");
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(created.stdout).expect("a pipe");
    let mut line = [0; 6];
    tokio::time::timeout(LIMIT, pipe.read_exact(&mut line)).await.expect("in time").expect("read");
    link.up = false;
    created.instance.set_link(link).await.expect("taken down");
    tokio::time::timeout(LIMIT, pipe.read_exact(&mut line[..5]))
        .await
        .expect("in time")
        .expect("read");
    created.instance.remove().await.expect("removed");
    bench.close().await;
}

#[tokio::test]
async fn termination_reaches_the_plan_and_a_kill_ends_all_its_processes() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let graceful = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let created = bench.create(&image, 0, &["sh", "-c", graceful]).await;
    created.instance.start().await.expect("started");
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(created.stdout).expect("a pipe");
    let mut line = [0; 3];
    tokio::time::timeout(LIMIT, pipe.read_exact(&mut line)).await.expect("in time").expect("read");
    created.instance.terminate().await;
    assert_eq!(created.instance.wait().await.code, Some(3));
    created.instance.remove().await.expect("removed");

    let stubborn = "trap '' TERM; sleep 1000 & echo up; sleep 1000";
    let created = bench.create(&image, 1, &["sh", "-c", stubborn]).await;
    created.instance.start().await.expect("started");
    created.instance.kill().await;
    let exit = tokio::time::timeout(LIMIT, created.instance.wait()).await.expect("it ends");
    assert_eq!(exit.signal, Some(9));
    created.instance.remove().await.expect("removed");
    created.instance.remove().await.expect("removed once more");
    bench.close().await;
}

#[tokio::test]
async fn limits_hold() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let script = "ulimit -n; busybox grep -E 'CapEff|NoNewPrivs' /proc/self/status; \
                  busybox cat /sys/fs/cgroup/pids/pids.max || busybox cat /sys/fs/cgroup/pids.max";
    let mut spec = bench.spec(&image, 0, &["sh", "-c", script]);
    spec.ulimits = vec!["nofile=1234:2345".to_owned()];
    spec.resources =
        Resources { cpu_cores: Some(64.0), memory_bytes: Some(64 << 20), pids: Some(50) };
    let (stdout, exit) = finish(bench.runtime.create(spec).await.expect("created")).await;
    assert_eq!(exit.code, Some(0), "{stdout}");
    assert!(stdout.starts_with("1234\n"), "{stdout}");
    assert!(stdout.contains("CapEff:\t00000000000004eb"), "{stdout}");
    assert!(stdout.contains("NoNewPrivs:\t1"), "{stdout}");
    assert!(stdout.ends_with("52\n"), "{stdout}");
    let script = "busybox cat /proc/self/oom_score_adj; busybox cat /sys/fs/cgroup/pids/pids.max \
                  || busybox cat /sys/fs/cgroup/pids.max; for where in /x /bin/x /tmp/x /outputs/x \
                  /temp/x; do echo x > $where && echo $where; done";
    let mut spec = bench.spec(&image, 2, &["sh", "-c", script]);
    spec.read_only_root = true;
    let (stdout, _) = finish(bench.runtime.create(spec).await.expect("created")).await;
    assert_eq!(stdout, "500\n4098\n/tmp/x\n/outputs/x\n/temp/x\n");
    let mut spec = bench.spec(&image, 1, &["sh"]);
    spec.resources.memory_bytes = Some(1024);
    let refused = bench.runtime.create(spec).await.map(drop);
    assert!(matches!(refused, Err(RuntimeError::Plan(_))), "{refused:?}");
    bench.close().await;
}

#[tokio::test]
async fn nothing_printed_is_lost() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let script = "busybox seq 1 300000";
    let (stdout, exit) = finish(bench.create(&image, 0, &["sh", "-c", script]).await).await;
    assert_eq!(exit.code, Some(0));
    assert_eq!(stdout.lines().count(), 300_000);
    assert!(stdout.ends_with("300000\n"));
    bench.close().await;
}

#[tokio::test]
async fn a_bundle_runs_with_the_hosts_programs() {
    let bench = Bench::new().await;
    let mut archive = tar::Builder::new(Vec::new());
    let script = b"#!/bin/bash\npwd; ls /plan; echo $TEST_PLAN > /outputs/plan; touch /plan/x || echo read-only\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(script.len() as u64);
    archive.append_data(&mut header, "run.sh", &script[..]).expect("added");
    let (mut image, blob) = bench.blob(ImageKind::Bundle, &archive.into_inner().expect("written"));
    image.command = vec!["run.sh".to_owned()];
    assert!(!bench.runtime.has(&image).await);
    bench.runtime.fetch(&image, &blob).await.expect("fetched");
    assert!(bench.runtime.has(&image).await);
    let (stdout, exit) = finish(bench.create(&image, 0, &[]).await).await;
    assert_eq!(stdout, "/plan\nrun.sh\nread-only\n");
    assert_eq!(exit.code, Some(0));
    let written = fs::read_to_string(bench.directory.path().join("outputs-0/plan"));
    assert_eq!(written.expect("written"), "mesh\n");
    bench.close().await;
}

#[tokio::test]
async fn a_damaged_image_is_the_plans_fault() {
    let bench = Bench::new().await;
    let (image, blob) = bench.blob(ImageKind::Docker, b"not an archive");
    let refused = bench.runtime.fetch(&image, &blob).await;
    assert!(matches!(refused, Err(RuntimeError::Plan(_))), "{refused:?}");
    fs::write(&blob, b"not compressed").expect("written");
    let refused = bench.runtime.fetch(&image, &blob).await;
    assert!(matches!(refused, Err(RuntimeError::Plan(_))), "{refused:?}");
    bench.close().await;
}

#[tokio::test]
async fn a_dropped_instance_is_killed_and_what_an_older_epoch_left_makes_room() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let created = bench.create(&image, 0, &["sleep", "1000"]).await;
    created.instance.start().await.expect("started");
    drop(created);
    until("the dropped container is removed", || async { bench.containers().await.is_empty() })
        .await;

    let old = bench.create(&image, 1, &["sleep", "1000"]).await;
    let same = bench.runtime.create(bench.spec(&image, 1, &["sleep", "1000"])).await.map(drop);
    assert!(matches!(same, Err(RuntimeError::Host { .. })), "{same:?}");
    let mut newer = bench.spec(&image, 1, &["sh", "-c", "exit 0"]);
    newer.labels.epoch = Epoch(6);
    let created = bench.runtime.create(newer).await.expect("the old one makes room");
    assert_eq!(old.instance.wait().await.signal, Some(9));
    let (_, exit) = finish(created).await;
    assert_eq!(exit.code, Some(0));
    bench.close().await;
}

#[tokio::test]
async fn a_kept_container_stays_and_is_not_reaped() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let mut spec = bench.spec(&image, 0, &["sh", "-c", "exit 0"]);
    spec.keep = true;
    let (_, exit) = finish(bench.runtime.create(spec).await.expect("created")).await;
    assert_eq!(exit.code, Some(0));
    let errors = bench.runtime.reap(&bench.worker).await;
    assert!(errors.is_empty(), "{errors:?}");
    let kept = bench.containers().await;
    assert_eq!(kept.len(), 1);
    let options =
        bollard::query_parameters::RemoveContainerOptions { force: true, ..Default::default() };
    let id = kept[0].id.clone().expect("an id");
    bench.docker.remove_container(&id, Some(options)).await.expect("removed");
    bench.close().await;
}

/// What the next test kills. It never ends by itself.
#[tokio::test]
#[ignore = "not a test of its own: runs as a process that `containers_end_with_their_worker` kills"]
async fn a_worker_to_be_killed() {
    let worker = WorkerId::from_lossy(&std::env::var("OWNER_WORKER").expect("given"));
    let bench = Bench::of(worker, RunId::new(1_700_000_000)).await;
    let image = bench.busybox(&[]).await;
    let held = bench.create(&image, 0, &["sleep", "1000"]).await;
    let running = bench.create(&image, 1, &["sh", "-c", "sleep 1000 & sleep 1000"]).await;
    running.instance.start().await.expect("started");
    let imported = bench.imported.lock().expect("not poisoned").concat();
    let left = format!("{}\n{imported}", bench.directory.path().display());
    let ready = PathBuf::from(std::env::var("OWNER_READY").expect("given"));
    fs::write(ready.with_extension("part"), left).expect("written");
    fs::rename(ready.with_extension("part"), ready).expect("renamed");
    held.instance.wait().await;
}

#[tokio::test]
async fn containers_end_with_their_worker() {
    let bench = Bench::new().await;
    let ready = bench.directory.path().join("ready");
    let mut owner = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_worker_to_be_killed", "--ignored", "--nocapture"])
        .env("OWNER_WORKER", bench.worker.as_str())
        .env("OWNER_READY", &ready)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    until("the worker has two containers", || async { ready.exists() }).await;
    assert_eq!(bench.containers().await.len(), 2);
    owner.kill().expect("killed");
    owner.wait().expect("reaped");
    until("both containers have ended", || async {
        let all = bench.containers().await;
        all.iter().all(|one| one.state == Some(bollard::models::ContainerSummaryStateEnum::EXITED))
    })
    .await;
    let left = fs::read_to_string(&ready).expect("written");
    let (directory, imported) = left.split_once('\n').expect("two lines");
    fs::remove_dir_all(directory).expect("removed");
    bench.imported.lock().expect("not poisoned").push(imported.to_owned());
    bench.close().await;
}

#[tokio::test]
async fn twenty_containers_are_created_at_once() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let begun = tokio::time::Instant::now();
    let all = futures::future::join_all(
        (0..20).map(|instance| bench.create(&image, instance, &["sh", "-c", "exit 0"])),
    )
    .await;
    println!("20 containers ready in {:?}", begun.elapsed());
    for created in all {
        let (_, exit) = finish(created).await;
        assert_eq!(exit.code, Some(0));
    }
    bench.close().await;
}

#[tokio::test]
async fn a_container_that_was_killed_starts_again_with_its_files_and_output() {
    let bench = Bench::new().await;
    let image = bench.busybox(&[]).await;
    let script = "echo life $GROUNDSWELL_INCARNATION; cat /x 2>/dev/null; echo kept >> /x; \
        echo x > /outputs/written; exec sleep 1000";
    let mut spec = bench.spec(&image, 0, &["/bin/sh", "-c", script]);
    let written = spec.outputs.join("written");
    spec.again = true;
    spec.env.insert("GROUNDSWELL_INCARNATION".to_owned(), "0".to_owned());
    let created = bench.runtime.create(spec).await.expect("created");
    let lives = async {
        let instance = &created.instance;
        instance.start().await.expect("started");
        for life in 1..=2 {
            until("it runs", || async { written.exists() }).await;
            fs::remove_file(&written).expect("there");
            instance.pause().await;
            instance.kill().await;
            assert_eq!(instance.wait().await.signal, Some(9));
            instance.again(life).await.expect("again");
        }
        until("it runs", || async { written.exists() }).await;
        instance.terminate().await;
        assert_eq!(instance.wait().await.signal, Some(15));
        instance.part().await;
    };
    let ((), stdout) = tokio::join!(lives, text_of(created.stdout));
    assert_eq!(stdout, "life 0\nlife 1\nkept\nlife 2\nkept\nkept\n");
    created.instance.remove().await.expect("removed");
    bench.close().await;
}
