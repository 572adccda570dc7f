//! What a client has asked for and not been told yet.
//!
//! Ids grow with the order in which operations are sent, over all connections of a session: that is how the service
//! tells an operation that is repeated from a new one.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::SyncError;
use super::wire::{Answer, Operation, Request};

/// Most operations that append and are not answered. The service remembers as many answers.
pub(super) const MAX_APPENDS: usize = 64;

/// What a subscriber gets.
pub(super) type Item = Result<Value, SyncError>;

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Caller {
    /// One who waits for one answer.
    Reply(oneshot::Sender<Result<Answer, SyncError>>),
    /// Nobody: it only has to be done.
    Nobody,
    /// A subscriber; `taken` items have been handed over, and the next `skip` have been handed over before.
    Items { to: mpsc::Sender<Item>, taken: u64, skip: u64 },
}

#[derive(Debug)]
struct Call {
    operation: Operation,
    caller: Caller,
}

/// A subscription whose reader is behind. It is taken up again when there is room.
#[derive(Debug)]
pub(super) struct Paused {
    pub(super) topic: String,
    pub(super) to: mpsc::Sender<Item>,
    pub(super) taken: u64,
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    /// Nobody wants more: tell the service.
    Cancel(u64),
    /// The reader is behind: tell the service, and go on later.
    Pause(u64, Paused),
}

/// The open calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    next: u64,
    open: BTreeMap<u64, Call>,
    appends: usize,
    /// Whether the service knows Groundswell's own keys.
    pub(super) extended: bool,
}

impl Calls {
    /// Whether one more operation may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.appends < MAX_APPENDS
    }

    /// Takes a call and returns what to send for it; nothing when the service would not understand it.
    pub(super) fn begin(&mut self, operation: Operation, caller: Caller) -> Option<String> {
        if let (Operation::Inspect { .. }, false) = (&operation, self.extended) {
            if let Caller::Reply(to) = caller {
                drop(to.send(Err(SyncError::Refused("it cannot tell".to_owned()))));
            }
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.appends += usize::from(operation.appends());
        let text = self.text(id, &operation);
        self.open.insert(id, Call { operation, caller });
        Some(text)
    }

    /// Takes up a subscription again and returns what to send for it.
    pub(super) fn resume(&mut self, paused: Paused) -> Option<String> {
        let Paused { topic, to, taken } = paused;
        let (after, skip) = if self.extended { (taken, 0) } else { (0, taken) };
        let caller = Caller::Items { to, taken, skip };
        self.begin(Operation::Subscribe { topic, after }, caller)
    }

    /// What to send on a new connection, in order.
    pub(super) fn repeat(&mut self) -> Vec<String> {
        let extended = self.extended;
        for call in self.open.values_mut() {
            if let (Operation::Subscribe { after, .. }, Caller::Items { taken, skip, .. }) =
                (&mut call.operation, &mut call.caller)
            {
                (*after, *skip) = if extended { (*taken, 0) } else { (0, *taken) };
            }
        }
        self.open.iter().map(|(id, call)| self.text(*id, &call.operation)).collect()
    }

    fn text(&self, id: u64, operation: &Operation) -> String {
        if let (Operation::SignalEntry { state, once: true }, false) = (operation, self.extended) {
            let plain = Operation::SignalEntry { state: state.clone(), once: false };
            return Request::text(id, Some(&plain));
        }
        Request::text(id, Some(operation))
    }

    /// Hands an answer to the one who waits for it.
    pub(super) fn answer(&mut self, id: u64, answer: Answer) -> Next {
        let Some(call) = self.open.get_mut(&id) else { return Next::Nothing };
        if let Caller::Items { .. } = call.caller {
            return self.item(id, answer);
        }
        let Some(call) = self.remove(id) else { return Next::Nothing };
        if let Caller::Reply(to) = call.caller {
            // The one who asked may have gone.
            let _ = to.send(match answer {
                Answer::Refused(why) => Err(SyncError::Refused(why)),
                told @ (Answer::Done(_) | Answer::Item(_) | Answer::Inspected(_)) => Ok(told),
            });
        }
        Next::Nothing
    }

    fn item(&mut self, id: u64, answer: Answer) -> Next {
        let Some(call) = self.open.get_mut(&id) else { return Next::Nothing };
        let (Caller::Items { to, taken, skip }, Operation::Subscribe { topic, .. }) =
            (&mut call.caller, &call.operation)
        else {
            return Next::Nothing;
        };
        if *skip > 0 {
            *skip -= 1;
            return Next::Nothing;
        }
        let item = match answer {
            Answer::Item(text) => serde_json::from_str(&text).map_err(|err| {
                SyncError::Unreadable { topic: topic.clone(), why: err.to_string() }
            }),
            Answer::Refused(why) => Err(SyncError::Refused(why)),
            Answer::Done(_) | Answer::Inspected(_) => return Next::Nothing,
        };
        match to.try_send(item) {
            Ok(()) => {
                *taken += 1;
                Next::Nothing
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.remove(id);
                Next::Cancel(id)
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                let paused = Paused { topic: topic.clone(), to: to.clone(), taken: *taken };
                self.remove(id);
                Next::Pause(id, paused)
            }
        }
    }

    fn remove(&mut self, id: u64) -> Option<Call> {
        let call = self.open.remove(&id)?;
        self.appends -= usize::from(call.operation.appends());
        Some(call)
    }

    /// Drops waits that nobody waits for any more, and returns their ids to be cancelled.
    pub(super) fn abandoned(&mut self) -> Vec<u64> {
        let gone = |call: &Call| match &call.caller {
            Caller::Reply(to) => to.is_closed() && !call.operation.appends(),
            Caller::Items { to, .. } => to.is_closed(),
            Caller::Nobody => false,
        };
        let ids: Vec<u64> =
            self.open.iter().filter(|(_, call)| gone(call)).map(|(id, _)| *id).collect();
        for id in &ids {
            self.remove(*id);
        }
        ids
    }

    /// Ends every call with an error.
    pub(super) fn fail(&mut self, why: &SyncError) {
        for call in std::mem::take(&mut self.open).into_values() {
            match call.caller {
                Caller::Reply(to) => drop(to.send(Err(why.clone()))),
                Caller::Items { to, .. } => drop(to.try_send(Err(why.clone()))),
                Caller::Nobody => {}
            }
        }
        self.appends = 0;
    }

    /// Whether everything has been answered but subscriptions and waits.
    pub(super) fn is_settled(&self) -> bool {
        self.appends == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(text: &str) -> Operation {
        Operation::Publish { topic: "t".to_owned(), payload: text.into() }
    }

    fn subscribe() -> Operation {
        Operation::Subscribe { topic: "t".to_owned(), after: 0 }
    }

    fn item(number: u32) -> Answer {
        Answer::Item(number.to_string())
    }

    #[test]
    fn what_is_not_answered_is_repeated_in_order_with_the_same_ids() {
        let mut calls = Calls { extended: true, ..Calls::default() };
        for text in ["a", "b", "c"] {
            calls.begin(publish(text), Caller::Nobody);
        }
        calls.answer(0, Answer::Done(Some(1)));
        let again = calls.repeat();
        assert_eq!(again.len(), 2);
        assert!(again[0].contains(r#""id":"1""#), "{}", again[0]);
        assert!(again[1].contains(r#""id":"2""#), "{}", again[1]);
    }

    #[test]
    fn a_subscription_goes_on_after_what_it_has_got() {
        for extended in [true, false] {
            let mut calls = Calls { extended, ..Calls::default() };
            let (to, mut items) = mpsc::channel(8);
            calls.begin(subscribe(), Caller::Items { to, taken: 0, skip: 0 });
            calls.answer(0, item(1));
            calls.answer(0, item(2));
            let again = calls.repeat();
            assert_eq!(again[0].contains(r#""after":2"#), extended);
            // A service that does not know the key begins at the first item again.
            for number in if extended { 3..5 } else { 1..5 } {
                calls.answer(0, item(number));
            }
            let got: Vec<_> = std::iter::from_fn(|| items.try_recv().ok()).collect();
            let numbers: Vec<_> =
                got.into_iter().map(|item| item.unwrap().as_u64().unwrap()).collect();
            assert_eq!(numbers, [1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_reader_that_is_behind_holds_up_nobody_and_loses_nothing() {
        let mut calls = Calls { extended: true, ..Calls::default() };
        let (to, mut items) = mpsc::channel(1);
        calls.begin(subscribe(), Caller::Items { to, taken: 0, skip: 0 });
        assert!(matches!(calls.answer(0, item(1)), Next::Nothing));
        let Next::Pause(0, paused) = calls.answer(0, item(2)) else { panic!("not paused") };
        assert!(matches!(calls.answer(0, item(3)), Next::Nothing), "late items of the old id");
        assert_eq!(items.try_recv().unwrap().unwrap(), 1);
        assert!(calls.resume(paused).unwrap().contains(r#""after":1"#));
        calls.answer(1, item(2));
        assert_eq!(items.try_recv().unwrap().unwrap(), 2);
    }

    #[test]
    fn waits_that_nobody_waits_for_are_cancelled_and_appends_are_not() {
        let mut calls = Calls::default();
        let (signal, gone) = oneshot::channel();
        drop(gone);
        let barrier = Operation::Barrier { state: "s".to_owned(), target: 2 };
        calls.begin(barrier, Caller::Reply(signal));
        let (publish_to, gone) = oneshot::channel();
        drop(gone);
        calls.begin(publish("a"), Caller::Reply(publish_to));
        assert_eq!(calls.abandoned(), [0]);
        assert!(!calls.is_settled());
        calls.answer(1, Answer::Done(Some(1)));
        assert!(calls.is_settled());
    }

    #[test]
    fn only_so_many_appends_are_open_at_a_time() {
        let mut calls = Calls::default();
        for _ in 0..MAX_APPENDS {
            assert!(calls.has_room());
            calls.begin(publish("a"), Caller::Nobody);
        }
        assert!(!calls.has_room());
        calls.answer(0, Answer::Done(Some(1)));
        assert!(calls.has_room());
    }
}
