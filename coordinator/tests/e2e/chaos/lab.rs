//! The cluster of the chaos tests, what can be done to it, and what must be left of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use groundswell_common::nats_server;
use nix::sys::signal::{Signal, kill};
use tokio::time::Instant;

use crate::adoption::until_printed;
use crate::harness::{
    Composition, Home, LIMIT, Ran, Running, control_groups, fetch_crates, pid, processes,
    wait_until, worker_binary,
};
use crate::hosts::{Site, ip};

/// Servers, coordinators and workers, in the order of their hosts.
const SERVERS: usize = 3;
const COORDINATORS: usize = 2;
const WORKERS: usize = 4;
/// Instances of the run: two on each worker.
const INSTANCES: u32 = 8;

/// With short leases NATS is slow enough at times to make workers silent for a moment, and a run would do without them.
const EACH_HAS_TWO: &str = "placement = { per_worker = 2 }";

/// So many lines of each log are shown when a test has failed.
const LINES: usize = 15;

/// How a cluster is set up.
pub(super) struct Setup {
    /// All intervals of the leases are divided by this.
    pub(super) faster: u32,
    /// Variables of coordinators and workers.
    pub(super) variables: Vec<(&'static str, String)>,
    /// The object store; absent is a directory.
    pub(super) objects: Option<String>,
    /// What makes the instances.
    pub(super) runner: &'static str,
    /// Whether servers of NATS store on small disks of their own.
    pub(super) small_disks: bool,
}

impl Setup {
    pub(super) fn faster(faster: u32) -> Self {
        Self { faster, variables: Vec::new(), objects: None, runner: "netns", small_disks: false }
    }
}

/// A cluster that can be broken.
pub(super) struct Lab {
    pub(super) site: Site,
    pub(super) home: Home,
    setup: Setup,
    servers: Vec<Child>,
    coordinators: Vec<Child>,
    workers: Vec<Child>,
    /// Workers that were killed and not started again.
    dead: BTreeSet<usize>,
    /// What each worker's host has without any run.
    bare: Vec<BTreeSet<String>>,
}

impl Lab {
    pub(super) async fn start(setup: Setup) -> Self {
        let hosts = u8::try_from(SERVERS + COORDINATORS + WORKERS).expect("few");
        Self::start_on(Site::new(hosts), setup).await
    }

    pub(super) async fn start_on(site: Site, setup: Setup) -> Self {
        fetch_crates("barrier");
        let nats = nats_server::find().await.expect("a nats-server");
        let urls: Vec<String> =
            (0..SERVERS).map(|n| format!("nats://{}:4222", address(n))).collect();
        let home = Home::new();
        let store = format!("file://{}", home.dir.path().join("store").display());
        let objects = setup.objects.clone().unwrap_or(store);
        let mut home =
            home.with("GROUNDSWELL_NATS", urls.join(",")).with("GROUNDSWELL_OBJECTS", &objects);
        for (name, value) in &setup.variables {
            home = home.with(name, value);
        }
        let mut lab = Self {
            site,
            home,
            setup,
            servers: Vec::new(),
            coordinators: Vec::new(),
            workers: Vec::new(),
            dead: BTreeSet::new(),
            bare: Vec::new(),
        };
        for number in 0..SERVERS {
            lab.configure(number);
            if lab.setup.small_disks {
                lab.small_disk(number);
            }
            let server = lab.server(&nats, number);
            lab.servers.push(server);
        }
        for number in 0..SERVERS {
            let address = address(number).parse().expect("an address");
            lab.site.hub.until_listening(address, 4222);
        }
        for number in 0..COORDINATORS {
            let serve = lab.coordinator(number, &[], &[]);
            lab.coordinators.push(serve);
        }
        for number in 0..WORKERS {
            let worker = lab.worker(number);
            lab.workers.push(worker);
        }
        lab.until_ready(WORKERS);
        lab.bare = (0..WORKERS).map(|number| lab.traces(number)).collect();
        lab
    }

    fn configure(&self, number: usize) {
        let routes: Vec<String> =
            (0..SERVERS).map(|n| format!("nats-route://{}:6222", address(n))).collect();
        let store = self.store(number).display().to_string();
        let own = address(number);
        let config = format!(
            "server_name: n{number}\nlisten: {own}:4222\nping_interval: 2s\nwrite_deadline: 5s\n\
             jetstream {{ store_dir: \"{store}\", sync_interval: always, max_file_store: 2GB }}\n\
             cluster {{ name: chaos, listen: {own}:6222, routes: {routes:?} }}\n"
        );
        self.home.write(&format!("n{number}.conf"), &config);
    }

    fn store(&self, number: usize) -> PathBuf {
        self.home.dir.path().join(format!("nats{number}"))
    }

    fn small_disk(&self, number: usize) {
        let store = self.store(number);
        std::fs::create_dir_all(&store).expect("made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&store);
        assert!(mount.status().expect("mount is there").success());
    }

    /// Leaves no room on a server's disk, or makes room again.
    pub(super) fn fill(&self, number: usize, full: bool) {
        let ballast = self.store(number).join("ballast");
        if !full {
            return std::fs::remove_file(ballast).expect("it was there");
        }
        let mut file = std::fs::File::create(ballast).expect("created");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn server(&self, nats: &Path, number: usize) -> Child {
        let config = self.home.dir.path().join(format!("n{number}.conf"));
        let mut command = Command::new(nats);
        command.arg("-c").arg(config);
        self.spawn(number, &format!("n{number}"), &mut command)
    }

    fn coordinator(&self, number: usize, options: &[&str], variables: &[(&str, &str)]) -> Child {
        let faster = self.setup.faster.to_string();
        let name = format!("c{number}");
        let serve = ["serve", "--lease-divisor", faster.as_str(), "--name", name.as_str()];
        let mut command = self.home.command(&serve);
        command.args(options).envs(variables.iter().copied());
        self.spawn(SERVERS + number, &name, &mut command)
    }

    pub(super) fn worker(&self, number: usize) -> Child {
        let mut command = Command::new(worker_binary());
        command
            .args(["run", "--name", &self.worker_name(number), "--slots", "10", "--state-dir"])
            .arg(self.state_dir(number))
            .envs(self.home.variables.iter().cloned());
        self.spawn(SERVERS + COORDINATORS + number, &format!("w{number}"), &mut command)
    }

    fn spawn(&self, host: usize, name: &str, command: &mut Command) -> Child {
        let log = self.log(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("opened");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.site.spokes[host].enter(|| command.spawn().expect("it starts"))
    }

    pub(super) fn worker_name(&self, number: usize) -> String {
        let home = self.home.dir.path().file_name().expect("a name").to_string_lossy();
        let home: String = home.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("chaos-{}-{number}", home.to_lowercase())
    }

    pub(super) fn state_dir(&self, number: usize) -> PathBuf {
        self.home.dir.path().join(format!("worker{number}"))
    }

    /// Where a process says what it does.
    fn log(&self, name: &str) -> PathBuf {
        self.home.dir.path().join(format!("{name}.log"))
    }

    /// The ends of all logs, to be read where a test has failed.
    fn tails(&self) -> String {
        let groups = [("n", SERVERS), ("c", COORDINATORS), ("w", WORKERS)];
        let names =
            groups.iter().flat_map(|(kind, count)| (0..*count).map(move |n| format!("{kind}{n}")));
        let tail = |name: String| {
            let log = std::fs::read_to_string(self.log(&name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("{name} said:\n{}\n", lines[lines.len().saturating_sub(LINES)..].join("\n"))
        };
        names.map(tail).collect()
    }

    /// Waits until so many workers take instances.
    pub(super) fn until_ready(&mut self, workers: usize) {
        wait_until("all workers are ready", LIMIT, || {
            let all =
                self.workers.iter_mut().chain(&mut self.coordinators).chain(&mut self.servers);
            for process in all {
                assert!(matches!(process.try_wait(), Ok(None)), "{process:?} has ended");
            }
            self.on_hub(&["workers", "--json"]).stdout.matches("\"ready\"").count() == workers
        });
    }

    /// A command of the coordinator on the hub, where people are.
    pub(super) fn on_hub(&self, arguments: &[&str]) -> Ran {
        self.site.hub.enter(|| self.home.run(arguments))
    }

    /// Starts the run and waits until its instances are past their first round.
    pub(super) fn run(&self, rounds: &'static str, global: &'static str) -> Running {
        let global = match (global, self.dead.len()) {
            ("", 0) => EACH_HAS_TWO,
            (told, _) => told,
        };
        let running = self.submit(rounds, global);
        running.until("phase=running");
        for number in (0..WORKERS).filter(|number| !self.dead.contains(number)) {
            until_printed(&self.state_dir(number), "first round passed");
        }
        running
    }

    pub(super) fn submit(&self, group: &'static str, global: &'static str) -> Running {
        let runner = self.setup.runner;
        let usual = Composition::netns("barrier", "ledger", INSTANCES);
        let composition = Composition { global, group, runner, ..usual };
        let file = self.home.composition(&composition);
        self.site.hub.enter(|| self.home.start(&["submit", &file, "--progress", "plain"]))
    }

    // What can be done to it.

    pub(super) fn signal_server(&self, number: usize, signal: Signal) {
        kill(pid(&self.servers[number]), signal).expect("it runs");
    }

    /// Kills a server of NATS; it may be started again.
    pub(super) fn kill_server(&mut self, number: usize) {
        self.signal_server(number, Signal::SIGKILL);
        self.servers[number].wait().expect("it ends");
    }

    pub(super) async fn start_server(&mut self, number: usize) {
        let nats = nats_server::find().await.expect("a nats-server");
        self.servers[number] = self.server(&nats, number);
    }

    /// The files of a server's streams.
    pub(super) fn wipe(&self, number: usize) {
        std::fs::remove_dir_all(self.store(number)).expect("it was there");
    }

    /// Flips one bit in the middle of each block file of a server.
    pub(super) fn flip(&self, number: usize) -> usize {
        let blocks = blocks(&self.store(number));
        for block in &blocks {
            let mut content = std::fs::read(block).expect("a block");
            if let Some(byte) = content.len().checked_div(2).and_then(|at| content.get_mut(at)) {
                *byte ^= 1;
            }
            std::fs::write(block, content).expect("written");
        }
        blocks.len()
    }

    pub(super) fn signal_coordinator(&self, number: usize, signal: Signal) {
        kill(pid(&self.coordinators[number]), signal).expect("it runs");
    }

    /// Kills a coordinator and starts it again.
    pub(super) fn replace_coordinator(&mut self, number: usize) {
        self.signal_coordinator(number, Signal::SIGKILL);
        self.begin_again(number, &[], &[]);
    }

    /// Starts a coordinator again that has ended or is about to.
    fn begin_again(&mut self, number: usize, options: &[&str], variables: &[(&str, &str)]) {
        self.coordinators[number].wait().expect("it ends");
        self.coordinators[number] = self.coordinator(number, options, variables);
    }

    /// Makes a coordinator lead that ends at a failpoint. Returns which one.
    pub(super) fn doom_leader(&mut self, point: &str) -> usize {
        let leader = self.leader();
        let doomed = 1 - leader;
        self.signal_coordinator(doomed, Signal::SIGKILL);
        let log = self.log(&format!("c{doomed}"));
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let before = said().matches("standing by").count();
        self.begin_again(doomed, &[], &[("GROUNDSWELL_FAILPOINT", point)]);
        wait_until("it stands by", LIMIT, || said().matches("standing by").count() > before);
        self.signal_coordinator(leader, Signal::SIGKILL);
        self.coordinators[leader].wait().expect("it ends");
        wait_until("the doomed one leads", LIMIT, || self.leader() == doomed);
        self.begin_again(leader, &[], &[]);
        doomed
    }

    /// Waits until a coordinator has ended at its failpoint, and starts it again.
    pub(super) fn revive(&mut self, doomed: usize) {
        let mut ended = None;
        wait_until("it ends at its failpoint", LIMIT, || {
            ended = self.coordinators[doomed].try_wait().expect("a child");
            ended.is_some()
        });
        let signal =
            ended.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        assert_eq!(signal, Some(9), "{ended:?}");
        self.begin_again(doomed, &[], &[]);
    }

    /// Waits until all coordinators have refused to go on, and lets one of them begin anew.
    pub(super) fn bootstrap(&mut self) {
        for number in 0..COORDINATORS {
            let status = self.coordinators[number].wait().expect("it ends");
            assert_eq!(status.code(), Some(5));
            let said = std::fs::read_to_string(self.log(&format!("c{number}"))).expect("a log");
            assert!(said.contains("NATS has lost the control state"), "{said}");
        }
        self.begin_again(0, &["--bootstrap"], &[]);
        assert_eq!(self.leader(), 0);
        self.begin_again(1, &[], &[]);
    }

    /// The coordinator that answers.
    pub(super) fn leader(&self) -> usize {
        let mut leader = None;
        wait_until("a coordinator leads", LIMIT, || {
            let info = self.on_hub(&["doctor", "--json"]).stdout;
            let leads = |child: &Child| info.contains(&format!("process {}", child.id()));
            leader = self.coordinators.iter().position(leads);
            leader.is_some()
        });
        leader.expect("there is one")
    }

    pub(super) fn kill_worker(&mut self, number: usize) {
        kill(pid(&self.workers[number]), Signal::SIGKILL).expect("it runs");
        self.workers[number].wait().expect("it ends");
        self.dead.insert(number);
    }

    pub(super) fn start_worker(&mut self, number: usize) {
        self.workers[number] = self.worker(number);
        self.dead.remove(&number);
    }

    /// Takes the wire of a server's host down, or up again.
    pub(super) fn wire_server(&self, number: usize, up: bool) {
        self.wire(number, up);
    }

    pub(super) fn wire_worker(&self, number: usize, up: bool) {
        self.wire(SERVERS + COORDINATORS + number, up);
    }

    fn wire(&self, host: usize, up: bool) {
        let port = format!("port{host}");
        self.site.hub.enter(|| ip(&["link", "set", &port, if up { "up" } else { "down" }]));
    }

    // What must be left of it.

    /// Asserts that the newest run ended like this, with balanced books, and that nothing of it is left on any
    /// worker.
    #[track_caller]
    pub(super) fn ended(&self, running: Running, verdict: &str) -> serde_json::Value {
        let code = match verdict {
            "passed" => 0,
            "infra" => 20,
            other => panic!("no test expects {other}"),
        };
        let ran = running.finish().ends_with(code);
        assert!(ran.stderr.contains("all accounted for"), "{}", ran.stderr);
        let status = self.site.hub.enter(|| self.home.status());
        assert_eq!(status["verdict"], verdict, "{status:#}");
        let run = status["run"].as_str().expect("an id").to_owned();
        for number in 0..WORKERS {
            let mut left = Vec::new();
            let clean = || {
                left = self.left(number, &run);
                left.is_empty()
            };
            wait_until(&format!("nothing of {run} is left on worker {number}"), LIMIT, clean);
        }
        status
    }

    /// What a run has left on a worker.
    fn left(&self, number: usize, run: &str) -> Vec<String> {
        let mut left: Vec<String> =
            control_groups(run).iter().map(|path| path.display().to_string()).collect();
        // Files of a worker that is dead are removed by its next life.
        let places =
            if self.dead.contains(&number) { &[] } else { &["spool", "started", "held"][..] };
        for place in places {
            let files = std::fs::read_dir(self.state_dir(number).join(place));
            left.extend(
                files.into_iter().flatten().flatten().map(|file| file.path().display().to_string()),
            );
        }
        left.extend(self.traces(number).difference(&self.bare[number]).cloned());
        // The helper that makes instances is one process, and each instance's first one is a copy of it.
        let helpers = processes(&format!("__groundswell-spawner {}", self.worker_name(number)));
        left.extend(helpers.into_iter().skip(1));
        left
    }

    /// Links and tables of a worker's host, and mounts and containers of the worker.
    fn traces(&self, number: usize) -> BTreeSet<String> {
        let host = &self.site.spokes[SERVERS + COORDINATORS + number];
        let name = self.worker_name(number);
        let labeled = format!("label=dev.groundswell.worker={name}");
        let said = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            let output = command.args(arguments).envs(self.home.variables.iter().cloned()).output();
            String::from_utf8_lossy(&output.expect("it is installed").stdout).into_owned()
        };
        let listed = host.enter(|| {
            [
                said("ip", &["-o", "link"]),
                said("nft", &["list", "tables"]),
                said("docker", &["ps", "--all", "--quiet", "--filter", &labeled]),
            ]
        });
        let mounts = std::fs::read_to_string("/proc/mounts").expect("there");
        let directory = self.state_dir(number).display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&directory)).map(str::to_owned);
        // The rest of a link's line tells its state.
        let links = listed[0].lines().filter_map(|line| line.split(':').nth(1));
        let others = listed[1..].iter().flat_map(|text| text.lines());
        links.chain(others).map(str::to_owned).chain(mounts).collect()
    }

    /// Waits until nothing at all of a worker that was killed is left.
    pub(super) fn until_gone(&self, number: usize) {
        let name = self.worker_name(number);
        wait_until("nothing of the worker is left", LIMIT, || {
            processes(&name).is_empty() && control_groups(&name).is_empty()
        });
    }

    /// Writes a row of the table down: the fault, what came of it, and the longest round of any instance.
    pub(super) fn note(&self, fault: &str, came: &str) {
        let logs = self.on_hub(&["logs", "latest"]).stdout;
        let longest = logs.split("longest round ").skip(1).filter_map(|rest| {
            rest.split_once(" ms").and_then(|(number, _)| number.parse::<u64>().ok())
        });
        let stall = longest.max().map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
        std::fs::create_dir_all(&directory).expect("made");
        let name: String = fault.chars().filter(char::is_ascii_alphanumeric).collect();
        let row = format!("| {fault} | {came} | {stall} |\n");
        std::fs::write(directory.join(format!("{name}.md")), row).expect("written");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "what explains a failure")]
            {
                eprintln!("{}", self.tails());
            }
        }
        let all = self.workers.iter_mut().chain(&mut self.coordinators).chain(&mut self.servers);
        for process in all {
            let _ = kill(pid(process), Signal::SIGCONT);
            let _ = kill(pid(process), Signal::SIGTERM);
            let limit = Instant::now() + Duration::from_secs(20);
            while matches!(process.try_wait(), Ok(None)) {
                if Instant::now() > limit {
                    let _ = kill(pid(process), Signal::SIGKILL);
                }
                #[expect(clippy::disallowed_methods, reason = "a pause between two looks")]
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if self.setup.small_disks {
            for number in 0..SERVERS {
                let _ = Command::new("umount").arg(self.store(number)).status();
            }
        }
    }
}

fn address(number: usize) -> String {
    format!("192.0.2.{}", 11 + number)
}

fn blocks(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(blocks(&path));
        } else if path.extension().is_some_and(|extension| extension == "blk") {
            found.push(path);
        }
    }
    found
}
