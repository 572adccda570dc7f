//! The handle that metrics are given to, and the life of the task behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info_span};

use super::config::{MetricsConfig, MetricsError};
use super::loss::{Losses, Reason};
use super::point::Point;
pub use super::queue::Limits;
use super::queue::{Entry, Queue};
use super::ship;
use super::store::Store;
use crate::ids::RunId;

/// Takes metrics for the store. Clones share everything. Nothing here waits.
#[derive(Debug, Clone, Default)]
pub struct Shipper {
    shared: Option<Arc<Shared>>,
}

/// What handle and task have in common.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    pub(super) wake: Notify,
}

/// How many metrics went where since this process began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// The store has them.
    pub sent: u64,
    /// They wait.
    pub waiting: u64,
    /// They are lost, by reason.
    pub lost: BTreeMap<Reason, u64>,
}

impl Shared {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics between two changes of the queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shipper {
    /// One that sends nothing: metrics given to it are gone, and are not counted.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether there is a store.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Takes a point, on the account of a run if it is about one.
    pub fn point(&self, run: Option<&RunId>, point: &Point) {
        if !self.is_on() {
            return;
        }
        match point.encode() {
            Ok(line) => self.push(run, line),
            Err(err) => {
                debug!(error = %err, "a point cannot be written");
                self.malformed(run, 1);
            }
        }
    }

    /// Takes a line of the line protocol, without its end, on the account of a run.
    pub fn line(&self, run: &RunId, line: &str) {
        if self.is_on() {
            self.push(Some(run), line.to_owned());
        }
    }

    fn push(&self, run: Option<&RunId>, line: String) {
        let Some(shared) = &self.shared else { return };
        let wakes = {
            let mut queue = shared.queue();
            let first = queue.is_empty();
            queue.push(Entry { line, run: run.cloned() });
            first || queue.is_due()
        };
        if wakes {
            shared.wake.notify_one();
        }
    }

    /// Counts metrics that are none.
    pub fn malformed(&self, run: Option<&RunId>, count: u64) {
        if let Some(shared) = self.shared.as_ref().filter(|_| count > 0) {
            shared.queue().never_sent(run.cloned(), Reason::Malformed, count);
        }
    }

    /// Has what waits sent at once.
    pub fn flush(&self) {
        if let Some(shared) = &self.shared {
            shared.queue().flush();
            shared.wake.notify_one();
        }
    }

    /// What of a run did not get through until now. What only waits its second to be sent is none of that.
    #[must_use]
    pub fn losses(&self, run: &RunId) -> Losses {
        let now = Instant::now().into_std();
        self.shared.as_ref().map(|shared| shared.queue().losses(Some(run), now)).unwrap_or_default()
    }

    /// Says that nobody will ask for a run any more. What of it still waits is sent.
    pub fn close(&self, run: &RunId) {
        if let Some(shared) = &self.shared {
            shared.queue().close(run);
        }
    }

    /// Everything so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let totals = self.shared.as_ref().map(|shared| shared.queue().totals());
        totals.map(|(sent, waiting, lost)| Totals { sent, waiting, lost }).unwrap_or_default()
    }
}

impl Collector for Shipper {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let totals = self.totals();
        let (sent, waiting) =
            (ConstCounter::new(totals.sent), ConstGauge::new(count(totals.waiting)));
        let help = "Metrics that the store has taken.";
        sent.encode(encoder.encode_descriptor("metrics_sent", help, None, MetricType::Counter)?)?;
        let help = "Metrics that wait for the store.";
        waiting.encode(encoder.encode_descriptor(
            "metrics_waiting",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Metrics that did not get through.";
        let mut lost =
            encoder.encode_descriptor("metrics_lost", help, None, MetricType::Counter)?;
        for reason in Reason::ALL {
            let number = totals.lost.get(&reason).copied().unwrap_or(0);
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(number).encode(lost.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A count as Prometheus's gauges have it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The task behind a [`Shipper`]. Dropping it ends the task in its own time; [`Shipping::stop`] waits.
#[derive(Debug)]
pub struct Shipping {
    shipper: Shipper,
    tasks: TaskTracker,
    end: DropGuard,
}

impl Shipping {
    /// Starts the task; without a store there is none. Call it on a runtime.
    ///
    /// # Errors
    /// When there cannot be a client for the store.
    pub fn start(config: Option<&MetricsConfig>, limits: Limits) -> Result<Self, MetricsError> {
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let mut shipper = Shipper::off();
        if let Some(config) = config {
            let store = Store::new(config, &limits)?;
            let shared =
                Arc::new(Shared { queue: Mutex::new(Queue::new(limits)), wake: Notify::new() });
            let shipping = ship::ship(Arc::clone(&shared), store, limits, end.clone());
            tasks.spawn(shipping.instrument(info_span!("metrics", store = config.url)));
            shipper = Shipper { shared: Some(shared) };
        }
        tasks.close();
        Ok(Self { shipper, tasks, end: end.drop_guard() })
    }

    /// The handle.
    #[must_use]
    pub fn shipper(&self) -> Shipper {
        self.shipper.clone()
    }

    /// Ends the task. What waits is tried for a while longer, see [`Limits::farewell`].
    pub async fn stop(self) {
        drop(self.end);
        self.tasks.wait().await;
    }
}
