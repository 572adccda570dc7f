//! What the end-to-end tests share: a home of their own, compositions made on the fly, and a look at what is left.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that builds nothing.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);
/// How long a run may take to start: the first one of a plan builds it.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// A composition of one group.
pub(crate) struct Composition {
    pub(crate) plan: &'static str,
    pub(crate) case: &'static str,
    pub(crate) runner: &'static str,
    pub(crate) count: u32,
    /// More TOML for `[global]`.
    pub(crate) global: &'static str,
    /// More TOML for `[[groups]]`.
    pub(crate) group: &'static str,
}

impl Composition {
    pub(crate) fn netns(plan: &'static str, case: &'static str, count: u32) -> Self {
        Self { plan, case, runner: "netns", count, global: "", group: "" }
    }

    pub(crate) fn docker(plan: &'static str, case: &'static str, count: u32) -> Self {
        Self { runner: "docker", ..Self::netns(plan, case, count) }
    }

    fn text(&self) -> String {
        let plan = repository().join("plans").join(self.plan);
        let manifest = std::fs::read_to_string(plan.join("manifest.toml")).expect("a plan");
        let (builder, config) = if manifest.contains("exec:cargo") {
            ("exec:cargo", "build_config = { profile = \"dev\" }\n")
        } else {
            ("exec:command", "")
        };
        // A plan that fails and does not end is not waited for as long as a run may take.
        let timeout = if self.global.contains("timeout") { "" } else { "timeout = \"4m\"\n" };
        format!(
            "[global]\nplan = \"{}\"\ncase = \"{}\"\nrunner = \"{}\"\nbuilder = \"{builder}\"\n{config}{timeout}\
             {}\n[[groups]]\nid = \"all\"\ninstances = {{ count = {} }}\n{}\n",
            plan.display(),
            self.case,
            self.runner,
            self.global,
            self.count,
            self.group
        )
    }
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository")
}

/// The worker's program, which Cargo builds beside the coordinator's.
pub(crate) fn worker_binary() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
    assert!(binary.is_file(), "build the whole workspace: {} is missing", binary.display());
    binary
}

/// Fetches what a plan is built with: there is no registry in the Internet of hosts that tests make.
pub(crate) fn fetch_crates(plan: &str) {
    let manifest = repository().join("plans").join(plan).join("Cargo.toml");
    let fetched = Command::new("cargo")
        .args(["fetch", "--locked", "--quiet", "--manifest-path"])
        .arg(manifest)
        .status()
        .expect("cargo");
    assert!(fetched.success(), "{fetched}");
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Asserts the exit code, and shows everything when it is another one.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "not in stderr: {text}\n{}", self.stderr);
        self
    }

    /// Asserts that a run of so many instances passed.
    #[track_caller]
    pub(crate) fn passes(self, instances: u32) -> Self {
        let all = format!("{instances} = {instances} success");
        self.ends_with(0).says(&all).says("all accounted for")
    }
}

/// Runs once or twice more what machines were too busy for.
pub(crate) fn conclusive(mut submit: impl FnMut() -> Ran) -> Ran {
    const INCONCLUSIVE: i32 = 13;
    let mut ran = submit();
    for _ in 0..2 {
        if ran.code == Some(INCONCLUSIVE) {
            ran = submit();
        }
    }
    ran
}

/// A home of its own; builds are shared with all other homes.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
    pub(crate) variables: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        std::fs::create_dir_all(&cache).expect("a cache");
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(cache, dir.path().join("cache")).expect("linked");
        Self { dir, variables: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// A command of the coordinator in this home, with nothing of the caller's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command
            .args(arguments)
            .env("GROUNDSWELL_HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.dir.path())
            .envs(self.variables.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().expect("the coordinator runs"))
    }

    /// Writes a file in the home and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the home")).expect("made");
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// Writes a composition and returns its path.
    pub(crate) fn composition(&self, composition: &Composition) -> String {
        let Composition { plan, case, count, .. } = composition;
        self.write(&format!("{plan}-{case}-{count}.toml"), &composition.text())
    }

    pub(crate) fn submit(&self, composition: &Composition, flags: &[&str]) -> Ran {
        let file = self.composition(composition);
        let mut arguments = vec!["submit", file.as_str()];
        arguments.extend(flags);
        conclusive(|| self.run(&arguments))
    }

    /// The state of the newest run.
    pub(crate) fn status(&self) -> Value {
        let ran = self.run(&["status", "latest", "--json"]).ends_with(0);
        let listed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        listed[0].clone()
    }

    /// Starts a submit and waits until the run's instances run.
    pub(crate) fn submit_and_wait_for_running(&self, composition: &Composition) -> Running {
        let file = self.composition(composition);
        let running = self.start(&["submit", &file, "--progress", "plain"]);
        running.until("phase=running");
        running
    }

    /// Starts a command in a process group of its own, as a shell does.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let number = std::fs::read_dir(self.dir.path()).expect("there").count();
        let errors = self.dir.path().join(format!("stderr-{number}"));
        let child = self
            .command(arguments)
            .stderr(std::fs::File::create(&errors).expect("created"))
            .process_group(0)
            .spawn()
            .expect("the coordinator runs");
        Running { child, errors }
    }
}

/// A command that is going on.
pub(crate) struct Running {
    pub(crate) child: Child,
    errors: PathBuf,
}

impl Running {
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Waits until it has said something.
    #[track_caller]
    pub(crate) fn until(&self, text: &str) {
        wait_until(&format!("it says {text}"), BUILD_LIMIT, || {
            let ended = self.has_ended();
            let said = self.stderr();
            assert!(!ended || said.contains(text), "it ended without saying {text}:\n{said}");
            said.contains(text)
        });
    }

    /// Whether it has ended; what it ended with is still to be asked for.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(pid(&self.child)), flags);
        !matches!(status, Ok(WaitStatus::StillAlive))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).expect("it runs");
    }

    /// What a terminal does: the signal goes to the whole process group.
    pub(crate) fn ctrl_c(&self) {
        killpg(pid(&self.child), Signal::SIGINT).expect("it runs");
    }

    pub(crate) fn finish(mut self) -> Ran {
        let status = self.child.wait().expect("it ends");
        Ran { code: status.code(), stdout: String::new(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    /// What a test that fails has started ends with it.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(pid(&self.child), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// Waits for a level, with a limit.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut level: impl FnMut() -> bool) {
    let start = SystemTime::now();
    while !level() {
        assert!(start.elapsed().unwrap_or_default() < limit, "waited in vain until {what}");
        #[expect(clippy::disallowed_methods, reason = "a pause between two looks")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files of this name below a directory.
pub(crate) fn named(name: &str, dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else if entry.file_name() == name {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Processes whose command line contains `text`.
pub(crate) fn processes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(format!("{name} {line}"));
        }
    }
    found
}

/// Control groups whose path contains `text`.
pub(crate) fn control_groups(text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.path().to_string_lossy().contains(text) {
                    found.push(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}
