//! How many instances a second can be made ready: namespaces, data interface with its address, listeners,
//! cgroup, root file system, first process held. Beside `crun run` and `docker run` in the same minute.
//!
//! Run as root: `cargo bench --bench start`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use groundswell_common::ids::WorkerId;
use groundswell_common::messages::ImageRef;
use groundswell_worker::measure::starts::{image, starts};
use groundswell_worker::runtime::Runtime;
use groundswell_worker::runtime::docker::{DockerConfig, DockerRuntime};
use groundswell_worker::runtime::netns::{NetnsConfig, NetnsRuntime};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;

const CRUN_CONTAINERS: u32 = 50;
const DOCKER_CONTAINERS: u32 = 40;
/// Several times a thousand: the kernel still takes down what the time before has left, as on a busy worker.
const NETNS_COUNTS: [u32; 4] = [100, 1_000, 1_000, 1_000];
/// How many `docker run` run at the same time, to find out what the engine can do.
const DOCKER_AT_ONCE: usize = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A thousand held instances take seven thousand descriptors.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let dir = tempfile::tempdir()?;
    let mut rates = Vec::new();
    let mut steps = BTreeMap::new();
    for count in NETNS_COUNTS {
        let (rate, times) = netns(dir.path(), count).await?;
        rates.push((format!("netns, {count} instances"), rate));
        steps = times;
    }
    rates.extend(
        docker(dir.path())
            .await?
            .map(|rate| (format!("docker, {DOCKER_CONTAINERS} instances"), rate)),
    );
    rates.extend(engine(1)?.map(|rate| ("`docker run -d`, one after another".to_owned(), rate)));
    rates.extend(
        engine(DOCKER_AT_ONCE)?
            .map(|rate| (format!("`docker run -d`, {DOCKER_AT_ONCE} at once"), rate)),
    );
    rates.extend(
        crun(&dir.path().join("crun"))?
            .map(|rate| ("`crun run`, one after another".to_owned(), rate)),
    );
    print(&rates, &steps);
    Ok(())
}

fn print(rates: &[(String, f64)], steps: &BTreeMap<String, (u64, u64)>) {
    let mut best =
        rates.iter().filter(|(name, _)| name.starts_with("netns")).map(|(_, rate)| *rate);
    let netns = best.next_back().unwrap_or_default();
    println!(
        "\n| way | instances/s | ms each | netns at 1,000 is faster by |\n|---|---:|---:|---:|"
    );
    for (name, rate) in rates {
        println!("| {name} | {rate:.1} | {:.2} | {:.1} |", 1_000.0 / rate, netns / rate);
    }
    println!("\n| step of an instance, at 1,000 | µs |\n|---|---:|");
    for (step, (count, total)) in steps {
        println!("| {step} | {} |", total / (*count).max(1));
    }
}

async fn netns(dir: &Path, count: u32) -> anyhow::Result<(f64, BTreeMap<String, (u64, u64)>)> {
    let dir = tempfile::tempdir_in(dir)?;
    let runtime = NetnsRuntime::new(NetnsConfig {
        worker: worker(),
        state_dir: dir.path().join("state"),
        spawner: PathBuf::from(env!("CARGO_BIN_EXE_worker")),
    });
    let runtime = runtime.await?;
    let rate = rate(&runtime, dir.path(), count).await?;
    Ok((rate, runtime.step_times()))
}

/// `None` where no Docker engine answers.
async fn docker(dir: &Path) -> anyhow::Result<Option<f64>> {
    let dir = tempfile::tempdir_in(dir)?;
    let state_dir = dir.path().join("state");
    std::fs::create_dir(&state_dir)?;
    let config = DockerConfig { worker: worker(), state_dir, socket: None };
    let runtime = match DockerRuntime::connect(config).await {
        Ok(runtime) => runtime,
        Err(err) => {
            println!("docker is not measured: {err}");
            return Ok(None);
        }
    };
    let rate = rate(&runtime, dir.path(), DOCKER_CONTAINERS).await?;
    Ok(Some(rate))
}

fn worker() -> WorkerId {
    WorkerId::from_lossy(&format!("bench-{}", std::process::id()))
}

/// Makes `count` instances as fast as the runtime takes them, starts them, and removes them.
async fn rate(runtime: &dyn Runtime, dir: &Path, count: u32) -> anyhow::Result<f64> {
    let blob = dir.join("bundle");
    let image = bundle(&blob)?;
    let took = starts(runtime, &worker(), (&image, &blob), dir, count).await?;
    let rate = per_second(count, took.ready);
    println!(
        "{} {count}: {rate:.0}/s ready; started in {:.0?}; ended and removed in {:.0?}",
        runtime.kind().as_str(),
        took.started,
        took.removed,
    );
    Ok(rate)
}

/// Nothing but Debian's `busybox-static`, which waits.
fn bundle(path: &Path) -> anyhow::Result<ImageRef> {
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1)?);
    archive.append_path_with_name("/bin/busybox", "busybox")?;
    std::fs::write(path, archive.into_inner()?.finish()?)?;
    image(path, &["./busybox", "sleep", "1000"])
}

/// A container of its own namespaces around busybox, fifty times. `None` where crun or busybox is missing.
fn crun(dir: &Path) -> anyhow::Result<Option<f64>> {
    let rootfs = dir.join("rootfs");
    std::fs::create_dir_all(&rootfs)?;
    if std::fs::copy("/bin/busybox", rootfs.join("sh")).is_err() {
        return Ok(None);
    }
    if !succeeds(Command::new("crun").arg("spec").current_dir(dir)) {
        return Ok(None);
    }
    let config = dir.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/sh", "-c", "exit 0"]);
    std::fs::write(&config, spec.to_string())?;
    // On a host with both versions of cgroups crun refuses to start, unless it does not see the second.
    let script = format!(
        "umount /sys/fs/cgroup/unified 2>/dev/null; i=0; \
         while [ $i -lt {CRUN_CONTAINERS} ]; do crun run groundswell-$$-$i || exit 1; i=$((i+1)); done"
    );
    let began = Instant::now();
    if !succeeds(Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(dir)) {
        return Ok(None);
    }
    Ok(Some(per_second(CRUN_CONTAINERS, began.elapsed())))
}

/// What the engine does by itself. `None` where none answers.
fn engine(at_once: usize) -> anyhow::Result<Option<f64>> {
    let image = format!("groundswell-bench:{}", std::process::id());
    let import = format!("tar -C /bin -c busybox | docker import - {image}");
    if !succeeds(Command::new("docker").arg("info"))
        || !succeeds(Command::new("sh").args(["-c", &import]))
    {
        return Ok(None);
    }
    let began = Instant::now();
    let run = format!(
        "seq {DOCKER_CONTAINERS} | xargs -P {at_once} -n 1 sh -c 'docker run -d --network none --name {}-$0 {image} /busybox sleep 1000'",
        worker()
    );
    let ran = succeeds(Command::new("sh").args(["-c", &run]));
    let took = began.elapsed();
    let clean = format!(
        "seq {DOCKER_CONTAINERS} | xargs -n 1 -I N docker rm -f {}-N; docker rmi {image}",
        worker()
    );
    succeeds(Command::new("sh").args(["-c", &clean]));
    Ok(ran.then(|| per_second(DOCKER_CONTAINERS, took)))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

fn per_second(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64()
}
