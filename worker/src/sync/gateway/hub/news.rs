//! What the log tells: answers, barriers that are passed, items for subscribers.

use groundswell_common::ids::InstanceId;
use groundswell_common::link::NetworkConfig;

use super::super::slots::Slot;
use super::{GO_LIMIT_BYTES, Hub};
use crate::sync::log::{Effect, Entry};
use crate::sync::{SyncEvent, lifecycle, protocol};

impl Hub {
    pub(super) fn apply(&mut self, entries: &[Entry]) {
        if self.broken.is_some() {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for entry in entries {
            let applied = self.log.apply(entry.seq, &entry.key, &entry.value, &mut effects);
            for effect in effects.drain(..) {
                self.effect(effect);
            }
            if let Err(err) = applied {
                self.freeze(err.to_string(), false);
                break;
            }
        }
        self.effects = effects;
        for topic in std::mem::take(&mut self.grown) {
            self.spread(topic);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Signalled { ordinal } => {
                self.answer(|out, id| protocol::signalled(out, id, ordinal));
            }
            Effect::Published { topic, position } => {
                self.answer(|out, id| protocol::published(out, id, position));
                self.check_size(topic, position);
            }
            Effect::Settled => drop(self.outbox.answered()),
            Effect::OwnBatch { no } => {
                self.outbox.landed(no);
                self.unread.append(&mut self.paused);
            }
            Effect::Passed { waiter } => self.pass(waiter),
            Effect::Appended { topic, position } => self.appended(topic, position),
            Effect::Started => self.backlog.push_back(SyncEvent::Started),
        }
    }

    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>, &str)) {
        let Some(caller) = self.outbox.answered() else { return };
        let Some(Slot::Connection(connection)) = self.slots.get_mut(caller.connection) else {
            return;
        };
        connection.open_calls -= 1;
        connection.send(&mut self.scratch, |out| write(out, &caller.id));
        self.mark(caller.connection);
    }

    fn pass(&mut self, waiter: u64) {
        let Some(wait) = self.waits.remove(&waiter) else { return };
        let Some(Slot::Connection(connection)) = self.slots.get_mut(wait.connection) else {
            return;
        };
        connection.waits.retain(|one| *one != waiter);
        connection.send(&mut self.scratch, |out| protocol::passed(out, &wait.id));
        self.mark(wait.connection);
    }

    fn appended(&mut self, topic: usize, position: u64) {
        let at = usize::try_from(position - 1).expect("a topic fits into memory");
        if self.grown.last() != Some(&topic) {
            self.grown.push(topic);
        }
        if topic == self.run_events {
            self.said(at, None);
        } else {
            self.network(topic, at);
        }
    }

    /// Tells what the publisher of a lifecycle event said, if it is `only` or anyone here.
    pub(super) fn said(&mut self, at: usize, only: Option<InstanceId>) {
        let topic = self.log.topic(self.run_events);
        let instance = topic.publisher(at);
        if only.is_some_and(|only| only != instance) || !self.instances.contains_key(&instance) {
            return;
        }
        if let Some(event) = lifecycle::parse(&topic.payload(at)) {
            self.backlog.push_back(SyncEvent::Said { instance, event });
        }
    }

    pub(super) fn network(&mut self, topic: usize, at: usize) {
        let Some(instance) = self.network_topics.get(&topic) else { return };
        let payload = self.log.topic(topic).payload(at);
        let config = NetworkConfig::from_testground(payload.as_bytes());
        self.backlog.push_back(SyncEvent::Network { instance: *instance, config });
    }

    fn check_size(&mut self, topic: usize, position: u64) {
        let at = usize::try_from(position - 1).expect("a topic fits into memory");
        let size = self.log.topic(topic).item(at).len();
        if size > GO_LIMIT_BYTES && !self.warned.contains(&topic) {
            self.warned.push(topic);
            let what = format!(
                "a message of {size} bytes was published: the Go SDK ends connections that receive more than {GO_LIMIT_BYTES}"
            );
            self.backlog.push_back(SyncEvent::Warning(what));
        }
    }

    /// Makes all subscribers of a topic that has grown send what is new.
    fn spread(&mut self, topic: usize) {
        let Some(subscribers) = self.subscribers.get_mut(topic) else { return };
        let subscribers = std::mem::take(subscribers);
        for (token, number) in &subscribers {
            if let Some(Slot::Connection(connection)) = self.slots.get_mut(*token) {
                connection.fall_behind(*number);
            }
            self.mark(*token);
        }
        self.subscribers[topic] = subscribers;
    }
}
