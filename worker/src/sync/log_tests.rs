use std::collections::BTreeSet;

use bytes::Bytes;
use groundswell_common::ids::{Attempt, Epoch, InstanceId, WorkerId};
use groundswell_common::sync::{Batch, COORDINATOR, Op, RequestName, Seen, VERSION, encode};
use proptest::prelude::*;

use super::*;

fn worker(name: &str) -> WorkerId {
    name.parse().expect("a worker id")
}

fn identity() -> Identity {
    Identity {
        run: "c8k3vmlrirtj2p8lcec0".parse().expect("a run id"),
        attempt: Attempt::FIRST,
        me: worker("w1"),
        epoch: Epoch(1),
        workers: ["w1", "w2"].map(worker).into(),
    }
}

/// A log as a server would store it, with a reader that is asked for `seen`.
struct Server {
    stored: Vec<(String, Bytes)>,
    reader: Log,
}

impl Server {
    fn new() -> Self {
        let identity = identity();
        let mut server = Self { stored: Vec::new(), reader: Log::new(identity.clone()) };
        let workers = identity.workers.iter().cloned().collect();
        let genesis = Op::Genesis { run: identity.run, attempt: identity.attempt, workers };
        server.control(genesis);
        server
    }

    fn control(&mut self, op: Op<'_>) {
        let value = batch(COORDINATOR, 0, 0, Seen::default(), &[], vec![op]);
        self.store(format!("{COORDINATOR}.0.1"), value);
    }

    fn append(&mut self, writer: &str, epoch: u64, no: u64, keys: &[&str], ops: Vec<Op<'_>>) {
        let value = batch(writer, epoch, no, self.reader.seen(), keys, ops);
        self.store(format!("{writer}.{epoch}.{no}"), value);
    }

    fn store(&mut self, key: String, value: Bytes) {
        let seq = self.stored.len() as u64 + 1;
        let _ = self.reader.apply(seq, &key, &value, &mut Vec::new());
        self.stored.push((key, value));
    }

    fn read(&self) -> Result<(Log, Vec<Effect>), Integrity> {
        let mut log = Log::new(identity());
        let mut effects = Vec::new();
        for (at, (key, value)) in self.stored.iter().enumerate() {
            log.apply(at as u64 + 1, key, value, &mut effects)?;
        }
        Ok((log, effects))
    }
}

fn batch(writer: &str, epoch: u64, no: u64, seen: Seen, keys: &[&str], ops: Vec<Op<'_>>) -> Bytes {
    encode(&Batch { v: VERSION, writer, epoch: Epoch(epoch), no, seen, keys: keys.to_vec(), ops })
}

fn signal(instance: u32, no: u64) -> Op<'static> {
    Op::Signal(InstanceId(instance), no, 0)
}

#[test]
fn ordinals_count_up_and_waiters_pass_at_their_target() {
    let mut server = Server::new();
    server.append("w2", 1, 1, &["s"], vec![signal(9, 1)]);
    server.append("w1", 1, 1, &["s"], vec![signal(1, 1), signal(2, 2)]);
    let mut log = Log::new(identity());
    assert!(log.wait("s", 3, 30) && log.wait("s", 1, 10) && log.wait("s", 9, 90));
    let mut effects = Vec::new();
    for (at, (key, value)) in server.stored.iter().enumerate() {
        log.apply(at as u64 + 1, key, value, &mut effects).expect("a sound log");
    }
    assert_eq!(
        effects,
        [
            Effect::Passed { waiter: 10 },
            Effect::Signalled { ordinal: 2 },
            Effect::Signalled { ordinal: 3 },
            Effect::Passed { waiter: 30 },
            Effect::OwnBatch { no: 1 },
        ]
    );
    assert!(!log.wait("s", 3, 31), "reached already");
    assert_eq!(log.missing("s", 3), (vec![InstanceId(0)], 1));
}

#[test]
fn a_batch_stored_twice_and_an_operation_sent_twice_count_once() {
    let mut server = Server::new();
    server.append("w1", 1, 1, &["s"], vec![signal(1, 1)]);
    let again = server.stored[1].clone();
    server.store(again.0, again.1);
    server.append("w1", 1, 2, &["s"], vec![signal(1, 1), signal(1, 2)]);
    let (log, effects) = server.read().expect("a sound log");
    assert_eq!(log.count("s"), 2);
    assert_eq!(effects.iter().filter(|effect| **effect == Effect::Settled).count(), 1);
}

#[test]
fn a_named_request_counts_once_for_ever_and_is_answered_each_time() {
    let name = |number| RequestName { session: 7, number, once: false };
    let mut server = Server::new();
    let asked = |no, number| Op::NamedSignal(InstanceId(1), no, 0, name(number));
    server.append("w1", 1, 1, &["s"], vec![asked(1, 0), asked(2, 3), asked(3, 0)]);
    server.append("w1", 1, 2, &["s"], vec![asked(4, 3), asked(5, 4)]);
    let published = |no| Op::NamedPublish(InstanceId(1), no, 0, "1", name(9));
    server.append("w1", 1, 3, &["t"], vec![published(6), published(7)]);
    let (log, effects) = server.read().expect("a sound log");
    assert_eq!(log.count("s"), 3);
    let answers: Vec<u64> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Signalled { ordinal } => Some(*ordinal),
            Effect::Published { position, .. } => Some(*position),
            Effect::Settled
            | Effect::OwnBatch { .. }
            | Effect::Passed { .. }
            | Effect::Appended { .. }
            | Effect::Started => None,
        })
        .collect();
    assert_eq!(answers, [1, 2, 1, 2, 3, 1, 1]);
}

#[test]
fn a_fenced_epoch_changes_nothing_and_its_successor_begins_anew() {
    let mut server = Server::new();
    server.append("w2", 1, 1, &["s"], vec![signal(5, 1)]);
    server.control(Op::Fence { worker: worker("w2"), epoch: Epoch(2) });
    server.append("w2", 1, 2, &["s"], vec![signal(5, 2)]);
    server.append("w2", 2, 1, &["s"], vec![signal(5, 1)]);
    server.append("w2", 1, 3, &["s"], vec![signal(5, 3)]);
    let (log, _) = server.read().expect("a sound log");
    assert_eq!(log.count("s"), 2);
}

#[test]
fn a_worker_that_was_replaced_learns_it() {
    let mut server = Server::new();
    server.control(Op::Fence { worker: worker("w1"), epoch: Epoch(2) });
    assert_eq!(
        server.read().map(drop).unwrap_err(),
        Integrity::Fenced { mine: Epoch(1), by: Epoch(2) }
    );
}

#[test]
fn strangers_and_workers_that_speak_as_the_coordinator_change_nothing() {
    let mut server = Server::new();
    server.append("w9", 1, 1, &["s"], vec![signal(5, 1)]);
    server.append("w2", 1, 1, &["s"], vec![Op::Start { term: 1 }, Op::Seal]);
    server.append("w2", 1, 2, &["s"], vec![signal(5, 1)]);
    let (log, effects) = server.read().expect("a sound log");
    assert_eq!(log.count("s"), 1);
    assert_eq!(effects, []);
}

#[test]
fn the_start_counts_once_and_nothing_counts_after_the_seal() {
    let mut server = Server::new();
    server.control(Op::Start { term: 1 });
    server.control(Op::Start { term: 2 });
    server.control(Op::Seal);
    server.append("w1", 1, 1, &["s"], vec![signal(5, 1)]);
    let (log, effects) = server.read().expect("a sound log");
    assert_eq!(effects, [Effect::Started, Effect::Settled, Effect::OwnBatch { no: 1 }]);
    assert_eq!(log.count("s"), 0);
}

#[test]
fn the_platforms_signals_count_once_however_often_they_are_sent() {
    let mut server = Server::new();
    let ready = || Op::Ready(InstanceId(1), 0);
    let configured = |which| Op::Configured(InstanceId(1), which, 1);
    server.append("w1", 1, 1, &["up", "cfg"], vec![ready(), configured(1), configured(2)]);
    server.append("w1", 1, 2, &["up", "cfg"], vec![ready(), configured(1), configured(2)]);
    let (log, _) = server.read().expect("a sound log");
    assert_eq!((log.count("up"), log.count("cfg")), (1, 2));
}

#[test]
fn what_cannot_be_trusted_is_told_by_its_name() {
    let mut server = Server::new();
    server.append("w2", 1, 1, &["s"], vec![signal(5, 1)]);
    let mut log = Log::new(identity());
    let mut effects = Vec::new();
    let (key, value) = &server.stored[1];
    assert_eq!(log.apply(2, key, value, &mut effects), Err(Integrity::Hole { last: 0, found: 2 }));
    assert_eq!(log.apply(1, key, value, &mut effects), Err(Integrity::Foreign));

    let mut skipping = Server::new();
    skipping.append("w2", 1, 2, &["s"], vec![signal(5, 1)]);
    assert!(matches!(skipping.read(), Err(Integrity::MissingBatch { no: 1, found: 2, .. })));

    let mut split = Server::new();
    let lie = Seen { seq: 1, hash: 42 };
    split.store("w2.1.1".into(), batch("w2", 1, 1, lie, &["s"], vec![signal(5, 1)]));
    assert!(matches!(split.read(), Err(Integrity::Diverged { seq: 1, .. })));

    let mut forged = Server::new();
    let value = batch("w2", 1, 1, Seen::default(), &["s"], vec![signal(5, 1)]);
    forged.store("w1.1.1".into(), value);
    assert!(matches!(forged.read(), Err(Integrity::Unreadable { seq: 2, .. })));
}

proptest! {
    /// Whatever is delivered twice or out of order, and wherever the reader begins anew, the outcome is that of the
    /// log read once from start to end.
    #[test]
    fn delivery_changes_nothing(
        appended in prop::collection::vec((0..2_usize, 1..4_usize, any::<bool>()), 1..20),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
    ) {
        let mut server = Server::new();
        let mut numbers = [0_u64; 2];
        let mut op = 0;
        for (writer, size, twice) in appended {
            numbers[writer] += 1;
            let ops = (0..size).map(|n| {
                op += 1;
                let instance = InstanceId(u32::try_from(writer).expect("two writers"));
                if n % 2 == 0 { Op::Signal(instance, op, 0) } else { Op::Publish(instance, op, 1, "1") }
            }).collect();
            server.append(["w1", "w2"][writer], 1, numbers[writer], &["s", "t"], ops);
            if twice {
                let (key, value) = server.stored.last().cloned().expect("stored");
                server.store(key, value);
            }
        }
        let (mut expected, effects) = server.read().expect("a sound log");
        let ordinals: Vec<u64> = effects.iter().filter_map(|effect| match effect {
            Effect::Signalled { ordinal } => Some(*ordinal),
            Effect::Published { .. }
            | Effect::Settled
            | Effect::OwnBatch { .. }
            | Effect::Passed { .. }
            | Effect::Appended { .. }
            | Effect::Started => None,
        }).collect();
        let distinct: BTreeSet<u64> = ordinals.iter().copied().collect();
        prop_assert_eq!(distinct.len(), ordinals.len());

        // Some deliveries in any order, then all of them, as direct get would bring them.
        let entry = |at: usize| {
            let (key, value) = server.stored[at].clone();
            Entry { seq: at as u64 + 1, key, value }
        };
        let mut reorder = Reorder::default();
        let mut ready = Vec::new();
        for index in order {
            reorder.offer(entry(index.index(server.stored.len())), &mut ready);
        }
        (0..server.stored.len()).for_each(|at| reorder.offer(entry(at), &mut ready));
        prop_assert!(!reorder.has_gap());
        let mut log = Log::new(identity());
        let mut seen_effects = Vec::new();
        for entry in &ready {
            prop_assert!(log.apply(entry.seq, &entry.key, &entry.value, &mut seen_effects).is_ok());
        }
        prop_assert_eq!(log.seen(), expected.seen());
        prop_assert_eq!(log.count("s"), expected.count("s"));
        let topic = expected.topic_index("t");
        let same = log.topic_index("t");
        prop_assert_eq!(log.topic(same).len(), expected.topic(topic).len());
        prop_assert_eq!(seen_effects, effects);
    }
}
