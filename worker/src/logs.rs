//! What instances print: kept in files up to a cap, and sent live to whoever watches.
//!
//! One task per stream reads the pipe, so that an instance never blocks on a full one: what goes past the
//! cap, or does not fit on the disk, is counted and marked. Live lines go through one bounded channel per
//! share to one publisher and are dropped under pressure; the file keeps them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::sync::{LifecycleEvent, lifecycle};
use groundswell_common::bus::Bus;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::messages::LogLines;
use groundswell_common::subjects;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, trace};

/// How much of one stream is kept when the run does not say.
pub(crate) const DEFAULT_CAP: u64 = 64 << 20;
/// How many of the last lines go into an instance's end.
const LAST_LINES: usize = 10;
/// The longest line that is told live or remembered; files keep lines whole.
const LONGEST_LINE: usize = 1024;
/// The longest line that is read as an event.
const LONGEST_EVENT: usize = 256 << 10;
/// How many bytes of live lines a share sends in a second.
const LIVE_BYTES_PER_SECOND: usize = 2 << 20;
/// How many messages of live lines wait for the bus.
const LIVE_QUEUE: usize = 1024;

/// The last lines of one instance, both streams together.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// The lines, oldest first.
    pub(crate) fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// One stream of one instance.
pub(crate) struct Stream {
    /// Where it is kept.
    pub(crate) file: PathBuf,
    /// How much of it is kept.
    pub(crate) cap: u64,
    /// The instance.
    pub(crate) instance: InstanceId,
    /// Its group.
    pub(crate) group: String,
    /// Its number within the group.
    pub(crate) in_group: u32,
    /// Whether it is stderr.
    pub(crate) stderr: bool,
    /// Where its last lines are remembered.
    pub(crate) last: LastLines,
    /// Where its lines go live.
    pub(crate) live: mpsc::Sender<LogLines>,
    /// Where outcome events go that it prints, when those count.
    pub(crate) said: Option<mpsc::Sender<LifecycleEvent>>,
}

impl Stream {
    /// Reads `pipe`, the stream's reading end, which is non-blocking, to its end. Returns what people should know about it, nothing at best.
    pub(crate) async fn pump(self, pipe: OwnedFd) -> Option<String> {
        let stream = if self.stderr { "stderr" } else { "stdout" };
        let what = format!("{stream} of instance {}", self.instance);
        let mut spool = Spool::create(&self.file, self.cap).await;
        let mut pipe = match Receiver::from_owned_fd(pipe) {
            Ok(pipe) => pipe,
            Err(err) => return Some(format!("{what} cannot be read: {err}")),
        };
        let longest = if self.said.is_some() { LONGEST_EVENT } else { LONGEST_LINE };
        let mut lines = Lines { open: Vec::new(), longest };
        let mut buffer = vec![0_u8; 16 << 10];
        loop {
            let read = match pipe.read(&mut buffer).await {
                Ok(0) => break,
                Ok(read) => read,
                Err(err) => {
                    debug!(error = %err, instance = %self.instance, "log pipe broke");
                    break;
                }
            };
            spool.write(&buffer[..read]).await;
            let whole = lines.feed(&buffer[..read]);
            self.hear(&whole).await;
            self.last_and_live(whole).await;
        }
        let rest: Vec<String> = lines.finish().into_iter().collect();
        self.hear(&rest).await;
        self.last_and_live(rest).await;
        spool.finish().await.map(|trouble| format!("{what} {trouble}"))
    }

    async fn hear(&self, lines: &[String]) {
        let Some(said) = &self.said else { return };
        for event in lines.iter().filter_map(|line| lifecycle::printed(line)) {
            // Who does not listen any more has decided how the instance ended.
            let _ = said.send(event).await;
        }
    }

    /// Never waits: a full channel costs live lines and nothing else.
    async fn last_and_live(&self, mut lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        for line in &mut lines {
            line.truncate(line.floor_char_boundary(LONGEST_LINE));
        }
        for line in lines.iter().rev().take(LAST_LINES).rev() {
            self.last.push(line);
        }
        let message = LogLines {
            instance: self.instance,
            group: self.group.clone(),
            in_group: self.in_group,
            stderr: self.stderr,
            lines,
        };
        if self.live.try_send(message).is_err() {
            trace!(instance = %self.instance, "live lines were dropped");
        }
        // A pipe that is always full would keep this task on its thread for good.
        tokio::task::yield_now().await;
    }
}

/// A file that takes what fits and counts the rest.
struct Spool {
    file: Option<tokio::fs::File>,
    left: u64,
    cap: u64,
    lost: u64,
    trouble: Option<io::Error>,
}

impl Spool {
    async fn create(path: &PathBuf, cap: u64) -> Self {
        let cap = if cap == 0 { DEFAULT_CAP } else { cap };
        match tokio::fs::File::create(path).await {
            Ok(file) => Self { file: Some(file), left: cap, cap, lost: 0, trouble: None },
            Err(err) => Self { file: None, left: 0, cap, lost: 0, trouble: Some(err) },
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let Some(file) = self.file.as_mut().filter(|_| fits > 0) else {
            self.lost += bytes.len() as u64;
            return;
        };
        if let Err(err) = file.write_all(&bytes[..fits]).await {
            self.lost += bytes.len() as u64;
            self.trouble = Some(err);
            self.file = None;
            return;
        }
        self.left -= fits as u64;
        self.lost += (bytes.len() - fits) as u64;
    }

    async fn finish(mut self) -> Option<String> {
        let flushed = match self.file.as_mut() {
            Some(file) => file.flush().await,
            None => Ok(()),
        };
        if let Err(err) = flushed {
            self.trouble.get_or_insert(err);
        }
        if let Some(err) = self.trouble {
            return Some(format!("is not kept whole: {err}; {} bytes were lost", self.lost));
        }
        if self.lost == 0 {
            return None;
        }
        let text = format!("was cut after {} bytes; {} bytes were dropped", self.cap, self.lost);
        let marker = format!("\n[groundswell: this stream {text}]\n");
        if let Some(file) = &mut self.file {
            let _ = file.write_all(marker.as_bytes()).await;
            let _ = file.flush().await;
        }
        Some(text)
    }
}

/// Cuts a stream of bytes into lines; empty ones are nobody's news.
struct Lines {
    open: Vec<u8>,
    longest: usize,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = self.longest.saturating_sub(self.open.len());
            let content = part.strip_suffix(b"\n");
            let text = content.unwrap_or(part);
            self.open.extend_from_slice(&text[..text.len().min(room)]);
            if content.is_some() {
                whole.extend(self.finish());
            }
        }
        whole
    }

    fn finish(&mut self) -> Option<String> {
        if self.open.is_empty() {
            return None;
        }
        let line = String::from_utf8_lossy(&self.open).trim_end_matches('\r').to_owned();
        self.open.clear();
        Some(line)
    }
}

/// Makes the channel for a share's live lines; `publish` takes its other end.
pub(crate) fn live() -> (mpsc::Sender<LogLines>, mpsc::Receiver<LogLines>) {
    mpsc::channel(LIVE_QUEUE)
}

/// Publishes live lines until every sender is gone, at a bounded rate.
pub(crate) async fn publish(bus: Bus, run: RunId, mut live: mpsc::Receiver<LogLines>) {
    let second = Duration::from_secs(1);
    let mut window = Instant::now();
    let mut sent = 0_usize;
    while let Some(lines) = live.recv().await {
        if window.elapsed() >= second {
            window = Instant::now();
            sent = 0;
        }
        if sent > LIVE_BYTES_PER_SECOND {
            sleep_until(window + second).await;
        }
        sent += lines.lines.iter().map(String::len).sum::<usize>() + 64;
        if let Err(err) = bus.publish(subjects::log(&run, lines.instance), &lines).await {
            debug!(error = %err, "live lines not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;

    fn stream(file: PathBuf, cap: u64) -> (Stream, mpsc::Receiver<LogLines>) {
        let (live, lines) = live();
        let stream = Stream {
            file,
            cap,
            instance: InstanceId(3),
            group: "all".into(),
            in_group: 1,
            stderr: false,
            last: LastLines::default(),
            live,
            said: None,
        };
        (stream, lines)
    }

    fn pipe() -> (OwnedFd, File) {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe");
        let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&reader, flags).expect("non-blocking");
        (reader, File::from(writer))
    }

    #[tokio::test]
    async fn a_stream_is_kept_whole_told_live_and_its_last_lines_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, mut writer) = pipe();
        let (stream, mut live) = stream(dir.path().join("stdout.log"), 0);
        let last = stream.last.clone();
        let text: String = (0..12).map(|n| format!("line {n}\n")).collect();
        writer.write_all(text.as_bytes()).unwrap();
        writer.write_all(b"an open end").unwrap();
        drop(writer);
        assert_eq!(stream.pump(reader).await, None);
        let kept = std::fs::read_to_string(dir.path().join("stdout.log")).unwrap();
        assert_eq!(kept, format!("{text}an open end"));
        assert_eq!(last.get().len(), LAST_LINES);
        assert_eq!(last.get().last().map(String::as_str), Some("an open end"));
        let mut told = Vec::new();
        while let Some(message) = live.recv().await {
            told.extend(message.lines);
        }
        assert_eq!(told.len(), 13);
    }

    #[tokio::test]
    async fn a_flood_ends_at_the_cap_with_a_marker_and_never_blocks_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, mut writer) = pipe();
        let (stream, live) = stream(dir.path().join("stdout.log"), 1000);
        let flood = tokio::task::spawn_blocking(move || writer.write_all(&vec![b'x'; 1 << 20]));
        let trouble = stream.pump(reader).await.expect("it was cut");
        flood.await.unwrap().unwrap();
        drop(live);
        assert!(trouble.contains("1047576 bytes were dropped"), "{trouble}");
        let kept = std::fs::read_to_string(dir.path().join("stdout.log")).unwrap();
        assert!(kept.starts_with(&"x".repeat(1000)) && kept.contains("[groundswell:"));
        assert!(kept.len() < 1200);
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_costs_the_log_and_not_the_instance() {
        let (reader, mut writer) = pipe();
        let (stream, _live) = stream(PathBuf::from("/dev/full"), 0);
        let last = stream.last.clone();
        writer.write_all(b"hello\n").unwrap();
        drop(writer);
        let trouble = stream.pump(reader).await.expect("the disk is full");
        assert!(trouble.contains("No space left"), "{trouble}");
        assert_eq!(last.get(), ["hello"]);
    }
}
