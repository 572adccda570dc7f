//! What a sync service knows of one run: states and topics.

use std::collections::{BTreeMap, BTreeSet};

use crate::sync::wire::{Inspection, Operation, Response, Seq};

/// How many of the missing are named.
const NAMED: usize = 10;

/// A named counter.
#[derive(Debug, Default)]
struct State {
    count: u64,
    /// Which instances have signalled it.
    by: BTreeSet<u32>,
    /// The numbers of those who signal at most once.
    once: BTreeMap<u32, u64>,
}

/// What one session has asked for, so that nothing is done twice.
#[derive(Debug, Default)]
struct Session {
    last: Option<u64>,
    numbers: BTreeMap<u64, u64>,
}

/// Everything of a run.
#[derive(Debug, Default)]
pub(super) struct Shared {
    states: BTreeMap<String, State>,
    topics: BTreeMap<String, Vec<String>>,
    sessions: BTreeMap<String, Session>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) session: String,
    pub(super) instance: u32,
}

/// What an operation leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Answer(Response),
    /// It waits for a state to be signalled so often.
    Wait {
        state: String,
        target: u64,
    },
    /// It wants what a topic has beyond so many items.
    Follow {
        topic: String,
        after: u64,
    },
}

impl Shared {
    /// Carries out an operation.
    pub(super) fn handle(&mut self, client: &Client, id: u64, operation: Operation) -> Next {
        if operation.appends() {
            return Next::Answer(self.append(client, id, operation));
        }
        match operation {
            Operation::Barrier { state, target } if self.count(&state) >= target => {
                Next::Answer(answer(id))
            }
            Operation::Barrier { state, target } => Next::Wait { state, target },
            Operation::Subscribe { topic, after } => Next::Follow { topic, after },
            Operation::Inspect { state, of } => {
                Next::Answer(Response { inspect: Some(self.inspect(&state, &of)), ..answer(id) })
            }
            Operation::Publish { .. } | Operation::SignalEntry { .. } => Next::Answer(answer(id)),
        }
    }

    fn append(&mut self, client: &Client, id: u64, operation: Operation) -> Response {
        let is_publish = matches!(operation, Operation::Publish { .. });
        if client.session.is_empty() {
            // Another SDK, which does not come back.
            let seq = Some(Seq { seq: self.apply(client.instance, operation) });
            return numbered(id, is_publish, seq);
        }
        let session = self.sessions.entry(client.session.clone()).or_default();
        let number = if session.last.is_some_and(|last| id <= last) {
            session.numbers.get(&id).copied()
        } else {
            session.last = Some(id);
            let number = self.apply(client.instance, operation);
            self.sessions.entry(client.session.clone()).or_default().numbers.insert(id, number);
            Some(number)
        };
        numbered(id, is_publish, number.map(|seq| Seq { seq }))
    }

    fn apply(&mut self, instance: u32, operation: Operation) -> u64 {
        match operation {
            Operation::Publish { topic, payload } => {
                let topic = self.topics.entry(topic).or_default();
                topic.push(payload.to_string());
                topic.len() as u64
            }
            Operation::SignalEntry { state, once } => {
                let state = self.states.entry(state).or_default();
                if let Some(number) = state.once.get(&instance).filter(|_| once) {
                    return *number;
                }
                state.count += 1;
                state.by.insert(instance);
                if once {
                    state.once.insert(instance, state.count);
                }
                state.count
            }
            Operation::Subscribe { .. } | Operation::Barrier { .. } | Operation::Inspect { .. } => {
                0
            }
        }
    }

    /// How often a state has been signalled.
    pub(super) fn count(&self, state: &str) -> u64 {
        self.states.get(state).map_or(0, |state| state.count)
    }

    /// What a topic has beyond the first `after` items.
    pub(super) fn items(&self, topic: &str, after: u64) -> &[String] {
        let items = self.topics.get(topic).map_or(&[][..], Vec::as_slice);
        items.get(usize::try_from(after).unwrap_or(usize::MAX)..).unwrap_or_default()
    }

    fn inspect(&self, state: &str, of: &str) -> Inspection {
        let signallers = |name: &str| -> BTreeSet<u32> {
            self.states.get(name).map(|state| state.by.clone()).unwrap_or_default()
        };
        let missing = &signallers(of) - &signallers(state);
        Inspection {
            count: self.count(state),
            missing_total: missing.len() as u64,
            missing: missing.into_iter().take(NAMED).collect(),
        }
    }
}

fn numbered(id: u64, is_publish: bool, seq: Option<Seq>) -> Response {
    let (publish, signal_entry) = if is_publish { (seq, None) } else { (None, seq) };
    Response { publish, signal_entry, ..answer(id) }
}

pub(super) fn answer(id: u64) -> Response {
    Response { id: id.to_string(), ..Response::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(session: &str, instance: u32) -> Client {
        Client { session: session.to_owned(), instance }
    }

    fn signal(once: bool) -> Operation {
        Operation::SignalEntry { state: "s".to_owned(), once }
    }

    fn number(next: Next) -> Option<u64> {
        let Next::Answer(answer) = next else { panic!("no answer") };
        answer.publish.or(answer.signal_entry).map(|seq| seq.seq)
    }

    #[test]
    fn an_operation_that_is_repeated_counts_once_and_has_its_old_answer() {
        let mut shared = Shared::default();
        let one = client("one", 0);
        assert_eq!(number(shared.handle(&one, 0, signal(false))), Some(1));
        assert_eq!(number(shared.handle(&client("two", 1), 0, signal(false))), Some(2));
        assert_eq!(number(shared.handle(&one, 0, signal(false))), Some(1));
        assert_eq!(number(shared.handle(&one, 1, signal(false))), Some(3));
        assert_eq!(shared.count("s"), 3);
    }

    #[test]
    fn once_is_once_for_an_instance_whatever_its_session() {
        let mut shared = Shared::default();
        assert_eq!(number(shared.handle(&client("a", 4), 0, signal(true))), Some(1));
        assert_eq!(number(shared.handle(&client("b", 5), 0, signal(true))), Some(2));
        assert_eq!(number(shared.handle(&client("c", 4), 0, signal(true))), Some(1));
        assert_eq!(shared.count("s"), 2);
    }

    #[test]
    fn the_missing_are_those_who_came_and_did_not_signal() {
        let mut shared = Shared::default();
        for instance in 0..4 {
            let here = Operation::SignalEntry { state: "here".to_owned(), once: true };
            shared.handle(&client(&instance.to_string(), instance), 0, here);
        }
        shared.handle(&client("1", 1), 1, signal(false));
        let inspect = Operation::Inspect { state: "s".to_owned(), of: "here".to_owned() };
        let Next::Answer(answer) = shared.handle(&client("1", 1), 2, inspect) else {
            panic!("no answer");
        };
        let wanted = Inspection { count: 1, missing: vec![0, 2, 3], missing_total: 3 };
        assert_eq!(answer.inspect, Some(wanted));
    }
}
