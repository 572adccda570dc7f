//! The replicated log's state machine: what the entries of a run's log mean, the same in every worker.
//!
//! ```text
//! entry (sequence, writer's key, batch) ──► Log::apply ──► effects for the gateway, in log order
//! ```
//!
//! Sequences follow each other without holes, and so do the batches of each writer; a batch seen twice or of a
//! fenced epoch changes nothing. The ordinal of a signal is how often its state has been signalled, the position
//! of a message how long its topic is. Nothing here depends on when an entry was read or by whom.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};

use groundswell_common::ids::{Attempt, Epoch, InstanceId, RunId, WorkerId};
use groundswell_common::sync::{self, Batch, COORDINATOR, Op, Seen, VERSION, rolling_hash};

use super::requests::Requests;
use super::tables::{State, Topic};

mod named;

/// How many hashes are kept to compare with what other writers have seen.
const HASHES_KEPT: usize = 4096;

/// Why a log cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Integrity {
    #[error("the log has a hole: {found} follows {last}")]
    Hole { last: u64, found: u64 },
    #[error("batch {no} of {writer} is missing before {found}")]
    MissingBatch { writer: String, no: u64, found: u64 },
    #[error("{writer} has read other content at {seq}")]
    Diverged { writer: String, seq: u64 },
    #[error("entry {seq} is unreadable: {why}")]
    Unreadable { seq: u64, why: String },
    #[error("the log does not begin as that of this run")]
    Foreign,
    #[error("this worker's epoch {mine} was replaced by {by}")]
    Fenced { mine: Epoch, by: Epoch },
}

/// Whose log it is, and who reads it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) me: WorkerId,
    pub(crate) epoch: Epoch,
    pub(crate) workers: BTreeSet<WorkerId>,
}

/// What an entry caused. The first four answer operations of this writer's own batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// An own signal took this ordinal.
    Signalled { ordinal: u64 },
    /// An own message took this position, from 1.
    Published { topic: usize, position: u64 },
    /// An own operation that needs no answer, or had been applied before.
    Settled,
    /// Everything of own batch `no` has been told.
    OwnBatch { no: u64 },
    /// A waiter's state has reached its target.
    Passed { waiter: u64 },
    /// A message was appended, by whomever.
    Appended { topic: usize, position: u64 },
    /// The run begins.
    Started,
}

#[derive(Debug, Default)]
struct Writer {
    epoch: Epoch,
    no: u64,
}

/// What is known of one instance, for telling a repeated operation from a new one.
#[derive(Debug, Default, Clone, Copy)]
struct Applied {
    op: (Epoch, u64),
    configured: u64,
    ready: bool,
}

/// The materialised log.
#[derive(Debug)]
pub(crate) struct Log {
    identity: Identity,
    seen: Seen,
    hashes: VecDeque<u64>,
    writers: BTreeMap<WorkerId, Writer>,
    instances: HashMap<u32, Applied>,
    requests: Requests,
    gone: BTreeMap<InstanceId, String>,
    own_op: u64,
    started: bool,
    sealed: bool,
    state_names: HashMap<Box<str>, usize>,
    states: Vec<State>,
    topic_names: HashMap<Box<str>, usize>,
    topics: Vec<Topic>,
}

impl Log {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            seen: Seen::default(),
            hashes: VecDeque::new(),
            writers: BTreeMap::new(),
            instances: HashMap::new(),
            requests: Requests::default(),
            gone: BTreeMap::new(),
            own_op: 0,
            started: false,
            sealed: false,
            state_names: HashMap::new(),
            states: Vec::new(),
            topic_names: HashMap::new(),
            topics: Vec::new(),
        }
    }

    /// The last entry and the hash up to it.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    /// The last operation number this writer has used in its epoch.
    pub(crate) fn own_op(&self) -> u64 {
        self.own_op
    }

    /// Takes the next entry. `key` is `<writer>.<epoch>.<no>`.
    pub(crate) fn apply(
        &mut self,
        seq: u64,
        key: &str,
        value: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Integrity> {
        if seq <= self.seen.seq {
            return Ok(());
        }
        if seq != self.seen.seq + 1 {
            return Err(Integrity::Hole { last: self.seen.seq, found: seq });
        }
        let unreadable = |why: String| Integrity::Unreadable { seq, why };
        let batch = sync::decode(value).map_err(|err| unreadable(err.to_string()))?;
        if batch.v != VERSION {
            return Err(unreadable(format!("version {}", batch.v)));
        }
        // The server guards the key, so a writer cannot speak for another.
        if key.split('.').next() != Some(batch.writer) {
            return Err(unreadable(format!("{} wrote under the key {key}", batch.writer)));
        }
        if batch.writer == COORDINATOR {
            self.remember(seq, value);
            return self.control(seq, &batch, effects);
        }
        if seq == 1 {
            return Err(Integrity::Foreign);
        }
        let writer = batch.writer.parse::<WorkerId>().ok();
        let Some(writer) = writer.filter(|id| self.identity.workers.contains(id)) else {
            self.remember(seq, value);
            return Ok(());
        };
        self.compare(&batch)?;
        self.remember(seq, value);
        self.batch(writer, &batch, effects)
    }

    fn compare(&self, batch: &Batch<'_>) -> Result<(), Integrity> {
        let Seen { seq, hash } = batch.seen;
        let diverged = || Integrity::Diverged { writer: batch.writer.to_owned(), seq };
        if seq > self.seen.seq {
            return Err(diverged());
        }
        let back = usize::try_from(self.seen.seq - seq).unwrap_or(usize::MAX);
        match self.hashes.len().checked_sub(back + 1).map(|at| self.hashes[at]) {
            Some(known) if known != hash => Err(diverged()),
            Some(_) | None => Ok(()),
        }
    }

    fn remember(&mut self, seq: u64, value: &[u8]) {
        self.seen = Seen { seq, hash: rolling_hash(self.seen.hash, seq, value) };
        if self.hashes.len() == HASHES_KEPT {
            self.hashes.pop_front();
        }
        self.hashes.push_back(self.seen.hash);
    }

    fn control(
        &mut self,
        seq: u64,
        batch: &Batch<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Integrity> {
        for op in &batch.ops {
            match op {
                Op::Genesis { run, attempt, workers } => {
                    let same = *run == self.identity.run
                        && *attempt == self.identity.attempt
                        && workers.iter().cloned().collect::<BTreeSet<_>>()
                            == self.identity.workers;
                    if !same {
                        return Err(Integrity::Foreign);
                    }
                }
                _ if seq == 1 => return Err(Integrity::Foreign),
                Op::Start { .. } if !self.started && !self.sealed => {
                    self.started = true;
                    effects.push(Effect::Started);
                }
                Op::Fence { worker, epoch } => self.fence(worker, *epoch)?,
                Op::Gone { instance, reason } => self.mark_gone(*instance, reason),
                Op::Seal => self.sealed = true,
                Op::Start { .. }
                | Op::Signal(..)
                | Op::Publish(..)
                | Op::NamedSignal(..)
                | Op::NamedPublish(..)
                | Op::Ready(..)
                | Op::Configured(..) => {}
            }
        }
        Ok(())
    }

    fn fence(&mut self, worker: &WorkerId, epoch: Epoch) -> Result<(), Integrity> {
        let known = self.writers.entry(worker.clone()).or_default();
        if epoch > known.epoch {
            *known = Writer { epoch, no: 0 };
        }
        if *worker == self.identity.me && epoch > self.identity.epoch {
            return Err(Integrity::Fenced { mine: self.identity.epoch, by: epoch });
        }
        Ok(())
    }

    fn batch(
        &mut self,
        id: WorkerId,
        batch: &Batch<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Integrity> {
        let own = id == self.identity.me && batch.epoch == self.identity.epoch;
        if batch.epoch > self.writers.get(&id).map_or(Epoch(0), |writer| writer.epoch) {
            self.fence(&id, batch.epoch)?;
        }
        let writer = self.writers.entry(id).or_default();
        if batch.epoch < writer.epoch || batch.no <= writer.no {
            return Ok(());
        }
        if batch.no != writer.no + 1 {
            return Err(Integrity::MissingBatch {
                writer: batch.writer.to_owned(),
                no: writer.no + 1,
                found: batch.no,
            });
        }
        writer.no = batch.no;
        self.operations(batch, own, effects);
        if own {
            effects.push(Effect::OwnBatch { no: batch.no });
        }
        Ok(())
    }

    fn operations(&mut self, batch: &Batch<'_>, own: bool, effects: &mut Vec<Effect>) {
        let mut keys = BatchKeys::new(&batch.keys);
        for op in &batch.ops {
            let at = effects.len();
            let answer = if self.sealed {
                Effect::Settled
            } else {
                self.operation(batch, op, &mut keys, effects)
            };
            if own {
                if let Op::Signal(_, no, _)
                | Op::Publish(_, no, _, _)
                | Op::NamedSignal(_, no, ..)
                | Op::NamedPublish(_, no, ..) = op
                {
                    self.own_op = self.own_op.max(*no);
                }
                // Whoever signals hears its ordinal before anyone hears that a barrier was reached by it.
                effects.insert(at, answer);
            }
        }
    }

    fn operation(
        &mut self,
        batch: &Batch<'_>,
        op: &Op<'_>,
        keys: &mut BatchKeys<'_>,
        effects: &mut Vec<Effect>,
    ) -> Effect {
        match op {
            Op::Signal(instance, no, ..)
            | Op::Publish(instance, no, ..)
            | Op::NamedSignal(instance, no, ..)
            | Op::NamedPublish(instance, no, ..)
                if self.has_applied(*instance, (batch.epoch, *no)) =>
            {
                Effect::Settled
            }
            Op::Signal(instance, _, key) => self.signal(*instance, *key, keys, effects),
            Op::Publish(instance, _, key, payload) => {
                self.publish(*instance, *key, payload, keys, effects)
            }
            Op::NamedSignal(instance, _, key, name) => {
                self.named_signal(*instance, *key, *name, keys, effects)
            }
            Op::NamedPublish(instance, _, key, payload, name) => {
                self.named_publish(*instance, *key, payload, *name, keys, effects)
            }
            Op::Ready(instance, key) => {
                let applied = self.instances.entry(instance.0).or_default();
                if !std::mem::replace(&mut applied.ready, true) {
                    self.signal(*instance, *key, keys, effects);
                }
                Effect::Settled
            }
            Op::Configured(instance, which, key) => {
                let applied = self.instances.entry(instance.0).or_default();
                if *which > applied.configured {
                    applied.configured = *which;
                    self.signal(*instance, *key, keys, effects);
                }
                Effect::Settled
            }
            Op::Gone { instance, reason } => {
                self.mark_gone(*instance, reason);
                Effect::Settled
            }
            // Only the coordinator may say these.
            Op::Genesis { .. } | Op::Start { .. } | Op::Fence { .. } | Op::Seal => Effect::Settled,
        }
    }

    /// Whether an operation was applied before; from here on it was.
    fn has_applied(&mut self, instance: InstanceId, op: (Epoch, u64)) -> bool {
        let applied = self.instances.entry(instance.0).or_default();
        if op <= applied.op {
            return true;
        }
        applied.op = op;
        false
    }

    fn publish(
        &mut self,
        instance: InstanceId,
        key: u32,
        payload: &str,
        keys: &mut BatchKeys<'_>,
        effects: &mut Vec<Effect>,
    ) -> Effect {
        let Some(topic) = keys.topic(self, key) else { return Effect::Settled };
        let position = self.topics[topic].append(instance, payload);
        effects.push(Effect::Appended { topic, position });
        Effect::Published { topic, position }
    }

    fn signal(
        &mut self,
        instance: InstanceId,
        key: u32,
        keys: &mut BatchKeys<'_>,
        effects: &mut Vec<Effect>,
    ) -> Effect {
        let Some(state) = keys.state(self, key) else { return Effect::Settled };
        let state = &mut self.states[state];
        let ordinal = state.signal(instance);
        while let Some(waiter) = state.next_passed() {
            effects.push(Effect::Passed { waiter });
        }
        Effect::Signalled { ordinal }
    }

    fn mark_gone(&mut self, instance: InstanceId, reason: &str) {
        self.gone.entry(instance).or_insert_with(|| reason.to_owned());
    }

    /// Why an instance is gone, if it is.
    pub(crate) fn gone(&self, instance: InstanceId) -> Option<&str> {
        self.gone.get(&instance).map(String::as_str)
    }

    /// Parks `waiter` until the state has been signalled `target` times. False if it has been already.
    pub(crate) fn wait(&mut self, state: &str, target: u64, waiter: u64) -> bool {
        let index = self.state_index(state);
        let state = &mut self.states[index];
        if state.count() >= target {
            return false;
        }
        state.waiters.push(Reverse((target, waiter)));
        true
    }

    /// How often the state has been signalled.
    pub(crate) fn count(&self, state: &str) -> u64 {
        self.state_names.get(state).map_or(0, |index| self.states[*index].count())
    }

    /// The first ten instances below `total` that have not signalled the state, and how many there are.
    pub(crate) fn missing(&self, state: &str, total: u32) -> (Vec<InstanceId>, u64) {
        match self.state_names.get(state) {
            Some(index) => self.states[*index].missing(total),
            None => State::default().missing(total),
        }
    }

    /// The first ten instances that have signalled the state `of` and not `state`, and how many there are.
    pub(crate) fn absent(&self, state: &str, of: &str) -> (Vec<InstanceId>, u64) {
        let by_name = |name: &str| self.state_names.get(name).map(|index| &self.states[*index]);
        by_name(of).map(|of| of.without(by_name(state))).unwrap_or_default()
    }

    /// The topic's number, which stays the same for the life of the log.
    pub(crate) fn topic_index(&mut self, name: &str) -> usize {
        index_of(&mut self.topic_names, &mut self.topics, name)
    }

    pub(crate) fn topic(&self, index: usize) -> &Topic {
        &self.topics[index]
    }

    fn state_index(&mut self, name: &str) -> usize {
        index_of(&mut self.state_names, &mut self.states, name)
    }
}

fn index_of<T: Default>(
    names: &mut HashMap<Box<str>, usize>,
    items: &mut Vec<T>,
    name: &str,
) -> usize {
    if let Some(index) = names.get(name) {
        return *index;
    }
    names.insert(name.into(), items.len());
    items.push(T::default());
    items.len() - 1
}

/// The keys of one batch, each looked up at most once.
struct BatchKeys<'a> {
    names: &'a [&'a str],
    states: Vec<Option<usize>>,
    topics: Vec<Option<usize>>,
}

impl<'a> BatchKeys<'a> {
    fn new(names: &'a [&'a str]) -> Self {
        Self { names, states: vec![None; names.len()], topics: vec![None; names.len()] }
    }

    fn state(&mut self, log: &mut Log, key: u32) -> Option<usize> {
        let at = usize::try_from(key).ok()?;
        let name = self.names.get(at)?;
        Some(*self.states[at].get_or_insert_with(|| log.state_index(name)))
    }

    fn topic(&mut self, log: &mut Log, key: u32) -> Option<usize> {
        let at = usize::try_from(key).ok()?;
        let name = self.names.get(at)?;
        Some(*self.topics[at].get_or_insert_with(|| log.topic_index(name)))
    }
}

/// Puts entries that arrive in any order, or twice, into the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Reorder {
    last: u64,
    early: BTreeMap<u64, Entry>,
}

/// One entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) key: String,
    pub(crate) value: bytes::Bytes,
}

impl Reorder {
    /// The last entry that was handed out.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether entries wait for one that has not arrived.
    pub(crate) fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes an entry and appends what can be handed out to `ready`.
    pub(crate) fn offer(&mut self, entry: Entry, ready: &mut Vec<Entry>) {
        if entry.seq <= self.last {
            return;
        }
        if entry.seq != self.last + 1 {
            // What lies far ahead is fetched when its turn comes.
            if self.early.len() < 1024 {
                self.early.insert(entry.seq, entry);
            }
            return;
        }
        self.last = entry.seq;
        ready.push(entry);
        while let Some(next) = self.early.remove(&(self.last + 1)) {
            self.last = next.seq;
            ready.push(next);
        }
        self.early = self.early.split_off(&(self.last + 1));
    }
}

/// Waiters of a state, the nearest target first.
pub(crate) type Waiters = BinaryHeap<Reverse<(u64, u64)>>;

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
