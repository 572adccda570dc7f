//! Processes that do not want to end.
//!
//! The instance starts children, each of which starts a process in a group of its own and exits. What is left belongs
//! to nobody, has stdout and stderr open, and does not mind being told to stop.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// The first argument of what is left behind. The run's id follows, by which it is found on the host.
const FLAG: &str = "--left-behind";
/// Nothing is left for longer than this, even where nobody ends it.
const LIFE: Duration = Duration::from_secs(900);
/// How long the children may take to be there.
const BIRTH: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize)]
struct Params {
    children: u32,
}

/// Leaves processes behind, and succeeds once they are there.
pub(crate) async fn leave_processes(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let program = std::env::current_exe()?;
    let mut files = Vec::new();
    for number in 0..params.children {
        let file = cx.output(&format!("left-behind-{number}"));
        let mut child = tokio::process::Command::new(&program);
        child.arg(FLAG).arg(&cx.env().run).arg("child").arg(&file);
        let ended = child.status().await?;
        ensure!(ended.success(), "a child ended with {ended}");
        files.push(file);
    }
    let there = wait_for(&files).await;
    cx.point("left_behind", there).unit("count").record();
    ensure!(there == files.len(), "{there} of {} processes are there", files.len());
    Ok(())
}

/// Waits until each process has written its file, and returns how many have.
async fn wait_for(files: &[PathBuf]) -> usize {
    let until = Instant::now() + BIRTH;
    loop {
        let there = files.iter().filter(|file| file.exists()).count();
        if there == files.len() || Instant::now() > until {
            return there;
        }
        sleep(RETRY).await;
    }
}

/// A process that is left behind, or its parent, which is there for a moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LeftBehind {
    /// It starts the other one and exits.
    Child { run: String, file: PathBuf },
    /// It stays.
    Grandchild { file: PathBuf },
}

impl LeftBehind {
    /// What this process is by its arguments; nothing if it is an instance.
    pub(crate) fn parse(arguments: &[String]) -> Option<Self> {
        let [flag, run, which, file] = arguments else { return None };
        match (flag.as_str(), which.as_str()) {
            (FLAG, "child") => Some(Self::Child { run: run.clone(), file: file.into() }),
            (FLAG, "grandchild") => Some(Self::Grandchild { file: file.into() }),
            _ => None,
        }
    }

    /// The whole life of this process.
    pub(crate) fn live(&self) -> ExitCode {
        let lived = match self {
            Self::Child { run, file } => start_grandchild(run, file),
            Self::Grandchild { file } => stay(file),
        };
        if lived.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn start_grandchild(run: &str, file: &Path) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([FLAG, run, "grandchild"]).arg(file).process_group(0).spawn()?;
    Ok(())
}

fn stay(file: &Path) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Who listens to a signal is not ended by it.
        let deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let _listeners = deaf.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>()?;
        std::fs::write(file, std::process::id().to_string())?;
        sleep(LIFE).await;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_started_to_stay_stays() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let child = LeftBehind::Child { run: "r".to_owned(), file: "/f".into() };
        assert_eq!(LeftBehind::parse(&words("--left-behind r child /f")), Some(child));
        let stays = LeftBehind::Grandchild { file: "/f".into() };
        assert_eq!(LeftBehind::parse(&words("--left-behind r grandchild /f")), Some(stays));
        assert_eq!(LeftBehind::parse(&words("--list-cases")), None);
    }
}
