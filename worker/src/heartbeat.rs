//! Keeps contact with the coordinator: registers, says that the worker is alive, and notices when nobody
//! answers. A task of its own, so that no work of the worker can hold it up.
//!
//! ```text
//! out  session   the epoch and the lease, once registered
//! out  contact   how long nobody has answered, in steps
//! out  answered  when the last message was sent that was answered
//! out  desired   the stream sequence the coordinator says the worker should be working on
//! in   status    what the worker says of itself
//! in   cordon    why the worker takes nothing new although it stays
//! in   again     someone was told that the epoch is an old one
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use groundswell_common::bus::Bus;
use groundswell_common::ids::{Attempt, Epoch, RunId};
use groundswell_common::messages::{Heartbeat, HeartbeatReply, Registered, Registration};
use groundswell_common::subjects;
use groundswell_common::timing::{Lease, REQUEST_TIMEOUT};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What the coordinator has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    /// The worker's epoch.
    pub(crate) epoch: Epoch,
    /// The coordinator's term.
    pub(crate) term: u64,
    /// The intervals both sides keep.
    pub(crate) lease: Lease,
}

/// How long nobody has answered, in the steps that have consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Contact {
    /// Answers come.
    #[default]
    Good,
    /// Long enough that runs carry a warning.
    Warn,
    /// Long enough to take nothing new.
    SoftFence,
    /// Long enough that the worker kills its instances.
    HardFence,
}

/// What the worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Status {
    /// The stream sequence of the desired state it works on.
    pub(crate) desired: u64,
    /// Instances that exist on it.
    pub(crate) instances: u32,
    /// Whether it takes nothing new.
    pub(crate) draining: bool,
    /// The shares of which something is on it.
    pub(crate) shares: Vec<(RunId, Attempt)>,
}

/// The ends of the task's channels that the others hold.
pub(crate) struct Line {
    /// The epoch and the lease, once registered.
    pub(crate) session: watch::Receiver<Option<Session>>,
    /// How long nobody has answered.
    pub(crate) contact: watch::Receiver<Contact>,
    /// When the last message was sent that was answered.
    pub(crate) answered: watch::Receiver<Option<Instant>>,
    /// The stream sequence the coordinator names.
    pub(crate) desired: watch::Receiver<u64>,
    /// What the worker says of itself.
    pub(crate) status: watch::Sender<Status>,
    /// Why the worker takes nothing new although it stays.
    pub(crate) cordon: watch::Sender<Option<String>>,
    /// Asks for a new registration.
    pub(crate) again: Arc<Notify>,
}

/// The task.
pub(crate) struct Heart {
    bus: Bus,
    registration: Registration,
    session: watch::Sender<Option<Session>>,
    contact: watch::Sender<Contact>,
    answered: watch::Sender<Option<Instant>>,
    desired: watch::Sender<u64>,
    status: watch::Receiver<Status>,
    cordon: watch::Receiver<Option<String>>,
    again: Arc<Notify>,
    silence: Silence,
    term: u64,
}

/// Makes the task and its channels.
pub(crate) fn new(bus: Bus, registration: Registration) -> (Heart, Line) {
    let (session, session_out) = watch::channel(None);
    let (contact, contact_out) = watch::channel(Contact::Good);
    let (answered, answered_out) = watch::channel(None);
    let (desired, desired_out) = watch::channel(0);
    let (status_in, status) = watch::channel(Status::default());
    let (cordon_in, cordon) = watch::channel(None);
    let again = Arc::new(Notify::new());
    let silence = Silence::default();
    let heart = Heart {
        bus,
        registration,
        session,
        contact,
        answered,
        desired,
        status,
        cordon,
        again: Arc::clone(&again),
        silence,
        term: 0,
    };
    let line = Line {
        session: session_out,
        contact: contact_out,
        answered: answered_out,
        desired: desired_out,
        status: status_in,
        cordon: cordon_in,
        again,
    };
    (heart, line)
}

impl Heart {
    /// Registers, then beats until `end`.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        let _ = end.run_until_cancelled(self.beat()).await;
    }

    async fn beat(&mut self) {
        let mut registered = false;
        let mut pause = Duration::from_millis(50);
        loop {
            let lease = self.session.borrow().map_or(Lease::DEFAULT, |session| session.lease);
            let sent = tokio::time::Instant::now();
            if registered {
                registered = self.say_alive(&lease, sent.into_std()).await;
                pause = Duration::from_millis(50);
            } else {
                registered = self.register(&lease, sent.into_std()).await;
            }
            self.judge(&lease);
            if registered {
                let next = sent + lease.heartbeat;
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    // Nothing should be placed here that cannot be taken.
                    Ok(()) = self.cordon.changed() => {}
                    () = self.again.notified() => registered = false,
                }
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(lease.heartbeat);
            }
        }
    }

    /// Asks to be known. Returns whether the coordinator has answered.
    async fn register(&mut self, lease: &Lease, sent: Instant) -> bool {
        let subject = subjects::register(&self.registration.worker);
        let request = self.bus.request::<Registered>(subject, &self.registration);
        let answer = match timeout(patience(lease), request).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(err)) => {
                debug!(error = %err, "registration not answered");
                return false;
            }
            Err(_) => {
                debug!("registration not answered in time");
                return false;
            }
        };
        if answer.term < self.term {
            debug!(term = answer.term, "registration answered by a former leader");
            return false;
        }
        info!(worker = %self.registration.worker, epoch = %answer.epoch, "registered");
        self.term = answer.term;
        self.silence.answered(sent);
        self.session.send_replace(Some(Session {
            epoch: answer.epoch,
            term: self.term,
            lease: answer.lease,
        }));
        self.answered.send_replace(Some(sent));
        true
    }

    /// Says that the worker is alive. Returns whether it is (still) known.
    async fn say_alive(&mut self, lease: &Lease, sent: Instant) -> bool {
        let Some(session) = *self.session.borrow() else { return false };
        let status = self.status.borrow().clone();
        let message = Heartbeat {
            epoch: session.epoch,
            desired: status.desired,
            instances: status.instances,
            draining: status.draining,
            shares: Some(status.shares),
            cordon: self.cordon.borrow().clone(),
        };
        let subject = subjects::heartbeat(&self.registration.worker);
        let request = self.bus.request::<HeartbeatReply>(subject, &message);
        let reply = match timeout(patience(lease), request).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(err)) => {
                debug!(error = %err, "heartbeat not answered");
                return true;
            }
            Err(_) => {
                debug!("heartbeat not answered in time");
                return true;
            }
        };
        if reply.term < self.term {
            debug!(term = reply.term, "heartbeat answered by a former leader");
            return true;
        }
        if reply.term > self.term {
            info!(term = reply.term, "another coordinator leads now");
            self.term = reply.term;
            self.session.send_replace(Some(Session { term: reply.term, ..session }));
        }
        self.silence.answered(sent);
        self.answered.send_replace(Some(sent));
        self.desired.send_replace(reply.desired);
        if reply.register {
            info!("the coordinator asks for a new registration");
        }
        !reply.register
    }

    fn judge(&self, lease: &Lease) {
        let now = tokio::time::Instant::now().into_std();
        let contact = self.silence.contact(lease, now);
        self.contact.send_if_modified(|before| {
            let changed = *before != contact;
            if changed && contact > *before {
                warn!(?contact, "nobody answers this worker");
            }
            if changed && contact == Contact::Good {
                info!("the coordinator answers again");
            }
            *before = contact;
            changed
        });
    }
}

/// How long one request may take: never so long that a fence is noticed late.
fn patience(lease: &Lease) -> Duration {
    REQUEST_TIMEOUT.min(lease.heartbeat + lease.heartbeat / 2)
}

/// Since when nobody has answered. Counted from when the last answered message was *sent*: the coordinator
/// counts from when it received it, which is later.
#[derive(Debug, Default)]
struct Silence {
    since: Option<Instant>,
}

impl Silence {
    fn answered(&mut self, sent: Instant) {
        self.since = Some(sent);
    }

    /// A worker that nobody has ever answered has nothing to fence.
    fn contact(&self, lease: &Lease, now: Instant) -> Contact {
        let silent =
            self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if silent >= lease.hard_fence {
            return Contact::HardFence;
        }
        if silent >= lease.soft_fence {
            return Contact::SoftFence;
        }
        if silent >= lease.warn {
            return Contact::Warn;
        }
        Contact::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_has_consequences_in_the_order_of_the_lease() {
        let lease = Lease::DEFAULT;
        let start = tokio::time::Instant::now().into_std();
        let mut silence = Silence::default();
        assert_eq!(silence.contact(&lease, start + lease.lost), Contact::Good, "never answered");
        silence.answered(start);
        assert_eq!(silence.contact(&lease, start), Contact::Good);
        assert_eq!(silence.contact(&lease, start + lease.warn), Contact::Warn);
        assert_eq!(silence.contact(&lease, start + lease.soft_fence), Contact::SoftFence);
        assert_eq!(silence.contact(&lease, start + lease.hard_fence), Contact::HardFence);
        silence.answered(start + lease.hard_fence);
        assert_eq!(silence.contact(&lease, start + lease.hard_fence), Contact::Good);
    }
}
