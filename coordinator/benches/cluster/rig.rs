//! A cluster on this machine: servers of NATS, coordinators, workers, and how long runs take on it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::Subscriber;
use futures::StreamExt as _;
use groundswell_common::api::{Answer, CancelRequest, ServiceInfo, WorkerStatus};
use groundswell_common::bus::{self, Bus, BusConfig};
use groundswell_common::ids::RunId;
use groundswell_common::nats_server;
use groundswell_common::run::{RunPhase, RunStatus, Verdict};
use groundswell_common::subjects;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{Process, cpu};

/// How long anything may take; the first run of a plan builds it.
const LIMIT: Duration = Duration::from_secs(600);
/// How long an answer is waited for: what is asked of a coordinator that has just died is lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// How a cluster is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// Servers of NATS, one or three.
    pub(crate) servers: usize,
    /// Whether they force each message to the disk before they acknowledge it.
    pub(crate) always: bool,
    /// All intervals of the leases are divided by this.
    pub(crate) faster: u32,
}

impl Setup {
    /// One server with its defaults and the usual intervals.
    pub(crate) const PLAIN: Self = Self { servers: 1, always: false, faster: 1 };
}

/// When a run reached a phase, and the processor time its coordinator had used since the submit.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) at: Duration,
    pub(crate) cpu: Duration,
}

/// The phases that runs were seen in.
#[derive(Default)]
pub(crate) struct Course(BTreeMap<RunPhase, Mark>);

impl Course {
    /// When it was in this phase or a later one.
    pub(crate) fn reached(&self, phase: RunPhase) -> Result<Mark> {
        let mark = self.0.range(phase..).next().map(|(_, mark)| *mark);
        mark.with_context(|| format!("the run was never {phase}"))
    }
}

/// A cluster. What it is made of ends when it is dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    setup: Setup,
    url: String,
    pub(crate) bus: Bus,
    servers: Vec<Process>,
    pub(crate) coordinators: Vec<Process>,
    workers: Vec<Process>,
    started: usize,
}

impl Cluster {
    /// Starts the servers and one coordinator.
    pub(crate) async fn start(setup: Setup) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (servers, url) = start_servers(dir.path(), setup).await?;
        let bus = connect(&url, setup.servers).await?;
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        std::fs::create_dir_all(&cache)?;
        std::os::unix::fs::symlink(cache, dir.path().join("cache"))?;
        let mut cluster = Self {
            dir,
            setup,
            url,
            bus,
            servers,
            coordinators: Vec::new(),
            workers: Vec::new(),
            started: 0,
        };
        let pid = cluster.add_coordinator()?.id()?;
        cluster.led_by(pid).await?;
        cluster.check_replicas(subjects::ASSIGN_STREAM).await?;
        Ok(cluster)
    }

    /// Where its servers listen.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of the coordinator, with nothing of the caller's configuration.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command
            .args(arguments)
            .env("GROUNDSWELL_HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.dir.path())
            .env("GROUNDSWELL_NATS", &self.url)
            .env("GROUNDSWELL_OBJECTS", self.objects())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn objects(&self) -> String {
        format!("file://{}", self.path("store").display())
    }

    /// Starts one more coordinator, which stands by if another one leads.
    pub(crate) fn add_coordinator(&mut self) -> Result<&Process> {
        self.started += 1;
        let (name, faster) = (format!("c{}", self.started), self.setup.faster.to_string());
        let serve = ["serve", "--name", &name, "--lease-divisor", &faster];
        let process = Process::start(self.command(&serve), &self.path(&format!("{name}.log")))?;
        self.coordinators.push(process);
        self.coordinators.last().context("it was just added")
    }

    /// Waits until this process leads.
    pub(crate) async fn led_by(&self, pid: u32) -> Result<()> {
        let leads = async {
            loop {
                let info = self.bus.request::<Answer<ServiceInfo>>(subjects::api("info"), &());
                match timeout(PATIENCE, info).await {
                    Ok(Ok(Ok(info))) if info.pid == pid => return,
                    Ok(_) | Err(_) => sleep(PAUSE).await,
                }
            }
        };
        timeout(LIMIT, leads).await.context("it never leads")
    }

    /// Makes sure that a stream has as many copies as there are servers: three that had not found each other would
    /// be measured as one.
    pub(crate) async fn check_replicas(&self, stream: &str) -> Result<()> {
        let stream = self.bus.jetstream().get_stream(stream).await?;
        let copies = stream.cached_info().config.num_replicas;
        ensure!(copies == self.setup.servers, "a stream has {copies} copies");
        Ok(())
    }

    /// Starts so many workers and waits until they take instances.
    pub(crate) async fn add_workers(&mut self, workers: u32, slots: u32) -> Result<()> {
        let program = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
        ensure!(program.is_file(), "build the worker as well: {} is missing", program.display());
        for number in 0..workers {
            let name = format!("bench-{}-{number}", std::process::id());
            let mut command = Command::new(&program);
            command
                .args(["run", "--nats", &self.url, "--objects", &self.objects(), "--name", &name])
                .args(["--slots", &slots.to_string(), "--state-dir"])
                .arg(self.path(&name));
            self.workers.push(Process::start(command, &self.path(&format!("{name}.log")))?);
        }
        let ready = async {
            while self.ready().await != workers as usize {
                sleep(PAUSE).await;
            }
        };
        timeout(LIMIT, ready).await.context("the workers are never ready")
    }

    /// How many workers take instances.
    pub(crate) async fn ready(&self) -> usize {
        let asked = self.bus.request::<Answer<Vec<WorkerStatus>>>(subjects::api("workers"), &());
        let Ok(Ok(workers)) = asked.await else { return 0 };
        workers.iter().filter(|worker| worker.state == "ready").count()
    }

    /// Writes a composition of one group of a plan of this repository.
    pub(crate) fn composition(
        &self,
        (plan, case): (&str, &str),
        instances: u32,
        group: &str,
    ) -> Result<PathBuf> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a parent")?;
        let text = format!(
            "[global]\nplan = \"{}\"\ncase = \"{case}\"\nbuilder = \"exec:cargo\"\nrunner = \"netns\"\n\
             [[groups]]\nid = \"all\"\ninstances = {{ count = {instances} }}\n{group}\n",
            repository.join("plans").join(plan).display(),
        );
        let file = self.path(&format!("{plan}-{case}-{instances}.toml"));
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Submits with the command line, which ends when the run is accepted.
    fn submitting(&self, file: &Path) -> Result<impl Future<Output = Result<()>> + use<>> {
        let mut command = self.command(&["submit", "--detach", "-q"]);
        let child = command.arg(file).stdout(Stdio::null()).spawn()?;
        Ok(async move {
            let output = child.wait_with_output().await?;
            ensure!(output.status.success(), "submit ended with {}", output.status);
            Ok(())
        })
    }

    /// Runs these compositions at the same time, each of which has to pass; returns when the last of them was in
    /// each phase.
    pub(crate) async fn run(&self, files: &[&Path]) -> Result<Course> {
        let watched = timeout(LIMIT, self.watch(files, RunPhase::Cleaned)).await;
        let (course, statuses) = watched.context("the runs take too long")??;
        for status in statuses {
            let (verdict, reason) = (status.verdict, &status.reason);
            ensure!(verdict == Some(Verdict::Passed), "{verdict:?}: {reason}");
        }
        Ok(course)
    }

    /// Starts a run that goes on by itself and waits until its instances run.
    pub(crate) async fn begin(&self, file: &Path) -> Result<RunStatus> {
        let watched = timeout(LIMIT, self.watch(&[file], RunPhase::Running)).await;
        let (_, mut statuses) = watched.context("the run does not begin")??;
        let status = statuses.pop().context("there is one")?;
        ensure!(status.phase == RunPhase::Running, "{}: {}", status.phase, status.reason);
        Ok(status)
    }

    /// Kills a run.
    pub(crate) async fn cancel(&self, run: &RunId) -> Result<()> {
        let request = CancelRequest { run: run.clone(), kill: true, reason: "measured".to_owned() };
        self.bus.request::<Answer<RunStatus>>(subjects::api("cancel"), &request).await??;
        Ok(())
    }

    /// Submits runs and watches until all have reached a phase.
    async fn watch(&self, files: &[&Path], until: RunPhase) -> Result<(Course, Vec<RunStatus>)> {
        let mut told = self.bus.client().subscribe("gs.v1.status.*").await?;
        self.bus.client().flush().await?;
        let leader = self.coordinators.last().context("there is a coordinator")?.id()?;
        let (began, used) = (Instant::now(), cpu(leader)?);
        let since_ms = u64::try_from(jiff::Timestamp::now().as_millisecond())?;
        let mut submits = JoinSet::new();
        for file in files {
            submits.spawn(self.submitting(file)?);
        }
        let mut seen: BTreeMap<RunId, RunStatus> = BTreeMap::new();
        let mut course = Course::default();
        loop {
            let status = tokio::select! {
                status = next(&mut told) => status?,
                Some(submitted) = submits.join_next() => {
                    submitted??;
                    continue;
                }
            };
            if status.submitted_ms < since_ms {
                continue;
            }
            seen.insert(status.run.clone(), status);
            // A message may be late; phases are told whole, so that the last of all runs counts.
            let slowest = seen.values().map(|status| status.phase).min();
            let Some(phase) = slowest.filter(|_| seen.len() == files.len()) else { continue };
            let mark = Mark { at: began.elapsed(), cpu: cpu(leader)?.saturating_sub(used) };
            course.0.entry(phase).or_insert(mark);
            if phase >= until {
                return Ok((course, seen.into_values().collect()));
            }
        }
    }

    /// Ends everything in good order.
    pub(crate) async fn end(self) -> Result<()> {
        for process in self.workers.into_iter().chain(self.coordinators).chain(self.servers) {
            process.end().await?;
        }
        Ok(())
    }
}

async fn next(told: &mut Subscriber) -> Result<RunStatus> {
    let message = told.next().await.context("the bus is gone")?;
    Ok(bus::decode(&message.payload)?)
}

async fn start_servers(dir: &Path, setup: Setup) -> Result<(Vec<Process>, String)> {
    let program = nats_server::find().await?;
    let (clients, routes) = (free_ports(setup.servers)?, free_ports(setup.servers)?);
    let mut servers = Vec::new();
    for (number, (client, route)) in clients.iter().zip(&routes).enumerate() {
        let store = dir.join(format!("n{number}"));
        let sync = if setup.always { ", sync_interval: always" } else { "" };
        let mut config = format!(
            "server_name: n{number}\nlisten: \"127.0.0.1:{client}\"\n\
             jetstream {{ store_dir: \"{}\"{sync} }}\n",
            store.display()
        );
        if setup.servers > 1 {
            let all: Vec<String> =
                routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
            config.push_str(&format!(
                "cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: {all:?} }}\n"
            ));
        }
        let file = dir.join(format!("n{number}.conf"));
        std::fs::write(&file, config)?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file);
        servers.push(Process::start(command, &dir.join(format!("n{number}.log")))?);
    }
    let urls: Vec<String> = clients.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    Ok((servers, urls.join(",")))
}

/// Ports that nobody listens on at this moment.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Connects once the servers know each other.
async fn connect(url: &str, servers: usize) -> Result<Bus> {
    let config = BusConfig::open(url.to_owned(), "bench");
    let connected = async {
        loop {
            match Bus::connect(&config).await {
                Ok(bus) if servers == 1 || bus.nodes().len() == servers => return bus,
                Ok(_) | Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(LIMIT, connected).await.context("the servers of NATS do not come up")
}
