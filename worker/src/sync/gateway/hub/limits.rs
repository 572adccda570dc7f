//! Keeps one instance from taking what the others need: sockets, memory, the hub's time, the log's room.

use std::collections::BTreeSet;

use groundswell_common::ids::InstanceId;

use super::super::connection::Connection;
use super::Hub;
use crate::sync::SyncEvent;
use crate::sync::outbox::{Outbox, Wish};
use crate::sync::websocket::CloseCode;

impl Hub {
    /// Whether a connection has to wait before more is read of it. It is read again when it may go on.
    pub(super) fn holds_back(&mut self, token: u64, connection: &Connection) -> bool {
        if connection.is_paused() {
            self.paused.push(token);
            return true;
        }
        let instance = connection.instance;
        let Some(served) = self.instances.get_mut(&instance) else { return false };
        if served.meter.may_go_on(self.now) {
            return false;
        }
        self.slowed.insert(token);
        if let Some(excess) = served.meter.on_slowed() {
            let what = format!("instance {instance} is slowed down: it asks for {excess}");
            self.backlog.push_back(SyncEvent::Warning(what));
        }
        true
    }

    /// Has those read again that had to wait long enough.
    pub(super) fn go_on(&mut self) {
        let (slots, instances, now) = (&self.slots, &self.instances, self.now);
        let waits = |token: &u64| {
            let instance = slots.connection(*token).map(|connection| connection.instance);
            let served = instance.and_then(|instance| instances.get(&instance));
            served.is_some_and(|served| !served.meter.may_go_on(now))
        };
        let (waiting, ready): (BTreeSet<u64>, BTreeSet<u64>) =
            std::mem::take(&mut self.slowed).into_iter().partition(waits);
        self.slowed = waiting;
        self.unread.extend(ready);
    }

    /// Takes in what has arrived on a connection, of whose messages so many bytes were unfinished before.
    pub(super) fn account(
        &mut self,
        connection: &mut Connection,
        bytes: usize,
        operations: u32,
        unfinished_before: usize,
    ) {
        let Some(served) = self.instances.get_mut(&connection.instance) else { return };
        served.meter.arrived(bytes, operations, self.now);
        let others = served.unfinished.saturating_sub(unfinished_before);
        served.unfinished = others + connection.unfinished();
        if served.unfinished > self.spec.limits.unfinished_bytes {
            connection.close(CloseCode::TooLarge);
        }
    }

    /// Whether an instance may have one more connection.
    pub(super) fn may_connect(&self, instance: InstanceId) -> bool {
        let open = self.instances.get(&instance).map(|served| served.connections.len());
        open.is_none_or(|open| open < self.spec.limits.connections)
    }

    /// Charges an instance for what it adds to the log, or says why it must not.
    pub(super) fn charge(
        &mut self,
        instance: InstanceId,
        key: &str,
        wish: &Wish,
    ) -> Result<(), String> {
        let Some(served) = self.instances.get_mut(&instance) else { return Ok(()) };
        let Err(reason) = served.meter.append(Outbox::price(key, wish)) else { return Ok(()) };
        if served.meter.on_exhausted() {
            let excess = SyncEvent::Excess { instance, reason: reason.clone() };
            self.backlog.push_back(excess);
        }
        Err(reason)
    }
}
