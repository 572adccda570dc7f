//! What instances ask for.

use super::super::connection::Connection;
use super::{Hub, Wait};
use crate::sync::outbox::{Caller, Wish};
use crate::sync::protocol::{self, Call};
use crate::sync::websocket::CloseCode;

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
        let instance = connection.instance;
        match request.call {
            Call::Signal { state } => {
                connection.open_calls += 1;
                let caller = Caller { connection: token, id: id.into() };
                self.outbox.push(instance, &state, Wish::Signal, Some(caller));
            }
            Call::Publish { topic, payload } => {
                connection.open_calls += 1;
                let caller = Caller { connection: token, id: id.into() };
                let wish = Wish::Publish(payload.to_owned());
                self.outbox.push(instance, &topic, wish, Some(caller));
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
            Call::Subscribe { topic } => {
                let topic = self.log.topic_index(&topic);
                let number = connection.subscribe(id, topic);
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
        for wait in &connection.waits {
            self.waits.remove(wait);
        }
        for (topic, number) in connection.subscribed() {
            self.subscribers[topic].retain(|one| *one != (token, number));
        }
        if let Some(served) = self.instances.get_mut(&connection.instance) {
            served.connections.retain(|one| *one != token);
        }
        self.slots.remove(token);
    }
}
