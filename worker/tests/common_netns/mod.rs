//! A runtime with a bundle, for tests.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{ImageKind, ImageRef, Resources};
use groundswell_common::network::DataPath;
use groundswell_common::outcome::Exit;
use groundswell_worker::network::wire::WireSpec;
use groundswell_worker::runtime::netns::{NetnsConfig, NetnsRuntime};
use groundswell_worker::runtime::{InstanceLabels, InstanceSpec, Runtime};

static RIGS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Rig {
    pub(crate) runtime: NetnsRuntime,
    pub(crate) worker: WorkerId,
    dir: PathBuf,
    _owned: Option<tempfile::TempDir>,
    image: ImageRef,
    run: RunId,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("gs-netns-").tempdir().unwrap();
        let mut rig = Self::within(dir.path().to_owned()).await;
        rig._owned = Some(dir);
        rig
    }

    /// In a directory of the caller's.
    pub(crate) async fn within(dir: PathBuf) -> Self {
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let worker = WorkerId::from_lossy(&format!("test-{}-{number}", std::process::id()));
        let runtime = NetnsRuntime::new(NetnsConfig {
            worker: worker.clone(),
            state_dir: dir.join("state"),
            spawner: spawner(&dir),
        });
        let runtime = runtime.await.unwrap_or_else(|err| panic!("{err}"));
        let image = bundle(&dir);
        runtime.fetch(&image, &dir.join("bundle")).await.unwrap();
        assert!(runtime.has(&image).await);
        Self { runtime, worker, dir, _owned: None, image, run: RunId::new(1_700_000_000) }
    }

    /// An instance that runs a bash script.
    pub(crate) fn spec(&self, instance: u32, script: &str) -> InstanceSpec {
        let directory = |name: &str| {
            let path = self.dir.join(format!("{name}-{instance}"));
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let last = u8::try_from(instance % 250).unwrap() + 2;
        let third = u8::try_from(instance / 250).unwrap();
        let mut image = self.image.clone();
        image.command = ["bash", "-c", script].map(str::to_owned).to_vec();
        InstanceSpec {
            labels: InstanceLabels {
                run: self.run.clone(),
                attempt: Attempt::FIRST,
                instance: InstanceId(instance),
                worker: self.worker.clone(),
                epoch: Epoch(1),
                plan: "plan".to_owned(),
                case: "case".to_owned(),
                group: "group".to_owned(),
                in_group: instance,
            },
            image,
            env: BTreeMap::new(),
            hostname: format!("instance-{instance}"),
            outputs: directory("outputs"),
            temp: directory("temp"),
            datasets: Vec::new(),
            hosts: BTreeMap::new(),
            resources: Resources::default(),
            ulimits: Vec::new(),
            wire: WireSpec {
                address: Ipv4Addr::new(16, 0, third, last),
                prefix: 16,
                mtu: 1500,
                data_path: DataPath::Switch,
            },
            behind: None,
            keep: false,
            read_only_root: false,
            again: false,
        }
    }

    /// Runs an instance to its end: how it ended, stdout, stderr.
    pub(crate) async fn run(&self, spec: InstanceSpec) -> (Exit, String, String) {
        let created = self.runtime.create(spec).await.unwrap();
        created.instance.start().await.unwrap();
        let exit = created.instance.wait().await;
        let texts = (output(created.stdout).await, output(created.stderr).await);
        created.instance.remove().await.unwrap();
        (exit, texts.0, texts.1)
    }

    /// Waits for a line.
    pub(crate) async fn expect_line(&self, from: &mut OwnedFd, line: &str) {
        let mut file = std::fs::File::from(from.try_clone().unwrap());
        let mut text = String::new();
        wait_until(Duration::from_secs(20), || {
            let mut buffer = [0; 1024];
            if let Ok(size) = file.read(&mut buffer) {
                text.push_str(&String::from_utf8_lossy(&buffer[..size]));
            }
            text.lines().any(|other| other == line)
        })
        .await;
    }

    /// Text in the command line of the spawner and of every init process.
    pub(crate) fn mark(&self) -> String {
        self.dir.display().to_string()
    }

    pub(crate) fn cgroup_leaves(&self) -> Vec<String> {
        let mut found = cgroups_of(&self.worker);
        found.retain(|path| !path.ends_with(self.worker.as_str()));
        found
    }

    /// Ends the runtime. Returns what is left on the host.
    pub(crate) fn close(self) -> Vec<String> {
        drop(self.runtime);
        leftovers(&self.dir, &self.worker)
    }
}

/// The worker's executable, or the copy of it that a user without root can reach.
fn spawner(dir: &Path) -> PathBuf {
    let copy = dir.join("worker");
    if copy.exists() { copy } else { PathBuf::from(env!("CARGO_BIN_EXE_worker")) }
}

fn bundle(dir: &Path) -> ImageRef {
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (name, content) in
        [("run.sh", "#!/bin/sh\necho ran\n"), ("broken", "#!/no/such/interpreter\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let bytes = archive.into_inner().unwrap().finish().unwrap();
    std::fs::write(dir.join("bundle"), &bytes).unwrap();
    ImageRef {
        kind: ImageKind::Bundle,
        digest: format!("sha256:{}", "a".repeat(64)),
        size: bytes.len() as u64,
        command: Vec::new(),
        workdir: String::new(),
        env: BTreeMap::new(),
    }
}

/// The stored blob of a Docker image with nothing but a busybox, as `docker save` writes it.
pub(crate) async fn docker_image(rig: &Rig) -> ImageRef {
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_path_with_name("/bin/busybox", "bin/sh").unwrap();
    let config = r#"{"config":{"Entrypoint":["sh","-c"],"Env":["PATH=/bin","FROM_IMAGE=1"],"WorkingDir":"/srv","User":"1234"}}"#;
    let manifest = r#"[{"Config":"config","Layers":["layer"]}]"#;
    let mut directory = tar::Header::new_gnu();
    directory.set_entry_type(tar::EntryType::Directory);
    directory.set_size(0);
    directory.set_mode(0o777);
    directory.set_uid(0);
    directory.set_gid(0);
    layer.append_data(&mut directory, "srv", std::io::empty()).unwrap();
    let layer = layer.into_inner().unwrap();
    let mut saved = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    let parts = [
        ("layer", &layer[..]),
        ("config", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ];
    for (name, content) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        saved.append_data(&mut header, name, content).unwrap();
    }
    let blob = rig.dir.join("image");
    std::fs::write(&blob, saved.into_inner().unwrap().finish().unwrap()).unwrap();
    let mut image = rig.image.clone();
    image.kind = ImageKind::Docker;
    rig.runtime.fetch(&image, &blob).await.unwrap();
    image
}

/// Everything a pipe still holds.
pub(crate) async fn output(pipe: OwnedFd) -> String {
    let mut receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut receiver, &mut text).await.unwrap();
    text
}

/// Waits for something to be so.
pub(crate) async fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it is so within the limit");
}

/// Processes with a text in their command line, but this one.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && String::from_utf8_lossy(&command).contains(text)
    })
    .collect()
}

fn cgroups_of(worker: &WorkerId) -> Vec<String> {
    let mut found = Vec::new();
    for controller in ["cpu", "memory", "pids", "."] {
        let parent =
            Path::new("/sys/fs/cgroup").join(controller).join(format!("groundswell-{worker}"));
        if parent.exists() {
            found.push(parent.display().to_string());
        }
        let leaves = std::fs::read_dir(&parent).into_iter().flatten().flatten();
        found.extend(leaves.filter(|e| e.path().is_dir()).map(|e| e.path().display().to_string()));
    }
    found
}

/// What is left of a runtime: processes, mounts, cgroups.
pub(crate) fn leftovers(dir: &Path, worker: &WorkerId) -> Vec<String> {
    let text = dir.display().to_string();
    let mut found: Vec<String> =
        processes_with(&text).into_iter().map(|pid| format!("process {pid}")).collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&text)).map(str::to_owned));
    found.extend(cgroups_of(worker));
    found
}
