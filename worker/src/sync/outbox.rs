//! What the instances want appended, until it is in the log: drafts of batches, and the one in flight.
//!
//! One batch is in flight at a time. Operations that arrive meanwhile gather in the next draft, so batches grow
//! by themselves when the bus is slow.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use groundswell_common::ids::{Epoch, InstanceId, WorkerId};
use groundswell_common::sync::{
    self, Batch, MAX_BATCH_BYTES, MAX_BATCH_OPS, Op, RequestName, Seen, VERSION,
};

/// About what an operation takes in a batch beside its payload.
const OP_BYTES: usize = 16;

/// Who gets the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The connection.
    pub(crate) connection: u64,
    /// The request's id, as a JSON string.
    pub(crate) id: Box<str>,
}

/// What is to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Signal(Option<RequestName>),
    Publish(String, Option<RequestName>),
    Ready,
    Configured(u64),
    Gone(String),
}

impl Wish {
    /// The length of the text in it.
    fn len(&self) -> usize {
        match self {
            Self::Publish(text, _) | Self::Gone(text) => text.len(),
            Self::Signal(_) | Self::Ready | Self::Configured(_) => 0,
        }
    }
}

#[derive(Debug)]
struct Pending {
    instance: InstanceId,
    key: u32,
    wish: Wish,
    caller: Option<Caller>,
}

#[derive(Debug, Default)]
struct Draft {
    keys: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
    ops: Vec<Pending>,
    bytes: usize,
}

/// A batch that is ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) no: u64,
    /// The last entry the batch's writer had read. It can only be stored after that.
    pub(crate) after: u64,
    pub(crate) value: Bytes,
}

/// The queue between the instances and the log.
#[derive(Debug)]
pub(crate) struct Outbox {
    writer: WorkerId,
    epoch: Epoch,
    last_no: u64,
    last_op: u64,
    drafts: VecDeque<Draft>,
    flying: Option<VecDeque<Option<Caller>>>,
}

impl Outbox {
    pub(crate) fn new(writer: WorkerId, epoch: Epoch) -> Self {
        Self { writer, epoch, last_no: 0, last_op: 0, drafts: VecDeque::new(), flying: None }
    }

    /// About what an operation takes in the log.
    pub(crate) fn price(key: &str, wish: &Wish) -> usize {
        OP_BYTES + key.len() + wish.len()
    }

    pub(crate) fn push(
        &mut self,
        instance: InstanceId,
        key: &str,
        wish: Wish,
        caller: Option<Caller>,
    ) {
        if self.drafts.back().is_none_or(Draft::is_full) {
            self.drafts.push_back(Draft::default());
        }
        if let Some(draft) = self.drafts.back_mut() {
            draft.push(instance, key, wish, caller);
        }
    }

    /// Whether nothing waits or flies.
    pub(crate) fn is_empty(&self) -> bool {
        self.drafts.is_empty() && self.flying.is_none()
    }

    /// The next batch, if there is one and none is in flight. `op` is the last operation number in the log.
    pub(crate) fn take(&mut self, seen: Seen, op: u64) -> Option<Outgoing> {
        if self.flying.is_some() {
            return None;
        }
        let draft = self.drafts.pop_front()?;
        self.last_no += 1;
        self.last_op = self.last_op.max(op);
        let value = self.encode(&draft, seen);
        self.flying = Some(draft.ops.into_iter().map(|pending| pending.caller).collect());
        Some(Outgoing { no: self.last_no, after: seen.seq, value })
    }

    fn encode(&mut self, draft: &Draft, seen: Seen) -> Bytes {
        let mut number = || {
            self.last_op += 1;
            self.last_op
        };
        let ops = draft
            .ops
            .iter()
            .map(|Pending { instance, key, wish, .. }| match wish {
                Wish::Signal(None) => Op::Signal(*instance, number(), *key),
                Wish::Signal(Some(name)) => Op::NamedSignal(*instance, number(), *key, *name),
                Wish::Publish(payload, None) => Op::Publish(*instance, number(), *key, payload),
                Wish::Publish(payload, Some(name)) => {
                    Op::NamedPublish(*instance, number(), *key, payload, *name)
                }
                Wish::Ready => Op::Ready(*instance, *key),
                Wish::Configured(which) => Op::Configured(*instance, *which, *key),
                Wish::Gone(reason) => Op::Gone { instance: *instance, reason },
            })
            .collect();
        let batch = Batch {
            v: VERSION,
            writer: self.writer.as_str(),
            epoch: self.epoch,
            no: self.last_no,
            seen,
            keys: draft.keys.iter().map(AsRef::as_ref).collect(),
            ops,
        };
        sync::encode(&batch)
    }

    /// Who waits for the next answered operation of the batch in flight.
    pub(crate) fn answered(&mut self) -> Option<Caller> {
        self.flying.as_mut()?.pop_front()?
    }

    /// Own batch `no` is in the log, whether it was sent by this outbox or by an earlier one of the same epoch.
    pub(crate) fn landed(&mut self, no: u64) {
        if no >= self.last_no {
            self.last_no = no;
            self.flying = None;
        }
    }

    /// The last own batch that is in the log.
    pub(crate) fn landed_no(&self) -> u64 {
        if self.flying.is_some() { self.last_no - 1 } else { self.last_no }
    }

    /// Everyone who waits for an answer, because none will come.
    pub(crate) fn abandon(&mut self) -> Vec<Caller> {
        let flying = self.flying.take().into_iter().flatten();
        let waiting = self.drafts.drain(..).flat_map(|draft| draft.ops).map(|op| op.caller);
        flying.chain(waiting).flatten().collect()
    }
}

impl Draft {
    fn is_full(&self) -> bool {
        self.bytes >= MAX_BATCH_BYTES || self.ops.len() >= MAX_BATCH_OPS
    }

    fn push(&mut self, instance: InstanceId, key: &str, wish: Wish, caller: Option<Caller>) {
        let key = self.number(key);
        self.bytes += OP_BYTES + wish.len();
        self.ops.push(Pending { instance, key, wish, caller });
    }

    fn number(&mut self, key: &str) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = u32::try_from(self.keys.len()).expect("a batch has few operations");
        self.keys.push(key.into());
        self.numbers.insert(key.into(), number);
        self.bytes += key.len();
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        Outbox::new("w1".parse().expect("a worker"), Epoch(1))
    }

    fn caller(id: &str) -> Caller {
        Caller { connection: 1, id: id.into() }
    }

    #[test]
    fn one_batch_flies_while_the_next_gathers() {
        let mut outbox = outbox();
        outbox.push(InstanceId(1), "states:a", Wish::Signal(None), Some(caller("1")));
        let first = outbox.take(Seen::default(), 0).expect("a batch");
        outbox.push(InstanceId(1), "states:a", Wish::Signal(None), Some(caller("2")));
        outbox.push(InstanceId(2), "topics:b", Wish::Publish("1".into(), None), Some(caller("3")));
        assert_eq!(outbox.take(Seen::default(), 0), None);
        assert_eq!(outbox.answered(), Some(caller("1")));
        outbox.landed(first.no);
        let second = outbox.take(Seen { seq: 2, hash: 9 }, 1).expect("a batch");
        assert_eq!((second.no, second.after), (2, 2));
        let batch = sync::decode(&second.value).expect("readable");
        assert_eq!(batch.keys, ["states:a", "topics:b"]);
        assert_eq!(
            batch.ops,
            [Op::Signal(InstanceId(1), 2, 0), Op::Publish(InstanceId(2), 3, 1, "1")]
        );
    }

    #[test]
    fn a_draft_ends_before_it_outgrows_a_message() {
        let mut outbox = outbox();
        let payload = "x".repeat(200 * 1024);
        for _ in 0..4 {
            outbox.push(InstanceId(1), "topics:t", Wish::Publish(payload.clone(), None), None);
        }
        let first = outbox.take(Seen::default(), 0).expect("a batch");
        assert_eq!(sync::decode(&first.value).expect("readable").ops.len(), 3);
        assert!(first.value.len() < 1024 * 1024);
    }

    #[test]
    fn all_who_wait_are_told_when_nothing_will_come() {
        let mut outbox = outbox();
        outbox.push(InstanceId(1), "s", Wish::Signal(None), Some(caller("1")));
        outbox.take(Seen::default(), 0).expect("a batch");
        outbox.push(InstanceId(1), "s", Wish::Ready, None);
        outbox.push(InstanceId(1), "s", Wish::Signal(None), Some(caller("2")));
        assert_eq!(outbox.abandon(), [caller("1"), caller("2")]);
        assert!(outbox.is_empty());
    }
}
