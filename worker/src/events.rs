//! The event log of a share: JSON lines in its spool, and a live copy on the bus.
//!
//! Callers never wait: under a flood events are dropped and counted, and the count is itself an event.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groundswell_common::bus::Bus;
use groundswell_common::ids::{InstanceId, RunId, WorkerId};
use groundswell_common::run::RunEvent;
use groundswell_common::subjects;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

const QUEUE: usize = 8192;

/// Writes the events of one share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct EventLog {
    queue: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
    worker: WorkerId,
    submitted_ms: u64,
    path: PathBuf,
}

#[derive(Debug)]
enum Entry {
    Event(Box<RunEvent>),
    Flush(oneshot::Sender<()>),
}

/// Whom an event concerns.
#[derive(Debug, Clone)]
pub(crate) struct Whom {
    /// The group.
    pub(crate) group: String,
    /// The instance.
    pub(crate) instance: InstanceId,
}

impl EventLog {
    /// Starts the log of `run` in `path`, or goes on with the one that is there. Times count from `start_time`, RFC 3339.
    pub(crate) fn start(
        bus: Bus,
        run: RunId,
        worker: WorkerId,
        start_time: &str,
        path: &Path,
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let submitted_ms = start_time
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|at| u64::try_from(at.as_millisecond()).ok())
            .unwrap_or_else(unix_ms);
        tasks.spawn(write(bus, run, path.to_owned(), entries));
        let dropped = Arc::new(AtomicU64::new(0));
        Self { queue, dropped, worker, submitted_ms, path: path.to_owned() }
    }

    /// Where the log is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an event.
    pub(crate) fn add(&self, kind: &str, text: impl Into<String>, whom: Option<Whom>) {
        let event = RunEvent {
            at_ms: unix_ms().saturating_sub(self.submitted_ms),
            kind: kind.to_owned(),
            text: text.into(),
            worker: Some(self.worker.clone()),
            group: whom.as_ref().map(|whom| whom.group.clone()),
            instance: whom.map(|whom| whom.instance),
        };
        if self.queue.try_send(Entry::Event(Box::new(event))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything added so far is in the file.
    pub(crate) async fn flush(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.add("warning", format!("{dropped} events were dropped"), None);
        }
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Entry::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

async fn write(bus: Bus, run: RunId, path: PathBuf, mut entries: mpsc::Receiver<Entry>) {
    let open = tokio::fs::OpenOptions::new().create(true).append(true).open(&path).await;
    let mut file = match open {
        Ok(file) => Some(tokio::io::BufWriter::new(file)),
        Err(err) => {
            warn!(error = %err, path = %path.display(), "event log cannot be written");
            None
        }
    };
    while let Some(entry) = entries.recv().await {
        match entry {
            Entry::Event(event) => {
                let mut line = serde_json::to_vec(&event).expect("an event is plain data");
                line.push(b'\n');
                let wrote = match &mut file {
                    Some(file) => file.write_all(&line).await,
                    None => Ok(()),
                };
                if let Err(err) = wrote {
                    warn!(error = %err, path = %path.display(), "event log is cut short");
                    file = None;
                }
                if let Err(err) = bus.publish(subjects::event(&run), &event).await {
                    debug!(error = %err, "event not sent");
                }
            }
            Entry::Flush(done) => {
                if let Some(file) = &mut file {
                    let _ = file.flush().await;
                }
                let _ = done.send(());
            }
        }
    }
    if let Some(file) = &mut file {
        let _ = file.flush().await;
    }
}
