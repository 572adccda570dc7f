//! The task that brings batches to the store, one at a time and in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::queue::{Batch, Limits};
use super::shipper::Shared;
use super::store::{Answer, Store};

/// The longest time a store that does not say how long it is busy is left alone.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// The same while this process ends.
const LAST_BACKOFF: Duration = Duration::from_millis(200);
/// How many different refusals are told.
const REFUSALS_TOLD: usize = 20;

/// Ships until `end`, then tries to ship the rest for a while. What is left is lost.
pub(super) async fn ship(
    shared: Arc<Shared>,
    store: Store,
    limits: Limits,
    end: CancellationToken,
) {
    let farewell = async {
        end.cancelled().await;
        sleep(limits.farewell).await;
    };
    let mut courier =
        Courier { shared: &shared, store, limits, end: &end, told: BTreeSet::new(), calm: true };
    tokio::select! {
        () = courier.run() => {}
        () = farewell => {}
    }
    let lost = shared.queue().lose_rest();
    if lost > 0 {
        warn!(lost, "metrics lost, this process ends before the store has taken them");
    }
}

struct Courier<'a> {
    shared: &'a Shared,
    store: Store,
    limits: Limits,
    end: &'a CancellationToken,
    /// Refusals that are told already.
    told: BTreeSet<String>,
    /// Whether the store took what it was last given.
    calm: bool,
}

impl Courier<'_> {
    async fn run(&mut self) {
        loop {
            self.gather().await;
            let batch = self.shared.queue().batch(Instant::now().into_std());
            match batch {
                Some(batch) => self.deliver(&batch).await,
                None if self.end.is_cancelled() => return,
                None => {}
            }
        }
    }

    /// Waits until something is to be sent, or this process ends.
    async fn gather(&self) {
        let mut gathered = None;
        loop {
            let (empty, due) = {
                let queue = self.shared.queue();
                (queue.is_empty(), queue.is_due())
            };
            if due || self.end.is_cancelled() {
                return;
            }
            // A quarter of an hour is as good as never.
            let far = Instant::now() + Duration::from_secs(900);
            let until = if empty {
                far
            } else {
                *gathered.get_or_insert_with(|| Instant::now() + self.limits.gather)
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = self.end.cancelled() => return,
                () = sleep_until(until) => return,
            }
        }
    }

    /// Gives the store a batch until it takes or refuses it.
    async fn deliver(&mut self, batch: &Batch) {
        let mut backoff = self.limits.first_wait;
        loop {
            let answer = self.store.write(batch).await;
            let Some(wait) = self.settle(answer, batch.len()) else { break };
            self.pause(wait.unwrap_or(backoff).min(self.limits.longest_wait)).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
        if !std::mem::replace(&mut self.calm, true) {
            info!("the store answers again");
        }
    }

    /// Books what came of a batch. When it is to be tried again, says after which time the store wants that.
    fn settle(&mut self, answer: Answer, lines: usize) -> Option<Option<Duration>> {
        let mut queue = self.shared.queue();
        match answer {
            Answer::Stored => queue.on_stored(),
            Answer::TooLarge(said) => queue.on_too_large(&said),
            Answer::Refused(said) => {
                queue.on_refused(&said);
                // Each refusal is told once.
                if self.told.len() < REFUSALS_TOLD && self.told.insert(said.clone()) {
                    warn!(error = said, lost = lines, "the store refuses metrics");
                }
            }
            Answer::Later { why, wait } => {
                queue.on_later(&why);
                if std::mem::take(&mut self.calm) {
                    warn!(error = why, "the store takes no metrics, trying again");
                }
                return Some(wait);
            }
        }
        None
    }

    async fn pause(&self, length: Duration) {
        if self.end.is_cancelled() {
            return sleep(length.min(LAST_BACKOFF)).await;
        }
        tokio::select! {
            () = self.end.cancelled() => {}
            () = sleep(length) => {}
        }
    }
}
