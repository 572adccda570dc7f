//! Instances that probe each other while the run goes: a few pairs, chosen by the run's seed, ask each
//! other five times a second how long the way takes, and compare it with what is configured.

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
use asked::{Asked, Ways};

mod asked;

/// How often each pair is asked.
const EVERY: Duration = Duration::from_millis(200);

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
                asked: Asked::default(),
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

/// One instance's end.
struct End {
    context: Arc<Context>,
    id: InstanceId,
    /// Whom it asks.
    asks: Option<InstanceId>,
    /// Whether that one is on this worker: then all that could keep it from answering is known.
    local: bool,
    asked: Asked,
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
        lock(&self.context.probes.found).merge(&self.asked.end());
        Ok(())
    }

    /// What is configured for a packet to `to`; absent when it does not pass.
    fn expected(&self, to: InstanceId) -> Option<Expected> {
        self.context.network().expected(&self.context.assignment.run, self.id, to)
    }

    /// What is configured for a probe to `to` and for its answer.
    fn ways(&self, to: InstanceId) -> Option<Ways> {
        let run = &self.context.assignment.run;
        let back = || self.context.network().expected(run, to, self.id);
        let back = if self.local { back() } else { None };
        Some(Ways { there: self.expected(to)?, back })
    }

    fn ask(&mut self, socket: &ProbeEnd) {
        let Some(to) = self.asks else { return };
        let Some((number, address)) = self.asked.ask(self.ways(to), Instant::now()) else { return };
        let message = Message {
            answer: false,
            number,
            from: self.id.0,
            to: to.0,
            asked: probe::now(),
            held: Duration::ZERO,
            back: None,
        };
        socket.send(&message, address);
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
        let ways = self.ways(to);
        let took = at.saturating_sub(message.asked).saturating_sub(message.held);
        self.asked.answer(message.number, ways, took, message.back);
    }
}
