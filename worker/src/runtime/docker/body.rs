//! What the engine is told to create. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::Labels;
use crate::runtime::cgroup::DEFAULT_PIDS;
use crate::runtime::{DatasetBind, InstanceLabels, InstanceSpec, RuntimeError, ShareKey};

/// Begins the name of every container.
pub(super) const NAME_PREFIX: &str = "gs-";
/// Label with the worker a container belongs to.
pub(super) const WORKER_LABEL: &str = "dev.groundswell.worker";
/// Label with the worker's epoch.
pub(super) const EPOCH_LABEL: &str = "dev.groundswell.epoch";
/// Label of containers that stay after the run.
pub(super) const KEEP_LABEL: &str = "dev.groundswell.keep";

/// Where the init process lies in every container.
const INIT: &str = "/.groundswell/init";
/// The init process itself: a process and a thread that the plan's limit must not count.
const PIDS_OF_INIT: u64 = 2;
/// `/tmp` of a container that has no other place to write to.
const SCRATCH: &str = "mode=1777,exec,size=512m";
/// How much sooner than others the kernel ends a plan when the host has no memory left.
const OOM_SCORE_ADJUSTMENT: i64 = 500;

/// Capabilities that images of ordinary software need to start: to own and read their files whoever built
/// them, to change to a user of their own, to stop their children, to listen on a low port. Missing on
/// purpose: `NET_RAW` and `NET_ADMIN` (an instance could pretend to be another one; `ping` works without,
/// see [`sysctls`]), `SYS_CHROOT`, `MKNOD`, `SETFCAP`, `AUDIT_WRITE`.
const CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// An image that is ready on this host, as far as a container needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    /// What the engine calls it.
    pub(super) reference: String,
    /// The whole command of the plan's first process.
    pub(super) command: Vec<String>,
    /// Its directory; empty is the image's own.
    pub(super) workdir: String,
    /// Mounts that belong to the image, as Docker writes binds.
    pub(super) binds: Vec<String>,
    /// Whether it brings no file system of its own, so that scratch space has to be added.
    pub(super) bare: bool,
}

/// The name of an instance's container.
pub(super) fn name(labels: &InstanceLabels) -> String {
    format!("{NAME_PREFIX}{}-{}-{}", labels.run, labels.attempt, labels.instance)
}

/// With what the names of a share's containers begin.
pub(super) fn begin_of_names((run, attempt): &ShareKey) -> String {
    format!("gs-{run}-{attempt}-")
}

/// The request for an instance's container. `held` are the mounts of the init process.
pub(super) fn body(
    spec: &InstanceSpec,
    ready: &Ready,
    held: &[String],
    host_cpus: f64,
) -> Result<ContainerCreateBody, RuntimeError> {
    let labels = labels(spec).into_iter().map(|(key, value)| (key.to_owned(), value));
    let mut env = spec.image.env.clone();
    env.extend(spec.env.clone());
    Ok(ContainerCreateBody {
        image: Some(ready.reference.clone()),
        hostname: Some(spec.hostname.clone()),
        entrypoint: Some(vec![INIT.to_owned()]),
        cmd: Some(ready.command.clone()),
        working_dir: Some(ready.workdir.clone()).filter(|directory| !directory.is_empty()),
        env: Some(env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels.collect()),
        // An image's own health check would run commands in the middle of a measurement.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        host_config: Some(host_config(spec, ready, held, host_cpus)?),
        ..Default::default()
    })
}

fn host_config(
    spec: &InstanceSpec,
    ready: &Ready,
    held: &[String],
    host_cpus: f64,
) -> Result<HostConfig, RuntimeError> {
    let memory = spec.resources.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let pids = spec.resources.pids.unwrap_or(DEFAULT_PIDS).saturating_add(PIDS_OF_INIT);
    let mut binds = vec![
        format!("{}:/outputs", spec.outputs.display()),
        format!("{}:/temp", spec.temp.display()),
    ];
    let dataset = |one: &DatasetBind| format!("{}:{}:ro", one.from.display(), one.to.display());
    binds.extend(spec.datasets.iter().map(dataset));
    binds.extend_from_slice(&ready.binds);
    binds.extend_from_slice(held);
    let scratch = HashMap::from([("/tmp".to_owned(), SCRATCH.to_owned())]);
    let has_scratch = ready.bare || spec.read_only_root;
    Ok(HostConfig {
        network_mode: Some("none".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ipc_mode: Some("private".to_owned()),
        sysctls: Some(sysctls()),
        memory,
        memory_swap: memory,
        nano_cpus: spec.resources.cpu_cores.map(|cores| nano_cpus(cores, host_cpus)),
        pids_limit: Some(i64::try_from(pids).unwrap_or(i64::MAX)),
        ulimits: Some(spec.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?),
        binds: Some(binds),
        tmpfs: has_scratch.then_some(scratch),
        readonly_rootfs: Some(spec.read_only_root),
        oom_score_adj: Some(OOM_SCORE_ADJUSTMENT),
        extra_hosts: Some(extra_hosts(spec)),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..Default::default()
    })
}

fn labels(spec: &InstanceSpec) -> Labels {
    let labels = &spec.labels;
    let mut all = BTreeMap::from([
        ("dev.groundswell.run", labels.run.to_string()),
        ("dev.groundswell.attempt", labels.attempt.to_string()),
        ("dev.groundswell.instance", labels.instance.to_string()),
        (WORKER_LABEL, labels.worker.to_string()),
        (EPOCH_LABEL, labels.epoch.to_string()),
        // Scripts around Testground find containers by these.
        ("testground.purpose", "plan".to_owned()),
        ("testground.plan", labels.plan.clone()),
        ("testground.testcase", labels.case.clone()),
        ("testground.run_id", labels.run.to_string()),
        ("testground.group_id", labels.group.clone()),
    ]);
    if spec.keep {
        all.insert(KEEP_LABEL, "true".to_owned());
    }
    all
}

/// Lets everyone open the datagram sockets that the `ping` of iputils and unprivileged ping libraries use, so they
/// need no `NET_RAW`. Busybox's `ping` knows only raw sockets and does not work.
fn sysctls() -> HashMap<String, String> {
    HashMap::from([("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned())])
}

/// Docker refuses more cores than the host has; all of them are as good as no limit.
fn nano_cpus(cores: f64, host_cpus: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the host's number of cores")]
    let nano = (cores.clamp(0.01, host_cpus.max(0.01)) * 1e9) as i64;
    nano
}

/// The instance's names. Docker writes its own name into `/etc/hosts` only with a network of Docker's.
fn extra_hosts(spec: &InstanceSpec) -> Vec<String> {
    let mut hosts = spec.hosts.clone();
    hosts.entry(spec.hostname.clone()).or_insert(spec.wire.address);
    hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect()
}

/// Parses `nofile=1024:2048` or `nofile=1024`.
fn ulimit(text: &str) -> Result<ResourcesUlimits, RuntimeError> {
    let parsed = text.split_once('=').and_then(|(name, limits)| {
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        Some(ResourcesUlimits {
            name: Some(name.trim().to_owned()).filter(|name| !name.is_empty()),
            soft: Some(soft.trim().parse().ok()?),
            hard: Some(hard.trim().parse().ok()?),
        })
    });
    parsed.ok_or_else(|| {
        RuntimeError::Plan(format!("`{text}` is not a ulimit: write `nofile=1048576:1048576`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulimit_is_read_as_docker_writes_it() {
        let limit = ulimit("nofile=1024:2048").expect("valid");
        assert_eq!((limit.soft, limit.hard), (Some(1024), Some(2048)));
        let limit = ulimit("core=0").expect("valid");
        assert_eq!((limit.soft, limit.hard), (Some(0), Some(0)));
        assert!(ulimit("nofile").expect_err("refused").to_string().contains("`nofile`"));
    }

    #[test]
    fn cores_are_never_more_than_the_host_has() {
        assert_eq!(nano_cpus(0.5, 2.0), 500_000_000);
        assert_eq!(nano_cpus(8.0, 2.0), 2_000_000_000);
    }
}
