//! Who listens to what: one channel for each topic and token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use groundswell_common::api::WhoAmI;
use groundswell_common::bus::Bus;
use groundswell_common::objects::Objects;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::feed::{Feed, Told};
use super::log::{Log, Message};
use super::topic::Topic;
use crate::http::ask::{self, Caller};
use crate::http::failure::Failure;

/// The least time between two messages of a topic.
const GAP: Duration = Duration::from_millis(250);
/// How long a topic is followed when nobody listens any more: a page that comes back goes on where it was.
const LINGERS: Duration = Duration::from_secs(30);
/// Messages a listener may lie behind.
const BEHIND: usize = 256;

/// A token's public part, and a topic.
type Key = (Option<String>, Topic);

/// All channels.
#[derive(Clone)]
pub(in crate::http) struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: String,
    bus: Bus,
    objects: Objects,
    log: Mutex<Log<Key>>,
    /// How many listeners each channel has.
    listeners: Mutex<BTreeMap<u64, usize>>,
    sender: broadcast::Sender<Arc<Message>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A listener's place among the messages.
pub(super) struct Joined {
    /// Whether it goes on where it was.
    pub(super) resumed: bool,
    /// The last sequence before it joined.
    pub(super) sequence: u64,
    /// What it is told at first.
    pub(super) first: Vec<Arc<Message>>,
    /// What follows, without a gap; of all channels.
    pub(super) rest: broadcast::Receiver<Arc<Message>>,
}

/// Counts a listener as long as it is there.
pub(super) struct Listens {
    hub: Hub,
    pub(super) channels: Vec<u64>,
}

impl Drop for Listens {
    fn drop(&mut self) {
        self.hub.listeners(|all| {
            for channel in &self.channels {
                if let Some(count) = all.get_mut(channel) {
                    *count = count.saturating_sub(1);
                }
            }
        });
    }
}

impl Hub {
    pub(in crate::http) fn new(bus: Bus, objects: Objects, shutdown: CancellationToken) -> Self {
        let inner = Inner {
            epoch: format!("{:08x}", rand::random::<u32>()),
            bus,
            objects,
            log: Mutex::default(),
            listeners: Mutex::default(),
            sender: broadcast::channel(BEHIND).0,
            tasks: TaskTracker::new(),
            shutdown,
        };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn epoch(&self) -> &str {
        &self.inner.epoch
    }

    /// The `id` of a message.
    pub(super) fn id(&self, sequence: u64) -> String {
        format!("{}.{sequence}", self.inner.epoch)
    }

    /// The sequence in an `id` of this server.
    pub(super) fn sequence_of(&self, id: &str) -> Option<u64> {
        let (epoch, sequence) = id.split_once('.')?;
        (epoch == self.inner.epoch).then(|| sequence.parse().ok()).flatten()
    }

    /// Ends with the server.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        self.inner.shutdown.clone().cancelled_owned()
    }

    /// Opens or finds the channels of topics, and counts a listener there.
    pub(super) async fn listen(
        &self,
        caller: &Caller,
        topics: &[Topic],
    ) -> Result<Listens, Failure> {
        // The secret of a token is looked at by whoever leads, whether or not others listen already.
        let _: WhoAmI = ask::ask(&self.inner.bus, caller, "whoami", &()).await?;
        let mut listens = Listens { hub: self.clone(), channels: Vec::new() };
        for topic in topics {
            let channel = self.channel(caller, topic).await?;
            self.listeners(|all| *all.entry(channel).or_default() += 1);
            listens.channels.push(channel);
        }
        Ok(listens)
    }

    /// Joins: where the listener left off when that is remembered, else with the full states.
    pub(super) fn join(&self, channels: &[u64], last: Option<u64>) -> Joined {
        self.log(|log| {
            let missed = last.and_then(|last| log.after(last, channels));
            Joined {
                resumed: missed.is_some(),
                sequence: log.sequence(),
                first: missed.unwrap_or_else(|| log.full(channels)),
                rest: self.inner.sender.subscribe(),
            }
        })
    }

    /// The full states, for a listener that was too slow, and the last sequence they take in.
    pub(super) fn full(&self, channels: &[u64]) -> (Vec<Arc<Message>>, u64) {
        self.log(|log| (log.full(channels), log.sequence()))
    }

    /// The channel of a topic, which begins with its full state.
    async fn channel(&self, caller: &Caller, topic: &Topic) -> Result<u64, Failure> {
        let key = (caller.0.as_ref().map(|token| token.id().to_owned()), topic.clone());
        if let Some(known) = self.log(|log| log.channel(&key)) {
            return Ok(known);
        }
        let (bus, objects) = (self.inner.bus.clone(), self.inner.objects.clone());
        let (feed, full) = Feed::open(bus, objects, caller.clone(), topic).await?;
        let channel = self.log(|log| log.open(key.clone(), full));
        let hub = self.clone();
        self.inner.tasks.spawn(async move {
            hub.follow(feed, &key, channel).await;
            hub.log(|log| hub.send(vec![log.close(&key, channel)]));
            hub.listeners(|all| all.remove(&channel));
        });
        Ok(channel)
    }

    /// Tells what changes until nobody has listened for a while, the server ends, or the token does.
    async fn follow(&self, mut feed: Feed, key: &Key, channel: u64) {
        let mut heard = Instant::now();
        loop {
            let told = tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                told = feed.next() => told,
            };
            match told {
                Ok(Told { said, full }) => {
                    self.log(|log| self.send(log.tell(key, said, full)));
                }
                Err(failure) if failure.is_forbidden() => return,
                // Whoever leads may change; what was missed is told afterwards.
                Err(failure) => debug!(?failure, "a topic is not told at this moment"),
            }
            let listened = self.listeners(|all| all.get(&channel).is_some_and(|count| *count > 0));
            if listened {
                heard = Instant::now();
            }
            let replaced = self.log(|log| log.channel(key)) != Some(channel);
            if replaced || heard.elapsed() > LINGERS {
                return;
            }
            sleep(GAP).await;
        }
    }

    /// Sends under the lock of the log, so that the order is one.
    fn send(&self, messages: Vec<Arc<Message>>) {
        for message in messages {
            // Nobody may listen at the moment.
            let _ = self.inner.sender.send(message);
        }
    }

    fn log<T>(&self, with: impl FnOnce(&mut Log<Key>) -> T) -> T {
        with(&mut self.inner.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn listeners<T>(&self, with: impl FnOnce(&mut BTreeMap<u64, usize>) -> T) -> T {
        with(&mut self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
