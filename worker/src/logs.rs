//! What instances print: kept in files up to a cap, and sent live to whoever watches.
//!
//! One task per stream reads the pipe, so that an instance never blocks on a full one: what goes past the
//! cap, or does not fit on the disk, is counted and marked. Live lines go through one bounded channel per
//! share to one publisher and are dropped under pressure; the file keeps them.
//!
//! What is kept goes from the pipe into the file in one step, by the kernel. So a worker that is killed in the middle
//! has neither lost nor doubled a byte, and its next life goes on with the same pipe and the same file.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::netns::sys::watch;
use crate::sync::{LifecycleEvent, lifecycle};
use groundswell_common::bus::Bus;
use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::messages::LogLines;
use groundswell_common::subjects;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, trace};

/// How much of one stream is kept when the run does not say.
pub(crate) const DEFAULT_CAP: u64 = 64 << 20;
/// How much is taken from a pipe at once.
const CHUNK: usize = 16 << 10;
/// How long a stream rests after each chunk that is not kept any more. Who prints without end is slowed down: the
/// time it takes to throw that away is everyone's.
const REST_PAST_CAP: Duration = Duration::from_millis(1);
/// How much of a file's end is looked at for its last lines.
const TAIL: u64 = 16 << 10;
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
        let watched = pipe.try_clone().and_then(|copy| Ok((watch(copy)?, pipe)));
        let (readable, pipe) = match watched {
            Ok(watched) => watched,
            Err(err) => return Some(format!("{what} cannot be read: {err}")),
        };
        let spool = Spool::open(&self.file, self.cap);
        let longest = if self.said.is_some() { LONGEST_EVENT } else { LONGEST_LINE };
        let mut lines = Lines { open: Vec::new(), longest };
        for line in lines.feed(&spool.tail()) {
            self.last.push(&line[..line.floor_char_boundary(LONGEST_LINE)]);
        }
        let drained = self.drain(&readable, Drain { pipe, spool }, &mut lines).await;
        let rest: Vec<String> = lines.finish().into_iter().collect();
        self.hear(&rest).await;
        self.last_and_live(rest).await;
        drained?.spool.finish().map(|trouble| format!("{what} {trouble}"))
    }

    /// Reads to the end.
    async fn drain(
        &self,
        readable: &AsyncFd<OwnedFd>,
        mut drain: Drain,
        lines: &mut Lines,
    ) -> Option<Drain> {
        loop {
            let mut ready = readable.readable().await.ok()?;
            let taken;
            // Files are written on threads for that.
            (drain, taken) = spawn_blocking(move || {
                let taken = drain.take();
                (drain, taken)
            })
            .await
            .ok()?;
            let bytes = match taken {
                Ok(bytes) if bytes.is_empty() => return Some(drain),
                Ok(bytes) => bytes,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(err) => {
                    debug!(error = %err, instance = %self.instance, "log pipe broke");
                    return Some(drain);
                }
            };
            let whole = lines.feed(&bytes);
            self.hear(&whole).await;
            self.last_and_live(whole).await;
            if drain.spool.is_full() {
                sleep(REST_PAST_CAP).await;
            }
        }
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

/// What instances have printed about themselves into a file, so far.
pub(crate) fn printed(file: &Path) -> Vec<LifecycleEvent> {
    let mut lines = Lines { open: Vec::new(), longest: LONGEST_EVENT };
    let text = std::fs::read(file).unwrap_or_default();
    lines.feed(&text).iter().filter_map(|line| lifecycle::printed(line)).collect()
}

/// A pipe, and the file that takes what is in it.
struct Drain {
    pipe: OwnedFd,
    spool: Spool,
}

impl Drain {
    /// Takes what there is. Nothing is the end.
    fn take(&mut self) -> nix::Result<Vec<u8>> {
        match self.spool.splice(&self.pipe) {
            Err(Errno::EINVAL) => {}
            done => return done,
        }
        let mut bytes = vec![0; CHUNK];
        let read = nix::unistd::read(self.pipe.as_fd(), &mut bytes)?;
        bytes.truncate(read);
        self.spool.write(&bytes);
        Ok(bytes)
    }
}

/// A file that takes what fits and counts the rest.
struct Spool {
    file: Option<File>,
    /// How much is in it.
    kept: u64,
    cap: u64,
    lost: u64,
    trouble: Option<io::Error>,
}

impl Spool {
    /// Goes on with a file that is there.
    fn open(path: &Path, cap: u64) -> Self {
        let cap = if cap == 0 { DEFAULT_CAP } else { cap };
        let open =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let (file, kept, trouble) = match open.and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((kept, file)) => (Some(file), kept, None),
            Err(err) => (None, 0, Some(err)),
        };
        Self { file, kept, cap, lost: 0, trouble }
    }

    /// The end of what is in it: whole lines but for the last one, and nothing of one whose begin is not seen.
    fn tail(&self) -> Vec<u8> {
        let from = self.kept.saturating_sub(TAIL);
        let mut bytes = vec![0; usize::try_from(self.kept - from).unwrap_or_default()];
        let read = self.file.as_ref().map(|file| file.read_exact_at(&mut bytes, from));
        if !matches!(read, Some(Ok(()))) {
            return Vec::new();
        }
        let cut = bytes.iter().position(|byte| *byte == b'\n').filter(|_| from > 0);
        cut.map_or(bytes.clone(), |cut| bytes[cut + 1..].to_vec())
    }

    /// Moves what is in the pipe into the file and returns it. `EINVAL` when that is not possible, for want of room
    /// or because of what the file is.
    fn splice(&mut self, pipe: &OwnedFd) -> nix::Result<Vec<u8>> {
        let room = usize::try_from(self.cap.saturating_sub(self.kept)).unwrap_or(usize::MAX);
        let file = self.file.as_ref().filter(|_| room > 0).ok_or(Errno::EINVAL)?;
        let from = self.kept;
        let mut to = nix::libc::loff_t::try_from(from).map_err(|_| Errno::EINVAL)?;
        let (most, flags) = (room.min(CHUNK), SpliceFFlags::SPLICE_F_NONBLOCK);
        let moved = match splice(pipe, None, file, Some(&mut to), most, flags) {
            Err(errno) if !matches!(errno, Errno::EAGAIN | Errno::EINTR | Errno::EINVAL) => {
                self.give_up(errno.into());
                return Err(Errno::EINVAL);
            }
            done => done?,
        };
        let mut bytes = vec![0; moved];
        self.kept += moved as u64;
        match file.read_exact_at(&mut bytes, from) {
            Ok(()) => Ok(bytes),
            // It is kept, and only not told.
            Err(_) => Ok(vec![b'\n'; moved]),
        }
    }

    fn is_full(&self) -> bool {
        self.kept >= self.cap
    }

    fn write(&mut self, bytes: &[u8]) {
        let left = self.cap.saturating_sub(self.kept);
        let fits = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let Some(file) = self.file.as_ref().filter(|_| fits > 0) else {
            self.lost += bytes.len() as u64;
            return;
        };
        if let Err(err) = file.write_all_at(&bytes[..fits], self.kept) {
            self.lost += bytes.len() as u64;
            return self.give_up(err);
        }
        self.kept += fits as u64;
        self.lost += (bytes.len() - fits) as u64;
    }

    fn give_up(&mut self, err: io::Error) {
        self.trouble = Some(err);
        self.file = None;
    }

    fn finish(self) -> Option<String> {
        if let Some(err) = self.trouble {
            return Some(format!("is not kept whole: {err}; {} bytes were lost", self.lost));
        }
        if self.lost == 0 {
            return None;
        }
        let text = format!("was cut after {} bytes; {} bytes were dropped", self.cap, self.lost);
        let marker = format!("\n[groundswell: this stream {text}]\n");
        if let Some(file) = &self.file {
            let _ = file.write_all_at(marker.as_bytes(), self.kept);
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
    async fn a_stream_goes_on_where_an_earlier_reader_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stdout.log");
        std::fs::write(&file, "one\ntwo\nthr").unwrap();
        let (reader, mut writer) = pipe();
        writer.write_all(b"ee\nfour\n").unwrap();
        drop(writer);
        let (stream, mut live) = stream(file.clone(), 0);
        let last = stream.last.clone();
        assert_eq!(stream.pump(reader).await, None);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "one\ntwo\nthree\nfour\n");
        assert_eq!(last.get(), ["one", "two", "three", "four"]);
        assert_eq!(live.recv().await.expect("told").lines, ["three", "four"]);
    }

    #[tokio::test]
    async fn a_flood_ends_at_the_cap_with_a_marker_and_never_blocks_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, mut writer) = pipe();
        let (stream, live) = stream(dir.path().join("stdout.log"), 1000);
        let flood = spawn_blocking(move || writer.write_all(&vec![b'x'; 1 << 20]));
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
