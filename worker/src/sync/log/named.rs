//! What requests with names do to the log.

use groundswell_common::ids::InstanceId;
use groundswell_common::sync::RequestName;

use super::super::requests::Known;
use super::{BatchKeys, Effect, Log};

impl Log {
    /// A signal that counts once: the same request made again, or with `once` another of the same instance, is
    /// answered with the ordinal of the first.
    pub(super) fn named_signal(
        &mut self,
        instance: InstanceId,
        key: u32,
        name: RequestName,
        keys: &mut BatchKeys<'_>,
        effects: &mut Vec<Effect>,
    ) -> Effect {
        match self.requests.look_up(instance, name) {
            Known::Answered(ordinal) => return Effect::Signalled { ordinal },
            Known::Forgotten => return Effect::Settled,
            Known::New => {}
        }
        let Some(state) = keys.state(self, key) else { return Effect::Settled };
        let before = if name.once { self.states[state].signalled_once(instance) } else { None };
        let effect = match before {
            Some(ordinal) => Effect::Signalled { ordinal },
            None => self.signal(instance, key, keys, effects),
        };
        if let Effect::Signalled { ordinal } = effect {
            self.requests.remember(instance, name, ordinal);
            if name.once {
                self.states[state].remember_once(instance, ordinal);
            }
        }
        effect
    }

    /// A message that is appended once, however often the request is made.
    pub(super) fn named_publish(
        &mut self,
        instance: InstanceId,
        key: u32,
        payload: &str,
        name: RequestName,
        keys: &mut BatchKeys<'_>,
        effects: &mut Vec<Effect>,
    ) -> Effect {
        match self.requests.look_up(instance, name) {
            Known::Answered(position) => match keys.topic(self, key) {
                Some(topic) => Effect::Published { topic, position },
                None => Effect::Settled,
            },
            Known::Forgotten => Effect::Settled,
            Known::New => {
                let effect = self.publish(instance, key, payload, keys, effects);
                if let Effect::Published { position, .. } = effect {
                    self.requests.remember(instance, name, position);
                }
                effect
            }
        }
    }
}
