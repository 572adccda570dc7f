//! Instances that probe each other while the run goes: a few pairs, chosen by the run's seed, ask each
//! other five times a second how long the way takes, and compare it with what is configured.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use groundswell_common::fidelity::ProbeReport;
use groundswell_common::ids::InstanceId;
use groundswell_common::messages::Assignment;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument as _, debug};

use super::Context;
use crate::network::Expected;
use crate::network::probe::{self, Message, ProbeEnd, ProbeSocket};
use crate::network::wire::Wired;

/// How often each pair is asked.
const EVERY: Duration = Duration::from_millis(200);
/// An answer that is later than this beyond what is configured is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// The probing ends on this worker, and what they have found.
#[derive(Debug)]
pub(crate) struct Probes {
    pairs: Vec<(u32, u32)>,
    ends: Mutex<Vec<(InstanceId, ProbeSocket)>>,
    found: Mutex<ProbeReport>,
}

impl Probes {
    /// Those behind NATs do not probe: most NATs let nobody in who asks first.
    pub(super) fn new(assignment: &Assignment) -> Self {
        let mut pairs = probe::pairs(assignment.seed, assignment.total_instances);
        pairs.retain(|(one, two)| {
            ![*one, *two].iter().any(|id| assignment.has_nat(InstanceId(*id)))
        });
        Self { pairs, ends: Mutex::default(), found: Mutex::default() }
    }

    /// Takes an instance in, if it is one of those that probe.
    pub(super) fn join(&self, id: InstanceId, wired: &Wired) {
        if !self.pairs.iter().any(|(one, two)| [*one, *two].contains(&id.0)) {
            return;
        }
        match ProbeSocket::new(wired.control.as_fd()) {
            Ok(socket) => lock(&self.ends).push((id, socket)),
            Err(err) => debug!(error = %err, instance = %id, "no probes for it"),
        }
    }

    /// Lets the ends ask and answer, each in a task of its own, until the servers of the share end.
    pub(super) fn start(context: &Arc<Context>) {
        let ends = std::mem::take(&mut *lock(&context.probes.ends));
        let here: Vec<InstanceId> = ends.iter().map(|(id, _)| *id).collect();
        for (id, socket) in ends {
            let asked = context.probes.pairs.iter().find(|(one, _)| *one == id.0);
            let asks = asked.map(|(_, two)| InstanceId(*two));
            let end = End {
                context: Arc::clone(context),
                id,
                asks,
                local: asks.is_some_and(|to| here.contains(&to)),
                number: 0,
                open: BTreeMap::new(),
                unsettled: ProbeReport::default(),
                found: ProbeReport::default(),
            };
            let serve = end.serve(socket);
            context.servers.spawn(
                async move {
                    if let Err(err) = serve.await {
                        debug!(error = %err, instance = %id, "probing ended early");
                    }
                }
                .in_current_span(),
            );
        }
    }

    /// What was found, once all have ended.
    pub(super) fn report(&self) -> ProbeReport {
        lock(&self.found).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in it can be half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A probe that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Open {
    expected: Expected,
    until: Instant,
}

/// One instance's end.
struct End {
    context: Arc<Context>,
    id: InstanceId,
    /// Whom it asks.
    asks: Option<InstanceId>,
    /// Whether that one is on this worker: then all that could keep it from answering is known.
    local: bool,
    number: u32,
    open: BTreeMap<u32, Open>,
    /// Probes without an answer that count once a later one is answered: until then the other instance may
    /// have ended.
    unsettled: ProbeReport,
    found: ProbeReport,
}

impl End {
    async fn serve(mut self, socket: ProbeSocket) -> std::io::Result<()> {
        let socket = socket.register()?;
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = self.context.end.clone();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                _ = tick.tick(), if self.asks.is_some() => self.ask(&socket),
                arrived = socket.receive() => {
                    if let Some(arrived) = arrived {
                        self.take(&socket, arrived);
                    }
                }
            }
        }
        self.found.pairs = u64::from(self.found.sent > 0);
        lock(&self.context.probes.found).merge(&self.found);
        Ok(())
    }

    fn expected(&self, to: InstanceId) -> Option<Expected> {
        self.context.network().expected(&self.context.assignment.run, self.id, to)
    }

    /// Asks, and gives up those that were asked too long ago.
    fn ask(&mut self, socket: &ProbeEnd) {
        let now = Instant::now();
        let Some(to) = self.asks else { return };
        let late: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, open)| open.until <= now)
            .map(|(number, _)| *number)
            .collect();
        for open in late.iter().filter_map(|number| self.open.remove(number)).collect::<Vec<_>>() {
            self.give_up(to, &open);
        }
        let Some(expected) = self.expected(to) else { return };
        self.number += 1;
        let until = now + PATIENCE + expected.delay.unwrap_or(PATIENCE) * 2;
        self.open.insert(self.number, Open { expected, until });
        let message = Message {
            answer: false,
            number: self.number,
            from: self.id.0,
            to: to.0,
            asked: probe::now(),
            held: Duration::ZERO,
            back: None,
        };
        socket.send(&message, expected.to);
    }

    fn give_up(&mut self, to: InstanceId, open: &Open) {
        // Under another configuration it may be lost on purpose.
        if self.local && self.expected(to) == Some(open.expected) {
            self.count_in_unsettled(to, open.expected);
            self.unsettled.lost += 1;
        }
    }

    fn take(&mut self, socket: &ProbeEnd, arrived: (Message, std::net::Ipv4Addr, Duration)) {
        let (message, from, at) = arrived;
        if message.answer {
            if message.from == self.id.0 {
                self.answered(&message, at);
            }
        } else if message.to == self.id.0 {
            let back = self.expected(InstanceId(message.from)).and_then(|expected| expected.delay);
            let held = probe::now().saturating_sub(at);
            socket.send(&Message { answer: true, held, back, ..message }, from);
        }
    }

    fn answered(&mut self, message: &Message, at: Duration) {
        let Some(to) = self.asks else { return };
        let Some(open) = self.open.remove(&message.number) else { return };
        if self.expected(to) != Some(open.expected) {
            return;
        }
        self.count_in_unsettled(to, open.expected);
        self.found.merge(&std::mem::take(&mut self.unsettled));
        let (Some(there), Some(back)) = (open.expected.delay, message.back) else { return };
        let took = at.saturating_sub(message.asked).saturating_sub(message.held);
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.found.late.record(nanoseconds(took.saturating_sub(there + back)));
        let early = nanoseconds((there + back).saturating_sub(took));
        self.found.earliest_ns = self.found.earliest_ns.max(early);
    }

    /// Counts a probe, and the chance that it or its answer is lost.
    fn count_in_unsettled(&mut self, to: InstanceId, there: Expected) {
        let network = self.context.network();
        let back = network.expected(&self.context.assignment.run, to, self.id);
        let kept = (1.0 - there.loss) * (1.0 - back.map_or(0.0, |back| back.loss));
        self.unsettled.sent += 1;
        if self.local {
            self.unsettled.loss_expected += 1.0 - kept;
        }
    }
}
