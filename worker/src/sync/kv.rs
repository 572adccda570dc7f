//! Writer and follower of a run's log, which is a NATS KV bucket.
//!
//! ```text
//! hub ──Outgoing──► Writer ──JetStream publish──► bucket ──republish──► Follower ──Entries──► hub
//!                     ▲                             └─batched direct get─┘
//!                     └── Progress: an own batch is done when the hub has seen it in the log
//! ```
//!
//! The follower is an ordinary subscription to what the server republishes, which may lose messages. Holes are
//! filled by direct get, after each reconnection, and at intervals. No JetStream consumers: they pass over
//! holes without a word and are slow to come back.

use std::time::Duration;

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use groundswell_common::bus::Bus;
use groundswell_common::ids::{Attempt, Epoch, RunId, WorkerId};
use groundswell_common::subjects::{sync_bucket, sync_republished};
use groundswell_common::sync::{backoff, batch_subject, is_full, rolling_hash, stream_name};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::SyncSpec;
use super::gateway::{Inbox, Input, Progress};
use super::log::{Entry, Reorder};
use super::outbox::Outgoing;

/// How often the follower considers whether to read the log's tail.
const LOOK: Duration = Duration::from_millis(50);
/// How long the follower trusts silence while someone waits.
const TRUST_PENDING: Duration = Duration::from_millis(500);
/// How long the follower trusts silence while nobody waits.
const TRUST_IDLE: Duration = Duration::from_secs(5);
/// How long an answer to a direct get may take.
const GET_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an acknowledged batch may stay unseen before it is sent again.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long the last entry may be missing from the server after a reconnection. A replica may lag; a log
/// that stays shorter than it was has gone backwards.
const SHORTER: Duration = Duration::from_secs(15);
/// Most messages handed to the hub at once.
const AT_ONCE: usize = 256;

/// The names of one log.
#[derive(Debug, Clone)]
pub(super) struct LogName {
    run: RunId,
    attempt: Attempt,
    worker: WorkerId,
    epoch: Epoch,
    pub(super) bucket: String,
}

impl LogName {
    pub(super) fn new(spec: &SyncSpec) -> Self {
        Self {
            run: spec.run.clone(),
            attempt: spec.attempt,
            worker: spec.worker.clone(),
            epoch: spec.epoch,
            bucket: sync_bucket(&spec.run, spec.attempt),
        }
    }

    fn subject(&self, no: u64) -> String {
        batch_subject(&self.run, self.attempt, self.worker.as_str(), self.epoch, no)
    }
}

/// Stores batches, one at a time, each until it has been seen in the log.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) bus: Bus,
    pub(super) name: LogName,
    pub(super) inbox: Inbox,
}

/// What one attempt to store a batch came to.
enum Tried {
    /// It is stored at this sequence; it will be seen.
    Stored(u64),
    /// It may or may not be stored.
    Unknown,
    /// The log has used up its quota.
    Full,
}

impl Writer {
    pub(super) async fn run(
        self,
        mut batches: mpsc::Receiver<Outgoing>,
        mut progress: watch::Receiver<Progress>,
        end: CancellationToken,
    ) {
        loop {
            let batch = tokio::select! {
                () = end.cancelled() => return,
                batch = batches.recv() => batch,
            };
            let Some(batch) = batch else { return };
            tokio::select! {
                () = end.cancelled() => return,
                () = self.store(&batch) => return,
                seen = progress.wait_for(|progress| progress.own >= batch.no) => {
                    if seen.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Sends the batch again and again, always the same bytes under the same key. Returns only when the log
    /// is of no use any more; otherwise the caller ends it, when the batch has been seen.
    async fn store(&self, batch: &Outgoing) {
        let mut tries = 0;
        loop {
            match self.try_once(batch).await {
                Tried::Stored(seq) if seq <= batch.after => {
                    let reason = format!("the log went backwards: {seq} follows {}", batch.after);
                    return self.inbox.send(Input::Broken { reason, fault_of_plan: false }).await;
                }
                Tried::Stored(_) => sleep(UNSEEN).await,
                Tried::Unknown => {
                    tries += 1;
                    sleep(backoff(tries)).await;
                }
                Tried::Full => {
                    let reason = "the run's sync log has reached its size limit".to_owned();
                    return self.inbox.send(Input::Broken { reason, fault_of_plan: true }).await;
                }
            }
        }
    }

    async fn try_once(&self, batch: &Outgoing) -> Tried {
        // While there is no connection each try would only pile up in the client.
        if !self.bus.is_connected() {
            return Tried::Unknown;
        }
        match self.publish(batch).await {
            Ok(seq) => Tried::Stored(seq),
            Err(err) if is_full(&err) => Tried::Full,
            Err(err) => {
                debug!(error = %err, batch = batch.no, "batch not stored yet");
                Tried::Unknown
            }
        }
    }

    async fn publish(&self, batch: &Outgoing) -> Result<u64, PublishError> {
        let subject = self.name.subject(batch.no);
        let message = PublishMessage::build().payload(batch.value.clone()).message_id(&subject);
        let ack = self.bus.jetstream().send_publish(subject, message).await?.await?;
        Ok(ack.sequence)
    }
}

/// Reads the log, in order and without holes, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Follower {
    bus: Bus,
    name: LogName,
    news: Subscriber,
    order: Reorder,
    /// Hash of the last entry's value, to recognise it after a reconnection.
    last_value: u64,
    caught_up: bool,
}

/// How a direct get ended.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// There is nothing more.
    End,
    /// There is more.
    More,
    /// The server did not answer, or cannot.
    Nothing,
    /// The log is not what it was.
    Wrong(String),
}

impl Follower {
    pub(super) async fn subscribe(
        bus: Bus,
        name: LogName,
    ) -> Result<Self, async_nats::SubscribeError> {
        let subject = format!("{}.>", sync_republished(&name.run, name.attempt));
        let news = bus.client().subscribe(subject).await?;
        let order = Reorder::default();
        Ok(Self { bus, name, news, order, last_value: 0, caught_up: false })
    }

    pub(super) async fn run(
        mut self,
        inbox: Inbox,
        progress: watch::Receiver<Progress>,
        end: CancellationToken,
    ) {
        tokio::select! {
            () = end.cancelled() => {}
            () = self.follow(&inbox, &progress) => {}
        }
    }

    async fn follow(&mut self, inbox: &Inbox, progress: &watch::Receiver<Progress>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut connections = self.connections();
        let mut shorter_since: Option<Instant> = None;
        let mut unsure = false;
        loop {
            let mut fill = !self.caught_up;
            tokio::select! {
                biased;
                message = self.news.next() => {
                    let Some(message) = message else { return };
                    self.take(message, inbox).await;
                    heard = Instant::now();
                    fill |= self.order.has_gap();
                }
                _ = look.tick() => {
                    let known = std::mem::replace(&mut connections, self.connections());
                    unsure |= known != connections;
                    let trust =
                        if progress.borrow().pending { TRUST_PENDING } else { TRUST_IDLE };
                    fill |= unsure || heard.elapsed() >= trust;
                }
            }
            if !fill || !self.bus.is_connected() {
                continue;
            }
            heard = Instant::now();
            if unsure {
                match self.recognise().await {
                    Got::End => (unsure, shorter_since) = (false, None),
                    Got::More => {
                        let since = *shorter_since.get_or_insert(heard);
                        if since.elapsed() > SHORTER {
                            let reason = "the log is shorter than it was".to_owned();
                            return broken(inbox, reason).await;
                        }
                        continue;
                    }
                    Got::Nothing => continue,
                    Got::Wrong(reason) => return broken(inbox, reason).await,
                }
            }
            if let Got::Wrong(reason) = self.catch_up(inbox).await {
                return broken(inbox, reason).await;
            }
        }
    }

    fn connections(&self) -> u64 {
        self.bus.client().statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Takes a message that was republished, and those that have arrived behind it.
    async fn take(&mut self, message: Message, inbox: &Inbox) {
        let mut ready = Vec::new();
        let mut next = Some(message);
        while let Some(message) = next {
            if let Some(entry) = self.entry(message) {
                self.order.offer(entry, &mut ready);
            }
            let more = ready.len() < AT_ONCE;
            next = if more { self.news.next().now_or_never().flatten() } else { None };
        }
        self.hand_over(ready, inbox).await;
    }

    async fn hand_over(&mut self, ready: Vec<Entry>, inbox: &Inbox) {
        let Some(last) = ready.last() else { return };
        self.last_value = rolling_hash(0, last.seq, &last.value);
        inbox.send(Input::Entries(ready)).await;
    }

    /// Reads on by direct get until the end of the log.
    async fn catch_up(&mut self, inbox: &Inbox) -> Got {
        loop {
            let mut got = Vec::new();
            let ended = self.get(self.order.last() + 1, 1024, &mut got).await;
            let mut ready = Vec::new();
            for entry in got {
                let expected = self.order.last() + 1;
                if entry.seq > expected {
                    return Got::Wrong(format!(
                        "the log has a hole: {} follows {}",
                        entry.seq,
                        expected - 1
                    ));
                }
                self.order.offer(entry, &mut ready);
            }
            self.hand_over(ready, inbox).await;
            if ended == Got::End && !self.caught_up && self.order.last() > 0 {
                self.caught_up = true;
                inbox.send(Input::CaughtUp).await;
            }
            if ended != Got::More {
                return ended;
            }
        }
    }

    /// After a reconnection: whether the last entry is still where it was. `More` means that it is not there.
    async fn recognise(&self) -> Got {
        let last = self.order.last();
        if last == 0 {
            return Got::End;
        }
        let mut got = Vec::new();
        let ended = self.get(last, 1, &mut got).await;
        match got.first() {
            Some(entry) if entry.seq == last => {
                if rolling_hash(0, last, &entry.value) == self.last_value {
                    Got::End
                } else {
                    Got::Wrong(format!("entry {last} is not what it was"))
                }
            }
            Some(entry) => Got::Wrong(format!("entry {last} is gone, {} is there", entry.seq)),
            None if ended == Got::Nothing => Got::Nothing,
            None => Got::More,
        }
    }

    /// Gets up to `batch` entries from `seq` on.
    async fn get(&self, seq: u64, batch: u32, got: &mut Vec<Entry>) -> Got {
        let client = self.bus.client();
        let inbox = client.new_inbox();
        let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Got::Nothing };
        let subject =
            format!("$JS.API.DIRECT.GET.{}", stream_name(&self.name.run, self.name.attempt));
        let request = format!(r#"{{"seq":{seq},"batch":{batch},"max_bytes":1000000}}"#);
        if client.publish_with_reply(subject, inbox, request.into()).await.is_err() {
            return Got::Nothing;
        }
        loop {
            let Ok(Some(answer)) = timeout(GET_TIMEOUT, answers.next()).await else {
                return Got::Nothing;
            };
            match answer.status.map(|status| status.as_u16()) {
                // The end of a batch tells how many entries follow it.
                Some(204) => {
                    let left = answer.headers.as_ref().and_then(|all| all.get("Nats-Num-Pending"));
                    let none_left = left.is_none_or(|left| left.as_str() == "0");
                    return if none_left { Got::End } else { Got::More };
                }
                Some(404) => return Got::End,
                None | Some(200) => {}
                Some(status) => {
                    debug!(status, "direct get refused");
                    return Got::Nothing;
                }
            }
            match self.entry(answer) {
                Some(entry) => got.push(entry),
                None => return Got::Nothing,
            }
        }
    }

    fn entry(&self, message: Message) -> Option<Entry> {
        let headers = message.headers.as_ref()?;
        let seq = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
        let subject = headers.get("Nats-Subject")?.as_str();
        let prefix = subject.strip_prefix("$KV.")?.strip_prefix(self.name.bucket.as_str())?;
        let key = prefix.strip_prefix('.')?.to_owned();
        Some(Entry { seq, key, value: Bytes::clone(&message.payload) })
    }
}

async fn broken(inbox: &Inbox, reason: String) {
    warn!(error = reason, "the sync log cannot be trusted");
    inbox.send(Input::Broken { reason, fault_of_plan: false }).await;
}
