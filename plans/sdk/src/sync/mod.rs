//! Coordination between the instances of a run: signals and barriers, topics, and what is made of them.
//!
//! ```text
//! wire          messages (pure)
//! calls         what is asked for and not answered (pure)
//! connection    the task that owns the WebSocket, and connects again
//! barrier       waiting, with errors that say who is missing
//! subscription  topics as streams
//! exchange      everybody tells everybody
//! ```

pub(crate) mod barrier;
mod calls;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod subscription;
pub(crate) mod wire;

use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use self::calls::Caller;
use self::connection::{Command, Connection, Target};
use self::subscription::Subscription;
use self::wire::{Answer, Inspection, Operation};

/// Calls that may wait for the connection.
const WAITING: usize = 256;

/// Why the sync could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// There is no connection, and it cannot be had again.
    #[error("sync is lost: {0}")]
    Lost(String),
    /// The service refuses.
    #[error("the sync service refuses: {0}")]
    Refused(String),
    /// A message is not of the type it was read as.
    #[error("a message of the topic `{topic}` cannot be read: {why}")]
    Unreadable {
        /// The topic.
        topic: String,
        /// Why.
        why: String,
    },
    /// A value cannot be made JSON.
    #[error("the message for the topic `{topic}` cannot be written: {why}")]
    Unwritable {
        /// The topic.
        topic: String,
        /// Why.
        why: String,
    },
    /// Not all came in time.
    #[error(
        "`{what}` was not reached within {:.1} s: {have} of {want}{}",
        waited.as_secs_f64(),
        missing_text(missing, *missing_total)
    )]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// How many came.
        have: u64,
        /// How many were awaited.
        want: u64,
        /// Numbers of instances that did not come, at most ten; empty where the service cannot tell.
        missing: Vec<u32>,
        /// How many did not come.
        missing_total: u64,
    },
}

fn missing_text(missing: &[u32], total: u64) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let names: Vec<String> = missing.iter().map(u32::to_string).collect();
    let more = total.saturating_sub(missing.len() as u64);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let word = if total == 1 { "instance" } else { "instances" };
    format!("; missing: {word} {}{rest}", names.join(", "))
}

/// A handle to the sync service. Names are those of the plan; the run's prefix is put before them.
#[derive(Debug, Clone)]
pub struct Sync {
    prefix: std::sync::Arc<str>,
    commands: mpsc::Sender<Command>,
}

impl Sync {
    /// A handle, and the connection behind it, which somebody has to run.
    pub(crate) fn new(prefix: &str, target: Target) -> (Self, Connection) {
        let (commands, received) = mpsc::channel(WAITING);
        let connection = Connection::new(target, received);
        (Self { prefix: prefix.into(), commands }, connection)
    }

    fn state(&self, name: &str) -> String {
        format!("{}states:{name}", self.prefix)
    }

    fn topic(&self, name: &str) -> String {
        format!("{}topics:{name}", self.prefix)
    }

    async fn call(&self, operation: Operation) -> Result<Answer, SyncError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { operation, caller: Caller::Reply(reply) };
        self.commands.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn number(&self, operation: Operation) -> Result<u64, SyncError> {
        let answer = self.call(operation).await?;
        let Answer::Done(Some(number)) = answer else {
            return Err(SyncError::Refused(format!("the answer has no number: {answer:?}")));
        };
        Ok(number)
    }

    /// Signals a state and returns how many signals it has had, this one included. The numbers are consecutive, so
    /// this is a counter for the whole run, too.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn signal(&self, state: &str) -> Result<u64, SyncError> {
        self.number(Operation::SignalEntry { state: self.state(state), once: false }).await
    }

    /// Signals a state unless this instance has done so before, in this life or an earlier one, and returns the
    /// number it got then.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn signal_once(&self, state: &str) -> Result<u64, SyncError> {
        self.number(Operation::SignalEntry { state: self.state(state), once: true }).await
    }

    /// Waits until a state has been signalled `target` times.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn wait(&self, state: &str, target: u64) -> Result<(), SyncError> {
        self.call(Operation::Barrier { state: self.state(state), target }).await.map(drop)
    }

    /// How far a state has come; nothing where the service cannot tell.
    pub(crate) async fn inspect(&self, state: &str, of: &str) -> Option<Inspection> {
        let (state, of) = (self.state(state), self.state(of));
        match self.call(Operation::Inspect { state, of }).await {
            Ok(Answer::Inspected(inspection)) => Some(inspection),
            Ok(_) | Err(_) => None,
        }
    }

    /// Appends to a topic and returns the message's place in it, from 1.
    ///
    /// # Errors
    /// When the value cannot be made JSON, or the sync is lost.
    pub async fn publish<T: Serialize>(&self, topic: &str, value: &T) -> Result<u64, SyncError> {
        let payload = json(topic, value)?;
        self.number(Operation::Publish { topic: self.topic(topic), payload }).await
    }

    /// Every message of a topic, from its first.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn subscribe<T>(&self, topic: &str) -> Result<Subscription<T>, SyncError> {
        let (to, items) = mpsc::channel(subscription::BUFFER);
        let operation = Operation::Subscribe { topic: self.topic(topic), after: 0 };
        let caller = Caller::Items { to, taken: 0, skip: 0 };
        self.commands.send(Command { operation, caller }).await.map_err(|_| gone())?;
        Ok(Subscription::new(topic, items))
    }

    /// Appends a lifecycle event and waits until it is stored.
    pub(crate) async fn publish_event(&self, event: serde_json::Value) -> Result<(), SyncError> {
        let topic = format!("{}run_events", self.prefix);
        self.number(Operation::Publish { topic, payload: event }).await.map(drop)
    }

    /// Appends a lifecycle event without waiting.
    pub(crate) async fn post_event(&self, event: serde_json::Value) {
        let topic = format!("{}run_events", self.prefix);
        let operation = Operation::Publish { topic, payload: event };
        // A sync that is lost shows at the next call that waits.
        let _ = self.commands.send(Command { operation, caller: Caller::Nobody }).await;
    }

    /// Asks the service for something that costs it nothing, to see how long an answer takes.
    pub(crate) async fn ping(&self) -> Result<(), SyncError> {
        self.wait("ping", 0).await
    }
}

pub(crate) fn json<T: Serialize>(topic: &str, value: &T) -> Result<serde_json::Value, SyncError> {
    serde_json::to_value(value)
        .map_err(|err| SyncError::Unwritable { topic: topic.to_owned(), why: err.to_string() })
}

fn gone() -> SyncError {
    SyncError::Lost("the connection has ended".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_says_who_is_missing() {
        let mut error = SyncError::Timeout {
            what: "ready".to_owned(),
            waited: Duration::from_millis(1500),
            have: 3,
            want: 5,
            missing: vec![1, 4],
            missing_total: 2,
        };
        let wanted = "`ready` was not reached within 1.5 s: 3 of 5; missing: instances 1, 4";
        assert_eq!(error.to_string(), wanted);
        if let SyncError::Timeout { missing_total, .. } = &mut error {
            *missing_total = 9;
        }
        assert!(error.to_string().ends_with("1, 4 and 7 more"));
    }
}
