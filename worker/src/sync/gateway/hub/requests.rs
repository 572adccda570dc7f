//! What instances ask for.

use groundswell_common::sync::RequestName;

use super::super::connection::Connection;
use super::{Hub, Wait};
use crate::sync::outbox::{Caller, Wish};
use crate::sync::protocol::{self, Call};
use crate::sync::websocket::CloseCode;

/// The name under which a request counts once, if its client has a session.
fn name(connection: &Connection, id: &str, once: bool) -> Option<RequestName> {
    let (session, number) = (connection.session?, protocol::number(id)?);
    Some(RequestName { session, number, once })
}

impl Hub {
    pub(super) fn message(
        &mut self,
        token: u64,
        connection: &mut Connection,
        message: &[u8],
    ) -> Result<(), CloseCode> {
        let request = protocol::parse(message, &self.prefix).map_err(|_| CloseCode::InvalidData)?;
        let id = &*request.id;
        if let Some(reason) = &self.broken {
            connection.send(&mut self.scratch, |out| protocol::failed(out, id, reason));
            return Ok(());
        }
        match request.call {
            Call::Signal { state, once } => {
                let name = name(connection, id, once);
                self.ask(token, connection, id, &state, Wish::Signal(name));
            }
            Call::Publish { topic, payload } => {
                let name = name(connection, id, false);
                self.ask(token, connection, id, &topic, Wish::Publish(payload.to_owned(), name));
            }
            Call::Inspect { state, of } => {
                let count = self.log.count(&state);
                let (missing, total) = self.log.absent(&state, &of);
                connection.send(&mut self.scratch, |out| {
                    protocol::inspected(out, id, count, &missing, total);
                });
            }
            Call::Barrier { .. } | Call::Subscribe { .. } if !connection.may_wait() => {
                let why = "too many barriers and subscriptions wait on this connection";
                connection.send(&mut self.scratch, |out| protocol::failed(out, id, why));
            }
            Call::Barrier { state, target } => {
                let wait = self.next_wait;
                self.next_wait += 1;
                if self.log.wait(&state, target, wait) {
                    connection.waits.push(wait);
                    let state = state.as_ref().into();
                    self.waits
                        .insert(wait, Wait { connection: token, id: id.into(), state, target });
                } else {
                    connection.send(&mut self.scratch, |out| protocol::passed(out, id));
                }
            }
            Call::Subscribe { topic, after } => {
                let topic = self.log.topic_index(&topic);
                // It may be more than there is here: after a restart the log has to be read again first.
                let next = usize::try_from(after).unwrap_or(usize::MAX);
                let number = connection.subscribe(id, topic, next);
                if self.subscribers.len() <= topic {
                    self.subscribers.resize_with(topic + 1, Vec::new);
                }
                self.subscribers[topic].push((token, number));
            }
            Call::Cancel => self.cancel(token, connection, id),
            Call::Refused(why) => {
                connection.send(&mut self.scratch, |out| protocol::failed(out, id, &why));
            }
        }
        Ok(())
    }

    /// Has an operation appended to the log, for which its instance pays.
    fn ask(&mut self, token: u64, connection: &mut Connection, id: &str, key: &str, wish: Wish) {
        let instance = connection.instance;
        if let Err(why) = self.charge(instance, key, &wish) {
            connection.send(&mut self.scratch, |out| protocol::failed(out, id, &why));
            return;
        }
        connection.open_calls += 1;
        let caller = Caller { connection: token, id: id.into() };
        self.outbox.push(instance, key, wish, Some(caller));
    }

    fn cancel(&mut self, token: u64, connection: &mut Connection, id: &str) {
        for (topic, number) in connection.unsubscribe(id) {
            self.subscribers[topic].retain(|one| *one != (token, number));
        }
        connection.waits.retain(|wait| {
            let keep = self.waits.get(wait).is_some_and(|known| *known.id != *id);
            if !keep {
                self.waits.remove(wait);
            }
            keep
        });
    }

    /// Forgets a connection whose socket has ended. What it had asked to append is still appended.
    pub(super) fn end(&mut self, token: u64, connection: &Connection) {
        self.connections.closed(connection.instance);
        for wait in &connection.waits {
            self.waits.remove(wait);
        }
        for (topic, number) in connection.subscribed() {
            self.subscribers[topic].retain(|one| *one != (token, number));
        }
        if let Some(served) = self.instances.get_mut(&connection.instance) {
            served.connections.retain(|one| *one != token);
            served.unfinished = served.unfinished.saturating_sub(connection.unfinished());
        }
        self.slots.remove(token);
    }
}
