//! What a share's own tasks and the run's log tell its supervisor.

use std::sync::Arc;

use groundswell_common::ids::InstanceId;
use groundswell_common::link::NetworkConfig;
use groundswell_common::messages::ShareEvent;
use groundswell_common::outcome::{Exit, Outcome};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, debug};

use super::claims::Claims;
use super::context::{Concerned, Note};
use super::known::told;
use super::links::{self, Candidates, Change, Holder, Link, Request};
use super::member::Order;
use super::phase::{Event, Phase};
use super::prepare::Unprepared;
use super::{OUTCOME_SETTLE, Supervisor};
use crate::instance::Fold;
use crate::runtime::{Instance, LinkState};
use crate::sync::{LifecycleEvent, SyncEvent};

impl Supervisor {
    pub(super) fn on_prepared(&mut self, result: Result<(), Unprepared>) {
        self.preparing = false;
        if self.removing {
            self.remove();
            return;
        }
        match result {
            Ok(()) => {
                self.handle(Event::Prepared);
                for event in std::mem::take(&mut self.early) {
                    self.on_sync(event);
                }
            }
            Err(Unprepared { reason, fault_of_plan }) => {
                debug!(error = reason, "share not prepared");
                self.handle(Event::PrepareFailed { reason, fault_of_plan });
            }
        }
        if matches!(self.machine.phase(), Phase::Stopping { .. }) {
            self.end_unmade();
        }
    }

    pub(super) fn on_note(&mut self, note: Note) {
        match note {
            Note::Opened { sync, events } => {
                self.sync = Some(sync);
                self.sync_events = Some(events);
            }
            Note::Doing(doing) => {
                self.doing = doing;
                self.progress(true);
            }
            Note::Ready { id, orders, instance, way } => {
                self.on_ready(id, orders, instance);
                if let Some(known) = self.known.get_mut(&id) {
                    known.way = Some(way);
                }
            }
            Note::Cut { id } => self.fold(id, Fold::on_cut),
            Note::Connected { id } => self.fold(id, Fold::on_connected),
            Note::LetGo { id, failed } => self.on_let_go(id, failed),
            Note::Ending { id } => self.fold(id, Fold::on_ending),
            Note::Felled { id, reason } => self.fold(id, |fold| fold.on_felled(reason)),
            Note::Back { id } => self.fold(id, Fold::on_back),
            Note::Waiting { id, waiting } => self.fold(id, |fold| fold.on_waiting(waiting)),
            Note::Printed { id, event } => self.on_said(id, &event, Fold::on_printed),
            Note::Excess { id, reason } => self.on_excess(id, reason),
            Note::Over { id, exit, last_lines } => self.on_over(id, exit, last_lines),
            Note::Change { whom, what, done } => self.change(&whom, what, &done),
            Note::ScheduleFailed(reason) => {
                self.context.events.add("schedule_failed", reason.clone(), None);
                self.handle(Event::Broken { reason, fault_of_plan: false });
            }
            Note::LinkFailed { id, reason, fault_of_plan } => {
                self.on_link_failed(id, reason, fault_of_plan);
            }
            Note::Warning(text) => self.warning(text),
        }
    }

    /// Takes something in that is known of an instance's end.
    fn fold(&mut self, id: InstanceId, news: impl FnOnce(&mut Fold)) {
        if let Some(known) = self.known.get_mut(&id) {
            news(&mut known.fold);
        }
    }

    fn on_ready(
        &mut self,
        id: InstanceId,
        orders: mpsc::Sender<Order>,
        instance: Arc<dyn Instance>,
    ) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.orders = Some(orders);
        known.instance = Some(instance);
        // A stop may have overtaken its creation.
        match self.machine.phase() {
            Phase::Stopping { .. } => known.order(Order::Kill),
            Phase::Removing => known.order(Order::Remove),
            Phase::Preparing { .. }
            | Phase::Ready
            | Phase::Running
            | Phase::Collecting
            | Phase::Done
            | Phase::Gone => {}
        }
        self.ready += 1;
        debug!(instance = %id, phase = "ready", "instance changed phase");
        self.progress(false);
    }

    fn on_let_go(&mut self, id: InstanceId, failed: Option<(String, bool)>) {
        let whom = self.whom(id);
        let Some(known) = self.known.get_mut(&id) else { return };
        if !std::mem::replace(&mut known.let_go, true) {
            self.to_let_go -= 1;
        }
        match failed {
            None => self.context.events.add("instance_started", "started", whom),
            Some((reason, fault_of_plan)) => {
                let outcome = if fault_of_plan { Outcome::Failure } else { Outcome::Aborted };
                known.fold.on_stop(outcome, &format!("could not be started: {reason}"));
            }
        }
        self.check_let_go();
    }

    pub(super) fn on_over(&mut self, id: InstanceId, exit: Option<Exit>, last_lines: Vec<String>) {
        let Some(known) = self.known.get_mut(&id) else { return };
        if known.fold.is_over() {
            return;
        }
        debug!(instance = %id, phase = "ended", "instance changed phase");
        known.fold.on_over(exit, last_lines);
        if known.fold.is_settled() {
            self.end(id);
        } else {
            let wait = OUTCOME_SETTLE.min(self.context.assignment.limits.outcome_grace);
            self.settling.insert((Instant::now() + wait, id));
        }
    }

    /// Instances whose outcome did not arrive in time end without one. While the bus is away nothing can
    /// arrive, so the wait goes on as long as the run allows.
    pub(super) fn settle_late(&mut self) {
        let now = Instant::now();
        let patient = !self.context.host.bus.is_connected();
        let grace = self.context.assignment.limits.outcome_grace;
        while let Some((at, id)) = self.settling.first().copied() {
            if at > now {
                break;
            }
            self.settling.remove(&(at, id));
            if patient && OUTCOME_SETTLE < grace {
                self.settling.insert((now + (grace - OUTCOME_SETTLE), id));
                continue;
            }
            self.end(id);
        }
    }

    /// Tells how an instance ended.
    pub(super) fn end(&mut self, id: InstanceId) {
        let running = self.machine.phase() == Phase::Running;
        let whom = self.whom(id);
        let Some(known) = self.known.get_mut(&id) else { return };
        let end = known.fold.end();
        let text = match end.reason.as_str() {
            "" => end.outcome.to_string(),
            reason => format!("{}: {reason}", end.outcome),
        };
        self.context.events.add("instance_ended", text, whom);
        if running && end.outcome != Outcome::Success {
            self.gone.push((id, end.reason.clone()));
        }
        if !std::mem::replace(&mut known.ended, true) {
            self.left -= 1;
        }
        self.context.report(ShareEvent::Ended { instances: vec![(id, end)] });
    }

    pub(super) fn on_sync(&mut self, event: SyncEvent) {
        let of_life = matches!(
            event,
            SyncEvent::Started | SyncEvent::Said { .. } | SyncEvent::Network { .. }
        );
        if of_life && self.preparing && self.context.adoption.is_some() {
            return self.early.push(event);
        }
        match event {
            SyncEvent::Started => self.handle(Event::Started),
            SyncEvent::Said { instance, event } => self.on_said(instance, &event, Fold::on_said),
            SyncEvent::Network { instance, config: Ok(config) } => self.link(instance, config),
            SyncEvent::Network { instance, config: Err(err) } => {
                self.on_link_failed(instance, err.to_string(), true);
            }
            SyncEvent::Excess { instance, reason } => self.on_excess(instance, reason),
            SyncEvent::Warning(text) => self.warning(text),
            SyncEvent::Broken { reason, fault_of_plan } => {
                self.context.events.add("broken", reason.clone(), None);
                self.handle(Event::Broken { reason, fault_of_plan });
            }
        }
    }

    fn on_said(
        &mut self,
        id: InstanceId,
        event: &LifecycleEvent,
        fold: impl FnOnce(&mut Fold, &LifecycleEvent) -> Option<Outcome>,
    ) {
        let (kind, text) = told(event);
        self.context.events.add(kind, text, self.whom(id));
        let Some(known) = self.known.get_mut(&id) else { return };
        let Some(outcome) = fold(&mut known.fold, event) else { return };
        let over = known.fold.is_over();
        self.context.report(ShareEvent::Said { instance: id, outcome });
        if over {
            // The word it was waited for, or a failure after a success: its end is told (again).
            self.settling.retain(|(_, waiting)| *waiting != id);
            self.end(id);
        }
    }

    /// An instance has used more than it may. It has failed, whatever it says, and is ended.
    fn on_excess(&mut self, id: InstanceId, reason: String) {
        self.on_said(id, &LifecycleEvent::Failure(reason), Fold::on_said);
        if let Some(known) = self.known.get(&id) {
            known.order(Order::Kill);
        }
    }

    /// A network configuration of an instance.
    fn link(&mut self, by: InstanceId, config: NetworkConfig) {
        let Some(known) = self.known.get(&by) else { return };
        let front = self.context.assignment.front(known.place);
        if !self.ask(front, Request::Configure { by, config }) {
            let reason = format!("more than {} configurations wait", links::QUEUE);
            self.on_link_failed(by, reason, true);
        }
    }

    /// A change of the schedule to all ends of the data network that it concerns.
    fn change(&mut self, whom: &Concerned, what: Change, done: &TaskTrackerToken) {
        let assignment = Arc::clone(&self.context.assignment);
        let concerned = self.known.values().filter(|known| {
            let alone = assignment.nat(known.place).is_none();
            whom.contains(known.place)
                && assignment.front(known.place) == known.place.id
                && !(alone && known.ended)
        });
        let concerned: Vec<InstanceId> = concerned.map(|known| known.place.id).collect();
        for front in concerned {
            if !self.ask(front, Request::Change { what, done: done.clone() }) {
                let reason = format!("more than {} changes wait", links::QUEUE);
                self.on_link_failed(front, reason, false);
            }
        }
    }

    /// Hands a request to an end of the data network. Returns whether there was room for it.
    fn ask(&mut self, front: InstanceId, request: Request) -> bool {
        let context = Arc::clone(&self.context);
        let Some(known) = self.known.get_mut(&front) else { return true };
        let (Some(instance), Some(sync)) = (&known.instance, &self.sync) else { return true };
        let way = &mut known.way;
        let links = known.links.get_or_insert_with(|| {
            let (links, requests) = mpsc::channel(links::QUEUE);
            let assignment = &context.assignment;
            let instance = Holder::Instance(Arc::clone(instance));
            let link = Link {
                run: assignment.run.clone(),
                id: front,
                holder: context.nats.of(front).map_or(instance, Holder::Nat),
                network: Arc::clone(context.network()),
                sync: Arc::clone(sync),
                notes: context.notes.clone(),
                state: LinkState {
                    up: true,
                    address: assignment.address(front),
                    prefix: assignment.subnet.prefix_len(),
                },
                claims: Claims::of(&context.host, assignment),
                way: way.take(),
                candidates: Candidates::new(assignment.subnet, assignment.seed, front),
            };
            self.effects.spawn(link.run(requests).in_current_span());
            links
        });
        !matches!(links.try_send(request), Err(mpsc::error::TrySendError::Full(_)))
    }

    pub(super) fn on_link_failed(&mut self, id: InstanceId, reason: String, fault_of_plan: bool) {
        // Configurations are carried out once more after a restart of the worker, perhaps among others in between.
        let fault_of_plan = fault_of_plan && self.context.adoption.is_none();
        let reason = format!("network configuration of instance {id}: {reason}");
        self.context.events.add("network_failed", reason.clone(), self.whom(id));
        if let Some(known) = self.known.get_mut(&id) {
            let failure = LifecycleEvent::Failure(reason.clone());
            if let Some(outcome) = known.fold.on_said(&failure) {
                self.context.report(ShareEvent::Said { instance: id, outcome });
            }
        }
        self.handle(Event::Broken { reason, fault_of_plan });
    }
}
