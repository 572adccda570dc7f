//! The coordinator as a service on the bus.
//!
//! One task, [`actor::Actor`], owns all state. It receives registrations, heartbeats, reports, events and calls
//! from the bus, and the results of effects; it decides, and hands every effect to a task of its own.
//!
//! ```text
//! bus ──► inbox tasks ──► actor ──► effects (JoinSet): build, sync log, assignments, records, answers
//!                           ▲ ├───► teller: status and events, best effort, bounded
//!                           │ └───► shipper: metrics, best effort, bounded
//!                           └────── results of effects
//! ```

mod access;
mod actor;
mod addresses;
mod calls;
mod cordons;
mod effects;
mod gauges;
mod hosts;
mod keys;
mod live;
mod queueing;
mod recording;
mod recovery;
mod shipping;
mod teller;

pub use gauges::Gauges;

use std::path::PathBuf;
use std::time::Duration;

use groundswell_common::bus::{self, Bus};
use groundswell_common::chain::Chain;
use groundswell_common::metrics::Shipper;
use groundswell_common::network::DATA_RANGE;
use groundswell_common::objects::Objects;
use groundswell_common::subjects;
use groundswell_common::timing::{Leadership, Lease};
use ipnet::Ipv4Net;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span, warn};

use crate::assignments::Assignments;
use crate::ledger::{GenerationFile, Ledger, LedgerError, Rival};
use crate::parts::Parts;
use crate::placement::Distribution;
use crate::queue::Policy;
use crate::run::FAIL_FAST_QUIET;
use crate::workers::Overcommit;

/// How long a run that fits on no worker that is there waits for others to register.
pub const NO_ROOM_PATIENCE: Duration = Duration::from_secs(15);
/// How long a run that is tried again rests after its first attempt.
pub const RETRY_WAIT: Duration = Duration::from_secs(30);
/// How long effects may take to end after shutdown was asked for: records of runs above all.
const DRAIN: Duration = Duration::from_secs(20);
/// Messages that may wait for the actor, of each kind.
const INBOX: usize = 4096;

/// What a service needs.
#[derive(Clone)]
pub struct ServiceConfig {
    /// The bus.
    pub bus: Bus,
    /// The object store.
    pub objects: Objects,
    /// The intervals between workers and coordinator.
    pub lease: Lease,
    /// Where data networks come from; at least a /16.
    pub data_range: Ipv4Net,
    /// This coordinator's name, for whoever finds it at work.
    pub name: String,
    /// The intervals between coordinators.
    pub leadership: Leadership,
    /// Whether it is one of several: it waits while another leads, and then goes on with what that one has begun.
    /// One that works alone is refused when another leads, and ends what an earlier one has begun.
    pub standby: bool,
    /// How instances are distributed when a run does not say.
    pub distribution: Distribution,
    /// What the queue goes by.
    pub policy: Policy,
    /// How many times what workers have may be given out.
    pub overcommit: Overcommit,
    /// How long a run that does not fit on the workers that are there waits for others.
    pub no_room_patience: Duration,
    /// How long after an infrastructure failure a run that is to be tried again rests; each further rest is twice as
    /// long.
    pub retry_wait: Duration,
    /// After a failure, how long silence may last before a run is stopped; absent is for ever.
    pub fail_fast: Option<Duration>,
    /// Where the first admin's token goes when calls are let in with a token only; absent asks for none.
    pub first_token: Option<PathBuf>,
    /// By what this coordinator notices that NATS has lost the control state; absent is not at all.
    pub generation: Option<GenerationFile>,
    /// Takes what goes to the store for metrics.
    pub shipper: Shipper,
    /// Where this coordinator counts how it is doing.
    pub gauges: Gauges,
    /// Where images and sync logs come from.
    pub parts: Parts,
}

impl ServiceConfig {
    /// A service with the usual values.
    #[must_use]
    pub fn new(bus: Bus, objects: Objects, name: String, parts: Parts) -> Self {
        let (address, length) = DATA_RANGE;
        Self {
            bus,
            objects,
            lease: Lease::DEFAULT,
            data_range: Ipv4Net::new(address, length).expect("a prefix of 4 bits is valid"),
            name,
            leadership: Leadership::DEFAULT,
            standby: false,
            distribution: Distribution::Spread,
            policy: Policy::default(),
            overcommit: Overcommit::NONE,
            no_room_patience: NO_ROOM_PATIENCE,
            retry_wait: RETRY_WAIT,
            fail_fast: Some(FAIL_FAST_QUIET),
            first_token: None,
            generation: None,
            shipper: Shipper::off(),
            gauges: Gauges::default(),
            parts,
        }
    }
}

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The control state is not ours.
    #[error("failed to take the lead")]
    Ledger(#[from] LedgerError),
    /// There is no stream for assignments.
    #[error("failed to make the stream `{}`", subjects::ASSIGN_STREAM)]
    Assignments(#[from] async_nats::jetstream::context::CreateStreamError),
    /// Nobody could use this cluster.
    #[error("failed to write the first admin's token to `{path}`")]
    FirstToken {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was told to end before it led.
    #[error("ended while another coordinator led")]
    NeverLed,
    /// A subject cannot be listened on.
    #[error("failed to listen on `{subject}`")]
    Subscribe {
        /// Which.
        subject: String,
        /// Why.
        #[source]
        source: async_nats::SubscribeError,
    },
}

impl ServiceError {
    /// Whether the servers may think otherwise in a moment.
    fn may_pass(&self) -> bool {
        match self {
            Self::Ledger(err) => err.may_pass(),
            Self::Assignments(err) => bus::may_pass(err),
            Self::FirstToken { .. } | Self::NeverLed | Self::Subscribe { .. } => false,
        }
    }
}

/// The service, from the start of [`Service::start`].
pub struct Service;

impl Service {
    /// Takes the lead, sees to what an earlier coordinator left, and serves until `shutdown`. With
    /// [`ServiceConfig::standby`] this may take as long as another coordinator lives, or as long as the servers
    /// of NATS do not agree among themselves.
    ///
    /// The end of the service ends no runs: their workers go on with what they have until their lease ends, and
    /// the next coordinator goes on with those runs, or gives them their verdict.
    ///
    /// # Errors
    /// When another coordinator is at work or the bus refuses something.
    pub async fn start(
        config: ServiceConfig,
        shutdown: CancellationToken,
    ) -> Result<ServiceHandle, ServiceError> {
        loop {
            let err = match Self::start_once(&config, &shutdown).await {
                Ok(service) => return Ok(service),
                Err(err) => err,
            };
            if !(config.standby && err.may_pass()) || config.bus.is_restricted() {
                return Err(err);
            }
            warn!(error = %Chain(&err), "does not serve yet, trying again");
            let pause = sleep(config.leadership.renew);
            shutdown.run_until_cancelled(pause).await.ok_or(ServiceError::NeverLed)?;
        }
    }

    async fn start_once(
        config: &ServiceConfig,
        shutdown: &CancellationToken,
    ) -> Result<ServiceHandle, ServiceError> {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        match open(config, &tasks, shutdown, &closing).await {
            Ok(deposed) => Ok(ServiceHandle { tasks, shutdown: shutdown.clone(), deposed }),
            Err(err) => {
                closing.cancel();
                tasks.close();
                tasks.wait().await;
                Err(err)
            }
        }
    }
}

async fn open(
    config: &ServiceConfig,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
    closing: &CancellationToken,
) -> Result<CancellationToken, ServiceError> {
    let rival = if config.standby { Rival::Await } else { Rival::Refuse };
    let terms = (config.leadership, rival);
    let (name, generation) = (&config.name, config.generation.as_ref());
    let opening = Ledger::open(&config.bus, name, terms, generation, tasks, closing.clone());
    let ledger = shutdown.run_until_cancelled(opening).await.ok_or(ServiceError::NeverLed)??;
    let assignments = Assignments::open(&config.bus).await?;
    let deposed = ledger.deposed().clone();
    let left_behind = if config.standby {
        let reading = recovery::left_behind(config, &ledger);
        shutdown.run_until_cancelled(reading).await.ok_or(ServiceError::NeverLed)??
    } else {
        recovery::end_leftovers(config, &ledger).await?;
        Vec::new()
    };
    let tokens = access::load(config, &ledger).await?;
    let cordons = ledger.cordons().await?;
    let inbox = listen(config, tasks, closing).await?;
    let (teller, lines) = teller::Teller::new();
    tasks.spawn(teller::run(config.bus.clone(), lines).instrument(info_span!("teller")));
    let term = ledger.term();
    let mut actor = actor::Actor::new(config.clone(), ledger, assignments, (teller, tokens));
    actor.keep_cordons(cordons);
    actor.resume(left_behind);
    let (shutdown, closing) = (shutdown.clone(), closing.clone());
    let serve = async move {
        actor.run(inbox, &shutdown).await;
        closing.cancel();
    };
    tasks.spawn(serve.instrument(info_span!("coordinator", name = config.name)));
    tasks.close();
    info!(term, "coordinator serves");
    Ok(deposed)
}

/// Forwards what comes in on each subject into one queue.
async fn listen(
    config: &ServiceConfig,
    tasks: &TaskTracker,
    closing: &CancellationToken,
) -> Result<mpsc::Receiver<Incoming>, ServiceError> {
    let (sender, inbox) = mpsc::channel(INBOX);
    let all: [(String, Wrap); 6] = [
        (subjects::REGISTER_ALL.to_owned(), Incoming::Register),
        (subjects::HEARTBEAT_ALL.to_owned(), Incoming::Heartbeat),
        (subjects::REPORT_ALL.to_owned(), Incoming::Report),
        (subjects::CLAIM_ALL.to_owned(), Incoming::Claim),
        (subjects::API_ALL.to_owned(), Incoming::Call),
        ("gs.v1.event.*".to_owned(), Incoming::Event),
    ];
    for (subject, wrap) in all {
        let subscription = config.bus.client().subscribe(subject.clone()).await;
        let mut subscription =
            subscription.map_err(|source| ServiceError::Subscribe { subject, source })?;
        let (sender, closing) = (sender.clone(), closing.clone());
        tasks.spawn(async move {
            loop {
                let message = tokio::select! {
                    () = closing.cancelled() => break,
                    message = futures::StreamExt::next(&mut subscription) => message,
                };
                let Some(message) = message else { break };
                if sender.send(wrap(message)).await.is_err() {
                    break;
                }
            }
        });
    }
    // Whoever is told that the coordinator serves may call it at once: the server has to know the subjects.
    let _ = config.bus.client().flush().await;
    Ok(inbox)
}

/// Says what a message on a subject is.
type Wrap = fn(async_nats::Message) -> Incoming;

/// What comes in from the bus.
enum Incoming {
    Register(async_nats::Message),
    Heartbeat(async_nats::Message),
    Report(async_nats::Message),
    Claim(async_nats::Message),
    Call(async_nats::Message),
    Event(async_nats::Message),
}

/// A service that runs.
#[derive(Debug)]
pub struct ServiceHandle {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    deposed: CancellationToken,
}

impl ServiceHandle {
    /// Waits until another coordinator has taken the lead and nothing of this one is left, which a healthy
    /// system never sees.
    pub async fn deposed(&self) {
        self.deposed.cancelled().await;
        self.tasks.wait().await;
    }

    /// Ends the service and waits until what it was storing is stored.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
    }
}
