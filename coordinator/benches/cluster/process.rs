//! Processes that end with the benchmark, and what they have used of the machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use groundswell_common::nats_server::die_with_parent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long anything may take that a process is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// A process that goes on until it is ended.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts one whose stderr goes to `log`. It does not outlive the benchmark, however that ends.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(log)?)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("failed to start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Waits until it has said something.
    pub(crate) async fn says(&self, text: &str) -> Result<()> {
        let said = async {
            while !std::fs::read_to_string(&self.log)?.contains(text) {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(LIMIT, said).await.with_context(|| format!("it never says `{text}`"))?
    }

    /// Kills it as a crash does.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Ends it in good order.
    pub(crate) async fn end(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(ended) => ended.map(drop)?,
            Err(_) => self.child.kill().await?,
        }
        Ok(())
    }
}

/// The processor time a process has used.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold blanks; user and system time are the 14th and 15th field.
    let (_, fields) = stat.rsplit_once(')').context("a stat line has a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |number: usize| -> Result<u64> {
        Ok(fields.get(number - 3).context("a stat line has 52 fields")?.parse()?)
    };
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel counts ticks")?;
    let milliseconds = (ticks(14)? + ticks(15)?) * 1000 / u64::try_from(a_second)?;
    Ok(Duration::from_millis(milliseconds))
}

/// What a process holds of memory, in MiB: at this moment, and at most since it began.
pub(crate) fn memory_mib(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("there is no {name}"))?.parse::<u64>()? / 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
