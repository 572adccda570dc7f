//! Runs a build command and passes its lines on.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Split};
use tokio::process::{Child, Command};

use super::{BuildError, Watch, host};

/// How many of the last lines an error shows.
const LAST_LINES: usize = 30;
/// Longest line that is passed on, in bytes; a build can print binaries.
const LONGEST_LINE: usize = 4096;

/// The last lines of a build.
#[derive(Debug, Default)]
pub(super) struct LastLines(VecDeque<String>);

impl LastLines {
    pub(super) fn push(&mut self, line: &str) {
        if self.0.len() == LAST_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    pub(super) fn into_vec(self) -> Vec<String> {
        self.0.into()
    }
}

/// What a finished command has printed.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    /// Stdout, line by line, when it was asked for.
    pub(super) stdout: Vec<String>,
    pub(super) last_lines: Vec<String>,
}

/// Where stdout goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdout {
    /// To people, as stderr does.
    Shown,
    /// To the caller.
    Kept,
}

/// Runs a command to its end, or until it is canceled; then its whole process group is killed.
pub(super) async fn run(
    mut command: Command,
    stdout: Stdout,
    watch: &Watch,
) -> Result<Finished, BuildError> {
    let shown = format!("{:?}", command.as_std().get_program());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = Group(command.spawn().map_err(host(&format!("run {shown}")))?);
    let mut out = BufReader::new(child.0.stdout.take().expect("it is piped")).split(b'\n');
    let mut err = BufReader::new(child.0.stderr.take().expect("it is piped")).split(b'\n');
    let (mut last, mut kept) = (LastLines::default(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let (line, is_out) = tokio::select! {
            line = next(&mut out), if out_open => (line, true),
            line = next(&mut err), if err_open => (line, false),
            () = watch.cancel.cancelled() => return Err(BuildError::Canceled),
        };
        match line {
            None if is_out => out_open = false,
            None => err_open = false,
            Some(line) if is_out && stdout == Stdout::Kept => kept.push(line),
            Some(mut line) => {
                line.truncate(line.floor_char_boundary(LONGEST_LINE));
                last.push(&line);
                watch.say(line).await;
            }
        }
    }
    let status = tokio::select! {
        status = child.0.wait() => status.map_err(host(&format!("wait for {shown}")))?,
        () = watch.cancel.cancelled() => return Err(BuildError::Canceled),
    };
    Ok(Finished { status, stdout: kept, last_lines: last.into_vec() })
}

/// The next line, bytes that are not UTF-8 replaced.
async fn next<R: AsyncRead + Unpin>(lines: &mut Split<BufReader<R>>) -> Option<String> {
    let line = lines.next_segment().await.ok().flatten()?;
    Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
}

/// A child and everything it has started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The id is absent once the child has been waited for, and then the group may be another one's.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
